# SPDX-License-Identifier: Apache-2.0
"""conntrackd: the file that is made for it, what it prints, and when it runs and is told what."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from twinbeat.sessions import conntrackd, strays
from twinbeat.sessions.connections import (
    AWAY_S,
    BACK_OFF_S,
    FILL_MOST_S,
    HUNG_S,
    SETTLE_S,
    SILENT_S,
    STEADY_S,
    TRICKLE,
    ConnectionSettings,
    Course,
    Order,
    Phase,
    Seen,
)
from twinbeat.sessions.keeper import Keeper
from unit.namespace import fresh_namespace

SETTINGS = ConnectionSettings(
    enabled=True,
    protocols=("tcp", "udp", "icmp6"),
    ignore=("169.254.10.1", "169.254.10.2", "10.0.0.0/8", "fd00::/8", "fd77::1"),
    interface="ha0",
    local="169.254.10.1",
    peer="169.254.10.2",
    vips=("10.77.0.10", "fd77::10", "10.88.0.10"),
)

GENERAL = """\
cache internal:
current active connections:\t           3
connections created:\t\t           7\tfailed:\t           0
connections updated:\t\t           0\tfailed:\t           0
connections destroyed:\t\t           4\tfailed:\t           0

external inject:
connections created:\t\t          20\tfailed:\t           1
connections updated:\t\t           5\tfailed:\t           2
connections destroyed:\t\t           6\tfailed:\t           3

traffic processed:
                   0 Bytes                         0 Pckts

UDP traffic (active device=ha0):
                 268 Bytes sent                   24 Bytes recv
                   4 Pckts sent                    2 Pckts recv
                   8 Error send                    9 Error recv

message tracking:
                  10 Malformed msgs                   11 Lost msgs

"""
QUEUE = """\
allocated queue nodes:\t\t           0

queue txqueue:
current elements:\t\t           1
maximum elements:\t\t  2147483647
not enough space errors:\t           2

queue rsqueue:
current elements:\t\t          37
maximum elements:\t\t      131072
not enough space errors:\t           5

