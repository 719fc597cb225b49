# SPDX-License-Identifier: Apache-2.0
"""A look is made anew when engine or peer say something else, and only then."""

from typing import Any

import pytest

from twinbeat.engine._engine import ffi, lib
from twinbeat.engine.look import Looker


def view() -> Any:
    return ffi.new("struct tb_view *")


@pytest.mark.parametrize(
    ("part", "word"),
    [
        ("engine", "phase"),
        ("engine", "term"),
        ("engine", "highest"),
        ("engine", "order_generation"),
        ("engine", "restart_known"),
        ("peer", "term"),
        ("peer", "claim"),
        ("peer", "highest"),
        ("peer", "flags"),
        ("peer", "health"),
        ("peer", "generation"),
        ("peer", "two_way"),
    ],
)
def test_what_is_new_makes_a_new_look(part: str, word: str) -> None:
    looker, c = Looker(), view()
    before = looker.at(c)
    setattr(getattr(c, part), word, 1)
    after = looker.at(c)
    assert after is not before
    assert getattr(getattr(after, part), word) == 1


def test_the_first_frame_of_a_peer_makes_a_new_look() -> None:
    looker, c = Looker(), view()
    before = looker.at(c)
    c.peer.arrived_ns = 17
    assert looker.at(c) is not before


def test_what_an_agent_says_after_its_kernel_repeated_it_makes_a_new_look() -> None:
    looker, c = Looker(), view()
    c.peer.arrived_ns, c.peer.type = 17, lib.TB_ANSWER
    before = looker.at(c)
    c.peer.arrived_ns, c.peer.type = 18, lib.TB_HELLO
    assert looker.at(c) is not before


def test_what_each_frame_and_round_changes_does_not() -> None:
    looker, c = Looker(), view()
    c.peer.arrived_ns = 17
    before = looker.at(c)
    c.peer.arrived_ns, c.peer.counter, c.peer.lease_us, c.peer.echo = 18, 2, 3, 4
    c.engine.heard_ns, c.engine.lease_until = 18, 19
    assert looker.at(c) is before
