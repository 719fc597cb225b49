# SPDX-License-Identifier: Apache-2.0
"""Carries out what `Course` says: runs conntrackd as a child, tells it what is due, reads what it
says, and keeps the table of nftables as the configuration wants it.

One thing after the other, in one loop; every program has its time. conntrackd is killed with the
process that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from twinbeat.programs import Finished, Program
from twinbeat.sessions import conntrackd, strays
from twinbeat.sessions.connections import (
    COUNTS,
    ConnectionsBrief,
    ConnectionSettings,
    Course,
    Order,
    Phase,
    Seen,
)
from twinbeat.sessions.conntrackd import PATH, PROGRAMS
from twinbeat.sessions.kernel import KernelError, Maps

log = logging.getLogger("twinbeat.worker")

LOOK_S: Final = 1.0
"""Between two looks."""
DETAILS_S: Final = 5.0
"""Between two looks at what takes programs of its own."""
ANSWER_S: Final = 5.0
"""Until then a program has to be done."""
GRACE_S: Final = 2.0
"""Between SIGTERM and SIGKILL."""
SAID_MOST: Final = 512
"""Bytes of the last line of conntrackd's that explain its end."""


class Keeper:
    """The state of connections on this node."""

    def __init__(self, directory: Path) -> None:
        """``directory``: of this process alone to write to; conntrackd's files lie there."""
        self._directory = directory
        self._course = Course()
        self._settings = ConnectionSettings()
        self._told = False
        """Somebody has said what is wanted: until then all stays as an earlier worker left it."""
        self._looked = False
        """And that was carried out once, as far as it could be."""
        self._primary: bool | None = None
        self._peer_alive = False
        self._look_now = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None
        self._with = ConnectionSettings()
        """What the child was started with."""
        self._said = ""
        self._reading: asyncio.Task[None] | None = None
        self._rules: tuple[str, str] | None = None
        """What stands in nftables, and why it could not; None: not known."""
        self._gone = False
        """It doesn't stand there, as it was looked at last."""
        self._run: dict[str, int] = {}
        """Counts of this run of conntrackd."""
        self._before: Counter[str] = Counter()
        """Of all runs that are over, and what is counted here."""
        self._tracked = self._unconfirmed = 0
        self._flows = -1
        self._details_s = -DETAILS_S
        self._kernel: dict[str, int] = {}
        self._synced_s = 0
        self._phase = Phase.OFF
        self.changed: Callable[[], None] = lambda: None
        """Called when the phase is another."""

    # -- what is wanted --------------------------------------------------------------------------

    def configure(self, settings: ConnectionSettings) -> None:
        """What is in force from now on."""
        if not self._told or settings != self._settings:
            self._told, self._settings = True, settings
            self._look_now.set()

    def stand(self, *, primary: bool | None, peer_alive: bool) -> None:
        """Roles as they are now; None: nobody says."""
        if (primary, peer_alive) != (self._primary, self._peer_alive):
            self._primary, self._peer_alive = primary, peer_alive
            self._look_now.set()

    # -- life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled; conntrackd ends with it."""
        try:
            while True:
                self._look_now.clear()
                if self._told:
                    await self._look()
                    self._looked = True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._look_now.wait()
        finally:
            await self._end()

    async def _look(self) -> None:
        settings, course = self._settings, self._course
        await self._keep_rules()
        now_s = time.monotonic()
        if self._child is not None and self._child.returncode is not None:
            await self._ended_by_itself(now_s)
        elif self._child is not None and course.hung(now_s):
            await self._end()
            self._before["ends"] += 1
            self._failed(now_s, "it answered nothing any more and was ended")
        running = self._child is not None
        seen = Seen(
            now_s=now_s,
            primary=self._primary,
            peer_alive=self._peer_alive,
            enabled=settings.enabled,
            running=running,
        )
        wanted = course.wanted(seen)
        if running and (not wanted or course.stale or _run_by(self._with) != _run_by(settings)):
            await self._end()
        if wanted and self._child is None:
            await self._start(settings)
        if self._child is not None:
            await self._tend(seen, settings)
        if settings.enabled and now_s - self._details_s >= DETAILS_S:
            self._details_s = now_s
            await self._details()
        if course.phase is not self._phase:
            self._phase_is(course.phase)

    def _phase_is(self, phase: Phase) -> None:
        tell = log.error if phase is Phase.FAILED else log.info
        fields = {"event": "connections", "reason": phase.value}
        tell("connections: %s", self._course.sentence, extra={"fields": fields})
        if phase is Phase.SYNCED:
            self._synced_s = int(time.time())
        self._phase = phase
        self.changed()

    # -- the child -------------------------------------------------------------------------------

    async def _start(self, settings: ConnectionSettings) -> None:
        now_s = time.monotonic()
        program, wrapper = (shutil.which(name, path=PATH) for name in ("conntrackd", "setpriv"))
        if program is None or wrapper is None:
            missing = "conntrackd" if program is None else "setpriv"
            why = f"{missing} is not installed (`apt install {PROGRAMS[missing]}`)"
            self._failed(now_s, why)
            return
        try:
            file = self._directory / "conntrackd.conf"
            file.write_text(conntrackd.configuration(settings, self._directory))
            # Ours alone: whoever left them is gone.
            for name in ("conntrackd.lock", "conntrackd.ctl"):
                (self._directory / name).unlink(missing_ok=True)
            # From this thread, the main one: the kernel ends the child with the thread that made
            # it. Its group is its own, so that what is meant for the worker's isn't for it.
            self._child = await asyncio.create_subprocess_exec(
                *[wrapper, "--pdeathsig", "KILL", "--", program, "-C", str(file)],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={"PATH": PATH, "LC_ALL": "C"},
                cwd="/",
                start_new_session=True,
                umask=0o077,
            )
        except OSError as error:
            self._failed(now_s, f"it can't be started: {error.strerror or error}")
            return
        self._before["starts"] += 1
        self._with, self._said = settings, ""
        self._course.started(now_s)
        assert self._child.stdout is not None
        self._reading = asyncio.create_task(self._listen(self._child.stdout))

    async def _listen(self, output: asyncio.StreamReader) -> None:
        """Its last words explain its end; the pipe must not fill."""
        while piece := await output.read(4096):
            lines = (self._said + piece.decode("utf-8", "replace"))[-4096:]
            self._said = lines
            log.debug("conntrackd: %s", piece.decode("utf-8", "replace").strip())

    async def _ended_by_itself(self, now_s: float) -> None:
        assert self._child is not None
        code = self._child.returncode
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=0.2)
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"ended with {code}"
        words = [line.strip() for line in self._said.splitlines() if line.strip()]
        last = f": {words[-1][-SAID_MOST:]}" if words else ""
        self._bury()
        self._before["ends"] += 1
        self._failed(now_s, f"it {how}{last}")

    def _failed(self, now_s: float, why: str) -> None:
        self._course.ended(now_s, why)

    async def _end(self) -> None:
        child = self._child
        if child is None:
            return
        for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
            if child.returncode is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await child.wait()
        self._bury()

    def _bury(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._before.update(self._run)
        self._run = {}
        self._tracked = self._unconfirmed = 0
        self._child = self._reading = None

    # -- what it says, and is told ---------------------------------------------------------------

    async def _tend(self, seen: Seen, settings: ConnectionSettings) -> None:
        said = await self._client("-s")
        tracked, counts = conntrackd.general(said.output) if said.good else (None, {})
        if tracked is not None:
            self._tracked = tracked
            self._run |= counts
        now = Seen(
            now_s=time.monotonic(),
            primary=seen.primary,
            peer_alive=seen.peer_alive,
            enabled=True,
            running=True,
            answers=tracked is not None,
            received=counts.get("received_packets", 0),
            installed=counts.get("installed", 0),
        )
        order = self._course.due(now, settings.refresh_s)
        if order is not None:
            await self._order(order)

    async def _order(self, order: Order) -> None:
        done = await self._client(*order.value)
        if not done.good:
            self._before["command_failures"] += 1
            log.warning("conntrackd %s %s", " ".join(order.value), done.sentence())

    async def _client(self, *words: str) -> Finished:
        file = str(self._directory / "conntrackd.conf")
        return await _do("conntrackd", "-C", file, *words)

    async def _details(self) -> None:
        if self._child is not None:
            runtime, queue = await self._client("-s", "runtime"), await self._client("-s", "queue")
            self._run |= conntrackd.runtime(runtime.output)
            self._unconfirmed, counts = conntrackd.queue(queue.output)
            self._run |= counts
        found = await _do("conntrack", "-C")
        first = found.output.split()[:1]
        self._flows = int(first[0]) if found.good and first and first[0].isdecimal() else -1
        self._kernel |= conntrackd.kernel((await _do("conntrack", "-S")).output)
        if self._rules is not None:
            counted = _counted()
            self._kernel |= counted or {}
            # Whoever restarts Debian's nftables.service empties all tables, ours too.
            self._gone = bool(self._rules[1]) or (counted is not None and not counted)

    # -- nftables --------------------------------------------------------------------------------

    async def _keep_rules(self) -> None:
        settings = self._settings
        wanted = strays.rules(settings) if settings.enabled else strays.none()
        if self._rules is not None and self._rules[0] == wanted and not self._gone:
            return
        self._gone = False
        if self._rules is None and not settings.enabled and not await self._stands():
            self._rules = wanted, ""
            return
        # With the table its counters go.
        for name in strays.COUNTERS:
            self._before[name] += self._kernel.pop(name, 0)
        file = self._directory / "connections.nft"
        try:
            file.write_text(wanted)
        except OSError as error:
            why = f"{file} can't be written: {error.strerror}"
        else:
            done = await _do("nft", "-f", str(file))
            why = "" if done.good else f"nft {done.sentence()}: {done.output.strip()[:SAID_MOST]}"
        if why and why != (self._rules or ("", ""))[1]:
            log.error("the table %s of nftables isn't as it should be: %s", strays.TABLE, why)
        self._rules = wanted, why

    async def _stands(self) -> bool:
        return (await _do("nft", "list", "table", "inet", strays.TABLE)).good

    # -- what there is to see --------------------------------------------------------------------

    def brief(self) -> ConnectionsBrief | None:
        """How it stands; None before there is anything to say."""
        if not self._looked:
            return None
        course, counts = self._course, self._before + Counter(self._run) + Counter(self._kernel)
        heard_s = course.heard_s(time.monotonic()) if self._child is not None else None
        rules, why = self._rules or ("", "")
        return ConnectionsBrief(
            state=course.phase.value,
            sentence=course.sentence[:1024],
            process=self._child.pid if self._child is not None else 0,
            flows=self._flows,
            tracked=self._tracked,
            unconfirmed=self._unconfirmed,
            heard_ms=-1 if heard_s is None else int(heard_s * 1000),
            synced_s=self._synced_s,
            fill_ms=-1 if course.filled_s < 0 else int(course.filled_s * 1000),
            strays_dropped=self._settings.enabled
            and self._settings.drop_strays
            and bool(rules)
            and not why,
            strays_error=why[:1024],
            counts={name: counts.get(name, 0) for name in COUNTS},
        )


def _run_by(settings: ConnectionSettings) -> ConnectionSettings:
    """What conntrackd has to be started anew for."""
    return replace(settings, drop_strays=False, refresh_s=0, vips=())


def _counted() -> dict[str, int] | None:
    """What our table counts, nothing where it isn't there; None: it can't be asked for. Not by
    `nft`, which reads all elements of everybody's maps before it lists a counter."""
    try:
        with contextlib.closing(Maps()) as asked:
            return asked.counters(strays.TABLE)
    except (OSError, KernelError):
        return None


async def _do(name: str, *words: str) -> Finished:
    """Run a program of the system's."""
    program = shutil.which(name, path=PATH)
    if program is None:
        return Finished(code=None, output="", length_ns=0, refused=f"{name} is not installed")
    environment = {"PATH": PATH, "LC_ALL": "C"}
    run = functools.partial(Program, kept=16384, patient=True)
    return await run([program, *words], environment).run(timeout_s=ANSWER_S)
