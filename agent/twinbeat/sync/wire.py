# SPDX-License-Identifier: Apache-2.0
"""What goes over the connection between the two workers: frames, and the messages in them.

Frames are those of `twinbeat.framing`. A message of more than `PIECE_MAX` bytes travels as
`Fragment`s, so that a document of ten thousand addresses holds up no sign of life; `MESSAGE_MAX`
bounds it.

Versions: each side says in its `Hello` which it speaks, and the highest that both speak holds.
Within it, a type or a field that this side doesn't know is of a later release: the type is skipped
and counted, the field ignored. So a later version only ever adds, and what it adds has a default;
`Hello` and `Bye` must stay readable for ever.

Nothing here opens a socket. What comes from elsewhere is never quoted in an error or a log, and the
messages that carry a key show it in no repr.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from msgspec import Meta, Struct

from twinbeat.framing import Codec, WireError, framed
from twinbeat.sync import messages
from twinbeat.sync.document import U32, U64, Name, Sentence
from twinbeat.sync.manifest import Entry, Hash, Order, Path, Stamp
from twinbeat.sync.messages import Summary
from twinbeat.sync.shown import FileFailure

PORT: Final = 3008
VERSIONS: Final = (1, 1)
"""The lowest and the highest that this release speaks."""

PIECE_MAX: Final = 256 << 10
"""Bytes of a message that goes in one frame, and of a piece of one that doesn't."""
MESSAGE_MAX: Final = 16 << 20
"""Bytes of a message; 10,000 addresses and 1,000 routes are about one million."""
HELLO_MAX: Final = 16 << 10
"""Bytes of a frame from somebody who has not said yet who he is."""
FILE_PIECE_MAX: Final = PIECE_MAX - 16384
"""Bytes of content in a message, which has a path as well."""
FILE_ITEMS_MAX: Final = 256
"""Entries of a list in one message."""
ANSWER_MAX: Final = MESSAGE_MAX - 1024
"""Bytes of what an operator reads of the other node."""
TARGET_MAX: Final = 256
"""Characters of the target that names it."""
PARTLY_MAX: Final = 2
"""Messages that arrive in fragments at the same time: one of each lane."""

T = TypeVar("T")
Token = Annotated[str, Meta(max_length=64)]


# -- the connection's own ------------------------------------------------------------------------


class Hello(Struct, frozen=True, kw_only=True, tag="hello"):
    """The first message of each side: who it is and what it speaks."""

    versions: tuple[U32, U32]
    """The lowest and the highest version that it speaks."""
    pair: U32
    node: Annotated[int, Meta(ge=0, le=1)]
    """Its index."""
    name: Name
    build: Name
    """Release of the program; for people only."""
    summary: Summary
    """How it stands, for `events.PeerFound`."""


class Bye(Struct, frozen=True, kw_only=True, tag="bye"):
    """The last message: why the sender ends the connection."""

    code: Name
    sentence: Sentence = ""


class Ping(Struct, frozen=True, kw_only=True, tag="ping"):
    """A sign of life."""

    sent_ns: U64
    """By the sender's clock, which nobody else reads."""


class Pong(Struct, frozen=True, kw_only=True, tag="pong"):
    """The answer, for the round trip's duration."""

    sent_ns: U64
    """Of the `Ping`."""


class Fragment(Struct, frozen=True, kw_only=True, tag="fragment"):
    """A piece of a larger message. Pieces of one come in order."""

    number: U32
    """Of the message."""
    offset: U32
    size: Annotated[int, Meta(gt=0, le=MESSAGE_MAX)]
    """Of the whole message."""
    data: Annotated[bytes, Meta(min_length=1, max_length=PIECE_MAX)]


class Renew(Struct, frozen=True, kw_only=True, tag="renew"):
    """The certificate that the sender will use soon; answered by `Renewed`."""

    certificate: Annotated[bytes, Meta(max_length=4096)]


class Renewed(Struct, frozen=True, kw_only=True, tag="renewed"):
    """That certificate is stored beside the one in use, or was refused."""

    fingerprint: Hash
    code: Name = ""
    sentence: Sentence = ""


# -- keys and questions --------------------------------------------------------------------------


