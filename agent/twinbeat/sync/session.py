# SPDX-License-Identifier: Apache-2.0
"""One connection to the peer that stands: messages in order, bounded, with a sign of life.

Theory of operation
-------------------
Sending waits while a lane is full; so does reading from the network while nobody takes what came,
and then the peer's sending waits in turn. Each side pings every second whatever else it does, and a
side that waits for a frame and gets none for `dead_s` ends the session. While it isn't waiting,
because whoever takes the messages is busy, nothing is held against the peer: its pings are behind
what was not read yet. No more is the time for which this process itself stood still: `dead_s` goes
by in parts, and a stall is one of them, however long it was.

There are two lanes out. Files go in the second, a frame at a time, whenever the first is empty, so
that no file holds up a command.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from twinbeat.framing import LENGTH, Codec, Unknown, WireError, framed, read_frame
from twinbeat.sync.identity import Certificate
from twinbeat.sync.shown import printable
from twinbeat.sync.tls import failure
from twinbeat.sync.wire import (
    BETWEEN,
    BULK,
    PIECE_MAX,
    Assembly,
    Bye,
    Fragment,
    Hello,
    Ping,
    Pong,
    Renew,
    Renewed,
    Traffic,
    frames,
)

CONTROL_MAX: Final = 64
"""Answers to pings and the like that wait to be sent; a peer that has more waiting is flooding."""
WRITE_BUFFER: Final = 256 << 10
QUIET_MOST: Final = 10
"""Parts of `dead_s`."""
FAREWELL_S: Final = 1.0
"""The last message is given so long to leave."""

CODES: Final = frozenset(
    [
        "broken",
        "certificate",
        "closed",
        "crowded",
        "disbelieved",
        "duplicate",
        "empty",
        "ended",
        "expired",
        "flood",
        "fragment",
        "handler",
        "identity",
        "malformed",
        "no_certificate",
        "node",
        "oversized",
        "pair",
        "reconnect",
        "renewed",
        "replaced",
        "silent",
        "slow",
        "stopping",
        "tls",
        "truncated",
        "unpaired",
        "version",
    ]
)
"""Why a connection was refused or ended. What a peer says beyond that is counted as `other`."""

T = TypeVar("T")


class SessionOverError(Exception):
    """Nothing is sent or received any more. The message is a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a session."""

    ping_s: float = 1.0
    dead_s: float = 5.0
    queue_messages: int = 256
    queue_bytes: int = 16 << 20
    """Of each lane, and of what was received and not yet taken; one message always has room."""


class Lane(Generic[T]):
    """A bounded queue that may be closed. Bounds are in messages and in bytes."""

    def __init__(self, limits: Limits, arrived: asyncio.Event) -> None:
        self._limits = limits
        self._arrived = arrived
        self._room = asyncio.Event()
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def has_room(self, size: int) -> bool:
        return not self._items or (
            len(self._items) < self._limits.queue_messages
            and self._bytes + size <= self._limits.queue_bytes
        )

    async def put(self, item: T, size: int) -> bool:
        """Wait for room. False = the lane was closed, and the item dropped."""
        while not self._closed and not self.has_room(size):
            self._room.clear()
            await self._room.wait()
        return self.offer(item, size)

    def offer(self, item: T, size: int) -> bool:
        """Don't wait for room. False = there is none, and the item was dropped."""
        if self._closed or not self.has_room(size):
            return False
        self._items.append((item, size))
        self._bytes += size
        self._arrived.set()
        return True

    def pop(self) -> T | None:
        if not self._items:
            return None
        item, size = self._items.popleft()
        self._bytes -= size
        self._room.set()
        return item

    def close(self) -> None:
        """Nobody waits any more; what is in it can still be taken."""
        self._closed = True
        self._room.set()
        self._arrived.set()


