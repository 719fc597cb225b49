# SPDX-License-Identifier: Apache-2.0
"""`twinbeat show`: one screen, its first line the whole state in a sentence."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import click
import msgspec

from twinbeat.api.schema import (
    SCHEMA,
    Connections,
    Link,
    NodeState,
    Policy,
    Role,
    Routes,
    Severity,
    Status,
    Timers,
    Watch,
)
from twinbeat.api.text import age, length
from twinbeat.cli import connections
from twinbeat.cli.base import Exit, Stop, paint, read, remote, say, say_json, settings
from twinbeat.cli.flips import flips, times

_ROLE_COLOR: Final = {
    Role.PRIMARY: "green",
    Role.SECONDARY: "cyan",
    Role.CLAIMING: "yellow",
    Role.INIT: "yellow",
    Role.DISABLED: "magenta",
}
_PARTS: Final = (
    *("node", "monitors", "peer", "links", "vips", "routes", "hooks", "witness", "connections"),
)

_NODE_PARTS: Final = (
    *("node", "gate", "timers", "configuration", "process", "waiting", "pause"),
    *("policy", "watchdog", "fence", "witness", "isolation"),
)
_USUAL_FLAGS: Final = frozenset({"open", "hears_you", "fit", "known"})
"""Flags of a frame that are told in words already."""

_STANDING_COLOR: Final = {"up": "green", "idle": "cyan", "pending": "yellow"}

_WATCH_COLOR: Final = {
    Watch.ALIVE: "green",
    Watch.SUSPECT: "yellow",
    Watch.STALLED: "yellow",
    Watch.DEAD: "red",
    Watch.UNKNOWN: "yellow",
}


_WORKERS: Final = ("sync", "config", "files", "weblog", "sessions", "persistence")
"""What the worker is asked for."""


@click.command()
@click.argument("what", type=click.Choice((*_PARTS, *_WORKERS)), required=False)
@click.option("--generation", type=click.IntRange(1), metavar="N", help="config: an earlier one.")
@click.option("--backup", type=click.IntRange(1), metavar="N", help="config: one that gave way.")
@click.option("--generations", "listed", flag_value="generations", help="config: list them.")
@click.option("--backups", "listed", flag_value="backups", help="config: list what gave way.")
@click.option("--client", default="", metavar="ADDRESS", help="persistence: of this client.")
@click.option("--rule", default="", metavar="NAME", help="persistence: of this rule.")
@click.option("--most", type=click.IntRange(1, 1000), default=100, help="persistence: so many.")
@remote
def show(
    what: str | None,
    generation: int | None,
    backup: int | None,
    listed: str | None,
    client: str,
    rule: str,
    most: int,
) -> None:
    """Who is primary, how the peer is, what is wrong.

    The first line says it all; WHAT shows one part in full. sync is how the shared configuration
    stands on both nodes, config what it says, files how each list of files stands, connections
    whether they would outlast a takeover, weblog how log records stand, sessions the persistence
    rules and servers, persistence which client is bound to which server.
    """
    chosen = [given for given in (generation, backup, listed) if given is not None]
    if len(chosen) > 1 or (chosen and what != "config"):
        raise Stop(Exit.USAGE, "one of --generation, --backup, --generations, --backups: of config")
    if what in {"sync", "config"}:
        from twinbeat.cli import sync

        if what == "sync":
            sync.show_sync()
        else:
            sync.show_config(generation, backup, listed)
        return
    if what == "files":
        from twinbeat.cli.files import show_files

        show_files()
        return
    if what == "weblog":
        from twinbeat.cli.weblog import show_weblog

        show_weblog()
        return
    if (client or rule) and what != "persistence":
        raise Stop(Exit.USAGE, "--client and --rule are for `show persistence`")
    if what in {"sessions", "persistence"}:
        from twinbeat.cli import sessions

        if what == "sessions":
            sessions.show_sessions()
        else:
            sessions.show_persistence(rule, client, most)
        return
    body = read("/v1/status")
    if settings().json:
        say_json(_part(body, what))
        return
    status = msgspec.json.decode(body, type=Status)
    if what is None:
        for line in overview(status):
            say(line)
        return
    parts: dict[str, Callable[[Status], Iterator[str]]] = {
        "node": _node,
        "monitors": _monitors,
        "peer": _peer,
        "links": _links,
        "vips": _vips,
        "routes": _routes,
        "hooks": _hooks,
        "witness": _witness,
        "connections": lambda status: connections.lines(status.connections),
    }
    for line in parts[what](status):
        say(line)


def _part(body: bytes, what: str | None) -> bytes | dict[str, Any]:
    """The whole answer as it came, or one part of it."""
    if what is None:
        return body
    whole: dict[str, Any] = msgspec.json.decode(body)
    keys = {
        "node": _NODE_PARTS,
        "monitors": ("monitors",),
        "peer": ("peer",),
        "links": ("links",),
        "vips": ("vrids", "neighbours", "rivals"),
        "routes": ("routes",),
        "hooks": ("hooks",),
        "witness": ("witness", "isolation"),
        "connections": ("connections",),
    }[what]
    return {"schema": SCHEMA, **{key: whole[key] for key in keys}}


def overview(status: Status) -> Iterator[str]:
    """One screen."""
    word, _, rest = status.sentence.partition(" ")
    yield paint(word, _ROLE_COLOR[status.node.role], bold=True) + f" {rest}"
    for warning in status.warnings:
        color = "red" if warning.severity is Severity.CRITICAL else "yellow"
        yield paint("  ! ", color) + warning.sentence
    yield ""
    yield from _labelled("node", _node(status))
    yield from _labelled("peer", _peer(status))
    yield from _labelled("config", _configuration(status))
    yield from _labelled("files", _files(status))
    if status.connections is not None and status.connections.state != "off":
        yield from _labelled("flows", _connections(status.connections))
    yield from _labelled("links", _links(status))
    yield from _labelled("checks", _monitors(status, brief=True))
    yield from _labelled("vips", _vips(status))
    if status.routes != Routes():
        yield from _labelled("routes", _routes(status))
    if status.hooks:
        yield from _labelled("hooks", _hooks(status))


def _configuration(status: Status) -> Iterator[str]:
    """Whose word counts, and whether both nodes have the same."""
    said, sync = status.configuration, status.sync
    whose = f"shared, generation {said.generation}" if said.document else f"as {said.path} says"
    parts = [whose]
    if said.document and sync is not None:
        step = paint("in step", "green") if sync.in_step else paint("not in step", "yellow")
        parts.append(f"{step} ({sync.state})")
    if said.mismatch:
        parts.append(paint("differs from the peer's", "yellow"))
    yield ", ".join(parts)


def _files(status: Status) -> Iterator[str]:
    """Lists of files that aren't alike on both nodes."""
    for each in status.sync.files if status.sync is not None else ():
        if each.state != "same":
            failed = f", {times(each.failed, 'item')} can't be kept alike" if each.failed else ""
            yield f"{each.name}: {paint(each.state, 'yellow')}{failed} (`twinbeat show files`)"