class KeyGive(Struct, frozen=True, kw_only=True, tag="key_give"):
    """A new key for heartbeats, to be accepted beside those that there are."""

    id: Annotated[int, Meta(ge=1, le=255)]
    secret: Annotated[bytes, Meta(min_length=16, max_length=16)]

    def __repr__(self) -> str:
        return f"KeyGive(id={self.id})"


class KeyUse(Struct, frozen=True, kw_only=True, tag="key_use"):
    """Send under this key, and accept no other any more if `alone`."""

    id: Annotated[int, Meta(ge=1, le=255)]
    alone: bool = False


class KeyDone(Struct, frozen=True, kw_only=True, tag="key_done"):
    """The answer to `KeyGive` and `KeyUse`."""

    id: Annotated[int, Meta(ge=1, le=255)]
    code: Name = ""
    sentence: Sentence = ""


class Read(Struct, frozen=True, kw_only=True, tag="read"):
    """A question of an operator on the other node (`--node peer`), answered by `ReadAnswer`."""

    token: Token
    what: Annotated[str, Meta(max_length=TARGET_MAX)]
    """A target of the local interface: /v1/status."""


class ReadAnswer(Struct, frozen=True, kw_only=True, tag="read_answer"):
    """What the daemon of the other node said."""

    token: Token
    status: Annotated[int, Meta(ge=0, le=999)]
    body: Annotated[bytes, Meta(max_length=ANSWER_MAX)] = b""


# -- files ---------------------------------------------------------------------------------------


class Manifest(Struct, frozen=True, kw_only=True, tag="manifest"):
    """What the sender has of one list of files. A long list takes several of these."""

    list: Name
    definition: Hash = ""
    """`FileList.digest`: the same list has to be meant."""
    whole: bool = True
    """All there is; otherwise what became of it since the last one."""
    entries: Annotated[tuple[Entry, ...], Meta(max_length=FILE_ITEMS_MAX)] = ()
    last: bool = True


class FileAsk(Struct, frozen=True, kw_only=True, tag="file_ask"):
    """Send the whole manifest."""

    list: Name


class FileOrders(Struct, frozen=True, kw_only=True, tag="file_orders"):
    """What the receiver has to do; answered by `FileDone`. Many orders take several of these."""

    list: Name
    definition: Hash
    round: U32
    orders: Annotated[tuple[Order, ...], Meta(max_length=FILE_ITEMS_MAX)] = ()
    last: bool = True


class FileWant(Struct, frozen=True, kw_only=True, tag="file_want"):
    """Send this range of a file's content."""

    list: Name
    path: Path
    content: Hash
    offset: U64 = 0
    size: Annotated[int, Meta(ge=1, le=8 * FILE_PIECE_MAX)] = FILE_PIECE_MAX


class FilePiece(Struct, frozen=True, kw_only=True, tag="file_piece"):
    """A part of what was wanted. Those of one file come in order."""

    list: Name
    path: Path
    content: Hash = ""
    """As it was wanted; what was sent may be another by now."""
    offset: U64
    data: Annotated[bytes, Meta(max_length=FILE_PIECE_MAX)]
    code: Name = ""
    """Why there is no more of it."""
    sentence: Sentence = ""


class FileDone(Struct, frozen=True, kw_only=True, tag="file_done"):
    """The orders were carried out, but for what failed. The manifest that follows from it was sent
    before."""

    list: Name
    round: U32 = 0
    changed: U32 = 0
    failed: U32 = 0
    failures: Annotated[tuple[FileFailure, ...], Meta(max_length=256)] = ()
    """The first of them."""
    code: Name = ""
    """Why nothing at all was done."""
    sentence: Sentence = ""


class FileCommon(Struct, frozen=True, kw_only=True, tag="file_common"):
    """What both nodes have alike now: path and stamp; without a stamp, what is gone on both."""

    list: Name
    definition: Hash
    stamps: Annotated[tuple[tuple[Path, Stamp], ...], Meta(max_length=FILE_ITEMS_MAX)] = ()


# -- persistence ---------------------------------------------------------------------------------


ENTRIES_MAX: Final = 1000
"""Entries of persistence in one message, which has to go in one frame."""
Bound = Annotated[bytes, Meta(max_length=256)]


