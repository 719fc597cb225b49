# SPDX-License-Identifier: Apache-2.0
"""Two workers that collect, replicate and give log records, over real TLS, disks and files."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from twinbeat.api.client import ClientError
from twinbeat.framing import WireError, framed, read_frame
from twinbeat.sync.document import Remove
from twinbeat.sync.identity import Folder
from twinbeat.sync.operation import Edit
from twinbeat.sync.sockets import reached, secured
from twinbeat.sync.tls import Cabinet
from twinbeat.weblog import block as blocks
from twinbeat.weblog.messages import (
    PROTOCOL,
    Ack,
    Acked,
    Blocks,
    Cursor,
    FromNode,
    Hello,
    Introduce,
    Introduced,
    Problem,
    Pull,
    Welcome,
    codec,
)
from twinbeat.weblog.shown import WeblogView
from twinbeat.worker import logdoor, logsite
from unit.worker_pair import PATIENCE_S, Site, free_port, in_step, looped, pair

CODEC = codec(FromNode)
NAME = "logs1"


@dataclass
class Client:
    """A log client that a test leads by the hand."""

    folder: Folder
    port: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    welcome: Welcome | None = None
    got: dict[tuple[str, int], list[bytes]] = field(default_factory=dict)
    gaps: list[Any] = field(default_factory=list)

    async def say(self, message: msgspec.Struct) -> None:
        self.writer.write(framed(CODEC.encode(message)))
        await self.writer.drain()

    async def hear(self) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return CODEC.decode(await read_frame(self.reader))

    async def greet(self) -> Welcome:
        await self.say(Hello(versions=(1, 1), name=NAME))
        said = await self.hear()
        assert isinstance(said, Welcome), said
        self.welcome = said
        return said

    async def pull(self, *, wait_ms: int = 200, max_bytes: int = 1 << 19) -> Blocks:
        assert self.welcome is not None
        cursors = [
            Cursor(each.node, each.epoch, len(self.got.get((each.node, each.epoch), ())))
            for each in self.welcome.streams
        ]
        await self.say(Pull(cursors=tuple(cursors), wait_ms=wait_ms, max_bytes=max_bytes))
        said = await self.hear()
        assert isinstance(said, Blocks), said
        self.gaps += said.gaps
        for raw in said.blocks:
            each = blocks.received(raw)
            records = self.got.setdefault((each.node, each.epoch), [])
            assert each.first <= len(records) <= each.next
            records += each.records()[len(records) - each.first :]
        self.welcome = replace(self.welcome, streams=said.streams)
        return said

    async def until(self, node: str, count: int) -> list[bytes]:
        """All records of a node, in the order of its epochs, when there are so many."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.of(node)) < count:
            assert time.monotonic() < deadline, (node, len(self.of(node)), self.welcome)
            await self.pull()
        return self.of(node)

    def behind(self, node: str) -> int:
        """Records of a node that it has not got, of those that there were a moment ago."""
        assert self.welcome is not None
        return sum(
            each.durable - len(self.got.get((each.node, each.epoch), ()))
            for each in self.welcome.streams
            if each.node == node
        )

    def of(self, node: str) -> list[bytes]:
        return [record for key in sorted(self.got) if key[0] == node for record in self.got[key]]

    async def acknowledge(self) -> None:
        cursors = [Cursor(*key, len(records)) for key, records in self.got.items()]
        await self.say(Ack(cursors=tuple(cursors)))
        assert isinstance(await self.hear(), Acked)


def client_folder(root: Path, name: str = NAME) -> Folder:
    folder = Folder(root / f"client-{name}")
    if folder.own() is None:
        folder.make_own(name, time.time())
    return folder


def fingerprint(folder: Folder) -> str:
    own = folder.own()
    assert own is not None
    return own.certificate.fingerprint


@contextlib.asynccontextmanager
async def dialed(
    folder: Folder, site: Site, port: int, *, shown: bool = True
) -> AsyncIterator[Client]:
    """A connection whose handshake is over, as far as a client can tell."""
    node = site.folder.own()
    assert node is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=node.certificate.der)
    context.set_alpn_protocols([PROTOCOL])
    if shown:
        context.load_cert_chain(folder.own_file)
    connected = await reached(site.settings.listen, port)
    reader, writer = await secured(connected, context, dialed=True, within_s=60.0)
    try:
        yield Client(folder, port, reader, writer)
    finally:
        writer.close()


async def admitted(lab: Lab, site: Site) -> None:
    """The client that is allowed has introduced itself there."""
    assert isinstance(await introduced(lab.folder, site, lab.port), Introduced)


async def introduced(folder: Folder, site: Site, port: int) -> Any:
    own = folder.own()
    assert own is not None
    async with dialed(folder, site, port, shown=False) as client:
        await client.say(Introduce(certificate=own.certificate.der))
        return await client.hear()


