# SPDX-License-Identifier: Apache-2.0
"""Links at run time: what may change while the peer is heard, and what is measured of them."""

import pytest
from msgspec.structs import replace

from twinbeat.api.figures import percentile
from twinbeat.config.nodes import LinkSection
from twinbeat.engine.types import LinkWords
from twinbeat.runtime.counting import send_errors
from twinbeat.runtime.linkmeter import LossMeter, Sample
from twinbeat.runtime.links import refusal, silent_since, staying
from twinbeat.runtime.status import link_state

SECOND = 1_000_000_000
DEAD = 20_000_000
NOW = 100 * SECOND

HA = LinkSection(interface="ha0", name="ha0", number=0, local="169.254.10.1", peer="169.254.10.2")
LAN = LinkSection(interface="lan0", name="lan0", number=1, local="10.77.0.1", peer="10.77.0.2")
WAN = LinkSection(interface="wan0", name="wan0", number=2, local="10.88.0.1", peer="10.88.0.2")


def words(number: int, *, heard: bool = True, answered: bool = True) -> LinkWords:
    return LinkWords(
        number=number,
        hello_ns=NOW - 1_000_000 if heard else 0,
        answer_ns=NOW - SECOND if answered else 0,
        stranger_ns=0,
        mismatch_ns=0,
        foreign_ns=0,
        accepted=5,
        round_trip_ns=0,
        cpu=0,
        carrier=True,
    )


def said(
    before: list[LinkSection],
    after: list[LinkSection],
    *seen: LinkWords,
    peer_heard: bool = True,
) -> str:
    return refusal(before, after, words=seen, at_ns=NOW, dead_ns=DEAD, peer_heard=peer_heard)


class TestWhatMayChange:
    def test_a_link_comes_whatever_the_others_do(self) -> None:
        assert said([HA, LAN], [HA, LAN, WAN], words(0, heard=False)) == ""

    def test_a_link_goes_while_another_carries_both_ways(self) -> None:
        assert said([HA, LAN], [LAN], words(0), words(1)) == ""

    @pytest.mark.parametrize(
        "left", [words(1, heard=False), words(1, answered=False)], ids=["silent", "one way"]
    )
    def test_the_last_that_carries_stays(self, left: LinkWords) -> None:
        why = said([HA, LAN], [LAN], words(0), left)
        assert "(lan0) none carries heartbeats both ways" in why

    def test_not_all_at_once(self) -> None:
        why = said([HA], [replace(HA, peer="169.254.10.9")], words(0))
        assert "change them one after the other" in why

    def test_a_link_that_would_be_renumbered_is_told_how_not_to_be(self) -> None:
        why = said([HA, LAN], [replace(LAN, number=0)], words(0), words(1))
        assert "lan0 would change its number from 1 to 0 (write number = 1)" in why

    def test_without_a_peer_there_is_nothing_to_lose(self) -> None:
        assert said([HA], [replace(HA, peer="169.254.10.9")], words(0), peer_heard=False) == ""

    def test_a_name_is_no_path(self) -> None:
        renamed = replace(HA, name="cable", direct=True)
        assert staying([HA, LAN], [renamed, LAN]) == [renamed, LAN]
        assert staying([HA, LAN], [replace(HA, vlan=5), LAN]) == [LAN]


class Peer:
    """Sends on two links, answers now and then, loses what it is told to."""

    def __init__(self) -> None:
        self.at_ns, self.counter, self.answers = 0, 7 << 32, 0
        self.heard = {0: 0, 1: 0}

    def second(self, *, beats: int = 200, lost: dict[int, int] | None = None) -> Sample:
        self.at_ns += SECOND
        self.counter += 2 * beats + 2
        self.answers += 2
        for number in self.heard:
            self.heard[number] += beats - (lost or {}).get(number, 0)
        return self.sample()

    def sample(self, *, steady: bool = True) -> Sample:
        return Sample(
            at_ns=self.at_ns,
            counter=self.counter,
            heard=dict(self.heard),
            answers=self.answers,
            steady=steady,
        )


