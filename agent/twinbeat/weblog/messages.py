# SPDX-License-Identifier: Apache-2.0
"""What a node and whoever pulls log records from it say to each other, on TCP 3011.

The transport
-------------
TLS 1.3 with ALPN `PROTOCOL`, both sides with a certificate of `sync.identity.generate`'s kind, both
pinned byte for byte; frames are those of `twinbeat.framing`. The node shows the certificate that it
has for its peer too (own.pem). Whoever pulls is either

- the peer's worker, which shows its own.pem and is given this node's streams: that is replication;
- a log client, whose certificate's SHA-256 is in a row of the shared section ``logclient``
  (`twinbeat weblog allow NAME FINGERPRINT`). It is given the streams of both nodes.

A client's certificate must be known to the node before TLS can verify it, but the operator names a
fingerprint only. So a client that is refused, or that comes for the first time, connects without a
certificate and sends `Introduce`; that is all that can be said without one. The answer is
`Introduced` if the fingerprint is allowed (the node keeps the certificate: connect again with it),
or `Problem` ``not_allowed``. With TLS 1.3 a client learns only with its first read that its
certificate was refused (an alert: unknown CA, or certificate unknown), and then introduces itself.

A node's certificate is renewed after some years. `Welcome.certificates` names those of both nodes,
so a client takes over what a node that it knows says of the other one, and of itself.

The conversation
----------------
The client says `Hello`, the node `Welcome`, or `Problem` and hangs up. Then the client asks and the
node answers, in order, one answer to each question; a client may have up to `PIPELINE_MAX`
questions on the way. `Pull` names the cursor of each stream that is wanted. A stream is what one
node collected in one epoch. `Blocks` is answered at once if there is something, else when something
has come or after ``wait_ms``. It carries blocks unchanged (see `block`): those of a stream in
order, those of different streams in any order. The first block of a stream may begin before the
cursor: the client skips the records that it has.

What a node gives: of its own records those that are durable on it, of its peer's those that are
durable in its replica. So nothing is given that a power failure could take back.

`Gap` says that *this* node can't give a stretch any more; the other node may well have it (it is
asked with the same cursor), so it is a loss only if both say so, or if the other one doesn't know
the stream. Sequences are contiguous: nothing but a `Gap` ever leaves a hole.

`Ack` says what the client has written for good: below the cursor nothing is asked for ever again. A
node frees what all its allowed clients have acknowledged. Acknowledgements are not kept over a
restart of the node, so a client repeats its own after each `Welcome`. Where a cursor of `Ack` is
of a stream that the node doesn't have, it is ignored.

A stream that is no longer listed in `streams` is over and freed on that node.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from twinbeat.framing import FRAME_MAX, Codec

PORT: Final = 3011
PROTOCOL: Final = "twinbeat-weblog/1"
"""ALPN."""
VERSIONS: Final = (1, 1)
"""The lowest and the highest that this release speaks."""
HELLO_MAX: Final = 16 << 10
"""Bytes of a frame from somebody who has not been welcomed yet."""
ASK_MAX: Final = 64 << 10
"""Bytes of any frame of a client."""
BYTES_MAX: Final = 896 << 10
"""Bytes of blocks in one answer; with all else that is in it they fit into a frame. One block
always goes, whatever `Pull.max_bytes` says."""
WAIT_MAX_MS: Final = 60_000
PIPELINE_MAX: Final = 4
"""Questions of a client that wait for their answer."""
STREAMS_MAX: Final = 64
SOURCES_MAX: Final = 256

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Sentence = Annotated[str, Meta(max_length=1024)]
U63 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Kind = Literal["nginx", "haproxy", "apache", "syslog", "raw"]
"""How the records of a source are written."""
Fingerprint = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
"""SHA-256 of a certificate's DER, in hexadecimal."""
Der = Annotated[bytes, Meta(max_length=4096)]


class Cursor(Struct, frozen=True, array_like=True):
    """A place in a stream: everything before it is done with."""

    node: Name
    epoch: U63
    next: U63
    """Sequence of the first record that is wanted."""


class Stream(Struct, frozen=True, kw_only=True):
    """How much there is of a stream on the node that says so. Each mark is the sequence that
    follows: ``durable=7`` means that the records 0 to 6 are."""

    node: Name
    """That collected it."""
    epoch: U63
    oldest: U63
    """First record that is still there; of an empty stream the same as `durable`."""
    received: U63
    """Collected. Of the peer's stream: in this node's replica, or on the way into it."""
    durable: U63
    """On this node's disk."""
    replicated: U63
    """On both nodes' disks, as far as this node knows: of its own records what the peer has
    acknowledged, of the peer's what is in the replica."""


