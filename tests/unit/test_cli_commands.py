# SPDX-License-Identifier: Apache-2.0
"""The command line against a real server on a Unix socket: what it prints and how it ends."""

import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from msgspec.structs import replace

from twinbeat.api import schema
from twinbeat.cli.check import PATIENCE_S
from twinbeat.cli.main import COMMANDS, run
from twinbeat.config import document
from twinbeat.core.reasons import Code
from unit.clocks import clients_clock
from unit.memory_agent import (
    Served,
    connections,
    counters,
    failing_files,
    fence,
    fencing,
    gate_of,
    isolation,
    link,
    node,
    peer,
    refusing_records,
    status,
    syncing,
    transition,
    watchdog,
    witness,
)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        yield running


class Shell:
    """Runs `twinbeat` in this process; nobody is at its standard input."""

    def __init__(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._path = path
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, line: str, *more: str) -> int:
        code = run([*line.split(), *more, "--socket", self._path])
        self.out, self.err = self._capsys.readouterr()
        assert "Traceback" not in self.err
        return code

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def twinbeat(served: Served, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(served.path, capsys)


# --------------------------------------------------------------------------------- reading -------


def test_the_first_line_of_show_is_the_state_in_a_sentence(served: Served, twinbeat: Shell) -> None:
    now_s = 12 * 86400
    last = transition(at_ns=served.agent.state.now_ns - now_s * 1_000_000_000)
    served.agent.state = replace(served.agent.state, last_failover=last)
    assert twinbeat("show") == 0
    assert twinbeat.out.splitlines()[0] == (
        "PRIMARY since 12d 3h, peer SECONDARY healthy, 2/2 links, last failover 12d ago: peer_dead"
    )
    assert twinbeat.err == ""


@pytest.mark.parametrize("stepped_s", [3600, -3600])
def test_a_clock_that_is_set_makes_nothing_older(
    served: Served, twinbeat: Shell, stepped_s: int
) -> None:
    state = served.agent.state
    last = transition(at_ns=state.now_ns - 5_000_000_000)
    offset_ns = last.realtime_offset_ns + stepped_s * 1_000_000_000
    served.agent.state = replace(
        state, boot=last.boot, realtime_offset_ns=offset_ns, last_failover=last
    )
    assert twinbeat("show") == 0
    assert "last failover 5s ago" in twinbeat.out


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (status(), "config as /etc/twinbeat/twinbeat.toml says\n"),
        (
            status(
                configuration=schema.Configuration(
                    path="f", loaded="now", generation=7, document=True, mismatch=True
                ),
                sync=schema.Sync(state="unreachable", sentence="the peer can't be reached"),
            ),
            "config shared, generation 7, not in step (unreachable), differs from the peer's\n",
        ),
        (
            status(sync=syncing(failing_files())),
            "files  certs: partly, 2 items can't be kept alike (`twinbeat show files`)\n",
        ),
        (status(sync=syncing(failing_files())), "! files certs: /etc/certs/a: the disk is full.\n"),
        (
            status(sync=replace(syncing(), weblog=refusing_records())),
            "! no log records are taken: No space left on device\n"
            "  ! log source web: Permission denied.\n",
        ),
        (status(gate=gate_of(open=False, contested=True)), "gate shut, contested"),
        (status(gate=gate_of(open=False, contested=True)), "another open gate was heard"),
        (status(gate=gate_of(attached=False, open=False)), "gate MISSING"),
        (status(peer=peer(flags=["stranded"])), "without a receipt"),
        (
            status(peer=peer(role=schema.Role.PRIMARY, gate_open=True, term=7)),
            "its gate is open too, under term 7",
        ),
        (status(peer=peer(watch=schema.Watch.UNKNOWN, role=None, age_ns=None)), "never heard"),
        (status(peer=peer(hears_us=False)), "does not hear this node"),
        (status(peer=peer(paused=True)), " paused by b\n"),
        (status(peer=peer(send_key=1, keys=[1, 2])), "keys: sends under 1, accepts 1 and 2"),
        (status(), "keys: sends under 3, accepts 3"),
        (status(links=[link("ha0", 0, up=False, carrier=False)]), "link ha0 has no carrier"),
        (
            status(
                node=node(role=schema.Role.INIT, starting=True),
                waiting=schema.Waiting(
                    code="boot_wait",
                    sentence="b was never heard: claims alone",
                    until_ns=0,
                    left_ns=1_400_000_000,
                ),
            ),
            "waiting (boot_wait): b was never heard: claims alone, 1.4 s left",
        ),
        (
            status(node=node(fit=False, unfit=[schema.Reason(code="no_terms", sentence="disk")])),
            "unfit: disk",
        ),
        (status(), "hello 200 µs, dead 600 µs, verify 400 µs, stall 2 ms, lease 10 ms"),
        (status(), "gate open, term 4, 9 ms of the lease left"),
        (status(), "because b is dead (peer_dead)"),
        (status(), "policy: fail-safe on, stall wait-lease, hold-down 10 s, preferred"),
        (
            status(),
            "better health counts after 2 s, with relapses after 60 s at most; flips aren't",
        ),
        (
            status(
                policy=schema.Policy(
                    fail_safe=True,
                    strict=False,
                    stall="wait-lease",
                    claim_alone=False,
                    preferred=False,
                    preempt_hold_s=10,
                    recovery_hold_ms=2000,
                    recovery_hold_max_s=2,
                    max_flips=3,
                    flip_window_s=600,
                )
            ),
            "better health counts after 2 s; 3 flips within 600 s at most",
        ),
        (status(node=node(flips=1)), "the role moved 1 time for the sake of health"),
        (
            status(
                node=node(
                    flips=2,
                    flips_since_ns=status().now_ns - 250_000_000_000,
                    flips_window_left_ns=350_000_000_000,
                    flips_reset=schema.FlipsReset.RECOVERY,
                )
            ),
            "the role moved 2 times for the sake of health, first 4m 10s ago\n"
            "         the first counts for another 5m 50s; a new count begins with the first "
            "failure after all of both nodes held",
        ),
        (
            status(
                node=node(flips=3, sticky=True, flips_reset=schema.FlipsReset.NEXT_FAILURE),
            ),
            "(sticky)\n         the next failure begins a new count\n",
        ),
        (status(routes=schema.Routes(settled_in_ns=1)), "routes none configured"),
        (
            status(routes=schema.Routes(settled_in_ns=1), node=node(role=schema.Role.SECONDARY)),
            "routes none wanted while this node isn't primary",
        ),
        (
            status(
                links=[
                    link("ha0", 0),
                    link(
                        "lan0",
                        1,
                        up=False,
                        age_ns=4_180_000_000,
                        quality=schema.LinkQuality(alarm=True, silent_ns=2_590_000_000),
                    ),
                ]
            ),
            "link lan0 carries no heartbeats, silent for 4.18 s",
        ),
        (status(watchdog=watchdog()), "watchdog /dev/watchdog (required): armed, iTCO_wdt, 10 s"),
        (status(watchdog=watchdog(armed=False)), "(required): NOT ARMED"),
        (
            status(fence=fence()),
            "fencing by /usr/sbin/fence_ipmilan, off after the takeover: ready",
        ),
        (status(fence=fence(running="off", attempts=2)), "off under way, attempt 2"),
        (status(fence=fence(fenced=True, last=fencing())), "b is fenced"),
        (status(fence=fence(last=fencing())), "action off on b: succeeded after 2.5 s"),
        (status(witness=witness()), "witness etcd (stay): answers, keeps term 4, confirmed 63 ms"),
        (
            status(witness=witness(up=False, sentence="no answer within 125 ms")),
            "SILENT, keeps term 4, confirmed 63 ms ago, no answer within 125 ms",
        ),
        (status(witness=witness(absent=True)), "the witness is silent, and by policy"),
        (status(witness=witness(keeps_peer=True)), "says that b serves"),
        (status(witness=witness(opens_in_ns=400_000_000)), "older words run out in 400 ms"),
        (status(isolation=isolation()), "references 192.0.2.1, 192.0.2.2: 192.0.2.1 answers"),
        (status(isolation=isolation(isolated=True)), "none answers: CUT OFF"),
        (status(), "VRID 51 on lan0: serving, 2 addresses, 00:00:5e:00:01:33"),
    ],
)
def test_show_names_what_matters(
    served: Served, twinbeat: Shell, state: schema.Status, shown: str
) -> None:
    served.agent.state = state
    assert twinbeat("show") == 0
    assert shown in twinbeat.out


