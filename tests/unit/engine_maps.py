# SPDX-License-Identifier: Apache-2.0
"""The engine's maps as plain memory files, for tests of the thread that need no BPF.

The engine maps descriptors and doesn't ask what is behind them; the test holds the same pages and
plays the kernel: the structures below are live views on what the engine reads and writes.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twinbeat.engine._engine import ffi, lib
from twinbeat.engine.types import MapFds

_SHAPES = {
    "gate": ("struct tb_gate", 1),
    "self": ("struct tb_self", 1),
    "peer": ("struct tb_peer", 1),
    "links": ("struct tb_link", lib.TB_LINKS),
    "control": ("struct tb_control", lib.TB_CPUS),
}


class MemoryMaps:
    """Five maps in shared memory."""

    def __init__(self) -> None:
        self._fds = {name: os.memfd_create(name) for name in _SHAPES}
        self._pages: dict[str, mmap.mmap] = {}
        self._views: dict[str, Any] = {}
        for name, (shape, count) in _SHAPES.items():
            size = ffi.sizeof(shape) * count
            os.ftruncate(self._fds[name], size)
            self._pages[name] = mmap.mmap(self._fds[name], size)
            self._views[name] = ffi.cast(f"{shape} *", ffi.from_buffer(self._pages[name]))
        self.fds = MapFds(**self._fds)

    def __getattr__(self, name: str) -> Any:
        """`maps.gate.term`, `maps.links[0].hello_ns` ..."""
        return self._views[name]

    def close(self) -> None:
        self._views.clear()
        for fd in self._fds.values():
            os.close(fd)


@contextmanager
def memory_maps() -> Iterator[MemoryMaps]:
    maps = MemoryMaps()
    try:
        yield maps
    finally:
        maps.close()
