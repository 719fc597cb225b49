# SPDX-License-Identifier: Apache-2.0
"""Power fencing of a peer that was found dead, by a fence agent of ClusterLabs.

The contract (https://github.com/ClusterLabs/fence-agents/blob/main/doc/FenceAgentAPI.md): options
on standard input, one `key=value` a line, `action` among them; exit 0 is success.  They go nowhere
else, as arguments and environments can be read by others; what the program prints is shown and
logged with every value of the secrets file struck out.

When: with the policy `after` once this node opened its gate by silence, with nobody waiting for it;
with `before` as soon as an unfenced peer is all that keeps this node from claiming.  Then the core
waits, and it is told when the peer is fenced.  An attempt that began runs to its end.  A failed one
is repeated: after a pause for as long as somebody waits, otherwise a few times.

Nothing of this runs in the loop that decides but its beginning and its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Final

from msgspec.structs import replace

from twinbeat.api import schema
from twinbeat.api.text import length, moment, realtime_offset_ns
from twinbeat.config.arbiters import FenceSection
from twinbeat.config.secrets import Options
from twinbeat.core.events import EngineEvent
from twinbeat.core.types import Cause, EngineEventKind

log = logging.getLogger("twinbeat.fence")

OUTPUT_MAX: Final = 4096
"""What of a program's output is kept; the rest is read and forgotten."""
TOLD_MAX: Final = 300
"""What of it is shown: its end, where the reason stands."""
RETRY_S: Final = 5.0
ATTEMPTS_BESIDE: Final = 3
"""Attempts under the policy `after`, where nobody waits for the outcome."""
GRACE_S: Final = 2.0
"""Between asking a program to end and ending it."""
SECRET_MIN: Final = 3
"""Shorter values are no secrets, and striking them out would leave nothing to read."""

_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_BY_SILENCE: Final = frozenset({Cause.SILENCE, Cause.LEASE_RAN_OUT, Cause.WITNESSED})
"""Openings of which the peer gave no receipt."""
_HEARD: Final = frozenset({EngineEventKind.HEARD, EngineEventKind.CLEARED, EngineEventKind.STALLED})

Publish = Callable[..., None]