@pytest.mark.parametrize("what", ["node", "peer", "links", "vips", "witness"])
def test_a_part_is_shown_alone(twinbeat: Shell, what: str) -> None:
    assert twinbeat(f"show {what}") == 0
    assert "since 12d" not in twinbeat.out
    assert twinbeat.out.strip()


def test_the_witness_is_shown_alone(served: Served, twinbeat: Shell) -> None:
    assert twinbeat("show witness") == 0
    assert twinbeat.out == "no witness is configured\n"
    served.agent.state = replace(served.agent.state, witness=witness())
    assert twinbeat("show witness") == 0
    assert twinbeat.out == "witness etcd (stay): answers, keeps term 4, confirmed 63 ms ago\n"


def test_connections_are_shown_in_brief_and_in_full(served: Served, twinbeat: Shell) -> None:
    assert twinbeat("show connections") == 0
    assert "the worker isn't there" in twinbeat.out
    assert twinbeat("show") == 0
    assert "show connections" not in twinbeat.out
    served.agent.state = status(connections=connections())
    assert twinbeat("show") == 0
    assert "flows  synced, 1,200 in the kernel" in twinbeat.out
    assert twinbeat("show connections") == 0
    for words in (
        "SYNCED: both nodes know the connections",
        "1,200 of 262,144 in the kernel, 1,190 told of to the peer",
        "heard 400 ms ago, 90 packets received, 0 sent, 7 messages unconfirmed",
        "31 in this node's kernel, filled in 1.2 s the last time",
        "5; packets of unknown connections are dropped",
        "! 2 times more news of the kernel's than room",
    ):
        assert words in twinbeat.out, words
    served.agent.state = status(
        connections=connections(state="off", sentence="connections aren't kept on both nodes")
    )
    assert twinbeat("show connections") == 0
    assert twinbeat.out == "OFF: connections aren't kept on both nodes\n"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("show", "node"),
        ("show node", "gate"),
        ("show peer", "peer"),
        ("show links", "links"),
        ("show vips", "vrids"),
        ("show witness", "isolation"),
        ("show connections", "connections"),
        ("stat", "reasons"),
        ("history", "transitions"),
    ],
)
def test_every_read_has_json_of_schema_1(twinbeat: Shell, line: str, key: str) -> None:
    assert twinbeat(f"{line} --json") == 0
    assert twinbeat.json["schema"] == 1
    assert key in twinbeat.json
    assert twinbeat.err == ""
    whole = twinbeat.out
    assert run(["--json", *line.split()]) == 3  # the option may stand before, too
    assert whole


