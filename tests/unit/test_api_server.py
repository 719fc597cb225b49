# SPDX-License-Identifier: Apache-2.0
"""The server on a real Unix socket, with a small agent in memory behind it."""

import asyncio
import contextlib
import http.client
import logging
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from twinbeat.api import http as http_
from twinbeat.api import schema, server
from twinbeat.api.client import Client, ClientError
from twinbeat.api.events import QUEUE_MAX, READERS_MAX
from unit.memory_agent import MemoryAgent, Served, gate_of, node, status


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        yield running


def get(served: Served, target: str) -> tuple[int, Any]:
    response = Client(served.path).get(target)
    return response.status, msgspec.json.decode(response.body)


def post(served: Served, name: str, **body: Any) -> tuple[int, Any]:
    body = {"request_id": "request-1"} | body
    response = Client(served.path).post(f"/v1/{name}", msgspec.json.encode(body))
    return response.status, msgspec.json.decode(response.body)


# -------------------------------------------------------------------------------- reading --------


def test_status_is_the_schema_and_says_its_version(served: Served) -> None:
    response = Client(served.path).get("/v1/status")
    assert response.status == 200
    assert msgspec.json.decode(response.body)["schema"] == 1
    assert msgspec.json.decode(response.body, type=schema.Status) == served.agent.status()


def test_counters_and_history(served: Served) -> None:
    assert get(served, "/v1/counters")[1]["reasons"]["auth"] == 3
    assert [entry["number"] for entry in get(served, "/v1/history")[1]["transitions"]] == [1, 2]
    assert [entry["number"] for entry in get(served, "/v1/history?limit=1")[1]["transitions"]] == [
        2
    ]


@pytest.mark.parametrize(
    "limit", ["0", "1001", "x", "-1", "9" * 30, "%C2%B2", f"{1:09}0000", f"{1:09}{0:05000}"]
)
def test_a_wrong_limit_is_refused(served: Served, limit: str) -> None:
    code, body = get(served, f"/v1/history?limit={limit}")
    assert (code, body["code"]) == (400, "bad_request")


def test_what_does_not_exist_is_told_in_the_schema(served: Served) -> None:
    assert get(served, "/v1/nothing")[1]["code"] == "not_found"
    assert get(served, "/v1/pause")[0] == 405


@pytest.mark.parametrize(
    ("state", "endpoints"),
    [
        (status(), {"primary", "health", "live", "ready"}),
        (status(gate=gate_of(open=False)), {"health", "live", "ready"}),
        (status(node=node(role=schema.Role.SECONDARY)), {"secondary", "health", "live", "ready"}),
        (status(node=node(role=schema.Role.INIT, starting=True)), {"health", "live"}),
        (status(node=node(fit=False)), {"primary", "live", "ready"}),
        (status(gate=gate_of(attested_left_ns=0)), {"primary", "health", "ready"}),
        (status(gate=gate_of(attached=False, open=False)), {"health", "live"}),
    ],
)
def test_health_is_told_by_the_status_code_on_both_listeners(
    served: Served, state: schema.Status, endpoints: set[str]
) -> None:
    served.agent.state = state
    names = ("primary", "secondary", "health", "live", "ready")
    for name in names:
        expected = 200 if name in endpoints else 503
        assert get(served, f"/{name}")[0] == expected, name
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        connection.request("GET", f"/{name}")
        assert connection.getresponse().status == expected, name
        connection.close()


