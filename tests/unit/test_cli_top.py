# SPDX-License-Identifier: Apache-2.0
"""`twinbeat top` in a real pseudo-terminal, against real servers for both nodes' agents."""

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from twinbeat.api import schema
from twinbeat.api.client import Client, ClientError
from twinbeat.api.figures import grown, percentile
from twinbeat.api.http import HttpServer, Request, Response, problem
from twinbeat.api.server import unix_socket
from twinbeat.cli.topview import NOTHING, SPARKS, Told, Tracker, spark
from unit.memory_agent import (
    Served,
    connections,
    counters,
    histogram,
    node,
    peer,
    status,
)
from unit.terminal import Terminal

US = 1000
MS = 1000 * US


def program(served: Served, *options: str) -> list[str]:
    return [sys.executable, "-m", "twinbeat.cli.main", "top", "--socket", served.path, *options]


class Relay:
    """What `GET /v1/peer` of the worker is for `top`: the other node's answers."""

    def __init__(self, directory: Path, other: Served) -> None:
        self.away = False
        self.answers = threading.Event()
        self.answers.set()
        self._other = other
        self._path = str(directory / "sync.sock")
        self._server = HttpServer({("GET", "/v1/peer"): self._get})

    async def _get(self, request: Request) -> Response:
        await asyncio.to_thread(self.answers.wait, 60)
        if self.away:
            return problem(503, "peer_away", "the peer can't be asked: no route to host")
        try:
            target = request.query["what"]
            answer = await asyncio.to_thread(Client(self._other.path, 2).get, target)
        except ClientError as error:
            return problem(503, "peer_away", f"{error}")
        return Response(status=answer.status, body=answer.body)

    async def start(self) -> None:
        await self._server.listen(unix_socket(self._path))

    async def close(self) -> None:
        await self._server.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        running.agent.state = alive()
        running.agent.counters = growing()
        yield running


@pytest.fixture
def relay(served: Served, tmp_path: Path) -> Iterator[Relay]:
    (tmp_path / "b").mkdir()
    with Served(tmp_path / "b") as other:
        role = schema.Role.SECONDARY
        other.agent.state = alive(node=node(name="b", index=1, role=role, term=0))
        running = Relay(tmp_path, other)
        served.run(running.start())
        yield running
        served.run(running.close())


def alive(**changes: Any) -> schema.Status:
    state = status(connections=connections(), **changes)
    return replace(state, process=replace(state.process, worker=True))


def growing() -> Callable[[], schema.Counters]:
    """Counters of an agent that hears its peer: more each time that they are asked for."""
    asked = itertools.count(1)

    def count() -> schema.Counters:
        beats = 100 * next(asked)
        links = [replace(link, gaps=histogram({8: beats})) for link in counters().links]
        return counters(links=links, histograms={"send_lateness": histogram({5: beats})})

    return count


KEPT = {
    "sessions": "in-step, 7 entries, 1 on their way",
    "connections": "synced, 1,200 flows, 7 messages unconfirmed",
    "log records": "collecting, 20 records, 3 on this node only, 100 bytes of files not read, a ",
}
"""What `counters`, `connections` and `status` of the agent in memory come to."""


# ---------------------------------------------------------------------------- on a terminal ------


def test_both_nodes_are_on_the_screen_and_q_leaves_it(served: Served, relay: Relay) -> None:
    with Terminal(program(served, "-i", "0.2"), columns=240) as terminal:
        terminal.until(lambda text: "PRIMARY for" in text and "SECONDARY for" in text)
        shown = terminal.until(lambda text: SPARKS[1] * 2 in text)
        assert re.search(r"late +p99 [0-9.]+ µs", shown), shown
        assert "twinbeat top   pair 7" in shown
        for words in ("hears peer", "suspicions", "2 cleared", "in step, generation 7", "a ha0"):
            assert words in shown, shown
        assert "b lan0" in shown
        for name, words in KEPT.items():
            assert re.search(rf"^ *{name} +{words}", shown, re.MULTILINE), shown
        terminal.type("q")
        assert terminal.end() == 0
        assert terminal.as_before
        assert b"\x1b[?1049h" in terminal.raw, "the second screen"
        assert terminal.raw.rindex(b"\x1b[?1049l") > terminal.raw.rindex(b"\x1b[?1049h")
        assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l"), "the cursor"


def test_a_held_picture_stands_still_until_it_is_let_go(served: Served) -> None:
    with Terminal(program(served, "-i", "0.2")) as terminal:
        terminal.until(lambda text: "PRIMARY for" in text)
        terminal.type("p")
        terminal.until(lambda text: "HELD" in text)
        away = schema.Role.SECONDARY
        served.agent.state = alive(node=node(role=away))
        with pytest.raises(AssertionError, match="not seen"):  # in five refreshes
            terminal.until(lambda text: "SECONDARY for" in text, timeout_s=1)
        terminal.type("p")
        terminal.until(lambda text: "SECONDARY for" in text and "HELD" not in text)


