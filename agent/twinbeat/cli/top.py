# SPDX-License-Identifier: Apache-2.0
"""`twinbeat top`: both nodes, again and again; a screen on a terminal, lines everywhere else."""

import os
import sys
import threading
import time

import click
import msgspec

from twinbeat.api.client import Client, ClientError, ForbiddenError
from twinbeat.api.schema import Counters, History, Problem, Status
from twinbeat.cli.base import (
    Answered,
    Exit,
    Seconds,
    Stop,
    color,
    readable,
    say,
    say_json,
    settings,
)
from twinbeat.cli.topview import Picture, Told, Tracker, line

INTERVAL_MIN_S = 0.2
"""Asked more often, the agent would be busy with the answers."""
TRANSITIONS = 5
PATIENCE_S = 2.0
"""So long a picture waits for the other node."""


@click.command()
@click.option(
    "--interval",
    "-i",
    type=Seconds(INTERVAL_MIN_S, 60),
    default=1.0,
    metavar="SECONDS",
    help="How often the nodes are asked; 1.",
)
@click.option("--count", "-c", type=click.IntRange(1), help="So many times, then end.")
@click.option("--plain", is_flag=True, help="Lines, also on a terminal.")
@readable
def top(interval: float, count: int | None, plain: bool) -> int:
    """Both nodes live: roles, terms, leases, the gaps between heartbeats of each link, lateness,
    sync, sessions, connections, log records.

    On a terminal q ends it and p holds the picture. Without one there is a line for each node at
    each interval, with --json an object. An agent that goes away is waited for.
    """
    source = Source(settings().client, settings().worker)
    first = source.ask()
    if first.own is None:
        raise Stop(first.code, f"{first.why}. Is twinbeatd running?")
    if plain or settings().json or not _on_terminal():
        return _lines(source, first, interval, count)
    try:
        from twinbeat.cli import topscreen
    except ImportError as error:
        needs = f"the screen needs the package rich ({error}); --plain prints lines without it"
        raise Stop(Exit.NO, needs) from error
    colored = color() is not False
    return topscreen.run(source.ask, first, interval, count, colored=colored)


class Source:
    """Asks the agent of this node, and through the worker that of the other one.

    The worker may hang: it is asked in a thread of its own, and waited for no longer than
    PATIENCE_S in all before this node is shown without it.
    """

    def __init__(self, own: Client, worker: Client) -> None:
        self._own = own
        self._worker = worker
        self._asking: _Asking | None = None

    def ask(self) -> Told:
        """What both nodes say now; never raises for a node that doesn't answer."""
        told = Told(at_s=time.monotonic(), time=time.strftime("%H:%M:%S"))
        try:
            told.own = msgspec.json.decode(self._own.get("/v1/status").body, type=Status)
            counters = self._own.get("/v1/counters").body
            told.own_counters = msgspec.json.decode(counters, type=Counters)
            history = self._own.get(f"/v1/history?limit={TRANSITIONS}").body
            told.transitions = msgspec.json.decode(history, type=History).transitions
        except (ClientError, msgspec.DecodeError) as error:
            told.own, told.why = None, f"{error}"
            told.code = Exit.PERMISSION if isinstance(error, ForbiddenError) else Exit.UNREACHABLE
            return told
        answered = self._of_peer()
        if isinstance(answered, str):
            told.peer_why = answered
        else:
            told.peer, told.peer_counters = answered
        return told

    def _of_peer(self) -> "Answers | str":
        """What the other node says, or why it doesn't."""
        asking = self._asking or _Asking(self._worker)
        asking.done.wait(max(0.0, asking.since_s + PATIENCE_S - time.monotonic()))
        if not asking.done.is_set():
            self._asking = asking  # One question at a time, however long the worker hangs.
            return f"the worker has not answered for {time.monotonic() - asking.since_s:.0f} s"
        late, self._asking = self._asking is not None, None
        # What was true when a hung worker was asked isn't now.
        return self._of_peer() if late else asking.answer


Answers = tuple[Status, Counters]


class _Asking:
    """One question to the other node, in a thread that nobody has to wait for."""

    def __init__(self, worker: Client) -> None:
        self.since_s = time.monotonic()
        self.done = threading.Event()
        self.answer: Answers | str = ""
        self._worker = worker
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self.answer = self._get("/v1/status", Status), self._get("/v1/counters", Counters)
        except (ClientError, msgspec.DecodeError) as error:
            self.answer = f"{error}"
        finally:
            self.done.set()

    def _get(self, target: str, kind: type[Answered]) -> Answered:
        answer = self._worker.get(f"/v1/peer?what={target}")
        if answer.status != 200:
            try:
                problem = msgspec.json.decode(answer.body, type=Problem)
            except msgspec.DecodeError:
                raise ClientError(f"the worker answered {answer.status}") from None
            raise ClientError(problem.sentence)
        return msgspec.json.decode(answer.body, type=kind)


def _on_terminal() -> bool:
    usable = os.environ.get("TERM", "dumb") not in {"", "dumb"}
    return usable and sys.stdin.isatty() and sys.stdout.isatty()


def _lines(source: Source, told: Told, interval: float, count: int | None) -> int:
    """Without a terminal."""
    tracker = Tracker()
    number = 0
    while True:
        picture = tracker.take(told)
        _print(picture)
        number += 1
        if count is not None and number >= count:
            return Exit.OK
        time.sleep(max(0.0, told.at_s + interval - time.monotonic()))
        told = source.ask()


def _print(picture: Picture) -> None:
    if settings().json:
        say_json(picture)
    elif picture.lost:
        say(f"{picture.time} {picture.lost}")
    else:
        for node in picture.nodes:
            say(line(picture, node))
    sys.stdout.flush()
