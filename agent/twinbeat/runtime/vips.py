# SPDX-License-Identifier: Apache-2.0
"""The virtual MACs and shared addresses of one node, upon ports whose gate stands.

Makes what stands there what a configuration asks for, finds what somebody took away, and takes it
off a port that loses its gate. Whether a gate stands is for `twinbeat.runtime.stage` to say: where
none does, nothing is put.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from twinbeat.aside import Aside
from twinbeat.engine import abi
from twinbeat.engine import maps as bpf_maps
from twinbeat.net import addresses, sysctls, vmac
from twinbeat.net.errors import NetError
from twinbeat.net.groups import Groups
from twinbeat.net.interfaces import Address, Assigned, Interface, interface, interfaces, mark
from twinbeat.runtime import wiring
from twinbeat.runtime.guarded import HOST, REFUSALS, Guarded

if TYPE_CHECKING:
    from twinbeat.config.model import Config
    from twinbeat.config.service import VridSection
    from twinbeat.engine.bpf import BpfError
    from twinbeat.engine.maps import Maps
    from twinbeat.net import AsyncIPRoute


class Vips:
    """What clients talk to."""

    def __init__(self, *, ipr: AsyncIPRoute, pair: int, guarded: Mapping[str, Guarded]) -> None:
        """``guarded`` is the stage's own, as it is at each moment."""
        self._ipr = ipr
        self._pair = pair
        self._guarded = guarded
        self._groups = Groups()
        self._aside = Aside("addresses")
        self.vmacs: dict[str, tuple[VridSection, int]] = {}
        """By name of a virtual MAC's interface: whose it is, and for which IP version."""
        self.holders: dict[int, set[str]] = {}
        """By index of an interface with virtual addresses: the ports that they are served on."""
        self._host_index = 0
        self._aim: dict[int, frozenset[Address]] = {}
        """By index of an interface: the addresses that it is to have."""
        self._put_on: set[int] = set()
        """Indexes of those that have been given them."""
        self._made: dict[str, tuple[int, list[sysctls.Finding]]] = {}
        """By name of a virtual MAC's interface: its index, and settings that could not be set."""

    def close(self) -> None:
        """Let go without touching an address."""
        self._groups.close()

    @property
    def sysctls(self) -> list[sysctls.Finding]:
        """Settings of our own interfaces that could not be set."""
        return [one for name in self.vmacs for one in self._made[name][1]]

    async def remove_others(self, config: Config, *, since: Config | None = None) -> None:
        """Virtual MACs of this pair that the configuration doesn't ask for, away.

        With `since` only those that this one asked for are looked for. Raises NetError.
        """
        keep = _names(config)
        if since is None or not _names(since) <= keep:
            await vmac.remove_stale(self._ipr, pair=self._pair, keep=keep)

    async def assign(self, config: Config, *, since: Config | None = None) -> None:
        """Virtual MACs and addresses as the configuration asks for them, where gates stand.

        Virtual MACs of VRIDs that it doesn't have stay. With `since` whatever is as that
        configuration had it is left alone: the notices of the kernel tell who takes it away.
        Raises one of REFUSALS.
        """
        if since is None:
            self._put_on.clear()
        before = {section.id: section for section in since.vrids} if since is not None else {}
        vmacs: dict[str, tuple[VridSection, int]] = {}
        plain: dict[str, list[Address]] = {}
        all_of: dict[str, list[Address]] = {}
        holders: dict[int, set[str]] = {}
        for section in config.vrids:
            one = self._guarded[section.interface]
            if section.inject or not one.standing:
                continue
            all_of.setdefault(one.name, []).extend(wiring.vips(section))
            if not section.vmac:
                plain.setdefault(one.name, []).extend(wiring.vips(section))
                continue
            for version in vmac.VERSIONS:
                wanted = wiring.vips(section, version)
                name = vmac.vmac_name(section.id, version)
                if not wanted:
                    if since is None or name in self.vmacs:
                        await self._remove_vmac(name)
                    continue
                if one.doubted or not self._is_there(name, section, before.get(section.id)):
                    made, unset = await vmac.ensure_vmac(
                        self._ipr,
                        vrid=section.id,
                        version=version,
                        port=interface(one.name),
                        pair=self._pair,
                    )
                    self._made[name] = made.index, unset
                    self._put_on.discard(made.index)
                index = self._made[name][0]
                self.vmacs[name] = vmacs[name] = section, version
                holders[index] = {one.name}
                await self._put(index, wanted, name=name, own=True)
        for one in self._guarded.values():
            if one.serves and one.standing:
                if one.doubted:
                    self._put_on.discard(one.index)
                await self._put(one.index, plain.get(one.name, []), name=one.name, own=False)
                if one.name in plain:
                    holders[one.index] = {one.name}
                self._groups.hold(one.index, all_of.get(one.name, []))
        if await self._host(config):
            holders[self._host_index] = {
                name
                for section in config.vrids
                if section.inject
                for name in wiring.uplinks(section)
            }
        self.vmacs, self.holders = vmacs, holders

    def _is_there(self, name: str, section: VridSection, before: VridSection | None) -> bool:
        """Whether a virtual MAC stands as it was put before: only its addresses may be others."""
        return (
            before is not None
            and name in self._made
            and self.vmacs.get(name, (None,))[0] == before
            and (before.interface, before.vmac) == (section.interface, section.vmac)
        )

    async def _host(self, config: Config, *, without: str = "") -> int:
        """Addresses reached through routers are on `lo`, as long as every way to them has a gate.

        `without` is an interface whose gate is about to go. Returns how many there are.
        """
        wanted = [
            vip
            for section in config.vrids
            if section.inject
            and self._all_stand(section)
            and without not in wiring.uplinks(section)
            for vip in wiring.vips(section)
        ]
        if wanted or self._host_index not in self._put_on:
            self._host_index = interface(HOST).index
        await self._put(self._host_index, wanted, name=HOST, own=False)
        return len(wanted)

    def _all_stand(self, section: VridSection) -> bool:
        return all(self._guarded[name].standing for name in wiring.uplinks(section))

    async def _put(self, index: int, wanted: list[Address], *, name: str, own: bool) -> None:
        aim = frozenset(wanted)
        if index in self._put_on and self._aim[index] == aim:
            return
        # What is the agent's own and has all of its addresses needs no look at them.
        known = self._aim[index] if own and index in self._put_on else None
        self._put_on.discard(index)
        self._aim[index] = aim
        # Thousands of addresses take a while; the loop goes on attesting meanwhile.
        if known is None:
            put = partial(addresses.assign, index, wanted, name=name, own=own)
        else:
            missing = [one for one in wanted if one not in known]
            put = partial(addresses.change, index, missing, known - aim, name=name)
        await self._aside.call(put)
        self._put_on.add(index)

    def is_missed(self, gone: Assigned) -> bool:
        """Whether an address that went is one that its interface is to have."""
        return gone.address in self._aim.get(gone.interface, (gone.address,))

    def missing(self, config: Config, port: str) -> str:
        """What of ours somebody took off this port, as a sentence; empty if all is there.

        Blocking, like `addresses.assign`.
        """
        now = interfaces()
        there = addresses.by_interface()
        for section in config.vrids:
            if port not in wiring.uplinks(section) or not self._all_stand(section):
                continue
            for version in vmac.VERSIONS:
                wanted = wiring.vips(section, version)
                if not wanted:
                    continue
                name = HOST if section.inject else section.interface
                if section.vmac and not section.inject:
                    name = vmac.vmac_name(section.id, version)
                    if name in now and not self.in_shape(now[name], section, version):
                        return f"{name} was set down or changed by hand"
                if name not in now:
                    return f"{name} was removed by hand"
                present = there.get(now[name].index, ())
                gone = [vip for vip in wanted if vip not in present]
                if gone:
                    more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
                    return f"{gone[0]}{more} was removed from {name} by hand"
        return ""

    def in_shape(self, present: Interface, section: VridSection, version: int) -> bool:
        """Whether an interface is up and the virtual MAC that its name says."""
        port = self._guarded[section.interface].index
        return present.up and vmac.fits(present, vrid=section.id, version=version, port=port)

    async def _remove_vmac(self, name: str) -> None:
        present = interfaces().get(name)
        if present is not None and present.alias == mark(self._pair):
            await vmac.remove(self._ipr, present)

    async def withdraw(self, config: Config, name: str, *, remove: bool = False) -> None:
        """Virtual MACs down, addresses off this port; with `remove` its groups are left as well.

        Raises one of REFUSALS with the first refusal, after trying everything.
        """
        failed: NetError | BpfError | None = None
        self._put_on.clear()
        for section in config.vrids:
            if section.interface != name:
                continue
            for version in vmac.VERSIONS if section.vmac else ():
                vmac_name = vmac.vmac_name(section.id, version)
                self.vmacs.pop(vmac_name, None)
                try:
                    await vmac.set_down(self._ipr, vmac_name)
                    await self._remove_vmac(vmac_name)
                except REFUSALS as error:
                    failed = failed or error
        try:
            await self._host(config, without=name)
        except REFUSALS as error:
            failed = failed or error
        port = interfaces().get(name)
        if port is not None:
            try:
                await self._put(port.index, [], name=name, own=False)
                if remove:
                    self._groups.hold(port.index, [])
            except NetError as error:
                failed = failed or error
        if failed is not None:
            raise failed


def _names(config: Config) -> set[str]:
    """The interfaces of virtual MACs that a configuration asks for."""
    return {
        vmac.vmac_name(section.id, version)
        for section in config.vrids
        for version in vmac.VERSIONS
        if section.vmac and wiring.vips(section, version)
    }


def fill_maps(maps: Maps, *configs: Config) -> None:
    """The addresses and virtual MACs of all these configurations are behind the gate, no others."""
    vips: dict[str, bpf_maps.Vip] = {}
    bits: dict[int, abi.VridBit] = {}
    for section in [section for config in configs for section in config.vrids]:
        for text in section.vips:
            vips[text] = bpf_maps.Vip(vrid=section.id, vmac=section.vmac)
        if not section.vmac:
            continue
        for version, bit in ((4, abi.VridBit.V4), (6, abi.VridBit.V6)):
            if wiring.vips(section, version):
                bits[section.id] = bits.get(section.id, abi.VridBit(0)) | bit
    maps.set_vips(vips)
    maps.set_vrids(bits)
