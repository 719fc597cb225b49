# SPDX-License-Identifier: Apache-2.0
"""`twinbeat top`: both nodes, again and again; a screen on a terminal, lines everywhere else."""

import os
import sys
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
    """Both nodes live: roles, terms, leases, links with the gaps between heartbeats, lateness.

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
    """Asks the agent of this node, and through the worker that of the other one."""

    def __init__(self, own: Client, worker: Client) -> None:
        self._own = own
        self._worker = worker

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
        try:
            told.peer = self._peer("/v1/status", Status)
            told.peer_counters = self._peer("/v1/counters", Counters)
        except (ClientError, msgspec.DecodeError) as error:
            told.peer, told.peer_why = None, f"{error}"
        return told

    def _peer(self, target: str, kind: type[Answered]) -> Answered:
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
