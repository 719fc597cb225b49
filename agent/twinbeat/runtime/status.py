# SPDX-License-Identifier: Apache-2.0
"""One `Status` out of what core, engine, kernel and stage each know.

Reads, and changes nothing; `twinbeat.observe.status.finish` adds the sentence and the warnings.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from twinbeat import __version__
from twinbeat.api import schema
from twinbeat.api.text import moment, realtime_offset_ns
from twinbeat.config.nodes import link_number
from twinbeat.core.reasons import Reason, Refusal
from twinbeat.core.types import FOREVER, Admin, Flag
from twinbeat.engine.types import Snapshot, Watch
from twinbeat.net.vmac import vmac_address
from twinbeat.observe.status import finish
from twinbeat.runtime.teller import Teller, role_name

if TYPE_CHECKING:
    from twinbeat.config.model import Config
    from twinbeat.config.nodes import LinkSection
    from twinbeat.config.service import VridSection
    from twinbeat.core.machine import Status as CoreStatus
    from twinbeat.runtime.guarded import Guarded
    from twinbeat.runtime.links import Links
    from twinbeat.runtime.rivals import Rivals

_MISMATCH_FRESH_NS: Final = 2_000_000_000
"""A refused frame of the pair is news for so long."""

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True, kw_only=True)
class Facts:
    """What only the app knows, for the status."""

    started_ns: int
    started: str
    realtime: bool = False
    bpf: str = ""
    loaded: str = ""
    """When the configuration in force was read."""
    generation: int = 0
    """Of the shared document in force; 0 = there is none."""
    ignored: list[str] = field(default_factory=list)
    digest: int = 0
    needs_restart: list[str] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    """Ids of the keys that are accepted."""
    raised: list[schema.Reason] = field(default_factory=list)
    warnings: list[schema.Warn] = field(default_factory=list)
    not_kept: str = ""
    """Why the peer's position isn't on disk; empty = it is."""
    worker: bool = False
    sync: schema.Sync | None = None
    connections: schema.Connections | None = None
    attested_until_ns: int = 0
    watchdog: schema.Watchdog | None = None
    fence: schema.Fence = field(default_factory=schema.Fence)
    witness: schema.Witness | None = None
    isolation: schema.Isolation | None = None


def status(
    *,
    config: Config,
    core: CoreStatus,
    snapshot: Snapshot,
    guarded: Mapping[str, Guarded],
    facts: Facts,
    teller: Teller,
    neighbours: Mapping[str, tuple[int, int]],
    monitors: list[schema.Monitor],
    links: Links,
    rivals: Rivals,
    routes: schema.Routes,
    hooks: list[schema.Hook],
) -> schema.Status:
    """The node at this moment."""
    now_ns = snapshot.at_ns
    offset_ns = realtime_offset_ns()
    return finish(
        schema.Status(
            time=moment(now_ns + offset_ns),
            now_ns=now_ns,
            realtime_offset_ns=offset_ns,
            boot=teller.boot,
            pair=config.pair.id,
            node=_node(config, core, monitors, now_ns, offset_ns),
            monitors=monitors,
            gate=_gate(snapshot, guarded, facts),
            peer=replace(
                _peer(config, snapshot),
                paused=core.peer_paused,
                paused_until_ns=core.peer_paused_until_ns
                if 0 < core.peer_paused_until_ns < FOREVER
                else None,
            ),
            links=[_link(section, snapshot, guarded, links) for section in config.links],
            rivals=rivals.status(offset_ns),
            vrids=[_vrid(section, snapshot, guarded) for section in config.vrids],
            neighbours=[
                schema.Neighbours(interface=name, kept=kept, warm=warm)
                for name, (kept, warm) in sorted(neighbours.items())
            ],
            routes=routes,
            hooks=hooks,
            timers=_timers(config, core, facts),
            policy=_policy(config),
            configuration=schema.Configuration(
                path=config.path,
                loaded=facts.loaded,
                generation=facts.generation,
                digest=facts.digest,
                mismatch=_heard(snapshot) and snapshot.peer.digest != facts.digest,
                needs_restart=facts.needs_restart,
                document=facts.generation > 0,
                ignored=facts.ignored,
                send_key=config.keys.send,
                keys=facts.keys,
            ),
            process=_process(facts),
            waiting=_waiting(core, now_ns),
            pause=_pause(core, offset_ns),
            watchdog=facts.watchdog,
            fence=facts.fence,
            witness=facts.witness,
            isolation=facts.isolation,
            sync=facts.sync,
            connections=facts.connections,
            warnings=[*facts.warnings, *_about_the_disk(facts)],
            last_transition=teller.last,
            last_failover=teller.last_failover,
        )
    )


def _about_the_disk(facts: Facts) -> list[schema.Warn]:
    if not facts.not_kept:
        return []
    return [
        schema.Warn(
            code="peer_not_kept",
            sentence=f"what is known of the peer isn't on disk: {facts.not_kept}",
        )
    ]


# -- parts ----------------------------------------------------------------------------------------


def _node(
    config: Config,
    core: CoreStatus,
    monitors: list[schema.Monitor],
    now_ns: int,
    offset_ns: int,
) -> schema.Node:
    held, window_ends_ns = core.health_holds_until_ns, core.flips_window_ends_ns
    engine = core.engine
    return schema.Node(
        name=config.node.name,
        index=config.node.index,
        role=role_name(core.role),
        role_since_ns=core.since_ns,
        role_since=moment(core.since_ns + offset_ns),
        reason=reason(core.reason),
        admin=schema.Admin(core.admin.name.lower().replace("_", "-")),
        health=core.score,
        health_seen=core.health_seen.score if held and core.health_seen else None,
        health_counts_in_ns=max(0, held - now_ns) if held else None,
        relapses=core.relapses,
        flips=core.flips,
        flips_since_ns=core.flips_since_ns or None,
        flips_window_left_ns=max(0, window_ends_ns - now_ns) if window_ends_ns else None,
        flips_reset=_flips_reset(core),
        sticky=core.sticky,
        conflict=core.conflict,
        fit=core.fit,
        unfit=[reason(why) for why in core.unfit],
        components=components({*core.health.failed, *core.health.lowering}, monitors),
        state=node_state(core),
        term=engine.term if engine is not None else 0,
        term_highest=engine.highest if engine is not None else 0,
        terms_left=core.terms_left,
        starting=role_name(core.role) is schema.Role.INIT,
        isolated=core.isolated,
    )


def _flips_reset(core: CoreStatus) -> schema.FlipsReset | None:
    if not core.flips:
        return None
    return schema.FlipsReset.NEXT_FAILURE if core.flips_recovered else schema.FlipsReset.RECOVERY


def components(failed: set[str], monitors: list[schema.Monitor]) -> list[schema.Component]:
    """Every check whose failure costs something, whether it holds or not."""
    counting = {one.name: one.reason for one in monitors if one.weight and one.state != "idle"}
    return [
        schema.Component(name=name, healthy=name not in failed, sentence=counting.get(name, ""))
        for name in sorted(failed | counting.keys())
    ]


def node_state(core: CoreStatus) -> schema.NodeState:
    """What the node is fit for: the core's own states go before what the monitors say."""
    if core.admin is Admin.DISABLED:
        return schema.NodeState.DISABLED
    if role_name(core.role) is schema.Role.INIT:
        return schema.NodeState.INIT
    return schema.NodeState(core.health.state.value)


