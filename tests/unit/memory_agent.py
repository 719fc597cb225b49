# SPDX-License-Identifier: Apache-2.0
"""A small agent in memory behind the real server on a real socket, for tests of API and CLI."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from msgspec.structs import replace

from twinbeat.api import schema
from twinbeat.api.events import EventHub
from twinbeat.api.server import Server
from twinbeat.api.text import boot_ns, moment
from twinbeat.observe.metrics import exposition
from twinbeat.observe.status import finish

SECOND = 1_000_000_000


def syncing(*files: schema.SyncFiles) -> schema.Sync:
    """In step, with these lists of files."""
    return schema.Sync(
        state="enabled",
        sentence="this node's document rules",
        in_step=True,
        synced_s=1_700_000_000,
        files=list(files),
    )


def connections(**changes: Any) -> schema.Connections:
    """In step, with a little of everything behind it."""
    facts: dict[str, Any] = {
        "state": "synced",
        "sentence": "both nodes know the connections",
        "flows": 1200,
        "flows_max": 262_144,
        "tracked": 1190,
        "unconfirmed": 7,
        "heard_ns": SECOND * 4 // 10,
        "filled_ns": SECOND * 12 // 10,
        "synced_s": 1_700_000_000,
        "strays_dropped": True,
        "counts": {"received_packets": 90, "installed": 31, "strays": 5, "overruns": 2},
    }
    return schema.Connections(**facts | changes)


def logging_records() -> schema.Weblog:
    """One source, both nodes' streams, one client that is behind."""
    return schema.Weblog(
        state="collecting",
        listening=True,
        pulling=True,
        waiting=3,
        size=4096,
        size_max=1 << 30,
        streams=[
            schema.WeblogStream(
                node=name, epoch=9, oldest=1, received=20, durable=19, replicated=17
            )
            for name in ("a", "b")
        ],
        sources=[schema.WeblogSource(name="web", records=20, behind=100)],
        clients=[schema.WeblogClient(name="logs1", connected=True, lag=5)],
    )


def refusing_records() -> schema.Weblog:
    """A full disk, and a file that can't be read."""
    return schema.Weblog(
        state="refusing",
        why="No space left on device",
        sources=[schema.WeblogSource(name="web", records=0, why="Permission denied.")],
    )


def failing_files() -> schema.SyncFiles:
    """A list of which two items fail."""
    return schema.SyncFiles(
        name="certs",
        state="partly",
        sentence="/etc/certs/a: the disk is full.",
        entries=12,
        bytes=34567,
        failed=2,
        conflicts=1,
    )


def status(**changes: Any) -> schema.Status:
    """A primary with everything in order; keyword arguments replace parts of it."""
    now = changes.pop("now_ns", 1_000_000 * SECOND)
    offset = 1_700_000_000 * SECOND
    facts: dict[str, Any] = {
        "time": moment(now + offset),
        "now_ns": now,
        "realtime_offset_ns": offset,
        "pair": 7,
        "node": node(now_ns=now),
        "gate": gate_of(now_ns=now),
        "peer": peer(),
        "links": [link("ha0", 0, direct=True), link("lan0", 1)],
        "vrids": [
            schema.Vrid(
                id=51,
                interface="lan0",
                vmac="00:00:5e:00:01:33",
                state="serving",
                carrier=True,
                vips_total=2,
                vips=["192.0.2.10", "2001:db8::10"],
            )
        ],
        "neighbours": [schema.Neighbours(interface="lan0", kept=3, warm=2)],
        "monitors": monitors(now),
        "routes": schema.Routes(wanted=3, standing=3, rules_wanted=1, rules_standing=1),
        "hooks": [hook()],
        "sync": schema.Sync(
            synced_s=1_700_000_000,
            state="enabled",
            sentence="this node's document rules",
            in_step=True,
            connection="connected",
            generation=7,
            peer_generation=7,
            own_ends_s=1_800_000_000,
            peer_ends_s=1_800_000_000,
            files=[
                schema.SyncFiles(
                    name="certs",
                    state="same",
                    sentence="Both nodes have it alike.",
                    entries=12,
                    bytes=34567,
                    conflicts=1,
                ),
            ],
            weblog=logging_records(),
        ),
        "timers": schema.Timers(
            profile="fast",
            hello_us=200,
            dead_us=600,
            verify_us=400,
            stall_us=2000,
            lease_us=10000,
            attest_ms=500,
            boot_wait_ms=2000,
            kept_hello_us=200,
            kept_dead_us=600,
        ),
        "configuration": schema.Configuration(
            path="/etc/twinbeat/twinbeat.toml", loaded="now", send_key=3, keys=[3]
        ),
        "policy": schema.Policy(
            fail_safe=True,
            strict=False,
            stall="wait-lease",
            claim_alone=False,
            preferred=True,
            preempt_hold_s=10,
            recovery_hold_ms=2000,
            recovery_hold_max_s=60,
            recovery_forget_s=60,
        ),
        "watchdog": schema.Watchdog(mode="off", device="/dev/watchdog"),
        "process": schema.Process(
            version="0.1.0",
            pid=42,
            started=moment(now + offset - 86400 * SECOND),
            started_ns=now - 86400 * SECOND,
            realtime=True,
            rss_bytes=30_000_000,
        ),
    }
    return schema.Status(**(facts | changes))