def test_history_tells_every_moment_relative_and_absolute(twinbeat: Shell) -> None:
    assert twinbeat("history -n 1") == 0
    assert "#2 2026-11-23T03:12:01.000000Z secondary -> primary: peer_dead" in twinbeat.out
    assert "+1,004,000 ns (+2 µs)" in twinbeat.out
    assert "boot 5000001004000 ns, 2023-11-14T23:36:40.001004Z" in twinbeat.out
    assert "total 1.03 ms" in twinbeat.out
    assert "#1 " not in twinbeat.out


def test_history_json_can_be_aligned_with_a_capture(twinbeat: Shell) -> None:
    assert twinbeat("history --json") == 0
    entry = twinbeat.json["transitions"][-1]
    moments = entry["timeline"]
    assert moments["gate_ns"] == 5_000_001_004_000
    assert moments["receipt_ns"] is None
    assert entry["realtime_ns"]["gate"] == moments["gate_ns"] + entry["realtime_offset_ns"]
    assert "receipt" not in entry["realtime_ns"]
    assert entry["durations_ns"]["total"] == 1_030_000


def test_history_in_brief_is_a_line_each(twinbeat: Shell) -> None:
    assert twinbeat("history --brief") == 0
    assert len(twinbeat.out.splitlines()) == 2


