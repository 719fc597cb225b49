# SPDX-License-Identifier: Apache-2.0
"""Whose document rules, what the other one loses by that, and what it still owes."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from twinbeat.sync.document import RECENT, Document, Done, Run, Version, fingerprint
from twinbeat.sync.messages import Summary
from twinbeat.sync.synchronizer import Decision, decide, in_step, lost, owed

A, B = "a" * 32, "b" * 32


def node(index: int = 0, **more: Any) -> Summary:
    return Summary(
        **{
            "node": index,
            "lineage": A,
            "version": Version(2, 5),
            "fingerprint": fingerprint({}),
            "paired": True,
            "settled": True,
            "applied": True,
            "primary": index == 0,
            **more,
        }
    )


TABLE = [
    # own, peer -> what own does, what the peer does
    ({}, {}, "IN_STEP", "IN_STEP"),
    ({"version": Version(2, 6)}, {}, "GIVE", "TAKE"),
    ({"version": Version(3, 1)}, {}, "GIVE", "TAKE"),
    ({"version": Version(1, 9)}, {}, "TAKE", "GIVE"),
    ({"version": Version(2, 6), "primary": False}, {"primary": True}, "GIVE", "TAKE"),
    ({"fingerprint": "f" * 64}, {}, "GIVE", "TAKE"),
    ({"fingerprint": "f" * 64}, {"primary": True}, "WAIT", "WAIT"),
    ({"lineage": B}, {}, "CONFLICT", "CONFLICT"),
    ({"lineage": B, "version": Version(9, 9)}, {}, "CONFLICT", "CONFLICT"),
    ({"lineage": B, "paired": False}, {}, "TAKE", "GIVE"),
    ({"lineage": B, "paired": False, "version": Version(9, 9)}, {}, "TAKE", "GIVE"),
    ({"lineage": B}, {"paired": False}, "GIVE", "TAKE"),
    ({"lineage": B, "paired": False}, {"paired": False}, "GIVE", "TAKE"),
    ({"lineage": B, "paired": False, "primary": False}, {"paired": False}, "WAIT", "WAIT"),
    ({"version": Version(2, 6), "sync": False}, {}, "DISABLED", "DISABLED"),
    ({"version": Version(2, 6)}, {"sync": False}, "DISABLED", "DISABLED"),
    ({"sync": False}, {}, "IN_STEP", "IN_STEP"),
    ({"version": Version(2, 6), "paired": False}, {}, "GIVE", "TAKE"),
]


@pytest.mark.parametrize(("own", "peer", "mine", "theirs"), TABLE)
def test_both_come_to_the_same_decision(
    own: dict[str, Any], peer: dict[str, Any], mine: str, theirs: str
) -> None:
    here, there = node(0, **own), node(1, **peer)
    assert decide(here, there) is Decision[mine]
    assert decide(there, here) is Decision[theirs]


def test_nobody_takes_over_what_takes_over() -> None:
    """All summaries that matter: never do both take, or give, and who differs knows it."""
    choices = itertools.product(
        [A, B], [Version(1, 2), Version(2, 1)], ["0" * 64, "1" * 64], [True, False], [True, False]
    )
    nodes = [
        {"lineage": lineage, "version": version, "fingerprint": content} | rest
        for lineage, version, content, paired, primary in choices
        for rest in [{"paired": paired, "primary": primary}]
    ]
    fitting = {Decision.TAKE: Decision.GIVE, Decision.GIVE: Decision.TAKE}
    for own, peer in itertools.product(nodes, nodes):
        here, there = node(0, **own), node(1, **peer)
        mine, theirs = decide(here, there), decide(there, here)
        assert theirs is fitting.get(mine, mine)
        same = all(own[key] == peer[key] for key in ("lineage", "version", "fingerprint"))
        assert (mine is Decision.IN_STEP) == same


def test_who_gives_up_its_lineage_takes_the_other() -> None:
    here, there = node(0, lineage=B, version=Version(9, 9)), node(1)
    assert decide(here, there, adopting=True) is Decision.TAKE


def test_giving_up_a_lineage_never_makes_a_node_older_within_its_own() -> None:
    here, there = node(0, version=Version(9, 9)), node(1)
    assert decide(here, there, adopting=True) is Decision.GIVE


@pytest.mark.parametrize(
    "change",
    [{"version": Version(2, 4)}, {"settled": False}, {"applied": False}, {"propagation": False}],
)
def test_in_step_is_more_than_equal(change: dict[str, Any]) -> None:
    assert in_step(node(0), node(1))
    assert not in_step(node(0), node(1, **change))


def grown(*done: tuple[str, int, int], lineage: str = A, **runs: str) -> Document:
    """A document that came to be by these changes: request, term, generation."""
    recent = tuple(
        Done(name, Version(term, generation), Run(command=name) if name in runs else None)
        for name, term, generation in done
    )
    version = recent[-1].version if recent else Version()
    return Document(lineage=lineage, version=version, tables={}, recent=recent)


def names(done: tuple[Done, ...]) -> list[str]:
    return [one.request for one in done]


def test_what_was_done_alone_is_lost_by_name() -> None:
    before = grown(("a", 1, 2), ("b", 1, 3), ("c", 1, 4))
    after = grown(("a", 1, 2), ("d", 2, 3))
    assert names(lost(before, after)) == ["b", "c"]


def test_nothing_is_lost_to_a_later_document_of_the_same_line() -> None:
    before = grown(("a", 1, 2))
    assert lost(before, grown(("a", 1, 2), ("b", 1, 3))) == ()
    assert lost(before, before) == ()


def test_what_the_other_did_as_well_is_not_lost() -> None:
    before = grown(("a", 1, 2), ("b", 1, 3))
    assert lost(before, grown(("a", 1, 2), ("b", 2, 3))) == ()


def test_what_was_taken_back_is_not_lost() -> None:
    before = grown(("a", 1, 2))
    undo = Done("undo", Version(1, 3), None, "a")
    after = Document(lineage=A, version=Version(1, 3), tables={}, recent=(undo,))
    assert lost(before, after) == ()


def test_a_document_that_grew_long_says_nothing_of_old_changes() -> None:
    before = grown(("a", 1, 2))
    after = grown(*[(f"r{number}", 1, number) for number in range(10, 10 + RECENT)])
    assert len(after.recent) == RECENT
    assert lost(before, after) == ()


def test_to_another_lineage_everything_is_lost_and_nothing_owed() -> None:
    before, after = grown(("a", 1, 2)), grown(("b", 1, 3), lineage=B, b="run")
    assert names(lost(before, after)) == ["a"]
    assert owed(before, after) == ()


def test_commands_that_were_run_meanwhile_are_owed() -> None:
    before = grown(("a", 1, 2), a="run")
    after = grown(("a", 1, 2), ("b", 1, 3), ("c", 1, 4), ("d", 1, 5), a="run", b="run", d="run")
    assert names(owed(before, after)) == ["b", "d"]
    assert owed(after, after) == ()


def test_commands_that_were_taken_back_are_not_owed() -> None:
    run = Done("a", Version(1, 2), Run(command="a"))
    undo = Done("undo", Version(1, 3), Run(command="a", undo=True), "a")
    after = Document(lineage=A, version=Version(1, 3), tables={}, recent=(run, undo))
    assert owed(grown(), after) == ()


def test_a_new_node_owes_what_its_first_document_names() -> None:
    """It never ran them; what it has no names of any more is long past."""
    fresh = Document(lineage=A, version=Version(0, 1), tables={})
    after = grown(("a", 1, 2), ("b", 1, 3), b="run")
    assert names(owed(fresh, after)) == ["b"]


def test_a_summary_travels() -> None:
    summary = node(1)
    packed = msgspec.msgpack.encode(summary)
    assert msgspec.msgpack.decode(packed, type=Summary) == summary
