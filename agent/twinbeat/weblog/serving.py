# SPDX-License-Identifier: Apache-2.0
"""What a node says to one that pulls from it, once TLS has shown who that is.

Questions are read while an earlier one waits for records, so that an acknowledgement counts at
once; no more than `PIPELINE_MAX` of them are read before they are answered. Whoever doesn't take an
answer in `SEND_S`, or says what none may, is told so and hung up on. What is held for a connection
is one answer, whatever it asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct

from twinbeat.framing import Unknown, WireError, framed, read_frame
from twinbeat.weblog.journal import Journal
from twinbeat.weblog.messages import (
    ASK_MAX,
    BYTES_MAX,
    HELLO_MAX,
    PIPELINE_MAX,
    VERSIONS,
    Ack,
    Acked,
    Blocks,
    Cursor,
    Gap,
    Hello,
    Introduce,
    Introduced,
    Problem,
    Pull,
    Stream,
    ToNode,
    Welcome,
    agreed,
    codec,
)
from twinbeat.weblog.segment import Hole
from twinbeat.weblog.store import PEER, Store

SEND_S: Final = 30.0
IDLE_S: Final = 300.0
"""A client that has nothing to ask for so long is gone."""
CODEC: Final = codec(ToNode)
Introducing = Callable[[bytes], Awaitable[Problem | None]]


@dataclass(slots=True, kw_only=True, eq=False)
class Serving:
    """One connection."""

    who: str
    """`PEER`, or the client's fingerprint; empty: it showed no certificate."""
    name: str = ""
    """By its own account; for people only."""
    address: str = ""
    since_s: float = 0.0
    records: int = 0
    """Given."""
    bytes: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """To be ended."""
    why: Problem | None = None
    """What it is told then."""

    def end(self, code: str, sentence: str) -> None:
        """Hang up as soon as it was told why."""
        self.why = self.why or Problem(code=code, sentence=sentence)
        self.over.set()