def _gate(snapshot: Snapshot, guarded: Mapping[str, Guarded], facts: Facts) -> schema.Gate:
    gate = snapshot.gate
    return schema.Gate(
        attached=all(one.standing for one in guarded.values() if one.serves),
        open=gate.open,
        term=gate.term,
        open_until_ns=gate.open_until_ns,
        left_ns=max(0, gate.open_until_ns - snapshot.at_ns) if gate.open else 0,
        fence_below=gate.fence_below,
        contested=gate.contested != 0 and gate.contested == gate.term,
        attested_left_ns=max(0, facts.attested_until_ns - snapshot.at_ns),
    )


def _heard(snapshot: Snapshot) -> bool:
    return snapshot.peer.epoch != 0 and snapshot.peer.arrived_ns != 0


def _peer(config: Config, snapshot: Snapshot) -> schema.Peer:
    peer, now_ns = snapshot.peer, snapshot.at_ns
    mismatch_ns = max((link.mismatch_ns for link in snapshot.links), default=0)
    hello_ns = max((link.hello_ns for link in snapshot.links), default=0)
    mismatch = mismatch_ns > hello_ns and now_ns - mismatch_ns < _MISMATCH_FRESH_NS
    if not _heard(snapshot):
        return schema.Peer(name=config.peer.name, watch=schema.Watch.UNKNOWN, mismatch=mismatch)
    flags = Flag(int(peer.flags))
    trips = [link.round_trip_ns for link in snapshot.links if link.round_trip_ns]
    lease_left_ns = peer.arrived_ns + peer.lease_us * 1000 - now_ns
    return schema.Peer(
        name=config.peer.name,
        watch=_watch(snapshot.engine.watch),
        role=schema.Role(_ROLES[peer.role]) if peer.role < len(_ROLES) else None,
        admin=schema.Admin(_ADMINS[peer.admin]) if peer.admin < len(_ADMINS) else None,
        heard_ns=hello_ns or None,
        age_ns=max(0, now_ns - hello_ns) if hello_ns else None,
        health=peer.health,
        fit=bool(flags & Flag.FIT),
        starting=bool(flags & Flag.STARTING),
        gate_open=bool(flags & Flag.OPEN) and lease_left_ns > 0,
        term=peer.term,
        hears_us=bool(flags & Flag.HEARS_YOU),
        flags=[(one.name or "").lower() for one in Flag if one in flags],
        round_trip_ns=min(trips) if trips else None,
        lease_left_ns=max(0, lease_left_ns),
        generation=peer.generation,
        digest=peer.digest,
        send_key=peer.key_id or None,
        keys=sorted(number for number in peer.keys if number),
        mismatch=mismatch,
    )


