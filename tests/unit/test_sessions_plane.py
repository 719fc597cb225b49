# SPDX-License-Identifier: Apache-2.0
"""The kernel's table: rules of every kind are taken, packets make entries, and both sides agree."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from twinbeat.sessions import plane as plane_module
from twinbeat.sessions.entries import Origin, Reason, Store
from twinbeat.sessions.keys import Seen, shown
from twinbeat.sessions.plane import MissingError, Plane, now_ns
from twinbeat.sessions.rules import Persistence, Pool
from twinbeat.sessions.ruleset import Present
from unit.namespace import fresh_namespace, ip

pytestmark = pytest.mark.privileged

FAR = "tbs-far"
S = 1_000_000_000
CLIENTS = [f"198.18.0.{number}" for number in range(1, 6)]
POOL = Pool(name="web", servers=("10.88.0.21", "10.88.0.22", "fd88::21", "fd88::22"), probe="none")
HTTP = Persistence(
    name="http", vips=("192.0.2.10", "192.0.2.128/25"), port=80, pool="web", timeout_s=60, limit=100
)
KINDS = (
    HTTP,
    replace(HTTP, name="net", kind="source-prefix", port=81),
    replace(HTTP, name="both", kind="source-destination", port=82, protocol="udp"),
    replace(HTTP, name="six", vips=("2001:db8::10",)),
    replace(HTTP, name="six-net", kind="source-prefix", vips=("2001:db8::10",), port=81),
)


MADE: list[Node] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Every node's sockets are closed when its test is over."""
    yield
    while MADE:
        MADE.pop().plane.close()


class Node:
    """A store and its plane, with these rules in force."""

    def __init__(self, *rules: Persistence) -> None:
        self.store = Store()
        self.plane = Plane(self.store)
        self.rules = {rule.name: rule for rule in rules}
        MADE.append(self)

    async def make(self, pool: Pool = POOL, failed: frozenset[str] = frozenset()) -> None:
        self.store.configure(self.rules.values())
        await self.plane.configure(self.rules, {"web": pool}, {"web": failed})


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(100):
            await work()

    with fresh_namespace():
        asyncio.run(bounded())


def nft(*arguments: str) -> str:
    return subprocess.run(
        ["nft", *arguments], check=True, capture_output=True, text=True, timeout=60
    ).stdout


def test_rules_of_every_kind_are_taken_and_kept_alike() -> None:
    async def work() -> None:
        for balance in ("hash", "round-robin", "random"):
            node = Node(*KINDS)
            pool = replace(POOL, balance=balance, port=8080)
            await node.make(pool)
            before = nft("list", "ruleset")
            await node.make(pool)
            assert nft("list", "ruleset") == before
            await node.make(pool, failed=frozenset({"10.88.0.21", "fd88::22"}))
            after = nft("list", "ruleset")
            assert "10.88.0.21" not in after
            assert "fd88::22" not in after
            await node.make(pool, failed=frozenset({"10.88.0.21", "10.88.0.22"}))
            assert "10.88.0.21" in nft("list", "ruleset"), "where all fail all are tried"
            node.rules = {}
            await node.make(pool)
            assert nft("list", "ruleset") == ""

    run(work)


def test_what_is_written_is_read_again_by_another_worker() -> None:
    async def work() -> None:
        node = Node(*KINDS)
        await node.make()
        sizes = {"http": 4, "net": 4, "both": 8, "six": 16, "six-net": 16}
        for name, size in sizes.items():
            table = node.store.table(name)
            server = POOL.of(table.rule.version)[0]
            for number in range(100):
                table.put(number.to_bytes(size), server, now_ns(), origin=Origin.PEER)
                lifetime_ns = (20 + number % 40) * S
                table.put(number.to_bytes(size), server, now_ns(), lifetime_ns=lifetime_ns)
        assert not node.plane.flush()
        other = Node(*KINDS)
        await other.make()
        await other.plane.reload(restore=False)
        for name in sizes:
            mine, theirs = node.store.table(name), other.store.table(name)
            assert set(mine.keys()) == set(theirs.keys())
            assert mine.servers == theirs.servers
            for key in theirs.keys():  # noqa: SIM118
                entry = theirs.get(key, now_ns())
                assert entry is not None
                left = entry.remaining_ns(now_ns())
                assert 0 <= (20 + int.from_bytes(key) % 40) * S - left < 10 * S
        assert node.plane.kernel_counts["refused"] == 0

    run(work)


