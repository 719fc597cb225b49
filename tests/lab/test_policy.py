# SPDX-License-Identifier: Apache-2.0
"""What an operator changes on a living pair: its intervals, and who is to be preferred."""

from __future__ import annotations

import contextlib
import os
import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twinlab import agents, lab, plan, probe, processes, services
from twinlab.shell import wait_for

from lab import watching

HOLD_S = 3
LAB_OPTIONS = plan.Options(
    profile="balanced", settings=(*watching.CALM, f"policy.preempt_hold_s={HOLD_S}")
)

CHANGES = 20
SLOW_HELLO_US = (60_000, 80_000)
FAST_HELLO_US = (4_000, 12_000)
FAST_DEAD_US = (45_000, 55_000)
"""Less than a slow heartbeat: a node that slows down before its peer tolerates it is suspected."""
PATIENT = ("verify=1s", "stall=2s", "lease=2500ms")
"""A machine that takes a processor away for a moment causes suspicion, and no verdict."""
BOUND_MS = 200.0
"""What a shared machine may add to the round trip that a change of roles on purpose costs."""
NOISE_S = 2.0
"""For so long it is watched what the machine itself does to the shortest of these intervals."""

TURN_MS = 8
HOGGING = (
    *("--seconds", "60", "--fifo", "98"),
    *("--busy-us", str(1000 * TURN_MS), "--idle-us", "1000", "--cpu"),
)
HOG = "hog"


def tell(node: str, *words: str) -> str:
    """Have the node told something; what it said. Fails if it refused."""
    done = agents.cli(node, *words)
    assert done.returncode == 0, f"{' '.join(words)} at {node}: {done.stdout}{done.stderr}"
    return done.stdout


def said(node: str) -> dict[str, Any]:
    status = agents.show(node)
    assert status is not None, f"the agent of {node} does not answer"
    return status


def suspicions() -> int:
    total = 0
    for node in plan.NODES:
        counted = agents.counters(node)
        assert counted is not None
        total += sum(counted["suspicions"].values())
    return total


def transitions() -> list[int]:
    return [watching.transitions(node) for node in plan.NODES]


def configured(node: str) -> bool:
    """Whether the node keeps the intervals of its file."""
    return said(node)["timers"]["override"] is None


def test_what_was_set_is_kept_by_both_and_outlives_an_agent(primary: str) -> None:
    secondary = plan.peer(primary)
    tell(secondary, "set", "timers", "hello=4ms", "dead=200ms", "--even-so")
    wait_for(partial(both_keep, 4_000, 200_000), "both nodes keep them", timeout_s=20)
    for node in plan.NODES:
        timers = said(node)["timers"]
        assert (timers["hello_us"], timers["dead_us"]) == (4_000, 200_000)
        assert timers["override"] is not None
        assert 'twinbeat_timers_override{pair="1"} 1.0' in agents.metrics(node)
        log = processes.log_tail(agents.process_name(node), 20)
        assert f"{node} keeps hello 4000 µs, dead 200000 µs" in log
    assert "set by an operator over the configuration" in agents.cli(primary, "show").stdout
    agents.kill(secondary)
    agents.start(secondary)
    agents.wait_fit()
    assert said(secondary)["timers"]["hello_us"] == 4_000
    tell(primary, "unset", "timers")
    for node in plan.NODES:
        wait_for(partial(configured, node), f"{node} goes back to its file", timeout_s=20)
        assert said(node)["timers"]["hello_us"] == 10_000


@pytest.fixture
def late(primary: str) -> Iterator[str]:
    """A secondary confined to one processor, on which something real-time runs most of the time.

    In turns, so that whoever waits for that processor is late by a turn and gets it all the same.
    """
    node = plan.peer(primary)
    processor = max(os.sched_getaffinity(0))
    with _confined(agents.pid(node), processor):
        processes.spawn(HOG, plan.CLIENT_NS, [services.tool("tb-hog"), *HOGGING, str(processor)])
        try:
            yield node
        finally:
            processes.end(HOG)
    tell(node, "unset", "timers")
    for each in plan.NODES:
        wait_for(partial(configured, each), f"{each} goes back to its file", timeout_s=20)