_ROLES: Final = tuple(role.value for role in schema.Role)
_ADMINS: Final = tuple(admin.value for admin in schema.Admin)


def _watch(watch: Watch) -> schema.Watch:
    return schema.Watch(watch.name.lower())


def _link(
    section: LinkSection, snapshot: Snapshot, guarded: Mapping[str, Guarded], links: Links
) -> schema.Link:
    number = link_number(section)
    words = next((one for one in snapshot.links if one.number == number), None)
    if words is None or not section.heartbeat:
        return _silent_link(section)
    one = guarded.get(section.interface)
    age_ns = max(0, snapshot.at_ns - words.hello_ns) if words.hello_ns else None
    # The engine's own word, so that one late heartbeat is no news here either.
    silent = bool(snapshot.engine.link_silent >> number & 1)
    return schema.Link(
        name=section.name,
        interface=section.interface,
        index=number,
        vlan=section.vlan,
        mode=section.mode,
        direct=section.direct,
        local=section.local,
        peer=section.peer,
        state=link_state(carrier=words.carrier, heard=age_ns is not None, silent=silent),
        carrier=words.carrier,
        up=words.carrier and age_ns is not None and not silent,
        two_way=bool(snapshot.engine.two_way >> number & 1),
        heard_ns=words.hello_ns or None,
        age_ns=age_ns,
        round_trip_ns=words.round_trip_ns or None,
        quality=links.quality(number),
        xdp=one.mode if one is not None else "none",
    )