def test_what_is_left_is_written_and_read_though_the_timeout_is_a_shorter_one() -> None:
    async def work() -> None:
        short = replace(HTTP, timeout_s=3)
        node, other = Node(short), Node(short)
        await node.make()
        key, server = bytes((198, 18, 0, 1)), POOL.of(4)[0]
        node.store.table("http").put(key, server, now_ns(), lifetime_ns=500 * S, origin=Origin.PEER)
        node.plane.flush()
        await other.make()
        await other.plane.reload(restore=False)
        entry = other.store.table("http").get(key, now_ns())
        assert entry is not None
        assert 400 * S < entry.remaining_ns(now_ns()) <= 500 * S
        # And it is written again where it got lost, though it ends later than a new one would.
        nft("flush", "map", "inet", "twinbeat_sessions", "p_http.source4-32.100")
        await node.plane.reload(restore=True)
        assert node.plane.counts["restored"] == 1

    run(work)


def test_changes_are_written_whatever_the_kernel_has() -> None:
    async def work() -> None:
        node = Node(HTTP)
        await node.make()
        table, name = node.store.table("http"), "p_http.source4-32.100"
        keys = [bytes((198, 18, 0, number)) for number in range(10)]
        for key in keys:
            table.put(key, "10.88.0.21", now_ns(), origin=Origin.PEER)
        node.plane.flush()
        # Somebody took some away, and put in one that is bound otherwise.
        at = ("inet", "twinbeat_sessions", name)
        nft("delete", "element", *at, "{ 198.18.0.1, 198.18.0.2 }")
        nft("add", "element", *at, "{ 198.18.0.77 timeout 30s : 10.88.0.22 }")
        table.put(keys[1], "10.88.0.22", now_ns(), origin=Origin.PEER)
        table.delete(keys[2], now_ns())
        table.delete(keys[3], now_ns())
        table.put(bytes((198, 18, 0, 77)), "10.88.0.21", now_ns(), origin=Origin.PEER)
        node.plane.flush()
        there = nft("list", "map", *at)
        assert "198.18.0.1 timeout" in there
        assert "198.18.0.3 " not in there
        moved = there[there.index("198.18.0.77") :].splitlines()[0]
        assert "10.88.0.21" in moved.split(",")[0]
        assert node.plane.kernel_counts["refused"] == 0

    run(work)


