# SPDX-License-Identifier: Apache-2.0
"""Hears that something changed in directories: inotify, without a library for it.

Those there are call it through ctypes, which prepares executable memory when it is imported; the
worker's unit forbids that. They run a thread, or follow symbolic links when they add a directory,
or say nothing of an overflow. cffi, which the agent has anyway, needs three functions in its ABI
mode, and a descriptor that a loop can wait for.

An event says no more than that it is time to look: what there is says the walk (`files.Reader`). So
events are forgotten as soon as they were counted, an overflow costs a walk like any other event,
and a directory that comes or goes is watched, or not, after the walk that found it.

A directory is watched by a descriptor, reached as everything is (`beneath.Tree`); its path
would be looked up by the kernel, symbolic links and all.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from twinbeat.sync.beneath import Tree, Trouble

IN_ATTRIB: Final = 0x4
IN_CLOSE_WRITE: Final = 0x8
IN_MOVED_FROM: Final = 0x40
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_DELETE_SELF: Final = 0x400
IN_MOVE_SELF: Final = 0x800
IN_UNMOUNT: Final = 0x2000
IN_Q_OVERFLOW: Final = 0x4000
IN_IGNORED: Final = 0x8000
IN_ONLYDIR: Final = 0x1000000
IN_EXCL_UNLINK: Final = 0x4000000

MASK: Final = (
    IN_ATTRIB
    | IN_CLOSE_WRITE
    | IN_MOVED_FROM
    | IN_MOVED_TO
    | IN_CREATE
    | IN_DELETE
    | IN_DELETE_SELF
    | IN_MOVE_SELF
    | IN_ONLYDIR
    | IN_EXCL_UNLINK
)
"""Not each write: a file that is being written is looked at when its writer closes it, and one that
stays open with the next walk by the clock."""
ITSELF: Final = IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_Q_OVERFLOW
"""Whatever the names that matter are, this does."""

_EVENT: Final = struct.Struct("iIII")
_READ: Final = 64 << 10
_READS: Final = 16
"""At a time; the loop has other things to do."""


Directories = Mapping[str, set[str] | None]
"""Directory -> the names in it that matter, None = all."""


@functools.cache
def _bound() -> tuple[Any, Any]:
    """cffi and the C library. To read three declarations takes a tenth of the worker's start, so it
    is done when something is to be watched."""
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(
        """
        int inotify_init1(int flags);
        int inotify_add_watch(int fd, const char *pathname, uint32_t mask);
        int inotify_rm_watch(int fd, int wd);
        """
    )
    return ffi, ffi.dlopen(None)


class Watcher:
    """Calls back, in the loop, when something happened in one of the directories."""

    def __init__(self, tree: Tree, happened: Callable[[], None]) -> None:
        """Raises OSError if there can be no more watchers for this user."""
        self._tree = tree
        self._happened = happened
        self.counts: Counter[str] = Counter()
        """events, overflows, lost: directories that couldn't be watched"""
        self._descriptor = _called(_bound()[1].inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        self._names: dict[int, set[str] | None] = {}
        self._watches: dict[str, tuple[int, int, int]] = {}
        """Directory -> its watch, and the device and inode that it was set for."""
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """Hear nothing any more."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def watched(self) -> int:
        """How many directories."""
        return len(self._watches)

    def watch(self, directories: Directories) -> tuple[bool, list[Trouble]]:
        """Watch these and no others: whether some are new, and which can't be watched.

        What happened in a new one before is not heard of: whoever asked has to look again.
        """
        troubles: list[Trouble] = []
        new = False
        for path in [path for path in self._watches if path not in directories]:
            self._forget(path)
        for path, names in directories.items():
            try:
                new = self._one(path, names) or new
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                    # What isn't there any more is found out by the event that says so.
                    self.counts["lost"] += 1
                    troubles.append(_why(error, path))
                self._forget(path)
        return new, troubles

    def _one(self, path: str, names: set[str] | None) -> bool:
        parts = [part for part in path.split("/") if part]
        with self._tree.directory(parts) as held:
            status = os.fstat(held)
            identity = (status.st_dev, status.st_ino)
            before = self._watches.get(path)
            if before is not None and before[1:] == identity and before[0] in self._names:
                self._names[before[0]] = _copied(names)
                return False
            self._forget(path)
            way = f"/proc/self/fd/{held}".encode()
            watch = _called(_bound()[1].inotify_add_watch(self._descriptor, way, MASK))
        # Where one directory has two paths (a bind mount) they share a watch, and all matters.
        self._names[watch] = None if watch in self._names else _copied(names)
        self._watches[path] = (watch, *identity)
        return True

    def _forget(self, path: str) -> None:
        before = self._watches.pop(path, None)
        if before is None or any(watch == before[0] for watch, *_ in self._watches.values()):
            return
        if before[0] in self._names:
            del self._names[before[0]]
            _bound()[1].inotify_rm_watch(self._descriptor, before[0])

    def _read(self) -> None:
        """Take in what happened."""
        matters = False
        for _ in range(_READS):
            try:
                data = os.read(self._descriptor, _READ)
            except BlockingIOError:
                break
            matters = self._taken(data) or matters
        if matters:
            self._happened()

    def _taken(self, data: bytes) -> bool:
        """Whether something of it matters."""
        matters, offset = False, 0
        while offset < len(data):
            watch, mask, _, size = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = data[offset : offset + size].rstrip(b"\0")
            offset += size
            self.counts["events"] += 1
            if mask & IN_Q_OVERFLOW:
                self.counts["overflows"] += 1
                matters = True
            elif mask & IN_IGNORED:
                self._names.pop(watch, None)
            elif watch in self._names:
                names = self._names[watch]
                matters = matters or bool(
                    mask & ITSELF or names is None or os.fsdecode(name) in names
                )
        return matters


def _copied(names: set[str] | None) -> set[str] | None:
    return None if names is None else set(names)


def _called(result: int) -> int:
    if result < 0:
        number = _bound()[0].errno
        raise OSError(number, os.strerror(number))
    return result


def _why(error: OSError, path: str) -> Trouble:
    if error.errno == errno.ENOSPC:
        sentence = (
            f"{path} can't be watched: the user has as many watches as it may "
            "(fs.inotify.max_user_watches); it is looked at by the clock."
        )
        return Trouble("limit", path, sentence)
    return Trouble.of(error, path)


class Quiet:
    """Waits for the end of a burst: until nothing happened for a while, or it went on for long."""

    def __init__(self, *, quiet_s: float, at_most_s: float) -> None:
        self._quiet_s = quiet_s
        self._at_most_s = at_most_s
        self._happened = asyncio.Event()
        self.bursts = 0

    def happened(self) -> None:
        """Something did."""
        self._happened.set()

    async def burst(self, otherwise_s: float) -> bool:
        """Wait for a burst and its end; False if there was none for ``otherwise_s``."""
        try:
            async with asyncio.timeout(otherwise_s):
                await self._happened.wait()
        except TimeoutError:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._at_most_s):
                while self._happened.is_set():
                    self._happened.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._quiet_s):
                            await self._happened.wait()
        self._happened.clear()
        self.bursts += 1
        return True