def test_stat_shows_counters_and_rates(twinbeat: Shell) -> None:
    assert twinbeat("stat") == 0
    assert "auth 3" in twinbeat.out
    assert "heartbeats on all links: sent 200, received 199" in twinbeat.out
    assert "99% below 256 µs" in twinbeat.out
    assert "link ha0: sent 100, received 99, auth 2, unsent ENETDOWN 4\n" in twinbeat.out
    assert "announcements not sent: blocked 2, refused 6\n" in twinbeat.out
    assert "control frames: sent 90, failed 8\n" in twinbeat.out
    assert "log lines lost 12, peer busy 11\n" in twinbeat.out
    assert "monitor disk: failed 4 of 9 looks, 1 of these by timeout\n" in twinbeat.out
    assert "monitor lan0" not in twinbeat.out
    assert "frames of rivals: address lan0 3\n" in twinbeat.out
    assert "requests to change the configuration: done 3\n" in twinbeat.out
    assert "connection of the workers: established dialed 1\n" in twinbeat.out
    assert "files kept alike: placed 4, failed_full 2\n" in twinbeat.out
    assert "change of the configuration, all: 50% below " in twinbeat.out
    assert "refused to the worker" not in twinbeat.out
    assert twinbeat("stat -w 0.1 -c 2") == 0
    assert len(twinbeat.out.splitlines()) == 3
    assert "sent/s" in twinbeat.out


def test_stat_of_a_link_leaves_nothing_out(served: Served, twinbeat: Shell) -> None:
    refused = dict.fromkeys(schema.REFUSED, 1)
    counted = schema.LinkCounters(name="ha0", lost=7, alarms=2, reasons=refused)
    served.agent.counted = counters(links=[counted], witness={"granted": 5}, fencings={"failed": 1})
    assert twinbeat("stat") == 0
    (said,) = [line for line in twinbeat.out.splitlines() if line.startswith("link ha0")]
    assert "lost 7, alarms 2" in said
    assert all(f"{reason} 1" in said for reason in schema.REFUSED)
    assert "requests to the witness: granted 5\n" in twinbeat.out
    assert "attempts to fence: failed 1\n" in twinbeat.out


def test_stat_begins_with_state_role_and_last_transition(served: Served, twinbeat: Shell) -> None:
    last = transition(number=17)
    served.agent.state = status(last_transition=last)
    assert twinbeat("stat") == 0
    first, second, *_ = twinbeat.out.splitlines()
    assert first == "a: primary, state UP, enabled, for 12d 3h"
    assert second.startswith(f"last transition #17, {last.time}: secondary -> primary, ")
    assert second.endswith("(peer_dead)")


def test_events_are_lines_of_text_or_json(served: Served, twinbeat: Shell) -> None:
    served.call(lambda: served.agent.happen(1, "suspect"))
    assert twinbeat("events") == 0
    assert twinbeat.out == "2026-11-23T03:12:01Z suspect (x)\n"
    assert twinbeat("events --json") == 0
    assert twinbeat.json["event"] == "suspect"


def test_an_event_without_a_sentence_shows_its_figures(served: Served, twinbeat: Shell) -> None:
    late = schema.Event(number=1, time="T", at_ns=1, event="late", fields={"a": 620000, "b": 0})
    served.call(lambda: served.agent.events.publish(late))
    assert twinbeat("events") == 0
    assert twinbeat.out == "T late: a=620000\n"


def test_moments_are_told_in_the_order_of_time(served: Served, twinbeat: Shell) -> None:
    odd = schema.Timeline(gate_ns=2_000, announced_ns=1_000)
    served.agent.past = [transition(timeline=odd)]
    assert twinbeat("history") == 0
    lines = twinbeat.out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["announced", "gate"]
    assert "(+1 µs)" in lines[3]


def test_following_ends_when_the_agent_does(served: Served, twinbeat: Shell) -> None:
    served.call(lambda: served.agent.happen(1))
    codes: list[int] = []
    reader = threading.Thread(target=lambda: codes.append(twinbeat("events --follow --json")))
    reader.start()
    served.run(until(lambda: len(served.agent.events._readers) == 1))
    served.call(lambda: served.agent.happen(2))
    served.call(served.agent.events.close)
    reader.join(timeout=60)
    assert codes == [3]
    assert [json.loads(line)["number"] for line in twinbeat.out.splitlines()] == [1, 2]
    assert "ended the stream" in twinbeat.err


async def until(condition: Any) -> None:
    import asyncio

    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


