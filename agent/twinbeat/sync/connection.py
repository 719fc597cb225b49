# SPDX-License-Identifier: Apache-2.0
"""The one connection between the two workers: who makes it, who is let in, and what ends it.

Theory of operation
-------------------
Both nodes listen, and the one with the lower index dials. The other one dials once when it starts,
as its peer may be pausing, and again should nothing come of that for `DIAL_ANYWAY_S`, because
something between them lets connections through in one direction only. Where two connections meet,
that of the lower index stays; of two of the same direction the newer, since the older one may be of
a process that is no more.

Whoever knocks has `HANDSHAKE_S` to show the certificate that is pinned and to say hello, and of
those who have not done so yet only `PENDING_MAX` are waited for: one more, and the oldest has to
go, the peer's own address last of all. A node that isn't paired does not listen.

A session is given to the handler, one at a time and the next one only when the handler has returned
from the one before, so nothing of an old connection is ever delivered after a new one has begun.

Whatever goes wrong is an event here, never an exception: it is counted, logged once, and tried
again after a pause that grows from 0.1 to 5 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from twinbeat.framing import Codec, WireError
from twinbeat.sync.endpoints import QUEUES, ConnectionStatus, Settings
from twinbeat.sync.greeting import introduced
from twinbeat.sync.identity import Certificate, Folder, IdentityError, examine
from twinbeat.sync.session import CODES, Session, SessionOverError, drop
from twinbeat.sync.shown import printable
from twinbeat.sync.sockets import anywhere, bound, hang_up, reached, secured
from twinbeat.sync.tls import Cabinet, Credentials, failure
from twinbeat.sync.wire import Hello, Renew, Renewed
from twinbeat.sync.wire import codec as language

log = logging.getLogger(__name__)

PENDING_MAX: Final = 8
PAUSE_MIN_S: Final = 0.1
STOOD_S: Final = 1.0
"""A session that stood so long was none of a row of failures."""

Handler = Callable[[Session], Awaitable[None]]


class Connection:
    """Keeps the connection up while `run` runs."""

    def __init__(
        self,
        settings: Settings,
        folder: Folder,
        hello: Callable[[tuple[int, int]], Hello],
        *,
        codec: Codec | None = None,
    ) -> None:
        """`hello` is asked for at each new connection, with the versions to put into it."""
        self.settings = settings
        self.counts: Counter[tuple[str, str]] = Counter()
        self._folder = folder
        self._cabinet = Cabinet(folder)
        self._hello = hello
        self._codec = codec or language()
        self._session: Session | None = None
        """Given to the handler."""
        self._next: Session | None = None
        """To be given to it when it has returned."""
        self._changed = asyncio.Event()
        """There is a next one."""
        self._hurried = asyncio.Event()
        self._pending: dict[socket.socket, bool] = {}
        """Who has not said hello yet, oldest first; whether it comes from the peer's address."""
        self._paired = asyncio.Event()
        self._deaf = asyncio.Event()
        """The listening socket is of no more use."""
        self._free = asyncio.Event()
        """There is no session, nor one to come."""
        self._free.set()
        self._why = "The worker has just started."
        self._since_s = time.time()
        self._port = 0
        self._renewed: asyncio.Future[None] | None = None

    # -- for whoever wires it --------------------------------------------------------------------

    async def run(self, handler: Handler) -> None:
        """Until cancelled. What the handler raises comes out, in an ExceptionGroup.

        It may let SessionOverError through: that is how a session ends.
        """
        async with asyncio.TaskGroup() as tasks:
            for part in (self._watch(), self._listen(), self._dial(), self._serve(handler)):
                tasks.create_task(part)

    def hurry(self) -> None:
        """The peer is known to be there: dial without waiting for the pause to end."""
        self._hurried.set()

    def reconnect(self, code: str, sentence: str) -> None:
        """End the session, for the next one to begin at once."""
        if self._session is not None:
            self._session.close(code, sentence)
        self.hurry()

    async def renew(self, now_s: float, patience_s: float = 10.0) -> Certificate:
        """Announce a successor of the own certificate, and use it once the peer has stored it.

        From then on every new connection shows it; `reconnect` when it suits makes one. Without a
        session, or if there is no answer, the successor waits and is announced again by itself.
        Raises IdentityError; `unused` when the last successor was not used yet.
        """
        session, own = self._session, await asyncio.to_thread(self._folder.own)
        if session is not None and own is not None and session.own != own.certificate:
            # A second successor would take the place of the first at the peer, which may need it.
            raise IdentityError("unused", "The last renewal takes effect with a new connection.")
        successor = (await asyncio.to_thread(self._folder.make_successor, now_s)).certificate
        if session is None or session.over is not None:
            raise IdentityError("away", f"{self._why} The successor is announced later.")
        self._renewed = asyncio.get_running_loop().create_future()
        try:
            session.announce(Renew(certificate=successor.der))
            async with asyncio.timeout(patience_s):
                await self._renewed
        except TimeoutError:
            sentence = "The peer did not say that it stored the successor; it is announced again."
            raise IdentityError("unanswered", sentence) from None
        finally:
            self._renewed = None
        return successor

    def status(self) -> ConnectionStatus:
        """Reads nothing but memory, bar the time stamps of three files."""
        session = self._session
        up = session is not None and session.over is None
        # Its end is told before all that belonged to it is done with.
        ended = session.over if session is not None else None
        try:
            credentials = self._cabinet.credentials()
        except IdentityError:
            credentials = None
        return ConnectionStatus(
            state="connected" if up else "away" if credentials is not None else "unpaired",
            why="" if up else ended.sentence if ended is not None else self._why,
            since_s=session.since_s if up and session is not None else self._since_s,
            port=self._port,
            peer_name=printable(session.peer.name) if session is not None else "",
            peer_build=printable(session.peer.build) if session is not None else "",
            version=session.version if session is not None else 0,
            round_trip_ns=session.round_trip_ns if session is not None else 0,
            waiting=session.waiting if session is not None else dict.fromkeys(QUEUES, 0),
            arriving=session.arriving if session is not None else (0, 0),
            own_ends_s=credentials.own.ends_s if credentials is not None else 0,
            peer_ends_s=credentials.trusted[0].ends_s if credentials is not None else 0,
            renewing=self._folder.is_renewing,
            counts=dict(self.counts),
        )

    # -- the files -------------------------------------------------------------------------------

    def _credentials(self) -> Credentials | None:
        """What the files say now. A file that can't be used is told of and counted."""
        try:
            credentials = self._cabinet.credentials()
        except IdentityError as error:
            self._failed(WireError("identity", error.sentence))
            return None
        if credentials is None:
            self._why = "This node is not paired yet: run `twinbeat pair` on both nodes."
        return credentials

    async def _watch(self) -> None:
        """Notice a pairing, and end the session of a peer that is no longer believed."""
        while True:
            credentials = self._credentials()
            if credentials is None:
                self._paired.clear()
                self._deaf.set()
            else:
                self._paired.set()
            session = self._session
            if session is not None and (
                credentials is None or session.certificate not in credentials.trusted
            ):
                session.close("unpaired", "The node was paired with another certificate.")
            await asyncio.sleep(self.settings.look_s)

    # -- listening -------------------------------------------------------------------------------

    async def _listen(self) -> None:
        pause = PAUSE_MIN_S
        while True:
            await self._paired.wait()
            try:
                own = self.settings.listen or anywhere()
                with bound(own, self.settings.port, self.settings.interface) as made:
                    made.listen(PENDING_MAX * 2)
                    self._port = made.getsockname()[1]
                    self._deaf.clear()
                    await self._open(made)
                    pause = PAUSE_MIN_S
            except OSError as error:
                where = self.settings.listen or "any address"
                sentence = f"Port {self.settings.port} of {where} can't be listened at: "
                self._failed(WireError("listen", f"{sentence}{error.strerror}."))
            finally:
                self._port = 0
            await asyncio.sleep(pause)
            pause = min(pause * 2, self.settings.pause_max_s)

    async def _open(self, listener: socket.socket) -> None:
        """Admit who comes until the socket is of no more use."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as admissions:
            loop.add_reader(listener, self._accept, admissions, listener)
            try:
                await self._deaf.wait()
            finally:
                loop.remove_reader(listener)
                for pending in self._pending:
                    hang_up(pending)

    def _accept(self, admissions: asyncio.TaskGroup, listener: socket.socket) -> None:
        """Somebody is at the door."""
        try:
            accepted, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._failed(WireError("listen", f"No connection can be accepted: {error.strerror}."))
            self._deaf.set()
            return
        self.counts["accepted", ""] += 1
        accepted.setblocking(False)
        if len(self._pending) >= PENDING_MAX:
            strangers = [pending for pending, known in self._pending.items() if not known]
            oldest = (strangers or list(self._pending))[0]
            del self._pending[oldest]
            hang_up(oldest)
        is_peer = address[0].removeprefix("::ffff:") == self.settings.peer.partition("%")[0]
        self._pending[accepted] = is_peer
        admission = admissions.create_task(self._admit(accepted))
        # It may be cancelled before it has begun.
        admission.add_done_callback(lambda _: accepted.close() if admission.cancelled() else None)

    async def _admit(self, accepted: socket.socket) -> None:
        try:
            async with asyncio.timeout(self.settings.handshake_s):
                self._established(await self._greet(accepted, dialed=False))
        except (WireError, TimeoutError) as error:
            if accepted not in self._pending:
                self._refused(WireError("crowded", "Too many were at the door at once."))
            else:
                self._refused(error if isinstance(error, WireError) else failure(error))
        finally:
            self._pending.pop(accepted, None)

    # -- dialing ---------------------------------------------------------------------------------

    async def _dial(self) -> None:
        """Dial while there is nothing, with pauses that grow."""
        if not self.settings.peer:
            return
        pause, patience_s = PAUSE_MIN_S, 0.0
        while True:
            await self._paired.wait()
            await self._free.wait()
            if self.settings.node != 0:
                if await self._within(self._changed, patience_s):
                    continue
                patience_s = self.settings.dial_anyway_s
            begun = time.monotonic()
            if await self._try():
                await self._free.wait()
                if time.monotonic() - begun >= STOOD_S:
                    pause = PAUSE_MIN_S
            # Jitter, so that two nodes that dial each other don't meet again and again.
            if await self._within(self._hurried, pause * random.uniform(0.5, 1.0)):
                pause = PAUSE_MIN_S
            else:
                pause = min(pause * 2, self.settings.pause_max_s)
            self._hurried.clear()

    async def _within(self, event: asyncio.Event, seconds: float) -> bool:
        """Whether it happened in time."""
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
        return True

    async def _try(self) -> bool:
        """One attempt. Whether a session came of it."""
        self.counts["dialed", ""] += 1
        try:
            async with asyncio.timeout(self.settings.handshake_s):
                return self._established(await self._greet(await self._reach(), dialed=True))
        except WireError as error:
            self._failed(error)
        except TimeoutError:
            self._failed(WireError("slow", f"{self.settings.peer} did not answer in time."))
        return False

    async def _reach(self) -> socket.socket:
        """A connection on which nothing has been said yet."""
        settings = self.settings
        own, interface = settings.listen, settings.interface
        try:
            return await reached(settings.peer, settings.peer_port, own=own, interface=interface)
        except OSError as error:
            raise WireError("unreachable", f"{settings.peer}: {error.strerror}.") from None

    # -- from a connection to a session ------------------------------------------------------------

    async def _greet(self, connected: socket.socket, *, dialed: bool) -> Session:
        """TLS, then a hello from each side. Raises WireError; the connection is closed then."""
        credentials = self._credentials()
        if credentials is None:
            connected.close()
            raise WireError("unpaired", self._why)
        tls = credentials.client if dialed else credentials.server
        reader, writer = await secured(
            connected, tls, dialed=dialed, within_s=self.settings.handshake_s
        )
        try:
            shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
            certificate = credentials.peer_of(shown)
            if await asyncio.to_thread(self._folder.was_used, certificate.fingerprint):
                self._log("certificate_renewed", "The peer uses its new certificate.")
            own = self._hello(self._codec.versions)
            hello, version = await introduced(self._codec, own, reader, writer)
        except IdentityError as error:
            drop(writer)
            raise WireError("identity", error.sentence) from None
        except OSError as error:
            drop(writer)
            raise failure(error) from None
        except BaseException:
            drop(writer)
            raise
        return Session(
            reader,
            writer,
            codec=self._codec,
            limits=self.settings.limits,
            counts=self.counts,
            own=credentials.own,
            certificate=certificate,
            hello=hello,
            version=version,
            dialed=dialed,
            renewing=self._renewing,
        )

    def _established(self, session: Session) -> bool:
        """A session is there; whether it stays."""
        rival = self._next or self._session
        if rival is not None and rival.over is None:
            if self._is_preferred(rival) and not self._is_preferred(session):
                session.dismiss("duplicate", "There is a connection already.")
                return False
            rival.close("replaced", "There is a newer connection.")
        if self._next is not None:
            self._next.dismiss("replaced", "There is a newer connection.")
        self._next = session
        self._free.clear()
        self._changed.set()
        return True

    def _is_preferred(self, session: Session) -> bool:
        """Whether the node with the lower index made it."""
        return session.dialed == (self.settings.node == 0)

    # -- sessions ----------------------------------------------------------------------------------

    async def _serve(self, handler: Handler) -> None:
        while True:
            await self._changed.wait()
            session, self._next = self._next, None
            self._changed.clear()
            assert session is not None
            self._session = session
            self._begun(session)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(session.move())
                    await self._again(session)
                    with contextlib.suppress(SessionOverError):
                        await handler(session)
                    session.close("closed", "The worker has nothing more to say.")
            finally:
                self._session = None
            self._finished(session)
            if self._next is None:
                self._free.set()

    async def _again(self, session: Session) -> None:
        """Announce a successor that the peer may not know of."""
        try:
            waiting = await asyncio.to_thread(self._folder.successor)
        except IdentityError as error:
            self._failed(WireError("identity", error.sentence))
            return
        if waiting is not None:
            session.announce(Renew(certificate=waiting.certificate.der))

    def _begun(self, session: Session) -> None:
        self.counts["established", "dialed" if session.dialed else "accepted"] += 1
        name = printable(session.peer.name)
        sentence = f"Connected with the worker of {name} (version {session.version})."
        self._log("peer_connected", sentence)

    def _finished(self, session: Session) -> None:
        assert session.over is not None
        self._why, self._since_s = session.over.sentence, time.time()
        self._log(
            "peer_disconnected",
            f"No longer connected with the worker of {printable(session.peer.name)}: {self._why}",
            reason=session.over.code,
        )

    # -- renewal -----------------------------------------------------------------------------------

    async def _renewing(self, session: Session, message: Renew | Renewed) -> None:
        match message:
            case Renew(certificate=der):
                session.announce(await asyncio.to_thread(self._expect, session, der))
            case Renewed(code="", fingerprint=fingerprint):
                try:
                    taken = await asyncio.to_thread(self._folder.take_successor, fingerprint)
                except IdentityError as error:
                    self._settle(error)
                    return
                if taken:
                    self._log("certificate_renewed", "The peer has this node's new certificate.")
                    self._settle(None)
            case Renewed(code=code, sentence=sentence):
                known = code if code in CODES else "other"
                self._settle(IdentityError(known, f"The peer said: {printable(sentence)}"))

    def _expect(self, session: Session, der: bytes) -> Renewed:
        """Store the peer's successor. Blocks for as long as the disk takes."""
        try:
            found = examine(der)
            if found == session.own or found.name != session.certificate.name:
                raise IdentityError("certificate", "That is not the certificate of this peer.")
            if not found.is_valid(time.time()):
                raise IdentityError("expired", "The certificate is not valid now.")
            if found not in self._folder.trusted():
                self._folder.expect(found)
        except IdentityError as error:
            self.counts["refused", "renewal"] += 1
            return Renewed(fingerprint="", code=error.code, sentence=error.sentence)
        return Renewed(fingerprint=found.fingerprint)

    def _settle(self, error: IdentityError | None) -> None:
        """What came of a renewal."""
        if error is not None:
            self._failed(WireError("renewal", error.sentence))
        if self._renewed is None or self._renewed.done():
            return
        if error is None:
            self._renewed.set_result(None)
        else:
            self._renewed.set_exception(error)

    # -- telling -----------------------------------------------------------------------------------

    def _refused(self, error: WireError) -> None:
        """Somebody who knocked was not let in."""
        self.counts["refused", error.code] += 1
        sentence = f"A connection was refused: {error.sentence}"
        self._log("peer_refused", sentence, reason=error.code, level=logging.WARNING)

    def _failed(self, error: WireError) -> None:
        """Something that this node tried did not work. The log has it when it is news."""
        self.counts["failed", error.code] += 1
        if self._why != error.sentence:
            self._why = error.sentence
            self._log("peer_unreached", error.sentence, reason=error.code, level=logging.WARNING)

    def _log(
        self, event: str, sentence: str, *, reason: str = "", level: int = logging.INFO
    ) -> None:
        fields = {"event": event} | ({"reason": reason} if reason else {})
        log.log(level, "%s", sentence, extra={"fields": fields})
