# SPDX-License-Identifier: Apache-2.0
"""What survives a restart and a power cut: terms, epochs, the operator's will.

Each file is replaced whole: written beside, synced, renamed, and the directory synced, so that a
cut at any moment leaves the old content or the new one.  A file that can't be read is set aside,
never overwritten unseen, and counts as absent; what that means is decided where it is known: a lost
epoch is healed by the wall clock and the peer's echo (protocol R13), a lost block of terms by a
floor above everything seen (R2).  Everything here may block on the disk; callers in the loop use a
thread.
"""

from __future__ import annotations

import dataclasses
import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from twinbeat.config.inforce import COPY
from twinbeat.core.types import FOREVER, SECOND, Admin, Durable, Intervals, TermBlock, Wish
from twinbeat.durable import TEMPORARY, replace_file, sync_directory
from twinbeat.sync.document import Document

STATE_DIRECTORY: Final = Path("/var/lib/twinbeat")
SCHEMA: Final = 1
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class TermsFile(msgspec.Struct, frozen=True, kw_only=True):
    """terms.json."""

    schema: int = SCHEMA
    reserved_to: int
    """Every term up to this one may have been used."""


class EpochFile(msgspec.Struct, frozen=True, kw_only=True):
    """epoch.json."""

    schema: int = SCHEMA
    epoch: int
    """The newest boot epoch under which this node ever sent."""


class PeerFile(msgspec.Struct, frozen=True, kw_only=True):
    """peer.json."""

    schema: int = SCHEMA
    epoch: int
    """The peer's boot epoch as adopted."""
    counter: int
    """The highest counter ever accepted from it."""


class IntervalsFile(msgspec.Struct, frozen=True, kw_only=True):
    """`Intervals` of the core."""

    hello_us: int
    dead_us: int
    verify_us: int
    stall_us: int
    lease_us: int


class DurableFile(msgspec.Struct, frozen=True, kw_only=True):
    """operator.json: `Durable` of the core, and the boot that its times belong to."""

    schema: int = SCHEMA
    admin: str = Admin.ENABLED.name
    last_primary: bool = False
    peer_known: bool = False
    peer_paused: bool = False
    peer_paused_until_ns: int = FOREVER
    """If `peer_paused`: as `paused_until_ns`. Older versions didn't know it."""
    peer_paused_until_wall_ns: int = 0
    peer_pause_over: bool = False
    paused_until_ns: int = 0
    """Of the boot-time clock; 0 = not paused, FOREVER = until resumed."""
    paused_until_wall_ns: int = 0
    """The same moment by the wall clock, for the time after a reboot."""
    pause_reason: str = ""
    """In the operator's words."""
    pause_since_ns: int = 0
    """Of the boot-time clock."""
    boot: str = ""
    wish_number: int = 0
    """Of the intervals that an operator set while the pair ran."""
    wish: IntervalsFile | None = None
    """None = those of the configuration."""
    wish_even_so: bool = False


_File = TypeVar("_File", bound=msgspec.Struct)


class StoreError(Exception):
    """The disk refused; the sentence names the file and what to do about it."""


_REMEDIES: Final = {
    errno.EACCES: "run the agent as root, or as the user that the directory belongs to",
    errno.EPERM: "run the agent as root, or as the user that the directory belongs to",
    errno.EROFS: "mount the file system writable",
    errno.ENOSPC: "make room on the file system",
    errno.EDQUOT: "raise the quota of the agent's user",
    errno.EIO: "the disk fails: look at the kernel's log",
    errno.ENOTDIR: "something else has the place of a directory in that path",
}


def refused(doing: str, error: OSError) -> str:
    """What the file system refused, why, and what to do about it where that is known."""
    remedy = _REMEDIES.get(error.errno or 0, "")
    return f"{doing}: {error.strerror}" + (f"; {remedy}" if remedy else "")


def boot_id() -> str:
    """Which boot of the machine this is."""
    return _BOOT_ID.read_text().strip()


def write_whole(path: Path, content: bytes, *, mode: int = 0o600, at_once: bool = True) -> None:
    """`durable.replace_file`. Raises StoreError naming the file."""
    try:
        replace_file(path, content, mode=mode, at_once=False)
    except OSError as error:
        raise StoreError(refused(f"writing {path}", error)) from error
    if at_once:
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    try:
        sync_directory(path)
    except OSError as error:
        raise StoreError(refused(f"syncing {path}", error)) from error


