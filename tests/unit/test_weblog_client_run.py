# SPDX-License-Identifier: Apache-2.0
"""The log client as a program: it dies at any moment, its disk fails, nodes lie or are away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from repo import project
from twinbeat.api.client import Client as Asking
from twinbeat.api.client import ClientError
from twinbeat.sync.identity import Folder
from twinbeat.weblog.messages import Blocks, Gap, Problem
from unit.weblog_node import Node, records

COMMAND = [sys.executable, "-m", "twinbeat.weblog.client.cli"]
WAIT_S = 40.0


async def until(what: Callable[[], Any]) -> Any:
    """The first true answer."""
    async with asyncio.timeout(WAIT_S):
        while not (found := what()):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)
    return found


class Machine:
    """A third machine: a directory with all that a client has."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.out = root / "out"
        self.conf = root / "log.conf"
        self.control = str(root / "control.sock")
        self.folder = Folder(root / "state" / "identity")
        self.allowed: set[str] = set()
        self.process: asyncio.subprocess.Process | None = None

    def configure(self, *nodes: Node, more: str = "") -> None:
        self.conf.write_text(
            "metrics none\n" + "".join(node.line() for node in nodes) + "Filter default\n"
            f"begin default\nlogFilenameFormat {self.out}/log\n{more}\nend default\n"
        )

    def command(self, *arguments: str) -> list[str]:
        files = ["-f", str(self.conf), "--state", str(self.root / "state")]
        return [*COMMAND, *files, "--control", self.control, *arguments]

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *self.command(*arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, error = await asyncio.wait_for(process.communicate(), WAIT_S)
        return process.returncode or 0, out.decode(), error.decode()

    def introduce(self) -> None:
        """A key, as `add-node` makes it, that the pair allows."""
        made = self.folder.make_own("logs", time.time())
        self.allowed.add(made.certificate.fingerprint)

    async def start(self) -> None:
        with (self.root / "client.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command("start", "--foreground"), stdout=log, stderr=log
            )

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), WAIT_S)

    def log(self) -> str:
        return (self.root / "client.log").read_text()

    def written(self, name: str = "log") -> list[bytes]:
        path = self.out / name
        return path.read_bytes().splitlines() if path.exists() else []

    async def status(self) -> dict[str, Any]:
        def ask() -> dict[str, Any] | None:
            try:
                return dict(json.loads(Asking(self.control, 2.0).get("/v1/status").body))
            except (ClientError, ValueError):
                return None

        async with asyncio.timeout(WAIT_S):
            while (found := await asyncio.to_thread(ask)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return found

    async def until_status(self, what: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_S):
            while not what(found := await self.status()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return found


@contextlib.asynccontextmanager
async def pair(root: Path) -> AsyncIterator[tuple[Machine, Node, Node]]:
    """Two nodes, and a machine whose client both allow."""
    machine = Machine(root)
    a, b = (Node(root, name, peer, machine.allowed) for name, peer in ("ab", "ba"))
    async with a, b:
        machine.introduce()
        machine.configure(a, b)
        try:
            yield machine, a, b
        finally:
            if machine.process is not None and machine.process.returncode is None:
                await machine.end(signal.SIGKILL)


def played(tmp_path: Path, play: Callable[[Machine, Node, Node], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with pair(tmp_path) as (machine, a, b):
            await play(machine, a, b)

    asyncio.run(whole())


def lines(first: int, count: int, of: str = "a") -> list[bytes]:
    return [b"%s %d" % (of.encode(), number) for number in range(first, first + count)]


def of(written: list[bytes], node: str) -> list[bytes]:
    return [line for line in written if line.startswith(node.encode())]


def test_both_nodes_streams_are_written_and_acknowledged(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        for node in (a, b):
            await node.add(records("a", 1, 0, lines(0, 50)), records("b", 1, 0, lines(0, 9, "b")))
        await machine.start()
        await until(lambda: len(machine.written()) >= 59)
        await a.add(records("a", 1, 50, lines(50, 5)))
        await until(lambda: a.acknowledged.get(("a", 1)) == 55)
        # To whom it came from, and to whom holds a copy of it.
        await until(lambda: b.acknowledged == {("a", 1): 55, ("b", 1): 9})
        assert of(machine.written(), "a") == lines(0, 55)
        assert of(machine.written(), "b") == lines(0, 9, "b")
        status = await machine.until_status(
            lambda said: [node["lag"] for node in said["nodes"]] == [0, 0]
        )
        assert [node["node"] + node["pair"] for node in status["nodes"]] == ["a1", "b1"]
        assert sum(node["records"] for node in status["nodes"]) == 64
        code, out, _ = await machine.run("show")
        assert code == 0
        assert "2 of 2 nodes connected" in out
        assert await machine.end() == 0

    played(tmp_path, play)


def test_a_record_is_written_once_however_often_the_client_is_killed(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        rng = random.Random(20261124)
        first = {"a": 0, "b": 0}

        async def feed() -> None:
            while True:
                for name in ("a", "b"):
                    made = records(name, 1, first[name], lines(first[name], 40, name))
                    first[name] += 40
                    for node in (a, b):
                        await node.add(made)
                await asyncio.sleep(0.002)

        feeding = asyncio.create_task(feed())
        for _ in range(6):
            await machine.start()
            before = len(machine.written())
            await until(lambda before=before: len(machine.written()) > before)
            await asyncio.sleep(rng.random() * 0.3)
            await machine.end(signal.SIGKILL)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        await machine.start()
        await until(lambda: a.acknowledged == {("a", 1): first["a"], ("b", 1): first["b"]})
        for name in ("a", "b"):
            assert of(machine.written(), name) == lines(0, first[name], name)

    played(tmp_path, play)


def test_the_other_node_gives_what_a_dead_one_had(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        await a.add(records("a", 1, 0, lines(0, 10)))
        await b.add(records("a", 1, 0, lines(0, 10)))
        await machine.start()
        await until(lambda: len(machine.written()) == 10)
        await a.__aexit__()
        await b.add(records("a", 1, 10, lines(10, 5)))
        await until(lambda: len(machine.written()) == 15)
        # It had five more that nobody else has, and brings them when it is back.
        await a.add(records("a", 1, 10, lines(10, 10)))
        await a.__aenter__()
        await until(lambda: len(machine.written()) == 20)
        assert machine.written() == lines(0, 20)

    played(tmp_path, play)


def _with_garbage(answer: Blocks) -> Any:
    return b"\xc1garbage"


def _with_a_broken_block(answer: Blocks) -> Any:
    return Blocks(blocks=(answer.blocks[0][:-1] + b"X",), streams=answer.streams)


def _with_a_hole(answer: Blocks) -> Any:
    return Blocks(blocks=(records("a", 1, 70, lines(70, 1)).raw,), streams=answer.streams)


def _with_a_gap_too_large(answer: Blocks) -> Any:
    gap = Gap(node="a", epoch=1, first=0, count=1 << 60, reason="lost")
    return Blocks(gaps=(gap,), streams=answer.streams)


def _with_a_huge_frame(answer: Blocks) -> Any:
    return b"\0" * ((1 << 20) + 1)


@pytest.mark.parametrize(
    ("lie", "where", "code"),
    [
        (_with_garbage, "failures", "malformed"),
        (_with_a_broken_block, "refused", "crc"),
        (_with_a_hole, "refused", "hole"),
        (_with_a_gap_too_large, "refused", "gap"),
        (_with_a_huge_frame, "failures", "oversized"),
    ],
)
def test_a_node_that_lies_is_refused_and_the_other_one_serves(
    tmp_path: Path, lie: Callable[[Blocks], Any], where: str, code: str
) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        for node in (a, b):
            await node.add(records("a", 1, 0, lines(0, 20)))
        a.lie = lie
        await machine.start()
        status = await machine.until_status(lambda said: said[where].get(code))
        await until(lambda: len(machine.written()) == 20)
        assert machine.written() == lines(0, 20)
        assert status["lost"] == {}

    played(tmp_path, play)


def test_who_is_not_meant_is_told_nothing(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        await a.add(records("a", 1, 0, lines(0, 5)))
        text = machine.conf.read_text()
        machine.conf.write_text(text.replace(a.fingerprint, "ab" * 32))
        await machine.start()
        status = await machine.until_status(lambda said: said["failures"].get("certificate"))
        assert "another certificate" in str(status["nodes"][0]["sentence"])
        assert a.pulls == 0

    played(tmp_path, play)


def test_a_client_that_is_not_allowed_says_so(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        machine.allowed.clear()
        code, out, _ = await machine.run("verify")
        assert code == 1
        assert out.count("Nobody allowed this client.") == 2
        await machine.start()
        await machine.until_status(lambda said: said["failures"].get("not_allowed"))

    played(tmp_path, play)


def test_verify_greets_nodes_and_looks_at_filters(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        text = machine.conf.read_text().replace(
            "Filter default", "Filter shop HOST shop.example\nFilter default"
        )
        machine.conf.write_text(f"{text}begin shop\nlogFilenameFormat {machine.out}/s\nend shop\n")
        code, out, error = await machine.run("verify")
        assert (code, out.count("node a of pair 1, 2 sources")) == (0, 1), error
        assert "filter shop looks at host, which source web (nginx) does not log" in error

    played(tmp_path, play)


def test_nodes_are_added_after_their_fingerprint_was_compared(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        machine.conf.unlink()
        shutil.rmtree(machine.root / "state")
        machine.allowed.clear()
        add = ("add-node", "127.0.0.1", "--port", str(a.port))
        code, _, error = await machine.run(*add)
        assert (code, "nobody to compare" in error) == (2, True)
        code, _, error = await machine.run(*add, "--fingerprint", "cd" * 32)
        assert (code, "nothing was added" in error) == (4, True)
        assert not machine.conf.exists()
        code, out, error = await machine.run(*add, "--fingerprint", a.fingerprint)
        assert (code, error) == (0, "")
        found = re.search(r"^    twinbeat weblog allow \S+ ([0-9a-f]{64})$", out, re.MULTILINE)
        assert found is not None
        private = machine.root / "state" / "identity" / "own.pem"
        assert private.stat().st_mode & 0o777 == 0o600
        one = machine.conf.read_text()
        assert one.endswith(a.line())
        code, out, _ = await machine.run(
            *("add-node", "127.0.0.1", "--port", str(b.port), "--json"),
            *("--fingerprint", b.fingerprint),
        )
        assert code == 0
        assert json.loads(out)["client"]["fingerprint"] == found.group(1)
        assert machine.conf.read_text() == one + b.line()
        machine.allowed.add(found.group(1))
        code, _, error = await machine.run("verify")
        assert (code, error) == (0, "")
        code, _, _ = await machine.run("remove-node", "127.0.0.1", "--port", str(b.port))
        assert (code, machine.conf.read_text()) == (0, one)

    played(tmp_path, play)


def test_gaps_are_told(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        gap = Gap(node="a", epoch=1, first=0, count=10, reason="full")
        for node in (a, b):
            node.gaps["a", 1] = gap
            await node.add(records("a", 1, 10, lines(10, 5)))
        await machine.start()
        await until(lambda: machine.written() == lines(10, 5))
        await machine.until_status(lambda said: said["lost"] == {"full": 10})
        await until(
            lambda: (
                "records 0 to 9 of node a (pair 1, epoch 1) can't be had any more" in machine.log()
            )
        )

    played(tmp_path, play)


def test_a_directory_that_refuses_stops_acknowledging_until_it_doesn_t(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        for node in (a, b):
            await node.add(records("a", 1, 0, lines(0, 20)))
        machine.out.mkdir()
        (machine.out / "log").mkdir()  # a directory in the place of the file
        await machine.start()
        status = await machine.until_status(lambda said: said["commit_failures"] > 1)
        assert "can't be written" in status["trouble"]
        assert a.acknowledged == {}
        # It is one trouble for as long as it lasts, however often writing is tried.
        assert machine.log().count("Nothing is acknowledged") == 1
        assert "writing works again" not in machine.log()
        (machine.out / "log").rmdir()
        await until(lambda: a.acknowledged.get(("a", 1)) == 20)
        assert machine.written() == lines(0, 20)
        assert (await machine.status())["trouble"] == ""
        assert machine.log().count("writing works again") == 1

    played(tmp_path, play)


def test_a_reload_takes_filters_and_nodes_and_refuses_what_is_wrong(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        machine.configure(a)
        await a.add(records("a", 1, 0, lines(0, 3)))
        await b.add(records("b", 1, 0, lines(0, 3, "b")))
        await machine.start()
        await until(lambda: len(machine.written()) == 3)
        assert machine.process is not None
        good = machine.conf.read_text()
        machine.conf.write_text(good.replace("begin", "bgin"))
        machine.process.send_signal(signal.SIGHUP)
        await until(lambda: "the configuration stays as it was" in machine.log())
        assert re.search(r"log\.conf:\d+: bgin: unknown.*Did you mean `begin`", machine.log())
        machine.configure(a, b, more='logFormat "%N %L"')
        machine.process.send_signal(signal.SIGHUP)
        await until(lambda: len(machine.written()) == 6)
        assert machine.written()[3:] == [b"b " + line for line in lines(0, 3, "b")]

    played(tmp_path, play)


def test_a_node_that_says_no_is_tried_again(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        a.lie = lambda _: Problem(code="stopping", sentence="This node is stopping.")
        await a.add(records("a", 1, 0, lines(0, 3)))
        await machine.start()
        await machine.until_status(lambda said: said["failures"].get("stopping", 0) > 1)
        a.lie = lambda answer: answer
        await until(lambda: len(machine.written()) == 3)

    played(tmp_path, play)


def test_somebody_takes_the_file_away(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        await a.add(records("a", 1, 0, lines(0, 3)))
        await machine.start()
        await until(lambda: a.acknowledged.get(("a", 1)) == 3)
        os.rename(machine.out / "log", machine.out / "log.old")
        await a.add(records("a", 1, 3, lines(3, 3)))
        await until(lambda: machine.written() == lines(3, 3))
        assert machine.written("log.old") == lines(0, 3)

    played(tmp_path, play)


def test_two_clients_do_not_write_at_once(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        await machine.start()
        await machine.status()
        code, _, error = await machine.run("start", "--foreground")
        assert code == 1
        assert "another" in error

    played(tmp_path, play)


def test_pairs_with_one_number_are_told_apart(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        east = Node(tmp_path / "east", "a", "b", machine.allowed)
        async with east:
            for node, name in ((a, "west"), (east, "east")):
                await node.add(records("a", 1, 0, lines(0, 3, name)))
            machine.conf.write_text(machine.conf.read_text() + east.line())
            await machine.start()
            status = await machine.until_status(lambda said: said["refused"].get("name"))
            assert "NODE … PAIR name" in str(status["nodes"])
            await machine.end()
            shutil.rmtree(machine.out)
            (machine.root / "state" / "state.db").unlink()
            text = machine.conf.read_text()
            machine.conf.write_text(text.replace(east.line(), f"{east.line().strip()} PAIR east\n"))
            await machine.start()
            await until(lambda: len(machine.written()) == 6)
            for name in ("west", "east"):
                assert of(machine.written(), name) == lines(0, 3, name)

    played(tmp_path, play)


def test_a_certificate_that_was_announced_is_believed_later(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        successor = Folder(tmp_path / "successor").make_own("a", time.time())
        a.certificates = (a.identity.certificate.der, successor.certificate.der)
        await a.add(records("a", 1, 0, lines(0, 3)))
        await machine.start()
        await until(lambda: len(machine.written()) == 3)
        await a.__aexit__()
        (a.folder.path / "own.pem").write_bytes((tmp_path / "successor" / "own.pem").read_bytes())
        await a.add(records("a", 1, 3, lines(3, 3)))
        await a.__aenter__()
        await until(lambda: len(machine.written()) == 6)

    played(tmp_path, play)


def test_metrics_are_told_on_the_loopback(tmp_path: Path) -> None:
    async def play(machine: Machine, a: Node, b: Node) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        text = machine.conf.read_text()
        machine.conf.write_text(text.replace("metrics none", f"metrics 127.0.0.1:{port}"))
        await a.add(records("a", 1, 0, lines(0, 3)))
        await machine.start()
        await until(lambda: a.acknowledged.get(("a", 1)) == 3)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        said = (await reader.read()).decode()
        writer.close()
        assert 'twinbeat_weblog_client_written_total{filter="default"} 3.0' in said
        named = set(re.findall(r"^# TYPE twinbeat_weblog_client_(\w+)", said, re.MULTILINE))
        page = (project.DOCS / "weblog-client.md").read_text().partition("## Metrics")[2]
        rows = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", "".join(rows))) == named - {"info"}

    played(tmp_path, play)