class Session:
    """What a `Connection` gives to its handler. `move` must run for anything to happen."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        codec: Codec,
        limits: Limits,
        counts: Counter[tuple[str, str]],
        own: Certificate,
        certificate: Certificate,
        hello: Hello,
        version: int,
        dialed: bool,
        renewing: Callable[[Session, Renew | Renewed], Awaitable[None]],
    ) -> None:
        self.peer = hello
        """How the peer introduced itself."""
        self.version = version
        """Spoken on both sides."""
        self.own = own
        self.certificate = certificate
        """Under which the session was established, of this node and of the peer."""
        self.dialed = dialed
        """By this node."""
        self.since_s = time.time()
        self.round_trip_ns = 0
        """Of the last ping; 0 = none yet."""
        self._reader = reader
        self._writer = writer
        self._codec = codec
        self._limits = limits
        self._counts = counts
        self._renewing = renewing
        self._assembly = Assembly()
        self._number = 0
        self._work, self._came = asyncio.Event(), asyncio.Event()
        self._control: deque[bytes] = deque()
        self._first: Lane[bytes] = Lane(limits, self._work)
        self._between: Lane[bytes] = Lane(limits, self._work)
        self._bulk: Lane[bytes] = Lane(limits, self._work)
        self._inbound: Lane[Traffic] = Lane(limits, self._came)
        self._moving = False
        self._listens = False
        """A frame is waited for."""
        self._quiet = 0
        """Parts of `dead_s` that went by meanwhile."""
        self._over: Bye | None = None
        self._farewell: bytes | None = None
        self._cut: dict[str, Iterator[bytes]] = {}
        """The frames of the message that each lane is sending."""
        self._ended = asyncio.Event()

    # -- for whoever holds it ------------------------------------------------------------------

    @property
    def over(self) -> Bye | None:
        """Why nothing goes any more, or None."""
        return self._over

    @property
    def waiting(self) -> dict[str, int]:
        """Messages in each queue."""
        return {
            "send": len(self._first),
            "between": len(self._between),
            "bulk": len(self._bulk),
            "receive": len(self._inbound),
        }

    @property
    def arriving(self) -> tuple[int, int]:
        """Bytes that have come of a large message, and bytes that it has: (0, 0) = of none."""
        return self._assembly.under_way

    async def send(self, message: Traffic) -> None:
        """Queue a message, and wait while there is no room. The order is kept within a lane.

        It is on its way then, not there. Raises SessionOverError, and WireError for a message that
        is larger than any may be.
        """
        lane, payload = self._lane(message), self._codec.encode(message)
        if not lane.has_room(len(payload)):
            self._count("waited", "send")
        if not await lane.put(payload, len(payload)):
            raise self._gone()

    def offer(self, message: Traffic) -> bool:
        """Queue a message if there is room now. What finds none is dropped and counted."""
        payload = self._codec.encode(message)
        lane = self._lane(message)
        if lane is self._first and self._idle(len(payload)):
            self._count("messages", "sent")
            self._put_out(framed(payload))
            return True
        if lane.offer(payload, len(payload)):
            return True
        self._count("dropped", "send")
        return False

    async def receive(self) -> Traffic:
        """The next message. After the end what had come before is still given, then it raises.

        Raises SessionOverError.
        """
        while (message := self._inbound.pop()) is None:
            if self._over is not None:
                raise self._gone()
            self._came.clear()
            await self._came.wait()
        return message

    def close(self, code: str, sentence: str) -> None:
        """End it, and tell the peer why. What waits to be sent is dropped."""
        self._end(code, sentence, tell=True)

    def _idle(self, size: int) -> bool:
        """Whether a message of a command may go at once: nothing is before it, and it is one frame.

        So whoever is told next on this node, and may take the processor, doesn't hold it up.
        """
        return (
            self._moving
            and self._over is None
            and size <= PIECE_MAX
            and not (self._control or len(self._first) or "first" in self._cut)
            and not self._writer.transport.get_write_buffer_size()
        )

    def _lane(self, message: Traffic) -> Lane[bytes]:
        if isinstance(message, BETWEEN):
            return self._between
        return self._bulk if isinstance(message, BULK) else self._first

    def _gone(self) -> SessionOverError:
        assert self._over is not None
        return SessionOverError(self._over.code, self._over.sentence)

    # -- for the connection --------------------------------------------------------------------

    def announce(self, message: Renew | Renewed) -> None:
        """Send a message of the connection's own, ahead of all else."""
        self._control.append(self._codec.encode(message))
        self._work.set()

    async def move(self) -> None:
        """Carry messages in both directions until the session is over, and close it."""
        self._writer.transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._moving = True
        reading = asyncio.create_task(self._read())
        attending = asyncio.create_task(self._attend())
        writing = asyncio.create_task(self._write())
        try:
            await self._ended.wait()
        finally:
            self.close("stopping", "The worker stops.")
            reading.cancel()
            attending.cancel()
            try:
                await self._leave(writing)
            finally:
                drop(self._writer)
                writing.cancel()
        # A mistake in any is not to go unseen.
        for task in (reading, attending, writing):
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def dismiss(self, code: str, sentence: str) -> None:
        """End a session that was never moved."""
        self.close(code, sentence)
        if self._farewell is not None:
            self._writer.write(self._farewell)
        self._writer.close()

    async def _leave(self, writing: asyncio.Task[None]) -> None:
        """Let the last message out, for a short time."""
        if self._farewell is None:
            return
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(FAREWELL_S):
                await asyncio.wait((writing,))
                self._writer.close()
                await self._writer.wait_closed()

    def _end(self, code: str, sentence: str, *, tell: bool, by: str = "ended") -> None:
        if self._over is not None:
            return
        self._over = Bye(code=code, sentence=sentence)
        self._count(by, code)
        if tell:
            self._farewell = framed(self._codec.encode(self._over))
        for lane in (self._first, self._between, self._bulk, self._inbound):
            lane.close()
        self._ended.set()
        self._work.set()

    def _count(self, what: str, which: str, by: int = 1) -> None:
        self._counts[what, which] += by

    # -- in -------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while self._over is None:
                self._listens, self._quiet = True, 0
                payload = await read_frame(self._reader)
                self._listens = False
                self._count("bytes", "received", LENGTH + len(payload))
                await self._take(payload)
        except WireError as error:
            self._end(error.code, error.sentence, tell=error.code not in {"ended", "truncated"})
        except OSError as error:
            self._end("broken", failure(error).sentence, tell=False)
        finally:
            self._end("broken", "The connection broke.", tell=False)

    async def _attend(self) -> None:
        """Give up a peer that shows no sign of life."""
        while self._quiet <= QUIET_MOST:
            await asyncio.sleep(self._limits.dead_s / QUIET_MOST)
            self._quiet += self._listens
        sentence = f"Nothing was heard from the peer for {self._limits.dead_s:g} s."
        self._end("silent", sentence, tell=True)

    async def _take(self, payload: bytes) -> None:
        """Do what a frame asks for, or hand its message on."""
        message = self._codec.decode(payload)
        if isinstance(message, Fragment):
            whole = self._assembly.add(message)
            if whole is None:
                return
            payload, message = whole, self._codec.decode(whole)
        match message:
            case Unknown():
                self._count("skipped", "unknown")
            case Ping(sent_ns=sent_ns):
                if len(self._control) >= CONTROL_MAX:
                    raise WireError("flood", "The peer asks faster than it takes the answers.")
                self._control.append(self._codec.encode(Pong(sent_ns=sent_ns)))
                self._work.set()
            case Pong(sent_ns=sent_ns):
                self.round_trip_ns = max(1, time.monotonic_ns() - sent_ns)
            case Bye(code=code, sentence=sentence):
                known = code if code in CODES else "other"
                self._end(known, f"The peer said: {printable(sentence)}", tell=False, by="left")
            case Renew() | Renewed():
                await self._renewing(self, message)
            case Hello() | Fragment():
                raise WireError("malformed", "The peer sent a message out of place.")
            case _:
                self._count("messages", "received")
                if not self._inbound.has_room(len(payload)):
                    self._count("waited", "receive")
                await self._inbound.put(message, len(payload))

    # -- out ------------------------------------------------------------------------------------

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        ping_at = loop.time()
        try:
            while self._over is None:
                if loop.time() >= ping_at:
                    ping_at = loop.time() + self._limits.ping_s
                    frame = framed(self._codec.encode(Ping(sent_ns=time.monotonic_ns())))
                elif (found := self._next()) is not None:
                    frame = found
                else:
                    await self._wait_for_work(ping_at)
                    continue
                self._put_out(frame)
                await self._writer.drain()
            if self._farewell is not None:
                self._writer.write(self._farewell)
                await self._writer.drain()
        except OSError as error:
            self._end("broken", failure(error).sentence, tell=False)
        finally:
            self._end("broken", "The connection broke.", tell=False)

    async def _wait_for_work(self, until: float) -> None:
        self._work.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._work.wait()

    def _put_out(self, frame: bytes) -> None:
        self._count("bytes", "sent", len(frame))
        self._writer.write(frame)

    def _next(self) -> bytes | None:
        """The frame that is to go: the connection's own, a command's, an entry's, then a file's."""
        if self._control:
            return framed(self._control.popleft())
        lanes = (("first", self._first), ("between", self._between), ("bulk", self._bulk))
        for name, lane in lanes:
            frame = next(self._cut.get(name, iter(())), None)
            if frame is not None:
                return frame
            self._cut.pop(name, None)
            payload = lane.pop()
            if payload is not None:
                self._count("messages", "sent")
                self._number = (self._number + 1) % (1 << 32)
                self._cut[name] = frames(self._codec, payload, self._number)
                return next(self._cut[name])
        return None


def drop(writer: asyncio.StreamWriter) -> None:
    """Close at once, if it isn't closing already: then its own time-out does it.

    Python 3.11's TLS transport forgets its protocol when it is closed twice, and can't be aborted
    after that.
    """
    if not writer.transport.is_closing():
        writer.transport.abort()
