# SPDX-License-Identifier: Apache-2.0
"""Frames and messages between the workers: what is read is bounded, checked and never quoted."""

import asyncio
import random
import tracemalloc
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
from msgspec import Struct

from twinbeat import framing
from twinbeat.framing import WireError
from twinbeat.sync import wire
from twinbeat.sync.document import Document, Version
from twinbeat.sync.manifest import Entry, Kind, Order, What
from twinbeat.sync.messages import Given, Status, Summary, Want
from twinbeat.sync.shown import FileFailure
from twinbeat.sync.wire import Assembly, Fragment

CODEC = wire.codec()
MARK = "9f3c5e7a1b2d4f608192a3b4c5d6e7f8"


def packed(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def refusal(payload: bytes) -> WireError:
    with pytest.raises(WireError) as caught:
        CODEC.decode(payload)
    return caught.value


def summary(**changes: Any) -> Summary:
    plain = Summary(
        node=0,
        lineage="0" * 32,
        version=Version(1, 1),
        fingerprint="0" * 64,
        paired=True,
        settled=True,
        applied=True,
    )
    return msgspec.structs.replace(plain, **changes)


def hello(**changes: Any) -> wire.Hello:
    plain = wire.Hello(
        versions=wire.VERSIONS, pair=1, node=0, name="a", build="0.1.0", summary=summary()
    )
    return msgspec.structs.replace(plain, **changes)


def examples() -> Iterator[Struct]:
    """One of each kind of message, and of every size."""
    yield hello()
    yield wire.Bye(code="pair", sentence="no")
    yield wire.Ping(sent_ns=1 << 60)
    yield wire.Pong(sent_ns=0)
    yield Fragment(number=1, offset=0, size=9, data=b"123")
    yield wire.Renew(certificate=b"\x30\x82")
    yield wire.Renewed(fingerprint="a" * 64)
    yield Status(summary=summary())
    yield Want()
    tables = {"vrid": {"51": {"id": 51, "vips": ["10.0.0.1"], "vmac": True}}}
    yield Given(document=Document(lineage="1" * 32, version=Version(2, 3), tables=tables))
    yield wire.KeyGive(id=3, secret=bytes(range(16)))
    yield wire.KeyUse(id=3)
    yield wire.KeyDone(id=3)
    yield wire.Read(token="t", what="/v1/status")
    yield wire.ReadAnswer(token="t", status=200, body=b"{}")
    entry = Entry(path="/etc/x", kind=Kind.FILE, size=3, content="c" * 64, mtime_ns=-5)
    yield wire.Manifest(list="l", definition="d" * 64, entries=(entry,))
    yield wire.FileAsk(list="l")
    order = Order(what=What.TAKE, entry=entry, expect="e" * 32, keep=True)
    yield wire.FileOrders(list="l", definition="d" * 64, round=1, orders=(order,))
    yield wire.FileWant(list="l", path="/etc/x", content="b" * 64)
    yield wire.FilePiece(list="l", path="/etc/x", offset=0, data=b"abc")
    failure = FileFailure(path="/etc/x", code="full")
    yield wire.FileDone(list="l", failures=(failure,))
    yield wire.FileCommon(list="l", definition="d" * 64, stamps=(("/etc/x", "e" * 32),))


# -- messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("message", list(examples()), ids=lambda message: type(message).__name__)
def test_what_is_sent_is_what_comes(message: Struct) -> None:
    assert CODEC.decode(CODEC.encode(message)) == message


def test_no_two_messages_share_a_name() -> None:
    types = get_args(wire.Message)
    assert len({each.__struct_config__.tag for each in types}) == len(types)


def test_a_field_of_a_later_release_is_ignored() -> None:
    assert CODEC.decode(packed({"type": "ping", "sent_ns": 5, "colour": ["red"]})) == wire.Ping(
        sent_ns=5
    )


def test_a_message_of_a_later_release_is_named_and_skipped() -> None:
    assert CODEC.decode(packed({"type": "sing", "song": {"a": [1]}})) == framing.Unknown(
        type="sing"
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x81\xa4type" + b"\x91" * 100_000,
        b"\x81\xa4type\xa2\xff\xfe",
        packed({"type": 7}),
        packed({"type": "x" * 65}),
        packed({"no": "type"}),
        packed(["type", "ping"]),
        packed({"type": "ping"}),
        packed({"type": "ping", "sent_ns": -1}),
        packed({"type": "ping", "sent_ns": 1.5}),
        packed({"type": "ping", "sent_ns": 1 << 63}),
        packed({"type": "bye", "code": "x" * 65}),
        packed({"type": "key_give", "id": 0, "secret": bytes(16)}),
        packed({"type": "key_give", "id": 1, "secret": bytes(17)}),
        packed({"type": "renewed", "fingerprint": "a" * 63}),
        packed({"type": "read", "token": "", "what": "x" * 257}),
        packed({"type": "file_want", "list": "l", "path": "", "content": ""}),
        packed({"type": "fragment", "number": 1, "offset": 0, "size": 1, "data": b""}),
        packed({"type": "fragment", "number": 1, "offset": 0, "size": 1 << 30, "data": b"x"}),
        packed(wire.Ping(sent_ns=1)) + b"\0",
    ],
    ids=lambda payload: payload[:12].hex(),
)
def test_whatever_is_no_message_is_refused(payload: bytes) -> None:
    assert refusal(payload).code == "malformed"


