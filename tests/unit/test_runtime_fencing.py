# SPDX-License-Identifier: Apache-2.0
"""Fencing: real programs under the contract of the fence agents, one of them Debian's own."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import stat
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from twinbeat.config.arbiters import FenceSection
from twinbeat.config.secrets import Options
from twinbeat.core.events import EngineEvent
from twinbeat.core.types import Cause, EngineEventKind
from twinbeat.runtime import fencing
from twinbeat.runtime.fencing import Fencing

Test = Callable[..., Coroutine[None, None, None]]


def inside(test: Test) -> Callable[..., None]:
    """The test, in a loop of its own."""

    @functools.wraps(test)
    def call(*arguments: object, **named: object) -> None:
        asyncio.run(test(*arguments, **named))

    return call


DUMMY = "/usr/sbin/fence_dummy"
OPENED = EngineEvent(
    kind=EngineEventKind.OPENED, at_ns=1, cause=Cause.SILENCE, a=4, b=int(Cause.DEAD)
)


def program(tmp_path: Path, text: str) -> str:
    path = tmp_path / "fence_test"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


class World:
    """One peer to fence, and what was told of it."""

    def __init__(self, section: FenceSection, options: Options | None = None) -> None:
        self.published: list[dict[str, object]] = []
        self.fenced: list[int] = []
        self.heard = 7
        self.fencing = Fencing(
            section=section,
            options=options or Options(),
            peer="b",
            now_ns=time.monotonic_ns,
            publish=lambda event, **rest: self.published.append({"event": event, **rest}),
            heard=lambda: self.heard,
            fenced=self._told,
        )

    def _told(self, term: int) -> None:
        self.fenced.append(term)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.005)

    def outcomes(self) -> dict[str, int]:
        return dict(self.fencing.outcomes)


@inside
async def test_the_program_gets_its_options_on_standard_input_only(tmp_path: Path) -> None:
    agent = program(
        tmp_path, f'cat > {tmp_path}/in; echo "$@" > {tmp_path}/arguments; env > {tmp_path}/env'
    )
    options = Options(("ip=192.0.2.1",), ("passwd=s3cr3t",))
    world = World(FenceSection(agent=agent, check_s=0), options)
    world.fencing.engine_event(OPENED)
    await world.until(lambda: world.fenced == [7])
    assert (tmp_path / "in").read_text() == "action=off\nip=192.0.2.1\npasswd=s3cr3t\n"
    assert (tmp_path / "arguments").read_text() == "\n"
    assert "s3cr3t" not in (tmp_path / "env").read_text()
    status = world.fencing.status()
    assert status.fenced
    assert status.last is not None
    assert (status.last.outcome, status.last.exit_code) == ("succeeded", 0)
    assert world.published[0]["event"] == "fencing"
    assert "s3cr3t" not in repr(options)


@inside
async def test_a_secret_is_struck_out_of_what_the_program_prints(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = program(tmp_path, "read a; read p; echo login with $p refused >&2; exit 1")
    section = FenceSection(agent=agent, check_s=0, policy="before")
    world = World(section, Options((), ("passwd=s3cr3t",)))
    with caplog.at_level(logging.INFO, "twinbeat"):
        world.fencing.look(wanted=True)
        await world.until(lambda: bool(world.outcomes()))
    world.fencing.look(wanted=False)
    await world.fencing.stop()
    last = world.fencing.status().last
    assert last is not None
    assert "login with passwd=*** refused" in last.sentence
    assert "failed with code 1" in last.sentence
    assert "s3cr3t" not in caplog.text + repr(world.published)


@inside
async def test_after_tries_a_few_times_and_then_lets_it_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fencing, "RETRY_S", 0.01)
    world = World(FenceSection(agent=program(tmp_path, "exit 1"), check_s=0))
    world.fencing.engine_event(OPENED)
    await world.until(lambda: world.fencing.outcomes["failed"] == fencing.ATTEMPTS_BESIDE)
    assert world.fencing._task is not None
    await world.fencing._task
    assert world.outcomes() == {"failed": fencing.ATTEMPTS_BESIDE}
    assert not world.fenced


@inside
async def test_before_tries_as_long_as_the_core_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fencing, "RETRY_S", 0.01)
    agent = program(tmp_path, f"[ -e {tmp_path}/works ]")
    world = World(FenceSection(agent=agent, check_s=0, policy="before"))
    world.fencing.look(wanted=True)
    await world.until(lambda: world.fencing.outcomes["failed"] > fencing.ATTEMPTS_BESIDE)
    assert not world.fenced
    (tmp_path / "works").touch()
    await world.until(lambda: world.fenced == [7])
    # The peer is heard again: it isn't fenced any more, and another death is another fencing.
    world.fencing.engine_event(EngineEvent(kind=EngineEventKind.HEARD, at_ns=2))
    assert not world.fencing.status().fenced
    world.fencing.look(wanted=False)
    os.unlink(tmp_path / "works")
    world.fencing.look(wanted=True)
    await world.until(lambda: world.fencing.status().attempts > 0)
    world.fencing.look(wanted=False)
    assert world.fencing._task is not None
    await world.fencing._task
    assert world.fenced == [7]


@inside
async def test_nobody_is_fenced_without_a_takeover_by_silence(tmp_path: Path) -> None:
    world = World(FenceSection(agent=program(tmp_path, "exit 0"), check_s=0))
    for event in (
        EngineEvent(kind=EngineEventKind.DEAD, at_ns=1),
        EngineEvent(kind=EngineEventKind.OPENED, at_ns=1, cause=Cause.RECEIPT, a=4),
        EngineEvent(
            kind=EngineEventKind.OPENED, at_ns=1, cause=Cause.SILENCE, a=4, b=int(Cause.RENEW)
        ),
    ):
        world.fencing.engine_event(event)
    world.fencing.look(wanted=True)  # the policy is `after`
    assert world.fencing._task is None
    world = World(FenceSection(agent=""))
    world.fencing.engine_event(OPENED)
    assert world.fencing._task is None


@inside
async def test_a_program_that_hangs_is_stopped_with_all_it_began(tmp_path: Path) -> None:
    agent = program(
        tmp_path, f"trap '' TERM; sleep 600 & echo $! > {tmp_path}/child; cat >&2; wait; wait"
    )
    world = World(FenceSection(agent=agent, check_s=0, timeout_s=1, policy="before"))
    world.fencing.look(wanted=True)
    await world.until(lambda: bool(world.outcomes()))
    world.fencing.look(wanted=False)
    await world.fencing.stop()
    assert world.outcomes() == {"timed_out": 1}
    child = int((tmp_path / "child").read_text())
    await world.until(lambda: not alive(child))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "XZ"
    except FileNotFoundError:
        return False


@inside
async def test_a_flood_of_output_is_read_and_forgotten(tmp_path: Path) -> None:
    agent = program(tmp_path, "head -c 3000000 /dev/zero | tr '\\0' x; echo the end; exit 1")
    world = World(FenceSection(agent=agent, check_s=0, policy="before"))
    world.fencing.look(wanted=True)
    await world.until(lambda: bool(world.outcomes()))
    await world.fencing.stop()
    last = world.fencing.status().last
    assert last is not None
    assert last.sentence.endswith("xthe end")
    assert len(last.sentence) < 500


@inside
async def test_a_program_that_is_gone_is_told(tmp_path: Path) -> None:
    world = World(FenceSection(agent=str(tmp_path / "gone"), policy="before"))
    world.fencing.look(wanted=True)
    await world.until(lambda: bool(world.outcomes()))
    await world.fencing.stop()
    assert world.outcomes() == {"not_run": 1}
    last = world.fencing.status().last
    assert last is not None
    assert "No such file" in last.sentence


@inside
async def test_status_as_action_fences_nobody(tmp_path: Path) -> None:
    world = World(FenceSection(agent=program(tmp_path, "exit 0"), check_s=0, action="status"))
    world.fencing.engine_event(OPENED)
    await world.until(lambda: bool(world.outcomes()))
    assert not world.fenced
    assert not world.fencing.status().fenced


@inside
async def test_debian_s_own_agent(tmp_path: Path) -> None:
    state = tmp_path / "status"
    state.write_text("on")
    options = Options(("type=file", f"status_file={state}"))
    world = World(FenceSection(agent=DUMMY, timeout_s=20, check_s=3600), options)
    world.fencing.start()
    await world.until(lambda: world.fencing.status().check is not None)
    check = world.fencing.status().check
    assert check is not None
    assert check.outcome == "succeeded", check.sentence
    world.fencing.engine_event(OPENED)
    await world.until(lambda: bool(world.outcomes()))
    await world.fencing.stop()
    assert world.outcomes() == {"succeeded": 1}
    assert state.read_text().strip() == "off"


@inside
async def test_what_has_failed_can_be_stopped_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(World):
        def _told(self, term: int) -> None:
            raise RuntimeError("an invariant")

    world = Broken(FenceSection(agent=program(tmp_path, "exit 0"), check_s=0))
    world.fencing.engine_event(OPENED)
    await world.until(lambda: world.fencing._task is not None and world.fencing._task.done())
    await world.fencing.stop()
    assert "an invariant" in caplog.text