def test_the_public_listener_shows_metrics_and_takes_no_commands(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request("GET", "/metrics")
    assert b'twinbeat_primary{pair="7"} 1.0' in connection.getresponse().read()
    for method, target in (("POST", "/v1/yield"), ("GET", "/v1/status"), ("GET", "/v1/events")):
        connection.request(method, target, body=b'{"request_id": "request-1"}')
        response = connection.getresponse()
        response.read()
        assert response.status == 404
    connection.close()
    assert served.agent.commands == []


# ------------------------------------------------------------------------------- commands --------


def test_a_command_reaches_the_agent_with_its_caller(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "twinbeat.api"):
        code, body = post(served, "pause", for_s=60, reason="upgrade")
    assert code == 200
    assert body["result"]["kind"] == "outcome"
    ((command, caller),) = served.agent.commands
    assert command == schema.PauseFor(request_id="request-1", reason="upgrade", for_s=60)
    assert caller == schema.Caller(pid=os.getpid(), uid=os.getuid(), gid=os.getgid())
    assert f"pause for 1m by uid {os.getuid()} (upgrade): done" in caplog.text
    assert caplog.records[-1].fields["request_id"] == "request-1"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("failover", {}),
        ("failover", {"even_if_unfit": True}),
        ("yield", {}),
        ("pause", {"for_s": 1}),
        ("resume", {}),
        ("admin", {"admin": "stay-primary"}),
        ("reload", {}),
    ],
)
def test_each_command_is_decoded_to_its_struct(
    served: Served, name: str, body: dict[str, Any]
) -> None:
    assert post(served, name, **body)[0] == 200
    assert isinstance(served.agent.commands[0][0], schema.COMMANDS[name])


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("pause", {"for_s": 0}),
        ("pause", {"for_s": 8 * 86400}),
        ("pause", {"for_s": "60"}),
        ("pause", {"for_m": 60}),
        ("pause", {"reason": "x" * 501}),
        ("pause", {"request_id": "short"}),
        ("pause", {"request_id": "with space"}),
        ("admin", {}),
        ("admin", {"admin": "primary"}),
        ("failover", {"type": "yield"}),
    ],
)
def test_a_wrong_body_is_refused_and_reaches_nobody(
    served: Served, name: str, body: dict[str, Any]
) -> None:
    code, answer = post(served, name, **body)
    assert (code, answer["code"]) == (400, "bad_request")
    assert served.agent.commands == []


def test_a_body_that_is_too_large_is_refused(served: Served) -> None:
    response = Client(served.path).post("/v1/yield", b'{"x":"' + b"x" * http_.BODY_MAX + b'"}')
    assert response.status == 413
    assert served.agent.commands == []


def test_a_refusal_is_409_with_its_code(served: Served) -> None:
    served.agent.answer = schema.Refusal(code="peer_unfit", sentence="b isn't fit")
    code, body = post(served, "failover")
    assert code == 409
    assert body["result"] == {
        "kind": "refusal",
        "code": "peer_unfit",
        "sentence": "b isn't fit",
        "override": None,
    }


@pytest.mark.parametrize(("state", "code"), [("done", 200), ("accepted", 202), ("failed", 500)])
def test_how_far_a_command_came_is_the_status_code(served: Served, state: str, code: int) -> None:
    served.agent.answer = schema.Outcome(
        operation="request-1", state=schema.OutcomeState(state), code="x", sentence="y"
    )
    assert post(served, "failover")[0] == code


def test_the_same_request_again_gets_the_first_answer_and_is_done_once(served: Served) -> None:
    first = post(served, "yield")
    served.agent.answer = schema.Refusal(code="not_primary", sentence="a isn't primary")
    assert post(served, "yield") == first
    assert len(served.agent.commands) == 1
    assert post(served, "yield", request_id="request-2")[0] == 409


def test_a_request_id_does_not_serve_two_commands(served: Served) -> None:
    post(served, "yield")
    code, body = post(served, "yield", reason="another")
    assert (code, body["code"]) == (409, "request_id_reused")
    assert len(served.agent.commands) == 1


def test_two_of_the_same_at_once_are_one(served: Served) -> None:
    served.agent.hold = served.call(asyncio.Event)
    answers: list[Any] = []
    callers = [
        threading.Thread(target=lambda: answers.append(post(served, "yield"))) for _ in range(2)
    ]
    for caller in callers:
        caller.start()
    wait_until(lambda: len(served.agent.commands) == 1)
    served.call(served.agent.hold.set)
    for caller in callers:
        caller.join()
    assert len(served.agent.commands) == 1
    assert answers[0] == answers[1]


def test_a_command_goes_on_when_its_caller_hangs_up(served: Served) -> None:
    served.agent.hold = served.call(asyncio.Event)
    body = b'{"request_id":"request-1"}'
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(served.path)
        head = f"POST /v1/yield HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        caller.sendall(head.encode() + body)
        wait_until(lambda: len(served.agent.commands) == 1)
    served.call(served.agent.hold.set)
    wait_until(lambda: served.agent.finished == 1)
    assert post(served, "yield")[0] == 200
    assert len(served.agent.commands) == 1


