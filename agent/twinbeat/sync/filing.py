# SPDX-License-Identifier: Apache-2.0
"""The lists of files on this node: what is there now, and how it stands with each.

Whatever happens to a list, the answer is the same: walk it, and see what is different. `Filing.run`
does that for every list when something was heard, when the clock says so, and when asked. What a
session with the peer makes of it is `talking.Talk`'s.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from twinbeat.programs import Program
from twinbeat.sync.beneath import CODES, Tree, Trouble
from twinbeat.sync.files import Reader, Scan
from twinbeat.sync.lists import FileList
from twinbeat.sync.manifest import ENTRIES_MAX, Entry, Kind, Order, is_common, with_common
from twinbeat.sync.placing import Place
from twinbeat.sync.remembered import Memory, Remembered
from twinbeat.sync.shown import FileFailure, FilesStatus, ListStatus, printable
from twinbeat.sync.taking import Progress, in_thread
from twinbeat.sync.templates import PATH
from twinbeat.sync.watching import Quiet, Watcher

log = logging.getLogger("twinbeat.files")

THREADS: Final = 10
QUIET_S: Final = 0.05
BURST_S: Final = 0.5
LOOK_S: Final = 60.0
"""Every list is walked so often even if nothing was heard."""
BLIND_S: Final = 5.0
"""So often where not everything can be watched."""
LOOKS_AGAIN: Final = 8
"""Walks in a row for the sake of new directories."""
COMMON_MAX: Final = 2 * ENTRIES_MAX
SHOWN: Final = 64
"""Failures of a list that are named; all are counted."""
LEFTOVER_S: Final = 3600.0
"""A temporary file may be gone on with for so long."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all entries, counted once for each walk that found something else."""

    entries: int = 0
    bytes: int = 0
    unreadable: tuple[FileFailure, ...] = ()

    @classmethod
    def of(cls, entries: Mapping[str, Entry]) -> Totals:
        return cls(
            entries=len(entries),
            bytes=sum(entry.size for entry in entries.values()),
            unreadable=tuple(
                FileFailure(path=entry.path, code=entry.why, sentence=CODES.get(entry.why, ""))
                for entry in entries.values()
                if entry.kind is Kind.UNKNOWN
            ),
        )


