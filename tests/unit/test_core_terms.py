# SPDX-License-Identifier: Apache-2.0
"""Terms are reserved before they are needed, above everything seen, and never given back."""

import pytest

from twinbeat.core.terms import Terms, kernel_listened
from twinbeat.core.types import TermBlock

EMPTY = Terms(size=64, reserved_last=0)


def reserve(terms: Terms, highest: int) -> Terms:
    request = terms.wanted(highest, 0)
    assert request is not None
    return terms.asking(request).reserved(TermBlock(first=request.first, last=request.up_to))


def test_the_first_block() -> None:
    terms = reserve(EMPTY, 0)
    assert terms.block == TermBlock(first=1, last=64)
    assert not terms.spent(0)
    assert terms.wanted(0, 0) is None


def test_a_new_run_burns_what_the_old_one_reserved() -> None:
    assert reserve(Terms(size=64, reserved_last=64), 0).block == TermBlock(first=65, last=128)


def test_a_block_begins_above_the_highest_seen() -> None:
    assert reserve(EMPTY, 1000).block == TermBlock(first=1001, last=1064)


def test_the_next_block_is_wanted_while_a_quarter_is_left() -> None:
    terms = reserve(EMPTY, 0)
    assert terms.wanted(48, 0) is None
    extended = reserve(terms, 49)
    assert extended.block == TermBlock(first=1, last=128)


def test_a_peer_that_is_far_ahead_makes_the_block_useless() -> None:
    terms = reserve(EMPTY, 0)
    assert terms.spent(500)
    assert reserve(terms, 500).block == TermBlock(first=501, last=564)


def test_only_one_request_is_under_way() -> None:
    request = EMPTY.wanted(0, 0)
    assert request is not None
    assert EMPTY.asking(request).wanted(0, 0) is None


def test_a_disk_that_refuses_is_asked_again_later() -> None:
    terms = EMPTY.refused("no space left", retry_ns=100)
    assert terms.wanted(0, 99) is None
    assert terms.wanted(0, 100) is not None


def test_a_disk_that_refuses_makes_unfit_before_the_block_ends() -> None:
    terms = reserve(EMPTY, 0)
    assert not terms.spent(57)
    refused = terms.refused("no space left", retry_ns=100)
    assert not refused.spent(40)
    assert refused.spent(57)
    assert terms.block.left_above(57) >= 4, "there still were some to use"


@pytest.mark.parametrize(
    ("term", "fence_below", "listened"),
    [
        (0, 0, False),  # a new gate, or one that was shut on purpose
        (0, 9, False),
        (8, 0, True),
        (8, 8, True),  # its own claim raised it
        (8, 9, False),  # somebody claimed since, or told the peer that this reign is over
    ],
)
def test_only_a_reign_that_nobody_ended_tells_that_the_kernel_listened(
    term: int, fence_below: int, listened: bool
) -> None:
    assert kernel_listened(term, fence_below) is listened