@dataclass
class Lab:
    root: Path
    a: Site
    b: Site
    port: int
    folder: Folder

    def log_of(self, site: Site) -> Path:
        return site.root / "access.log"

    def write(self, site: Site, *records: str) -> None:
        with self.log_of(site).open("a") as file:
            file.writelines(record + "\n" for record in records)

    async def share(self, first: int, end: int) -> None:
        """Records that a logs, until they are on both nodes."""
        self.write(self.a, *(f"record {n}" for n in range(first, end)))
        await self.until(self.a, replicated("a", end), "they are on both nodes")

    async def view(self, site: Site) -> WeblogView:
        answer = await site.ask("/v1/weblog")
        assert answer.status == 200, answer.body
        return msgspec.json.decode(answer.body, type=WeblogView)

    async def until(self, site: Site, holds: Any, what: str) -> WeblogView:
        deadline = time.monotonic() + PATIENCE_S
        seen = None
        while True:
            with contextlib.suppress(ClientError):  # It has only been started.
                if holds(seen := await self.view(site)):
                    return seen
            assert time.monotonic() < deadline, (what, seen)
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def logging_pair(root: Path, **more: Any) -> AsyncIterator[Lab]:
    """Both workers run and log a file each; one client is allowed, and unknown to them."""
    port = free_port()
    folder = client_folder(root)
    async with pair(root) as (a, b):
        for site in (a, b):
            site.settings = msgspec.structs.replace(
                site.settings, weblog_listen=(site.settings.listen,)
            )
            path = str(site.root / "access.log")
            site.tables = {
                **site.tables,
                "weblog": {"": {"port": port, **more}},
                "logsource": {"web": {"name": "web", "kind": "nginx", "path": path}},
                "logclient": {NAME: {"name": NAME, "fingerprint": fingerprint(folder)}},
            }
        yield Lab(root, a, b, port, folder)


@contextlib.asynccontextmanager
async def running_pair(root: Path, **more: Any) -> AsyncIterator[Lab]:
    """The same, both started and in step."""
    async with logging_pair(root, **more) as lab:
        lab.a.start()
        lab.b.start()
        await in_step(lab.a, lab.b)
        yield lab


def replicated(node: str, count: int) -> Any:
    def holds(seen: WeblogView) -> bool:
        return sum(each.replicated for each in seen.streams if each.node == node) >= count

    return holds