def test_a_window_of_another_size_is_filled_anew(served: Served) -> None:
    # So seldom asked that only the size can be the reason for what is drawn.
    with Terminal(program(served, "-i", "60"), columns=120, rows=40) as terminal:
        wide = terminal.until(lambda text: "PRIMARY for" in text)
        assert "never stands" not in wide
        terminal.resize(60, 20)
        terminal.until(lambda text: "…" in text and "twinbeat top" in text.splitlines()[0])
        terminal.resize(10, 3)
        terminal.until(lambda text: "twinbeat" in text)
        terminal.type("q")
        assert terminal.end() == 0


@pytest.mark.parametrize("columns", [80, 60, 40])
def test_what_is_told_keeps_its_name_in_a_narrow_window(
    served: Served, relay: Relay, columns: int
) -> None:
    with Terminal(program(served, "-i", "60"), columns=columns) as terminal:
        shown = terminal.until(lambda text: "SECONDARY" in text and "connections" in text)
        for name in ("role", "health", "hears peer", "suspicions", *KEPT):
            assert re.search(rf"^{name}( |$)", shown, re.MULTILINE), shown
        (role,) = re.findall(r"^role +(\S+).*(SECON\S*)", shown, re.MULTILINE)
        assert role[0].startswith("PRIM"), shown
        terminal.type("q")
        assert terminal.end() == 0


def test_an_agent_that_goes_is_waited_for_and_comes_back(tmp_path: Path) -> None:
    with Served(tmp_path) as first:
        first.agent.state = alive()
        terminal = Terminal(program(first, "-i", "0.2"))
        terminal.until(lambda text: "PRIMARY for" in text)
    with terminal:
        shown = terminal.until(lambda text: "no answer since" in text)
        assert "PRIMARY for" in shown, "what was known last stands"
        assert "no agent at" in shown
        with Served(tmp_path) as second:
            second.agent.state = alive(node=node(role=schema.Role.SECONDARY, term=8))
            back = terminal.until(lambda text: "SECONDARY for" in text)
            assert "no answer" not in back
            terminal.type("q")
            assert terminal.end() == 0


def test_a_peer_that_cannot_be_asked_is_shown_as_it_was_heard(served: Served, relay: Relay) -> None:
    with Terminal(program(served, "-i", "0.2"), columns=140) as terminal:
        terminal.until(lambda text: "SECONDARY for" in text)
        relay.away = True
        shown = terminal.until(lambda text: "as heard" in text)
        assert "no route to host" in shown
        relay.away = False
        terminal.until(lambda text: "SECONDARY for" in text and "as heard" not in text)


def test_a_worker_that_hangs_holds_up_nothing(served: Served, relay: Relay) -> None:
    relay.answers.clear()
    with Terminal(program(served, "-i", "0.2", "--timeout", "3600"), columns=140) as terminal:
        shown = terminal.until(lambda text: "as heard" in text)
        assert re.search(r"b: the worker has not answered for [0-9]+ s", shown), shown
        served.agent.state = alive(node=node(admin=schema.Admin.STAY_PRIMARY))
        terminal.until(lambda text: "stay-primary" in text)  # though the worker still hangs
        relay.answers.set()
        terminal.until(lambda text: "SECONDARY for" in text and "as heard" not in text)


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_with_the_terminal_as_it_was(
    served: Served, which: signal.Signals
) -> None:
    with Terminal(program(served)) as terminal:
        terminal.until(lambda text: "PRIMARY for" in text)
        terminal.process.send_signal(which)
        assert terminal.end() in {0, 130}
        assert terminal.as_before
        assert b"\x1b[?1049l" in terminal.raw


@pytest.mark.parametrize("extra", [("--no-color",), ("NO_COLOR",), ()])
def test_no_colours_where_none_are_wanted(
    served: Served, extra: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if extra == ("NO_COLOR",):
        monkeypatch.setenv("NO_COLOR", "1")
        extra = ()
        plain = True
    else:
        plain = bool(extra)
    with Terminal(program(served, "--count", "1", *extra)) as terminal:
        assert terminal.end() == 0
        assert (b"\x1b[1;32m" in terminal.raw) is not plain


# --------------------------------------------------------------------- without a terminal --------


def run_plain(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        stdin=subprocess.DEVNULL,
        env=os.environ | environment,
    )


def test_without_a_terminal_there_is_a_line_for_each_node(served: Served, relay: Relay) -> None:
    done = run_plain(*program(served, "--count", "2", "-i", "0.2"))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[1:3] for line in lines] == [["a", "primary,"], ["b", "secondary,"]] * 2
    assert "\x1b" not in done.stdout
    assert "gap p99" not in lines[0], "nothing is known of an interval yet"
    relay.away = True
    alone = run_plain(*program(served, "--count", "1")).stdout.splitlines()[1]
    assert "as heard: the peer can't be asked" in alone