def test_an_error_tells_where_but_not_what() -> None:
    refused = refusal(packed({"type": "key_give", "id": 1, "secret": MARK}))
    assert "key_give" in refused.sentence
    assert "$.secret" in refused.sentence
    assert MARK not in f"{refused!r} {refused.sentence}"
    assert refused.__context__ is None
    rude = refusal(packed({"type": "given", "document": {MARK + "\x1b[2J": 1}}))
    assert MARK not in rude.sentence
    assert rude.sentence.isprintable()


def test_a_key_shows_in_no_repr() -> None:
    secret = bytes.fromhex(MARK)
    shown = repr(wire.KeyGive(id=2, secret=secret)) + str([wire.KeyGive(id=2, secret=secret)])
    assert "id=2" in shown
    assert MARK not in shown
    assert repr(secret)[2:-1] not in shown


def test_a_message_that_no_peer_would_take_is_not_made() -> None:
    body = bytes(wire.MESSAGE_MAX - 1024)
    assert CODEC.encode(wire.ReadAnswer(token="t", status=200, body=body))
    with pytest.raises(WireError) as caught:
        CODEC.encode(wire.ReadAnswer(token="t", status=200, body=body + bytes(2048)))
    assert caught.value.code == "oversized"


def test_ten_thousand_broken_messages() -> None:
    # Mutated, cut and glued: each is a message, one of a later release, or refused. Nothing else.
    rng = random.Random(20)
    good = [CODEC.encode(message) for message in examples()]
    seen = {"message": 0, "unknown": 0, "refused": 0}
    for _ in range(10_000):
        payload = bytearray(rng.choice(good))
        for _ in range(rng.choice((1, 1, 2, 5, 20))):
            match rng.randrange(4):
                case 0:
                    payload[rng.randrange(len(payload))] = rng.randrange(256)
                case 1:
                    payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
                case 2:
                    del payload[rng.randrange(len(payload)) :]
                    payload += rng.randbytes(rng.randrange(1, 4))
                case _:
                    at = rng.randrange(len(payload))
                    payload[at:at] = rng.choice(good)[: rng.randrange(1, 30)]
        try:
            found = CODEC.decode(bytes(payload))
        except WireError as error:
            found = error
        match found:
            case WireError(code="malformed", sentence=sentence) if sentence.isprintable():
                seen["refused"] += 1
            case framing.Unknown():
                seen["unknown"] += 1
            case _:
                assert isinstance(found, get_args(wire.Message))
                seen["message"] += 1
    assert min(seen.values()) > 100, seen


# -- frames -----------------------------------------------------------------------------------


def reading(data: bytes, size_max: int = framing.FRAME_MAX) -> list[bytes | str]:
    """The frames of a stream, and how it ended."""

    async def read() -> list[bytes | str]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        found: list[bytes | str] = []
        try:
            while True:
                found.append(await framing.read_frame(reader, size_max))
        except WireError as error:
            return [*found, error.code]

    return asyncio.run(read())


