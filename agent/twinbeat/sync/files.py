# SPDX-License-Identifier: Apache-2.0
"""What is there of a list of files: a walk that follows no symbolic link, and reads what changed.

Everything here blocks, and runs in a thread. What can't be told is `UNKNOWN`, never absent: a
directory that can't be read must not look like one that was emptied.

A content is hashed again only if size, inode or one of the two times differ from those of the last
time. A file that was touched right before is hashed the next time as well: within one tick of the
file system's clock it may change and look the same.

What a node says it has, it has on disk: a content that was hashed is synced, and so is a directory
that changed. Otherwise the power might take back here what the other node took over, and what was
lost would look like a change, or a deletion, of somebody's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from dataclasses import dataclass, field
from typing import Final

from twinbeat.sync.beneath import Tally, Tree, Trouble, troubles
from twinbeat.sync.lists import PATH_MAX, TEMPORARY, FileList, Root, components, ours, reserved
from twinbeat.sync.manifest import ENTRIES_MAX, FILE_MAX, Entry, Kind

CHUNK: Final = 1 << 20
RACY_NS: Final = 100_000_000
"""What was changed within this time before it was read is read again."""
_MTIME_MAX: Final = 1 << 62
ATTEMPTS: Final = 3
"""A file that changes while it is read is read so often."""
READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Known = tuple[int, int, int, int, int, str]
"""Device, inode, size, time of modification and of change, and the hash they stand for."""


@dataclass(slots=True, kw_only=True)
class Scan:
    """What was found."""

    entries: dict[str, Entry] = field(default_factory=dict)
    directories: dict[str, set[str] | None] = field(default_factory=dict)
    """What has to be watched: directory -> the names in it that matter, None = all."""
    roots: dict[str, int] = field(default_factory=dict)
    """Directories that paths of the list lie in, or begin with -> inode: another one is another
    file system."""
    leftovers: list[str] = field(default_factory=list)
    """Temporary files: of what is under way, or was interrupted."""
    hashed_bytes: int = 0


class Reader:
    """Reads one list, and remembers what it hashed."""

    def __init__(self, files: FileList, tree: Tree, known: dict[str, Known] | None = None) -> None:
        self.files = files
        self.tree = tree
        self.known: dict[str, Known] = known if known is not None else {}
        self._durable: dict[str, tuple[int, ...]] = {}
        """Directory -> what it was like when it was synced."""
        self.tally = Tally()

    def scan(self) -> Scan:
        """All of the list. Raises Trouble only if there is more than a list may have."""
        found = Scan()
        for path in self.files.unusable():
            self._unknown(found, path, Trouble("escape", path))
        for root in self.files.roots():
            self._root(found, root)
        for path in [path for path in list(self.known) if path not in found.entries]:
            self.known.pop(path, None)
        for path in [path for path in self._durable if path not in found.directories]:
            del self._durable[path]
        self.tally.add("scans")
        self.tally.add("hashed_bytes", found.hashed_bytes)
        return found

    def look(self, path: str) -> Entry:
        """One path as it is now. Raises Trouble where it can't be told."""
        try:
            with self.tree.parent(self.files, path) as (descriptor, name):
                return self._entry(descriptor, name, path, Scan())
        except Trouble as trouble:
            if trouble.code == "missing":
                return Entry(path=path, kind=Kind.ABSENT)
            raise

    # -- the walk --------------------------------------------------------------------------------

    def _root(self, found: Scan, root: Root) -> None:
        """One path of the list, with what is below it."""
        above = root.fixed[:-1] if root.exact else root.fixed
        for depth in range(len(above) + 1):
            # Each step by itself, so that it is known where the way ends.
            here, following = "/" + "/".join(above[:depth]), root.fixed[depth : depth + 1]
            try:
                with self.tree.directory(above[:depth]) as descriptor:
                    if following:
                        _watch(found, here, following[0])
                    if depth < len(above):
                        continue
                    found.roots[here] = os.fstat(descriptor).st_ino
                    if root.exact:
                        self._one(found, root, descriptor, above, root.fixed[-1])
                        self._leftovers(found, descriptor, above)
                    else:
                        self._list(found, root, descriptor, above)
            except FileNotFoundError:
                return
            except OSError as error:
                self._unknown(found, root.path if root.exact else here, Trouble.of(error, here))
                return

    def _leftovers(self, found: Scan, above: int, parts: tuple[str, ...]) -> None:
        """Temporary files beside a path of the list, in a directory that isn't walked itself."""
        with contextlib.suppress(OSError):
            descriptor = os.open(".", LIST, dir_fd=above)
            try:
                before = os.fstat(descriptor)
                names = [name for name in os.listdir(descriptor) if name.startswith(TEMPORARY)]
                self._sync("/" + "/".join(parts), before, descriptor)
            finally:
                os.close(descriptor)
            found.leftovers += ["/" + "/".join((*parts, name)) for name in names]

    def _list(self, found: Scan, root: Root, above: int, parts: tuple[str, ...]) -> None:
        """What is in a directory."""
        path = "/" + "/".join(parts)
        found.directories[path] = None
        try:
            descriptor = os.open(".", LIST, dir_fd=above)
            try:
                before = os.fstat(descriptor)
                names = sorted(os.listdir(descriptor))
                self._sync(path, before, descriptor)
                for name in names:
                    self._one(found, root, descriptor, parts, name)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._unknown(found, path, Trouble.of(error, path))

    def _sync(self, path: str, before: os.stat_result, descriptor: int) -> None:
        """Make durable what a directory has, if it changed since the last time."""
        like = (before.st_dev, before.st_ino, before.st_mtime_ns, before.st_ctime_ns)
        if self._durable.get(path) == like:
            return
        os.fsync(descriptor)
        self.tally.add("synced")
        if time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > RACY_NS:
            self._durable[path] = like

    def _one(self, found: Scan, root: Root, above: int, before: tuple[str, ...], name: str) -> None:
        """One name in a directory."""
        parts = (*before, name)
        path = "/" + "/".join(parts)
        if not root.leads_to(parts) or reserved(path):
            return
        if ours(name):
            if name.startswith(TEMPORARY):
                found.leftovers.append(path)
            return
        within = len(parts) >= len(root.parts)
        if within and not self.files.covers(path):
            self._uncovered(found, path)
            return
        try:
            if within:
                entry = self._entry(above, name, path, found)
                if entry.kind is not Kind.ABSENT:
                    self._add(found, entry)
                further = entry.kind is Kind.DIRECTORY
            else:
                # It leads to paths of the list, and is none itself.
                further = stat.S_ISDIR(os.lstat(name, dir_fd=above).st_mode)
            if further:
                inner = os.open(name, LIST, dir_fd=above)
                try:
                    if parts == root.parts:
                        found.roots[path] = os.fstat(inner).st_ino
                    self._list(found, root, inner, parts)
                finally:
                    os.close(inner)
        except FileNotFoundError:
            found.entries.pop(path, None)
        except OSError as error:
            self._unknown(found, path, Trouble.of(error, path))
        except Trouble as trouble:
            if trouble.code == "limit" and trouble.path == self.files.name:
                raise
            self._unknown(found, path, trouble)

    def _uncovered(self, found: Scan, path: str) -> None:
        """What is left out says nothing, unless it is its name that nobody can write down."""
        if components(path) is None:
            plain = path.encode("utf-8", "replace")[:PATH_MAX].decode("utf-8", "ignore")
            self._unknown(found, plain, Trouble("name", plain))

    def _unknown(self, found: Scan, path: str, trouble: Trouble) -> None:
        self.tally.add(trouble.code)
        self._add(found, Entry(path=path, kind=Kind.UNKNOWN, why=trouble.code))

    def _add(self, found: Scan, entry: Entry) -> None:
        if len(found.entries) >= ENTRIES_MAX:
            sentence = f"The list {self.files.name!r} has more than {ENTRIES_MAX} entries."
            raise Trouble("limit", self.files.name, sentence)
        found.entries[entry.path] = entry

    # -- one entry -------------------------------------------------------------------------------

    def _entry(self, above: int, name: str, path: str, found: Scan) -> Entry:
        """What there is under a name. Raises Trouble and OSError."""
        try:
            status = os.lstat(name, dir_fd=above)
        except FileNotFoundError:
            return Entry(path=path, kind=Kind.ABSENT)
        if stat.S_ISDIR(status.st_mode):
            return self._made(path, Kind.DIRECTORY, status)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=above)
            try:
                target.encode()
            except UnicodeEncodeError:
                raise Trouble("name", path) from None
            return self._made(path, Kind.LINK, status, target=target)
        if not stat.S_ISREG(status.st_mode):
            raise Trouble("kind", path)
        return self._file(above, name, path, status, found)

    def _file(self, above: int, name: str, path: str, status: os.stat_result, found: Scan) -> Entry:
        known = self.known.get(path)
        if known is not None and known[:5] == _identity(status):
            return self._made(path, Kind.FILE, status, content=known[5])
        for _ in range(ATTEMPTS):
            begun_ns = time.time_ns()
            descriptor = os.open(name, READ, dir_fd=above)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise Trouble("kind", path)
                content, size = _hashed(descriptor, path)
                os.fsync(descriptor)
                after = os.fstat(descriptor)
            finally:
                os.close(descriptor)
            found.hashed_bytes += size
            if _identity(after) == _identity(status) and size == status.st_size:
                if begun_ns - max(status.st_mtime_ns, status.st_ctime_ns) > RACY_NS:
                    self.known[path] = (*_identity(status), content)
                return self._made(path, Kind.FILE, status, content=content)
        raise Trouble("busy", path)

    def _made(
        self,
        path: str,
        kind: Kind,
        status: os.stat_result,
        *,
        content: str = "",
        target: str = "",
    ) -> Entry:
        owner = self.files.owner
        return Entry(
            path=path,
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid if owner else 0,
            gid=status.st_gid if owner else 0,
            size=status.st_size if kind is Kind.FILE else 0,
            mtime_ns=_mtime(status) if kind is Kind.FILE else 0,
            content=content,
            target=target,
        )


def content(tree: Tree, files: FileList, path: str, offset: int, size: int) -> bytes:
    """A range of a file of the list; less where the file ends. Raises Trouble.

    Who asked for it sees by the hash whether it is of the content that was wanted.
    """
    with tree.parent(files, path) as (above, name), troubles(path):
        descriptor = os.open(name, READ, dir_fd=above)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Trouble("kind", path)
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)


def _identity(status: os.stat_result) -> tuple[int, int, int, int, int]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _mtime(status: os.stat_result) -> int:
    """As far as it can be sent."""
    return max(-_MTIME_MAX, min(status.st_mtime_ns, _MTIME_MAX - 1))


def _hashed(descriptor: int, path: str) -> tuple[str, int]:
    digest, size = hashlib.blake2b(digest_size=32), 0
    while data := os.read(descriptor, CHUNK):
        digest.update(data)
        size += len(data)
        if size > FILE_MAX:
            raise Trouble("limit", path, f"{path} has more than {FILE_MAX >> 20} MiB.")
    return digest.hexdigest(), size


def _watch(found: Scan, path: str, name: str) -> None:
    """A name in a directory matters."""
    names = found.directories.setdefault(path, set())
    if names is not None:
        names.add(name)
