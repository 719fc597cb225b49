# SPDX-License-Identifier: Apache-2.0
"""The demo: bring the pair up, break it three ways under a client's eyes, say what was seen.

The client's times come from its probes (kernel stamps), the nodes' from their own history; both
are on one clock because the lab runs on one machine.  What is printed was measured, as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinlab import (
    agents,
    capture,
    cutter,
    lab,
    measure,
    netns,
    plan,
    plot,
    probe,
    processes,
    services,
)
from twinlab import timeline as timelines
from twinlab.cli import add_options, options_of
from twinlab.shell import LabError, wait_for

SLOW_REQUEST_NS = 200_000_000
ATTEMPTS = 5
CALM_NS = 700_000_000
CALM_TIMEOUT_S = 12.0
AFTERMATH_NS = 5_000_000
"""What begins to fail later than this after the new owner's announcement has another cause."""
MOVES_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One way to lose the primary."""

    title: str
    event: str
    """What is done, with {node} for the primary."""
    cause: Callable[[str], int]
    """Does it, and returns when (the last moment at which it was not yet done)."""
    reasons: tuple[str, ...]
    """The reasons under which the other node may take over if it is because of this."""
    undo: Callable[[str], object] | None = None
    undone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One way to lose the primary, and what came of it."""

    title: str
    old: str
    new: str
    seen: measure.Failure
    transition: dict[str, Any]
    overlap: int
    """Frames for a shared address from the old owner after the new one's first."""
    zero_ns: int
    """The moment that the timeline counts from."""
    moments: list[timelines.Moment]
    as_meant: bool = True
    """The role changed for a reason that the script is about."""

    @property
    def outage_us(self) -> float | None:
        return None if self.seen.outage_ns is None else self.seen.outage_ns / 1000


def say(text: str = "") -> None:
    print(text, flush=True)


def heading(text: str) -> None:
    say(f"\n── {text} " + "─" * max(0, 92 - len(text)))


def show_pair() -> None:
    """The pair's state in its own words."""
    for node in plan.NODES:
        said = agents.show(node)
        say(f"  {node}: {said['sentence'] if said else 'its agent does not answer'}")


class RefusedError(LabError):
    """The pair refused a command, as it had to: the roles had just changed by themselves."""


