# SPDX-License-Identifier: Apache-2.0
"""The connection of the workers, over real TLS: who is let in, and what nobody can do to it."""

import asyncio
import contextlib
import functools
import logging
import random
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Union, get_args

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from msgspec import Struct

from twinbeat import framing
from twinbeat.framing import Codec, framed
from twinbeat.sync import identity, wire
from twinbeat.sync.identity import Folder, IdentityError, generate
from twinbeat.sync.messages import Pull, Query, Want
from twinbeat.sync.session import Limits
from twinbeat.sync.tls import PROTOCOL, Cabinet
from twinbeat.sync.wire import FileDone, FilePiece, ReadAnswer
from unit.clocks import Loop, skip
from unit.sync_pair import (
    DEAD_S,
    HERE,
    PATIENCE_S,
    Node,
    acquainted,
    connected,
    introduce,
    running,
    until,
)

CODEC = wire.codec()
DAY = 86400


def asynchronous(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in a loop of its own, which must not take for ever."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(4 * PATIENCE_S):
                await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(bounded())

    return run


def bulk(number: int, size: int = 100_000) -> ReadAnswer:
    return ReadAnswer(token=str(number), status=200, body=bytes(size))


# -- a session ---------------------------------------------------------------------------------


@asynchronous
async def test_messages_come_in_order_in_both_directions(tmp_path: Path) -> None:
    async with connected(tmp_path) as (a, b):
        for node in (a, b):
            for number in range(500):
                await node.session.send(Query(request=str(number)))
        await until(lambda: len(a.heard) == len(b.heard) == 500)
        expected = [Query(request=str(number)) for number in range(500)]
        assert a.heard == b.heard == expected
        assert a.session.peer.name == "b"
        assert b.session.peer.name == "a"
        assert (a.session.dialed, b.session.dialed) == (True, False)


@asynchronous
async def test_a_round_trip_is_measured_and_short(tmp_path: Path) -> None:
    async with connected(tmp_path) as (a, b):
        await until(lambda: 0 < a.session.round_trip_ns < 1_000_000_000)
        await until(lambda: 0 < b.session.round_trip_ns < 1_000_000_000)
        took = []
        for number in range(50):
            begun = time.perf_counter()
            await a.session.send(Query(request=str(number + 1)))
            await until(lambda number=number: len(b.heard) > number)
            took.append(time.perf_counter() - begun)
        # Most may have had to wait for a processor.
        assert sorted(took)[4] < 0.01


@asynchronous
async def test_a_large_message_travels_in_pieces_and_arrives_whole(tmp_path: Path) -> None:
    async with connected(tmp_path) as (a, b):
        body = random.Random(2).randbytes(8 << 20)
        await a.session.send(ReadAnswer(token="t", status=200, body=body))
        await a.session.send(Want())
        await until(lambda: len(b.heard) == 2)
        assert b.heard == [ReadAnswer(token="t", status=200, body=body), Want()]
        assert b.session.arriving == (0, 0)


@asynchronous
async def test_files_hold_up_nothing_and_keep_their_order(tmp_path: Path) -> None:
    async with connected(tmp_path) as (a, b):
        data = bytes(200_000)
        pieces = [FilePiece(list="l", path="/x", offset=n, data=data) for n in range(40)]
        for piece in pieces:
            assert a.session.offer(piece)
        assert a.session.offer(FileDone(list="l"))
        assert a.session.offer(Want())
        await until(lambda: len(b.heard) == 42)
        assert b.heard.index(Want()) <= 1
        assert [heard for heard in b.heard if heard != Want()] == [*pieces, FileDone(list="l")]


@asynchronous
async def test_a_reader_that_is_busy_makes_the_sender_wait_and_loses_nothing(
    tmp_path: Path,
) -> None:
    limits = Limits(ping_s=0.05, dead_s=DEAD_S, queue_messages=8, queue_bytes=1 << 20)
    async with connected(tmp_path, limits=limits) as (a, b):
        b.taking.clear()
        sent = 0

        async def send() -> None:
            nonlocal sent
            for number in range(300):
                await a.session.send(bulk(number))
                sent += 1

        sending = asyncio.create_task(send())
        await until(lambda: b.counted("waited").get("receive") and a.counted("waited").get("send"))
        stuck_at = sent
        # The peer's pings are behind what it sent: that nobody reads them is not held against it.
        for _ in range(3 * round(limits.dead_s)):
            heard = a.counted("bytes")["received"]
            skip(1)
            await until(lambda heard=heard: a.counted("bytes")["received"] > heard)
        assert a.up
        assert b.up
        assert b.session.waiting["receive"] <= limits.queue_messages
        assert sent - stuck_at < 100, "what is on its way is bounded"
        b.taking.set()
        await sending
        await until(lambda: len(b.heard) == 300)
        assert [heard.token for heard in b.heard] == [str(n) for n in range(300)]


@asynchronous
async def test_what_finds_no_room_and_may_not_wait_is_dropped_and_counted(tmp_path: Path) -> None:
    limits = Limits(ping_s=0.05, dead_s=DEAD_S, queue_messages=8)
    async with connected(tmp_path, limits=limits) as (a, _):
        large = bulk(0, wire.PIECE_MAX)
        taken = [a.session.offer(large)]
        taken += [a.session.offer(Query(request=str(n + 1))) for n in range(19)]
        assert taken == [True] * 8 + [False] * 12
        assert a.counted("dropped") == {"send": 12}


@asynchronous
async def test_what_nothing_is_before_goes_at_once_and_in_order(tmp_path: Path) -> None:
    limits = Limits(ping_s=DEAD_S / 4, dead_s=DEAD_S, queue_messages=2)
    async with connected(tmp_path, limits=limits) as (a, b):
        # Once this has come over, nothing of the beginning is on its way any more.
        assert a.session.offer(Query(request="1"))
        await until(lambda: len(b.heard) == 1)
        for n in range(1, 20):
            assert a.session.offer(Query(request=str(n + 1)))
            assert a.session.waiting["send"] == 0
        large = bulk(21, wire.PIECE_MAX)
        assert a.session.offer(large)
        assert a.session.offer(Query(request="22"))
        assert a.session.waiting["send"] == 2, "behind the large one, which goes in pieces"
        await until(lambda: len(b.heard) == 22)
        assert b.heard[20] == large
        small = [heard.request for heard in b.heard if isinstance(heard, Query)]
        assert small == [str(n) for n in [*range(1, 21), 22]]


@asynchronous
async def test_whoever_waits_for_room_hears_of_the_end(tmp_path: Path) -> None:
    limits = Limits(ping_s=0.05, dead_s=DEAD_S, queue_messages=2)
    async with connected(tmp_path, limits=limits) as (a, b):
        b.taking.clear()
        session = a.session

        async def send() -> str:
            try:
                while True:
                    await session.send(bulk(1))
            except framing.WireError:
                return "wrong"
            except Exception as error:  # noqa: BLE001 - which one is what is asked
                return type(error).__name__

        sending = asyncio.create_task(send())
        await until(lambda: a.counted("waited").get("send"))
        session.close("closed", "Enough.")
        assert await sending == "SessionOverError"


@asynchronous
async def test_what_came_before_the_end_is_still_given(tmp_path: Path) -> None:
    async with connected(tmp_path) as (a, b):
        b.taking.clear()
        for number in range(5):
            await a.session.send(Query(request=str(number)))
        await until(lambda: b.session.waiting["receive"] >= 4)
        old = b.session
        a.session.close("closed", "Enough.")
        await until(lambda: old.over)
        assert len(b.sessions) == 1
        b.taking.set()
        # Only when the handler has done with the old one does it get the next.
        await until(lambda: len(b.sessions) == 2)
        assert len(b.heard) == 5


@asynchronous
async def test_a_worker_that_stops_says_so(tmp_path: Path) -> None:
    folders = acquainted(tmp_path)
    b = Node(folders[1], 1)
    async with running(b):
        a = Node(folders[0], 0, peer_port=await b.port())
        async with running(a):
            await until(lambda: a.up and b.up)
        await until(lambda: not b.up)
        assert b.counted("left") == {"stopping": 1}
        assert "stops" in b.connection.status().why


@asynchronous
async def test_a_mistake_of_the_handler_comes_out(tmp_path: Path) -> None:
    folders = acquainted(tmp_path)
    b = Node(folders[1], 1)

    class MistakeError(Exception):
        pass

    async def broken(_: object) -> None:
        raise MistakeError

    async with running(b):
        a = Node(folders[0], 0, peer_port=await b.port())
        with pytest.raises(BaseExceptionGroup) as caught:
            await a.connection.run(broken)
        assert caught.value.subgroup(MistakeError) is not None


# -- coming back -------------------------------------------------------------------------------


@asynchronous
async def test_a_broken_connection_is_made_again(tmp_path: Path) -> None:
    async with connected(tmp_path) as (a, b):
        a.session._writer.transport.abort()
        await until(lambda: len(a.sessions) == len(b.sessions) == 2 and a.up and b.up)
        await a.session.send(Want())
        await until(lambda: b.heard == [Want()])


@asynchronous
async def test_a_worker_that_was_started_anew_is_found(tmp_path: Path) -> None:
    folders = acquainted(tmp_path)
    first = Node(folders[1], 1)
    async with running(first):
        port = await first.port()
        a = Node(folders[0], 0, peer_port=port)
        going = asyncio.create_task(a.connection.run(a.handle))
        await until(lambda: a.up and first.up)
    await until(lambda: a.counted("failed").get("unreachable", 0) > 1)
    second = Node(folders[1], 1, port=port)
    async with running(second):
        await until(lambda: a.up and second.up)
        going.cancel()


@asynchronous
async def test_the_newer_of_two_connections_stays(tmp_path: Path) -> None:
    async with connected(tmp_path) as (a, b):
        # The process that dials was killed and starts again before anybody noticed.
        twin = Node(a.folder, 0, peer_port=await b.port())
        a.connection._try = lambda: asyncio.sleep(1, result=False)  # type: ignore[method-assign]
        async with running(twin):
            await until(lambda: twin.up and len(b.sessions) == 2)
            assert b.sessions[0].over is not None
            assert b.sessions[0].over.code == "replaced"
            await until(lambda: a.counted("left") == {"replaced": 1})


@asynchronous
async def test_the_connection_of_the_lower_index_stays(tmp_path: Path) -> None:
    async with connected(tmp_path) as (a, b):
        reader, _ = await known(b.folder, await a.port(), node=1)
        assert isinstance(CODEC.decode(await framing.read_frame(reader)), wire.Hello)
        assert (await farewell(reader)).code == "duplicate"
        assert a.up
        assert b.up


@asynchronous
async def test_where_only_the_other_direction_is_open_that_is_taken(tmp_path: Path) -> None:
    folders = acquainted(tmp_path)
    a = Node(folders[0], 0)
    async with running(a):
        b = Node(folders[1], 1, peer_port=await a.port(), dial_anyway_s=0.1)
        async with running(b):
            await until(lambda: a.up and b.up)
            assert (a.session.dialed, b.session.dialed) == (False, True)


@asynchronous
async def test_who_starts_dials_once_whoever_is_to_dial(tmp_path: Path) -> None:
    """The peer may have been alone for long, and its next attempt seconds away."""
    folders = acquainted(tmp_path)
    a = Node(folders[0], 0, peer_port=1)
    async with running(a):
        b = Node(folders[1], 1, peer_port=await a.port(), dial_anyway_s=600.0)
        async with running(b):
            await until(lambda: a.up and b.up)
            assert (a.session.dialed, b.session.dialed) == (False, True)
            assert b.counted("dialed")[""] == 1


@asynchronous
async def test_hurrying_ends_the_pause(tmp_path: Path) -> None:
    folders = acquainted(tmp_path)
    with socket.create_server((HERE, 0)) as taken:
        port = taken.getsockname()[1]
    a = Node(folders[0], 0, peer_port=port, pause_max_s=60.0)
    async with running(a):
        # Until the next pause is one of several seconds.
        while a.counted("dialed").get("", 0) < 8:
            a.connection._hurried.set()
            await asyncio.sleep(0.001)
        b = Node(folders[1], 1, port=port)
        async with running(b):
            await b.port()
            a.connection.hurry()
            await until(lambda: a.up and b.up)


# -- who is let in -------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def listening(root: Path, **settings: Any) -> AsyncIterator[tuple[Node, Folder, int]]:
    """Node b alone, the identity of a, and where b listens."""
    folders = acquainted(root)
    b = Node(folders[1], 1, **settings)
    async with running(b):
        yield b, folders[0], await b.port()


def context(folder: Folder) -> ssl.SSLContext:
    """TLS as a worker with that identity would speak it, for a test to spoil."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols([PROTOCOL])
    made.load_cert_chain(folder.own_file)
    return made


async def dialed(
    port: int, tls: ssl.SSLContext | None, source: str = HERE
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    extra: dict[str, Any] = {"ssl": tls, "server_hostname": ""} if tls is not None else {}
    return await asyncio.open_connection(HERE, port, local_addr=(source, 0), **extra)


async def known(
    folder: Folder, port: int, *, node: int = 0
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of somebody who is who he should be, and has said hello."""
    reader, writer = await dialed(port, context(folder))
    peer = Node(folder, node)
    writer.write(framed(CODEC.encode(peer.hello(wire.VERSIONS))))
    return reader, writer


async def farewell(reader: asyncio.StreamReader) -> wire.Bye:
    """What the other side says last."""
    while True:
        message = CODEC.decode(await framing.read_frame(reader))
        if isinstance(message, wire.Bye):
            return message


async def gone(reader: asyncio.StreamReader) -> None:
    """Wait until the other side has closed, however."""
    with contextlib.suppress(OSError):
        while await reader.read(65536):
            pass


async def refused(port: int, tls: ssl.SSLContext | None, data: bytes = b"") -> None:
    """Try to get in, and be thrown out."""
    try:
        reader, writer = await dialed(port, tls)
    except OSError:
        return
    writer.write(data)
    await gone(reader)
    writer.close()


async def still_lets_the_peer_in(b: Node, folder: Folder, port: int) -> None:
    a = Node(folder, 0, peer_port=port)
    async with running(a):
        await until(lambda: a.up and b.up, "the peer gets in")


@asynchronous
async def test_another_certificate_is_refused(tmp_path: Path) -> None:
    async with listening(tmp_path) as (b, folder, port):
        stranger = Folder(tmp_path / "stranger")
        stranger.make_own("a", time.time())  # By the same name.
        await refused(port, context(stranger))
        await until(lambda: b.counted("refused") == {"certificate": 1})
        assert not b.sessions
        await still_lets_the_peer_in(b, folder, port)


@asynchronous
async def test_what_the_peer_s_certificate_signed_is_refused(tmp_path: Path) -> None:
    async with listening(tmp_path) as (b, folder, port):
        pem = folder.own_file.read_bytes()
        key = load_pem_private_key(pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        issuer = x509.load_pem_x509_certificate(pem)
        own = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(issuer.subject)
            .issuer_name(issuer.subject)
            .public_key(own.public_key())
            .serial_number(9)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        forged = Folder(tmp_path / "forged")
        forged.path.mkdir()
        forged.own_file.write_bytes(
            own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + leaf.public_bytes(Encoding.PEM)
            + issuer.public_bytes(Encoding.PEM)
        )
        await refused(port, context(forged))
        await until(lambda: b.counted("refused") == {"certificate": 1})


@asynchronous
async def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    async with listening(tmp_path) as (b, folder, port):
        old = generate("a", time.time() - 2000 * DAY)
        folder._write(identity.OWN, old._pem())
        b.folder.trust(old.certificate)
        await refused(port, context(folder))
        await until(lambda: b.counted("refused").get("expired") == 1)
        assert not b.sessions


@asynchronous
async def test_a_dialer_refuses_likewise(tmp_path: Path) -> None:
    for code, age_days in (("certificate", 0), ("expired", 2000)):
        root = tmp_path / code
        async with listening(root) as (b, folder, port):
            if code == "expired":
                old = generate("b", time.time() - age_days * DAY)
                b.folder._write(identity.OWN, old._pem())
                folder.trust(old.certificate)
            else:
                folder.trust(generate("b", time.time()).certificate)
            a = Node(folder, 0, peer_port=port)
            async with running(a):
                await until(lambda a=a, code=code: a.counted("failed").get(code, 0) >= 2)
                assert not a.sessions
                assert a.connection.status().state == "away"
                assert "twinbeat pair" in a.connection.status().why or code == "certificate"


@asynchronous
async def test_a_node_that_is_not_believed_says_what_to_do(tmp_path: Path) -> None:
    async with listening(tmp_path) as (b, folder, port):
        b.folder.trust(generate("a", time.time()).certificate)
        a = Node(folder, 0, peer_port=port)
        async with running(a):
            await until(lambda: sum(a.counted("failed").values()) >= 2)
            assert "not believe this node's certificate" in a.connection.status().why
            assert not a.sessions
            assert not b.sessions


@asynchronous
async def test_other_protocols_are_refused(tmp_path: Path) -> None:
    async with listening(tmp_path) as (b, folder, port):
        older = context(folder)
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        await refused(port, older)
        await until(lambda: b.counted("refused").get("tls") == 1)

        unnamed = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unnamed.check_hostname = False
        unnamed.verify_mode = ssl.CERT_NONE
        unnamed.set_alpn_protocols([PROTOCOL])
        await refused(port, unnamed)
        await until(lambda: b.counted("refused").get("no_certificate") == 1)

        other = context(folder)
        other.set_alpn_protocols(["h2"])
        await refused(port, other)
        await until(lambda: b.counted("refused").get("tls") == 2)

        await refused(port, None, b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        await until(lambda: b.counted("refused").get("tls") == 3)
        await refused(port, None, random.Random(3).randbytes(4000))
        await until(lambda: b.counted("refused").get("tls") == 4)
        await still_lets_the_peer_in(b, folder, port)


@asynchronous
async def test_strangers_who_say_nothing_keep_nobody_out(tmp_path: Path) -> None:
    async with listening(tmp_path, handshake_s=60.0, peer="127.0.0.2") as (b, folder, port):
        strangers = [(await dialed(port, None))[1] for _ in range(20)]
        await until(lambda: b.counted("refused") == {"crowded": 12})
        assert len(b.connection._pending) == 8
        await still_lets_the_peer_in(b, folder, port)
        for stranger in strangers:
            stranger.close()


@asynchronous
async def test_the_peer_s_address_goes_last(tmp_path: Path) -> None:
    async with listening(tmp_path, handshake_s=60.0) as (b, _, port):
        peer = (await dialed(port, None))[1]
        await until(lambda: len(b.connection._pending) == 1)
        others = [(await dialed(port, None, source="127.0.0.9"))[1] for _ in range(20)]
        await until(lambda: b.counted("refused") == {"crowded": 13})
        assert next(iter(b.connection._pending.values())), "the first to come is still waited for"
        for each in (peer, *others):
            each.close()


@asynchronous
async def test_slow_strangers_have_a_deadline(tmp_path: Path) -> None:
    async with listening(tmp_path, handshake_s=DEAD_S) as (b, folder, port):
        reader, writer = await dialed(port, None)
        writer.write(b"\x16\x03\x01")
        await until(lambda: b.connection._pending)
        skip(DEAD_S)
        await gone(reader)
        writer.close()
        await until(lambda: b.counted("refused") == {"slow": 1})
        # One who has shown his certificate and then says hello a byte at a time has no more time.
        reader, writer = await dialed(port, context(folder))
        ending = asyncio.create_task(gone(reader))
        while not ending.done():
            writer.write(b"\0")
            skip(1)
            await asyncio.wait((ending,), timeout=0.01)
        writer.close()
        await until(lambda: sum(b.counted("refused").values()) == 2)


@asynchronous
async def test_a_frame_has_a_deadline_however_many_bytes_of_it_come(tmp_path: Path) -> None:
    async with listening(tmp_path) as (b, folder, port):
        reader, writer = await known(folder, port)
        await until(lambda: b.up)
        writer.write((1000).to_bytes(4, "big"))
        ending = asyncio.create_task(farewell(reader))
        while not ending.done():
            writer.write(b"x")
            skip(1)
            await asyncio.wait((ending,), timeout=0.01)
        assert ending.result().code == "silent"
        writer.close()


@asynchronous
async def test_what_came_while_the_process_stood_still_was_heard(tmp_path: Path) -> None:
    async with connected(tmp_path) as (a, b):
        for number in range(3):
            for node in (a, b):
                assert node.session.offer(Query(request=str(number)))
            # What each was sent lies in its socket, and the process goes on too late to the clock.
            skip(1.1 * DEAD_S)
            await until(lambda number=number: len(a.heard) == len(b.heard) == number + 1)
        assert a.counted("ended") == b.counted("ended") == {}
        assert len(a.sessions) == len(b.sessions) == 1


@asynchronous
async def test_a_peer_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    async with listening(tmp_path) as (b, folder, port):
        reader, writer = await known(folder, port)
        await until(lambda: b.up)
        session = b.session
        ending = asyncio.create_task(farewell(reader))
        while not ending.done():
            skip(1)
            await asyncio.wait((ending,), timeout=0.01)
        assert ending.result().code == "silent"
        status = b.connection.status()
        assert session.over is not None
        assert (status.state, status.why) == ("away", session.over.sentence)
        await until(lambda: b.counted("ended") == {"silent": 1})
        writer.close()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff\xff\xff\xff", "oversized"),
        ((framing.FRAME_MAX + 1).to_bytes(4, "big"), "oversized"),
        (b"\0\0\0\0", "empty"),
        (framed(b"\xc1"), "malformed"),
        (framed(CODEC.encode(wire.Ping(sent_ns=1))[:-1]), "malformed"),
        (
            framed(CODEC.encode(wire.Fragment(number=1, offset=5, size=9, data=b"x"))),
            "fragment",
        ),
        (
            framed(
                CODEC.encode(
                    wire.Fragment(
                        number=1,
                        offset=0,
                        size=len(
                            CODEC.encode(wire.Fragment(number=1, offset=0, size=1, data=b"x"))
                        ),
                        data=CODEC.encode(wire.Fragment(number=1, offset=0, size=1, data=b"x")),
                    )
                )
            ),
            "malformed",
        ),
    ],
    ids=["longest", "long", "empty", "noise", "cut", "piece", "nested"],
)
@asynchronous
async def test_what_no_worker_sends_ends_the_session(
    tmp_path: Path, data: bytes, code: str
) -> None:
    async with listening(tmp_path) as (b, folder, port):
        reader, writer = await known(folder, port)
        await until(lambda: b.up)
        writer.write(data)
        assert (await farewell(reader)).code == code
        writer.close()
        await until(lambda: b.counted("ended") == {code: 1})
        assert not b.heard
        await still_lets_the_peer_in(b, folder, port)


@asynchronous
async def test_a_frame_that_is_cut_off_is_no_message(tmp_path: Path) -> None:
    async with listening(tmp_path) as (b, folder, port):
        _, writer = await known(folder, port)
        await until(lambda: b.up)
        writer.write(framed(CODEC.encode(Want()))[:-1])
        writer.close()
        await until(lambda: b.counted("ended") == {"truncated": 1})
        assert not b.heard


@asynchronous
async def test_before_the_hello_even_less_is_taken(tmp_path: Path) -> None:
    async with listening(tmp_path) as (b, folder, port):
        first = {
            "oversized": framed(bytes(wire.HELLO_MAX + 1)),
            "malformed": framed(CODEC.encode(Want())),
        }
        for code, data in first.items():
            reader, writer = await dialed(port, context(folder))
            writer.write(data)
            assert (await farewell(reader)).code == code
            writer.close()
        await until(lambda: b.counted("refused") == dict.fromkeys(first, 1))
        assert not b.sessions


@asynchronous
async def test_pings_without_end_are_not_answered_without_end(tmp_path: Path) -> None:
    async with listening(tmp_path) as (b, folder, port):
        _, writer = await known(folder, port)
        await until(lambda: b.up)
        flood = framed(CODEC.encode(wire.Ping(sent_ns=1))) * 1000
        with contextlib.suppress(OSError):
            # Whoever asks and never reads the answers.
            while b.up:
                writer.write(flood)
                async with asyncio.timeout(PATIENCE_S):
                    await writer.drain()
        assert b.counted("ended") == {"flood": 1}
        writer.close()


@asynchronous
async def test_noise_from_the_peer_never_does_more_than_end_a_session(tmp_path: Path) -> None:
    rng = random.Random(5)
    good = [
        CODEC.encode(message)
        for message in (Want(), Query(request="r"), wire.Ping(sent_ns=1), FileDone(list="l"))
    ]
    async with listening(tmp_path) as (b, folder, port):
        for attempt in range(40):
            _, writer = await known(folder, port)
            with contextlib.suppress(OSError):
                for _ in range(40):
                    payload = bytearray(rng.choice(good))
                    for _ in range(rng.choice((0, 0, 1, 3))):
                        payload[rng.randrange(len(payload))] = rng.randrange(256)
                    frame = bytearray(framed(bytes(payload)))
                    if rng.random() < 0.02:
                        frame[rng.randrange(4)] ^= 1 << rng.randrange(8)
                    writer.write(frame)
            await until(lambda attempt=attempt: len(b.sessions) > attempt)
            writer.close()
            await until(lambda: not b.up)
        ended = b.counted("ended") | b.counted("left")
        assert set(ended) <= {"malformed", "truncated", "ended", "oversized", "empty"}
        assert ended["malformed"] > 10
        assert b.heard
        await still_lets_the_peer_in(b, folder, port)


# -- versions ------------------------------------------------------------------------------------


class LaterHello(wire.Hello, frozen=True, kw_only=True, tag="hello"):
    """The hello of the next release says more."""

    colour: str = "red"


class LaterQuery(Query, frozen=True, kw_only=True, tag="query"):
    """So does its query."""

    urgent: bool = False


class Sing(Struct, frozen=True, kw_only=True, tag="sing"):
    """A message that the next release has brought."""

    song: str


def later(versions: tuple[int, int]) -> Codec:
    """The language of the next release."""
    replaced = {wire.Hello: LaterHello, Query: LaterQuery}
    types = [replaced.get(each, each) for each in get_args(wire.Message)]
    return wire.codec(Union[(*types, Sing)], versions)


class LaterNode(Node):
    def hello(self, versions: tuple[int, int]) -> wire.Hello:
        return LaterHello(**msgspec.structs.asdict(super().hello(versions)), colour="blue")


@pytest.mark.parametrize("newer", ["dials", "listens"])
@asynchronous
async def test_this_release_and_the_next_work_together(tmp_path: Path, newer: str) -> None:
    folders = acquainted(tmp_path)
    kinds = (LaterNode, Node) if newer == "dials" else (Node, LaterNode)
    codecs = [later((1, 2)) if kind is LaterNode else wire.codec() for kind in kinds]
    b = kinds[1](folders[1], 1, codecs[1])
    async with running(b):
        a = kinds[0](folders[0], 0, codecs[0], peer_port=await b.port())
        async with running(a):
            await until(lambda: a.up and b.up)
            assert a.session.version == b.session.version == 1
            new, old = (a, b) if newer == "dials" else (b, a)
            await new.session.send(Sing(song="la"))  # type: ignore[arg-type]
            await new.session.send(LaterQuery(request="r", urgent=True))
            await old.session.send(Query(request="s"))
            await until(lambda: new.heard and old.heard)
            assert old.heard == [Query(request="r")]
            assert new.heard == [LaterQuery(request="s")]
            assert isinstance(old.session.peer, wire.Hello)
            assert isinstance(new.session.peer, LaterHello)
            assert new.session.peer.colour == "red", "what an older one does not say has a default"
            assert old.counted("skipped") == {"unknown": 1}
            assert not old.counted("ended")


@asynchronous
async def test_releases_too_far_apart_say_so_on_both_sides(tmp_path: Path) -> None:
    folders = acquainted(tmp_path)
    b = Node(folders[1], 1, later((2, 3)))
    async with running(b):
        a = Node(folders[0], 0, peer_port=await b.port())
        async with running(a):
            await until(lambda: a.counted("failed").get("version"))
            await until(lambda: b.counted("refused").get("version"))
            assert "upgrade" in a.connection.status().why
            assert not a.sessions
            assert not b.sessions


@pytest.mark.parametrize(
    ("changes", "code"), [({"pair": 2}, "pair"), ({"node": 1}, "node")], ids=["pair", "node"]
)
@asynchronous
async def test_who_is_no_pair_is_not_made_one(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    async with listening(tmp_path) as (b, folder, port):
        a = Node(folder, 0, peer_port=port)
        a.changes = changes
        async with running(a):
            await until(lambda: a.counted("failed").get(code))
            await until(lambda: b.counted("refused").get(code))
            assert not a.sessions
            assert not b.sessions


# -- certificates --------------------------------------------------------------------------------


def certificate(folder: Folder) -> identity.Certificate:
    found = folder.own()
    assert found is not None
    return found.certificate


@asynchronous
async def test_a_certificate_is_renewed_while_all_goes_on(tmp_path: Path) -> None:
    async with connected(tmp_path) as (a, b):
        old = certificate(a.folder)
        shutil.copytree(a.folder.path, tmp_path / "before")
        session = a.session
        new = await a.connection.renew(time.time())
        assert certificate(a.folder) == new != old
        assert b.folder.trusted() == (old, new), "either may come"
        assert a.session is session
        await a.session.send(Want())
        await until(lambda: b.heard == [Want()])
        assert not a.connection.status().renewing
        with pytest.raises(IdentityError) as caught:
            await a.connection.renew(time.time())
        assert caught.value.code == "unused"
        a.connection.reconnect("renewed", "The certificate was renewed.")
        await until(lambda: len(a.sessions) == len(b.sessions) == 2 and a.up and b.up)
        assert b.session.certificate == new
        assert b.folder.trusted() == (new,)
        assert a.connection.status().own_ends_s == new.ends_s
        await refused(await b.port(), context(Folder(tmp_path / "before")))
        await until(lambda: b.counted("refused") == {"certificate": 1})
        assert await a.connection.renew(time.time()) != new


@asynchronous
async def test_both_may_renew_at_once(tmp_path: Path) -> None:
    async with connected(tmp_path) as (a, b):
        now = time.time()
        new = await asyncio.gather(a.connection.renew(now), b.connection.renew(now))
        b.connection.reconnect("renewed", "The certificate was renewed.")
        await until(lambda: len(a.sessions) == len(b.sessions) == 2 and a.up and b.up)
        assert (a.session.own, b.session.own) == tuple(new)
        assert (b.folder.trusted(), a.folder.trusted()) == ((new[0],), (new[1],))


@asynchronous
async def test_a_renewal_that_was_cut_short_goes_on_by_itself(tmp_path: Path) -> None:
    folders = acquainted(tmp_path)
    b = Node(folders[1], 1)
    old = certificate(folders[0])
    a = Node(folders[0], 0, peer_port=1)
    with pytest.raises(IdentityError) as caught:
        await a.connection.renew(time.time())
    assert caught.value.code == "away"
    assert certificate(folders[0]) == old
    async with running(b):
        a = Node(folders[0], 0, peer_port=await b.port())
        async with running(a):
            await until(lambda: certificate(folders[0]) != old)
            assert a.session.certificate == certificate(folders[1])
    assert b.folder.trusted() == (old, certificate(folders[0]))


@asynchronous
async def test_an_acknowledgement_that_got_lost_is_made_up_for(tmp_path: Path) -> None:
    # The peer has stored the successor, and this node does not know it: both certificates do.
    folders = acquainted(tmp_path)
    successor = folders[0].make_successor(time.time()).certificate
    folders[1].expect(successor)
    b = Node(folders[1], 1)
    async with running(b):
        a = Node(folders[0], 0, peer_port=await b.port())
        async with running(a):
            await until(lambda: certificate(folders[0]) == successor)
            a.connection.reconnect("renewed", "The certificate was renewed.")
            await until(lambda: folders[1].trusted() == (successor,))


@pytest.mark.parametrize("what", ["name", "expired", "own", "noise"])
@asynchronous
async def test_not_everything_is_a_successor(tmp_path: Path, what: str) -> None:
    async with listening(tmp_path) as (b, folder, port):
        der = {
            "name": lambda: generate("c", time.time()).certificate.der,
            "expired": lambda: generate("a", time.time() - 2000 * DAY).certificate.der,
            "own": lambda: certificate(b.folder).der,
            "noise": lambda: b"\x30\x82\x01\x00",
        }[what]()
        reader, writer = await known(folder, port)
        writer.write(framed(CODEC.encode(wire.Renew(certificate=der))))
        while True:
            answer = CODEC.decode(await framing.read_frame(reader))
            if isinstance(answer, wire.Renewed):
                break
        assert answer.code in {"certificate", "expired"}
        assert b.folder.trusted() == (certificate(folder),)
        assert b.counted("refused") == {"renewal": 1}
        writer.close()


@asynchronous
async def test_a_refused_renewal_is_told_and_changes_nothing(tmp_path: Path) -> None:
    async with connected(tmp_path) as (a, b):
        old = certificate(a.folder)
        (b.folder.path / f".{identity.PEER_NEXT}.new").mkdir()  # Nothing can be written there.
        with pytest.raises(IdentityError) as caught:
            await a.connection.renew(time.time())
        assert "can't be written" in caught.value.sentence
        assert certificate(a.folder) == old
        assert b.folder.trusted() == (old,)
        assert a.up
        assert a.connection.status().renewing


# -- the files -----------------------------------------------------------------------------------


@asynchronous
async def test_a_node_listens_and_dials_once_it_is_paired(tmp_path: Path) -> None:
    b = Node(Folder(tmp_path / "b"), 1)
    async with running(b):
        await until(lambda: "twinbeat pair" in b.connection.status().why)
        assert b.connection.status().state == "unpaired"
        assert b.connection.status().port == 0
        one = Folder(tmp_path / "a")
        one.make_own("a", time.time())
        b.folder.make_own("b", time.time())
        introduce(one, b.folder)
        a = Node(one, 0, peer_port=await b.port())
        async with running(a):
            await until(lambda: a.up and b.up)
            # And when another takes the peer's place, the old one has to go.
            b.folder.trust(generate("c", time.time()).certificate)
            await until(lambda: a.counted("left") == {"unpaired": 1})


@asynchronous
async def test_a_file_that_cannot_be_used_is_told_and_nothing_is_let_in(tmp_path: Path) -> None:
    folders = acquainted(tmp_path)
    folders[1].own_file.chmod(0o644)
    b = Node(folders[1], 1)
    async with running(b):
        await until(lambda: b.counted("failed").get("identity"))
        assert "chmod 0600" in b.connection.status().why
        assert b.connection.status().port == 0


@asynchronous
async def test_an_address_that_is_not_there_is_told_and_tried_again(tmp_path: Path) -> None:
    folders = acquainted(tmp_path)
    b = Node(folders[1], 1, listen="192.0.2.1")
    async with running(b):
        await until(lambda: b.counted("failed").get("listen", 0) >= 2)
        assert "192.0.2.1" in b.connection.status().why


@asynchronous
async def test_an_interface_can_be_named(tmp_path: Path) -> None:
    async with connected(tmp_path, interface="lo") as (a, b):
        for node in (a, b):
            sock: socket.socket = node.session._writer.get_extra_info("socket")
            name = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
            assert name.rstrip(b"\0") == b"lo"
    nowhere = Node(a.folder, 0, interface="tbnone0", listen="")
    async with running(nowhere):
        await until(lambda: nowhere.counted("failed").get("unreachable"))
        assert nowhere.counted("failed").get("listen")


@asynchronous
async def test_every_connection_is_a_full_handshake(tmp_path: Path) -> None:
    credentials = Cabinet(acquainted(tmp_path)[0]).credentials()
    assert credentials is not None
    for made in (credentials.server, credentials.client):
        assert made.verify_mode is ssl.CERT_REQUIRED
        assert made.minimum_version is ssl.TLSVersion.TLSv1_3
        assert made.options & ssl.OP_NO_TICKET
    assert credentials.server.num_tickets == 0


@pytest.fixture
def log_records() -> Iterator[list[logging.LogRecord]]:
    """What is logged, taken where it is said: others may set up what becomes of it later."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger, keep = logging.getLogger("twinbeat.sync"), Keep()
    level = logger.level
    logger.addHandler(keep)
    logger.setLevel(logging.DEBUG)
    yield records
    logger.removeHandler(keep)
    logger.setLevel(level)


@asynchronous
async def test_no_secret_goes_where_it_can_be_read(
    tmp_path: Path, log_records: list[logging.LogRecord]
) -> None:
    secret = bytes(range(100, 116))
    async with connected(tmp_path) as (a, b):
        await a.session.send(wire.KeyGive(id=2, secret=secret))
        await until(lambda: b.heard)
        assert b.heard == [wire.KeyGive(id=2, secret=secret)]
        shown = [repr(b.heard), repr(a.session), repr(a.connection.status())]
        await a.connection.renew(time.time())
        await refused(await b.port(), None, framed(CODEC.encode(wire.KeyGive(id=2, secret=secret))))
        await until(lambda: b.counted("refused"))
    private = "".join(a.folder.own_file.read_text().splitlines()[1:3])
    shown += [record.getMessage() + repr(record.__dict__) for record in log_records]
    assert any("Connected with" in each for each in shown)
    text = "\n".join(shown)
    for mark in (secret.hex(), repr(secret)[2:-1], private[:40], "PRIVATE"):
        assert mark not in text


def test_pull_is_a_message_like_any_other() -> None:
    assert CODEC.decode(CODEC.encode(Pull())) == Pull()
