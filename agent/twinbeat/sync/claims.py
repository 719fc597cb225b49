# SPDX-License-Identifier: Apache-2.0
"""What two nodes say to each other while they are paired, and what they draw from it.

Hashes are over parts whose boundaries nobody can shift, and each says what it is for: nothing that
was made for one purpose, or by one side, is taken for another.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from msgspec import Meta, Struct

from twinbeat.framing import Codec
from twinbeat.sync.document import U32, Name, Sentence

PROTOCOL: Final = "twinbeat-pair/1"
VERSIONS: Final = (1, 1)
FRAME_MAX: Final = 16 << 10
NONCE_BYTES: Final = 32
SECRET_BYTES: Final = 16
DIGITS: Final = 8


class Claim(Struct, frozen=True, kw_only=True, tag="claim"):
    """Who the sender says he is, and the commitment to his nonce."""

    versions: tuple[U32, U32]
    name: Name
    node: Annotated[int, Meta(ge=0, le=1)]
    pair: U32
    certificate: Annotated[bytes, Meta(max_length=4096)]
    commitment: Annotated[bytes, Meta(min_length=32, max_length=32)]
    gives: Annotated[int, Meta(ge=0, le=255)] = 0
    """Id of the key for heartbeats that it brings; 0 = none."""


class Reveal(Struct, frozen=True, kw_only=True, tag="reveal"):
    """The nonce that was committed to."""

    nonce: Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]

    def __repr__(self) -> str:
        return "Reveal()"


class Agree(Struct, frozen=True, kw_only=True, tag="agree"):
    """The operator finds the codes alike."""


class Proof(Struct, frozen=True, kw_only=True, tag="proof"):
    """The sender holds the key of his certificate."""

    signature: Annotated[bytes, Meta(max_length=128)]


class Hand(Struct, frozen=True, kw_only=True, tag="hand"):
    """The key for the heartbeats."""

    id: Annotated[int, Meta(ge=1, le=255)]
    secret: Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]

    def __repr__(self) -> str:
        return f"Hand(id={self.id})"


class Ready(Struct, frozen=True, kw_only=True, tag="ready"):
    """The dialer has all that it needs."""


class Kept(Struct, frozen=True, kw_only=True, tag="kept"):
    """The sender has written it down."""


class Stop(Struct, frozen=True, kw_only=True, tag="stop"):
    """The sender gives up."""

    code: Name
    sentence: Sentence = ""


Message = Claim | Reveal | Agree | Proof | Hand | Ready | Kept | Stop
CODEC: Final = Codec(Message, VERSIONS, size_max=FRAME_MAX)


def hashed(label: str, *parts: bytes) -> bytes:
    """SHA-256 over parts whose boundaries nobody can shift."""
    made = hashlib.sha256(f"twinbeat pair 1 {label}".encode() + b"\0")
    for part in parts:
        made.update(len(part).to_bytes(8, "big") + part)
    return made.digest()


def commitment(nonce: bytes, *, dialed: bool) -> bytes:
    """It says which side it is of, so that none can be sent back to whoever made it."""
    return hashed("commitment", b"dialer" if dialed else b"listener", nonce)


def signed(transcript: bytes, *, dialed: bool) -> bytes:
    """What each side proves by a signature that it has heard."""
    return hashed("proof", b"dialer" if dialed else b"listener", transcript)


def code_of(transcript: bytes) -> str:
    """What operators compare: two groups of four digits."""
    number = int.from_bytes(hashed("code", transcript), "big") % 10**DIGITS
    digits = f"{number:0{DIGITS}d}"
    return f"{digits[: DIGITS // 2]} {digits[DIGITS // 2 :]}"
