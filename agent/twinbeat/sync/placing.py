# SPDX-License-Identifier: Apache-2.0
"""Makes a path what it is to be: whole or not at all, and only where it is what was expected.

A file is written beside its place, synced, and renamed over what was there; whoever reads it sees
the old one or the new one. Owner and mode never change under a file that somebody may hold by
another name either: it is replaced by a copy.

Before anything is put in place, the way to it is walked again: the directory must still be the one
that the temporary file lies in. Names are durable once the next walk (`files.Reader`) has synced
their directories, and nobody says before that that they are in place.

Everything here blocks, and runs in a thread. What goes wrong is a Trouble, and leaves what was
there.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import stat
import time
from typing import Final

from twinbeat.sync.beneath import Tally, Trouble, troubles
from twinbeat.sync.files import CHUNK, READ, Reader
from twinbeat.sync.lists import CONFLICT, NAME_MAX, TEMPORARY, FileList, components
from twinbeat.sync.manifest import Entry, Kind, Order, What

COPIES_MAX: Final = 16
"""Of one file; the oldest go."""
SPARE: Final = 64 << 10
"""Bytes that stay free on a disk."""
WRITE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Place:
    """One list on this node, for writing."""

    def __init__(self, files: FileList, reader: Reader) -> None:
        self.files = files
        self._reader = reader
        self.tree = reader.tree
        self.tally = Tally()

    def expect(self, order: Order) -> Entry:
        """What is there now. Raises Trouble if it isn't what was expected."""
        now = self._reader.look(order.entry.path)
        if now.stamp != order.expect:
            raise Trouble("changed", order.entry.path)
        return now

    def delete(self, order: Order) -> None:
        """Remove it."""
        assert order.what is What.DELETE
        path = order.entry.path
        now = self.expect(order)
        with self.tree.parent(self.files, path) as (above, name), troubles(path):
            if now.kind is Kind.DIRECTORY:
                os.rmdir(name, dir_fd=above)
            elif now.kind is not Kind.ABSENT:
                os.unlink(name, dir_fd=above)
        self.tally.add("deleted")

    def make_directory(self, order: Order, now_ns: int) -> None:
        """Have a directory there, open for what comes into it; `finish_directory` does the rest."""
        path = order.entry.path
        now = self.expect(order)
        with self.tree.parent(self.files, path) as (above, name), troubles(path):
            if now.kind is Kind.DIRECTORY:
                return
            self.make_way(order, now, above, name, now_ns)
            os.mkdir(name, 0o700, dir_fd=above)

    def finish_directory(self, entry: Entry) -> None:
        """Give a directory its owner and mode, when everything in it is in place."""
        path = entry.path
        with self.tree.parent(self.files, path) as (above, name), troubles(path):
            descriptor = os.open(name, FLAGS, dir_fd=above)
            try:
                self.dress(descriptor, entry)
            finally:
                os.close(descriptor)
        self.tally.add("placed")

    def make_link(self, order: Order, now_ns: int) -> None:
        """Have a symbolic link there. Where it leads to is nobody's business."""
        entry = order.entry
        temporary = _temporary(entry)
        now = self.expect(order)
        with self.tree.parent(self.files, entry.path) as (above, name), troubles(entry.path):
            _remove(above, temporary)
            os.symlink(entry.target, temporary, dir_fd=above)
            try:
                if self.files.owner:
                    status = os.lstat(temporary, dir_fd=above)
                    if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
                        os.chown(
                            temporary, entry.uid, entry.gid, dir_fd=above, follow_symlinks=False
                        )
                self.make_way(order, now, above, name, now_ns)
                os.rename(temporary, name, src_dir_fd=above, dst_dir_fd=above)
            except OSError:
                _remove(above, temporary)
                raise
        self.placed(entry.path)

    def copy_own(self, order: Order, now_ns: int) -> None:
        """The content is there already, and only owner or mode differ: replace it by a copy."""
        path = order.entry.path
        with self.tree.parent(self.files, path) as (above, name), troubles(path):
            descriptor = os.open(name, READ, dir_fd=above)
            try:
                with Incoming(self, order, resume=False) as incoming:
                    while data := os.read(descriptor, CHUNK):
                        incoming.write(incoming.size, data)
                    incoming.put(now_ns)
            finally:
                os.close(descriptor)

    def sweep(self, leftovers: list[str], *, older_than_s: float) -> int:
        """Remove temporary files that nobody will go on with; returns how many."""
        removed = 0
        for path in leftovers:
            parts = components(path)
            if parts is None or not parts[-1].startswith(TEMPORARY):
                continue
            # What lies beside the list's own single files isn't covered by it, nor is this name.
            with contextlib.suppress(OSError), self.tree.directory(parts[:-1]) as above:
                status = os.lstat(parts[-1], dir_fd=above)
                old = status.st_mtime < time.time() - older_than_s
                if old and not stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                    os.unlink(parts[-1], dir_fd=above)
                    removed += 1
        self.tally.add("swept", removed)
        return removed

    # -- for those above ---------------------------------------------------------------------------

    def placed(self, path: str) -> None:
        self.tally.add("placed")

    def dress(self, descriptor: int, entry: Entry) -> None:
        """Owner first: changing it takes bits off the mode."""
        status = os.fstat(descriptor)
        if self.files.owner and (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            os.fchown(descriptor, entry.uid, entry.gid)
            status = os.fstat(descriptor)
        if stat.S_IMODE(status.st_mode) != entry.mode:
            os.fchmod(descriptor, entry.mode)

    def make_way(self, order: Order, now: Entry, above: int, name: str, now_ns: int) -> None:
        """Make way for something else: keep a copy if that is the order, remove what must go."""
        if order.keep and now.kind is not Kind.ABSENT:
            copy = self._copy_name(above, name, now_ns)
            moved = now.kind is Kind.DIRECTORY
            if not moved:
                try:
                    os.link(name, copy, src_dir_fd=above, dst_dir_fd=above, follow_symlinks=False)
                except PermissionError:
                    # The kernel lets nobody link to what he may not write.
                    moved = True
            if moved:
                os.rename(name, copy, src_dir_fd=above, dst_dir_fd=above)
            self.tally.add("kept")
            if moved:
                return
        if now.kind is Kind.DIRECTORY and order.entry.kind is not Kind.DIRECTORY:
            os.rmdir(name, dir_fd=above)
        elif now.kind not in {Kind.DIRECTORY, Kind.ABSENT} and (order.entry.kind is Kind.DIRECTORY):
            os.unlink(name, dir_fd=above)

    def _copy_name(self, above: int, name: str, now_ns: int) -> str:
        """A free name for what gives way; the oldest copies of the file go."""
        moment = datetime.datetime.fromtimestamp(now_ns // 1_000_000_000, datetime.UTC)
        ending = f"{CONFLICT}{moment:%Y%m%dT%H%M%S}.{now_ns // 1_000_000 % 1000:03}Z"
        stem = _shortened(name, NAME_MAX - len(ending) - 3)
        descriptor = os.open(".", FLAGS, dir_fd=above)
        try:
            copies = sorted(
                each for each in os.listdir(descriptor) if each.startswith(stem + CONFLICT)
            )
        finally:
            os.close(descriptor)
        for old in copies[: max(0, len(copies) - COPIES_MAX + 1)]:
            with contextlib.suppress(OSError):
                os.unlink(old, dir_fd=above)
                self.tally.add("copies_dropped")
        number = sum(each.startswith(stem + ending) for each in copies)
        return f"{stem}{ending}" + (f"-{number}" if number else "")


class Incoming:
    """A file's content on its way into a temporary file."""

    def __init__(self, place: Place, order: Order, *, resume: bool = True) -> None:
        self._place = place
        self.order = order
        self.entry = order.entry
        self.size = 0
        """Bytes that are there."""
        self._descriptor = -1
        self._digest = hashlib.blake2b(digest_size=32)
        self._name = _temporary(self.entry)
        with self._parent() as (above, _), troubles(self.entry.path):
            _has_room(above, self.entry)
            self._open(above, resume=resume)

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def _parent(self) -> contextlib.AbstractContextManager[tuple[int, str]]:
        return self._place.tree.parent(self._place.files, self.entry.path)

    def _open(self, above: int, *, resume: bool) -> None:
        """Go on with what is there of this very content, or begin anew."""
        if resume:
            with contextlib.suppress(OSError):
                self._descriptor = os.open(self._name, WRITE, dir_fd=above)
        if self._descriptor >= 0:
            status = os.fstat(self._descriptor)
            own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
            if own and status.st_nlink == 1 and status.st_size <= self.entry.size:
                while data := os.read(self._descriptor, CHUNK):
                    self._digest.update(data)
                    self.size += len(data)
                if self.size:
                    self._place.tally.add("resumed")
                return
            os.close(self._descriptor)
            self._descriptor = -1
        _remove(above, self._name)
        flags = WRITE | os.O_CREAT | os.O_EXCL
        self._descriptor = os.open(self._name, flags, 0o600, dir_fd=above)

    def write(self, offset: int, data: bytes) -> None:
        """The next piece. Raises Trouble; nothing of the file is kept then."""
        try:
            if offset != self.size or self.size + len(data) > self.entry.size:
                raise Trouble("changed", self.entry.path)
            with troubles(self.entry.path):
                view = memoryview(data)
                while view:
                    written = os.pwrite(self._descriptor, view, self.size)
                    self._digest.update(view[:written])
                    self.size += written
                    view = view[written:]
        except Trouble:
            self.drop()
            raise

    def put(self, now_ns: int) -> None:
        """All of it is there: put it in place. Raises Trouble; what was there stays then."""
        place, entry, path = self._place, self.entry, self.entry.path
        try:
            if self.size != entry.size or self._digest.hexdigest() != entry.content:
                raise Trouble("changed", path)
            with troubles(path):
                place.dress(self._descriptor, entry)
                os.utime(self._descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
                os.fsync(self._descriptor)
            now = place.expect(self.order)
            with self._parent() as (above, name), troubles(path):
                lies, mine = os.lstat(self._name, dir_fd=above), os.fstat(self._descriptor)
                if not os.path.samestat(lies, mine):
                    raise Trouble("changed", path)
                place.make_way(self.order, now, above, name, now_ns)
                os.rename(self._name, name, src_dir_fd=above, dst_dir_fd=above)
        except Trouble:
            self.drop()
            raise
        self.pause()
        place.placed(path)

    def pause(self) -> None:
        """Leave what there is for the next time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def drop(self) -> None:
        """Leave nothing."""
        if self._descriptor < 0:
            return
        mine = os.fstat(self._descriptor)
        self.pause()
        with contextlib.suppress(Trouble, OSError), self._parent() as (above, _):
            if os.path.samestat(os.lstat(self._name, dir_fd=above), mine):
                os.unlink(self._name, dir_fd=above)


def _temporary(entry: Entry) -> str:
    """The same for the same content under the same name, so that it can be gone on with."""
    told = f"{entry.path}\0{entry.kind}\0{entry.content}"
    return TEMPORARY + hashlib.blake2b(told.encode(), digest_size=12).hexdigest()


def _has_room(above: int, entry: Entry) -> None:
    """Rather nothing than half: a content that can't fit isn't even asked for."""
    status = os.statvfs(above)
    free = status.f_bavail * status.f_frsize
    if status.f_blocks and free < entry.size + SPARE:
        sentence = f"{entry.path}: the disk is full: {entry.size} bytes needed, {free} free."
        raise Trouble("full", entry.path, sentence)


def _remove(above: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=above)


def _shortened(name: str, size: int) -> str:
    """The beginning of a name, cut between characters."""
    return name.encode()[:size].decode("utf-8", "ignore")