def test_frames_come_one_by_one_whatever_the_network_did_to_them() -> None:
    assert reading(framing.framed(b"one") + framing.framed(b"two")) == [b"one", b"two", "ended"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "ended"),
        (b"\0", "truncated"),
        (b"\0\0\0\5abc", "truncated"),
        (b"\0\0\0\0", "empty"),
        (b"\xff\xff\xff\xff", "oversized"),
        ((framing.FRAME_MAX + 1).to_bytes(4, "big"), "oversized"),
        (b"GET / HTTP/1.1\r\n\r\n", "oversized"),
    ],
)
def test_a_stream_that_ends_wrongly_says_how(data: bytes, code: str) -> None:
    assert reading(data) == [code]


def test_a_stranger_s_frame_is_bounded_closer() -> None:
    data = framing.framed(bytes(wire.HELLO_MAX + 1))
    assert reading(data, wire.HELLO_MAX) == ["oversized"]
    assert len(reading(data)[0]) == wire.HELLO_MAX + 1


def test_nothing_is_set_aside_for_a_frame_that_was_only_announced() -> None:
    data = framing.FRAME_MAX.to_bytes(4, "big") + b"x"
    tracemalloc.start()
    try:
        assert reading(data) == ["truncated"]
        assert tracemalloc.get_traced_memory()[1] < framing.FRAME_MAX // 2
    finally:
        tracemalloc.stop()


# -- fragments --------------------------------------------------------------------------------


def pieces(payload: bytes, number: int = 1) -> list[Fragment]:
    found = []
    for frame in wire.frames(CODEC, payload, number):
        assert len(frame) <= framing.FRAME_MAX
        piece = CODEC.decode(frame[framing.LENGTH :])
        assert isinstance(piece, Fragment)
        found.append(piece)
    return found


def test_a_small_message_goes_as_it_is() -> None:
    assert list(wire.frames(CODEC, b"x" * wire.PIECE_MAX, 1)) == [
        framing.framed(b"x" * wire.PIECE_MAX)
    ]


def test_a_large_message_is_cut_and_put_together_again() -> None:
    payload = random.Random(1).randbytes(3 * wire.PIECE_MAX + 17)
    assembly = Assembly()
    cut = pieces(payload)
    assert len(cut) == 4
    for index, piece in enumerate(cut[:-1], 1):
        assert assembly.add(piece) is None
        assert assembly.under_way == (index * wire.PIECE_MAX, len(payload))
    assert assembly.add(cut[-1]) == payload
    assert assembly.under_way == (0, 0)


def test_two_messages_may_come_interleaved_but_not_three() -> None:
    payload = bytes(wire.PIECE_MAX + 1)
    assembly = Assembly()
    first, second, third = (pieces(payload, number) for number in (1, 2, 3))
    assert assembly.add(first[0]) is None
    assert assembly.add(second[0]) is None
    with pytest.raises(WireError, match="too many"):
        assembly.add(third[0])
    assert assembly.add(first[1]) == payload
    assert assembly.add(second[1]) == payload


@pytest.mark.parametrize(
    "wrong",
    [
        Fragment(number=1, offset=3, size=9, data=b"x"),
        Fragment(number=1, offset=5, size=9, data=b"x"),
        Fragment(number=1, offset=0, size=9, data=b"abcd"),
        Fragment(number=1, offset=4, size=8, data=b"x"),
        Fragment(number=1, offset=4, size=9, data=b"efghij"),
        Fragment(number=2, offset=4, size=9, data=b"x"),
    ],
    ids=["back", "ahead", "again", "resized", "long", "headless"],
)
def test_a_piece_out_of_place_is_refused(wrong: Fragment) -> None:
    assembly = Assembly()
    assert assembly.add(Fragment(number=1, offset=0, size=9, data=b"abcd")) is None
    with pytest.raises(WireError) as caught:
        assembly.add(wrong)
    assert caught.value.code == "fragment"


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 600])
def test_many_items_are_cut_into_messages_and_the_last_is_known(count: int) -> None:
    found = list(wire.chunks(range(count)))
    assert [item for chunk, _ in found for item in chunk] == list(range(count))
    assert [last for _, last in found] == [False] * (len(found) - 1) + [True]
    assert all(len(chunk) <= wire.FILE_ITEMS_MAX for chunk, _ in found)
