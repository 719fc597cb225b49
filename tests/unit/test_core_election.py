# SPDX-License-Identifier: Apache-2.0
"""Who may claim when, and who goes first: the tables of the election, row by row."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from twinbeat.core.election import (
    CLAIMS,
    GRANTED,
    Facts,
    better_peer,
    flags,
    may_take_over,
    must_resign,
    permitted,
    prefers,
    successor,
    waits_for_fencing,
)
from twinbeat.core.reasons import Code
from twinbeat.core.types import Admin, Flag, PeerView, Permit, Role
from unit.core_pair import POLICY, WELL, facts, peer

# -- permits -------------------------------------------------------------------------------------

ONLY_IDLE = CLAIMS & Permit.MAY_CLAIM_IDLE

PERMITS: list[tuple[str, dict[str, Any], Permit, bool, set[Code]]] = [
    # what is the case                        claims left   serve  because of
    ("all is well", {}, CLAIMS, True, set()),
    ("disabled", {"admin": Admin.DISABLED}, Permit(0), True, {Code.DISABLED}),
    ("stay secondary", {"admin": Admin.STAY_SECONDARY}, Permit(0), True, {Code.STAY_SECONDARY}),
    ("stay primary", {"admin": Admin.STAY_PRIMARY}, CLAIMS, True, set()),
    ("paused", {"paused": True}, Permit(0), True, {Code.PAUSED}),
    ("peer paused", {"peer_paused": True}, Permit(0), True, {Code.PEER_PAUSED}),
    ("paused, served last", {"paused": True, "last_primary": True}, ONLY_IDLE, True, {Code.PAUSED}),
    ("just started", {"role": Role.INIT}, Permit(0), True, {Code.STARTING}),
    ("stopping", {"stopping": True}, Permit(0), True, {Code.STOPPING}),
    ("gate missing", {"gates_missing": ("lan0",)}, Permit(0), False, {Code.GATE_MISSING}),
    ("no terms", {"terms_spent": "no space left"}, Permit(0), True, {Code.NO_TERMS}),
    ("isolated", {"isolated": True}, Permit(0), True, {Code.ISOLATED}),
    ("sick, fail-safe", {"checks": ("wan0",), "score": 500}, CLAIMS, True, set()),
    (
        "sick, no fail-safe",
        {"checks": ("wan0",), "score": 500, "policy": replace(POLICY, fail_safe=False)},
        CLAIMS & Permit.CLAIM_NOW,
        False,
        {Code.UNHEALTHY},
    ),
    (
        "never paired",
        {"peer_known": False, "peer": None},
        CLAIMS & Permit.CLAIM_NOW,
        True,
        {Code.NEVER_PAIRED},
    ),
    (
        "never paired, may claim alone",
        {"peer_known": False, "peer": None, "policy": replace(POLICY, claim_alone=True)},
        CLAIMS,
        True,
        set(),
    ),
    (
        "handing over",
        {"role": Role.PRIMARY, "handing_over": True},
        Permit(0),
        True,
        {Code.YIELDING},
    ),
    (
        "fences first",
        {"policy": replace(POLICY, fence_first=True)},
        CLAIMS & ~(Permit.MAY_CLAIM_DEAD | Permit.MAY_CLAIM_COLD),
        True,
        {Code.NOT_FENCED},
    ),
    (
        "fences first, and did",
        {"policy": replace(POLICY, fence_first=True), "peer_fenced": True},
        CLAIMS,
        True,
        set(),
    ),
    ("gave up just now", {"abstaining": True}, Permit(0), True, {Code.ABSTAINING}),
]


@pytest.mark.parametrize(
    ("changes", "claims", "serve", "codes"),
    [pytest.param(*row[1:], id=row[0]) for row in PERMITS],
)
def test_permits(changes: dict[str, Any], claims: Permit, serve: bool, codes: set[Code]) -> None:
    permits, refusals = permitted(facts(**changes))
    assert permits & CLAIMS == claims
    assert bool(permits & Permit.MAY_SERVE) is serve
    assert {refusal.code for refusal in refusals} == codes
    assert all("?" not in refusal.sentence for refusal in refusals)


FORBIDDING: list[dict[str, Any]] = [
    {"admin": Admin.DISABLED},
    {"admin": Admin.STAY_SECONDARY},
    {"paused": True, "last_primary": False},
]


def test_no_surprise_whatever_else_is_the_case() -> None:
    """Nothing adds a claim to what the operator took away."""
    others = [
        {"role": role, "isolated": isolated, "score": score, "peer": seen, "policy": policy}
        for role, isolated, score, seen, policy in itertools.product(
            Role,
            (False, True),
            (0, 1000),
            (None, peer(), peer(flags=WELL | Flag.YIELD | Flag.OPEN)),
            (POLICY, replace(POLICY, claim_alone=True, preferred=True)),
        )
    ]
    for forbidding, other in itertools.product(FORBIDDING, others):
        permits, refusals = permitted(facts(**forbidding, **other))
        assert not permits & CLAIMS
        assert refusals


def test_paused_is_told_to_the_engine() -> None:
    assert permitted(facts(paused=True))[0] & Permit.PAUSED
    assert not permitted(facts())[0] & Permit.PAUSED


def test_granted_never_contains_a_forced_claim() -> None:
    assert not GRANTED & Permit.CLAIM_NOW


# -- what the frames say -------------------------------------------------------------------------

SAID: list[tuple[str, dict[str, Any], Flag]] = [
    ("well", {}, Flag.FIT),
    ("just started", {"role": Role.INIT}, Flag.STARTING),
    ("sick", {"checks": ("wan0",)}, Flag(0)),
    ("paused", {"paused": True}, Flag.FIT | Flag.PAUSED),
    ("stays primary", {"admin": Admin.STAY_PRIMARY}, Flag.FIT | Flag.PREFERRED),
    ("stays secondary", {"admin": Admin.STAY_SECONDARY}, Flag.FIT | Flag.NEVER_CLAIMS),
    ("disabled", {"admin": Admin.DISABLED}, Flag.NEVER_CLAIMS),
    ("stopping", {"stopping": True}, Flag.NEVER_CLAIMS),
    ("isolated", {"isolated": True}, Flag.ISOLATED),
    ("no terms", {"terms_spent": "no space left"}, Flag(0)),
    ("peer paused", {"peer_paused": True}, Flag.FIT),
    (
        "peer paused, noted on disk",
        {"peer_paused": True, "peer_pause_saved": True},
        Flag.FIT | Flag.PAUSE_ACK,
    ),
]


@pytest.mark.parametrize(("changes", "said"), [pytest.param(*row[1:], id=row[0]) for row in SAID])
def test_what_the_frames_say(changes: dict[str, Any], said: Flag) -> None:
    assert flags(facts(**changes)) == said


# -- who goes first ------------------------------------------------------------------------------


def seen_by_other(own: Facts) -> PeerView:
    """What the other node hears of this one."""
    return peer(
        flags=flags(own) | Flag.HEARS_YOU,
        admin=own.admin,
        health=own.health,
        highest=own.highest,
    )


def side(node: int, **changes: Any) -> Facts:
    return facts(policy=replace(POLICY, node=node), **changes)


FIRST: list[tuple[str, dict[str, Any], dict[str, Any], int]] = [
    # what is the case          node 0                        node 1                   first
    ("the lower index", {}, {}, 0),
    ("the owner of the highest term", {"highest": 7}, {"highest": 6}, 1),
    ("the owner of the highest term, again", {"highest": 7}, {"highest": 8}, 0),
    ("the healthier", {"score": 900}, {"score": 1000}, 1),
    ("health beats the term", {"score": 1000}, {"score": 900, "highest": 7}, 0),
    ("told to stay primary", {"score": 1000}, {"admin": Admin.STAY_PRIMARY}, 1),
    (
        "told to stay primary beats health",
        {"score": 1000},
        {"admin": Admin.STAY_PRIMARY, "score": 900},
        1,
    ),
    (
        "but only while fit",
        {},
        {"admin": Admin.STAY_PRIMARY, "score": 500, "checks": ("wan0",)},
        0,
    ),
    ("though it only starts", {}, {"admin": Admin.STAY_PRIMARY, "role": Role.INIT}, 1),
    (
        "but not if it starts unfit",
        {},
        {"admin": Admin.STAY_PRIMARY, "role": Role.INIT, "score": 0, "checks": ("wan0",)},
        0,
    ),
    ("the willing", {"admin": Admin.STAY_SECONDARY}, {"score": 1}, 1),
    ("both told to stay primary", {"admin": Admin.STAY_PRIMARY}, {"admin": Admin.STAY_PRIMARY}, 0),
]


@pytest.mark.parametrize(
    ("first", "second", "winner"), [pytest.param(*row[1:], id=row[0]) for row in FIRST]
)
def test_who_goes_first(first: dict[str, Any], second: dict[str, Any], winner: int) -> None:
    sides = side(0, **first), side(1, **second)
    assert prefers(sides[0], seen_by_other(sides[1])) is (winner == 0)
    assert prefers(sides[1], seen_by_other(sides[0])) is (winner == 1)


def test_both_nodes_always_come_to_opposite_answers() -> None:
    sides = [
        {"admin": admin, "score": score, "highest": highest, "checks": checks, "role": role}
        for admin, score, highest, checks, role in itertools.product(
            Admin, (0, 500, 1000), (0, 6, 7), ((), ("wan0",)), (Role.INIT, Role.SECONDARY)
        )
    ]
    for first, second in itertools.product(sides, repeat=2):
        a, b = side(0, **first), side(1, **second)
        assert prefers(a, seen_by_other(b)) is not prefers(b, seen_by_other(a))


# -- who may take over ---------------------------------------------------------------------------

SERVING: dict[str, Any] = {"role": Role.PRIMARY}

SUCCESSORS: list[tuple[str, dict[str, Any], Code | None, Code | None]] = [
    # what is the case                            refused          even if unfit
    ("fit", {}, None, None),
    ("never heard", {"peer": None}, Code.PEER_UNKNOWN, Code.PEER_UNKNOWN),
    ("silent", {"peer_heard": False}, Code.PEER_UNKNOWN, Code.PEER_UNKNOWN),
    ("unfit", {"peer": peer(flags=Flag.HEARS_YOU)}, Code.PEER_UNFIT, None),
    ("other configuration", {"peer": peer(digest=7)}, Code.DIGEST_DIFFERS, None),
    (
        "stays secondary",
        {"peer": peer(flags=WELL | Flag.NEVER_CLAIMS)},
        Code.PEER_NEVER_CLAIMS,
        Code.PEER_NEVER_CLAIMS,
    ),
    ("just started", {"peer": peer(flags=WELL | Flag.STARTING)}, *(Code.PEER_STARTING,) * 2),
    ("claiming", {"peer": peer(flags=WELL | Flag.CLAIMING)}, *(Code.CLAIM_UNDER_WAY,) * 2),
    ("deaf", {"peer": peer(flags=Flag.FIT)}, Code.PEER_DEAF, Code.PEER_DEAF),
    ("paused", {"paused": True}, Code.PAUSED, Code.PAUSED),
    ("paused itself", {"peer_paused": True}, *(Code.PEER_PAUSED,) * 2),
]


@pytest.mark.parametrize(
    ("changes", "code", "insisting"), [pytest.param(*row[1:], id=row[0]) for row in SUCCESSORS]
)
def test_successor(changes: dict[str, Any], code: Code | None, insisting: Code | None) -> None:
    refusal = successor(facts(**SERVING, **changes))
    assert (refusal.code if refusal else None) is code
    refusal = successor(facts(**SERVING, **changes), even_if_unfit=True)
    assert (refusal.code if refusal else None) is insisting


SERVES = peer(flags=WELL | Flag.OPEN, admin=Admin.STAY_PRIMARY)

TAKERS: list[tuple[str, dict[str, Any], Code | None, Code | None]] = [
    ("fit", {}, None, None),
    ("primary already", {"role": Role.PRIMARY}, *(Code.ALREADY_PRIMARY,) * 2),
    ("stays secondary", {"admin": Admin.STAY_SECONDARY}, *(Code.STAY_SECONDARY,) * 2),
    ("disabled", {"admin": Admin.DISABLED}, *(Code.DISABLED,) * 2),
    ("paused", {"paused": True}, *(Code.PAUSED,) * 2),
    ("gate missing", {"gates_missing": ("lan0",)}, *(Code.GATE_MISSING,) * 2),
    ("isolated", {"isolated": True}, *(Code.ISOLATED,) * 2),
    ("just started", {"role": Role.INIT}, *(Code.STARTING,) * 2),
    ("claiming", {"role": Role.CLAIMING}, *(Code.CLAIM_UNDER_WAY,) * 2),
    ("peer silent", {"peer_heard": False}, *(Code.PEER_UNKNOWN,) * 2),
    ("sick", {"checks": ("wan0",)}, Code.SELF_UNFIT, None),
    ("the primary stays primary", {"peer": SERVES}, Code.PEER_STAYS_PRIMARY, None),
    ("other configuration", {"peer": peer(digest=7)}, Code.DIGEST_DIFFERS, None),
]


@pytest.mark.parametrize(
    ("changes", "code", "insisting"), [pytest.param(*row[1:], id=row[0]) for row in TAKERS]
)
def test_may_take_over(changes: dict[str, Any], code: Code | None, insisting: Code | None) -> None:
    refusal = may_take_over(facts(**changes))
    assert (refusal.code if refusal else None) is code
    refusal = may_take_over(facts(**changes), even_if_unfit=True)
    assert (refusal.code if refusal else None) is insisting


# -- fail-safe -----------------------------------------------------------------------------------

SICK: dict[str, Any] = {"checks": ("wan0",), "score": 500}

FAIL_SAFE: list[tuple[str, dict[str, Any], PeerView, bool, bool]] = [
    # what is the case         the primary   the peer                     yields  resigns without
    ("both up", {}, peer(), False, False),
    ("both down alike", SICK, peer(flags=Flag.HEARS_YOU, health=500), False, True),
    ("peer better", SICK, peer(), True, True),
    ("peer worse", {}, peer(flags=Flag.HEARS_YOU, health=500), False, False),
    (
        "peer better but stays secondary",
        SICK,
        peer(flags=WELL | Flag.NEVER_CLAIMS),
        False,
        True,
    ),
    ("peer better but isolated", SICK, peer(flags=WELL | Flag.ISOLATED), False, True),
]


@pytest.mark.parametrize(
    ("own", "seen", "yields", "resigns"), [pytest.param(*row[1:], id=row[0]) for row in FAIL_SAFE]
)
def test_fail_safe(own: dict[str, Any], seen: PeerView, yields: bool, resigns: bool) -> None:
    primary = facts(**SERVING, **own, peer=seen)
    assert better_peer(primary) is yields
    assert must_resign(primary) is None
    unsafe = replace(primary, policy=replace(POLICY, fail_safe=False))
    assert (must_resign(unsafe) is not None) is resigns


# -- fencing -------------------------------------------------------------------------------------

FIRST = {"policy": replace(POLICY, fence_first=True)}


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ({}, False),
        (FIRST, True),
        (FIRST | {"peer_fenced": True}, False),
        (FIRST | {"admin": Admin.STAY_SECONDARY}, False),
        (FIRST | {"paused": True}, False),
        (FIRST | {"paused": True, "last_primary": True}, False),
        (FIRST | {"isolated": True}, False),
        (FIRST | {"role": Role.INIT}, False),
        (FIRST | {"peer_known": False, "peer": None}, False),
    ],
)
def test_nobody_is_fenced_for_a_role_that_could_not_be_taken(
    changes: dict[str, Any], waits: bool
) -> None:
    assert waits_for_fencing(facts(**changes)) is waits
