# SPDX-License-Identifier: Apache-2.0
"""What has to stand before a node may serve, and comes down when its gate is lost.

The order is the rule (GATE-FIRST): programs and maps, then both gate programs on every port, then
the virtual MACs and the addresses; down in reverse.  Each step is idempotent, so a start after a
crash finds what is there and adds the rest.  A port whose gate was lost (protocol R20) loses its
addresses at once and gets both back only as a whole.

An address or a virtual MAC that somebody takes away is put back beside an open gate.  What can't be
put back counts as a lost gate: a node must not stay primary without what it serves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from twinbeat.config.nodes import link_number
from twinbeat.engine import abi
from twinbeat.engine import maps as bpf_maps
from twinbeat.engine.maps import Maps
from twinbeat.net import control, monitor, xdp
from twinbeat.net.errors import NetError
from twinbeat.net.interfaces import Interface, interface, interfaces, lowest_first, receiving
from twinbeat.net.monitor import Monitor, Notice
from twinbeat.runtime import wiring
from twinbeat.runtime.guarded import REFUSALS, Guarded, Watchers
from twinbeat.runtime.vips import Vips, fill_maps

if TYPE_CHECKING:
    from twinbeat.config.model import Config
    from twinbeat.config.nodes import LinkSection
    from twinbeat.engine.bpf import BpfError
    from twinbeat.net import AsyncIPRoute
    from twinbeat.net.sysctls import Finding

log = logging.getLogger("twinbeat.stage")

RESTORE_FIRST_S: Final = 5.0
RESTORE_LAST_S: Final = 60.0
"""A lost gate is put back after so long, doubling with each failure."""
AGAIN_S: Final = 0.2
"""What was put back is looked at again after so long: whoever keeps taking it away is not raced."""


class Stage:
    """The ports, gates and addresses of one node."""

    def __init__(
        self, *, config: Config, ipr: AsyncIPRoute, maps: Maps, watchers: Watchers
    ) -> None:
        self._config = config
        self._ipr = ipr
        self._maps = maps
        self._watchers = watchers
        self._monitor = Monitor(self._noticed)
        self._links = config.heartbeat_links
        self._bond_ports: dict[int, int] = {}
        """By index of a port: the master that it has, if a link runs over that."""
        self._link_program = _program(maps, "prog_link")
        self._egress_program = _program(maps, "prog_egress")
        self._lock = asyncio.Lock()
        self._restoring: dict[str, asyncio.Task[None]] = {}
        self.guarded: dict[str, Guarded] = {}
        """By interface: every port and link."""
        self._vips = Vips(ipr=ipr, pair=config.pair.id, guarded=self.guarded)
        self._ports: dict[str, Interface] | None = None
        """What `ports` found, for as long as the kernel tells of no link that is another now."""
        self.control_index = 0
        """Sending end of the private pair."""

    # -- up --------------------------------------------------------------------------------------

    async def raise_gates(self) -> None:
        """Maps filled, the private pair made, both programs on every port and link.

        Raises one of REFUSALS; what stands by then stays, behind a gate that is shut.
        """
        fill_maps(self._maps, self._config)
        sender, receiver = await control.ensure_control(self._ipr, pair=self._config.pair.id)
        self.control_index = sender.index
        await asyncio.to_thread(
            xdp.attach_xdp, receiver.index, self._link_program, name_of=self._maps.program_name
        )
        ports = wiring.port_names(self._config)
        links = {section.interface for section in self._links}
        for name in lowest_first(ports | links):
            self.guarded[name] = Guarded(name=name, serves=name in ports)
            await self._attach(self.guarded[name])
        self._monitor.start()

    def open_links(self) -> None:
        """Let the kernel take part in heartbeats; the engine is about to run.

        Not before: a peer that hears this kernel answer waits for its agent to speak.  Raises one
        of REFUSALS.
        """
        self._set_ports(interface(control.RECEIVER))

    # -- links -----------------------------------------------------------------------------------

    async def guard_links(self, links: Sequence[LinkSection]) -> None:
        """Our programs on the interfaces of links that are to come. Nothing is taken down.

        Raises one of REFUSALS, having taken back what it put there.
        """
        async with self._lock:
            names = wiring.link_names(links)
            new = [name for name in lowest_first(names) if name not in self.guarded]
            try:
                for name in new:
                    self.guarded[name] = Guarded(name=name, serves=False)
                    await self._attach(self.guarded[name])
            except REFUSALS:
                for name in new:
                    if name in self.guarded:
                        await self._detach(self.guarded.pop(name))
                raise

    def set_links(self, links: Sequence[LinkSection]) -> None:
        """Let the kernel take part in heartbeats on exactly these links; their interfaces are
        guarded.

        Raises one of REFUSALS.
        """
        self._links = tuple(links)
        self._set_ports(interface(control.RECEIVER))

    def forget_links(self, numbers: Collection[int]) -> None:
        """Empty the slots of links that the kernel takes no part in any more."""
        for number in numbers:
            self._forget_link(number, 0)

    async def release_links(self, links: Sequence[LinkSection]) -> None:
        """Take our programs off interfaces that neither serve nor carry one of these links."""
        async with self._lock:
            await self._release(links)

    async def _release(self, links: Sequence[LinkSection]) -> None:
        wanted = wiring.link_names(links)
        for one in list(self.guarded.values()):
            if one.serves or one.name in wanted:
                continue
            del self.guarded[one.name]
            try:
                await self._detach(one)
            except REFUSALS as error:
                self._watchers.failed(f"leaving {one.name}", str(error))

    # -- addresses -------------------------------------------------------------------------------

    async def raise_addresses(self) -> None:
        """Virtual MACs and addresses on every port whose gate stands, ours of another time away.

        Raises one of REFUSALS.
        """
        async with self._lock:
            await self._vips.remove_others(self._config)
            await self._assign(self._config)

    async def change_addresses(self, config: Config) -> None:
        """Serve the VRIDs and addresses of another configuration: those new come behind the gate
        first, and those that go leave it last. What is in both stands all the while.

        Raises one of REFUSALS after going back to those of before.
        """
        async with self._lock:
            before = self._config
            try:
                await self._guard_ports(config)
                fill_maps(self._maps, before, config)
                await self._assign(config, since=before)
                await self._vips.remove_others(config, since=before)
            except REFUSALS:
                await self._assign(before)
                await self._vips.remove_others(before)
                await self._settle(before)
                raise
            await self._settle(config)
            self._config = config

    async def _guard_ports(self, config: Config) -> None:
        """Our programs on ports that are to come. Raises one of REFUSALS."""
        guarded = {one.name for one in self.guarded.values() if one.serves}
        for name in lowest_first(wiring.port_names(config) - guarded):
            one = self.guarded.get(name)
            if one is None:
                one = self.guarded[name] = Guarded(name=name, serves=True)
                await self._attach(one)
            elif not one.serves:
                if not one.standing:
                    raise NetError(f"serving on {name}: its gate was lost and is not put back yet")
                one.serves = True
                if not one.carrier:
                    self._watchers.port_lost(name)

    async def _settle(self, config: Config) -> None:
        """Nothing but what this configuration serves is behind the gate, and on ports of ours."""
        fill_maps(self._maps, config)
        wanted = wiring.port_names(config)
        for one in self.guarded.values():
            if one.serves and one.name not in wanted:
                one.serves = False
                # What it lacks is nobody's concern any more.
                if not one.carrier:
                    self._watchers.port_restored(one.name)
                if not one.standing:
                    self._watchers.gate_restored(one.name)
        await self._release(self._links)

    async def _assign(self, config: Config, *, since: Config | None = None) -> None:
        await self._vips.assign(config, since=since)
        self._monitor.addresses_of = set(self._vips.holders)

    def configure_keys(self, send: int, keys: list[bpf_maps.Key]) -> None:
        """Tell the kernel which keys count."""
        self._maps.configure(
            pair=self._config.pair.id,
            node=self._config.node.index,
            keys=keys,
            send=send,
            port=wiring.PORT,
        )

    def ports(self) -> dict[str, Interface]:
        """The interfaces with virtual addresses, as they are now."""
        serving = [name for name, one in self.guarded.items() if one.serves]
        found = self._ports
        if found is None or list(found) != serving or not self._monitor.listening:
            now = interfaces()
            found = self._ports = {name: now[name] for name in serving if name in now}
        return dict(found)

    @property
    def sysctls(self) -> list[Finding]:
        """Settings of our own interfaces that could not be set."""
        return self._vips.sysctls

    def port_indexes(self) -> set[int]:
        """Those of the interfaces with virtual addresses, as far as is known without asking."""
        return {one.index for one in self.guarded.values() if one.serves}

    # -- down ------------------------------------------------------------------------------------

    async def withdraw(self, name: str) -> None:
        """R20: virtual MACs down, addresses off this port.

        Raises one of REFUSALS with the first refusal, after trying everything.
        """
        async with self._lock:
            await self._vips.withdraw(self._config, name)

    async def strike(self) -> None:
        """Take everything down, addresses first; leaves the node as if Twinbeat were not there.

        Raises one of REFUSALS with the first refusal, after trying everything.
        """
        failed: NetError | BpfError | None = None
        async with self._lock:
            # Not before: an address that is being put back would come after all were taken off.
            self._stop_watching()
            self._maps.set_ports([])
            for one in self.guarded.values():
                try:
                    if one.serves:
                        await self._vips.withdraw(self._config, one.name, remove=True)
                    await self._detach(one)
                except REFUSALS as error:
                    failed = failed or error
            try:
                await control.remove_control(self._ipr)
            except NetError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def leave(self) -> None:
        """Let go without touching anything: a successor is about to take it over."""
        self._stop_watching()

    def _stop_watching(self) -> None:
        self._monitor.stop()
        for task in self._restoring.values():
            task.cancel()
        self._restoring.clear()
        self._vips.close()

    # -- gates -----------------------------------------------------------------------------------

    async def _attach(self, one: Guarded) -> None:
        port = interface(one.name)
        one.mode = await asyncio.to_thread(
            xdp.attach_xdp, port.index, self._link_program, name_of=self._maps.program_name
        )
        await asyncio.to_thread(xdp.attach_egress, port.index, self._egress_program)
        one.index, one.standing = port.index, True
        one.carrier = port.up and port.carrier
        if one.serves and not one.carrier:
            self._watchers.port_lost(one.name)

    async def _detach(self, one: Guarded) -> None:
        present = interfaces().get(one.name)
        one.standing, one.mode = False, "none"
        if present is not None:
            await asyncio.to_thread(xdp.detach_egress, present.index)
            await asyncio.to_thread(
                xdp.detach_xdp, present.index, self._link_program, name_of=self._maps.program_name
            )

    def _stands(self, one: Guarded, port: Interface) -> bool:
        return (
            port.index == one.index
            and port.xdp_program == self._link_program.id
            and xdp.query_egress(port.index).program == self._egress_program.id
        )

    # -- maps ------------------------------------------------------------------------------------

    def _set_ports(self, receiver: Interface) -> None:
        ports = [bpf_maps.Port(ifindex=receiver.index, control=True)]
        for section in self._links:
            number = link_number(section)
            index = self.guarded[section.interface].index
            ports += [
                bpf_maps.Port(
                    ifindex=received_on,
                    vlan=section.vlan,
                    link=number,
                    ttl_min=section.ttl_min or 255,
                    local=section.local,
                    peer=section.peer,
                )
                for received_on in receiving(index)
            ]
            if self._maps.link(number).ifindex != index:
                self._forget_link(number, index)
        self._maps.set_ports(ports)

    def _forget_link(self, number: int, index: int) -> None:
        """An empty slot, but for the newest counter of the peer: no recording may count as new."""
        known = self._maps.peer().known
        self._maps.write_link(
            number, abi.Link(ifindex=index, hello_counter=known, answer_counter=known)
        )

    # -- notices ---------------------------------------------------------------------------------

    def _noticed(self, notice: Notice) -> None:
        if not isinstance(notice, monitor.AddressGone | monitor.HookChanged):
            self._ports = None
        match notice:
            case monitor.LinkChanged(interface=changed):
                one = self.guarded.get(changed.name)
                if one is not None:
                    self._link_changed(one, changed)
                elif changed.name in self._vips.vmacs:
                    section, version = self._vips.vmacs[changed.name]
                    if not self._vips.in_shape(changed, section, version):
                        self._doubt(section.interface)
                self._bond_changed(changed)
            case monitor.LinkGone(index=index, name=name):
                one = self.guarded.get(name)
                if one is not None and one.index == index:
                    one.carrier = False
                    self._lost(one, f"{name} was removed")
                    if one.serves:
                        self._watchers.port_lost(name)
                elif name in self._vips.vmacs:
                    self._doubt(self._vips.vmacs[name][0].interface)
            case monitor.AddressGone(address=gone):
                ports = self._vips.holders.get(gone.interface, ())
                for port in ports if self._vips.is_missed(gone) else ():
                    self._doubt(port)
            case monitor.HookChanged(index=index):
                for one in self.guarded.values():
                    if one.index == index and one.standing:
                        self._look(one)
            case monitor.Missed():
                for one in self.guarded.values():
                    self._look(one)
                    self._doubt(one.name)

    def _bond_changed(self, port: Interface) -> None:
        """A port of a bond came or went: heartbeats come in by the index of the port."""
        before = self._bond_ports.get(port.index, 0)
        links = {self.guarded[name].index for name in wiring.link_names(self._links)}
        now = port.master if port.master in links else 0
        if now == before:
            return
        self._bond_ports[port.index] = now
        try:
            self._set_ports(interface(control.RECEIVER))
        except REFUSALS as error:
            self._watchers.failed(f"following the ports of {port.name}'s bond", str(error))

    def _link_changed(self, one: Guarded, now: Interface) -> None:
        carrier = now.up and now.carrier
        if carrier != one.carrier:
            one.carrier = carrier
            if one.serves:
                tell = self._watchers.port_restored if carrier else self._watchers.port_lost
                tell(one.name)
        if not one.standing:
            return
        if now.index != one.index:
            self._lost(one, f"{one.name} was replaced")
        elif now.xdp_program != self._link_program.id:
            self._lost(one, f"the XDP program was removed from {one.name}")

    def _lost(self, one: Guarded, what: str) -> None:
        """The gate is gone: say so at once, put it back in a while."""
        if not one.standing:
            return
        one.standing = False
        log.error("%s", what)
        if one.serves:
            self._watchers.gate_lost(one.name, what)
        self._restore_later(one.name, first_s=RESTORE_FIRST_S)

    def _look(self, one: Guarded) -> None:
        """Something changed that isn't known precisely: does the gate still stand?"""
        if not one.standing:
            return
        present = interfaces().get(one.name)
        if present is None:
            self._lost(one, f"{one.name} was removed")
        elif not self._stands(one, present):
            self._lost(one, f"a gate program was removed from {one.name}")

    def _doubt(self, port: str) -> None:
        """Somebody, or we ourselves, took something off the port: have it looked at.

        Both nodes must have every address all the time, whoever serves.
        """
        one = self.guarded.get(port)
        if one is not None and one.serves and one.standing:
            one.doubted = True
            self._restore_later(port, first_s=0.0)

    def _restore_later(self, name: str, *, first_s: float) -> None:
        if name not in self._restoring:
            self._restoring[name] = asyncio.get_running_loop().create_task(
                self._restore(name, first_s)
            )

    async def _restore(self, name: str, pause_s: float) -> None:
        """Put back what is missing, until a look finds that nothing is."""
        retry_s = RESTORE_FIRST_S
        try:
            while (one := self.guarded.get(name)) is not None:
                await asyncio.sleep(pause_s)
                stood = one.standing
                if not stood and pause_s < RESTORE_FIRST_S:  # The gate was lost meanwhile.
                    pause_s = RESTORE_FIRST_S
                    continue
                pause_s = AGAIN_S
                try:
                    async with self._lock:
                        mended = await self._mend(one)
                except REFUSALS as error:
                    self._watchers.failed(f"restoring the gate of {name}", str(error))
                    self._lost(one, f"what {name} serves can't be put back: {error}")
                    pause_s, retry_s = retry_s, min(2 * retry_s, RESTORE_LAST_S)
                    continue
                if not one.standing:
                    continue
                if not stood:
                    log.warning("the gate stands on %s again", name)
                    if name in wiring.link_names(self._links):
                        self._watchers.link_restored(name)
                if mended and one.serves:
                    self._watchers.gate_restored(name)
                if not (mended or one.doubted):
                    return
        finally:
            self._restoring.pop(name, None)

    async def _mend(self, one: Guarded) -> bool:
        """Programs, then virtual MACs and addresses, as far as they are missing; was anything?"""
        one.doubted = False
        if not one.standing:
            await self._attach(one)
            self._set_ports(interface(control.RECEIVER))
        else:
            missing = ""
            if one.serves:
                missing = await asyncio.to_thread(self._vips.missing, self._config, one.name)
            if not missing:
                return False
            log.warning("%s; it is put back", missing)
        if one.serves:
            await self._assign(self._config)
        return True


def _program(maps: Maps, pin: str) -> xdp.Program:
    info = maps.program(pin)
    return xdp.Program(fd=maps.fd(pin), id=info.id, name=info.name)