class Stage:
    """The running demo: the client that probes, the acts played so far."""

    def __init__(self, running: probe.Probe, options: plan.Options) -> None:
        self._running = running
        self._options = options
        self._told_ns = agents.boot_ns()
        """Changes of role up to here have been told."""
        self.acts: list[Act] = []

    def tell_moves(self) -> None:
        """One line if the roles moved by themselves since the last act."""
        moved = moves({node: agents.history(node) for node in plan.NODES}, since_ns=self._told_ns)
        if moved:
            say(f"  Meanwhile the roles moved by themselves: {moved}.")
        self._told_ns = agents.boot_ns()

    def play(self, script: Script) -> None:
        """Play a script until the role changed for the reason it is about, and tell what was seen.

        On a machine that loses its CPU for milliseconds, a pair with the fastest timers may change
        roles by itself just then, or refuse a command; that is said, and the script played again.
        """
        heading(f"{len(self.acts) + 1}. {script.title}")
        act = self._first_that_shows(script)
        self.acts.append(act)
        say()
        say(timelines.table(act.moments, act.zero_ns))
        say()
        say(f"  {outage_sentence(act)}")
        say(f"  Why, in {act.new}'s words: {act.transition['sentence']}.")
        if script.undo is not None:
            say(f"  {script.undone.format(node=act.old)}")

    def _first_that_shows(self, script: Script) -> Act:
        """The first attempt that shows what the script is about, or the last one."""
        for left in reversed(range(ATTEMPTS)):
            try:
                act = self._attempt(script)
            except RefusedError as refused:
                if not left:
                    raise
                say(f"  {refused}; again.")
                continue
            if act.as_meant or not left:
                return act
            say(f"  Just then the roles changed by themselves: {act.transition['sentence']}.")
            say("  So this showed something else; again.")
        raise AssertionError("ATTEMPTS is at least 1")

    def _attempt(self, script: Script) -> Act:
        old = wait_calm()
        new = plan.peer(old)
        self.tell_moves()
        show_pair()
        self._running.wait_served()
        with capture.Capture(name="demo") as recorder:
            before = script.cause(old)
            after = agents.boot_ns()
            transition = timelines.takeover(new, before)
            self._running.wait_served(since_ns=max(after, int(transition["at_ns"])))
            self._running.wait_for_time(0.05)
        record = self._running.record()
        began = effect_ns(transition, before)
        seen = measure.Failure(
            before_ns=before,
            after_ns=after,
            outage=outage_of(record, transition, began),
            lost=0,
            record=record,
        )
        self._told_ns = int(transition["at_ns"])
        moments = timelines.moments(
            seen, transition, node=new, peer=old, event=script.event.format(node=old)
        )
        act = Act(
            title=script.title,
            old=old,
            new=new,
            seen=seen,
            transition=transition,
            overlap=len(self._overlap(recorder.finish(), old, new, before)),
            as_meant=transition["reason"] in script.reasons,
            zero_ns=began,
            moments=moments,
        )
        if script.undo is not None:
            script.undo(old)
        return act

    def _overlap(
        self, recording: capture.Recording, old: str, new: str, since_ns: int
    ) -> list[capture.Frame]:
        """Two owners on the wire: frames of the old one before it rightly was the owner again."""
        again = [
            int(transition["timeline"]["gate_ns"])
            for transition in agents.history(old)
            if transition["to_role"] == "primary" and transition["at_ns"] > since_ns
        ]
        return recording.overlap(
            old,
            new,
            vips=[*self._options.lan_vips(), *self._options.wan_vips()],
            vmacs=[plan.vmac(plan.LAN_VRID), plan.vmac(plan.WAN_VRID)],
            since_ns=since_ns,
            until_ns=min(again, default=None),
        )


def effect_ns(transition: dict[str, Any], before_ns: int) -> int:
    """When what was done began to have an effect: at once, but for a command, which has to start.

    Its effect begins with the claim.
    """
    timeline = transition["timeline"]
    claimed = timeline.get("claim_ns")
    ordered = timeline.get("suspect_ns") is None and claimed is not None
    return int(claimed) if ordered else before_ns


def outage_of(
    record: probe.Record, transition: dict[str, Any], began_ns: int
) -> probe.Outage | None:
    """The outage that an act made: none that began when the new owner was long announced."""
    timeline = transition["timeline"]
    served_ns = timeline.get("announced_ns") or timeline.get("gate_ns") or transition["at_ns"]
    return record.outage_around(began_ns, until_ns=int(served_ns) + AFTERMATH_NS)


def moves(histories: dict[str, list[dict[str, Any]]], *, since_ns: int) -> str:
    """Who became primary since then and why, oldest first; empty if nobody did.

    A primary that goes on under a newer term is no news.
    """
    found = sorted(
        (int(each["at_ns"]), node, str(each["sentence"]))
        for node, transitions in histories.items()
        for each in transitions
        if each["to_role"] == "primary"
        and each["at_ns"] > since_ns
        and each["reason"] != "term_renewed"
    )
    words = [f"{node} became primary ({why})" for _, node, why in found]
    earlier = len(words) - MOVES_SHOWN
    return ", then ".join(
        [*([f"{earlier} earlier moves"] if earlier > 0 else []), *words[-MOVES_SHOWN:]]
    )


def lost_between(lost: int, acts: Sequence[Act]) -> int:
    """How many of the lost probes belong to no act."""
    return lost - sum(act.seen.outage.lost for act in acts if act.seen.outage is not None)