@contextlib.contextmanager
def _confined(pid: int, processor: int) -> Iterator[None]:
    """Keep a process on one processor, whatever threads it begins meanwhile."""
    threads = Path(f"/proc/{pid}/task")
    before = {int(one.name): os.sched_getaffinity(int(one.name)) for one in threads.iterdir()}
    for thread in before:
        os.sched_setaffinity(thread, {processor})
    yield
    for thread, allowed in before.items():
        os.sched_setaffinity(thread, allowed)


def test_intervals_that_a_late_host_can_t_hold_are_refused_on_both_nodes(late: str) -> None:
    other = plan.peer(late)
    reign, before = watching.term(other), transitions()
    wanted = ("set", "timers", f"hello={TURN_MS // 4}ms", "dead=200ms")
    told = agents.cli(late, *wanted)
    assert (told.returncode, told.stdout) == (4, "")
    assert_refused(told.stderr, "host_late", f"{late} can't hold a heartbeat every")
    assert "(--even-so does it all the same)" in told.stderr
    assert all(configured(node) for node in plan.NODES)
    log = processes.log_tail(agents.process_name(late), 20)
    assert f"{late} can't hold a heartbeat every" in log
    # Its peer could, and asks it.
    told = agents.cli(other, *wanted)
    assert told.returncode == 4
    assert_refused(told.stderr, "peer_late", f"{late} can't hold these intervals")
    assert all(configured(node) for node in plan.NODES)
    log = processes.log_tail(agents.process_name(late), 20)
    assert f"{late} doesn't keep what the operator of {other} wants" in log
    # Slower ones than the host is late it can hold, even now.
    tell(late, "set", "timers", f"hello={8 * TURN_MS}ms", "dead=300ms")
    wait_for(partial(both_keep, 8000 * TURN_MS, 300_000), "both keep them", timeout_s=30)
    assert (watching.term(other), transitions()) == (reign, before), "nobody noticed"


def test_even_so_overrides_what_was_measured_on_both_nodes(late: str) -> None:
    other = plan.peer(late)
    reign, before = watching.term(other), transitions()
    hello_us = 1000 * TURN_MS // 4
    wanted = ("set", "timers", f"hello_us={hello_us}", "dead=200ms")
    assert agents.cli(late, *wanted).returncode == 4
    tell(late, *wanted, "--even-so", "--reason", "the other one is busy")
    wait_for(partial(both_keep, hello_us, 200_000), "both nodes keep them", timeout_s=30)
    for node in plan.NODES:
        assert said(node)["timers"]["even_so"], "it went with the wish"
        assert "though a host can't hold them" in agents.cli(node, "show", "node").stdout
    assert (watching.term(other), transitions()) == (reign, before), "nobody noticed"


def test_what_a_host_can_hold_is_measured_anew_for_each_command(late: str) -> None:
    wanted = ("set", "timers", f"hello={TURN_MS // 4}ms", "dead=200ms")
    assert agents.cli(late, *wanted).returncode == 4
    processes.end(HOG)
    tell(late, *wanted)
    wait_for(partial(both_keep, 250 * TURN_MS, 200_000), "both nodes keep them", timeout_s=30)
    assert not any(said(node)["timers"]["even_so"] for node in plan.NODES)


def test_a_file_with_intervals_far_below_its_lateness_is_refused(late: str) -> None:
    """By a reload, which then changes nothing."""
    before = agents.file_of(late).read_text()
    hello = "hello_us = "
    assert hello in before
    try:
        told = agents.reconfigure(late, re.sub(f"{hello}[0-9]+", f"{hello}100", before))
    finally:
        agents.file_of(late).write_text(before)
    assert "on this host, and heartbeats are due every 100 µs" in told
    assert "timers.accept_host = true to run all the same" in told
    assert configured(late)
    assert said(late)["timers"]["hello_us"] == 10_000