@looped
async def test_records_reach_both_nodes_and_a_client(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as lab:
        await lab.share(0, 500)
        await admitted(lab, lab.b)
        async with dialed(lab.folder, lab.b, lab.port) as client:
            welcome = await client.greet()
            assert (welcome.node, welcome.peer, welcome.pair) == ("b", "a", 7)
            assert [each.name for each in welcome.sources] == ["web"]
            own, other = lab.b.folder.own(), lab.a.folder.own()
            assert own is not None
            assert other is not None
            assert welcome.certificates == {
                "b": (own.certificate.der,),
                "a": (other.certificate.der,),
            }
            found = await client.until("a", 500)
            assert found == [b"record %d" % n for n in range(500)]
            lab.write(lab.a, "one more")
            assert (await client.until("a", 501))[-1] == b"one more"
            assert client.gaps == []
        await lab.until(lab.a, lambda seen: seen.replication.records == 501, "it is told so")
        assert (await lab.view(lab.b)).peer == "a"


@looped
async def test_the_survivor_has_what_was_replicated_and_the_dead_one_the_rest(
    tmp_path: Path,
) -> None:
    async with running_pair(tmp_path) as lab:
        await lab.share(0, 100)
        await lab.b.stop()
        lab.write(lab.a, *(f"record {n}" for n in range(100, 150)))
        await lab.until(
            lab.a, lambda seen: sum(each.durable for each in seen.streams) >= 150, "they are kept"
        )
        await lab.a.stop()
        lab.b.start()
        await lab.until(lab.b, lambda seen: seen.port, "b listens")
        await admitted(lab, lab.b)
        async with dialed(lab.folder, lab.b, lab.port) as client:
            await client.greet()
            assert await client.until("a", 100) == [b"record %d" % n for n in range(100)]
            lab.a.start()
            assert await client.until("a", 150) == [b"record %d" % n for n in range(150)]
            assert client.gaps == []


@looped
async def test_a_peer_that_was_silent_is_replicated_again_when_it_is_back(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logsite, "HANDSHAKE_S", 0.2)
        async with running_pair(tmp_path) as lab:
            await lab.share(0, 10)
            await lab.b.stop()
            # Who connects hears nothing: it ends by a time-out, again and again.
            with socket.create_server((lab.b.settings.listen, lab.port)):
                before = (await lab.view(lab.a)).counts.get("replication unreached", 0)
                seen = await lab.until(
                    lab.a,
                    lambda seen: seen.counts.get("replication unreached", 0) > before + 2,
                    "a tries again",
                )
                assert seen.replication.state == "away"
            patch.undo()
            lab.b.start()
            lab.write(lab.b, "on both")
            await lab.until(lab.b, replicated("b", 1), "a has what b logs")


@looped
async def test_a_damaged_end_comes_back_from_the_peer_and_nothing_is_there_twice(
    tmp_path: Path,
) -> None:
    async with running_pair(tmp_path) as lab:
        await lab.share(0, 60)
        await lab.share(60, 100)
        await lab.a.stop()
        (segment,) = (lab.a.root / "state/weblog/journal/a").glob("*.blocks")
        data = bytearray(segment.read_bytes())
        data[-10] ^= 1
        segment.write_bytes(data)
        lab.write(lab.a, *(f"record {n}" for n in range(100, 120)))
        lab.a.start()
        await admitted(lab, lab.b)
        async with dialed(lab.folder, lab.b, lab.port) as client:
            await client.greet()
            assert await client.until("a", 120) == [b"record %d" % n for n in range(120)]
            assert len([key for key in client.got if key[0] == "a"]) == 2, "another epoch"
        seen = await lab.view(lab.a)
        assert seen.counts["replicated restored"] >= 40
        assert seen.counts["own-cut times"] == 1
        await lab.a.stop()
        lab.write(lab.a, "one more")
        lab.a.start()
        await lab.until(lab.a, replicated("a", 121), "it goes on")
        assert (
            sum(each.durable for each in (await lab.view(lab.a)).streams if each.node == "a") == 121
        )


@looped
async def test_what_the_client_has_is_freed(tmp_path: Path) -> None:
    async with running_pair(tmp_path, size_mb=16) as lab:
        # Far more than a journal may hold: it only goes through if what is fetched is freed.
        whole = 200_000
        await admitted(lab, lab.a)
        await admitted(lab, lab.b)
        async with (
            dialed(lab.folder, lab.a, lab.port) as client,
            dialed(lab.folder, lab.b, lab.port) as other,
        ):
            await client.greet()
            await other.greet()
            lab.write(lab.a, *(f"{n:08d} {'x' * 100}" for n in range(whole)))
            deadline = time.monotonic() + 60
            while len(client.of("a")) < whole:
                assert time.monotonic() < deadline, await lab.view(lab.a)
                await client.pull()
                await client.acknowledge()
                other.got = client.got
                await other.acknowledge()
            found = client.of("a")
            assert found == [b"%08d %s" % (n, b"x" * 100) for n in range(whole)]
        seen = await lab.view(lab.a)
        assert seen.counts.get("own-dropped full", 0) == 0
        assert seen.counts["own-dropped acknowledged"] > 0


@looped
async def test_a_client_that_never_acknowledges_stops_nothing_but_reading(tmp_path: Path) -> None:
    async with running_pair(tmp_path, size_mb=16) as lab:
        await admitted(lab, lab.a)
        async with dialed(lab.folder, lab.a, lab.port) as client:
            await client.greet()
            lab.write(lab.a, *(f"{n:08d} {'x' * 1000}" for n in range(40_000)))
            seen = await lab.until(lab.a, lambda seen: seen.state == "refusing", "it is full")
            taken = seen.streams[-1].durable
            # It takes all that there is, over and over.
            for _ in range(2):
                client.got.clear()
                assert len(await client.until("a", 10_000)) < 20_000
            seen = await lab.view(lab.a)
            assert seen.clients[0].lag >= 10_000, "and is not taken to have it"
        assert "holds as much as it may" in seen.why
        assert seen.counts["own-refused full"] > 0
        assert seen.size <= 32 << 20
        assert seen.sources[0].behind > 1 << 20, "the rest waits in the file"
        await lab.until(lab.a, replicated("a", taken), "the peer has the rest all the same")


@looped
async def test_who_is_not_allowed_is_told_how_to_be(tmp_path: Path) -> None:
    async with logging_pair(tmp_path) as lab:
        lab.a.start()
        await lab.until(lab.a, lambda seen: seen.port, "a listens")
        stranger = client_folder(tmp_path, "stranger")
        said = await introduced(stranger, lab.a, lab.port)
        assert isinstance(said, Problem)
        assert said.code == "not_allowed"
        assert f"twinbeat weblog allow stranger {fingerprint(stranger)}" in said.sentence
        (shown,) = (await lab.view(lab.a)).strangers
        assert (shown.name, shown.fingerprint) == ("stranger", fingerprint(stranger))
        with pytest.raises((WireError, OSError)):
            async with dialed(stranger, lab.a, lab.port) as client:
                await client.greet()
        async with dialed(lab.folder, lab.a, lab.port, shown=False) as client:
            await client.say(Hello(versions=(1, 1), name="x"))
            said = await client.hear()
            assert isinstance(said, Problem)
            assert said.code == "not_allowed"
        peer = lab.a.folder.trusted()[0]
        assert hashlib.sha256(peer.der).hexdigest() not in (await lab.view(lab.a)).counts


@looped
async def test_hostile_clients_change_nothing(tmp_path: Path) -> None:
    async with logging_pair(tmp_path) as lab:
        lab.a.start()
        await lab.until(lab.a, lambda seen: seen.port, "a listens")
        await admitted(lab, lab.a)
        hostile = [
            (b"\xff\xff\xff\xff", "oversized"),
            (framed(b"\xc1"), "malformed"),
            (framed(CODEC.encode(Hello(versions=(1, 1), name="again"))), "malformed"),
        ]
        for data, code in hostile:
            async with dialed(lab.folder, lab.a, lab.port) as client:
                await client.greet()
                client.writer.write(data)
                said = await client.hear()
                assert isinstance(said, Problem), said
                assert said.code == code
        async with dialed(lab.folder, lab.a, lab.port) as client:
            await client.say(Hello(versions=(9, 9), name="later"))
            assert (await client.hear()).code == "version"
        with socket.create_connection((lab.a.settings.listen, lab.port)) as plain:
            plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        idle = [socket.create_connection((lab.a.settings.listen, lab.port)) for _ in range(20)]
        lab.write(lab.a, "all the same")
        async with dialed(lab.folder, lab.a, lab.port) as client:
            await client.greet()
            assert await client.until("a", 1) == [b"all the same"]
            flood = framed(CODEC.encode(Pull(cursors=(), wait_ms=60_000))) * 50
            client.writer.write(flood)
            for each in idle:
                each.close()
        counts = (await lab.view(lab.a)).counts
        assert counts["refused crowded"] > 0
        assert counts["ended malformed"] >= 2


@looped
async def test_who_shows_no_certificate_keeps_nobody_out(tmp_path: Path) -> None:
    async with logging_pair(tmp_path) as lab, contextlib.AsyncExitStack() as stack:
        lab.a.start()
        await lab.until(lab.a, lambda seen: seen.port, "a listens")
        assert isinstance(await introduced(lab.folder, lab.a, lab.port), Introduced)
        crowd = [
            await stack.enter_async_context(dialed(lab.folder, lab.a, lab.port, shown=False))
            for _ in range(logdoor.CONNECTIONS_MAX + 1)
        ]
        assert (await crowd[-1].hear()).code == "crowded"
        async with dialed(lab.folder, lab.a, lab.port) as client:
            await client.greet()


@looped
async def test_a_client_that_is_denied_is_cut_off(tmp_path: Path) -> None:
    async with logging_pair(tmp_path) as lab:
        lab.a.start()
        await lab.until(lab.a, lambda seen: seen.port, "a listens")
        await admitted(lab, lab.a)
        async with dialed(lab.folder, lab.a, lab.port) as client:
            await client.greet()
            wish = Edit(changes=(Remove(section="logclient", identity=NAME),))
            await lab.a.ask_for(wish)
            said = await client.hear()
            assert isinstance(said, Problem)
            assert said.code == "denied"


@looped
async def test_a_node_with_another_certificate_is_not_replicated(tmp_path: Path) -> None:
    async with logging_pair(tmp_path) as lab:
        own = client_folder(tmp_path, "intruder")
        certificate = lab.a.folder.own()
        assert certificate is not None
        own.trust(certificate.certificate)
        lab.a.start()
        await lab.until(lab.a, lambda seen: seen.port, "a listens")
        credentials = Cabinet(own, protocol=PROTOCOL).credentials()
        assert credentials is not None
        connected = await reached(lab.a.settings.listen, lab.port)
        reader, writer = await secured(connected, credentials.client, dialed=True, within_s=60.0)
        with pytest.raises((WireError, OSError)):
            await read_frame(reader)
        writer.close()
        seen = await lab.until(
            lab.a, lambda seen: seen.counts.get("refused certificate"), "it was refused"
        )
        assert not any(each.node == "b" for each in seen.streams)


@looped
async def test_what_is_not_wanted_any_more_ends_though_it_has_only_begun(tmp_path: Path) -> None:
    """Two of them would write the same journals."""
    async with logging_pair(tmp_path) as lab:
        lab.a.start()
        await lab.until(lab.a, lambda seen: seen.port, "a listens")
        assert lab.a.worker is not None
        weblog = lab.a.worker._weblog
        wanted = weblog._wanted
        assert wanted is not None
        await weblog._adjust(None)
        await weblog._adjust(replace(wanted, node="elsewhere"))
        await weblog._adjust(wanted)
        assert [each.name for each in threading.enumerate()].count("weblog") == 1