def test_old_answers_are_forgotten_but_not_those_under_way(served: Served) -> None:
    served.agent.hold = served.call(asyncio.Event)
    under_way = threading.Thread(target=lambda: post(served, "yield", request_id="under-way"))
    under_way.start()
    wait_until(lambda: len(served.agent.commands) == 1)
    held, served.agent.hold = served.agent.hold, None
    for number in range(server.REMEMBERED_MAX + 1):
        post(served, "yield", request_id=f"request-{number}")
    served.call(held.set)
    under_way.join()
    count = len(served.agent.commands)
    post(served, "yield", request_id="under-way")
    assert len(served.agent.commands) == count
    post(served, "yield", request_id="request-0")
    assert len(served.agent.commands) == count + 1


# --------------------------------------------------------------------------------- events --------


def test_recent_events_are_json_lines(served: Served) -> None:
    for number in range(3):
        served.call(lambda number=number: served.agent.happen(number))
    lines = Client(served.path).get("/v1/events").body.splitlines()
    assert [msgspec.json.decode(line, type=schema.Event).number for line in lines] == [0, 1, 2]


def test_following_brings_what_comes_and_ends_with_the_agent(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.call(lambda: served.agent.happen(1))
        lines = Client(served.path).lines("/v1/events?follow=1")
        assert msgspec.json.decode(next(lines))["number"] == 1
        served.call(lambda: served.agent.happen(2))
        assert msgspec.json.decode(next(lines))["number"] == 2
        served.call(served.agent.events.close)
        assert list(lines) == []


def test_a_slow_reader_is_told_how_much_it_lost() -> None:
    async def scenario() -> None:
        agent = MemoryAgent()
        reader = agent.events.subscribe()
        assert reader is not None
        for number in range(QUEUE_MAX + 5):
            agent.happen(number)
        assert agent.events.dropped_total == 5
        assert await reader.next() == schema.Dropped(count=5)
        event = await reader.next()
        assert isinstance(event, schema.Event)
        assert event.number == 5
        reader.close()
        agent.happen(0)
        assert agent.events.dropped_total == 5

    asyncio.run(scenario())


def test_the_places_of_the_stream_are_limited_and_given_back(served: Served) -> None:
    served.call(lambda: served.agent.happen(1))
    streams = [Client(served.path).lines("/v1/events?follow=1") for _ in range(READERS_MAX)]
    for stream in streams:
        next(stream)
    assert Client(served.path).get("/v1/events?follow=1").status == 503
    for stream in streams:
        stream.close()

    def free() -> bool:
        with contextlib.closing(Client(served.path).lines("/v1/events?follow=1")) as stream:
            try:
                return b"number" in next(stream)
            except ClientError:
                return False

    wait_until(free)


# --------------------------------------------------------------------------------- socket --------


def test_the_socket_is_private_to_root_and_its_group(served: Served) -> None:
    mode = os.stat(served.path).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


def test_a_second_agent_is_refused_and_the_first_goes_on(served: Served) -> None:
    async def second() -> None:
        other = server.Server(MemoryAgent(), lambda: b"")
        with pytest.raises(server.AlreadyRunningError):
            await other.listen_unix(served.path)
        await other.close()

    asyncio.run(second())
    assert get(served, "/v1/status")[0] == 200


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "control.sock"))
    with Served(tmp_path) as served:
        assert get(served, "/v1/status")[0] == 200
    assert not (tmp_path / "control.sock").exists()


def test_too_many_requests_at_once_are_turned_away(served: Served) -> None:
    served.agent.hold = served.call(asyncio.Event)
    callers = [
        threading.Thread(target=lambda n=n: post(served, "yield", request_id=f"request-{n}"))
        for n in range(http_.CONNECTIONS_MAX)
    ]
    for caller in callers:
        caller.start()
    wait_until(lambda: len(served.agent.commands) == http_.CONNECTIONS_MAX)
    assert get(served, "/v1/status") == (
        503,
        {"schema": 1, "code": "busy", "sentence": "too many requests are under way; try again"},
    )
    served.call(served.agent.hold.set)
    for caller in callers:
        caller.join()
    assert get(served, "/v1/status")[0] == 200


def test_changes_are_seen_at_once(served: Served) -> None:
    served.agent.state = replace(served.agent.state, pair=8)
    assert get(served, "/v1/status")[1]["pair"] == 8


def wait_until(condition: Any, timeout_s: float = 60.0) -> None:
    """Poll a condition; fails when it does not come true."""
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came true")