def assert_refused(told: str, code: str, sentence: str) -> None:
    """With how late the host is: a turn of what holds it up, or a good part of it."""
    assert code in told, told
    assert sentence in told, told
    found = re.search(r"one wake-up in ten comes ([0-9.]+) ms late or later on its host", told)
    assert found is not None, told
    assert TURN_MS / 2 < float(found[1]) < 4 * TURN_MS, told


def test_what_contradicts_itself_is_refused_with_its_reason(primary: str) -> None:
    told = agents.cli(primary, "set", "timers", "hello=5ms", "dead=5ms")
    assert told.returncode == 4
    assert "timers_contradict" in told.stderr
    assert "dead_us = 5000 is less than three times hello_us = 5000" in told.stderr
    assert all(configured(node) for node in plan.NODES)


def test_the_second_that_is_told_to_stay_primary_is_refused(primary: str) -> None:
    secondary = plan.peer(primary)
    tell(primary, "stay", "primary")
    wait_for(
        lambda: said(secondary)["peer"]["admin"] == "stay-primary",
        "the peer hears of it",
        timeout_s=20,
    )
    told = agents.cli(secondary, "stay", "primary")
    assert (told.returncode, "both_stay_primary" in told.stderr) == (4, True)
    told = agents.cli(secondary, "force", "failover", "--yes")
    assert (told.returncode, "peer_stays_primary" in told.stderr) == (4, True)
    tell(primary, "stay", "off")


def test_who_is_to_stay_primary_takes_the_role_back_once_it_was_fit_for_a_while(
    primary: str,
) -> None:
    other = plan.peer(primary)
    tell(primary, "stay", "primary")
    lab.cut(primary, silent=True)
    wait_for(partial(watching.serves, other), f"{other} takes over", timeout_s=30)
    seen = watching.watch(
        lambda: lab.heal(primary),
        partial(watching.serves, primary),
        f"{primary} takes the role back",
    )
    took = watching.takeover(primary, seen.before_ns)
    assert took["at_ns"] >= seen.before_ns + HOLD_S * 1e9, watching.story(seen.before_ns)
    log = processes.log_tail(agents.process_name(primary), 20)
    assert f"{primary} was told to stay primary and is fit again" in log
    assert seen.outage_ms() < BOUND_MS
    seen.never_both(other, primary)
    tell(primary, "stay", "off")


def test_a_pause_says_what_a_death_would_mean_and_ends_by_itself(primary: str) -> None:
    spoken = tell(primary, "pause", "--for", "1s", "--reason", "new cable")
    assert "its gate would shut within 1.2 s" in spoken
    told = agents.cli(plan.peer(primary), "force", "failover", "--yes")
    assert (told.returncode, "paused" in told.stderr) == (4, True)
    assert f"PAUSED by {primary}" in said(plan.peer(primary))["sentence"]
    wait_for(lambda: said(primary)["pause"] is None, "the pause ends", timeout_s=30)
    wait_for(
        lambda: not said(plan.peer(primary))["peer"]["paused"], "its peer hears that", timeout_s=30
    )
    assert watching.serves(primary)


def stays_paused(node: str) -> None:
    """It sees that nobody serves, and takes nothing over."""
    wait_for(
        lambda: said(node)["peer"]["watch"] in {"stalled", "dead"}, "it is missed", timeout_s=20
    )
    assert not watching.serves(node)


def test_a_pause_told_to_who_watches_ends_by_itself_though_the_other_is_lost(primary: str) -> None:
    other = plan.peer(primary)
    begun = agents.boot_ns()
    spoken = tell(other, "pause", "--for", "4s", "--reason", "new cable")
    assert "nobody would take over until it is back or the pause ends" in spoken
    agents.kill(primary)
    stays_paused(other)
    wait_for(partial(watching.serves, other), "the pause ends", timeout_s=30)
    assert agents.boot_ns() > begun + 4e9