def _silent_link(section: LinkSection) -> schema.Link:
    """One that carries no heartbeats, by order or because it comes with the next round."""
    return schema.Link(
        name=section.name,
        interface=section.interface,
        index=link_number(section),
        vlan=section.vlan,
        mode=section.mode,
        direct=section.direct,
        local=section.local,
        peer=section.peer,
        heartbeat=section.heartbeat,
        state="off" if not section.heartbeat else "never-heard",
        xdp="none",
    )


def link_state(*, carrier: bool, heard: bool, silent: bool) -> str:
    """A link's state in one word, the most telling first."""
    if not carrier:
        return "no-carrier"
    if not heard:
        return "never-heard"
    return "silent" if silent else "up"


def _vrid(section: VridSection, snapshot: Snapshot, guarded: Mapping[str, Guarded]) -> schema.Vrid:
    one = guarded.get(section.interface)
    state = "absent"
    if one is not None and one.standing:
        state = "serving" if snapshot.gate.open else "ready"
    return schema.Vrid(
        id=section.id,
        interface=section.interface,
        vmac=vmac_address(section.id, 4) if section.vmac else None,
        inject=section.inject,
        uplinks=list(section.uplinks),
        state=state,
        carrier=one is not None and one.carrier,
        vips_total=len(section.vips),
        vips=list(section.vips[: schema.LISTED_VIPS]),
        xdp=one.mode if one is not None else "none",
    )


def _timers(config: Config, core: CoreStatus, facts: Facts) -> schema.Timers:
    timers, engine = config.timers, core.engine
    known = engine is not None and engine.dead_ns
    return schema.Timers(
        profile=timers.profile,
        hello_us=timers.hello_us,
        dead_us=timers.dead_us,
        verify_us=timers.verify_us,
        stall_us=timers.stall_us,
        lease_us=timers.lease_us,
        attest_ms=timers.attest_ms,
        boot_wait_ms=timers.boot_wait_ms,
        kept_hello_us=engine.hello_ns // 1000 if engine is not None and known else None,
        kept_dead_us=engine.dead_ns // 1000 if engine is not None and known else None,
        override=core.wish.number if core.wish.intervals is not None else None,
        even_so=core.wish.even_so,
        refused=reason(core.timers_refused) if core.timers_refused is not None else None,
        raised=list(facts.raised),
    )


def _policy(config: Config) -> schema.Policy:
    policy = config.policy
    return schema.Policy(
        **{name: getattr(policy, name) for name in schema.Policy.__struct_fields__}
    )


def _process(facts: Facts) -> schema.Process:
    return schema.Process(
        version=__version__,
        pid=os.getpid(),
        started=facts.started,
        started_ns=facts.started_ns,
        worker=facts.worker,
        rss_bytes=_resident(),
        realtime=facts.realtime,
        python=platform.python_version(),
        bpf=facts.bpf[:16],
    )


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * _PAGE


def _waiting(core: CoreStatus, now_ns: int) -> schema.Waiting | None:
    if core.waiting is None:
        return None
    return schema.Waiting(
        code=core.waiting.code.value,
        sentence=core.waiting.sentence,
        until_ns=core.waiting_until_ns,
        left_ns=max(0, core.waiting_until_ns - now_ns),
    )


def _pause(core: CoreStatus, offset_ns: int) -> schema.Pause | None:
    until_ns = core.paused_until_ns
    if not until_ns:
        return None
    ends = until_ns < FOREVER
    return schema.Pause(
        reason=core.pause_reason,
        since_ns=core.pause_since_ns,
        until_ns=until_ns if ends else None,
        expires=moment(until_ns + offset_ns) if ends else None,
        both=core.paused_both,
    )


def reason(why: Reason | Refusal) -> schema.Reason:
    """A reason of the core, as the interface has it."""
    return schema.Reason(code=why.code.value, sentence=why.sentence)
