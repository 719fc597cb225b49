# SPDX-License-Identifier: Apache-2.0
"""A node that gives log records, with all that it has in memory: what a log client is tested by.

It speaks the language of `weblog.messages` over real TLS, and tells lies when a test asks it to.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twinbeat import framing
from twinbeat.framing import WireError
from twinbeat.sync.identity import Folder, examine
from twinbeat.weblog import block, messages
from twinbeat.weblog.block import Block
from twinbeat.weblog.messages import (
    Ack,
    Acked,
    Blocks,
    Gap,
    Hello,
    Introduce,
    Introduced,
    Problem,
    Pull,
    Source,
    Stream,
    Welcome,
)

CODEC = messages.codec(messages.ToNode)
RECEIVED_NS = 1_790_000_000_000_000_000
SOURCES = (Source(name="web", kind="nginx"), Source(name="plain", kind="raw"))


def records(node: str, epoch: int, first: int, lines: list[bytes], source: str = "web") -> Block:
    """A block of these lines."""
    return block.make(
        node=node,
        epoch=epoch,
        first=first,
        source=source,
        payload=b"".join(line + b"\n" for line in lines),
        received_ns=RECEIVED_NS,
    )


class Node:
    """One node. Everything may be changed while it serves."""

    def __init__(self, root: Path, name: str, peer: str, allowed: set[str]) -> None:
        self.name, self.peer = name, peer
        self.folder = Folder(root / f"node-{name}")
        self.identity = self.folder.own() or self.folder.make_own(name, time.time())
        self.allowed = allowed
        """Fingerprints."""
        self._known: list[bytes] = []
        self.streams: dict[tuple[str, int], list[Block]] = {}
        self.gaps: dict[tuple[str, int], Gap] = {}
        self.acknowledged: dict[tuple[str, int], int] = {}
        self.pulls = 0
        self.sources = SOURCES
        self.certificates = (self.identity.certificate.der,)
        self.lie: Callable[[Blocks], Any] = lambda answer: answer
        """What is said in place of an answer."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._news = asyncio.Condition()

    @property
    def fingerprint(self) -> str:
        return self.identity.certificate.fingerprint

    def line(self) -> str:
        """Its line of log.conf."""
        return f"NODE 127.0.0.1 PORT {self.port} FINGERPRINT {self.fingerprint}\n"

    async def add(self, *blocks: Block) -> None:
        for each in blocks:
            self.streams.setdefault((each.node, each.epoch), []).append(each)
        async with self._news:
            self._news.notify_all()

    async def __aenter__(self) -> Node:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._context(), limit=framing.FRAME_MAX
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    def _context(self) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.verify_mode = ssl.CERT_OPTIONAL
        made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        made.set_alpn_protocols([messages.PROTOCOL])
        made.load_cert_chain(self.folder.own_file)
        if self._known:
            made.load_verify_locations(cadata=b"".join(self._known))
        self._tls = made
        return made

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._converse(reader, writer)
        except (WireError, OSError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def send(message: Any) -> None:
            payload = message if isinstance(message, bytes) else CODEC.encode(message)
            writer.write(len(payload).to_bytes(4, "big") + payload)

        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        while True:
            message = CODEC.decode(await framing.read_frame(reader))
            match message:
                case Introduce(certificate=der):
                    if examine(der).fingerprint in self.allowed:
                        self._known.append(der)
                        self._tls.load_verify_locations(cadata=der)
                        send(Introduced())
                    else:
                        send(Problem(code="not_allowed", sentence="Nobody allowed this client."))
                    await writer.drain()
                    return
                case Hello() if shown is None:
                    return
                case Hello():
                    send(
                        Welcome(
                            version=1,
                            node=self.name,
                            peer=self.peer,
                            pair=1,
                            sources=self.sources,
                            streams=self._streams(),
                            certificates={self.name: self.certificates},
                        )
                    )
                case Ack(cursors=cursors):
                    for cursor in cursors:
                        self.acknowledged[cursor.node, cursor.epoch] = cursor.next
                    send(Acked())
                case Pull():
                    send(self.lie(await self._pulled(message)))
                    self.pulls += 1
            await writer.drain()

    def _streams(self) -> tuple[Stream, ...]:
        return tuple(
            Stream(
                node=node,
                epoch=epoch,
                oldest=blocks[0].first if blocks else 0,
                **dict.fromkeys(("received", "durable", "replicated"), blocks[-1].next),
            )
            for (node, epoch), blocks in self.streams.items()
        )

    async def _pulled(self, pull: Pull) -> Blocks:
        answer = self._found(pull)
        if not answer.blocks and not answer.gaps:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pull.wait_ms / 1000), self._news:
                    await self._news.wait()
            answer = self._found(pull)
        return answer

    def _found(self, pull: Pull) -> Blocks:
        found: list[bytes] = []
        gaps = []
        size = 0
        for cursor in pull.cursors:
            key = (cursor.node, cursor.epoch)
            gap = self.gaps.get(key)
            if gap and gap.first <= cursor.next < gap.first + gap.count:
                gaps.append(gap)
            for each in self.streams.get(key, []):
                if each.next > cursor.next and size + len(each.raw) <= pull.max_bytes:
                    found.append(each.raw)
                    size += len(each.raw)
        return Blocks(blocks=tuple(found), gaps=tuple(gaps), streams=self._streams())