class SessionBatch(Struct, frozen=True, kw_only=True, tag="session_batch"):
    """Entries of a persistence rule, or the beginning or end of all there are; see
    `sessions.replication`. Answered by `SessionDone`, which may answer several."""

    number: U64
    part: Literal["live", "begin", "more", "end"] = "live"
    rule: Name = ""
    entries: Annotated[
        tuple[tuple[Bound, Annotated[str, Meta(max_length=256)], U64], ...],
        Meta(max_length=ENTRIES_MAX),
    ] = ()
    """Key, server, and what remains of the lifetime in milliseconds."""
    gone: Annotated[tuple[Bound, ...], Meta(max_length=ENTRIES_MAX)] = ()


class SessionDone(Struct, frozen=True, kw_only=True, tag="session_done"):
    """All up to that number is in the sender's kernel."""

    number: U64


class SessionAsk(Struct, frozen=True, kw_only=True, tag="session_ask"):
    """To who leads: send all entries anew, there are rules now that weren't when they came. From
    who leads: say what you have alone, ended by a part ``end`` of number 0."""

    fresh: bool = False
    """The sender's worker has just started, and lost the entries that no kernel keeps."""


Filing = Manifest | FileAsk | FileOrders | FileWant | FilePiece | FileDone | FileCommon
Keying = KeyGive | KeyUse | KeyDone
Persisting = SessionBatch | SessionDone | SessionAsk
Traffic = messages.Message | Keying | Read | ReadAnswer | Filing | Persisting
"""What whoever holds a connection sends and receives; the rest is the connection's own business."""
Message = Hello | Bye | Ping | Pong | Fragment | Renew | Renewed | Traffic

BULK: Final = (Manifest, FileOrders, FilePiece, FileDone, FileCommon)
"""Let everything else go first, but keep their order among themselves."""
BETWEEN: Final = (SessionBatch, SessionDone, SessionAsk)
"""Let commands go first, and go before files; in their order."""


# -- from bytes and to bytes -----------------------------------------------------------------------


def codec(types: Any = Message, versions: tuple[int, int] = VERSIONS) -> Codec:
    """Of this language; another set of types is that of another release."""
    return Codec(types, versions, size_max=MESSAGE_MAX)


def frames(codec: Codec, payload: bytes, number: int) -> Iterator[bytes]:
    """The frame or frames that an encoded message travels in."""
    if len(payload) <= PIECE_MAX:
        yield framed(payload)
        return
    for offset in range(0, len(payload), PIECE_MAX):
        data = payload[offset : offset + PIECE_MAX]
        piece = Fragment(number=number, offset=offset, size=len(payload), data=data)
        yield framed(codec.encode(piece))


class Assembly:
    """Puts messages together again. What is held never exceeds PARTLY_MAX times MESSAGE_MAX."""

    def __init__(self) -> None:
        self._parts: dict[int, tuple[int, bytearray]] = {}

    def add(self, piece: Fragment) -> bytes | None:
        """The whole message when this was its last piece. Raises WireError, `fragment`."""
        if piece.offset == 0 and piece.number not in self._parts:
            if len(self._parts) >= PARTLY_MAX:
                raise _misplaced("belongs to one message too many")
            self._parts[piece.number] = (piece.size, bytearray())
        size, data = self._parts.get(piece.number, (0, bytearray()))
        if piece.size != size or piece.offset != len(data) or not size:
            raise _misplaced("doesn't follow the one before")
        if len(data) + len(piece.data) > size:
            raise _misplaced("is longer than its message")
        data += piece.data
        if len(data) < size:
            return None
        del self._parts[piece.number]
        return bytes(data)

    @property
    def under_way(self) -> tuple[int, int]:
        """Bytes that have come, and bytes that there will be: for a progress bar."""
        parts = self._parts.values()
        return sum(len(data) for _, data in parts), sum(size for size, _ in parts)


def _misplaced(how: str) -> WireError:
    return WireError("fragment", f"The peer sent a piece of a message that {how}.")


def chunks(items: Sequence[T]) -> Iterator[tuple[tuple[T, ...], bool]]:
    """As many as go into a message about files, and whether they are the last.

    Of nothing there is one, and it is empty.
    """
    for start in range(0, max(1, len(items)), FILE_ITEMS_MAX):
        end = start + FILE_ITEMS_MAX
        yield tuple(items[start:end]), end >= len(items)