@pytest.mark.parametrize("lose", [agents.kill, partial(lab.cut, silent=True)], ids=["kill", "cut"])
def test_a_pause_told_to_who_serves_ends_though_that_one_is_lost(
    primary: str, lose: Callable[[str], object]
) -> None:
    """Killed, its kernel answers and says for ever what its agent said last of the pause."""
    other = plan.peer(primary)
    begun = agents.boot_ns()
    spoken = tell(primary, "pause", "--for", "5s", "--reason", "new cable")
    assert "nobody would take over until it is back or the pause ends" in spoken
    lose(primary)
    stays_paused(other)
    assert re.search(r"nobody takes over until \S+ at the latest", agents.cli(other, "show").stdout)
    wait_for(partial(watching.serves, other), "the pause ends", timeout_s=30)
    assert agents.boot_ns() > begun + 5e9
    log = processes.log_tail(agents.process_name(other), 40)
    assert f"the pause of {primary}, which isn't heard, ran out" in log


def test_a_pause_without_an_end_outlasts_its_node_until_the_operator_ends_it(primary: str) -> None:
    other = plan.peer(primary)
    spoken = tell(primary, "pause", "--reason", "new cable")
    assert "until it is back or `twinbeat resume` is given to the node that is left" in spoken
    agents.kill(primary)
    stays_paused(other)
    assert "until it is back, or `twinbeat resume`" in agents.cli(other, "show").stdout
    tell(other, "resume")
    wait_for(partial(watching.serves, other), "it takes over", timeout_s=20)


def both_keep(hello_us: int, dead_us: int) -> bool:
    kept = [said(node)["timers"] for node in plan.NODES]
    return all((one["hello_us"], one["dead_us"]) == (hello_us, dead_us) for one in kept)


def change(rng: random.Random, *, slow: bool) -> None:
    """Other heartbeats from now on, by the word of either node."""
    hello_us = rng.randrange(*(SLOW_HELLO_US if slow else FAST_HELLO_US))
    dead_us = 3 * hello_us if slow else rng.randrange(*FAST_DEAD_US)
    values = (f"hello_us={hello_us}", f"dead_us={dead_us}", *PATIENT)
    spoken = tell(rng.choice(plan.NODES), "set", "timers", *values, "--even-so")
    assert f"hello {hello_us} µs, dead {dead_us} µs" in spoken
    # A peer that is suspected at that moment is told when it is heard again.
    wait_for(partial(both_keep, hello_us, dead_us), "both nodes keep them", timeout_s=20)


def suspicions_meanwhile() -> int:
    """How many the machine itself causes for a while."""
    before = suspicions()
    with probe.Probe(interval_us=1000) as running:
        running.wait_for_time(NOISE_S)
    return suspicions() - before


def test_intervals_change_and_nobody_notices(primary: str) -> None:
    """Each of many changes is one in which either node might outrun the other's patience."""
    rng = random.Random(20)
    change(rng, slow=False)
    noise = suspicions_meanwhile()
    recorded, term = transitions(), watching.term(primary)
    before, begun = suspicions(), agents.boot_ns()

    made = 0

    def changes() -> None:
        nonlocal made
        for number in range(CHANGES):
            change(rng, slow=number % 2 == 0)
        made += CHANGES

    watching.unnoticed(changes, lambda: True, "the changes", owner=primary, interval_us=1000)
    took_s = (agents.boot_ns() - begun) / 1e9
    suspected = suspicions() - before
    noise = max(noise, suspicions_meanwhile())
    print(f"{made} changes in {took_s:.1f} s, {suspected} suspicions, noise {noise}")
    assert suspected < made / 2 + 2 * noise * took_s / NOISE_S, "or nearly each makes one"
    assert transitions() == recorded
    assert watching.term(primary) == term, "the reign went on"
