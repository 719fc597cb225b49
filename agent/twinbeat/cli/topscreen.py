# SPDX-License-Identifier: Apache-2.0
"""The screen of `twinbeat top`: one picture drawn with rich, on the terminal's second screen.

The nodes are asked in a thread, so that keys and a new size of the window are heeded while an
answer is waited for. The terminal is put back as it was, however this ends.
"""

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from twinbeat.api.brief import Kept
from twinbeat.api.text import length
from twinbeat.cli.base import Exit
from twinbeat.cli.topview import NodeRow, Picture, Told, Tracker

TURN_S: Final = 0.25
"""How soon a new size of the window is seen."""
UNDRAWN: Final = os.terminal_size((0, 0))
ROOMY: Final = 70
"""Columns from which on the nodes stand well apart."""
_ROLES: Final = {"primary": "bold green", "secondary": "bold cyan", "disabled": "bold magenta"}


def run(
    ask: Callable[[], Told], first: Told, interval: float, count: int | None, *, colored: bool
) -> int:
    """Show pictures until a key, a signal or `count` of them ends it; the exit code."""
    console = Console(no_color=not colored, highlight=False)
    tracker, asker = Tracker(), _Asker(ask, interval)
    picture, shown, held, drawn = tracker.take(first), 1, False, UNDRAWN
    with _keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live, asker:
        while True:
            # rich asks the terminal how large it is each time it draws.
            size = os.get_terminal_size(sys.stdout.fileno())
            if size != drawn:
                live.update(_drawn(picture, interval, held, size.columns), refresh=True)
                drawn = size
            if count is not None and shown >= count:
                return Exit.OK
            key = keys(TURN_S)
            if key in {"q", "Q", "\x03", "\x04", ""}:
                return Exit.OK
            if key in {"p", "P"}:
                held, drawn = not held, UNDRAWN
            told = asker.newest()
            if told is not None:
                # Held, what comes is still counted: the next bar is that of its own interval.
                newer = tracker.take(told)
                if not held:
                    picture, drawn = newer, UNDRAWN
                    shown += 1


class _Asker:
    """Asks at each interval, in a thread; the newest answer waits to be taken."""

    def __init__(self, ask: Callable[[], Told], interval: float) -> None:
        self._ask = ask
        self._interval = interval
        self._told: Told | None = None
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_Asker":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._end.set()

    def newest(self) -> Told | None:
        """What was answered since this was asked last."""
        with self._lock:
            told, self._told = self._told, None
        return told

    def _run(self) -> None:
        begun = time.monotonic()
        while not self._end.wait(max(0.0, begun + self._interval - time.monotonic())):
            begun = time.monotonic()
            told = self._ask()
            with self._lock:
                self._told = told


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """Keys one by one, without echo: a function that waits for one; None = there was none in time,
    empty = the terminal is gone or a signal asks to end.
    """
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    ended = False

    def end(*_: Any) -> None:
        nonlocal ended
        ended = True

    handlers = {which: signal.signal(which, end) for which in (signal.SIGTERM, signal.SIGHUP)}

    def key(timeout_s: float) -> str | None:
        ready, _, _ = select.select([descriptor], [], [], timeout_s)
        if ended:
            return ""
        if not ready:
            return None
        try:
            return os.read(descriptor, 1).decode("ascii", "replace")
        except OSError:
            return ""

    try:
        tty.setcbreak(descriptor)
        yield key
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for which, handler in handlers.items():
            signal.signal(which, handler)


# --------------------------------------------------------------------------------- drawing -------


def _drawn(picture: Picture, interval: float, held: bool, columns: int) -> RenderableType:
    parts: list[RenderableType] = [_head(picture, interval, held)]
    if picture.lost:
        parts.append(Text(f"{picture.lost}; waiting for it", style="bold white on red"))
    elif picture.sentence:
        word, _, rest = picture.sentence.partition(" ")
        style = _ROLES.get(picture.role or "", "bold yellow")
        parts.append(Text.assemble((word, style), f" {rest}"))
    parts += [Text(f"! {warning}", style="yellow") for warning in picture.warnings]
    silent = [node for node in picture.nodes if not node.answers]
    parts += [Text(f"! {node.name}: {node.why}", style="yellow") for node in silent]
    if picture.nodes:
        parts += [Text(), _nodes(picture, columns), Text(), _links(picture)]
    if picture.transitions:
        parts += [Text(), _transitions(picture)]
    for part in parts:
        if isinstance(part, Text):
            part.no_wrap, part.overflow = True, "ellipsis"
    return Group(*parts)


def _head(picture: Picture, interval: float, held: bool) -> Text:
    text = Text(f"twinbeat top   pair {picture.pair}   {picture.time}   every {interval:g} s   ")
    text.append("q quit, p hold", style="dim")
    if held:
        text.append("   HELD", style="bold reverse")
    return text