class Fencing:
    """One peer to fence. All methods are for the deciding loop's thread."""

    def __init__(
        self,
        *,
        section: FenceSection,
        options: Options,
        peer: str,
        now_ns: Callable[[], int],
        publish: Publish,
        heard: Callable[[], int],
        fenced: Callable[[int], None],
    ) -> None:
        """`publish` is the teller's. `heard`: counter of the peer's newest frame; `fenced` tells
        the core that its power was cut, and what that counter was then."""
        self._section = section
        self._options = options
        self._peer = peer
        self._now_ns = now_ns
        self._publish = publish
        self._heard = heard
        self._tell_fenced = fenced
        self._task: asyncio.Task[None] | None = None
        self._checks: asyncio.Task[None] | None = None
        self._waited_for = False
        self._running = ""
        self._attempts = 0
        self._fenced = False
        self._hearings = 0
        """How often the peer was heard anew."""
        self._unheard_since = 0
        """That many, when it was last taken over from in silence."""
        self._last: schema.Fencing | None = None
        self._check: schema.Fencing | None = None
        self.outcomes: Counter[str] = Counter()
        """Attempts to fence, not checks, by outcome."""

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Check the device now and then, if there is one."""
        self._restart_checks()

    def apply(self, section: FenceSection, options: Options) -> None:
        """A reload. An attempt under way goes on as it began."""
        if (section, options) != (self._section, self._options):
            self._section, self._options = section, options
            self._check = None
            self._restart_checks()

    async def stop(self) -> None:
        """End what runs: nobody is left to hear of it."""
        for task in (self._task, self._checks):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled() and (error := task.exception()) is not None:
                    log.error("fencing had failed", exc_info=error)

    def status(self) -> schema.Fence:
        """As it is now."""
        return schema.Fence(
            agent=self._section.agent,
            action=self._section.action,
            policy=self._section.policy,
            running=self._running,
            attempts=self._attempts,
            fenced=self._fenced,
            last=self._last,
            check=self._check,
        )

    # -- when ------------------------------------------------------------------------------------

    def engine_event(self, event: EngineEvent) -> None:
        """A listener of the loop."""
        if event.kind in _HEARD:
            self._fenced = False
            self._hearings += 1
            self._attempts = 0
        elif event.kind is EngineEventKind.OPENED and event.cause in _BY_SILENCE:
            # A reign that is only earned again has fenced its peer before, or never will.
            begun = Cause(event.b) is not Cause.RENEW
            if begun and self._section.policy == "after":
                self._unheard_since = self._hearings
                self._begin()

    def look(self, *, wanted: bool) -> None:
        """`wanted`: the core waits for the peer to be fenced. Called at each turn of the loop."""
        self._waited_for = wanted and self._section.policy == "before"
        if self._waited_for:
            # Of a success the core hears at once: it waits, so the peer was heard since.
            self._fenced = False
            self._begin()

    def _begin(self) -> None:
        busy = self._task is not None and not self._task.done()
        if self._section.agent and not busy and not self._fenced:
            self._task = self._spawn(self._fence())

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    async def _rest(self) -> None:
        """Between two attempts."""
        await asyncio.sleep(RETRY_S)

    async def _fence(self) -> None:
        """Attempts until one succeeds, or nobody needs it any more."""
        section, beside = self._section, self._section.policy == "after"
        self._attempts = 0
        # A peer that is heard is left alone, whoever waits for nothing.
        while self._unheard_since == self._hearings if beside else self._waited_for:
            self._attempts += 1
            hearings = self._hearings
            done = await self._run(section.action)
            self._last = done
            self.outcomes[done.outcome] += 1
            self._told(done)
            # Whoever was heard meanwhile was not, or is back: it may serve by now.
            if done.outcome == "succeeded" and self._hearings == hearings:
                if section.action != "status":
                    self._fenced = True
                    self._tell_fenced(self._heard())
                return
            if beside and self._attempts >= ATTEMPTS_BESIDE:
                return
            await self._rest()
            section = self._section

    def _told(self, done: schema.Fencing) -> None:
        level = logging.WARNING if done.outcome == "succeeded" else logging.ERROR
        fields = {
            "event": "fencing",
            "reason": done.outcome,
            "action": done.action,
            "duration_ns": done.duration_ns,
        }
        log.log(level, "%s", done.sentence, extra={"fields": fields})
        self._publish(
            "fencing",
            reason=done.outcome,
            sentence=done.sentence,
            fields={"action": done.action, "duration_ns": done.duration_ns},
        )

    # -- checks ----------------------------------------------------------------------------------

    def _restart_checks(self) -> None:
        if self._checks is not None:
            self._checks.cancel()
            self._checks = None
        if self._section.agent and self._section.check_s:
            self._checks = asyncio.get_running_loop().create_task(self._check_on())

    async def _check_on(self) -> None:
        while True:
            done = await self._run("monitor")
            before, self._check = self._check, done
            if done.outcome != "succeeded" and (before is None or before.outcome != done.outcome):
                log.error("%s", done.sentence)
            elif before is not None and before.outcome != done.outcome:
                log.info("%s", done.sentence)
            await asyncio.sleep(self._section.check_s)

    # -- the program -----------------------------------------------------------------------------

    async def _run(self, action: str) -> schema.Fencing:
        """One run of the program, told to the end."""
        section, options = self._section, self._options
        begun_ns = self._now_ns()
        fences = action != "monitor"
        if fences:
            self._running = action
        try:
            outcome, code, output = await _execute(
                section.agent, _asked(action, options), section.timeout_s
            )
        finally:
            if fences:
                self._running = ""
        ended_ns = self._now_ns()
        offset_ns = realtime_offset_ns()
        return replace(
            schema.Fencing(
                action=action,
                outcome=outcome,
                sentence="",
                time=moment(begun_ns + offset_ns),
                at_ns=begun_ns,
                duration_ns=ended_ns - begun_ns,
                exit_code=code,
            ),
            sentence=self._sentence(
                action, outcome, code, ended_ns - begun_ns, struck(output, options)
            ),
        )

    def _sentence(
        self, action: str, outcome: str, code: int | None, took_ns: int, output: str
    ) -> str:
        name = os.path.basename(self._section.agent)
        on = f"{name}, action {action} on {self._peer}"
        match outcome:
            case "succeeded":
                return f"{on}: succeeded after {length(took_ns)}"
            case "timed_out":
                why = f"was not done after {self._section.timeout_s} s and was stopped"
            case "not_run":
                return f"{on}: could not be run: {output}"
            case _:
                why = f"failed with code {code}"
        return f"{on}: {why}" + (f": {output}" if output else "")


def _asked(action: str, options: Options) -> bytes:
    return "".join(
        f"{line}\n" for line in (f"action={action}", *options.open, *options.secret)
    ).encode()


def struck(output: str, options: Options) -> str:
    """The end of an output on one line, with no value of a secret in it."""
    for line in options.secret:
        value = line.partition("=")[2]
        if len(value) >= SECRET_MIN:
            output = output.replace(value, "***")
    return " ".join(output.split())[-TOLD_MAX:]


async def _execute(agent: str, asked: bytes, timeout_s: float) -> tuple[str, int | None, str]:
    """Outcome, exit code, and what of the output was kept."""
    try:
        process = await asyncio.create_subprocess_exec(
            agent,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        return "not_run", None, error.strerror or str(error)
    with contextlib.suppress(OSError):
        # The agent's own share of the processors isn't meant for it.
        os.setpriority(os.PRIO_PROCESS, process.pid, 0)
    kept = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            await _converse(process, asked, kept)
            code = await process.wait()
    except TimeoutError:
        return "timed_out", None, _text(kept)
    finally:
        await _end(process)
    return ("succeeded" if code == 0 else "failed"), code, _text(kept)


def _text(kept: bytearray) -> str:
    return bytes(kept).decode("utf-8", "replace")


async def _converse(process: asyncio.subprocess.Process, asked: bytes, kept: bytearray) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(asked)
        await process.stdin.drain()
    process.stdin.close()
    while chunk := await process.stdout.read(OUTPUT_MAX):
        kept += chunk
        del kept[:-OUTPUT_MAX]


async def _end(process: asyncio.subprocess.Process) -> None:
    """See to it that it is gone, with whatever it began."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await process.wait()
