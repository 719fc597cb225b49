# SPDX-License-Identifier: Apache-2.0
"""`twinbeat history` and `twinbeat events`: what happened, and how long each step took."""

from collections.abc import Iterator
from typing import Final

import click
import msgspec

from twinbeat.api.schema import Event, History, Transition
from twinbeat.api.text import length, moment
from twinbeat.cli.base import (
    Exit,
    Stop,
    asked,
    paint,
    reach,
    read,
    readable,
    remote,
    say,
    say_json,
    settings,
)

_MOMENTS: Final = (
    ("last heard", "last_heard_ns"),
    ("suspect", "suspect_ns"),
    ("verdict", "verdict_ns"),
    ("claim", "claim_ns"),
    ("receipt", "receipt_ns"),
    ("gate", "gate_ns"),
    ("announced", "announced_ns"),
    ("routes", "routes_ns"),
)


@click.command()
@click.option("-n", "limit", type=click.IntRange(1, 1000), default=10, help="How many; 10.")
@click.option("--brief", is_flag=True, help="One line each.")
@remote
def history(limit: int, brief: bool) -> None:
    """Changes of role, newest last: reason, term, and the timeline of each in nanoseconds."""
    body = read(f"/v1/history?limit={limit}")
    if settings().json:
        say_json(body)
        return
    transitions = msgspec.json.decode(body, type=History).transitions
    if not transitions:
        say("no transition yet")
    for transition in transitions:
        say(_headline(transition))
        if not brief:
            for line in _detail(transition):
                say(line)


def _headline(transition: Transition) -> str:
    total = transition.durations_ns.get("total")
    took = "" if total is None else f", {length(total)} in all"
    return (
        f"{paint(f'#{transition.number}', bold=True)} {transition.time} "
        f"{transition.from_role.value} -> {transition.to_role.value}: {transition.reason}, "
        f"term {transition.term}{took}"
    )


def _detail(transition: Transition) -> Iterator[str]:
    yield f"   {transition.sentence}"
    # In the order of time: a moment that an earlier reign left behind stands before the others.
    known = sorted(
        (
            (name, at)
            for name, field in _MOMENTS
            if (at := getattr(transition.timeline, field)) is not None
        ),
        key=lambda moment_known: moment_known[1],
    )
    before = begin = known[0][1] if known else 0
    for name, at in known:
        wall = moment(at + transition.realtime_offset_ns)
        step = f"(+{length(at - before)})" if at != before else ""
        yield f"   {name:<11}{at - begin:>+16,} ns {step:<12} boot {at} ns, {wall}"
        before = at
    if transition.durations_ns:
        phases = transition.durations_ns.items()
        yield "   phases: " + ", ".join(f"{name} {length(ns)}" for name, ns in phases)


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes.")
@readable
def events(follow: bool) -> None:
    """What just happened; JSON lines with --json."""
    if not follow:
        for line in read("/v1/events").splitlines():
            _say_event(line)
        return
    reach(lambda: asked(_follow))
    raise Stop(Exit.UNREACHABLE, "the agent ended the stream")


def _follow() -> None:
    for line in settings().client.lines("/v1/events?follow=1"):
        _say_event(line)


def _say_event(line: bytes) -> None:
    if not line.strip():
        return
    if settings().json:
        say_json(line)
        return
    try:
        event = msgspec.json.decode(line, type=Event)
    except msgspec.DecodeError:
        fields = msgspec.json.decode(line)
        say(paint(f"{fields.get('count', '?')} events were lost here: too slow a reader", "yellow"))
        return
    reason = f" ({event.reason})" if event.reason else ""
    # What the engine tells in passing has figures and no sentence.
    figures = " ".join(f"{name}={value}" for name, value in event.fields.items() if value)
    say(f"{event.time} {event.event}{reason}: {event.sentence or figures}".rstrip(": "))