def _connections(kept: Connections) -> Iterator[str]:
    """Whether connections would outlast a takeover."""
    state = paint(kept.state, connections.COLORS.get(kept.state, "yellow"))
    flows = "" if kept.flows is None else f", {kept.flows:,} in the kernel"
    yield f"{state}{flows} (`twinbeat show connections`)"


def _labelled(label: str, lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield f"{label if number == 0 else '':<7}{line}"


def _node(status: Status) -> Iterator[str]:
    node, gate = status.node, status.gate
    fit = "fit" if node.fit else paint("unfit", "red")
    starting = ", starting" if node.starting else ""
    yield (
        f"{node.name} (index {node.index}, pair {status.pair}): "
        f"{paint(node.role.value, _ROLE_COLOR[node.role])} since {node.role_since}, "
        f"{node.admin.value}, {fit}, {_state(status)}, health {node.health}{starting}"
    )
    if node.reason is not None:
        yield f"because {node.reason.sentence} ({node.reason.code})"
    left = "" if node.terms_left is None else f", {node.terms_left} reserved"
    yield f"term {node.term or 'none'}, highest seen {node.term_highest}{left}"
    yield _gate(status)
    if status.waiting is not None:
        waiting = status.waiting
        yield paint(f"waiting ({waiting.code}): {waiting.sentence}, ", "yellow") + (
            f"{length(max(waiting.left_ns, 0))} left"
        )
    if status.pause is not None:
        until = status.pause.expires or "resumed"
        sides = "both nodes" if status.pause.both else "this node only"
        yield paint(f"paused until {until}", "yellow") + f" ({sides}): {status.pause.reason}"
    if status.peer.paused:
        until = f" until {status.peer.pause_expires}" if status.peer.pause_expires else ""
        yield paint(f"paused by {status.peer.name}{until}", "yellow")
    if gate.open or gate.term:
        yield f"attested for another {length(max(gate.attested_left_ns, 0))}"
    timers = status.timers
    yield f"timers {timers.profile}: " + ", ".join(
        f"{name} {length(value)}"
        for name, value in (
            ("hello", timers.hello_us * 1000),
            ("dead", timers.dead_us * 1000),
            ("verify", timers.verify_us * 1000),
            ("stall", timers.stall_us * 1000),
            ("lease", timers.lease_us * 1000),
            ("attest", timers.attest_ms * 1_000_000),
            ("boot wait", timers.boot_wait_ms * 1_000_000),
        )
    )
    yield from _timers_kept(timers)
    if status.policy is not None:
        yield f"policy: {_policy(status.policy)}"
        yield f"  {_patience(status.policy)}"
    yield from _health_history(status)
    yield from _last_resorts(status)
    yield from _third_parties(status)
    if status.configuration.keys:
        yield f"keys: {_keys(status.configuration.send_key, status.configuration.keys)}"
    process = status.process
    realtime = "real-time" if process.realtime else paint("not real-time", "yellow")
    memory = f", {process.rss_bytes / 1e6:.1f} MB" if process.rss_bytes else ""
    yield (
        f"agent {process.version}, pid {process.pid}, up "
        f"{age(status.now_ns - process.started_ns)}, {realtime}{memory}"
    )


def _timers_kept(timers: Timers) -> Iterator[str]:
    if timers.override is not None:
        even_so = ", though a host can't hold them" if timers.even_so else ""
        yield f"  set by an operator over the configuration (change {timers.override}){even_so}"
    if timers.refused is not None:
        yield paint(f"  the peer keeps others: {timers.refused.sentence}", "yellow")
    kept = timers.kept_hello_us, timers.kept_dead_us
    if None not in kept and kept != (timers.hello_us, timers.dead_us):
        hello, dead = (length((value or 0) * 1000) for value in kept)
        yield paint(f"  at this moment hello {hello}, dead {dead}", "yellow")


def _health_history(status: Status) -> Iterator[str]:
    node = status.node
    if node.health_counts_in_ns is not None:
        left = length(node.health_counts_in_ns)
        yield f"health counts as {node.health}, and as {node.health_seen} in {left}"
    yield from flips(node, status.now_ns)
    if node.conflict:
        yield paint(f"both nodes were told to stay primary: {node.conflict} goes first", "yellow")


def _policy(policy: Policy) -> str:
    words = [
        f"fail-safe {'on' if policy.fail_safe else 'off'}",
        f"stall {policy.stall}",
        f"hold-down {policy.preempt_hold_s} s",
    ]
    special = ("strict", "claim_alone", "preferred")
    words += [name.replace("_", " ") for name in special if getattr(policy, name)]
    return ", ".join(words)


def _patience(policy: Policy) -> str:
    """How health that returns counts, and how often the role may move for its sake."""
    held = f"better health counts after {length(policy.recovery_hold_ms * 1_000_000)}"
    if policy.recovery_hold_max_s * 1000 > policy.recovery_hold_ms:
        held += f", with relapses after {policy.recovery_hold_max_s} s at most"
    if not policy.max_flips:
        return f"{held}; flips aren't limited"
    window = f" within {policy.flip_window_s} s" if policy.flip_window_s else ""
    return f"{held}; {times(policy.max_flips, 'flip')}{window} at most"


def _last_resorts(status: Status) -> Iterator[str]:
    """Watchdog and fencing, where they are configured."""
    dog, fence = status.watchdog, status.fence
    if dog is not None and dog.mode != "off":
        state = paint("armed", "green") if dog.armed else paint("NOT ARMED", "red")
        if dog.resting:
            state = paint("rests during the pause", "yellow")
        known = f", {dog.identity}, {dog.timeout_s} s" if dog.armed else ""
        stays = ", never stops" if dog.nowayout else ""
        yield f"watchdog {dog.device} ({dog.mode}): {state}{known}{stays}"
    if not fence.agent:
        return
    state = "not checked yet"
    if fence.check is not None:
        state = "ready" if fence.check.outcome == "succeeded" else paint("NOT READY", "red")
    if fence.running:
        state = paint(f"{fence.running} under way, attempt {fence.attempts}", "yellow")
    elif fence.fenced:
        state = paint(f"{status.peer.name} is fenced", "green")
    yield f"fencing by {fence.agent}, {fence.action} {fence.policy} the takeover: {state}"
    if fence.last is not None:
        yield f"  last {fence.last.time}: {fence.last.sentence}"


def _witness(status: Status) -> Iterator[str]:
    """Who else is asked, and that nobody is where there is none."""
    if status.witness is None:
        yield "no witness is configured"
    yield from _third_parties(status)


def _third_parties(status: Status) -> Iterator[str]:
    """Witness and reference addresses, where they are configured."""
    witness, isolation = status.witness, status.isolation
    if witness is not None:
        state = paint("answers", "green") if witness.up else paint("SILENT", "red")
        facts = [f"keeps term {witness.kept_term}"] if witness.kept_term else []
        if witness.confirmed_age_ns is not None:
            facts.append(f"confirmed {length(witness.confirmed_age_ns)} ago")
        if witness.keeps_peer:
            facts.append(f"says that {status.peer.name} serves")
        if witness.opens_in_ns is not None:
            facts.append(f"older words run out in {length(witness.opens_in_ns)}")
        if witness.absent:
            facts.append(paint("WITHOUT IT BOTH NODES MAY SERVE", "red"))
        facts += [witness.sentence] if witness.sentence else []
        yield f"witness {witness.kind} ({witness.without}): {', '.join([state, *facts])}"
    if isolation is not None:
        state = paint("none answers: CUT OFF", "red")
        if not isolation.isolated:
            state = f"{isolation.answering} answers" if isolation.answering else "not asked yet"
        yield f"references {', '.join(isolation.references)}: {state}"


def _state(status: Status) -> str:
    state = status.node.state
    color = "green" if state is NodeState.UP else "yellow" if state is NodeState.INIT else "red"
    return "state " + paint(state.value.upper(), color)


def _monitors(status: Status, *, brief: bool = False) -> Iterator[str]:
    """Every monitor; in brief those that hold are only counted."""
    if not status.monitors:
        yield "none"
    shown = [one for one in status.monitors if not brief or one.state not in {"up", "idle"}]
    if brief and len(shown) < len(status.monitors):
        holding = len(status.monitors) - len(shown)
        yield f"{holding} of {len(status.monitors)} monitors hold (`twinbeat show monitors`)"
    for one in shown:
        state = paint(one.state, _STANDING_COLOR.get(one.state, "red"))
        counts = f"in set {one.linkset}" if one.linkset else f"weight {one.weight}"
        target = "" if one.target in {"", one.name} else f" {one.target}"
        yield (
            f"{one.name} ({one.kind}{target}, {counts}): {state} for "
            f"{age(status.now_ns - one.since_ns)}: {one.reason}"
        )
        if one.output and not brief:
            for line in one.output.splitlines()[:16]:
                yield f"  | {line}"


def _gate(status: Status) -> str:
    gate = status.gate
    if not gate.attached:
        return "gate " + paint("MISSING", "red")
    if gate.contested:
        return "gate " + paint("shut, contested", "red") + f", term {gate.term}"
    if gate.open:
        left = length(max(gate.left_ns, 0))
        return "gate " + paint("open", "green") + f", term {gate.term}, {left} of the lease left"
    return f"gate shut, fenced below {gate.fence_below}"


def _peer(status: Status) -> Iterator[str]:
    peer = status.peer
    watch = paint(peer.watch.value, _WATCH_COLOR[peer.watch])
    if peer.role is None:
        mismatch = ", its frames are refused for their key or version" if peer.mismatch else ""
        yield f"{peer.name}: {watch}, never heard{mismatch}"
        return
    role = paint(peer.role.value, _ROLE_COLOR[peer.role])
    fit = "fit" if peer.fit else paint("unfit", "red")
    admin = peer.admin.value if peer.admin is not None else "?"
    heard = "never heard" if peer.age_ns is None else f"heard {_ago(peer.age_ns)}"
    trip = "" if peer.round_trip_ns is None else f", round trip {length(peer.round_trip_ns)}"
    yield f"{peer.name}: {watch}, {role}, {admin}, {fit}, health {peer.health}, {heard}{trip}"
    gate = f"open under term {peer.term}" if peer.gate_open else "shut"
    hears = "hears this node" if peer.hears_us else paint("does not hear this node", "yellow")
    special = [flag for flag in peer.flags if flag not in _USUAL_FLAGS]
    flags = f", flags {' '.join(special)}" if special else ""
    yield f"gate {gate}, {hears}{flags}"
    if peer.keys:
        yield f"keys: {_keys(peer.send_key, peer.keys)}"


def _keys(send: int | None, accepted: list[int]) -> str:
    under = "" if not send else f"sends under {send}, "
    return f"{under}accepts {' and '.join(map(str, accepted))}"


def _links(status: Status) -> Iterator[str]:
    for link in status.links:
        state = _link_state(link)
        tag = f".{link.vlan}" if link.vlan else ""
        kind = "direct" if link.direct else link.mode
        facts = ["no heartbeats by configuration"]
        if link.heartbeat:
            facts = [
                "carrier" if link.carrier else "no carrier",
                "never heard" if link.age_ns is None else f"heard {_ago(link.age_ns)}",
            ]
        if link.round_trip_ns is not None:
            facts.append(f"round trip {length(link.round_trip_ns)}")
        loss = link.quality.loss_ratio
        if loss is not None:
            lost = f"{loss:.2%} lost"
            facts.append(paint(lost, "yellow") if loss >= 0.01 else lost)
        if link.quality.gap_p99_ns is not None:
            facts.append(f"gap p99 {length(link.quality.gap_p99_ns)}")
        if link.heartbeat and not link.two_way:
            facts.append("not proven both ways")
        if link.xdp:
            facts.append(f"XDP {link.xdp}")
        name = f"{link.index} {link.name} ({link.interface}{tag}, {kind})"
        yield f"{name}: {state}, {', '.join(facts)}, {link.local} -> {link.peer}"


def _link_state(link: Link) -> str:
    if not link.heartbeat:
        return paint("off", "magenta")
    return paint("up", "green") if link.up else paint("DOWN", "red")


def _vips(status: Status) -> Iterator[str]:
    if not status.vrids:
        yield "none"
    for vrid in status.vrids:
        color = {"serving": "green", "ready": "cyan"}.get(vrid.state, "red")
        mac = vrid.vmac or "no virtual MAC: forwarding is not gated"
        if vrid.inject:
            mac = f"reached through routers over {', '.join([vrid.interface, *vrid.uplinks])}"
        more = vrid.vips_total - len(vrid.vips)
        carrier = "" if vrid.carrier else paint(", no carrier", "red")
        yield (
            f"VRID {vrid.id} on {vrid.interface}: {paint(vrid.state, color)}, "
            f"{vrid.vips_total} address{'' if vrid.vips_total == 1 else 'es'}, {mac}{carrier}"
        )
        listed = " ".join(vrid.vips[:8])
        rest = more + len(vrid.vips[8:])
        yield f"  {listed}" + (f" and {rest} more" if rest else "")
    for rival in status.rivals:
        yield paint("  ! ", "yellow") + f"{rival.sentence}, heard {_ago(rival.age_ns)}"
    for port in status.neighbours:
        yield f"neighbours on {port.interface}: {port.warm} of {port.kept} known by MAC"


def _routes(status: Status) -> Iterator[str]:
    routes = status.routes
    if not routes.wanted and not routes.rules_wanted:
        primary = status.node.role is Role.PRIMARY
        yield "none configured" if primary else "none wanted while this node isn't primary"
    else:
        others = f", {routes.kept} by somebody else" if routes.kept else ""
        yield f"{routes.standing} of {routes.wanted} routes stand{others}"
        if routes.rules_wanted:
            others = f", {routes.rules_kept} by somebody else" if routes.rules_kept else ""
            yield f"{routes.rules_standing} of {routes.rules_wanted} rules stand{others}"
    if routes.inject_table is not None:
        told = f"{routes.injected} of these tell" if routes.injected else "nothing tells"
        yield f"{told} the routing daemon in table {routes.inject_table}"
    if routes.replaced:
        yield f"{routes.replaced} routes of others are replaced and will be put back"
    for problem in routes.problems[:8]:
        yield paint(f"{problem.trouble}: ", "red") + f"{problem.what}: {problem.why}"
    if routes.problems_total > 8:
        yield f"and {routes.problems_total - 8} more (`--json` has {len(routes.problems)})"


def _hooks(status: Status) -> Iterator[str]:
    if not status.hooks:
        yield "none"
    for hook in status.hooks:
        state = "never run"
        if hook.running is not None:
            state = paint(f"running for {hook.running}", "yellow")
        elif hook.last_event is not None:
            took = f" after {length(hook.last_length_ns or 0)}"
            ended = f"{hook.last_event}: {hook.last_sentence}{took}"
            state = ended if hook.last_good else paint(ended, "red")
        bad = hook.runs - hook.outcomes.get("ok", 0)
        counts = times(hook.runs, "run") + (f", {bad} not good" if bad else "")
        skipped = f", {hook.skipped} skipped" if hook.skipped else ""
        yield f"{hook.name} ({', '.join(hook.events)}): {state}; {counts}{skipped}"


def _ago(ns: int) -> str:
    return f"{length(max(ns, 0))} ago"