def hook(**changes: Any) -> schema.Hook:
    facts: dict[str, Any] = {
        "name": "mail",
        "exec": "/usr/local/sbin/tell",
        "events": ["primary", "secondary"],
        "runs": 4,
        "outcomes": {"ok": 4},
        "skipped": 1,
        "last_event": "primary",
        "last_exit_code": 0,
        "last_good": True,
        "last_sentence": "ended with 0",
        "last_length_ns": 12_000_000,
    }
    return schema.Hook(**(facts | changes))


def watchdog(**changes: Any) -> schema.Watchdog:
    facts: dict[str, Any] = {
        "mode": "required",
        "device": "/dev/watchdog",
        "armed": True,
        "identity": "iTCO_wdt",
        "timeout_s": 10,
        "nowayout": False,
    }
    return schema.Watchdog(**(facts | changes))


def fence(**changes: Any) -> schema.Fence:
    check = fencing(action="monitor")
    facts: dict[str, Any] = {"agent": "/usr/sbin/fence_ipmilan", "check": check}
    return schema.Fence(**(facts | changes))


def witness(**changes: Any) -> schema.Witness:
    facts: dict[str, Any] = {
        "kind": "etcd",
        "endpoints": ["https://192.0.2.31:2379"],
        "without": "stay",
        "lease_ns": 500_000_000,
        "up": True,
        "answered_ns": 999_999 * SECOND,
        "confirmed_age_ns": 63_000_000,
        "kept_term": 4,
    }
    return schema.Witness(**(facts | changes))


def isolation(**changes: Any) -> schema.Isolation:
    facts: dict[str, Any] = {"references": ["192.0.2.1", "192.0.2.2"], "answering": "192.0.2.1"}
    return schema.Isolation(**(facts | changes))


def fencing(**changes: Any) -> schema.Fencing:
    facts: dict[str, Any] = {
        "action": "off",
        "outcome": "succeeded",
        "sentence": "fence_ipmilan, action off on b: succeeded after 2.5 s",
        "time": "2023-11-14T22:13:20Z",
        "at_ns": 999_990 * SECOND,
        "duration_ns": 2_500_000_000,
        "exit_code": 0,
    }
    return schema.Fencing(**(facts | changes))


def node(**changes: Any) -> schema.Node:
    now = changes.pop("now_ns", 1_000_000 * SECOND)
    facts: dict[str, Any] = {
        "name": "a",
        "index": 0,
        "role": schema.Role.PRIMARY,
        "role_since_ns": now - (12 * 86400 + 3 * 3600) * SECOND,
        "role_since": "2023-11-02T22:13:20Z",
        "reason": schema.Reason(code="peer_dead", sentence="b is dead"),
        "state": schema.NodeState.UP,
        "admin": schema.Admin.ENABLED,
        "health": 1000,
        "fit": True,
        "term": 4,
        "term_highest": 4,
    }
    return schema.Node(**(facts | changes))


def gate_of(**changes: Any) -> schema.Gate:
    now = changes.pop("now_ns", 1_000_000 * SECOND)
    facts: dict[str, Any] = {
        "attached": True,
        "open": True,
        "term": 4,
        "open_until_ns": now + 9_000_000,
        "left_ns": 9_000_000,
        "attested_left_ns": 400_000_000,
    }
    return schema.Gate(**(facts | changes))


def peer(**changes: Any) -> schema.Peer:
    facts: dict[str, Any] = {
        "name": "b",
        "watch": schema.Watch.ALIVE,
        "role": schema.Role.SECONDARY,
        "admin": schema.Admin.ENABLED,
        "heard_ns": 999_999_999_900_000,
        "age_ns": 100_000,
        "health": 1000,
        "fit": True,
        "hears_us": True,
        "round_trip_ns": 52_000,
    }
    return schema.Peer(**(facts | changes))


