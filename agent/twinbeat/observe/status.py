# SPDX-License-Identifier: Apache-2.0
"""From facts to what a person should know: the warnings and the sentence of a status.

The runtime fills a `Status` with facts. `finish` adds what follows from them, in one place, so that
the command line, systemd, the log and the metrics say the same.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from twinbeat.api.schema import Role, Severity, Status, Warn, Watch
from twinbeat.api.text import age, length, moment

FEW_TERMS = 16
"""So few terms left in the block are worth a warning: each claim uses one."""


def finish(status: Status) -> Status:
    """The same status with its warnings and its sentence. Warnings it had already stay first."""
    pause = status.pause
    if pause is not None and pause.until_ns is not None:
        expires = moment(pause.until_ns + status.realtime_offset_ns)
        status = replace(status, pause=replace(pause, expires=expires))
    until_ns = status.peer.paused_until_ns
    if until_ns is not None:
        expires = moment(until_ns + status.realtime_offset_ns)
        status = replace(status, peer=replace(status.peer, pause_expires=expires))
    known = {warning.code for warning in status.warnings}
    added = [warning for warning in _warnings(status) if warning.code not in known]
    finished = replace(status, warnings=[*status.warnings, *added])
    return replace(finished, sentence=sentence(finished))


# -------------------------------------------------------------------------------- sentence -------


def sentence(status: Status) -> str:
    """The whole state in one line: role, peer, links, what is special, the last failover."""
    node = status.node
    parts = [f"{node.role.value.upper()} since {age(status.now_ns - node.role_since_ns)}"]
    if node.role is Role.PRIMARY and not status.gate.open:
        parts[0] += " with its gate SHUT"
    if node.admin.value != "enabled" and node.role is not Role.DISABLED:
        parts[0] += f" ({node.admin.value})"
    if status.waiting is not None:
        parts.append(f"{status.waiting.sentence} (in {length(max(status.waiting.left_ns, 0))})")
    if not node.fit and node.role is not Role.DISABLED:
        why = f": {node.unfit[0].code}" if node.unfit else ""
        parts.append(f"unfit{why}")
    parts.append(_peer(status))
    beating = [link for link in status.links if link.heartbeat]
    parts.append(f"{sum(link.up for link in beating)}/{len(beating)} links")
    if status.pause is not None:
        left = ""
        if status.pause.until_ns is not None:
            left = f" for another {age(status.pause.until_ns - status.now_ns)}"
        parts.append(f"PAUSED{left}")
    elif status.peer.paused:
        left = ""
        if status.peer.paused_until_ns is not None:
            left = f" for another {age(max(0, status.peer.paused_until_ns - status.now_ns))}"
        parts.append(f"PAUSED by {status.peer.name}{left}")
    parts.extend(
        warning.code.upper().replace("_", " ")
        for warning in status.warnings
        if warning.severity is Severity.CRITICAL and warning.code in _IN_SENTENCE
    )
    parts.append(_failover(status))
    return ", ".join(parts)


_IN_SENTENCE = frozenset({"contested", "dual_primary", "isolated", "gate_missing"})


def _peer(status: Status) -> str:
    peer = status.peer
    role = peer.role.value.upper() if peer.role is not None else ""
    heard = "" if peer.age_ns is None else f" for {age(peer.age_ns)}"
    match peer.watch:
        case Watch.UNKNOWN:
            return "peer speaks under another key" if peer.mismatch else "peer never heard"
        case Watch.DEAD:
            return f"peer DEAD, silent{heard}"
        case Watch.STALLED:
            return f"peer STALLED, its agent silent{heard}"
        case Watch.SUSPECT:
            return "peer suspected"
        case Watch.ALIVE:
            fit = "healthy" if peer.fit else "starting" if peer.starting else "UNFIT"
            return f"peer {role} {fit}"


def _failover(status: Status) -> str:
    last = status.last_failover
    if last is None:
        return "no failover yet"
    ago = status.now_ns - last.at_ns
    if last.boot != status.boot:  # Then only the time of day tells, which may have been set since.
        ago += status.realtime_offset_ns - last.realtime_offset_ns
    return f"last failover {age(ago)} ago: {last.reason}"


# -------------------------------------------------------------------------------- warnings -------


def _warnings(status: Status) -> Iterator[Warn]:
    yield from _about_service(status)
    yield from _about_node(status)
    yield from _about_redundancy(status)
    yield from _about_configuration(status)
    yield from _about_connections(status)
    yield from _about_last_resorts(status)
    yield from _about_third_parties(status)


def _about_service(status: Status) -> Iterator[Warn]:
    node, gate, peer = status.node, status.gate, status.peer
    serving_peer = peer.watch is Watch.ALIVE and peer.gate_open
    if gate.contested:
        yield Warn(
            code="contested",
            severity=Severity.CRITICAL,
            sentence="another open gate was heard: the kernel shut this one until the other is "
            "known to be shut",
        )
    elif gate.open and serving_peer and peer.term != gate.term:
        yield Warn(
            code="dual_primary",
            severity=Severity.CRITICAL,
            sentence=f"{peer.name} says its gate is open too, under term {peer.term}",
        )
    if "stranded" in peer.flags:
        yield Warn(
            code="peer_stranded",
            sentence=f"{peer.name} serves without a receipt for its claim from this node",
        )
    if not gate.open and not serving_peer and not node.starting:
        yield Warn(
            code="no_primary",
            severity=Severity.CRITICAL,
            sentence="no node is known to serve the shared addresses",
        )
    if status.pause is not None:
        sided = "" if status.pause.both else f"; {peer.name} has not confirmed it"
        yield Warn(
            code="paused",
            sentence=f"paused, nobody takes over ({status.pause.reason or 'no reason given'})"
            f"{sided}",
        )
    elif peer.paused:
        sentence = f"paused by {peer.name}, nobody takes over"
        if peer.watch in {Watch.DEAD, Watch.STALLED, Watch.UNKNOWN}:
            ends = f"{peer.pause_expires} at the latest" if peer.pause_expires else "it is back"
            sentence += f" until {ends}, or `twinbeat resume`"
        yield Warn(code="peer_paused", sentence=sentence)


def _about_node(status: Status) -> Iterator[Warn]:
    node, gate = status.node, status.gate
    if not gate.attached:
        yield Warn(
            code="gate_missing",
            severity=Severity.CRITICAL,
            sentence="a gate program is missing: the shared addresses are withdrawn here",
        )
    for reason in node.unfit:
        yield Warn(code=f"unfit_{reason.code}", sentence=f"unfit: {reason.sentence}")
    for component in node.components:
        if not component.healthy:
            why = component.sentence or "not healthy"
            yield Warn(code=f"unhealthy_{component.name}", sentence=f"{component.name}: {why}")
    yield from _about_routes(status)
    if node.terms_left is not None and node.terms_left < FEW_TERMS:
        yield Warn(
            code="terms_low",
            sentence=f"{node.terms_left} terms are left in the block reserved on disk",
        )
    if not status.process.realtime:
        yield Warn(
            code="no_realtime",
            sentence="the engine runs without real-time priority; `twinbeat doctor` says why",
        )
    if node.sticky:
        yield Warn(
            code="sticky_primary",
            severity=Severity.CRITICAL,
            sentence=f"the role moved {node.flips} times for the sake of health: this node keeps "
            "it now, whatever its health",
        )
    if node.conflict:
        yield Warn(
            code="stay_primary_conflict",
            sentence=f"both nodes were told to stay primary; {node.conflict} goes first",
        )
    yield from _about_timers(status)
    for reason in status.timers.raised:
        yield Warn(code=f"timer_{reason.code}", sentence=reason.sentence)
    if status.configuration.needs_restart:
        keys = ", ".join(status.configuration.needs_restart)
        yield Warn(code="needs_restart", sentence=f"only a restart puts into force: {keys}")


def _about_timers(status: Status) -> Iterator[Warn]:
    timers = status.timers
    if timers.refused is not None:
        yield Warn(
            code="timers_refused", sentence=f"the intervals differ: {timers.refused.sentence}"
        )
    kept_us = timers.kept_dead_us
    if kept_us is not None and kept_us > timers.dead_us:
        yield Warn(
            code="dead_interval_longer",
            sentence=f"{status.peer.name} beats too seldom for a dead interval of "
            f"{length(timers.dead_us * 1000)}: {length(kept_us * 1000)} is kept",
        )


def _about_routes(status: Status) -> Iterator[Warn]:
    routes = status.routes
    if routes.problems:
        first = routes.problems[0]
        more = routes.problems_total - 1
        yield Warn(
            code=f"route_{first.trouble}",
            sentence=f"{first.what}: {first.why}" + (f" (and {more} more)" if more else ""),
        )
    for hook in status.hooks:
        if hook.last_good is False:
            yield Warn(
                code=f"hook_{hook.name}",
                sentence=f"hook {hook.name} {hook.last_sentence} (told {hook.last_event})",
            )


def _about_redundancy(status: Status) -> Iterator[Warn]:
    peer = status.peer
    if peer.mismatch:
        yield Warn(
            code="key_mismatch",
            severity=Severity.CRITICAL,
            sentence=f"frames of {peer.name} are refused for their key or version",
        )
    if peer.watch in {Watch.DEAD, Watch.UNKNOWN} and not status.node.starting:
        yield Warn(
            code="peer_lost",
            severity=Severity.CRITICAL,
            sentence=f"{peer.name} isn't heard: there is no second node",
        )
    elif peer.watch is Watch.STALLED:
        yield Warn(
            code="peer_stalled",
            sentence=f"the agent of {peer.name} hangs; its kernel still answers",
        )
    elif peer.watch is Watch.ALIVE and not peer.fit and not peer.starting:
        yield Warn(code="peer_unfit", sentence=f"{peer.name} could not take over: it isn't fit")
    if peer.watch is Watch.ALIVE and not peer.hears_us:
        yield Warn(code="peer_deaf", sentence=f"{peer.name} does not hear this node")
    if peer.watch is Watch.ALIVE:
        for link in status.links:
            if link.heartbeat and not link.up:
                why = "carries no heartbeats" if link.carrier else "has no carrier"
                # When it was heard is the kernel's word; the other is when somebody looked.
                silent_ns = link.quality.silent_ns if link.age_ns is None else link.age_ns
                since = f", silent for {length(silent_ns)}" if silent_ns is not None else ""
                yield Warn(code=f"link_{link.name}", sentence=f"link {link.name} {why}{since}")
    if status.configuration.mismatch:
        yield Warn(
            code="config_mismatch",
            sentence=f"the shared configuration of {peer.name} differs",
        )
    for rival in status.rivals:
        code = "duplicate_address" if rival.kind == "address" else "foreign_vrrp"
        yield Warn(code=f"{code}_{rival.what}_{rival.who}", sentence=rival.sentence)
    for vrid in status.vrids:
        if vrid.vmac is None and vrid.vips_total and not vrid.inject:
            yield Warn(
                code=f"ungated_{vrid.id}",
                severity=Severity.NOTICE,
                sentence=f"VRID {vrid.id} has no virtual MAC: traffic to its addresses is gated, "
                "forwarding through this node is not",
            )


def _about_third_parties(status: Status) -> Iterator[Warn]:
    witness, isolation = status.witness, status.isolation
    if witness is not None and witness.absent:
        yield Warn(
            code="without_witness",
            severity=Severity.CRITICAL,
            sentence="the witness is silent, and by policy the node goes on without it: "
            "both nodes may serve",
        )
    elif witness is not None and not witness.up and witness.sentence:
        yield Warn(code="witness", sentence=f"the witness doesn't answer: {witness.sentence}")
    silent = isolation is not None and isolation.isolated
    if silent or status.node.isolated:
        why = "none of the reference addresses answers: " if silent else ""
        yield Warn(
            code="isolated",
            severity=Severity.CRITICAL,
            sentence=f"{why}this node is cut off from the network and claims nothing",
        )


def _about_configuration(status: Status) -> Iterator[Warn]:
    configuration, sync = status.configuration, status.sync
    if configuration.ignored:
        yield Warn(
            code="file_ignored",
            sentence=f"the shared document (generation {configuration.generation}) is in force, "
            f"not what {configuration.path} says of {', '.join(configuration.ignored)}",
        )
    if sync is None:
        if configuration.document:
            yield Warn(
                code="worker_away",
                sentence="the worker isn't there: changes reach neither node",
            )
        return
    if sync.state in {"failed", "lineage-conflict", "partial-success"}:
        yield Warn(
            code=f"sync_{sync.state.replace('-', '_')}",
            sentence=f"synchronization: {sync.sentence}",
        )
    elif sync.state == "unreachable" and status.peer.watch is Watch.ALIVE:
        why = f": {sync.why}" if sync.why else ""
        yield Warn(
            code="sync_unreachable",
            sentence=f"the worker of {status.peer.name} can't be reached{why}",
        )
    for files in sync.files:
        if files.state in {"partly", "unreadable"}:
            yield Warn(
                code=f"files_{files.state}", sentence=f"files {files.name}: {files.sentence}"
            )
    logs = sync.weblog
    if logs is not None and logs.state in {"refusing", "failed"}:
        yield Warn(code=f"weblog_{logs.state}", sentence=f"no log records are taken: {logs.why}")
    for source in logs.sources if logs is not None else ():
        if source.why:
            yield Warn(code="weblog_source", sentence=f"log source {source.name}: {source.why}")


def _about_connections(status: Status) -> Iterator[Warn]:
    kept = status.connections
    if kept is None:
        return
    if kept.state in {"failed", "unheard"} and status.peer.watch is Watch.ALIVE:
        yield Warn(
            code=f"connections_{kept.state}",
            sentence=f"connections would not outlast a takeover: {kept.sentence}",
        )
    if kept.strays_error:
        sentence = f"packets of unknown connections aren't dropped: {kept.strays_error}"
        yield Warn(code="connections_strays", sentence=sentence)


def _about_last_resorts(status: Status) -> Iterator[Warn]:
    dog, fence, peer = status.watchdog, status.fence, status.peer
    if dog is not None and dog.mode != "off":
        if not dog.armed and not (dog.resting and status.pause is not None):
            yield Warn(
                code="watchdog",
                severity=Severity.CRITICAL if dog.mode == "required" else Severity.WARNING,
                sentence=f"no watchdog guards this machine: {dog.sentence or 'it is not armed'}",
            )
        elif dog.armed and dog.sentence:
            yield Warn(code="watchdog", severity=Severity.CRITICAL, sentence=dog.sentence)
    if not fence.agent:
        return
    gone = peer.watch in {Watch.DEAD, Watch.UNKNOWN}
    if fence.policy == "before" and gone and not fence.fenced and not status.gate.open:
        yield Warn(
            code="not_fenced",
            severity=Severity.CRITICAL,
            sentence=f"the role waits until {peer.name} is fenced"
            + (f" (attempt {fence.attempts})" if fence.attempts else ""),
        )
    if gone and fence.last is not None and fence.last.outcome != "succeeded":
        yield Warn(code="fencing_failed", severity=Severity.CRITICAL, sentence=fence.last.sentence)
    if fence.check is not None and fence.check.outcome != "succeeded":
        yield Warn(
            code="fence_check",
            sentence=f"{peer.name} could not be fenced if need be: {fence.check.sentence}",
        )
