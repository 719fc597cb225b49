# SPDX-License-Identifier: Apache-2.0
"""What the demo says of what happened outside its acts."""

from typing import Any

from unit.bench_material import MS, demo, record, timeline


def took(
    at_ns: int, why: str, to_role: str = "primary", reason: str = "peer_dead"
) -> dict[str, Any]:
    return {"at_ns": at_ns, "to_role": to_role, "reason": reason, "sentence": why}


def test_roles_that_moved_between_two_acts_are_named_with_their_reasons() -> None:
    histories = {
        "a": [took(10, "told"), took(40, "b was idle"), took(50, "resigned", "secondary")],
        "b": [took(30, "a fell silent"), took(35, "goes on", reason="term_renewed")],
    }
    assert demo.moves(histories, since_ns=10) == (
        "b became primary (a fell silent), then a became primary (b was idle)"
    )
    assert demo.moves(histories, since_ns=40) == ""


def test_of_many_moves_the_last_are_told() -> None:
    told = demo.moves({"a": [took(at_ns, "x") for at_ns in range(1, 10)]}, since_ns=0)
    assert told.startswith("6 earlier moves, then a became primary")
    assert told.count("became") == demo.MOVES_SHOWN


def test_a_takeover_is_the_first_one_and_no_renewal() -> None:
    renewed = {**took(5, "goes on", reason="term_renewed"), "from_role": "primary"}
    taken = {**took(7, "a fell silent"), "from_role": "claiming"}
    later = {**took(9, "again"), "from_role": "claiming"}
    assert timeline.first_takeover([renewed, taken, later], 5) == taken
    assert timeline.first_takeover([renewed, taken, later], 8) == later
    assert timeline.first_takeover([renewed], 0) is None


def switched(**stamps: int) -> dict[str, Any]:
    return {**took(900 * MS, "told"), "timeline": stamps}


def test_an_outage_long_after_the_announcement_is_not_the_act_s() -> None:
    seen = record([True] * 20 + [False] * 3 + [True] * 10)
    early = switched(claim_ns=10 * MS, gate_ns=10 * MS, announced_ns=11 * MS)
    began = demo.effect_ns(early, MS)
    assert began == 10 * MS, "a command's effect begins with the claim"
    assert demo.outage_of(seen, early, began) is None
    timely = switched(claim_ns=20 * MS, gate_ns=20 * MS, announced_ns=21 * MS)
    found = demo.outage_of(seen, timely, demo.effect_ns(timely, MS))
    assert found is not None
    assert found.lost == 3


def test_of_what_was_not_ordered_the_effect_begins_at_once() -> None:
    seen = record([True] * 20 + [False] * 3 + [True] * 10)
    died = switched(suspect_ns=21 * MS, claim_ns=22 * MS, gate_ns=23 * MS)
    assert demo.effect_ns(died, 20 * MS) == 20 * MS
    found = demo.outage_of(seen, died, 20 * MS)
    assert found is not None
    assert found.lost == 3