@pytest.mark.parametrize(
    ("state", "primary", "healthy"),
    [
        (status(), 0, 0),
        (status(gate=gate_of(open=False)), 1, 0),
        (status(node=node(role=schema.Role.SECONDARY)), 1, 0),
        (status(node=node(fit=False)), 0, 1),
    ],
)
def test_two_questions_are_answered_by_the_exit_code_alone(
    served: Served, twinbeat: Shell, state: schema.Status, primary: int, healthy: int
) -> None:
    served.agent.state = state
    assert (twinbeat("is-primary"), twinbeat.out, twinbeat.err) == (primary, "", "")
    assert (twinbeat("is-healthy"), twinbeat.out, twinbeat.err) == (healthy, "", "")
    assert twinbeat("is-primary --json") == primary
    assert twinbeat.json == {"schema": 1, "primary": not primary}
    assert twinbeat("is-healthy --json") == healthy
    assert twinbeat.json == {"schema": 1, "health": not healthy}


def test_a_link_that_is_switched_off_is_none_of_those_that_could_be_up(
    served: Served, twinbeat: Shell
) -> None:
    off = link("mgmt", 2, up=False, heartbeat=False)
    served.agent.state = status(links=[link("ha0", 0), link("lan0", 1), off])
    assert twinbeat("check") == 0
    assert " links=2;;;0;2 " in twinbeat.out


@pytest.mark.parametrize(
    ("state", "code", "word"),
    [
        (status(), 0, "OK"),
        (status(links=[link("ha0", 0), link("lan0", 1, up=False)]), 1, "WARNING"),
        (status(peer=peer(watch=schema.Watch.DEAD)), 2, "CRITICAL"),
        (status(gate=gate_of(open=False, contested=True)), 2, "CRITICAL"),
        (status(vrids=[schema.Vrid(id=9, interface="lan0", vips_total=1)]), 0, "OK"),
        # As check_netscaler rates what the reference product says.
        (status(node=node(admin=schema.Admin.STAY_SECONDARY)), 1, "WARNING"),
        (status(node=node(admin=schema.Admin.DISABLED)), 1, "WARNING"),
        (status(node=node(admin=schema.Admin.STAY_PRIMARY)), 0, "OK"),
        (status(node=node(role=schema.Role.CLAIMING)), 1, "WARNING"),
        (status(node=node(role=schema.Role.INIT)), 1, "WARNING"),
        (status(node=node(state=schema.NodeState.PARTIAL_FAIL)), 2, "CRITICAL"),
        (status(node=node(state=schema.NodeState.COMPLETE_FAIL)), 2, "CRITICAL"),
        (status(node=node(state=schema.NodeState.ROUTE_MONITOR_FAIL)), 2, "CRITICAL"),
    ],
)
def test_check_speaks_as_monitoring_plugins_do(
    served: Served, twinbeat: Shell, state: schema.Status, code: int, word: str
) -> None:
    served.agent.state = state
    assert twinbeat("check") == code
    assert twinbeat.out.startswith(f"TWINBEAT {word} - ")
    assert len(twinbeat.out.splitlines()) == 1
    text, bar, figures = twinbeat.out.partition(" | ")
    assert bar
    assert "|" not in text
    assert {"primary=0", "primary=1"} & set(figures.split())
    assert {"term=4", "sent=200c", "received=199c", "dual_primary=0c"} <= set(figures.split())
    for figure in figures.split():
        assert re.fullmatch(r"[a-z_]+=[0-9.]+[cs]?(;[0-9]*){0,4}", figure)
    assert twinbeat("check --json") == code
    said = twinbeat.json
    assert (said["schema"], said["state"], said["code"]) == (1, word, code)
    assert said["sentence"] == text.removeprefix(f"TWINBEAT {word} - ")
    assert said["figures"].keys() == {figure.partition("=")[0] for figure in figures.split()}


def test_check_without_an_agent_is_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["check", "--socket", str(tmp_path / "none")]) == 3
    assert capsys.readouterr().out.startswith("TWINBEAT UNKNOWN - no agent at")
    assert run(["check", "--json", "--socket", str(tmp_path / "none")]) == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["code"], said["figures"]) == ("UNKNOWN", 3, {})


