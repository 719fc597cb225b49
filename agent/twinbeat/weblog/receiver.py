# SPDX-License-Identifier: Apache-2.0
"""A source that is a socket: syslog in datagrams, on a unix socket or over UDP.

Whoever sends a datagram isn't asked to wait, so what can't be taken is refused and counted: what
the journal has no room for here, what the kernel's buffer had no room for by the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from twinbeat.weblog.block import PAYLOAD_MAX
from twinbeat.weblog.sources import LogSource, endpoint
from twinbeat.weblog.syslog import escaped, understand

DATAGRAM_MAX: Final = 65_536
WAITING_MAX: Final = 4 * PAYLOAD_MAX
"""Bytes of records that were not gathered yet; beyond it datagrams are refused."""
DRAIN_MOST: Final = 512
"""Datagrams that are taken before others have their turn."""
BUFFER: Final = 4 << 20
"""Bytes asked of the kernel; it gives `net.core.rmem_max` at most."""
SO_MEMINFO: Final = 55
DROPS: Final = 8
"""Place of SK_MEMINFO_DROPS in what SO_MEMINFO gives (linux/sock_diag.h)."""


class Receiver:
    """One socket. `gathered` gives what has come since it was asked last."""

    def __init__(self, source: LogSource, has_room: Callable[[], bool]) -> None:
        self.source = source
        self.counts: Counter[str] = Counter()
        """malformed, refused, missed (by the kernel), empty, cut; all only grow."""
        self.why = ""
        """Why nothing can be heard: a sentence."""
        self._has_room = has_room
        self._socket: socket.socket | None = None
        self._records: list[bytes] = []
        self._size = 0
        self._missed = 0

    def open(self) -> None:
        """Listen, unless it listens already. What fails is in `why`."""
        if self._socket is not None:
            return
        try:
            made = self._made()
        except OSError as error:
            where = self.source.socket or self.source.listen
            self.why = f"{where} can't be listened at: {error.strerror or error}."
            return
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.why = ""
        self._socket = made
        asyncio.get_running_loop().add_reader(made, self._drain)

    def _made(self) -> socket.socket:
        where = endpoint(self.source.listen)
        if where is not None:
            family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
            made = socket.socket(family, socket.SOCK_DGRAM)
            try:
                made.bind(where)
            except OSError:
                made.close()
                raise
            return made
        path = self.source.socket
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise OSError(0, "something else is there")
            os.unlink(path)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            made.bind(path)
            # Web servers are other users; whoever can reach the directory may log.
            os.chmod(path, 0o666)
        except OSError:
            made.close()
            raise
        return made

    def close(self) -> None:
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        if self.source.socket:
            with contextlib.suppress(OSError):
                os.unlink(self.source.socket)

    def gathered(self) -> tuple[bytes, int] | None:
        """Records with their newlines, and how many; at most a block's worth."""
        if not self._records:
            return None
        records: list[bytes] = []
        size = 0
        for record in self._records:
            if size + len(record) + 1 > PAYLOAD_MAX:
                break
            records.append(record)
            size += len(record) + 1
        del self._records[: len(records)]
        self._size -= size
        return b"\n".join([*records, b""]), len(records)

    def look(self) -> None:
        """What the kernel had no room for."""
        if self._socket is None:
            return
        try:
            told = self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 64)
        except OSError:
            return
        if len(told) >= 4 * (DROPS + 1):
            missed = struct.unpack_from("=9I", told)[DROPS]
            self.counts["missed"] += (missed - self._missed) & 0xFFFFFFFF
            self._missed = missed

    def _drain(self) -> None:
        assert self._socket is not None
        now = time.time()
        has_room = self._has_room()
        kind = self.source.kind
        for _ in range(DRAIN_MOST):
            try:
                datagram, _, flags, _ = self._socket.recvmsg(DATAGRAM_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                self.why = f"{self.source.name}: {error.strerror}."
                return
            if not has_room or self._size >= WAITING_MAX:
                self.counts["refused"] += 1
                continue
            if flags & socket.MSG_TRUNC:
                self.counts["cut"] += 1
            if kind == "raw":
                record = escaped(datagram)
            else:
                said = understand(datagram, now)
                if said.malformed:
                    self.counts["malformed"] += 1
                record = escaped(said.line if kind == "syslog" else said.message)
            if not record:
                self.counts["empty"] += 1
                continue
            self._records.append(record)
            self._size += len(record) + 1
