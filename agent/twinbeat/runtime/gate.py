# SPDX-License-Identifier: Apache-2.0
"""The last resort: shuts a gate by its own words, whatever engine or agent do.

The engine writes these words in the ordinary course.  Here they are written when it hangs or is
gone: each is one aligned store into the shared map, so a reader in the kernel sees the old word or
the new.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

from twinbeat.engine import abi, bpf
from twinbeat.engine.maps import PIN_ROOT

_WORD: Final = 8
_TERM: Final = abi.Gate.term.offset // _WORD
_OPEN_UNTIL: Final = abi.Gate.open_until.offset // _WORD


class GateWords:
    """The words of one gate, mapped."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED)
        self._words = memoryview(self._map).cast("Q")

    def close(self) -> None:
        self._words.release()
        self._map.close()

    def shut(self) -> None:
        """No lease, then no term: shut whichever word is seen first."""
        self._words[_OPEN_UNTIL] = 0
        self._words[_TERM] = 0

    def term(self) -> int:
        """The term under which the node serves or served, 0 = none."""
        return self._words[_TERM]

    def is_shut(self) -> bool:
        return self._words[_TERM] == 0 or self._words[_OPEN_UNTIL] == 0


def shut_pinned(root: Path = PIN_ROOT) -> list[str]:
    """Shut every gate pinned on this node; the pairs whose gate was shut.

    Idempotent, and no error where nothing is pinned.  Raises BpfError or OSError if a gate that is
    there can't be reached, or if this user can't see whether there is one.
    """
    try:
        # Not glob(), which takes a directory that it may not read for an empty one.
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    pairs = []
    for pin in (root / name / "gate" for name in names):
        if not pin.exists():
            continue
        fd = bpf.open_pin(pin)
        try:
            words = GateWords(fd)
            words.shut()
            words.close()
        finally:
            os.close(fd)
        pairs.append(pin.parent.name)
    return pairs