class Source(Struct, frozen=True, kw_only=True):
    """Where records come from: blocks name it. Each node tells of its own and both have the same,
    as the configuration is shared."""

    name: Name
    kind: Kind
    format: Annotated[str, Meta(max_length=4096)] = ""
    """The `log_format`, `log-format` or `LogFormat` text; empty = the program's usual one
    (`combined`, `httplog`, `combined`)."""


class Hello(Struct, frozen=True, kw_only=True, tag="hello"):
    """First message of a client."""

    versions: tuple[U63, U63]
    """The lowest and the highest that it speaks."""
    name: Name
    """Of the client or, of the peer, the node; for people, it proves nothing."""


class Introduce(Struct, frozen=True, kw_only=True, tag="introduce"):
    """First and only message of a client that shows no certificate: this is it."""

    certificate: Der


class Introduced(Struct, frozen=True, kw_only=True, tag="introduced"):
    """It is allowed and known from now on. The node hangs up."""


class Welcome(Struct, frozen=True, kw_only=True, tag="welcome"):
    """The answer to `Hello`."""

    version: U63
    """Spoken from now on: the highest that both speak."""
    node: Name
    peer: str = ""
    """Name of the other node; empty while this one has never spoken with it."""
    pair: U63 = 0
    sources: Annotated[tuple[Source, ...], Meta(max_length=SOURCES_MAX)] = ()
    streams: Annotated[tuple[Stream, ...], Meta(max_length=STREAMS_MAX)] = ()
    certificates: dict[Name, Annotated[tuple[Der, ...], Meta(max_length=4)]] = {}
    """Of this node and of its peer, by name, those that may be shown soon included."""


class Pull(Struct, frozen=True, kw_only=True, tag="pull"):
    """What there is from these places on. Of a stream that isn't named nothing is given."""

    cursors: Annotated[tuple[Cursor, ...], Meta(max_length=STREAMS_MAX)]
    max_bytes: Annotated[int, Meta(ge=1, le=BYTES_MAX)] = BYTES_MAX
    wait_ms: Annotated[int, Meta(ge=0, le=WAIT_MAX_MS)] = 1000
    """How long to wait where there is nothing. A new stream ends the wait, too."""


GapReason = Literal["full", "age", "damaged", "lost", "acknowledged", "unknown"]
"""full: the oldest went to make room, as the policy says. age: it was too old. damaged: the disk
gave back something else. lost: an epoch ended before it was durable. acknowledged: all clients that
were allowed then had it. unknown: it is not known any more."""


class Gap(Struct, frozen=True, kw_only=True):
    """Records that this node can't give."""

    node: Name
    epoch: U63
    first: U63
    count: Annotated[int, Meta(ge=1)]
    reason: GapReason


class Blocks(Struct, frozen=True, kw_only=True, tag="blocks"):
    """The answer to `Pull`."""

    blocks: tuple[bytes, ...] = ()
    gaps: Annotated[tuple[Gap, ...], Meta(max_length=STREAMS_MAX)] = ()
    """Each begins at the cursor of its stream, and comes before its blocks."""
    streams: Annotated[tuple[Stream, ...], Meta(max_length=STREAMS_MAX)] = ()
    """All that this node has now."""


class Ack(Struct, frozen=True, kw_only=True, tag="ack"):
    """Written for good."""

    cursors: Annotated[tuple[Cursor, ...], Meta(max_length=STREAMS_MAX)]


class Acked(Struct, frozen=True, kw_only=True, tag="acked"):
    """The answer to `Ack`: it was noted."""


class Problem(Struct, frozen=True, kw_only=True, tag="problem"):
    """The last message of a node: why it hangs up."""

    code: Name
    """not_allowed, denied (no longer allowed), version, malformed, flood, slow, stopping,
    unavailable (no journal can be used)."""
    sentence: Sentence = ""


ToNode = Hello | Introduce | Pull | Ack
FromNode = Welcome | Introduced | Blocks | Acked | Problem


def codec(types: Any, versions: tuple[int, int] = VERSIONS) -> Codec:
    """Of the messages that one side *reads*: `ToNode` or `FromNode`. It writes any."""
    return Codec(types, versions, size_max=FRAME_MAX)


def agreed(theirs: tuple[int, int], ours: tuple[int, int] = VERSIONS) -> int:
    """The version that both speak; 0: there is none."""
    version = min(ours[1], theirs[1])
    return version if version >= max(ours[0], theirs[0]) else 0