def link(name: str, index: int, **changes: Any) -> schema.Link:
    facts: dict[str, Any] = {
        "name": name,
        "interface": name,
        "index": index,
        "carrier": True,
        "up": True,
        "two_way": True,
        "age_ns": 100_000,
        "state": "up",
        "quality": schema.LinkQuality(
            loss_ratio=0.001, gap_p50_ns=200_000, gap_p99_ns=300_000, gap_p999_ns=400_000
        ),
    }
    return schema.Link(**(facts | changes))


def transition(**changes: Any) -> schema.Transition:
    """A takeover as it is measured: every moment known."""
    begin = 5_000 * SECOND
    facts: dict[str, Any] = {
        "number": 1,
        "time": "2026-11-23T03:12:01.000000Z",
        "at_ns": begin + 1_050_000,
        "realtime_offset_ns": 1_700_000_000 * SECOND,
        "boot": "0f6c",
        "from_role": schema.Role.SECONDARY,
        "to_role": schema.Role.PRIMARY,
        "reason": "peer_dead",
        "sentence": "b fell silent, and its kernel answered none of 9 probes",
        "term": 4,
        "timeline": schema.Timeline(
            last_heard_ns=begin,
            suspect_ns=begin + 600_000,
            verdict_ns=begin + 1_000_000,
            claim_ns=begin + 1_002_000,
            gate_ns=begin + 1_004_000,
            announced_ns=begin + 1_030_000,
        ),
    }
    return schema.with_durations(schema.Transition(**(facts | changes)))


def monitors(now_ns: int) -> list[schema.Monitor]:
    """One that holds, one that has failed, one that is not for this role."""
    since = {"since_ns": now_ns - 60 * SECOND, "since": "2026-11-23T03:11:01Z"}
    return [
        schema.Monitor(
            name="lan0", kind="interface", state="up", reason="up, with carrier", **since
        ),
        schema.Monitor(
            name="disk",
            kind="script",
            state="failed",
            target="/usr/local/sbin/check-disk",
            reason="exit code 2: disk full",
            weight=100,
            output="disk full\n/var: 100 %",
            **since,
        ),
        schema.Monitor(name="uplink", kind="route", state="idle", **since),
    ]


def counters(**changes: Any) -> schema.Counters:
    facts: dict[str, Any] = {
        "time": "2026-11-23T03:12:01Z",
        "now_ns": 10 * SECOND,
        "reasons": {"hello": 100, "auth": 3, "in_open": 50, "in_vip": 2},
        "links": [
            schema.LinkCounters(
                name="ha0",
                sent=100,
                received=99,
                send_errors={"ENETDOWN": 4},
                reasons={"hello": 50, "auth": 2},
                gaps=histogram({8: 98}),
            ),
            schema.LinkCounters(name="lan0", sent=100, received=100),
        ],
        "suspicions": {"cleared": 2, "dead": 1},
        "announcements": {"ipv4": 7, "ipv6": 7},
        "announcements_unsent": {"blocked": 2, "refused": 6},
        "control_frames": {"sent": 90, "failed": 8},
        "peer_busy": 11,
        "log_lines_lost": 12,
        "sync_requests": {"done": 3},
        "sync_phases": {"all": histogram({10: 3})},
        "sync_connection": {"established dialed": 1},
        "sync_files": {"placed": 4, "failed_full": 2},
        "weblog": {"own-dropped full": 4, "own flush_us": 2_500_000, "rewound": 1},
        "weblog_replication": histogram({14: 17}),
        "sessions": schema.Sessions(
            why="",
            rules=[
                schema.PersistenceRule(
                    name="http", entries=7, limit=100, counts={"created": 9, "expired": 2}
                )
            ],
            servers=[
                schema.PersistenceServer(pool="web", address="10.88.0.21", state="up", entries=7)
            ],
            replication=schema.Replication(state="in-step", outstanding=1, counts={"sent": 9}),
            counts={"learned": 9},
            window=histogram({14: 9}),
        ),
        "rivals": [schema.RivalCount(interface="lan0", kind="address", frames=3)],
        "neighbours": {"learned": 5, "given_up": 2, "turned_away": 0},
        "monitors": [
            schema.MonitorCounters(name="lan0", kind="interface", looks=3),
            schema.MonitorCounters(name="disk", kind="script", looks=9, failures=4, timeouts=1),
        ],
        "transitions": [
            schema.TransitionCount(
                from_role=schema.Role.SECONDARY,
                to_role=schema.Role.PRIMARY,
                reason="peer_dead",
                count=1,
            )
        ],
        "claims_refused": {"no_control": 1},
        "effect_failures": {"install_routes": 2},
        "route_changes": {"added": 12, "restored": 1},
        "histograms": {
            name: histogram({3: 5}, sum_ns=25_000)
            for name in ("send_lateness", "round_trip", "silence", "loop_lag")
        },
        "phases": {"total": histogram({11: 1}, sum_ns=1_030_000)},
    }
    return schema.Counters(**(facts | changes))


