# SPDX-License-Identifier: Apache-2.0
"""The virtual MACs and shared addresses of one node, upon ports whose gate stands.

Makes what stands there what a configuration asks for, finds what somebody took away, and takes it
off a port that loses its gate. Whether a gate stands is for `twinbeat.runtime.stage` to say: where
none does, nothing is put.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from twinbeat.engine import abi
from twinbeat.engine import maps as bpf_maps
from twinbeat.net import addresses, sysctls, vmac
from twinbeat.net.errors import NetError
from twinbeat.net.groups import Groups
from twinbeat.net.interfaces import Address, Interface, interface, interfaces, mark
from twinbeat.runtime import wiring
from twinbeat.runtime.guarded import HOST, REFUSALS, Guarded

if TYPE_CHECKING:
    from twinbeat.config.model import Config, VridSection
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
        self.vmacs: dict[str, tuple[VridSection, int]] = {}
        """By name of a virtual MAC's interface: whose it is, and for which IP version."""
        self.holders: dict[int, set[str]] = {}
        """By index of an interface with virtual addresses: the ports that they are served on."""
        self.sysctls: list[sysctls.Finding] = []
        """Settings of our own interfaces that could not be set."""

    def close(self) -> None:
        """Let go without touching an address."""
        self._groups.close()

    async def remove_others(self, config: Config) -> None:
        """Virtual MACs of this pair that the configuration doesn't ask for, away.

        Raises NetError.
        """
        keep = {
            vmac.vmac_name(section.id, version)
            for section in config.vrids
            for version in vmac.VERSIONS
            if section.vmac and wiring.vips(section, version)
        }
        await vmac.remove_stale(self._ipr, pair=self._pair, keep=keep)

    async def assign(self, config: Config) -> None:
        """Virtual MACs and addresses as the configuration asks for them, where gates stand.

        Virtual MACs of VRIDs that it doesn't have stay. Raises one of REFUSALS.
        """
        vmacs: dict[str, tuple[VridSection, int]] = {}
        unset: list[sysctls.Finding] = []
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
                    await self._remove_vmac(name)
                    continue
                made, findings = await vmac.ensure_vmac(
                    self._ipr,
                    vrid=section.id,
                    version=version,
                    port=interface(one.name),
                    pair=self._pair,
                )
                unset += findings
                self.vmacs[name] = vmacs[name] = section, version
                holders[made.index] = {one.name}
                await self._put(made.index, wanted, name=name, own=True)
        for one in self._guarded.values():
            if one.serves and one.standing:
                await self._put(one.index, plain.get(one.name, []), name=one.name, own=False)
                if one.name in plain:
                    holders[one.index] = {one.name}
                self._groups.hold(one.index, all_of.get(one.name, []))
        if await self._host(config):
            holders[interface(HOST).index] = {
                name
                for section in config.vrids
                if section.inject
                for name in wiring.uplinks(section)
            }
        self.vmacs, self.holders, self.sysctls = vmacs, holders, unset

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
        await self._put(interface(HOST).index, wanted, name=HOST, own=False)
        return len(wanted)

    def _all_stand(self, section: VridSection) -> bool:
        return all(self._guarded[name].standing for name in wiring.uplinks(section))

    async def _put(self, index: int, wanted: list[Address], *, name: str, own: bool) -> None:
        # Thousands of addresses take a while; the loop goes on attesting meanwhile.
        await asyncio.to_thread(addresses.assign, index, wanted, name=name, own=own)

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
