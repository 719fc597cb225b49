# SPDX-License-Identifier: Apache-2.0
"""Hooks: real programs, told late, one at a time, within bounds of time and output."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from twinbeat import programs
from twinbeat.api import schema
from twinbeat.config.model import Config
from twinbeat.config.nodes import NodeSection, PairSection, PeerSection
from twinbeat.config.service import HookSection
from twinbeat.programs import Program
from twinbeat.runtime.hooks import Hooks
from unit.clocks import Loop, skip

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def config(*hooks: HookSection) -> Config:
    return Config(
        node=NodeSection(name="a", index=0),
        pair=PairSection(id=7),
        peer=PeerSection(name="b"),
        links=(),
        vrids=(),
        hooks=hooks,
    )


def transition(role: str, term: int = 4, before: str = "secondary") -> schema.Transition:
    return schema.Transition(
        number=1,
        time="",
        at_ns=5,
        realtime_offset_ns=0,
        boot="",
        from_role=schema.Role(before),
        to_role=schema.Role(role),
        reason="peer_dead",
        sentence="b fell silent",
        term=term,
    )


def text(path: Path) -> str:
    """What is in it, nothing while it isn't there."""
    return path.read_text() if path.exists() else ""


def written(path: Path) -> bool:
    return path.exists()


def touch(path: Path) -> None:
    path.touch()


async def at_once() -> None:
    """Nothing to come after."""


