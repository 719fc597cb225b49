# SPDX-License-Identifier: Apache-2.0
"""R14: which changes of keys are refused while the peer is heard."""

import pytest
from msgspec.structs import replace

from twinbeat.config.keys import Key
from twinbeat.config.model import Config
from twinbeat.config.nodes import KeysSection, NodeSection, PairSection, PeerSection
from twinbeat.config.problems import Findings
from twinbeat.engine._engine import ffi
from twinbeat.engine.convert import peer_words
from twinbeat.engine.types import Watch
from twinbeat.runtime.rotation import check_rotation

OLD, NEW = Key(1, b"o" * 16), Key(2, b"n" * 16)
CONFIG = Config(
    node=NodeSection(name="a", index=0),
    pair=PairSection(id=1),
    peer=PeerSection(name="b"),
    links=(),
    vrids=(),
)


def refused(
    before: list[Key],
    after: list[Key],
    *,
    peer: tuple[int, ...],
    sends: int = 1,
    watch: Watch = Watch.ALIVE,
) -> list[str]:
    """What is said about a reload; the key to send under comes first in `after`."""
    words = ffi.new("struct tb_peer *", {"keys": list(peer), "key_id": sends})
    findings = Findings("twinbeat.toml")
    check_rotation(
        replace(CONFIG, keys=KeysSection(directory="/keys", send=after[0].id)),
        before=before,
        after=after,
        peer=peer_words(words),
        watch=watch,
        findings=findings,
    )
    return [str(problem) for problem in findings.problems]


def test_each_step_of_a_rotation_in_order_is_allowed() -> None:
    assert not refused([OLD], [OLD, NEW], peer=(1, 0)), "accepted here first"
    assert not refused([OLD], [OLD, NEW], peer=(1, 2)), "or there"
    assert not refused([OLD, NEW], [NEW, OLD], peer=(1, 2)), "sent under here first"
    assert not refused([OLD, NEW], [NEW, OLD], peer=(2, 1), sends=2), "or there"
    assert not refused([NEW, OLD], [NEW], peer=(2, 1), sends=2)
    assert not refused([NEW, OLD], [NEW], peer=(2, 0), sends=2)


def test_nothing_is_sent_under_a_key_that_the_peer_does_not_accept() -> None:
    [said] = refused([OLD], [NEW, OLD], peer=(1, 0))
    assert said == (
        "twinbeat.toml: keys.send = 2: b doesn't accept key 2 yet. Copy 2.key to b, reload there, "
        "and then here again."
    )


def test_the_key_that_the_peer_sends_under_stays() -> None:
    [said] = refused([NEW, OLD], [NEW], peer=(1, 2), sends=1)
    assert said.startswith('twinbeat.toml: keys.directory = "/keys": b sends under key 1')
    assert len(refused([OLD], [NEW], peer=(1, 0))) == 2, "both at once is wrong twice"


def test_an_id_that_the_peer_accepts_gets_no_other_key() -> None:
    [said] = refused([OLD, NEW], [OLD, Key(2, b"x" * 16)], peer=(1, 2))
    assert said.startswith("/keys/2.key: key 2 isn't the one that b knows")
    assert "xx" not in said
    assert not refused([OLD, NEW], [OLD, Key(2, b"x" * 16)], peer=(1, 0)), "a slip put right"


def test_no_key_goes_while_it_is_not_known_under_which_the_peer_sends() -> None:
    kernel_only = {"peer": (2, 1), "sends": 0, "watch": Watch.STALLED}
    assert refused([NEW, OLD], [NEW], **kernel_only)  # type: ignore[arg-type]
    assert not refused([OLD, NEW], [NEW, OLD], **kernel_only)  # type: ignore[arg-type]


@pytest.mark.parametrize("watch", list(Watch))
def test_a_pair_that_is_cut_already_can_be_put_right(watch: Watch) -> None:
    cut = watch in (Watch.UNKNOWN, Watch.DEAD)
    assert bool(refused([OLD], [NEW], peer=(1, 0), watch=watch)) is not cut
