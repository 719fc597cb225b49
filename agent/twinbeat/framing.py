# SPDX-License-Identifier: Apache-2.0
"""Messages on a stream: a length (u32, big endian, at most `FRAME_MAX`) and one message in
MessagePack, a map whose `type` says which.

A type or a field that this side doesn't know is of a later release: the type becomes `Unknown`, the
field is ignored. Which messages there are is for each language to say: `sync.wire` is that of the
two workers, `weblog.messages` that of log clients. Nothing here opens a socket, and what comes from
elsewhere is never quoted in an error.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import msgspec
from msgspec import Meta, Struct

if TYPE_CHECKING:
    import asyncio

FRAME_MAX: Final = 1 << 20
"""Bytes of a frame, without its length."""
LENGTH: Final = 4


class WireError(Exception):
    """The peer sent what it must not, or nothing more. `code` is counted; the message is ours."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class Unknown(Struct, frozen=True, kw_only=True):
    """A message of a later release, which this one skips."""

    type: str


class _Head(Struct):
    """All that every message has."""

    type: Annotated[str, Meta(max_length=64)]


_HEAD: Final = msgspec.msgpack.Decoder(_Head)
_PATH: Final = re.compile(r" - at `(?:key in )?(\$[\w.\[\]]{0,80})")


class Codec:
    """One version of a language. Another set of types is one of another release."""

    def __init__(self, types: Any, versions: tuple[int, int], *, size_max: int) -> None:
        """``types`` is a union; ``size_max`` bounds what is encoded, in bytes."""
        assert 0 < versions[0] <= versions[1]
        self.versions = versions
        self._size_max = size_max
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(types)
        self._known = frozenset(each.__struct_config__.tag for each in get_args(types))

    def encode(self, message: Struct) -> bytes:
        """The bytes of a message. One that is too large is a mistake of this program."""
        payload = self._encoder.encode(message)
        if len(payload) > self._size_max:
            name, most = type(message).__name__, self._size_max
            raise WireError("oversized", f"{name} has {len(payload)} bytes; {most} can go.")
        return payload

    def decode(self, payload: bytes) -> Any:
        """The message, or `Unknown`. Raises WireError, `malformed`, and quotes nothing of it."""
        try:
            return self._decoder.decode(payload)
        except (ValueError, TypeError, RecursionError) as error:
            where = _PATH.search(str(error))
        try:
            kind = _HEAD.decode(payload).type
        except (ValueError, TypeError, RecursionError):
            raise WireError("malformed", "The peer sent what is no message.") from None
        if kind not in self._known:
            return Unknown(type=kind)
        what = f" at {where.group(1)}" if where else ""
        raise WireError("malformed", f"The peer sent a broken {kind!r} message{what}.")


def framed(payload: bytes) -> bytes:
    """A message that fits into one frame."""
    assert len(payload) <= FRAME_MAX
    return len(payload).to_bytes(LENGTH, "big") + payload


async def read_frame(reader: asyncio.StreamReader, size_max: int = FRAME_MAX) -> bytes:
    """The next frame. Nothing is set aside for one that announces more than it may have.

    Raises WireError: `oversized`, `empty`, `truncated`, or `ended` when there is no next.
    """
    # The command line knows the messages, too, and does without a loop.
    from asyncio import IncompleteReadError

    try:
        size = int.from_bytes(await reader.readexactly(LENGTH), "big")
        if size > size_max:
            raise WireError("oversized", f"A frame of {size} bytes; {size_max} are the most.")
        if size == 0:
            raise WireError("empty", "A frame of no bytes.")
        return await reader.readexactly(size)
    except IncompleteReadError as error:
        if not error.partial and error.expected == LENGTH:
            raise WireError("ended", "The connection was closed.") from None
        raise WireError("truncated", "The connection was closed within a frame.") from None