def full() -> schema.Status:
    """A status with every optional part."""
    return status(
        node=node(
            components=[schema.Component(name="lan0", healthy=True)],
            flips=1,
            flips_since_ns=1,
            flips_window_left_ns=1,
        ),
        pause=schema.Pause(reason="x", since_ns=0, until_ns=1_000_060 * 10**9),
        last_transition=transition(),
        watchdog=watchdog(),
        fence=fence(last=fencing()),
        witness=witness(),
        isolation=isolation(),
        connections=connections(),
    )


def full_counters() -> schema.Counters:
    """Counters with every optional part: with `full`, every metric that there is."""
    counted = counters()
    return replace(
        counted,
        witness={"granted": 3, "unanswered": 1},
        histograms=counted.histograms | {"witness_request": histogram({3: 1})},
    )


def histogram(buckets: dict[int, int], sum_ns: int | None = None) -> schema.Histogram:
    counts = [buckets.get(number, 0) for number in range(schema.HISTOGRAM_BUCKETS)]
    return schema.Histogram(counts=counts, sum_ns=sum_ns)


class MemoryAgent:
    """Implements `twinbeat.api.agent.Agent`: obeys, remembers, and refuses when told to."""

    def __init__(self) -> None:
        self.events = EventHub()
        self.state = status()
        self.counted: schema.Counters | None = None
        self.past = [transition(number=1), transition(number=2)]
        self.answer: schema.Refusal | schema.Outcome | None = None
        """What every command gets instead of being obeyed."""
        self.commands: list[tuple[schema.Command, schema.Caller]] = []
        self.hold: asyncio.Event | None = None
        """Commands wait for it before they take effect."""
        self.finished = 0

    def status(self) -> schema.Status:
        return finish(self.state)

    def counters(self) -> schema.Counters:
        return self.counted or counters(now_ns=boot_ns())

    def history(self, limit: int) -> list[schema.Transition]:
        return self.past[-limit:]

    async def command(
        self, command: schema.Command, caller: schema.Caller
    ) -> schema.Outcome | schema.Refusal:
        self.commands.append((command, caller))
        if self.hold is not None:
            await self.hold.wait()
        self.finished += 1
        if self.answer is not None:
            return self.answer
        match command:
            case schema.PauseFor(for_s=seconds):
                until = None if seconds is None else self.state.now_ns + seconds * SECOND
                pause = schema.Pause(
                    reason=command.reason, since_ns=self.state.now_ns, until_ns=until
                )
                self.state = replace(self.state, pause=pause)
            case schema.Resume():
                self.state = replace(self.state, pause=None)
            case schema.SetAdmin(admin=admin):
                self.state = replace(self.state, node=replace(self.state.node, admin=admin))
        return schema.Outcome(
            operation=command.request_id,
            state=schema.OutcomeState.DONE,
            code="done",
            sentence="done",
        )

    def happen(self, number: int, event: str = "suspect") -> None:
        """Publish an event."""
        self.events.publish(
            schema.Event(
                number=number, time="2026-11-23T03:12:01Z", at_ns=number, event=event, reason="x"
            )
        )


class Served:
    """A MemoryAgent behind a real server in a thread of its own; use as a context."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "control.sock")
        self.agent = MemoryAgent()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._server.close())
        self.run(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Any) -> Any:
        """Run a coroutine in the agent's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the agent's loop."""

        async def work() -> Any:
            return function()

        return self.run(work())

    async def _settle(self) -> None:
        """Let go of a connection that came in the very moment of the end.

        A task that is cancelled before its first step closes nothing, so each takes that first;
        from the acceptance to the handler there are four.
        """
        while True:
            for _ in range(10):
                await asyncio.sleep(0)
            if not (others := asyncio.all_tasks() - {asyncio.current_task()}):
                return
            for task in others:
                task.cancel()
            await asyncio.wait(others)

    async def _start(self) -> None:
        self._server = Server(self.agent, exposition(self.agent.status, self.agent.counters))
        await self._server.listen_unix(self.path)
        await self._server.listen_tcp("127.0.0.1", 0)
        self.port = self._server.tcp_port
