# SPDX-License-Identifier: Apache-2.0
"""The engine in production: one SCHED_FIFO thread in C that beats, watches, claims and announces.

Python hands over orders, facts and announcements and drains events; the thread never takes the GIL
and is never made to wait for Python. All methods are for one thread (the loop that decides); none
of them blocks longer than the timeout it names, and none needs the thread to be scheduled unless it
says that it waits. What an order may say, and what to do about an event, is not known here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any, Final, Self

from twinbeat.engine._engine import ffi, lib
from twinbeat.engine.convert import (
    announcements_to_c,
    config_to_c,
    engine_words,
    event_from_c,
    gate_words,
    histogram_from_c,
    link_counters,
    link_words,
    links_to_c,
    mac_from_python,
    order_to_c,
    peer_words,
    schedule_to_c,
    settings_to_c,
    setup_to_c,
    witness_to_c,
)
from twinbeat.engine.look import Look, Looker
from twinbeat.engine.types import (
    Announcement,
    AnnounceSchedule,
    Counters,
    Event,
    Histogram,
    Link,
    Order,
    Positions,
    Settings,
    Setup,
    Snapshot,
    StartReport,
    WireConfig,
    WitnessWords,
    now_ns,
)

HISTOGRAMS = (
    "lateness",
    "send_lateness",
    "round_duration",
    "round_trip",
    "silence",
    "suspect_to_verdict",
    "verdict_to_open",
    "open_to_announce",
)
"""Names of the histograms, in the order of enum tb_histograms."""

_DRAIN = 64


_MEMORY: Final = "its memory can't be locked: grant CAP_IPC_LOCK, or raise LimitMEMLOCK="
_REMEDIES: Final = {
    errno.EPERM: "the agent needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_IPC_LOCK; `twinbeat doctor` "
    "says which of them is missing",
    errno.EAGAIN: _MEMORY,
    errno.ENOMEM: _MEMORY,
}


class EngineError(OSError):
    """The host refused something the engine needs; the sentence says what, and what to do."""

    def __str__(self) -> str:
        return str(self.strerror)


def _check(code: int, doing: str) -> int:
    """Turn a negative errno into an EngineError that says what was being done."""
    if code < 0:
        remedy = _REMEDIES.get(-code, "")
        sentence = f"{doing}: {os.strerror(-code)}" + (f"; {remedy}" if remedy else "")
        raise EngineError(-code, sentence)
    return code


class Engine:
    """One engine on one set of maps. Open, hand over an order, start, stop, close."""

    def __init__(self, setup: Setup) -> None:
        """Map the maps and open every socket; nothing is sent and no gate is touched before
        start().

        Raises EngineError naming what the host refused.
        """
        out: Any = ffi.new("struct tb_thread **")
        stage: Any = ffi.new("int *")
        code = lib.tb_thread_open(setup_to_c(setup), out, stage)
        if code < 0:
            name: Any = ffi.string(lib.tb_stage_name(stage[0]))
            _check(code, name.decode())
        self._thread: Any = out[0]
        self.settings = setup.settings
        """Those handed over last."""
        self._port = setup.config.port
        self._links = setup.links
        self._attested_until_ns = 0
        self._events: Any = ffi.new("struct tb_event[]", _DRAIN)
        self._view: Any = ffi.new("struct tb_view *")
        self._looker = Looker()

    def __enter__(self) -> Self:
        """Use as a context: closed at the end, the gate left to lapse unless stop() was called."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> StartReport:
        """Start the thread and its helpers; says what the host refused (it works without, only
        later).
        """
        report: Any = ffi.new("struct tb_start_report *")
        _check(lib.tb_thread_start(self._thread, report), "starting the engine's thread")
        return StartReport(
            real_time=report.real_time or None,
            locked=report.locked or None,
            pinned=report.pinned or None,
            helpers=report.helpers,
        )

    def stop(self, *, close_gate: bool, timeout_s: float = 1.0) -> None:
        """End the thread and wait for it. With `close_gate` the gate is shut when this returns,
        whatever the thread does; without it the lease runs on for a successor to resume.
        """
        code = lib.tb_thread_stop(self._thread, close_gate, int(timeout_s * 1e9))
        _check(code, "stopping the engine's thread")

    def close(self) -> None:
        """Stop without touching the gate if still running, and give everything back. May be
        repeated.
        """
        if self._thread is not None:
            lib.tb_thread_close(self._thread)
            self._thread = None

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread is not None and bool(lib.tb_thread_running(self._thread))

    # -- what the engine may do --------------------------------------------------------------------

    def set_order(self, order: Order, *, wait: bool = False, timeout_s: float = 0.1) -> bool:
        """Replace the standing order. With `wait`: returns when the thread has confirmed its
        generation (R17), True, or after the timeout, False; the GIL is released meanwhile.

        Whether a claim came first is in the ORDER event's `b`.
        """
        c_order = order_to_c(order, self._attested_until_ns)
        code = lib.tb_thread_set_order(self._thread, c_order, int(timeout_s * 1e9) if wait else 0)
        if code == -errno.ETIMEDOUT:
            return False
        _check(code, "handing over the order")
        return True

    def attest(self, until_ns: int) -> None:
        """Python's own lease: renew from the loop that decides, never from a side thread."""
        self._attested_until_ns = until_ns
        lib.tb_thread_attest(self._thread, until_ns)

    def set_witness(self, words: WitnessWords) -> None:
        """What the witness said; taken in with the next round."""
        lib.tb_thread_set_witness(self._thread, witness_to_c(words))

    def set_settings(self, settings: Settings) -> None:
        """Take new timers or policy into effect at the next round; nothing is forgotten."""
        self.settings = settings
        lib.tb_thread_set_settings(self._thread, settings_to_c(settings))

    def set_config(self, config: WireConfig) -> None:
        """New keys (rotation). Write map "config" first, so that the kernel knows them already."""
        lib.tb_thread_set_config(self._thread, config_to_c(config))

    def set_peer_mac(self, link: int, mac: bytes) -> None:
        """The peer's MAC on an Ethernet link, as resolved; empty = unknown, broadcast again."""
        _check(
            lib.tb_thread_set_peer_mac(self._thread, link, mac_from_python(mac)), "setting a MAC"
        )

    def set_links(self, links: Sequence[Link]) -> None:
        """Send on exactly these links from the next round on; those that stay as they were go on
        with their sockets, MACs and counters. The settings' masks say which are expected: hand
        them over after a link that comes, and before one that goes.

        Raises EngineError if one can't be opened; then nothing has changed.
        """
        code = lib.tb_thread_set_links(self._thread, links_to_c(links, self._port))
        _check(code, "opening a link's socket")
        self._links = tuple(links)

    def set_ports(self, ifindexes: Sequence[int]) -> None:
        """Watch exactly these interfaces for carrier from the next round on; the settings say how
        many there are.

        Raises EngineError if one of them is gone; then nothing has changed.
        """
        code = lib.tb_thread_set_ports(self._thread, list(ifindexes), len(ifindexes))
        _check(code, "looking up a port's interface")

    def set_announcements(
        self, announcements: Sequence[Announcement], schedule: AnnounceSchedule
    ) -> None:
        """Prebuild every announcement frame. If there are others, a schedule begins anew."""
        code = lib.tb_thread_set_announcements(
            self._thread,
            announcements_to_c(announcements),
            len(announcements),
            schedule_to_c(schedule),
        )
        _check(code, "building the announcements")

    def announce(self) -> None:
        """Announce everything again now, from the start of the schedule, if the gate is open."""
        lib.tb_thread_announce(self._thread)

    # -- what the engine says ----------------------------------------------------------------------

    def fileno(self) -> int:
        """An eventfd that is readable while events wait; events() clears it."""
        return int(lib.tb_thread_eventfd(self._thread))

    def events(self) -> list[Event]:
        """Every event that waits, oldest first."""
        events: list[Event] = []
        while count := lib.tb_thread_events(self._thread, self._events, _DRAIN):
            events.extend(event_from_c(self._events[i]) for i in range(count))
        return events

    def counters(self) -> Counters:
        """Read without a lock; each number is exact, two of them may be of neighbouring rounds."""
        c: Any = ffi.new("struct tb_counters *")
        lib.tb_thread_counters(self._thread, c)
        return Counters(
            links={link.number: link_counters(c.link[link.number]) for link in self._links},
            rounds=c.rounds,
            late=c.late,
            events_lost=c.events_lost,
            events_held=c.events_held,
            announcements_ipv4=c.announced4,
            announcements_ipv6=c.announced6,
            announcements_blocked=c.announce_blocked,
            announcements_refused=c.announce_refused,
            control_sent=c.control_sent,
            control_errors=c.control_errors,
            peer_busy=c.peer_busy,
        )

    def histograms(self) -> dict[str, Histogram]:
        """By the names of HISTOGRAMS."""
        c: Any = ffi.new("struct tb_histogram *")
        result = {}
        for number, name in enumerate(HISTOGRAMS):
            lib.tb_thread_histogram(self._thread, number, c)
            result[name] = histogram_from_c(c)
        return result

    def look(self, *, timeout_s: float = 0.05) -> Look:
        """As snapshot(), but the same object again as long as nothing is said that lasts: counters,
        stamps and running leases in it are then those of the moment when it was made.

        The loop that decides looks several times a second, mostly at what it knows. With a timeout
        of 0 the engine isn't woken: its words are from a round soon after the last look.
        """
        lib.tb_thread_view(self._thread, self._view, int(timeout_s * 1e9))
        return self._looker.at(self._view)

    def positions(self) -> Positions:
        """How far both nodes have counted, as of the newest look or snapshot."""
        gate, peer = self._view.gate, self._view.peer
        return Positions(
            own=gate.counter, peer=peer.counter, peer_epoch=peer.epoch, peer_known=peer.known
        )

    def snapshot(self, *, timeout_s: float = 0.05) -> Snapshot:
        """Gate, peer and links as they are in the maps; the engine's own words from a round made
        for it.

        If the thread makes none within the timeout the engine's words are those of the last
        snapshot.
        """
        c = self._view
        lib.tb_thread_view(self._thread, c, int(timeout_s * 1e9))
        at_ns = now_ns()
        return Snapshot(
            at_ns=at_ns,
            engine=engine_words(c.engine),
            gate=gate_words(c.gate, at_ns),
            peer=peer_words(c.peer),
            links=tuple(
                link_words(link.number, c.link[link.number], c.link_carrier) for link in self._links
            ),
            control_ns=c.control_ns,
        )
