# SPDX-License-Identifier: Apache-2.0
"""For machines: the monitoring plugin, and two questions answered by an exit code."""

from collections.abc import Iterator
from typing import Final

import click
import msgspec

from twinbeat.api.schema import SCHEMA, Admin, Counters, NodeState, Role, Severity, Status
from twinbeat.cli.base import Exit, Stop, fetch, read, readable, say, say_json, settings

_STATES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
_FAILED = frozenset({NodeState.PARTIAL_FAIL, NodeState.COMPLETE_FAIL, NodeState.ROUTE_MONITOR_FAIL})
_PASSING = frozenset({Role.INIT, Role.CLAIMING})


PATIENCE_S: Final = 4.0
"""It asks twice, and whoever runs a plugin waits ten seconds for it: after those a hung agent looks
like a plugin that was killed. NRPE's own default."""


@click.command()
@readable
def check() -> int:
    """Nagios and its kin: one line with figures; exit 0 ok, 1 warning, 2 critical, 3 unknown.

    An agent that doesn't answer within --timeout, 4 seconds if not given, is unknown.
    """
    settings().patience_s = PATIENCE_S
    try:
        status = msgspec.json.decode(read("/v1/status"), type=Status)
        counters = msgspec.json.decode(read("/v1/counters"), type=Counters)
    except (Stop, msgspec.DecodeError) as error:
        return _verdict(3, str(error), {})
    wrong = list(_wrong(status))
    code = max((severity for severity, _ in wrong), default=0)
    told = "; ".join(sentence for _, sentence in wrong)
    told = f"{status.sentence} - {told}" if told else status.sentence
    return _verdict(code, told, dict(_figures(status, counters)))


def _verdict(code: int, told: str, figures: dict[str, str]) -> int:
    """Say it as it was asked for; the figures are performance data in both forms."""
    if settings().json:
        say_json(
            {
                "schema": SCHEMA,
                "state": _STATES[code],
                "code": code,
                "sentence": told,
                "figures": figures,
            }
        )
        return code
    # The bar begins the figures, so the sentence may not hold one.
    data = " ".join(f"{name}={value}" for name, value in figures.items())
    bar = f" | {data}" if data else ""
    say(f"TWINBEAT {_STATES[code]} - {told.replace('|', '/')}{bar}")
    return code


def _wrong(status: Status) -> Iterator[tuple[int, str]]:
    """Everything that isn't as it should be, with the code it is worth."""
    node = status.node
    if node.state in _FAILED:
        yield 2, f"{node.name} is {node.state.value.upper()}"
    if node.admin in {Admin.STAY_SECONDARY, Admin.DISABLED}:
        yield 1, f"{node.name} was told to be {node.admin.value}: it takes nothing over"
    if node.role in _PASSING:
        yield 1, f"{node.name} is {node.role.value}"
    for warning in status.warnings:
        if warning.severity is Severity.NOTICE:
            continue
        yield 2 if warning.severity is Severity.CRITICAL else 1, warning.sentence


def _figures(status: Status, counters: Counters) -> Iterator[tuple[str, str]]:
    """Performance data: counts end in c, times in s."""
    beating = [link.up for link in status.links if link.heartbeat]
    yield "primary", str(int(status.gate.open))
    yield "term", str(status.node.term)
    yield "links", f"{sum(beating)};;;0;{len(beating)}"
    yield "health", f"{status.node.health};;;0;1000"
    if status.peer.age_ns is not None:
        yield "peer_age", f"{status.peer.age_ns / 1e9:.6f}s"
    for name in ("sent", "received", "lost"):
        yield name, f"{sum(getattr(link, name) for link in counters.links)}c"
    if status.last_transition is not None:
        yield "transitions", f"{status.last_transition.number}c"
    yield "dual_primary", f"{counters.dual_primary}c"


@click.command(name="is-primary")
@readable
def is_primary() -> int:
    """Exit 0 while this node serves (primary, its gate open), else 1. Silent without --json."""
    return _answer("primary")


@click.command(name="is-healthy")
@readable
def is_healthy() -> int:
    """Exit 0 while this node could serve, else 1. Silent without --json."""
    return _answer("health")


def _answer(what: str) -> int:
    holds = fetch(f"/{what}").status == 200
    if settings().json:
        say_json({"schema": SCHEMA, what: holds})
    return Exit.OK if holds else Exit.NO
