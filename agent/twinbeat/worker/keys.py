# SPDX-License-Identifier: Apache-2.0
"""`twinbeat keys rotate`: other keys for heartbeats, and other certificates, on a running pair.

The node that is asked leads; the other one does what it is told over the line between the workers.
Each changes its own files and lets its agent read them again, which refuses whatever would make one
node refuse the other's frames (R14). What is refused is put back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import msgspec

from twinbeat.api.client import Client, ClientError
from twinbeat.api.http import Request, Response
from twinbeat.api.schema import Answer, Refusal, Reload, Status
from twinbeat.api.sync import Rotated
from twinbeat.config.keys import choose, chosen, new_key, read_key, store_key
from twinbeat.sync import rotation
from twinbeat.sync.identity import IdentityError
from twinbeat.sync.rotation import Ring, Step
from twinbeat.sync.session import Session
from twinbeat.sync.wire import KeyDone, KeyGive, Keying, KeyUse
from twinbeat.worker.line import Line

ROTATION_S: Final = 60.0
"""A rotation is over by then, or goes on with the next one."""
ANSWER_S: Final = 15.0
SEEN_S: Final = 3.0
"""What a node has done shows in its frames by then, or is done again."""
LOOK_S: Final = 0.05
AGENT_S: Final = 10.0

log = logging.getLogger("twinbeat.worker")


class RotationError(Exception):
    """It didn't go on. The message is a sentence; both nodes accept what the other sends under."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class Keys:
    """The keys of this node, and those of the other as far as it does what it is asked."""

    def __init__(self, line: Line, *, control: str, directory: Callable[[], str]) -> None:
        """``control`` is where the agent listens; ``directory`` says where the key files are."""
        self._line = line
        self._control = control
        self._directory = directory
        self._turn = asyncio.Lock()
        self._told: asyncio.Future[KeyDone] | None = None
        self._kept = ""
        """Why the other node keeps its certificate."""
        self._tasks: set[asyncio.Task[None]] = set()

    # -- for the operator --------------------------------------------------------------------------

    async def post(self, _: Request) -> Response:
        """POST /v1/keys."""
        if self._turn.locked():
            said = Rotated(code="busy", sentence="the keys are being rotated already")
            return Response(body=msgspec.json.encode(said), status=409)
        async with self._turn:
            try:
                said = await self._rotate()
            except RotationError as error:
                said = Rotated(code=error.code, sentence=error.sentence)
        log.info("keys rotate: %s", said.sentence, extra={"fields": {"event": "keys"}})
        return Response(body=msgspec.json.encode(said), status=409 if said.code else 200)

    async def _rotate(self) -> Rotated:
        own, peer = await self._rings()
        await self._unfixed()
        held = frozenset(await asyncio.to_thread(self._files))
        new = rotation.new_key(own, peer, held)
        await asyncio.to_thread(self._made, new, rotation.give_way(new, held, own, peer))
        ends = time.monotonic() + ROTATION_S
        step, tried = None, 0.0
        while True:
            own, peer = await self._rings()
            now = rotation.next_step(own, peer, new)
            if now is Step.DONE:
                break
            if time.monotonic() > ends:
                raise RotationError("slow", f"key {new} isn't in use yet; rotate again to go on")
            if now is not step or time.monotonic() - tried > SEEN_S:
                await self._do(now, new)
                step, tried = now, time.monotonic()
            await asyncio.sleep(LOOK_S)
        kept = [sentence for sentence in (self._kept, await self._renewed()) if sentence]
        self._kept = ""
        self._line.reconnect()
        what = "; ".join(kept) or "both certificates are new"
        return Rotated(
            sentence=f"both nodes send under key {new} and accept no other; {what}", key=new
        )

    async def _renewed(self) -> str:
        """Another certificate for this node, from the next connection on; or why it stays."""
        try:
            await self._line.renew()
        except IdentityError as error:
            return f"one certificate stays: {error.sentence}"
        return ""

    async def _do(self, step: Step, new: int) -> None:
        match step:
            case Step.PEER_ACCEPTS:
                secret = bytes.fromhex(await asyncio.to_thread(self._made, new))
                await self._tell(KeyGive(id=new, secret=secret))
            case Step.ACCEPT:
                await self._reload()
            case Step.PEER_SENDS:
                await self._tell(KeyUse(id=new))
            case Step.SEND:
                await self._send(new)
            case Step.PEER_ALONE:
                await self._tell(KeyUse(id=new, alone=True))
            case Step.ALONE:
                await self._alone(new)
            case Step.DONE:
                pass

    async def _tell(self, message: KeyGive | KeyUse) -> None:
        """The other node does it, or says why not."""
        session = await self._session()
        self._told = asyncio.get_running_loop().create_future()
        try:
            if not session.offer(message):
                raise RotationError("away", "the other node's worker takes nothing more")
            async with asyncio.timeout(ANSWER_S):
                said = await self._told
        except TimeoutError:
            raise RotationError("silent", "the other node's worker didn't answer") from None
        finally:
            self._told = None
        if said.code:
            raise RotationError(said.code, f"the other node: {said.sentence}")
        self._kept = said.sentence

    async def _session(self) -> Session:
        """The connection, which may just be being made anew."""
        ends = time.monotonic() + SEEN_S
        while self._line.session is None:
            if time.monotonic() > ends:
                raise RotationError("away", "the other node's worker can't be reached")
            await asyncio.sleep(LOOK_S)
        return self._line.session

    # -- for the other node ------------------------------------------------------------------------

    def heard(self, message: Keying) -> None:
        """What its worker asks for, or answers."""
        if isinstance(message, KeyDone):
            if self._told is not None and not self._told.done():
                self._told.set_result(message)
            return
        session = self._line.session
        if session is None:
            return  # It is over; who asked asks again.
        # Not here: the line has to go on being read meanwhile.
        task = asyncio.get_running_loop().create_task(self._obey(session, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _obey(self, session: Session, message: KeyGive | KeyUse) -> None:
        said = KeyDone(id=message.id)
        try:
            if self._turn.locked():
                raise RotationError("busy", "the keys are being rotated there already")
            async with self._turn:
                await self._unfixed()
                match message:
                    case KeyGive(id=new, secret=secret):
                        await self._accept(new, secret.hex())
                    case KeyUse(id=new, alone=False):
                        await self._send(new)
                    case KeyUse(id=new):
                        await self._alone(new)
                        said = KeyDone(id=new, sentence=await self._renewed())
        except RotationError as error:
            said = KeyDone(id=message.id, code=error.code, sentence=error.sentence[:1024])
        session.offer(said)

    # -- on this node ------------------------------------------------------------------------------

    async def _accept(self, new: int, digits: str) -> None:
        own, peer = await self._rings()
        files = await asyncio.to_thread(self._files)
        gone = rotation.give_way(new, frozenset(files), own, peer)
        async with self._putting_back():
            for id_ in gone:
                files[id_].unlink()
            if await asyncio.to_thread(self._held, new) != digits:
                try:
                    await asyncio.to_thread(store_key, self._where, new, digits)
                except FileExistsError:
                    why = f"there is another key {new} already; rotate from that node"
                    raise RotationError("key_exists", why) from None
            await self._reload()

    async def _send(self, new: int) -> None:
        before = await asyncio.to_thread(chosen, str(self._where))
        await asyncio.to_thread(choose, self._where, new)
        try:
            await self._reload()
        except RotationError:
            await asyncio.to_thread(choose, self._where, before)
            raise

    async def _alone(self, new: int) -> None:
        """The frames of the other node may tell a moment later that it has changed over."""
        ends = time.monotonic() + SEEN_S
        while True:
            try:
                async with self._putting_back():
                    for id_, file in (await asyncio.to_thread(self._files)).items():
                        if id_ != new:
                            file.unlink()
                    await self._reload()
            except RotationError:
                if time.monotonic() > ends:
                    raise
                await asyncio.sleep(LOOK_S)
            else:
                return

    async def _unfixed(self) -> None:
        status = await self._status()
        if status.configuration.send_key != await asyncio.to_thread(chosen, str(self._where)):
            raise RotationError(
                "fixed",
                f"[keys] send of {status.node.name} names key {status.configuration.send_key}: "
                "take the line out of its file, so that the key can be chosen here",
            )

    @contextlib.asynccontextmanager
    async def _putting_back(self) -> AsyncIterator[None]:
        """What goes wrong within leaves the key files as they were."""
        before = await asyncio.to_thread(self._digits)
        try:
            yield
        except OSError as error:
            await asyncio.to_thread(self._put_back, before)
            raise RotationError("disk", f"the keys can't be changed: {error.strerror}") from None
        except RotationError:
            await asyncio.to_thread(self._put_back, before)
            raise

    def _put_back(self, before: dict[int, str]) -> None:
        files = self._files()
        with contextlib.suppress(OSError):
            for id_ in files.keys() - before.keys():
                files[id_].unlink()
            for id_ in before.keys() - files.keys():
                store_key(self._where, id_, before[id_])

    @property
    def _where(self) -> Path:
        return Path(self._directory())

    def _files(self) -> dict[int, Path]:
        return {int(file.stem): file for file in self._where.glob("*.key") if file.stem.isdecimal()}

    def _held(self, id_: int) -> str:
        """Its digits, or an empty string."""
        key = read_key(self._where, id_)
        return key.secret.hex() if key is not None else ""

    def _digits(self) -> dict[int, str]:
        return {id_: digits for id_ in self._files() if (digits := self._held(id_))}

    def _made(self, new: int, gone: frozenset[int] = frozenset()) -> str:
        """The digits of the new key, which is made where it isn't there; others may go for it."""
        held = self._held(new)
        if held:
            return held
        digits = new_key()
        try:
            for id_ in gone:
                (self._where / f"{id_}.key").unlink()
            store_key(self._where, new, digits)
        except OSError as error:
            why = f"{self._where}/{new}.key can't be made: {error.strerror}"
            raise RotationError("disk", why) from None
        return digits

    # -- its agent ---------------------------------------------------------------------------------

    async def _rings(self) -> tuple[Ring, Ring]:
        status = await self._status()
        peer = status.peer
        if not peer.send_key or not peer.keys:
            raise RotationError("unheard", f"{peer.name} isn't heard: nobody knows its keys")
        own = status.configuration
        return (
            Ring(sends=own.send_key, accepts=frozenset(own.keys)),
            Ring(sends=peer.send_key, accepts=frozenset(peer.keys)),
        )

    async def _status(self) -> Status:
        client = Client(self._control, AGENT_S)
        try:
            answer = await asyncio.to_thread(client.get, "/v1/status")
            return msgspec.json.decode(answer.body, type=Status)
        except (ClientError, msgspec.DecodeError) as error:
            raise RotationError("agent", f"the agent can't be asked: {error}") from None

    async def _reload(self) -> None:
        """The agent takes the files as they are now, or nothing of them."""
        request = Reload(request_id=f"keys-{os.urandom(12).hex()}", reason="rotation of keys")
        client, body = Client(self._control, AGENT_S), msgspec.json.encode(request)
        try:
            answer = await asyncio.to_thread(client.post, "/v1/reload", body)
            said = msgspec.json.decode(answer.body, type=Answer).result
        except (ClientError, msgspec.DecodeError) as error:
            raise RotationError("agent", f"the agent can't be asked: {error}") from None
        if isinstance(said, Refusal):
            raise RotationError(said.code, said.sentence)
