# SPDX-License-Identifier: Apache-2.0
"""The hello with which both ends of a connection begin, and the version that both speak."""

from __future__ import annotations

import asyncio
import contextlib

from twinbeat.framing import Codec, WireError, framed, read_frame
from twinbeat.sync.session import CODES
from twinbeat.sync.shown import printable
from twinbeat.sync.tls import failure
from twinbeat.sync.wire import HELLO_MAX, Bye, Hello


async def introduced(
    codec: Codec, own: Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[Hello, int]:
    """The peer's hello and the version that both speak. Raises WireError, having told the peer."""
    writer.write(framed(codec.encode(own)))
    await writer.drain()
    try:
        said = codec.decode(await read_frame(reader, HELLO_MAX))
        if isinstance(said, Bye):
            raise WireError(
                said.code if said.code in CODES else "other",
                f"The peer said: {printable(said.sentence)}",
            )
        if not isinstance(said, Hello):
            raise WireError("malformed", "The peer did not begin with a hello.")
        return said, agreed(own, said)
    except WireError as error:
        if error.code in {"ended", "truncated"}:
            raise failure(EOFError()) from None
        await _part(codec, writer, error)
        raise


def agreed(own: Hello, peer: Hello) -> int:
    """The version that both speak. Raises WireError when these two can't be a pair."""
    if peer.pair != own.pair:
        raise WireError("pair", f"This is pair {own.pair}, and there is pair {peer.pair}.")
    if peer.node == own.node:
        raise WireError("node", f"Both nodes have index {own.node}; one must have the other.")
    version = min(own.versions[1], peer.versions[1])
    if version < max(own.versions[0], peer.versions[0]):
        ours, theirs = "-".join(map(str, own.versions)), "-".join(map(str, peer.versions))
        raise WireError(
            "version", f"Versions {ours} are spoken here and {theirs} there: upgrade the older one."
        )
    return version


async def _part(codec: Codec, writer: asyncio.StreamWriter, error: WireError) -> None:
    """Say why, in the hope that it arrives."""
    with contextlib.suppress(OSError):
        writer.write(framed(codec.encode(Bye(code=error.code, sentence=error.sentence))))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