class TestLoss:
    def test_nothing_is_known_at_first(self) -> None:
        meter, peer = LossMeter(), Peer()
        meter.add(peer.second())
        assert meter.ratio(0) is None

    def test_a_whole_link_loses_nothing(self) -> None:
        meter, peer = LossMeter(), Peer()
        for _ in range(30):
            meter.add(peer.second())
        assert (meter.ratio(0), meter.ratio(1), meter.lost) == (0.0, 0.0, {0: 0, 1: 0})

    def test_what_one_link_loses_is_its_own(self) -> None:
        meter, peer = LossMeter(), Peer()
        for _ in range(30):
            meter.add(peer.second(lost={1: 50}))
        assert meter.ratio(0) == 0.0
        assert meter.ratio(1) == pytest.approx(0.25)
        assert meter.lost[0] == 0
        assert meter.lost[1] == pytest.approx(29 * 50, abs=20)

    def test_a_dead_link_loses_all(self) -> None:
        meter, peer = LossMeter(), Peer()
        for _ in range(12):
            meter.add(peer.second(lost={0: 200}))
        assert meter.ratio(0) == 1.0

    def test_readings_a_moment_apart_are_no_loss(self) -> None:
        meter, peer = LossMeter(), Peer()
        for turn in range(100):
            jitter = 5 if turn % 2 else -5
            meter.add(peer.second(lost={0: jitter, 1: -jitter}))
        assert meter.lost == {0: 0, 1: 0}

    def test_a_peer_that_restarts_begins_anew(self) -> None:
        meter, peer = LossMeter(), Peer()
        for _ in range(5):
            meter.add(peer.second())
        peer.counter = 8 << 32
        meter.add(peer.second())
        assert meter.ratio(0) is None
        assert meter.lost == {0: 0, 1: 0}

    def test_what_is_counted_while_a_node_is_suspected_says_nothing(self) -> None:
        meter, peer = LossMeter(), Peer()
        meter.add(peer.second())
        peer.counter += 10_000  # Control frames, of which the other node sees nothing.
        peer.at_ns += SECOND
        meter.add(peer.sample(steady=False))
        meter.add(peer.second())
        assert meter.lost == {0: 0, 1: 0}

    def test_links_come_and_go(self) -> None:
        meter, peer = LossMeter(), Peer()
        for _ in range(3):
            meter.add(peer.second(lost={1: 100}))
        assert meter.lost[1] > 0
        del peer.heard[1]
        meter.add(peer.sample())
        assert meter.lost == {0: 0}
        assert meter.ratio(1) is None


class TestPercentiles:
    def test_of_nothing(self) -> None:
        assert percentile([0] * 32, 0.5) is None

    def test_lie_in_their_bucket(self) -> None:
        counts = [0] * 32
        counts[8], counts[12] = 990, 10
        assert 128_000 <= (percentile(counts, 0.5) or 0) <= 256_000
        assert 2_048_000 <= (percentile(counts, 0.999) or 0) <= 4_096_000

    def test_of_the_longest_gaps(self) -> None:
        assert percentile([0] * 31 + [1], 0.5) == pytest.approx(1.5 * 2**30 * 1000)


def test_a_link_is_silent_since_it_was_last_heard_not_since_that_was_seen() -> None:
    assert silent_since(NOW - SECOND + DEAD, NOW) == NOW - SECOND + DEAD
    assert silent_since(0, NOW) == NOW, "never heard"
    assert silent_since(NOW + 1, NOW) == NOW, "heard again meanwhile"


@pytest.mark.parametrize(
    ("carrier", "heard", "silent", "state"),
    [
        (False, True, True, "no-carrier"),
        (True, False, True, "never-heard"),
        (True, True, True, "silent"),
        (True, True, False, "up"),
    ],
)
def test_a_link_s_state_is_one_word(
    *, carrier: bool, heard: bool, silent: bool, state: str
) -> None:
    assert link_state(carrier=carrier, heard=heard, silent=silent) == state


def test_send_errors_have_names_and_rare_ones_are_counted_together() -> None:
    assert send_errors({100: 3, 105: 2, 0: 1}) == {"ENETDOWN": 3, "ENOBUFS": 2, "other": 1}