def wait_calm() -> str:
    """Wait until the pair is whole and nothing has changed for a moment; returns the primary.

    Where the machine gives it no such moment, being whole has to do.
    """

    def calm() -> str | None:
        newest = [agents.history(node)[-1:] for node in plan.NODES]
        age = agents.boot_ns() - max((said[0]["at_ns"] for said in newest if said), default=0)
        return agents.pair_is_fit() if age > CALM_NS else None

    try:
        return wait_for(calm, "a calm moment", timeout_s=CALM_TIMEOUT_S, interval_s=0.05)
    except LabError:
        return agents.wait_fit()


def outage_sentence(act: Act) -> str:
    """What the client noticed, in plain words."""
    outage = act.seen.outage
    if outage is None:
        return "The client noticed nothing: every probe was answered."
    if outage.duration_ns is None:
        return "The client was not served again while the demo looked."
    words = (
        f"The client waited {outage.duration_ns / 1000:,.0f} µs, from the last good reply to the "
        f"first; {outage.lost} probe{'s' if outage.lost != 1 else ''} got lost."
    )
    if outage.sender_gap_ns > 2 * act.seen.record.interval_ns:
        words += (
            f" (For {outage.sender_gap_ns / 1000:,.0f} µs of that it did not get the CPU to ask.)"
        )
    return words


def cut_silently(node: str) -> int:
    """One store into a map: from then on no frame of the node gets anywhere."""
    with cutter.CutWord(node) as word:
        before = agents.boot_ns()
        word.store(cutter.ALL_BITS)
    return before


def hang(node: str) -> int:
    before = agents.boot_ns()
    agents.stop(node)
    return before


def hand_over(node: str) -> int:
    """The planned switch-over, by the operator's own command."""
    before = agents.boot_ns()
    done = agents.cli(node, "force", "failover", "--yes", "--reason", "demo")
    if done.returncode != 0:
        raise RefusedError(f"twinbeat force failover: {(done.stderr or done.stdout).strip()}")
    return before


SCRIPTS = (
    Script(
        title="The primary dies without a word",
        event="all cables of {node} are cut at once; no carrier falls",
        cause=cut_silently,
        reasons=("peer_dead",),
        undo=lab.heal,
        undone="{node}'s cables are mended; it has to find its place again.",
    ),
    Script(
        title="The primary's agent hangs",
        event="the agent of {node} is stopped (SIGSTOP); its kernel runs on",
        cause=hang,
        reasons=("peer_stalled", "peer_idle"),
        undo=agents.cont,
        undone="{node}'s agent may go on (SIGCONT); it has to find its place again.",
    ),
    Script(
        title="A planned switch-over, by command",
        event="`twinbeat force failover` is run on {node}",
        cause=hand_over,
        reasons=("peer_yielded", "switchover", "forced"),
    ),
)


def web_requests() -> list[dict[str, Any]]:
    """What became of the HTTP requests, one object for each."""
    lines = processes.log_file("web").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def web_sentence(requests: list[dict[str, Any]]) -> str:
    """How the web fared."""
    failed = [request for request in requests if request["error"]]
    slow = [
        request
        for request in requests
        if not request["error"] and request["ended_ns"] - request["began_ns"] > SLOW_REQUEST_NS
    ]
    words = (
        f"{len(requests):,} HTTP requests, each on a new connection: {len(failed)} failed, "
        f"{len(slow)} took longer than {SLOW_REQUEST_NS // 1_000_000} ms."
    )
    if failed:
        words += (
            f"\n  ({failed[0]['error']}: a connection under way is lost with the node that "
            "translated it, as the demo leaves [connections] off.)"
        )
    if slow:
        words += "\n  (TCP repeats a lost SYN only after a second.)"
    return words