# -------------------------------------------------------------------------------- commands -------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("force failover --yes --reason drill", schema.Failover(request_id="", reason="drill")),
        (
            "force failover -y --even-if-unfit",
            schema.Failover(request_id="", even_if_unfit=True),
        ),
        ("force yield --yes", schema.Yield(request_id="")),
        (
            "stay primary",
            schema.SetAdmin(request_id="", admin=schema.Admin.STAY_PRIMARY),
        ),
        (
            "stay secondary --even-if-unfit",
            schema.SetAdmin(request_id="", admin=schema.Admin.STAY_SECONDARY, even_if_unfit=True),
        ),
        ("stay off", schema.SetAdmin(request_id="", admin=schema.Admin.ENABLED)),
        ("enable", schema.SetAdmin(request_id="", admin=schema.Admin.ENABLED)),
        ("disable --yes", schema.SetAdmin(request_id="", admin=schema.Admin.DISABLED)),
        ("pause --reason x", schema.PauseFor(request_id="", reason="x")),
        ("pause --for 30m --reason x", schema.PauseFor(request_id="", reason="x", for_s=1800)),
        ("pause --for 7d --reason x", schema.PauseFor(request_id="", reason="x", for_s=604800)),
        ("resume", schema.Resume(request_id="")),
    ],
)
def test_each_command_says_what_it_means(
    served: Served, twinbeat: Shell, line: str, expected: schema.Command
) -> None:
    assert twinbeat(line) == 0
    assert twinbeat.out == "done\n"
    ((command, _),) = served.agent.commands
    assert replace(command, request_id="") == expected
    assert len(command.request_id) >= 8


REFUSALS = [
    code
    for code in Code
    if code.value
    in {
        "peer_unknown", "peer_unfit", "peer_never_claims", "peer_stays_primary", "peer_starting",
        "claim_under_way", "digest_differs", "self_unfit", "stay_primary", "stay_secondary",
        "not_primary", "already_primary", "both_stay_primary", "busy", "not_paused",
        "disk_refuses", "paused", "peer_paused", "starting", "unhealthy", "not_permitted",
        "host_late", "peer_late", "peer_contradicts", "timers_contradict",
    }
]  # fmt: skip


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_ends_with_its_code_and_sentence(
    served: Served, twinbeat: Shell, code: Code
) -> None:
    served.agent.answer = schema.Refusal(
        code=code.value, sentence="because", override="--even-if-unfit"
    )
    expected = 4 if code.value in schema.POLICY_REFUSALS else 1
    assert twinbeat("force failover --yes") == expected
    assert twinbeat.out == ""
    assert twinbeat.err == (
        f"twinbeat: refused ({code.value}): because (--even-if-unfit does it all the same)\n"
    )


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        ("set timers hello_us=500 dead=1500us", {"hello_us": 500, "dead_us": 1_500}),
        ("set timers lease=2s stall=20ms", {"lease_us": 2_000_000, "stall_us": 20_000}),
        ("set timers verify=1ms --even-so", {"verify_us": 1_000, "even_so": True}),
        ("unset timers --reason over", {"unset": True, "reason": "over"}),
    ],
)
def test_timers_in_any_unit(
    served: Served, twinbeat: Shell, line: str, sent: dict[str, object]
) -> None:
    assert twinbeat(line) == 0
    command, _ = served.agent.commands[-1]
    assert isinstance(command, schema.SetTimers)
    for name in schema.SetTimers.__struct_fields__:
        if name != "request_id":
            default = False if name in {"unset", "even_so"} else "" if name == "reason" else None
            assert getattr(command, name) == sent.get(name, default), name


@pytest.mark.parametrize(
    "line",
    [
        "set timers",
        "set timers hello",
        "set timers hello=500",
        "set timers hello_us=500us",
        "set timers attest_ms=500",
        "set timers hello=5.5ms",
        "set timers hello=1ms hello=2ms",
    ],
)
def test_what_is_no_timer_is_a_matter_of_usage(served: Served, twinbeat: Shell, line: str) -> None:
    assert twinbeat(line) == 2
    assert not served.agent.commands


def test_keys_that_would_be_refused_are_not_offered(served: Served, twinbeat: Shell) -> None:
    assert twinbeat("set timers") == 2
    assert "hello_us, dead_us, verify_us, stall_us, lease_us" in twinbeat.err
    assert "attest_ms" not in twinbeat.err


