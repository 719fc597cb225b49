# SPDX-License-Identifier: Apache-2.0
"""What the demo says of what happened outside its acts."""

from typing import Any

from unit.bench_material import demo


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