def result(acts: list[Act], record: probe.Record) -> dict[str, Any]:
    """The whole demo as one object."""
    return {
        "machine": machine(),
        "probes": len(record.sent_ns),
        "lost": record.lost(),
        "lost_outside_acts": lost_between(record.lost(), acts),
        "interval_us": record.interval_ns / 1000,
        "acts": [
            {
                "title": act.title,
                "from": act.old,
                "to": act.new,
                "outage_us": act.outage_us,
                "lost": act.seen.outage.lost if act.seen.outage else 0,
                "overlap_frames": act.overlap,
                "reason": act.transition["reason"],
                "as_meant": act.as_meant,
                "moments": {
                    moment.key: (moment.at_ns - act.zero_ns) / 1000 for moment in act.moments
                },
            }
            for act in acts
        ],
    }


def machine() -> str:
    """Which machine the figures are from."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    return f"{os.cpu_count()} × {model}, Linux {platform.release()}"


def run_demo(arguments: argparse.Namespace) -> int:
    """The whole demo; returns the exit code."""
    began = time.monotonic()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    options = options_of(arguments)
    heading("Twinbeat: two gateways that answer as one")
    say(f"  {machine()}")
    say("  Building a client, two gateways, two web servers and three switches in namespaces …")
    lab.up(options)
    say("  Waiting until the pair is fit …")
    agents.wait_fit()
    with probe.Probe(interval_us=arguments.interval_us, name="demo") as running:
        processes.log_file("web").unlink(missing_ok=True)
        processes.spawn("web", plan.CLIENT_NS, services.web_client(plan.LAN_VIP))
        say(
            f"  A client in {plan.CLIENT_NS} now sends a UDP probe through {plan.LAN_VIP} every "
            f"{arguments.interval_us} µs, and fetches a page beside it."
        )
        stage = Stage(running, options)
        for script in SCRIPTS:
            stage.play(script)
        agents.wait_fit()
        stage.tell_moves()
        processes.end("web")
        record = running.finish()
    return finish(stage.acts, record, out, began)


def finish(acts: list[Act], record: probe.Record, out: Path, began: float) -> int:
    """The summary, the picture and the object; exit code 1 if the client was left alone."""
    heading("What was seen")
    show_pair()
    say()
    for number, act in enumerate(acts, 1):
        took = f"{act.outage_us:,.0f} µs" if act.outage_us is not None else "never served again"
        if act.seen.outage is None:
            took = "not noticed"
        meant = "" if act.as_meant else "  (not shown: the roles moved by themselves)"
        say(f"  {number}. {act.title:<36} {act.old} → {act.new}   outage {took:>12}{meant}")
    say()
    say(
        f"  Of {len(record.sent_ns):,} probes {record.lost():,} got no answer, "
        f"{lost_between(record.lost(), acts):,} of them outside the acts; "
        f"{record.duplicates} were answered twice."
    )
    say(f"  {web_sentence(web_requests())}")
    say(
        "  On the switches, frames for a shared address from the old owner after the new one's "
        f"first: {sum(act.overlap for act in acts)}."
    )
    picture = out / "demo.png"
    plot.draw(
        picture,
        record,
        [
            plot.Act(title=f"{number}. {act.title}", zero_ns=act.zero_ns, moments=act.moments)
            for number, act in enumerate(acts, 1)
        ],
    )
    (out / "demo.json").write_text(json.dumps(result(acts, record), indent=2) + "\n")
    say(
        f"  The probes' fate as a picture: {shown(picture)}; as figures: {shown(out / 'demo.json')}"
    )
    say(f"  All this took {time.monotonic() - began:.0f} seconds.")
    return 0 if all(act.outage_us is not None for act in acts) else 1


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def main(argv: list[str] | None = None) -> int:
    """Run the demo and take the lab down again, whatever happens."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    add_options(parser)
    parser.add_argument("--interval-us", type=int, default=200, help="between two probes")
    parser.add_argument("--out", type=Path, default=plan.OUT_DIR, help="where the picture goes")
    parser.add_argument("--keep", action="store_true", help="leave the lab up afterwards")
    arguments = parser.parse_args(argv)
    try:
        lab.need_root()
        netns.refuse_foreign()
        lab.down()
        try:
            return run_demo(arguments)
        finally:
            if not arguments.keep:
                lab.down()
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