class Listed:
    """One list on this node."""

    def __init__(self, files: FileList, remembered: Remembered, filing: Filing) -> None:
        self.files = files
        self.remembered = remembered
        for path in [path for path in remembered.common if not files.covers(path)]:
            # The list was another one then.
            del remembered.common[path]
        self.reader = Reader(files, filing.tree, remembered.known)
        self.place = Place(files, self.reader)
        self.scan: Scan | None = None
        self.version = 0
        """Grows when something is different."""
        self.progress, self.served = Progress(), Progress()
        """Of this node, and of the other as far as this one sees it."""
        self.unsaved = False
        self.failures: list[FileFailure] = []
        self.failed = 0
        """Of the last round, on both nodes."""
        self.state, self.sentence = "waiting", "It is read for the first time."
        self._totals = Totals()
        self.conflicts = 0
        self.changed_ns = 0
        self.command = ""
        self.quiet = Quiet(quiet_s=QUIET_S, at_most_s=BURST_S)
        self.watched = 0
        self._filing = filing
        self._scanning = asyncio.Lock()
        self._blind = False
        self._after: asyncio.Task[None] | None = None
        self._again = 0

    @property
    def name(self) -> str:
        return self.files.name

    async def entries(self) -> dict[str, Entry] | None:
        """What is there, with what is known as common; None if it can't be told."""
        if self.scan is None:
            return None
        tell = functools.partial(with_common, self.scan.entries, dict(self.remembered.common))
        return await in_thread(self._filing.executor, tell)

    def settled(self, path: str) -> bool:
        """Whether both nodes have this path alike, as far as this one knows."""
        entry = self.scan.entries.get(path) if self.scan is not None else None
        return (
            entry is not None
            and bool(entry.stamp)
            and (self.remembered.common.get(path) == entry.stamp)
        )

    async def look(self) -> None:
        """Walk it now."""
        async with self._scanning:
            try:
                found = await in_thread(self._filing.executor, self.reader.scan)
            except Trouble as trouble:
                self.scan, self._totals = None, Totals()
                self.stand("unreadable", trouble.sentence)
                self._filing.count("unreadable")
                return
            forgotten = self.remembered.beginning(found.roots)
            if forgotten:
                self._filing.count("forgotten", forgotten)
                log.warning(
                    "files %s: a directory of the list is another one or gone; nothing that is "
                    "missing in it counts as deleted",
                    self.name,
                )
            if self.remembered.ordered:
                ordered = self.remembered.ordered
                self.remembered.recall(
                    {path: found.entries[path].stamp for path in ordered if path in found.entries}
                )
                self.unsaved = True
            before = self.scan
            self.scan = found
            if before is None:
                # Nobody may be there to compare it with, and what was in the way is over.
                self.stand("waiting", "It has yet to be compared with the other node's.")
            if before is None or forgotten or before.entries != found.entries:
                self.version += 1
                self._totals = await in_thread(
                    self._filing.executor, functools.partial(Totals.of, found.entries)
                )
                self._filing.moved()

    async def keep_looking(self) -> None:
        """Walk it whenever it may be different."""
        watcher: Watcher | None = None
        again = 0
        try:
            while True:
                await self.look()
                if watcher is None:
                    watcher = self._watcher()
                if watcher is not None and self.scan is not None:
                    watch = functools.partial(watcher.watch, self.scan.directories)
                    new, troubles = await in_thread(self._filing.executor, watch)
                    self._blind = bool(troubles)
                    self.watched = watcher.watched
                    self._filing.take_counts(watcher.counts)
                    if new and again < LOOKS_AGAIN:
                        # What happened in it before it was watched wasn't heard.
                        again += 1
                        continue
                again = 0
                heard = watcher is not None and not self._blind and self.scan is not None
                await self.quiet.burst(LOOK_S if heard else BLIND_S)
        finally:
            if watcher is not None:
                watcher.close()

    def _watcher(self) -> Watcher | None:
        try:
            return Watcher(self._filing.tree, self.quiet.happened)
        except OSError as error:
            self._filing.count("lost")
            log.warning("files %s: can't be watched: %s", self.name, error.strerror)
            return None

    async def save(self) -> None:
        """Write down what is common, if that is something else now."""
        if not self.unsaved:
            return
        self.unsaved = False
        self.remembered.known = dict(self.reader.known)
        copy = msgspec.structs.replace(
            self.remembered,
            common=dict(self.remembered.common),
            ordered=dict(self.remembered.ordered),
        )
        try:
            await in_thread(
                self._filing.executor, functools.partial(self._filing.memory.save, copy)
            )
        except Trouble as trouble:
            self._filing.count("not_remembered")
            log.warning("files %s: %s", self.name, trouble.sentence)

    async def expect(self, orders: Iterable[Order]) -> None:
        """Write down what is about to be made of the list."""
        self.remembered.ordered = {
            order.entry.path: order.entry.stamp
            for order in orders
            if self.files.covers(order.entry.path)
        }
        self.unsaved = True
        await self.save()

    def agree(self, common: Iterable[tuple[str, str]]) -> None:
        """Both nodes have this alike."""
        for path, stamp in common:
            if not stamp:
                self.remembered.common.pop(path, None)
            elif not self.files.covers(path) or len(self.remembered.common) >= COMMON_MAX:
                self._filing.count("refused")
            else:
                self.remembered.common[path] = stamp

    async def agreed(self) -> bool:
        """Whether all that can be read here is known as common, and nothing else is."""
        if self.scan is None:
            return False
        compare = functools.partial(is_common, self.scan.entries, dict(self.remembered.common))
        return await in_thread(self._filing.executor, compare)

    async def sweep(self) -> None:
        """Remove what interrupted transfers left and nobody went on with."""
        leftovers = self.scan.leftovers if self.scan is not None else []
        if leftovers:
            sweep = functools.partial(self.place.sweep, leftovers, older_than_s=LEFTOVER_S)
            await in_thread(self._filing.executor, sweep)

    def stand(self, state: str, sentence: str) -> None:
        """It stands so from now on."""
        if (state, sentence) != (self.state, self.sentence):
            level = logging.INFO if state in {"waiting", "working", "same"} else logging.WARNING
            fields = {"event": "files", "reason": f"files_{state}", "list": self.name}
            log.log(level, "files %s: %s", self.name, sentence, extra={"fields": fields})
        before, self.state, self.sentence = self.state, state, sentence
        if before != state:
            self._filing.stood()

    def fail(self, failures: Sequence[FileFailure], count: int | None = None) -> None:
        """These are in the way, of so many; nothing else is."""
        self.failures = list(failures)
        self.failed = len(failures) if count is None else count

    # -- the command after a change ----------------------------------------------------------------

    def changed(self, items: int) -> None:
        """Something was changed here: run the command, once for all that changes meanwhile."""
        self.changed_ns = time.time_ns()
        if not self.files.command:
            return
        self._again += items
        if self._after is None or self._after.done():
            self._after = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._again:
            items, self._again = self._again, 0
            environment = {
                "PATH": PATH,
                "LC_ALL": "C.UTF-8",
                "TWINBEAT_FILES": self.name,
                "TWINBEAT_CHANGED": str(items),
                "TWINBEAT_NODE": self._filing.name,
            }
            program = Program(self.files.command, environment)
            finished = await program.run(timeout_s=self.files.timeout_s)
            self._filing.count("commands" if finished.good else "commands_failed")
            self.command = finished.sentence()
            said = " | ".join(finished.output.split("\n")).strip(" |")
            log.log(
                logging.INFO if finished.good else logging.WARNING,
                "files %s: the command %s%s",
                self.name,
                self.command,
                f": {said}" if said else "",
                extra={"fields": {"event": "files", "reason": "files_command", "list": self.name}},
            )

    async def stop(self) -> None:
        """Take the command down."""
        if self._after is not None:
            self._after.cancel()
            await asyncio.wait((self._after,))

    def status(self) -> ListStatus:
        totals = self._totals
        state, sentence = self.state, self.sentence
        if state == "same" and totals.unreadable:
            state = "partly"
            first = totals.unreadable[0]
            sentence = f"{printable(first.path)} can't be read here: {first.sentence}."
        return ListStatus(
            name=self.name,
            state=state,
            sentence=sentence,
            entries=totals.entries,
            bytes=totals.bytes,
            items_done=self.progress.items_done + self.served.items_done,
            items=self.progress.items + self.served.items,
            bytes_done=self.progress.bytes_done + self.served.bytes_done,
            bytes_wanted=self.progress.bytes + self.served.bytes,
            failed=self.failed + len(totals.unreadable),
            failures=(*self.failures, *totals.unreadable)[:SHOWN],
            conflicts=self.conflicts,
            watched=self.watched,
            command=self.command,
            changed_ns=self.changed_ns,
        )


