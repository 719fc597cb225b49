# SPDX-License-Identifier: Apache-2.0
"""The agent of a lone primary crashes, its peer off: it has to be back soon."""

from __future__ import annotations

from twinlab import agents, lab, plan, probe
from twinlab.shell import wait_for

from lab import watching

LAB_OPTIONS = plan.Options(
    profile="balanced",
    # Over before a new agent stands: a reign that still runs would be resumed.
    settings=(*watching.STEADY, "timers.lease_us=100000"),
)


def is_alone(node: str) -> bool:
    said = agents.show(node)
    return bool(said and said["peer"]["watch"] == "dead" and said["gate"]["open"])


def test_a_crash_of_a_lone_agent(primary: str) -> None:
    other = plan.peer(primary)
    agents.kill(other)
    lab.cut(other, silent=True)
    wait_for(lambda: is_alone(primary), "it is alone", timeout_s=30)
    before = watching.term(primary)
    with probe.Probe(interval_us=1000) as running:
        running.wait_served(run=100)
        killed = agents.boot_ns()
        agents.kill(primary)
        agents.start(primary)
        # Until its lease is over the old gate serves; what is waited for is the new one.
        wait_for(lambda: watching.serves(primary), "it serves again", timeout_s=30)
        running.wait_served(since_ns=agents.boot_ns(), timeout_s=20)
        record = running.finish()
    outage = record.outage_around(killed)
    assert outage is not None
    assert outage.duration_ns is not None
    said = agents.show(primary)
    assert said is not None
    # It doesn't wait for a peer that boots, as a node that boots does; what R10 asks for it does.
    timers = said["timers"]
    listen_ns = 1000 * (timers["lease_us"] + timers["dead_us"] + timers["verify_us"])
    listened = next(
        one
        for one in agents.history(primary)
        if one["at_ns"] > killed and one["from_role"] == "init"
    )
    begun_ns = said["process"]["started_ns"]
    waited_ns = listened["at_ns"] - begun_ns
    assert listen_ns <= waited_ns < timers["boot_wait_ms"] * 1_000_000
    assert watching.term(primary) > before, "a lapsed reign is over: this is another"
    assert watching.serves(primary)