def test_json_has_an_object_for_each_refresh(served: Served) -> None:
    done = run_plain(*program(served, "--count", "2", "-i", "0.2", "--json"))
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [picture["schema"] for picture in told] == [1, 1]
    assert [one["name"] for one in told[0]["nodes"]] == ["a", "b"]
    assert [one["answers"] for one in told[0]["nodes"]] == [True, False]


def test_an_agent_that_never_answered_is_an_exit_code(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "twinbeat.cli.main", "top", "--socket", f"{tmp_path}/none")
    done = run_plain(*command)
    assert done.returncode == 3
    assert "Is twinbeatd running?" in done.stderr


@pytest.mark.parametrize("interval", ["0.1", "61", "x"])
def test_how_often_the_nodes_are_asked_has_bounds(served: Served, interval: str) -> None:
    assert run_plain(*program(served, "-i", interval)).returncode == 2


# --------------------------------------------------------------------------- the picture ---------


def told(own: schema.Status, own_counters: schema.Counters) -> Told:
    return Told(at_s=0, time="12:00:00", own=own, own_counters=own_counters, peer_why="away")


def test_gaps_are_those_of_the_interval() -> None:
    tracker = Tracker()
    links = counters().links
    gaps = [histogram({8: 1000}), histogram({8: 1100}), histogram({8: 1100}), histogram({4: 2})]
    shown = []
    for each in gaps:
        now = counters(links=[replace(links[0], gaps=each), links[1]])
        shown.append(tracker.take(told(alive(), now)).nodes[0].links[0])
    # Buckets are powers of two of a microsecond: the 9th holds 128 to 256 µs.
    assert [row.gap_p99_ns for row in shown[:1]] == [None]
    assert 128 * US <= (shown[1].gap_p99_ns or 0) <= 256 * US
    assert shown[2].gap_p99_ns is None, "none came, though a thousand had"
    assert (shown[3].gap_p99_ns or 0) <= 16 * US, "another agent counts from nothing"
    assert shown[3].sparks == SPARKS[1] + NOTHING + SPARKS[0]


def test_bars_reach_from_the_hello_to_the_dead_interval() -> None:
    gaps = [None, 100 * US, 200 * US, 300 * US, 600 * US, 9 * MS]
    drawn = [spark(gap, 200 * US, 600 * US) for gap in gaps]
    assert drawn[0] == NOTHING
    assert drawn[1:3] == [SPARKS[0]] * 2
    assert SPARKS.index(drawn[3]) == 2
    assert drawn[4:] == [SPARKS[-1]] * 2
    assert spark(300 * US, 200 * US, 200 * US) == SPARKS[-1], "intervals that make no sense"


def test_what_is_new_of_suspicions_and_late_ticks_is_told() -> None:
    tracker = Tracker()
    tracker.take(told(alive(), counters(late_ticks=5)))
    more = counters(late_ticks=9, suspicions={"cleared": 4, "dead": 1})
    row = tracker.take(told(alive(), more)).nodes[0]
    assert (row.late_ticks, row.suspicions_new) == (4, 2)


def test_what_outlasts_a_takeover_is_told_with_what_is_in_its_way() -> None:
    def row(**changes: Any) -> dict[str, tuple[str, bool, str]]:
        own = changes.pop("own", alive())
        seen = Tracker().take(told(own, counters(**changes))).nodes[0]
        return {each.name: (each.state, each.good, each.words) for each in seen.kept}

    good = row()
    assert [(name, state) for name, (state, fine, _) in good.items() if fine] == [
        ("sessions", "in-step"),
        ("connections", "synced"),
        ("log records", "collecting"),
    ]
    sessions = counters().sessions
    assert sessions is not None
    down = [replace(sessions.servers[0], state="down")]
    bad = replace(sessions, why="no such table", servers=down)
    assert row(sessions=bad)["sessions"] == (
        "not in the kernel",
        False,
        "7 entries, 1 on their way, 1 server down",
    )
    assert row(sessions=replace(sessions, rules=[])).keys() == {"connections", "log records"}
    off = replace(alive(), connections=connections(state="off"), sync=None)
    assert row(own=off).keys() == {"sessions"}
    gone = replace(off, process=replace(off.process, worker=False))
    assert row(own=gone) == {}, "nothing is configured that a worker would keep"
    document = replace(gone, configuration=replace(gone.configuration, document=True))
    assert row(own=document)["worker"][:2] == ("away", False)


def test_a_peer_never_heard_is_no_node_with_a_role() -> None:
    unheard = peer(role=None, admin=None, health=None, watch=schema.Watch.UNKNOWN)
    picture = Tracker().take(told(alive(peer=unheard), counters()))
    assert picture.nodes[1].role is None
    assert picture.nodes[1].answers is False


def test_histograms_of_different_agents_are_not_subtracted() -> None:
    assert grown([1, 5], [2, 5]) == [1, 0]
    assert grown([1, 5], [1, 4]) == [1, 4]
    assert grown([], [3]) == [3]
    assert percentile([0, 0, 4], 0.5) == 3000