class Filing:
    """All lists of this node. One for the life of the worker."""

    def __init__(self, name: str, directory: Path, tree: Tree) -> None:
        """``directory``: where it remembers; it belongs to the worker alone."""
        self.name = name
        self.tree = tree
        self.memory = Memory(directory)
        self.executor = ThreadPoolExecutor(THREADS, thread_name_prefix="files")
        self.lists: dict[str, Listed] = {}
        self.counts: Counter[str] = Counter()
        self.waiting: list[asyncio.Event] = []
        """Set when a list is different, or there are others."""
        self.stood: Callable[[], None] = lambda: None
        """Called when the state of a list is another, or there are other lists."""
        self._wanted: tuple[FileList, ...] = ()
        self._configured = asyncio.Event()
        self._configured.set()

    def configure(self, lists: Iterable[FileList]) -> None:
        """Keep these alike from now on. Those that stay as they are go on undisturbed."""
        self._wanted = tuple(lists)
        self._configured.set()

    async def run(self) -> None:
        """Look after the lists until cancelled."""
        looking: dict[str, asyncio.Task[None]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._configured.wait()
                    self._configured.clear()
                    wanted = {files.name: files for files in self._wanted}
                    for name, listed in list(self.lists.items()):
                        if wanted.get(name) != listed.files:
                            await self._end(listed, looking.pop(name))
                    for name, files in wanted.items():
                        if name not in self.lists:
                            load = functools.partial(self.memory.load, name)
                            remembered = await in_thread(self.executor, load)
                            self.lists[name] = Listed(files, remembered, self)
                            looking[name] = group.create_task(self.lists[name].keep_looking())
                    self.moved()
                    self.stood()
        finally:
            for listed in self.lists.values():
                await listed.stop()
            self.executor.shutdown(wait=False, cancel_futures=True)

    async def _end(self, listed: Listed, task: asyncio.Task[None]) -> None:
        del self.lists[listed.name]
        task.cancel()
        await asyncio.wait((task,))
        await listed.stop()

    def rescan(self) -> None:
        """Walk all of them soon, whatever was heard."""
        for listed in self.lists.values():
            listed.quiet.happened()

    def moved(self) -> None:
        """Something is different: whoever waits may look."""
        for waiting in list(self.waiting):
            waiting.set()

    async def in_step(self, path: str, timeout_s: float) -> str:
        """Wait until both nodes have this file alike; otherwise a sentence that says why not.

        For whoever is about to run a command with it on both.
        """
        listed = next((one for one in self.lists.values() if one.files.covers(path)), None)
        if listed is None:
            return f"{path} is in no list of files."
        await listed.look()
        arrived = asyncio.Event()
        self.waiting.append(arrived)
        try:
            async with asyncio.timeout(timeout_s):
                while not listed.settled(path):
                    arrived.clear()
                    await arrived.wait()
        except TimeoutError:
            return f"{path} isn't known to be alike on both nodes: {listed.sentence}"
        finally:
            self.waiting.remove(arrived)
        return ""

    def count(self, what: str, by: int = 1) -> None:
        self.counts[what] += by

    def take_counts(self, counts: Counter[str]) -> None:
        """Add up what a part counted, and let it begin anew."""
        self.counts.update(counts)
        counts.clear()

    def status(self) -> FilesStatus:
        for listed in self.lists.values():
            self.counts.update(listed.place.tally.drain())
            self.counts.update(listed.reader.tally.drain())
        return FilesStatus(
            lists=tuple(self.lists[name].status() for name in sorted(self.lists)),
            counts=dict(self.counts),
        )
