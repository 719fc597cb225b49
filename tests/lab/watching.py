# SPDX-License-Identifier: Apache-2.0
"""Watching a pair from outside while something happens to it: what tests of failovers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twinlab import agents, capture, lab, plan, probe, timeline
from twinlab.shell import LabError, wait_for

STEADY = (
    "timers.hello_us=5000",
    "timers.dead_us=60000",
    "timers.verify_us=20000",
    "timers.stall_us=100000",
    "timers.lease_us=400000",
    "timers.attest_ms=2000",
)
"""Timers that hold on a machine that loses its CPU for a hundred milliseconds now and then.

What is tested here is what happens, and in which order; how fast it can be is the bench's matter.
"""

CALM = (
    "timers.hello_us=10000",
    "timers.dead_us=300000",
    "timers.verify_us=100000",
    "timers.stall_us=400000",
    "timers.lease_us=1200000",
    "timers.attest_ms=4000",
)
"""For tests in which nobody may notice anything: not even a machine that is busy elsewhere."""

PATIENT = (
    "timers.hello_us=10000",
    "timers.dead_us=1000000",
    "timers.verify_us=300000",
    "timers.stall_us=1500000",
    "timers.lease_us=2500000",
    "timers.attest_ms=5000",
    "timers.boot_wait_ms=4000",
)
"""For tests in which it doesn't matter how long the takeovers take that they cause."""

VIPS = (plan.LAN_VIP, plan.WAN_VIP)
FLIGHT_NS = 1_000_000
VMACS = (plan.vmac(plan.LAN_VRID), plan.vmac(plan.WAN_VRID))


class TwoOwnersError(AssertionError):
    """Both nodes answered for an address: what the pair promises never, however slow a machine."""

    counts_at_once = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What was seen from outside while a cause had its effect."""

    before_ns: int
    after_ns: int
    record: probe.Record
    recording: capture.Recording

    @property
    def outage(self) -> probe.Outage | None:
        return self.record.outage_around(self.before_ns)

    def outage_ms(self) -> float:
        """How long the client waited; 0 = it noticed nothing."""
        outage = self.outage
        if outage is None:
            return 0.0
        assert outage.duration_ns is not None, "the client was never served again"
        return outage.duration_ns / 1e6

    def overlap(self, old: str, new: str) -> list[capture.Frame]:
        """Frames for a VIP that the old owner let out after the new one's first frame.

        A frame that passed the gate just before it was shut is still on its way for a moment, and
        on a shared machine its processor may be taken away meanwhile; what lies within that moment
        and announces nothing doesn't count.
        """
        assert self.recording.lost == 0, "a capture with gaps proves nothing"
        found = self.recording.overlap(old, new, vips=VIPS, vmacs=VMACS, since_ns=self.before_ns)
        owned = self.recording.by_owner(VIPS, VMACS)
        first = next(
            (frame.at_ns for frame in owned if frame.port == new and frame.at_ns >= self.before_ns),
            0,
        )
        return [
            frame for frame in found if frame.is_announcement() or frame.at_ns > first + FLIGHT_NS
        ]

    def never_both(self, old: str, new: str) -> None:
        """Raise TwoOwnersError if the old owner let out a frame after the new one's first."""
        if frames := self.overlap(old, new):
            raise TwoOwnersError(f"{old} still answered after {new} did: {frames}")

    def owners_since(self, moment_ns: int) -> set[str]:
        """Which nodes put frames for a VIP on the wire after a moment."""
        owned = self.recording.by_owner(VIPS, VMACS)
        return {frame.port for frame in owned if frame.at_ns > moment_ns}


def watch(
    cause: Callable[[], object],
    until: Callable[[], Any],
    what: str,
    *,
    timeout_s: float = 20.0,
    interval_us: int = 200,
) -> Watched:
    """Probe and capture, cause something, wait for its effect and for the client to be served."""
    with capture.Capture() as recorder, probe.Probe(interval_us=interval_us) as running:
        running.wait_served()
        before = agents.boot_ns()
        cause()
        after = agents.boot_ns()
        wait_for(until, what, timeout_s=timeout_s)
        running.wait_served(since_ns=agents.boot_ns(), timeout_s=timeout_s)
        record = running.finish()
    return Watched(before_ns=before, after_ns=after, record=record, recording=recorder.finish())


def serves(node: str) -> bool:
    """Whether the node says that it is primary with an open gate."""
    said = agents.show(node)
    return bool(said and said["node"]["role"] == "primary" and said["gate"]["open"])


def term(node: str) -> int:
    """The term the node serves under, 0 = none."""
    said = agents.show(node)
    assert said is not None, f"the agent of {node} does not answer"
    return int(said["gate"]["term"])


def takeover(node: str, since_ns: int) -> dict[str, Any]:
    """The node's takeover since a moment; its timeline is checked to be in order."""
    transition = timeline.takeover(node, since_ns)
    assert transition["sentence"], "no transition without a sentence"
    stamps = transition["timeline"]
    order = ["suspect_ns", "verdict_ns", "claim_ns", "gate_ns", "announced_ns"]
    known = [stamps[key] for key in order if stamps.get(key) is not None]
    assert known == sorted(known), stamps
    assert stamps["gate_ns"] is not None
    return transition