def test_config_show_names_what_was_set_over_the_file(
    served: Served, twinbeat: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "twinbeat.toml"
    file.write_text(document.toml())
    state = served.agent.state
    served.agent.state = replace(
        state,
        timers=replace(state.timers, override=3),
        configuration=replace(state.configuration, path=str(file)),
    )
    assert twinbeat(f"config show {file}") == 0
    assert "until `twinbeat unset timers`: hello_us = 200, dead_us = 600" in twinbeat.out
    served.agent.state = state
    assert twinbeat(f"config show {file}") == 0
    assert "unset timers" not in twinbeat.out


def test_refusals_by_rule_are_codes_of_the_core() -> None:
    assert {Code(name) for name in schema.POLICY_REFUSALS} <= set(REFUSALS)


def test_what_goes_on_and_what_failed(served: Served, twinbeat: Shell) -> None:
    def answer(state: schema.OutcomeState) -> None:
        served.agent.answer = schema.Outcome(
            operation="x", state=state, code="peer_did_not_claim", sentence="b did not take over"
        )

    answer(schema.OutcomeState.ACCEPTED)
    assert twinbeat("force failover --yes") == 0
    assert twinbeat.out == "under way: b did not take over\n"
    answer(schema.OutcomeState.FAILED)
    assert twinbeat("force failover --yes") == 1
    assert "failed (peer_did_not_claim)" in twinbeat.err


def test_an_answer_as_json(served: Served, twinbeat: Shell) -> None:
    assert twinbeat("resume --json") == 0
    assert msgspec.json.decode(twinbeat.out, type=schema.Answer)
    served.agent.answer = schema.Refusal(code="not_paused", sentence="a isn't paused")
    assert twinbeat("resume --json") == 1
    assert twinbeat.json["result"]["code"] == "not_paused"


@pytest.mark.parametrize("line", ["force failover", "force yield", "disable"])
def test_without_a_terminal_nobody_is_asked(served: Served, twinbeat: Shell, line: str) -> None:
    assert twinbeat(line) == 2
    assert "add --yes" in twinbeat.err
    assert served.agent.commands == []


@pytest.mark.parametrize(("answer", "code", "commands"), [("y", 0, 1), ("n", 1, 0), ("", 1, 0)])
def test_at_a_terminal_somebody_is_asked(
    served: Served, answer: str, code: int, commands: int
) -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "twinbeat.cli.main", "force", "yield", "--socket", served.path],
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.write(leader, f"{answer}\n".encode())
        out, err = process.communicate(timeout=60)
    os.close(leader)
    os.close(follower)
    assert process.returncode == code, err
    assert len(served.agent.commands) == commands
    assert "[y/N]" in err
    assert "[y/N]" not in out


@pytest.mark.parametrize("length", ["30", "0s", "8d", "x", "1w", "1.5h", "-1m", "١m"])
def test_a_length_has_a_number_and_a_unit(twinbeat: Shell, length: str) -> None:
    assert twinbeat("pause --reason x", "--for", length) == 2
    assert length in twinbeat.err


@pytest.mark.parametrize("line", ["pause", "pause --reason", "stay", "stay put", "force", "frce"])
def test_wrong_usage_ends_with_two(twinbeat: Shell, line: str) -> None:
    assert twinbeat(line) == 2


def test_a_reason_may_not_be_empty(served: Served, twinbeat: Shell) -> None:
    assert twinbeat("pause --reason", " ") == 2
    assert served.agent.commands == []


# ------------------------------------------------------------------------------ exit codes -------