async def until(holds: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "never came"
        await asyncio.sleep(0.005)


def run(test: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(test())


class TestProgram:
    def test_says_how_it_ended_and_what_it_wrote(self) -> None:
        async def test() -> None:
            command = ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]
            finished = await Program(command, ENVIRONMENT).run(timeout_s=60)
            assert (finished.code, finished.good) == (3, False)
            assert finished.output == "out\nerr\n"
            assert finished.sentence() == "ended with 3"

        run(test)

    def test_has_nothing_of_the_agents(self) -> None:
        async def test() -> None:
            script = (
                "env; echo nice $(nice); echo group $(ps -o pgid= -p $$) $$; readlink /proc/$$/fd/0"
            )
            finished = await Program(["/bin/sh", "-c", script], {"A": "1"}).run(timeout_s=60)
            lines = finished.output.splitlines()
            names = {line.partition("=")[0] for line in lines if "=" in line}
            assert names <= {"A", "PWD", "_", "SHLVL", "OLDPWD"}
            assert "nice 0" in lines
            (group,) = [line.split() for line in lines if line.startswith("group")]
            assert group[1] == group[2]
            assert "/dev/null" in lines

        before = os.getpriority(os.PRIO_PROCESS, 0)
        if os.geteuid() == 0:
            os.setpriority(os.PRIO_PROCESS, 0, -7)
        try:
            run(test)
        finally:
            os.setpriority(os.PRIO_PROCESS, 0, before)

    def test_that_hangs_is_killed_with_its_group(self, tmp_path: Path) -> None:
        async def test() -> None:
            note = tmp_path / "child"
            script = (
                f"trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >{note}; sleep 60' & wait; sleep 60"
            )
            command = ["/bin/sh", "-c", script]
            running = asyncio.create_task(Program(command, ENVIRONMENT).run(timeout_s=60))
            await until(lambda: text(note))
            skip(60)
            finished = await running
            assert finished.timed_out
            assert finished.code == -9
            assert finished.sentence() == "took too long and was killed"
            child = int(text(note))
            await until(lambda: _is_dead(child))

        run(test)

    def test_that_floods_is_not_listened_to(self) -> None:
        async def test() -> None:
            finished = await Program(["/usr/bin/yes"], ENVIRONMENT).run(timeout_s=60)
            assert finished.flooded
            assert not finished.timed_out, "its pipe is closed, so it ends by itself"
            assert len(finished.output) == programs.OUTPUT_KEPT

        run(test)

    def test_that_leaves_a_daemon_behind_is_over(self, tmp_path: Path) -> None:
        async def test() -> None:
            note = tmp_path / "pid"
            command = ["/bin/sh", "-c", f"echo here; sleep 1000 & echo $! >{note}; exit 0"]
            finished = await Program(command, ENVIRONMENT).run(timeout_s=60)
            assert finished.good
            assert finished.output == "here\n"
            assert not finished.timed_out
            with contextlib.suppress(ProcessLookupError):  # It may be taken for the program's.
                os.kill(int(text(note)), signal.SIGKILL)

        run(test)

    def test_that_is_not_there_is_refused(self) -> None:
        async def test() -> None:
            finished = await Program(["/nowhere/at/all"], ENVIRONMENT).run(timeout_s=60)
            assert "/nowhere/at/all" in finished.sentence()
            assert finished.refused

        run(test)

    def test_of_a_cancelled_caller_dies_with_it(self, tmp_path: Path) -> None:
        async def test() -> None:
            note = tmp_path / "pid"
            command = ["/bin/sh", "-c", f"echo $$ >{note}; sleep 60"]
            running = asyncio.create_task(Program(command, ENVIRONMENT).run(timeout_s=60))
            await until(lambda: text(note))
            running.cancel()
            await asyncio.wait([running])
            await until(lambda: _is_dead(int(text(note))))

        run(test)


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


class TestHooks:
    @pytest.fixture
    def note(self, tmp_path: Path) -> Path:
        """A hook's script writes what it is told here."""
        return tmp_path / "note"

    def test_are_told_the_role_and_why(self, tmp_path: Path, note: Path) -> None:
        script = program(
            tmp_path / "tell",
            f'env | grep ^TWINBEAT_ | sort >"{note}.new"; mv "{note}.new" "{note}"',
        )

        async def test() -> None:
            hooks = Hooks(first=at_once)
            hooks.apply(config(HookSection(name="tell", exec=str(script))))
            hooks.transition(transition("claiming"))
            hooks.transition(transition("primary", term=2, before="primary"))
            assert hooks.status()[0].waiting == [], "that reign goes on"
            hooks.transition(transition("primary"))
            await until(lambda: written(note))
            told = dict(line.split("=", 1) for line in text(note).splitlines())
            assert told | {"TWINBEAT_TIME": ""} == {
                "TWINBEAT_EVENT": "primary",
                "TWINBEAT_FROM": "secondary",
                "TWINBEAT_HOOK": "tell",
                "TWINBEAT_NODE": "a",
                "TWINBEAT_PAIR": "7",
                "TWINBEAT_PEER": "b",
                "TWINBEAT_REASON": "peer_dead",
                "TWINBEAT_ROLE": "primary",
                "TWINBEAT_SENTENCE": "b fell silent",
                "TWINBEAT_TERM": "4",
                "TWINBEAT_TIME": "",
            }
            await until(lambda: hooks.status()[0].runs == 1)
            (known,) = hooks.status()
            assert (known.last_event, known.last_exit_code, known.last_good) == ("primary", 0, True)
            await hooks.stop()

        run(test)

    def test_of_news_that_wait_only_the_newest_is_told(self, tmp_path: Path, note: Path) -> None:
        go = tmp_path / "go"
        script = program(
            tmp_path / "slow",
            f'echo $TWINBEAT_EVENT >>"{note}"; until [ -e "{go}" ]; do sleep 0.01; done',
        )

        async def test() -> None:
            hooks = Hooks(first=at_once)
            events = ("primary", "secondary", "fault")
            hooks.apply(config(HookSection(name="slow", exec=str(script), events=events)))
            hooks.transition(transition("primary"))
            await until(lambda: text(note))
            for _ in range(50):
                hooks.transition(transition("secondary", before="primary"))
                hooks.transition(transition("primary"))
            hooks.transition(transition("secondary", before="primary"))
            hooks.look(unfit=[], peer_alive=True)
            hooks.look(unfit=[("gate_missing", "a gate is missing")], peer_alive=True)
            # Nobody has waited for the hook, which would wait without end.
            (known,) = hooks.status()
            assert known.running == "primary"
            assert (known.waiting, known.skipped) == (["secondary", "fault"], 100)
            touch(go)
            await until(lambda: hooks.status()[0].runs == 3)
            assert text(note).split() == ["primary", "secondary", "fault"]
            await hooks.stop()

        run(test)

    def test_of_a_role_come_after_its_routes(self, tmp_path: Path, note: Path) -> None:
        script = program(tmp_path / "tell", f'touch "{note}"')
        other = program(tmp_path / "other", "exit 0")

        async def test() -> None:
            asked, routes_stand = asyncio.Event(), asyncio.Event()

            async def first() -> None:
                asked.set()
                await routes_stand.wait()

            hooks = Hooks(first=first)
            hooks.apply(config(HookSection(name="tell", exec=str(script))))
            hooks.transition(transition("primary"))
            await until(asked.is_set)
            # Whatever was started before `first` was asked would be done by now: this one is.
            assert (await Program([str(other)], ENVIRONMENT).run(timeout_s=60)).good
            (known,) = hooks.status()
            assert (known.running, known.waiting, known.runs) == (None, ["primary"], 0)
            assert not written(note)
            routes_stand.set()
            await until(lambda: written(note))
            await hooks.stop()

        run(test)

    def test_one_that_is_stopped_before_its_routes_stand_ends_in_peace(self) -> None:
        async def test() -> None:
            asked, routes_stand = asyncio.Event(), asyncio.Event()

            async def first() -> None:
                asked.set()
                await routes_stand.wait()

            hooks = Hooks(first=first)
            hooks.apply(config(HookSection(name="tell", exec="/bin/true")))
            hooks.transition(transition("primary"))
            await asked.wait()
            stopping = asyncio.ensure_future(hooks.stop())
            await until(lambda: hooks.status()[0].waiting == [])
            routes_stand.set()
            await stopping
            task = hooks._hooks["tell"]._task
            assert task is not None
            assert task.exception() is None
            assert hooks.status()[0].runs == 0

        run(test)

    def test_a_failure_is_counted_and_logged(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        bad = program(tmp_path / "bad", "echo no such printer; exit 7")

        async def test() -> None:
            hooks = Hooks(first=at_once)
            sections = [
                HookSection(name="bad", exec=str(bad)),
                HookSection(name="gone", exec="/nowhere/at/all"),
            ]
            hooks.apply(config(*sections))
            hooks.transition(transition("secondary", before="primary"))
            await until(lambda: all(one.runs == 1 for one in hooks.status()))
            bad_one, gone = hooks.status()
            assert (bad_one.outcomes, bad_one.last_exit_code) == ({"failed": 1}, 7)
            assert bad_one.last_output == "no such printer\n"
            assert gone.outcomes == {"refused": 1}
            await hooks.stop()

        run(test)
        assert "hook bad (secondary) ended with 7" in caplog.text
        assert "no such printer" in caplog.text
        assert "hook gone (secondary) could not be started" in caplog.text

    def test_the_first_look_is_no_news(self, tmp_path: Path, note: Path) -> None:
        script = program(tmp_path / "tell", f'echo $TWINBEAT_EVENT >>"{note}"')
        every = ("fault", "fit", "peer-lost", "peer-found")

        async def test() -> None:
            hooks = Hooks(first=at_once)
            hooks.apply(config(HookSection(name="tell", exec=str(script), events=every)))
            unfit = [("isolated", "a is cut off")]
            hooks.look(unfit=unfit, peer_alive=False)
            assert hooks.status()[0].runs == 0
            for number, (reasons, alive) in enumerate(
                [(unfit, True), ([], True), (unfit, True), (unfit, False)], 1
            ):
                hooks.look(unfit=reasons, peer_alive=alive)
                await until(lambda number=number: hooks.status()[0].runs == number)
            assert text(note).split() == ["peer-found", "fit", "fault", "peer-lost"]
            await hooks.stop()

        run(test)

    def test_a_reload_keeps_what_did_not_change(self, tmp_path: Path) -> None:
        script = program(tmp_path / "tell", "exit 0")

        async def test() -> None:
            hooks = Hooks(first=at_once)
            section = HookSection(name="tell", exec=str(script))
            hooks.apply(config(section))
            hooks.transition(transition("primary"))
            await until(lambda: hooks.status()[0].runs == 1)
            hooks.apply(config(section, HookSection(name="more", exec=str(script))))
            assert [one.runs for one in hooks.status()] == [1, 0]
            hooks.apply(config(msgspec.structs.replace(section, timeout_s=5)))
            assert [one.runs for one in hooks.status()] == [0]
            await hooks.stop()

        run(test)

    def test_the_end_of_the_agent_takes_a_hanging_one_down(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        note = tmp_path / "pid"
        script = program(tmp_path / "hang", f'echo $$ >"{note}"; sleep 60')
        monkeypatch.setattr("twinbeat.runtime.hooks.STOP_S", 0.1)

        async def test() -> None:
            hooks = Hooks(first=at_once)
            hooks.apply(config(HookSection(name="hang", exec=str(script))))
            hooks.transition(transition("primary"))
            await until(lambda: text(note))
            await hooks.stop()
            await until(lambda: _is_dead(int(text(note))))

        run(test)
