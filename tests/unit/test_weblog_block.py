# SPDX-License-Identifier: Apache-2.0
"""Blocks of log records, and the messages that carry them: what goes in comes out, or is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinbeat.framing import FRAME_MAX, WireError, framed
from twinbeat.weblog import block, messages

RECORDS = b"first\nsecond\n\nlast \xff\n"


def sample(payload: bytes = RECORDS, first: int = 40) -> block.Block:
    return block.make(
        node="gw-a",
        epoch=7,
        first=first,
        source="web",
        payload=payload,
        received_ns=1_700_000_000_123_456_789,
        position=block.Position(inode=12, offset=999, head=0xFFFFFFFF, head_size=64),
    )


def test_a_block_is_what_was_made() -> None:
    made = sample()
    found = block.received(made.raw)
    assert found == made
    assert found.records() == [b"first", b"second", b"", b"last \xff"]
    assert (found.first, found.count, found.next) == (40, 4, 44)
    assert b"\n".join([*found.records(), b""]) == found.payload == RECORDS


def test_blocks_follow_each_other() -> None:
    made = [sample(b"x\n" * n, first=n * n) for n in range(1, 5)]
    data = b"".join(each.raw for each in made)
    assert [found for _, found in block.blocks(data)] == made


@given(st.integers(0), st.integers(1, 255))
def test_no_changed_byte_is_taken_for_a_block(at: int, change: int) -> None:
    raw = bytearray(sample().raw)
    raw[at % len(raw)] ^= change
    with pytest.raises(block.BlockError):
        block.received(bytes(raw))


def test_no_part_is_taken_for_a_block() -> None:
    raw = sample().raw
    for size in range(len(raw)):
        with pytest.raises(block.BlockError) as caught:
            block.parse(raw[:size])
        assert caught.value.code == "short"
    with pytest.raises(block.BlockError):
        block.received(raw + b"x")


def test_a_count_that_is_wrong_is_refused() -> None:
    lying = block.make(
        node="a", epoch=1, first=0, source="s", payload=b"x\ny\n", received_ns=0, count=3
    )
    assert block.parse(lying.raw).count == 3
    with pytest.raises(block.BlockError) as caught:
        block.received(lying.raw)
    assert caught.value.code == "shape"
    with pytest.raises(block.BlockError):
        block.received(
            block.make(node="a", epoch=1, first=0, source="s", payload=b"", received_ns=0).raw
        )


def test_the_largest_answer_fits_into_a_frame() -> None:
    names = ["n" * 63 + f"{n % 10}" for n in range(messages.STREAMS_MAX)]
    most = (1 << 63) - 1
    streams = tuple(
        messages.Stream(
            node=name, epoch=most, oldest=most, received=most, durable=most, replicated=most
        )
        for name in names
    )
    gaps = tuple(
        messages.Gap(node=name, epoch=most, first=most, count=most, reason="acknowledged")
        for name in names
    )
    size = messages.BYTES_MAX // 1024
    blocks = tuple(bytes(size) for _ in range(messages.BYTES_MAX // size))
    answer = messages.Blocks(blocks=blocks, gaps=gaps, streams=streams)
    frame = framed(messages.codec(messages.FromNode).encode(answer))
    assert len(frame) <= FRAME_MAX
    assert messages.codec(messages.FromNode).decode(frame[4:]) == answer
    assert messages.BYTES_MAX > block.BLOCK_MAX


def test_what_a_client_must_not_say_is_refused() -> None:
    codec = messages.codec(messages.ToNode)
    assert codec.decode(codec.encode(messages.Pull(cursors=(messages.Cursor("a", 1, 2),)))) == (
        messages.Pull(cursors=(messages.Cursor("a", 1, 2),))
    )
    many = messages.Pull(cursors=tuple(messages.Cursor("a", n, 0) for n in range(65)))
    for wrong in (
        many,
        messages.Pull(cursors=(), wait_ms=10**9),
        messages.Pull(cursors=(), max_bytes=0),
    ):
        with pytest.raises(WireError) as caught:
            codec.decode(codec.encode(wrong))
        assert caught.value.code == "malformed"


@pytest.mark.parametrize(("theirs", "spoken"), [((1, 1), 1), ((1, 9), 1), ((2, 3), 0)])
def test_versions_meet_or_not(theirs: tuple[int, int], spoken: int) -> None:
    assert messages.agreed(theirs) == spoken
