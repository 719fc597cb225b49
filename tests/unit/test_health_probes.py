# SPDX-License-Identifier: Apache-2.0
"""What finds things out: scripts, processes, connections, each against the real thing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import pytest

from twinbeat.health import script
from twinbeat.health.answer import AddressProber
from twinbeat.health.board import Finding
from twinbeat.health.process import ProcessProber, find
from twinbeat.health.runner import Runner
from twinbeat.health.script import OUTPUT_KEPT, ScriptProber
from unit.clocks import Loop, skip

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(100):
            return await work

    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(bounded())


# -- scripts -----------------------------------------------------------------------------------


def program(directory: Path, text: str, *, mode: int = 0o755) -> str:
    path = directory / "check"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return str(path)


def outcome(command: tuple[str, ...], *, timeout_s: float = 60.0) -> Finding:
    async def look() -> Finding:
        prober = ScriptProber(command, environment=lambda: {"TWINBEAT_ROLE": "primary"})
        try:
            return await prober.look(timeout_s)
        finally:
            prober.close()

    return run(look())


def test_exit_code_0_holds_and_its_output_is_kept(tmp_path: Path) -> None:
    found = outcome((program(tmp_path, "echo fine as $TWINBEAT_ROLE, $1"), "a b"))
    assert found.holds
    assert found.output == "fine as primary, a b"


def test_every_other_code_is_a_failure_with_its_first_line(tmp_path: Path) -> None:
    found = outcome((program(tmp_path, "echo disk full >&2; echo more; exit 3"),))
    assert not found.holds
    assert not found.timed_out
    assert found.sentence == "exit code 3: disk full"
    assert found.output == "disk full\nmore"


def test_a_signal_is_named(tmp_path: Path) -> None:
    assert outcome((program(tmp_path, "kill -TERM $$"),)).sentence == "it was ended by SIGTERM"


def test_no_shell_sees_the_arguments(tmp_path: Path) -> None:
    found = outcome(("/bin/echo", "$HOME; rm -rf /", "*"))
    assert found.output == "$HOME; rm -rf / *"


@pytest.mark.parametrize(
    ("mode", "said"), [(0o644, "Permission denied"), (None, "No such file or directory")]
)
def test_what_cannot_be_executed_is_said(
    tmp_path_factory: pytest.TempPathFactory, mode: int | None, said: str
) -> None:
    # A short path: sentences have an end.
    directory = tmp_path_factory.mktemp("x")
    path = program(directory, "exit 0", mode=mode) if mode else str(directory / "gone")
    found = outcome((path,))
    assert not found.holds
    assert found.sentence == f"{path} can't be executed: {said}"


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_a_hung_script_is_killed_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    text = f"echo begun; sleep 1000 & echo $$ $! > {pids}; trap '' TERM; wait"

    async def look() -> Finding:
        prober = ScriptProber((program(tmp_path, text),), environment=dict)
        looking = asyncio.create_task(prober.look(60))
        await asyncio.to_thread(until, lambda: read(pids).endswith("\n"), "it never began")
        skip(60)
        return await looking

    found = run(look())
    assert not found.holds
    assert found.timed_out
    assert found.sentence == "it hung for 60 s and was killed with all it had started"
    assert found.output == "begun"
    for pid in map(int, pids.read_text().split()):
        until(lambda pid=pid: not alive(pid), f"pid {pid} outlived its script")  # type: ignore[misc]


def test_what_a_script_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    found = outcome((program(tmp_path, f"sleep 1000 & echo $! > {pids}"),))
    assert found.holds, "an open pipe in other hands is not waited for"
    pid = int(pids.read_text())
    until(lambda: not alive(pid), "the child outlived its script")


def test_a_script_that_floods_its_output_is_named(tmp_path: Path) -> None:
    found = outcome((program(tmp_path, "exec yes"),))
    assert not found.holds
    assert not found.timed_out
    assert found.sentence == "it floods its output (more than 64 KiB) and was killed"
    assert len(found.output) < OUTPUT_KEPT + 40


def test_output_that_is_no_text_can_be_shown(tmp_path: Path) -> None:
    found = outcome((program(tmp_path, r"printf 'a\033[31m\377b\n'"),))
    assert found.output == "a\ufffd[31m\ufffdb"


def test_a_stop_in_the_midst_of_a_run_ends_the_script(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    async def stop_midway() -> None:
        prober = ScriptProber(
            (program(tmp_path, f"echo $$ > {pids}; sleep 1000"),), environment=dict
        )
        runner = Runner(prober, interval_s=1, timeout_s=100, report=lambda _: None)
        runner.start()
        await asyncio.to_thread(until, lambda: read(pids).endswith("\n"), "it never began")
        await runner.stop()

    run(stop_midway())
    pid = int(pids.read_text())
    until(lambda: not alive(pid), "the script goes on")


def test_a_run_that_cannot_be_killed_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An uninterruptible call can't be made here, so the kill is made to miss."""
    monkeypatch.setattr(script, "_KILL_S", 0.1)
    monkeypatch.setattr(script.Run, "kill", lambda self: None)

    async def twice() -> tuple[Finding, Finding]:
        prober = ScriptProber((program(tmp_path, "exec sleep 1000"),), environment=dict)
        first = await prober.look(0.1)
        second = await prober.look(0.1)
        assert prober._run is not None
        os.kill(prober._run.pid, signal.SIGKILL)
        await prober._run.ended.wait()
        return first, second

    first, second = run(twice())
    assert first.timed_out
    assert second.timed_out
    assert "can't be killed; it isn't started again" in second.sentence


