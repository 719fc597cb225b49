# SPDX-License-Identifier: Apache-2.0
"""A row of a packet table, and how it is checked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bpf.world import Outcome, World
from twinbeat.engine.abi import Reason


def nothing(_world: World) -> None:
    """The world stays as it is."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One packet through one program."""

    description: str
    packet: bytes
    before: Callable[[World], None] = nothing
    verdict: int
    counts: Mapping[Reason, int] = field(default_factory=dict)
    """Exactly the counters that move, and by how much."""
    output: bytes | None = None
    """The packet afterwards; None: byte for byte as it came."""
    after: Callable[[World], None] = nothing
    """Asserts what the maps hold afterwards."""

    def __str__(self) -> str:
        return self.description

    def check(self, world: World, run: Callable[[bytes], Outcome]) -> Outcome:
        self.before(world)
        outcome = run(self.packet)
        assert (outcome.verdict, outcome.counts) == (self.verdict, dict(self.counts))
        assert outcome.packet == (self.packet if self.output is None else self.output)
        self.after(world)
        return outcome


def reasons(*tables: list[Case]) -> set[Reason]:
    """All that the rows of these tables count."""
    return {reason for table in tables for case in table for reason in case.counts}
