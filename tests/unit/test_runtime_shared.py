# SPDX-License-Identifier: Apache-2.0
"""A whole agent with its worker: a command takes effect, lasts, and needs no worker to last."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from twinbeat.api.client import Client
from twinbeat.sync.document import Document, Put, Remove
from twinbeat.sync.operation import Edit, Outcome, Request, State
from unit.namespace import ip
from unit.test_runtime_agent import Agent
from unit.test_runtime_agent import agent as agent  # noqa: PLC0414 - a fixture
from unit.test_runtime_agent import pins as pins  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.privileged


class Worker:
    """The worker of an agent."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        root = self.agent.root
        program = [sys.executable, "-m", "twinbeat.worker.main"]
        program += ["--socket", f"{root}/run/worker.sock", "--state", f"{root}/worker"]
        with (root / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(program, stderr=log)
        self.agent.until(lambda status: status["sync"] is not None)

    def end(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=60)
        self.process = None
        self.agent.until(lambda status: status["sync"] is None)

    def ask(self, *changes: Put | Remove, request: str = "mine") -> Outcome:
        self.agent.until_primary()  # A machine that stands still may end a reign.
        body = msgspec.json.encode(Request(request=request, wish=Edit(changes=changes)))
        client = Client(f"{self.agent.root}/run/sync.sock", 20.0)
        return msgspec.json.decode(client.post("/v1/change", body).body, type=Outcome)

    def vips(self, *vips: str, request: str = "mine") -> Outcome:
        row = {"id": 51, "interface": "lan0", "vips": list(vips)}
        return self.ask(Put(section="vrid", identity="51", row=row), request=request)


@pytest.fixture
def worker(agent: Agent) -> Iterator[Worker]:
    one = Worker(agent)
    try:
        yield one
    finally:
        if one.process is not None:
            one.process.kill()
            one.process.wait()


def configuration(status: dict[str, Any]) -> dict[str, Any]:
    return dict(status["configuration"])


def test_a_command_takes_effect_and_outlives_worker_and_agent(agent: Agent, worker: Worker) -> None:
    agent.start()
    before = agent.until_primary()
    assert configuration(before)["generation"] == 0
    worker.start()
    assert configuration(agent.until(lambda _: True))["generation"] == 0  # nothing was asked for
    said = worker.vips("10.77.0.10", "10.77.0.12")
    assert said.state is State.ALONE, said
    agent.until(lambda _: "10.77.0.12/32" in ip("addr show tbv51"))
    after = agent.until(lambda status: status["configuration"]["generation"] == 2)
    assert configuration(after)["document"]
    assert configuration(after)["ignored"] == ["vrid 51"]
    in_vain = "says otherwise than the shared document, which counts: vrid 51"
    agent.until_logged(in_vain)
    assert after["node"]["term"] == before["node"]["term"]
    assert after["gate"]["open"]
    worker.end(signal.SIGKILL)
    assert agent.end(signal.SIGTERM) == 0
    agent.start()
    again = agent.until_primary()
    assert configuration(again)["generation"] == 2
    assert agent.log.read_text().count(in_vain) == 2, "once by each agent"
    agent.until(lambda _: "10.77.0.12/32" in ip("addr show tbv51"))
    worker.start()
    assert worker.vips("10.77.0.10", "10.77.0.12").version == said.version  # the same request
    assert worker.vips("10.77.0.10", request="next").version.generation == 3
    assert "10.77.0.12/32" not in ip("addr show tbv51")


def test_what_cannot_be_is_refused_with_the_row_that_is_wrong(agent: Agent, worker: Worker) -> None:
    agent.start()
    agent.until_primary()
    worker.start()
    worker.vips("10.77.0.10")
    said = worker.vips("10.77.0.10", "nonsense", request="wrong")
    assert (said.state, said.code) == (State.REFUSED, "invalid")
    (problem,) = said.problems
    assert problem.where == "shared document, vrid 51.vips[1]"
    assert problem.value == '"nonsense"'
    assert "IPv4 or IPv6 address" in problem.right
    said = worker.ask(
        Put(section="link", identity="x", row={"interface": "lan0"}), request="not shared"
    )
    assert said.problems[0].right.startswith("is each node's own")
    assert configuration(agent.until(lambda _: True))["generation"] == 2


def test_the_file_keeps_what_is_the_nodes_own(agent: Agent, worker: Worker) -> None:
    agent.start()
    agent.until_primary()
    worker.start()
    worker.vips("10.77.0.10")
    agent.configure("10.77.0.99")
    file = agent.root / "twinbeat.toml"
    file.write_text(file.read_text().replace("[policy]", "[policy]\npreferred = true"))
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)
    status = agent.until(lambda status: status["policy"]["preferred"])
    assert configuration(status)["ignored"] == ["vrid 51"]
    assert "10.77.0.99" not in ip("addr show tbv51")
    agent.until(lambda _: "10.77.0.10/32" in ip("addr show tbv51"))


def test_a_new_number_comes_at_once_and_stays(agent: Agent, worker: Worker) -> None:
    agent.start()
    agent.until_primary()
    worker.start()
    row = {"id": 52, "interface": "lan0", "vips": ["10.77.0.20"]}
    said = worker.ask(Put(section="vrid", identity="52", row=row))
    assert said.state is State.ALONE
    status = agent.until(lambda status: status["configuration"]["generation"] == 2)
    assert not configuration(status)["needs_restart"]
    agent.until(lambda _: "10.77.0.20/32" in ip("addr show tbv52"))
    assert agent.end(signal.SIGTERM) == 0
    agent.start()
    agent.until_primary()
    agent.until(lambda _: "10.77.0.20/32" in ip("addr show tbv52"))


def test_a_copy_that_is_broken_is_set_aside_and_given_anew(agent: Agent, worker: Worker) -> None:
    agent.start()
    agent.until_primary()
    worker.start()
    worker.vips("10.77.0.12")
    worker.end()
    assert agent.end(signal.SIGTERM) == 0
    copy = agent.root / "state" / "shared.json"
    kept = msgspec.json.decode(copy.read_bytes(), type=Document)
    assert kept.tables["vrid"]["51"]["vips"] == ["10.77.0.12"]
    copy.write_text("{")
    agent.start()
    agent.until_primary()
    agent.until_logged("it was set aside")
    agent.until(lambda _: "10.77.0.10/32" in ip("addr show tbv51"))  # as the file says
    worker.start()
    agent.until(lambda status: status["configuration"]["generation"] == 2)
    agent.until(lambda _: "10.77.0.12/32" in ip("addr show tbv51"))
    assert json.loads(copy.read_text())["version"] == [kept.version.term, 2]


def test_a_full_disk_changes_nothing(agent: Agent, worker: Worker) -> None:
    agent.start()
    agent.until_primary()
    worker.start()
    worker.vips("10.77.0.10")
    (agent.root / "state" / "shared.json.new").mkdir()  # where it would be written first
    said = worker.vips("10.77.0.12", request="refused")
    assert said.state in {State.REFUSED, State.UNDECIDED}, said
    assert "10.77.0.12" not in ip("addr show tbv51")
    (agent.root / "state" / "shared.json.new").rmdir()
    agent.until(lambda status: status["configuration"]["generation"] > 2)
    assert worker.vips("10.77.0.13", request="later").state is State.ALONE
    agent.until(lambda _: "10.77.0.13/32" in ip("addr show tbv51"))