@pytest.mark.parametrize(
    "line", ["show", "stat", "history", "events", "events -f", "is-primary", "resume"]
)
def test_without_an_agent_it_is_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    assert run([*line.split(), "--socket", str(tmp_path / "none")]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "Is twinbeatd running?" in err


def test_an_answer_that_never_comes_is_five(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clients_clock(monkeypatch)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        line = ["force", "yield", "--yes", "--socket", str(tmp_path / "s"), "--timeout", "0.05"]
        assert run(line) == 5
    assert "the outcome is not known" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["is-primary", "is-healthy", "show", "check", "events -f"])
def test_a_question_that_is_never_answered_is_three(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
) -> None:
    """An agent that hangs is none that a script could go by."""
    clients_clock(monkeypatch)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        assert run([*line.split(), "--socket", str(tmp_path / "s"), "--timeout", "0.05"]) == 3
    out, err = capsys.readouterr()
    assert "no answer within 0.05 s" in out + err


def test_a_plugin_tells_of_a_hung_agent_before_it_is_killed_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 2 * PATIENCE_S < 10, "the patience of NRPE"
    monkeypatch.setattr("twinbeat.cli.check.PATIENCE_S", 0.05)
    clients_clock(monkeypatch)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        assert run(["check", "--socket", str(tmp_path / "s")]) == 3
        assert run(["check", "--socket", str(tmp_path / "s"), "--timeout", "0.07"]) == 3
    out = capsys.readouterr().out
    assert "no answer within 0.05 s" in out
    assert "no answer within 0.07 s" in out


@pytest.mark.parametrize("line", ["show", "events --follow"])
def test_a_denied_socket_is_six(
    served: Served, twinbeat: Shell, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", denied)
    assert twinbeat(line) == 6
    assert "group twinbeat" in twinbeat.err


def test_a_defect_is_told_without_a_traceback(
    twinbeat: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("twinbeat.cli.show.overview", broken)
    assert twinbeat("show") == 70
    assert "defect of twinbeat itself: RuntimeError: a bug" in twinbeat.err


@pytest.mark.parametrize(
    "line",
    ["pause --reason \udcff", "stay primary --reason \udce4", "stat --watch nan", "top -i nan"],
)
def test_what_no_message_can_hold_is_wrong_usage(twinbeat: Shell, line: str) -> None:
    assert twinbeat(line) == 2
    assert "is not UTF-8" in twinbeat.err or "'nan' is not a number" in twinbeat.err
    assert twinbeat("is-primary --timeout nan") == 2


def test_a_reader_that_has_enough_is_no_failure(served: Served) -> None:
    command = f"{sys.executable} -m twinbeat.cli.main history --socket {served.path}"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_package_runs_as_the_command(served: Served) -> None:
    command = [sys.executable, "-m", "twinbeat", "is-primary", "--socket", served.path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*command, "--nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Usage: twinbeat is-primary" in done.stderr


def _at_a_terminal(
    *words: str, told_on: Literal["stdout", "stderr"] = "stdout", **environment: str
) -> str:
    """What the command says there, where that is a terminal."""
    leader, follower = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "twinbeat.cli.main", *words],
        stdout=follower if told_on == "stdout" else subprocess.DEVNULL,
        stderr=follower if told_on == "stderr" else None,
        env=os.environ | {"TERM": "xterm"} | environment,
        check=False,
    )
    os.close(follower)
    shown = os.read(leader, 65536).decode()
    os.close(leader)
    return shown


def test_no_colours_without_a_terminal_or_with_no_color(served: Served) -> None:
    show = ("show", "--socket", served.path)
    assert "\x1b[" in _at_a_terminal(*show)
    for plain in (
        _at_a_terminal(*show, NO_COLOR="1"),
        _at_a_terminal(*show, "--no-color"),
    ):
        assert "PRIMARY" in plain
        assert "\x1b[" not in plain


def test_talk_is_coloured_no_more_than_data(tmp_path: Path) -> None:
    file = tmp_path / "keepalived.conf"
    file.write_text(
        "vrrp_instance V {\n interface eth0\n virtual_router_id 7\n"
        " virtual_ipaddress { 10.0.0.9 }\n}\n"
    )
    told = ("import", str(file), "--link=eth0,10.0.0.1,10.0.0.2")
    coloured = _at_a_terminal(*told, told_on="stderr")
    assert "\x1b[" in coloured
    for plain in (
        _at_a_terminal(*told, told_on="stderr", NO_COLOR="1"),
        _at_a_terminal(*told, "--no-color", told_on="stderr"),
    ):
        assert plain
        assert "\x1b[" not in plain


# ------------------------------------------------------------------------------- the tree --------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([name, "--help"]) == 0
    assert "Usage: twinbeat" in capsys.readouterr().out


def test_an_unknown_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["shwo"]) == 2
    assert "Did you mean 'show'?" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_TWINBEAT_COMPLETE" in capsys.readouterr().out


def test_completion_completes() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "from twinbeat.cli.main import main; main()"],
        env=os.environ
        | {
            "_TWINBEAT_COMPLETE": "bash_complete",
            "TWINBEAT_LINE": "twinbeat hist",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "plain,history" in result.stdout


def test_help_loads_neither_loop_nor_agent() -> None:
    program = (
        "import sys; from twinbeat.cli.main import run; run(['show', '--socket', '/none'])\n"
        "heavy = {'asyncio', 'prometheus_client', 'twinbeat.config', 'ssl', 'email'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
