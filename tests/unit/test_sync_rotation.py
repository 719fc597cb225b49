# SPDX-License-Identifier: Apache-2.0
"""Two nodes come to another key, wherever the rotation before broke off and whoever goes on."""

from dataclasses import dataclass, replace

import pytest

from twinbeat.sync.rotation import HELD_MOST, Ring, Step, follows, give_way, new_key, next_step


@dataclass(frozen=True)
class Node:
    """What is on its disk, what its agent goes by."""

    files: frozenset[int]
    sends: int
    accepts: frozenset[int]

    @property
    def ring(self) -> Ring:
        return Ring(sends=self.sends, accepts=self.accepts)


START = Node(frozenset({1}), 1, frozenset({1}))
Pair = tuple[Node, Node]


def obeyed(step: Step, own: Node, peer: Node, new: int) -> Pair:
    """The pair after a step that the leader `own` takes."""
    match step:
        case Step.PEER_ACCEPTS:
            gone = give_way(new, peer.files, peer.ring, own.ring)
            files = peer.files - gone | {new}
            return own, replace(peer, files=files, accepts=files)
        case Step.ACCEPT:
            return replace(own, accepts=own.files), peer
        case Step.PEER_SENDS:
            return own, replace(peer, sends=new)
        case Step.SEND:
            return replace(own, sends=new), peer
        case Step.PEER_ALONE:
            return own, replace(peer, files=frozenset({new}), accepts=frozenset({new}))
        case Step.ALONE:
            return replace(own, files=frozenset({new}), accepts=frozenset({new})), peer
        case Step.DONE:
            return own, peer


def check(pair: Pair) -> None:
    for one, other in (pair, pair[::-1]):
        assert one.sends in other.accepts, "a frame would be refused"
        assert one.accepts <= one.files, "a restart would lose a key"
        assert len(one.files) <= HELD_MOST, "an agent would refuse to start"


def every_pair() -> set[Pair]:
    """Whatever rotations that break off after any step can come to, each node leading in turn."""
    seen: set[Pair] = set()
    todo: list[Pair] = [(START, START)]
    while todo:
        pair = todo.pop()
        if pair in seen or max(pair[0].files | pair[1].files) > 7:
            continue
        seen.add(pair)
        check(pair)
        for leader in (0, 1):
            own, peer = pair[leader], pair[1 - leader]
            new = new_key(own.ring, peer.ring, own.files)
            gone = give_way(new, own.files, own.ring, peer.ring)
            own = replace(own, files=own.files - gone | {new})
            step = next_step(own.ring, peer.ring, new)
            for after in ((own, peer), obeyed(step, own, peer, new)):
                todo += [after if leader == 0 else after[::-1]]
    return seen


def test_a_rotation_that_broke_off_anywhere_is_gone_on_with() -> None:
    pairs = every_pair()
    assert len(pairs) > 50
    for pair in pairs:
        own, peer = pair
        new = new_key(own.ring, peer.ring, own.files)
        gone = give_way(new, own.files, own.ring, peer.ring)
        own = replace(own, files=own.files - gone | {new})
        steps: list[Step] = []
        while (step := next_step(own.ring, peer.ring, new)) is not Step.DONE:
            steps.append(step)
            own, peer = obeyed(step, own, peer, new)
            check((own, peer))
            assert len(steps) <= 6, (pair, steps)
        assert not any(follows(one.sends, new) for one in pair), "back to an older key"
        assert own == peer == Node(frozenset({new}), new, frozenset({new}))


def test_the_order_of_a_whole_one() -> None:
    own, peer, steps = replace(START, files=frozenset({1, 2})), START, []
    assert new_key(own.ring, peer.ring, START.files) == 2
    while (step := next_step(own.ring, peer.ring, 2)) is not Step.DONE:
        steps.append(step.name)
        own, peer = obeyed(step, own, peer, 2)
    assert steps == ["PEER_ACCEPTS", "ACCEPT", "PEER_SENDS", "SEND", "PEER_ALONE", "ALONE"]


@pytest.mark.parametrize(
    ("own", "peer", "new"),
    [
        (Ring(sends=255, accepts=frozenset({255})), Ring(sends=255, accepts=frozenset({255})), 1),
        (Ring(sends=1, accepts=frozenset({1})), Ring(sends=1, accepts=frozenset({1, 2})), 3),
        (Ring(sends=1, accepts=frozenset({1, 7})), Ring(sends=1, accepts=frozenset({1})), 7),
        (Ring(sends=1, accepts=frozenset({1, 2})), Ring(sends=2, accepts=frozenset({1, 2})), 2),
        (Ring(sends=2, accepts=frozenset({1, 2})), Ring(sends=1, accepts=frozenset({1, 2})), 2),
        (Ring(sends=2, accepts=frozenset({1, 2})), Ring(sends=2, accepts=frozenset({1, 2})), 2),
        (Ring(sends=2, accepts=frozenset({2})), Ring(sends=2, accepts=frozenset({1, 2})), 2),
        (
            Ring(sends=1, accepts=frozenset({1, 255})),
            Ring(sends=255, accepts=frozenset({1, 255})),
            1,
        ),
    ],
)
def test_which_key_is_next(own: Ring, peer: Ring, new: int) -> None:
    assert new_key(own, peer, own.accepts) == new