class Store:
    """The files of one node."""

    def __init__(
        self,
        directory: Path = STATE_DIRECTORY,
        *,
        wall_s: Callable[[], int] = lambda: int(time.time()),
        boot: Callable[[], str] = boot_id,
    ) -> None:
        self.directory = directory
        self._wall_s = wall_s
        self._boot = boot
        self.complaints: list[str] = []
        """Sentences about files that could not be read and were set aside."""

    # -- terms -----------------------------------------------------------------------------------

    def terms_reserved_to(self) -> int:
        """The last term that may have been used, 0 if nothing is known."""
        file = self._read("terms.json", TermsFile)
        return file.reserved_to if file is not None and file.reserved_to >= 0 else 0

    def reserve_terms(self, first: int, last: int) -> TermBlock:
        """Reserve `first`..`last`; numbers that an earlier run may have used are left out.

        Returns the block that may be used from now on, which is safely on disk.  Raises StoreError;
        then nothing may be used that wasn't reserved before.
        """
        assert 0 < first <= last, (first, last)
        write_whole(
            self.directory / "terms.json",
            msgspec.json.encode(TermsFile(reserved_to=max(last, self.terms_reserved_to()))) + b"\n",
        )
        return TermBlock(first=first, last=last)

    # -- epochs ----------------------------------------------------------------------------------

    def raise_epoch(self, *, at_least: int = 0) -> int:
        """A boot epoch above every one used before, on disk before it is returned.

        The wall clock makes it grow even where the disk was lost; a clock set back is made up for
        by the persisted number.  Raises StoreError.
        """
        file = self._read("epoch.json", EpochFile)
        before = file.epoch if file is not None else 0
        epoch = max(before + 1, self._wall_s(), at_least)
        self.keep_epoch(epoch)
        return epoch

    def keep_epoch(self, epoch: int) -> None:
        """Persist an epoch in use already (the gate map outlived the agent, or it jumped)."""
        content = msgspec.json.encode(EpochFile(epoch=epoch)) + b"\n"
        write_whole(self.directory / "epoch.json", content)

    # -- the peer --------------------------------------------------------------------------------

    def peer(self) -> PeerFile | None:
        """The peer's epoch and highest counter, None if it was never heard."""
        return self._read("peer.json", PeerFile)

    def keep_peer(self, *, epoch: int, counter: int) -> None:
        """Persist the peer's position, of which a newer one follows soon; raises StoreError."""
        content = msgspec.json.encode(PeerFile(epoch=epoch, counter=counter)) + b"\n"
        write_whole(self.directory / "peer.json", content, at_once=False)

    def settle(self) -> None:
        """See to it that what was replaced is on disk now; raises StoreError."""
        _sync_directory(self.directory)

    # -- the operator's will -----------------------------------------------------------------------

    def durable(self, *, now_ns: int) -> Durable:
        """What the core must find again after a restart; a pause goes on over a reboot."""
        file = self._read("operator.json", DurableFile)
        if file is None:
            return Durable()
        until_ns, since_ns = file.paused_until_ns, file.pause_since_ns
        if file.boot != self._boot():
            since_ns = 0
        peer_until_ns = file.peer_paused_until_ns if file.peer_paused else 0
        if file.boot != self._boot():
            until_ns = self._again(until_ns, file.paused_until_wall_ns, now_ns)
            peer_until_ns = self._again(peer_until_ns, file.peer_paused_until_wall_ns, now_ns)
        return Durable(
            admin=Admin[file.admin] if file.admin in Admin.__members__ else Admin.ENABLED,
            last_primary=file.last_primary,
            peer_known=file.peer_known,
            peer_paused_until_ns=peer_until_ns,
            peer_pause_over=file.peer_pause_over,
            paused_until_ns=until_ns,
            pause_reason=file.pause_reason if until_ns else "",
            pause_since_ns=since_ns if until_ns else 0,
            wish=Wish(
                number=file.wish_number,
                intervals=Intervals(**msgspec.structs.asdict(file.wish)) if file.wish else None,
                even_so=file.wish_even_so,
            ),
        )

    def _again(self, until_ns: int, wall_ns: int, now_ns: int) -> int:
        """A moment of an earlier boot's clock by this one's; 0 = it is past, or never was."""
        if not 0 < until_ns < FOREVER:
            return until_ns
        left_ns = wall_ns - self._wall_s() * SECOND
        return now_ns + left_ns if left_ns > 0 else 0

    def _by_wall(self, until_ns: int, now_ns: int) -> int:
        """The same moment by the wall clock; 0 = there is no such moment."""
        return self._wall_s() * SECOND + until_ns - now_ns if 0 < until_ns < FOREVER else 0

    def save(self, durable: Durable, *, now_ns: int) -> None:
        """Persist it; raises StoreError."""
        until_ns, kept = durable.paused_until_ns, durable.wish.intervals
        file = DurableFile(
            admin=durable.admin.name,
            last_primary=durable.last_primary,
            peer_known=durable.peer_known,
            peer_paused=durable.peer_paused,
            peer_pause_over=durable.peer_pause_over,
            peer_paused_until_ns=durable.peer_paused_until_ns,
            peer_paused_until_wall_ns=self._by_wall(durable.peer_paused_until_ns, now_ns),
            paused_until_ns=until_ns,
            paused_until_wall_ns=self._by_wall(until_ns, now_ns),
            pause_reason=durable.pause_reason,
            pause_since_ns=durable.pause_since_ns,
            boot=self._boot(),
            wish_number=durable.wish.number,
            wish=IntervalsFile(**dataclasses.asdict(kept)) if kept is not None else None,
            wish_even_so=durable.wish.even_so,
        )
        write_whole(self.directory / "operator.json", msgspec.json.encode(file) + b"\n")

    # -- the shared document -----------------------------------------------------------------------

    def document(self) -> Document | None:
        """The shared document that is in force on this node, None while its file says it all."""
        return self._read(COPY, Document)

    def keep_document(self, document: Document | None) -> None:
        """Persist it, to be in force from the next start on; raises StoreError."""
        path = self.directory / COPY
        if document is not None:
            write_whole(path, msgspec.json.encode(document) + b"\n")
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(refused(f"removing {path}", error)) from error
        _sync_directory(self.directory)

    # -- files -----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the directory and remove what a power cut left half-written; raises StoreError."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for leftover in self.directory.glob(f"*{TEMPORARY}"):
                leftover.unlink()
        except OSError as error:
            raise StoreError(refused(f"preparing {self.directory}", error)) from error

    def _read(self, name: str, kind: type[_File]) -> _File | None:
        path = self.directory / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(refused(f"reading {path}", error)) from error
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError as error:
            aside = path.with_name(f"{name}.broken-{self._wall_s()}")
            try:
                path.replace(aside)
            except OSError as cause:
                raise StoreError(refused(f"setting {path} aside", cause)) from cause
            self.complaints.append(f"{path} can't be read ({error}); it was set aside as {aside}")
            return None