def test_what_changes_while_a_map_is_read_is_not_taken_back() -> None:
    """The kernel has each part ready before it is asked for it."""
    count = 5000

    async def work() -> None:
        node = Node(replace(HTTP, limit=count))
        await node.make()
        table = node.store.table("http")
        keys = [number.to_bytes(4) for number in range(count)]

        async def written() -> None:
            more = True
            while more:
                more = node.plane.flush()
                await asyncio.sleep(0)

        for key in keys:
            table.put(key, "10.88.0.21", now_ns(), origin=Origin.PEER)
        await written()
        reading = asyncio.create_task(node.plane.reload(restore=True))
        await asyncio.sleep(0)
        # The first part was read, and the second one is ready.
        for number, key in enumerate(keys):
            if number % 2:
                table.delete(key, now_ns(), reason=Reason.EVICTED)
            else:
                table.put(key, "10.88.0.22", now_ns())
        await written()
        await reading
        assert node.plane.counts["repaired"] == 0
        assert table.servers == {"10.88.0.22": count // 2}
        other = Node(replace(HTTP, limit=count))
        await other.make()
        await other.plane.reload(restore=False)
        assert other.store.table("http").servers == table.servers

    run(work)


def test_what_is_there_is_known_as_nft_lists_it() -> None:
    """`nft` is not asked, as it reads all elements whatever it is to list."""

    async def work() -> None:
        node = Node(*KINDS)
        assert node.plane.present() == Present()
        nft("add", "table", "inet", "somebody")
        nft("add", "counter", "inet", "somebody", "theirs")
        assert node.plane.present() == Present()
        await node.make(replace(POOL, balance="round-robin"))
        listed = json.loads(nft("-j", "list", "table", "inet", "twinbeat_sessions"))["nftables"]

        def named(what: str) -> frozenset[str]:
            return frozenset(each[what]["name"] for each in listed if what in each)

        assert node.plane.present() == Present(
            table=True, maps=named("map"), chains=named("chain"), counters=named("counter")
        )
        assert len(named("map")) == len(named("counter")) == len(KINDS)

    run(work)


def test_another_limit_keeps_the_entries() -> None:
    async def work() -> None:
        node = Node(HTTP)
        await node.make()
        for number in range(50):
            node.store.table("http").put(
                number.to_bytes(4), "10.88.0.21", now_ns(), origin=Origin.PEER
            )
        node.plane.flush()
        node.rules["http"] = replace(HTTP, limit=200, timeout_s=100)
        await node.make()
        listed = nft("list", "table", "inet", "twinbeat_sessions")
        assert "p_http.source4-32.100 " not in listed
        other = Node(node.rules["http"])
        await other.make()
        await other.plane.reload(restore=False)
        assert len(other.store.table("http")) == 50

    run(work)


@pytest.mark.parametrize("without", ["net_admin", "chown"])
def test_who_may_not_ask_for_tables_has_none_to_remove(without: str) -> None:
    """As where the package is taken out of a container."""
    done = subprocess.run(
        [
            *("unshare", "--net", "env", "LC_ALL=C", "setpriv", f"--bounding-set=-{without}"),
            *(f"--inh-caps=-{without}", sys.executable, "-m", "twinbeat.worker.main", "--remove"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("nft may not be asked here" in done.stderr) is (without == "net_admin")


def test_the_table_goes_when_it_is_told_to() -> None:
    async def work() -> None:
        nft("add", "table", "inet", "somebody")
        await Node(HTTP).make()
        await plane_module.remove()
        await plane_module.remove()
        assert nft("list", "tables").split("\n") == ["table inet somebody", ""]

    run(work)


# ---------------------------------------------------------------------------- packets ------------


@contextlib.contextmanager
def clients() -> Iterator[None]:
    """This namespace is a gateway with both servers in it; another one has the clients."""
    with fresh_namespace():
        with contextlib.suppress(AssertionError):
            ip(f"netns del {FAR}")
        ip(f"netns add {FAR}")
        try:
            ip("link add near type veth peer name far")
            ip(f"link set far netns {FAR}")
            ip("link set near up")
            ip("addr add 192.0.2.10/32 dev near")
            ip("addr add 10.88.0.21/32 dev lo")
            ip("addr add 10.88.0.22/32 dev lo")
            ip("route add 198.18.0.0/24 dev near")
            inside = f"-n {FAR}"
            ip(f"{inside} link set far up")
            ip(f"{inside} link set lo up")
            ip(f"{inside} addr add 198.18.0.1/24 dev far")
            for client in CLIENTS[1:]:
                ip(f"{inside} addr add {client}/32 dev far")
            ip(f"{inside} route add 192.0.2.0/24 dev far")
            yield
        finally:
            ip(f"netns del {FAR}")


@contextlib.contextmanager
def servers() -> Iterator[list[tuple[str, str]]]:
    """Both servers; what they saw: client and server."""
    seen: list[tuple[str, str]] = []
    listeners = [socket.create_server((server, 80)) for server in POOL.of(4)]

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, (client, _) = listener.accept()
                seen.append((client, connection.getsockname()[0]))
                connection.close()

    threads = [threading.Thread(target=serve, args=(each,), daemon=True) for each in listeners]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        for listener in listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in threads:
            thread.join(5)


def ask(client: str) -> None:
    """A new connection of a client, from the other namespace, until the server hangs up."""
    program = (
        "import socket,sys\n"
        "s = socket.create_connection(('192.0.2.10', 80), 5, (sys.argv[1], 0))\n"
        "s.recv(1)"
    )
    command = ["ip", "netns", "exec", FAR, "/usr/bin/python3", "-c", program, client]
    subprocess.run(command, check=True, timeout=60, capture_output=True)


def learned(node: Node) -> int:
    heard, whole = node.plane.learn()
    assert whole
    return heard


def test_a_client_stays_with_its_server_and_is_learned_of() -> None:
    async def work() -> None:
        node = Node(replace(HTTP, timeout_s=60))
        await node.make(replace(POOL, balance="round-robin"))
        node.plane.attend(on=True)
        table = node.store.table("http")
        with servers() as seen:
            for client in CLIENTS * 2:
                await asyncio.to_thread(ask, client)
        assert learned(node) >= 2 * len(CLIENTS)
        assert {shown(HTTP, key) for key in table.keys()} == set(CLIENTS)  # noqa: SIM118
        assert (table.counts["created"], table.counts["refreshed"]) == (5, 5)
        by_client = dict(seen)
        assert seen == [(client, by_client[client]) for client in CLIENTS * 2]
        assert set(by_client.values()) == set(POOL.of(4))
        for client in CLIENTS:
            entry = table.get(socket.inet_aton(client), now_ns())
            assert entry is not None
            assert entry.server == by_client[client]
        # Whoever asks the kernel is told the same, and of nothing that wasn't heard of.
        await node.plane.reload(restore=True)
        assert node.plane.counts["repaired"] == node.plane.counts["restored"] == 0

    with clients():
        asyncio.run(asyncio.wait_for(work(), 110))


def test_entries_from_elsewhere_are_followed_and_missed_news_are_made_up_for() -> None:
    async def work() -> None:
        node = Node(HTTP)
        await node.make()
        table = node.store.table("http")
        wanted = {client: POOL.of(4)[number % 2] for number, client in enumerate(CLIENTS)}
        for client, server in wanted.items():
            table.put(socket.inet_aton(client), server, now_ns(), origin=Origin.PEER)
        node.plane.flush()
        with servers() as seen:
            for client in CLIENTS:
                await asyncio.to_thread(ask, client)
        assert dict(seen) == wanted
        # Nobody followed the connections: another worker finds what they made.
        other = Node(HTTP)
        await other.make()
        await other.plane.reload(restore=False)
        assert other.store.table("http").servers == table.servers
        # What was flushed behind our back is written again.
        nft("flush", "map", "inet", "twinbeat_sessions", "p_http.source4-32.100")
        for key, entry in list(table.items(now_ns())):
            table.put(key, entry.server, now_ns(), lifetime_ns=40 * S, origin=Origin.KERNEL)
        await node.plane.reload(restore=True)
        assert node.plane.counts["restored"] == len(CLIENTS)
        node.plane.flush()
        await other.plane.reload(restore=False)
        assert len(other.store.table("http")) == len(CLIENTS)

    with clients():
        asyncio.run(asyncio.wait_for(work(), 110))


def test_a_map_without_room_is_served_without_an_entry_and_counted() -> None:
    async def work() -> None:
        node = Node(replace(HTTP, limit=16))
        await node.make()
        name = "p_http.source4-32.16"
        size = 16 + 2 + 1024
        elements = ", ".join(
            f"10.{number >> 8}.{number & 255}.1 timeout 60s : 10.88.0.21" for number in range(size)
        )
        nft("add", "element", "inet", "twinbeat_sessions", name, f"{{ {elements} }}")
        with servers() as seen:
            await asyncio.to_thread(ask, CLIENTS[0])
        assert [client for client, _ in seen] == [CLIENTS[0]]
        assert node.plane.full() == {"http": 1}
        await node.plane.reload(restore=False)
        assert len(node.store.table("http")) == 16
        assert node.store.table("http").counts[Reason.EVICTED] == size - 16
        more = True
        while more:
            more = node.plane.flush()
        with servers() as seen:
            await asyncio.to_thread(ask, CLIENTS[0])
        assert node.plane.full() == {"http": 1}, "the oldest made room"

    with clients():
        asyncio.run(asyncio.wait_for(work(), 110))


def test_news_of_others_are_no_concern_of_ours() -> None:
    async def work() -> None:
        node = Node(HTTP)
        await node.make()
        client, vip = socket.inet_aton(CLIENTS[0]), socket.inet_aton("192.0.2.10")
        ours = socket.inet_aton("10.88.0.21")
        take = node.plane._take
        take(Seen(6, 80, client, vip, socket.inet_aton("10.99.0.1")), now_ns())
        take(Seen(17, 80, client, vip, ours), now_ns())
        take(Seen(6, 80, client, socket.inet_aton("192.0.2.11"), ours), now_ns())
        assert len(node.store.table("http")) == 0
        assert node.plane.counts["foreign"] == 1
        take(Seen(6, 80, client, socket.inet_aton("192.0.2.200"), ours), now_ns())
        assert len(node.store.table("http")) == 1

    run(work)


def test_news_that_are_older_than_what_is_to_be_written_change_nothing() -> None:
    async def work() -> None:
        node = Node(HTTP)
        await node.make()
        table, key = node.store.table("http"), socket.inet_aton(CLIENTS[0])
        seen = Seen(6, 80, key, socket.inet_aton("192.0.2.10"), socket.inet_aton("10.88.0.21"))
        take = node.plane._take
        take(seen, now_ns())
        # Bound anew, and not written yet: the connection was made before.
        table.put(key, "10.88.0.22", now_ns())
        take(seen, now_ns())
        assert table.servers == {"10.88.0.22": 1}
        node.plane.flush()
        # Taken out, and not written yet: a packet makes it again.
        table.delete(key, now_ns())
        take(seen, now_ns())
        node.plane.flush()
        assert CLIENTS[0] in nft("list", "ruleset")
        assert table.servers == {"10.88.0.21": 1}

    run(work)


def test_counters_are_read_while_a_map_is() -> None:
    """The kernel reads out one thing at a time over one socket."""

    async def work() -> None:
        node = Node(replace(HTTP, limit=5000))
        await node.make()
        table = node.store.table("http")
        for number in range(5000):
            table.put((0x0A000000 + number).to_bytes(4), "10.88.0.21", now_ns())
        while node.plane.flush():
            pass
        reading = asyncio.create_task(node.plane.reload(restore=False, pause_s=30))
        await asyncio.sleep(0)
        assert not reading.done()
        assert node.plane.full() == {"http": 0}
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    run(work)


def test_a_table_that_somebody_took_away_is_missed_and_made_again_with_its_entries() -> None:
    async def work() -> None:
        node = Node(*KINDS)
        await node.make()
        node.store.table("http").put(socket.inet_aton("192.0.2.1"), "10.88.0.22", now_ns())
        while node.plane.flush():
            pass
        before = nft("-t", "list", "ruleset")
        nft("flush", "ruleset")
        with pytest.raises(MissingError):
            node.plane.full()
        await node.make()
        assert nft("-t", "list", "ruleset") == before
        assert "192.0.2.1" in nft("list", "ruleset")
        assert set(node.plane.full()) == {rule.name for rule in KINDS}

    run(work)