def story(since_ns: int) -> str:
    """What both nodes say happened since a moment: to go with a failed assertion."""
    lines = []
    for node in plan.NODES:
        for said in agents.history(node):
            if said["at_ns"] >= since_ns:
                at_ms = (said["at_ns"] - since_ns) / 1e6
                change = f"{said['from_role']} → {said['to_role']}, term {said['term']}"
                lines.append((at_ms, f"{at_ms:10.3f} ms  {node}: {change}: {said['sentence']}"))
    return "\n".join(["", *(line for _, line in sorted(lines))])


TRIES = 3


def unnoticed(
    cause: Callable[[], object],
    until: Callable[[], Any],
    what: str,
    *,
    owner: str,
    interval_us: int = 200,
    timeout_s: float = 60.0,
) -> Watched:
    """Watch something that no client may notice; the one in which it noticed nothing.

    A shared machine takes the processor of the client or of its server away now and then, and that
    looks the same from outside. So the client may be disturbed in fewer than TRIES times; the pair
    never: each time the owner's reign goes on, nobody takes over, and nobody else speaks.
    """
    reign = term(owner)
    for left in reversed(range(TRIES)):
        seen = watch(cause, until, what, timeout_s=timeout_s, interval_us=interval_us)
        told = f"{seen.outage}{story(seen.before_ns)}"
        assert serves(owner), told
        assert term(owner) == reign, told
        assert seen.owners_since(seen.before_ns) == {owner}, told
        if seen.outage is None:
            return seen
        assert left, f"the client was disturbed {TRIES} times: {told}"
        print(f"disturbed, once more: {told}")
    raise AssertionError("unreachable")


@dataclass(slots=True)
class Reign:
    """Who is primary, and how often the role was moved on purpose so far."""

    primary: str
    began: int
    """The highest term that was known at the beginning."""
    moves: int = 0

    def die(self) -> str:
        """Who serves dies silently; returns the survivor, once it serves."""
        self.moves += 1
        survivor = plan.peer(self.primary)
        lab.cut(self.primary, silent=True)
        wait_for(lambda: serves(survivor), f"{survivor} serves", timeout_s=20)
        self.primary = survivor
        return survivor

    def hand_over(self) -> str:
        """Who serves is told to let the other one do so; returns that one, once it serves."""
        self.moves += 1
        heir = plan.peer(self.primary)
        done = agents.cli(self.primary, "force", "failover", "--yes", "--reason", "a test")
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        wait_for(lambda: serves(heir), f"{heir} serves", timeout_s=20)
        self.primary = heir
        return heir

    def is_disturbed(self) -> bool:
        """Whether a term began that nobody here asked for, or does so in a moment."""
        try:
            wait_for(lambda: highest() > self.began + self.moves, "a term", timeout_s=5)
        except LabError:
            return False
        return True


def highest() -> int:
    """The highest term that either node knows."""
    with agents.patient(10.0):
        said = [agents.show(node) for node in plan.NODES]
    return max(one["node"]["term_highest"] for one in said if one is not None)


def steadily(what: Callable[[Reign], None]) -> None:
    """Do something with a pair whose role moves as it says, and not by itself.

    A machine that stalls for seconds is as good as dead to the other node, and is taken over from.
    What was tried meanwhile says nothing, and is tried again, TRIES times at most.
    """
    for left in reversed(range(TRIES)):
        reign = Reign(agents.wait_fit(), highest())
        try:
            what(reign)
        except Exception as error:
            if not (left and reign.is_disturbed()):
                raise
            print(f"the role moved by itself, once more after: {error}")
        else:
            return
        for node in plan.NODES:
            lab.heal(node)
            agents.start_worker(node)


def ordered(*words: str) -> None:
    """Have the pair told something by whoever is primary then, and again where that has moved.

    What is said here has to be the same when it was done already.
    """

    def is_done() -> bool:
        node = agents.wait_fit()
        done = agents.cli(node, *words)
        told = f"{' '.join(words)} at {node}: {done.stdout}{done.stderr}"
        assert done.returncode == 0 or "(not_primary)" in told, told
        return done.returncode == 0

    # Just after the role has moved, the node that has it now may not know of that everywhere yet.
    wait_for(is_done, f"{' '.join(words)} by a node that stays primary", timeout_s=20)


def transitions(node: str) -> int:
    """How many transitions the node has recorded."""
    return len(agents.history(node))


def reasons(node: str) -> dict[str, int]:
    """The node's kernel counters by reason."""
    said = agents.counters(node)
    assert said is not None, f"the agent of {node} does not answer"
    return dict(said["reasons"])


def received(node: str, link: str) -> int:
    """How many heartbeats came in on one of the node's links."""
    said = agents.counters(node)
    assert said is not None, f"the agent of {node} does not answer"
    return int(next(each["received"] for each in said["links"] if each["name"] == link))