def _nodes(picture: Picture, columns: int) -> Table:
    """Where there is no room for all, what is said gives way and not what it is said of."""
    table = Table.grid(padding=(0, 3 if columns >= ROOMY else 1), expand=False)
    table.add_column(style="dim", no_wrap=True)
    for _ in picture.nodes:
        table.add_column(overflow="ellipsis")
    rows: tuple[tuple[str, Callable[[NodeRow], Text]], ...] = (
        ("node", _name),
        ("role", _role),
        ("health", _health),
        ("term", _term),
        ("gate", _gate),
        ("hears peer", _watch),
        ("late", _late),
        ("suspicions", _suspicions),
        ("sync", _sync),
    )
    for label, cell in rows:
        table.add_row(label, *(_in_one_line(cell(node)) for node in picture.nodes))
    told = [{each.name: each for each in node.kept} for node in picture.nodes]
    for name in dict.fromkeys(name for each in told for name in each):
        table.add_row(name, *(_in_one_line(_kept(each.get(name))) for each in told))
    return table


def _in_one_line(text: Text) -> Text:
    """Said of the text: rich makes only such columns narrower that may be wrapped."""
    text.no_wrap = True
    return text


def _name(node: NodeRow) -> Text:
    name = Text(node.name, style="bold")
    if not node.answers:
        name.append("  as heard", style="yellow")
    return name


def _role(node: NodeRow) -> Text:
    if node.role is None:
        return Text("never heard", style="yellow")
    since = f" for {node.role_for}" if node.role_for else ""
    return Text.assemble((node.role.upper(), _ROLES.get(node.role, "bold yellow")), since)


def _health(node: NodeRow) -> Text:
    words = [("fit", "green") if node.fit else ("unfit", "bold red")]
    text = Text.assemble(*words)
    score = "" if node.health is None else f", {node.health}"
    return text.append(f"{score}, {node.admin}" if node.admin else score)


def _term(node: NodeRow) -> Text:
    highest = f" (highest {node.term_highest})" if node.term_highest not in {0, node.term} else ""
    return Text(f"{node.term or 'none'}{highest}")


def _gate(node: NodeRow) -> Text:
    if not node.gate_open:
        return Text("shut")
    text = Text("open", style="green")
    if node.lease_left_ns is not None:
        whole = f" of {length(node.lease_ns)}" if node.lease_ns else ""
        text.append(f", {length(node.lease_left_ns)}{whole} left", style="default")
    return text


def _watch(node: NodeRow) -> Text:
    if node.watch is None:
        return Text()
    style = {"alive": "green", "dead": "red"}.get(node.watch, "yellow")
    heard = f", {length(node.heard_ns)} ago" if node.heard_ns is not None else ""
    return Text.assemble((node.watch.value, style), heard)


def _late(node: NodeRow) -> Text:
    if node.late_p99_ns is None:
        return Text()
    text = Text(f"p99 {length(node.late_p99_ns)}")
    if node.late_ticks:
        text.append(f", {node.late_ticks} too late", style="yellow")
    return text


def _suspicions(node: NodeRow) -> Text:
    if not node.answers:
        return Text()
    known = ", ".join(f"{count} {name}" for name, count in node.suspicions.items() if count)
    text = Text(known or "none")
    if node.suspicions_new:
        text.append(f" (+{node.suspicions_new})", style="yellow")
    return text


def _sync(node: NodeRow) -> Text:
    return Text(node.sync, style="default" if node.in_step else "yellow")


def _kept(told: Kept | None) -> Text:
    if told is None:
        return Text()
    return Text.assemble((told.state, "green" if told.good else "yellow"), f", {told.words}")


def _links(picture: Picture) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in range(4):
        table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    head = ("link", "state", "gap p99", "lost", "gaps, from hello to dead interval")
    table.add_row(*(Text(name, style="dim") for name in head))
    for node in picture.nodes:
        for link in node.links:
            style = "green" if link.up else "magenta" if link.state == "off" else "bold red"
            gap = "" if link.gap_p99_ns is None else length(link.gap_p99_ns)
            loss = "" if link.loss_ratio is None else f"{link.loss_ratio:.1%}"
            name = f"{node.name} {link.name}"
            sparks = Text(link.sparks, style="cyan")
            table.add_row(name, Text(link.state, style=style), gap, loss, sparks)
    return table


def _transitions(picture: Picture) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    for moved in picture.transitions:
        took = "" if moved.total_ns is None else length(moved.total_ns)
        change = f"{moved.from_role.value} -> {moved.to_role.value}"
        table.add_row(Text(moved.time, style="dim"), change, took, moved.sentence)
    return table