# -- processes -----------------------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["/bin/sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def test_a_process_by_its_pidfile_and_the_moment_it_ends(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    pidfile = tmp_path / "pid"
    pidfile.write_text(f"{sleeper.pid}\n")

    async def watch() -> list[Finding]:
        ended = asyncio.Event()
        prober = ProcessProber(pidfile=str(pidfile), name="sleep", ended=ended.set)
        found = [await prober.look(1), await prober.look(1)]
        assert not ended.is_set()
        sleeper.kill()
        async with asyncio.timeout(30):
            await ended.wait()  # nobody has reaped it: a zombie doesn't run
        found.append(await prober.look(1))
        prober.close()
        return found

    first, second, third = run(watch())
    assert first.holds
    assert second.holds
    assert first.sentence == f"runs as pid {sleeper.pid}"
    assert not third.holds
    assert third.certain
    assert third.sentence.startswith(f"pid {sleeper.pid} ended; pid {sleeper.pid} of {pidfile}")


def test_a_process_that_is_started_anew_is_found_again(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    pidfile = tmp_path / "pid"

    async def watch() -> list[bool]:
        prober = ProcessProber(pidfile=str(pidfile), name="", ended=lambda: None)
        found = [(await prober.look(1)).holds]
        pidfile.write_text(str(sleeper.pid))
        found.append((await prober.look(1)).holds)
        sleeper.kill()
        await asyncio.to_thread(sleeper.wait)
        found.append((await prober.look(1)).holds)
        prober.close()
        return found

    assert run(watch()) == [False, True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no process number"),
        ("none\n", "holds no process number"),
        ("-1", "holds no process number"),
        ("99999999999999999999", "holds no process number"),
        ("4194303", "pid 4194303 of"),
    ],
)
def test_a_pidfile_that_names_nobody(tmp_path: Path, text: str, said: str) -> None:
    pidfile = tmp_path / "pid"
    pidfile.write_text(text)
    found = find(str(pidfile), "")
    assert isinstance(found, str)
    assert said in found


def test_a_pidfile_that_names_somebody_else(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    pidfile.write_text(str(os.getpid()))
    found = find(str(pidfile), "bird")
    assert isinstance(found, str)
    assert found.endswith("not bird")


def test_a_process_by_its_name(tmp_path: Path) -> None:
    name = "tb-health-test-with-a-long-name"
    copy = tmp_path / name
    copy.write_bytes(Path("/bin/sleep").read_bytes())
    copy.chmod(0o755)
    assert find("", name) == f"no process named {name} is seen"
    with subprocess.Popen([copy, "1000"]) as process:
        assert find("", name) == process.pid
        process.kill()


# -- addresses -----------------------------------------------------------------------------------


def ask(address: str, *, timeout_s: float = 60.0, **more: Any) -> Finding:
    return run(AddressProber(ip_address(address), **more).look(timeout_s))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_takes_connections_and_one_that_does_not(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        assert ask(host, probe="tcp", port=port).holds
    found = ask(host, probe="tcp", port=port)
    assert not found.holds
    assert found.sentence.endswith("Connection refused")


def test_a_port_that_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        where = server.getsockname()
        waiting = []
        for _ in range(4):  # until the backlog is full, and the kernel answers nobody
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(where)
            waiting.append(one)
        began = time.monotonic()
        found = ask("127.0.0.1", probe="tcp", port=where[1], timeout_s=0.3)
        assert time.monotonic() - began < 30
        for one in waiting:
            one.close()
    assert not found.holds
    assert found.timed_out


# -- the runner ------------------------------------------------------------------------------------


class Scripted:
    """A prober that does what it is told, one look after the other."""

    def __init__(self, *looks: Callable[[], Coroutine[Any, Any, Finding]]) -> None:
        self.looks = list(looks)
        self.closed = False

    async def look(self, timeout_s: float) -> Finding:
        return await self.looks.pop(0)()

    def close(self) -> None:
        self.closed = True


async def holds() -> Finding:
    return Finding(holds=True, sentence="fine")


async def refuses() -> Finding:
    raise OSError(1, "Operation not permitted")


async def breaks() -> Finding:
    raise ZeroDivisionError


def test_a_runner_looks_again_when_it_is_woken_and_reports_errors() -> None:
    async def watch() -> tuple[list[Finding], bool]:
        found: list[Finding] = []
        reported = asyncio.Event()

        def report(finding: Finding) -> None:
            found.append(finding)
            reported.set()

        prober = Scripted(holds, refuses, holds)
        runner = Runner(prober, interval_s=1000, timeout_s=1, report=report)
        runner.start()
        for _ in range(3):
            await reported.wait()
            reported.clear()
            runner.wake()
        await runner.stop()
        return found, prober.closed

    found, closed = run(watch())
    assert [finding.holds for finding in found[:3]] == [True, False, True]
    assert found[1].sentence == "Operation not permitted"
    assert found[0].took_ns > 0
    assert closed


def test_a_check_that_breaks_does_not_look_like_one_that_holds() -> None:
    async def watch() -> tuple[list[Finding], list[str]]:
        complaints: list[str] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(str(context["message"]))
        )
        found: list[Finding] = []
        reported = asyncio.Event()
        runner = Runner(
            Scripted(breaks),
            interval_s=1000,
            timeout_s=1,
            report=lambda finding: (found.append(finding), reported.set())[1],  # type: ignore[func-returns-value]
        )
        runner.start()
        await reported.wait()
        await runner.stop()
        return found, complaints

    found, complaints = run(watch())
    assert not found[0].holds
    assert "ZeroDivisionError" in found[0].sentence
    assert complaints == ["a monitor broke"]