class Server:
    """Answers all connections."""

    def __init__(
        self,
        store: Store,
        *,
        readers: Executor,
        welcome: Callable[[int], Welcome],
    ) -> None:
        """``readers`` runs what reads files; ``welcome`` is asked with the version spoken."""
        self._store = store
        self._readers = readers
        self._welcome = welcome
        self.counts: Counter[tuple[str, str]] = Counter()
        """(what, which): served, records; ended, by code; gaps, by reason. All only grow."""
        self.connections: set[Serving] = set()

    async def serve(
        self,
        serving: Serving,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        introduce: Introducing,
    ) -> None:
        """Until it ends, for whatever reason; the connection is closed then. ``introduce`` keeps a
        certificate, or says why not."""
        talk = asyncio.create_task(self._talk(serving, reader, writer, introduce))
        over = asyncio.create_task(serving.over.wait())
        self.connections.add(serving)
        code = "stopping"
        try:
            await asyncio.wait({talk, over}, return_when=asyncio.FIRST_COMPLETED)
            code = talk.result() if talk.done() else serving.why.code if serving.why else "over"
        finally:
            self.connections.discard(serving)
            talk.cancel()
            over.cancel()
            await asyncio.gather(talk, over, return_exceptions=True)
            self.counts["ended", code] += 1
            if serving.why is not None:
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(1.0):
                        await _send(writer, serving.why)
            writer.close()

    async def _talk(
        self,
        serving: Serving,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        introduce: Introducing,
    ) -> str:
        """The code of its end."""
        code = "over"
        try:
            if not await self._greeted(serving, reader, writer, introduce):
                return serving.why.code if serving.why is not None else "introduced"
            questions: asyncio.Queue[Pull | Ack] = asyncio.Queue(PIPELINE_MAX)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hear(serving, reader, questions))
                tasks.create_task(self._answer(serving, writer, questions))
        except* WireError as group:
            error = _first(group)
            code = error.code
            if code not in {"ended", "truncated"}:
                serving.end(code, error.sentence)
        except* TimeoutError:
            code = "slow"
            serving.end(code, "An answer was not taken, or nothing was asked, for too long.")
        except* OSError:
            code = "broken"
        return code

    async def _greeted(
        self,
        serving: Serving,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        introduce: Introducing,
    ) -> bool:
        async with asyncio.timeout(5.0):
            said = CODEC.decode(await read_frame(reader, HELLO_MAX))
        if isinstance(said, Introduce) and not serving.who:
            refusal = await introduce(said.certificate)
            if refusal is not None:
                serving.end(refusal.code, refusal.sentence)
            else:
                await _send(writer, Introduced())
            return False
        if not isinstance(said, Hello):
            raise WireError("malformed", "A client begins with a hello.")
        if not serving.who:
            sentence = "Without a certificate there is nothing but an introduction."
            serving.end("not_allowed", sentence)
            return False
        if not (version := agreed(said.versions)):
            ours, theirs = "-".join(map(str, VERSIONS)), "-".join(map(str, said.versions))
            sentence = f"Versions {ours} are spoken here and {theirs} there: upgrade the older one."
            serving.end("version", sentence)
            return False
        serving.name = said.name
        welcome = self._welcome(version)
        await _send(writer, welcome)
        return True

    async def _hear(
        self,
        serving: Serving,
        reader: asyncio.StreamReader,
        questions: asyncio.Queue[Pull | Ack],
    ) -> None:
        while True:
            async with asyncio.timeout(IDLE_S):
                said = CODEC.decode(await read_frame(reader, ASK_MAX))
            match said:
                case Ack(cursors=cursors):
                    if serving.who == PEER and self._store.is_ahead(cursors):
                        self.counts["rewound", ""] += 1
                        self._store.begin_epoch()
                    self._store.acknowledge(serving.who, cursors)
                    await questions.put(said)
                case Pull():
                    await questions.put(said)
                case Unknown():
                    self.counts["skipped", ""] += 1
                case _:
                    raise WireError("malformed", "That is no question.")

    async def _answer(
        self,
        serving: Serving,
        writer: asyncio.StreamWriter,
        questions: asyncio.Queue[Pull | Ack],
    ) -> None:
        told: frozenset[tuple[str, int]] = frozenset()
        turn = 0
        while True:
            question = await questions.get()
            answer: Struct = Acked()
            if isinstance(question, Pull):
                answer = await self._blocks(serving, question, told, turn)
                told = _keys(answer.streams)
                turn += 1
            async with asyncio.timeout(SEND_S):
                await _send(writer, answer)

    async def _blocks(
        self, serving: Serving, pull: Pull, told: frozenset[tuple[str, int]], turn: int
    ) -> Blocks:
        """What there is, or what comes in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + pull.wait_ms / 1000
        while True:
            streams = self._store.streams()
            answer = await self._gathered(serving, pull, streams, turn)
            left = until - loop.time()
            if answer.blocks or answer.gaps or left <= 0 or not _keys(streams) <= told:
                return answer
            await self._store.wait(left)

    async def _gathered(
        self, serving: Serving, pull: Pull, streams: tuple[Stream, ...], turn: int
    ) -> Blocks:
        known = {(each.node, each.epoch): each for each in streams}
        blocks: list[bytes] = []
        gaps: list[Gap] = []
        room = min(pull.max_bytes, BYTES_MAX)
        # None of them is always the last one to be given something.
        at = turn % max(len(pull.cursors), 1)
        for cursor in (*pull.cursors[at:], *pull.cursors[:at]):
            stream = known.get((cursor.node, cursor.epoch))
            journal = self._store.journal(cursor.node)
            if stream is None or journal is None or cursor.next >= stream.durable:
                continue
            if blocks and room <= 0:
                break
            hole, found, records = await self._read(journal, cursor, room)
            if hole is not None:
                gaps.append(_gap(cursor, hole))
                self.counts["gaps", hole.reason] += 1
            size = sum(map(len, found))
            if blocks and size > room:
                continue
            blocks += found
            room -= size
            serving.records += records
            serving.bytes += size
            self.counts["served", "records"] += records
        return Blocks(blocks=tuple(blocks), gaps=tuple(gaps), streams=streams)

    async def _read(
        self, journal: Journal, cursor: Cursor, room: int
    ) -> tuple[Hole | None, list[bytes], int]:
        def read() -> tuple[Hole | None, list[bytes], int]:
            hole, found = journal.read(cursor.epoch, cursor.next, room)
            return hole, [each.raw for each in found], sum(each.count for each in found)

        return await asyncio.get_running_loop().run_in_executor(self._readers, read)


def _keys(streams: tuple[Stream, ...]) -> frozenset[tuple[str, int]]:
    return frozenset((each.node, each.epoch) for each in streams)


def _gap(cursor: Cursor, hole: Hole) -> Gap:
    return Gap(
        node=cursor.node,
        epoch=cursor.epoch,
        first=hole.first,
        count=hole.count,
        reason=hole.reason,  # type: ignore[arg-type]
    )


def _first(group: BaseExceptionGroup[WireError]) -> WireError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, WireError)
    return found


async def _send(writer: asyncio.StreamWriter, message: Struct) -> None:
    writer.write(framed(CODEC.encode(message)))
    await writer.drain()