"""
KERNEL = """\
cpu=0   \tfound=0 invalid=0 insert=3 insert_failed=0 drop=1 early_drop=4 error=0
cpu=1   \tfound=0 invalid=0 insert=0 insert_failed=9 drop=2 early_drop=5 error=0
"""


# -- its file, and nftables ----------------------------------------------------------------------


def test_the_file_says_what_the_configuration_says() -> None:
    text = conntrackd.configuration(SETTINGS, Path("/run/twinbeat"))
    for line in (
        "DisableExternalCache yes",
        "IPv4_address 169.254.10.1",
        "IPv4_Destination_Address 169.254.10.2",
        "IPv4_address 10.0.0.0/8",
        "IPv6_address fd00::/8",
        "IPv6_address fd77::1",
        "IPv6-ICMP",
        "HashLimit 262144",
        "HashSize 65536",
        "LockFile /run/twinbeat/conntrackd.lock",
    ):
        assert line in [part.strip() for part in text.splitlines()], line
    assert text.count("{") == text.count("}")


def read_by_conntrackd(file: Path) -> str:
    """Its complaints: a client command reads the whole file before it looks for the daemon."""
    said = subprocess.run(
        ["/usr/sbin/conntrackd", "-C", str(file), "-s"], capture_output=True, text=True, check=False
    )
    return said.stdout + said.stderr


def test_conntrackd_itself_takes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "conntrackd.conf"
    for settings in (SETTINGS, ipv6()):
        file.write_text(conntrackd.configuration(settings, tmp_path))
        *before, last = read_by_conntrackd(file).splitlines()
        assert "can't connect: is conntrackd running" in last
        assert [line for line in before if "ha0 is an invalid interface" not in line] == []
    file.write_text(file.read_text().replace("HashLimit", "HashLimt"))
    assert "HashLimt" in read_by_conntrackd(file)


def ipv6() -> ConnectionSettings:
    return ConnectionSettings(
        enabled=True, protocols=("tcp",), interface="ha0", local="fdaa::1", peer="fdaa::2"
    )


@pytest.mark.privileged
@pytest.mark.parametrize("drop", [True, False])
def test_nftables_takes_the_rules(tmp_path: Path, drop: bool) -> None:
    from msgspec.structs import replace

    for settings in (replace(SETTINGS, drop_strays=drop), ipv6()):
        rules, none = tmp_path / "rules", tmp_path / "none"
        rules.write_text(strays.rules(settings))
        none.write_text(strays.none())
        command = f"nft -f {rules} && nft -f {rules} && nft -j list counters && nft -f {none}"
        command += f" && nft -f {none} && nft list tables"
        said = subprocess.run(
            ["unshare", "-n", "sh", "-c", command], capture_output=True, text=True, check=False
        )
        assert said.returncode == 0, said.stderr
        counters, *tables = said.stdout.splitlines()
        for name in strays.COUNTERS:
            assert f'"name": "{name}"' in counters
        assert f"table inet {strays.TABLE}" not in tables


# -- what it prints ------------------------------------------------------------------------------


def test_what_it_prints_is_understood() -> None:
    tracked, counts = conntrackd.general(GENERAL)
    assert tracked == 3
    assert counts == {
        "installed": 31,
        "install_failed": 6,
        "sent_bytes": 268,
        "received_bytes": 24,
        "sent_packets": 4,
        "received_packets": 2,
        "send_errors": 8,
        "receive_errors": 9,
        "malformed": 10,
        "lost": 11,
    }
    assert conntrackd.queue(QUEUE) == (37, {"resent_full": 5})
    assert conntrackd.runtime("\tnetlink overrun:\t\t           6\n") == {"overruns": 6}
    assert conntrackd.kernel(KERNEL) == {"early_dropped": 9, "table_full": 3}


@pytest.mark.parametrize("text", ["", "can't connect: is conntrackd running?", GENERAL[:25]])
def test_what_it_doesn_t_print_isn_t_made_up(text: str) -> None:
    assert conntrackd.general(text) == (None, {})
    assert conntrackd.runtime(text) == {}
    assert conntrackd.queue(text) == (0, {})
    assert conntrackd.kernel(text) == {}


# -- its course ----------------------------------------------------------------------------------


class Bench:
    """A course with a clock of its own, and conntrackd as it would be."""

    def __init__(self) -> None:
        self.course = Course()
        self.now_s = 100.0
        self.primary: bool | None = False
        self.peer_alive = self.enabled = True
        self.running = False
        self.received = self.installed = 0
        self.hears = True

    def look(self, seconds: float = 1.0) -> Order | None:
        """A second passes; what conntrackd is told then."""
        self.now_s += seconds
        seen = self.seen()
        wanted = self.course.wanted(seen)
        if self.running and (not wanted or self.course.stale):
            self.running = False
        if wanted and not self.running:
            self.running, self.received, self.installed = True, 0, 0
            self.course.started(self.now_s)
            return None
        if not self.running:
            return None
        self.received += self.hears
        return self.course.due(self.seen(), 60)

    def seen(self) -> Seen:
        return Seen(
            now_s=self.now_s,
            primary=self.primary,
            peer_alive=self.peer_alive,
            enabled=self.enabled,
            running=self.running,
            answers=self.running,
            received=self.received,
            installed=self.installed,
        )

    @property
    def phase(self) -> Phase:
        return self.course.phase


def synced(*, primary: bool) -> Bench:
    bench = Bench()
    bench.primary = primary
    for _ in range(6):
        bench.look()
    assert bench.phase is Phase.SYNCED
    return bench


def test_a_secondary_forgets_and_asks_once_the_peer_is_heard() -> None:
    bench = Bench()
    bench.hears = False
    assert bench.look() is None
    assert bench.phase is Phase.STARTING
    assert bench.look() is Order.FORGET
    assert bench.look() is None
    assert bench.phase is Phase.UNHEARD
    bench.hears = True
    assert bench.look() is Order.ASK
    assert bench.phase is Phase.FILLING
    bench.installed = 5000
    assert bench.look() is None
    assert bench.phase is Phase.FILLING
    assert bench.look(SETTLE_S) is None
    assert bench.phase is Phase.SYNCED
    assert bench.course.filled_s == 1.0
    assert [bench.look() for _ in range(200)] == [None] * 200


@pytest.mark.parametrize(
    ("rates", "until_s"),
    [
        ([5] * 30, 2),
        ([TRICKLE - 1] * 30, 2),
        ([9000, 9000, 9000, 30, 30], 4),
        ([9000, 9000, 9000, 9000, 9000, 4000, 4000], 6),
        ([5000] * 30, FILL_MOST_S),
    ],
)
def test_a_filling_ends_whatever_news_come_meanwhile(rates: list[int], until_s: float) -> None:
    bench = Bench()
    orders = [bench.look() for _ in range(3)]
    assert orders[-1] is Order.ASK
    passed = 0
    for rate in rates:
        bench.installed += rate
        bench.look()
        passed += 1
        if bench.phase is Phase.SYNCED:
            break
    assert passed == until_s


def test_a_primary_tells_anew_from_time_to_time_and_not_at_its_start() -> None:
    bench = Bench()
    bench.primary = True
    orders = [bench.look() for _ in range(130)]
    assert [at for at, order in enumerate(orders) if order] == [61, 121]
    assert {order for order in orders if order} == {Order.TELL}


def test_who_comes_to_serve_while_the_peer_is_there_reads_its_kernel_anew() -> None:
    bench = synced(primary=False)
    bench.primary = True
    assert bench.look() is Order.TELL
    assert bench.look() is None


def test_who_serves_no_more_begins_anew() -> None:
    bench = synced(primary=True)
    bench.primary = False
    assert bench.look() is None
    assert bench.phase is Phase.STARTING
    assert [bench.look() for _ in range(2)] == [Order.FORGET, Order.ASK]


def test_nobody_is_told_anything_while_the_peer_is_away() -> None:
    """After a death the survivor has the state in its kernel, and nothing to do about it."""
    bench = synced(primary=False)
    bench.primary, bench.peer_alive, bench.hears = True, False, False
    assert bench.look() is None
    assert bench.running
    bench.look(AWAY_S)
    assert not bench.running
    assert bench.phase is Phase.ALONE
    bench.peer_alive = bench.hears = True
    bench.look()
    assert bench.running
    assert [bench.look() for _ in range(30)] == [None] * 30
    assert bench.phase is Phase.SYNCED


def test_a_silence_of_the_peer_s_conntrackd_is_followed_by_another_filling() -> None:
    bench = synced(primary=False)
    bench.hears = False
    for _ in range(int(SILENT_S) + 1):
        assert bench.look() is None
    assert bench.phase is Phase.UNHEARD
    bench.hears = True
    assert bench.look() is Order.ASK


def test_without_a_role_nothing_runs_and_a_daemon_that_restarts_ends_nothing() -> None:
    bench = Bench()
    bench.primary = None
    bench.look()
    assert not bench.running
    bench = synced(primary=True)
    bench.primary, bench.peer_alive = None, False
    bench.look()
    assert bench.running
    bench.primary, bench.peer_alive = True, True
    assert [bench.look() for _ in range(3)] == [None] * 3
    assert bench.running


def test_one_that_ends_by_itself_is_started_ever_later_and_says_why() -> None:
    bench = Bench()
    course = bench.course
    for wait_s in (*BACK_OFF_S, BACK_OFF_S[-1]):
        bench.look(0.01)
        assert bench.running
        bench.running = False
        course.ended(bench.now_s, "it ended with 1: no such device")
        bench.look(wait_s - 0.02)
        assert not bench.running
        assert course.phase is Phase.FAILED
        assert "no such device" in course.sentence
        bench.now_s += 0.02
    bench.look(0.01)
    assert bench.running
    bench.now_s += STEADY_S
    bench.running = False
    course.ended(bench.now_s, "again")
    bench.look(BACK_OFF_S[0])
    assert bench.running


def test_one_that_cannot_even_be_started_is_tried_ever_later() -> None:
    """As where its package is missing; ``ended`` without ``started``."""
    course, now_s = Course(), 10 * STEADY_S
    for wait_s in (*BACK_OFF_S, BACK_OFF_S[-1]):
        seen = Seen(now_s=now_s, primary=True, peer_alive=True, enabled=True, running=False)
        assert course.wanted(seen)
        course.ended(now_s, "conntrackd is not installed")
        assert not course.wanted(replace(seen, now_s=now_s + wait_s - 0.01))
        now_s += wait_s


@pytest.mark.privileged
def test_a_table_that_somebody_takes_away_is_made_again(tmp_path: Path) -> None:
    """Whoever restarts Debian's nftables.service empties all of nftables."""

    def stands() -> bool:
        listed = ["nft", "list", "table", "inet", strays.TABLE]
        return subprocess.run(listed, check=False, capture_output=True).returncode == 0

    def flush() -> None:
        subprocess.run(["nft", "flush", "ruleset"], check=True)

    async def until_it_stands() -> None:
        async with asyncio.timeout(60):
            while not stands():  # noqa: ASYNC110 - what is waited for is the code under test
                await asyncio.sleep(0.05)

    async def work() -> None:
        keeper = Keeper(tmp_path)
        keeper.configure(SETTINGS)
        running = asyncio.create_task(keeper.run())
        try:
            await until_it_stands()
            flush()
            await until_it_stands()
            brief = keeper.brief()
            assert brief is not None
            assert brief.strays_dropped
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    with fresh_namespace():
        asyncio.run(work())


def test_one_that_answers_nothing_is_hung_and_one_that_does_never() -> None:
    bench = synced(primary=True)
    assert not bench.course.hung(bench.now_s + HUNG_S - 1)
    assert bench.course.hung(bench.now_s + HUNG_S)
    for _ in range(100):
        bench.look()
        assert not bench.course.hung(bench.now_s)
    bench.course.started(bench.now_s)
    assert not bench.course.hung(bench.now_s + HUNG_S - 1)


def test_switched_off_it_is_off() -> None:
    bench = synced(primary=False)
    bench.enabled = False
    bench.look()
    assert not bench.running
    assert bench.phase is Phase.OFF
    assert "connect anew" in bench.course.sentence
