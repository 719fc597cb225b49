# SPDX-License-Identifier: Apache-2.0
"""Lengths of time by powers of two of a microsecond, as the engine and the kernel keep them."""

from __future__ import annotations

from typing import Final

BUCKETS: Final = 32
"""TB_BUCKETS of ebpf/tb_abi.h; bucket i counts lengths below 2^i microseconds."""


class Histogram:
    """Counts that only grow."""

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.sum_ns = 0

    def add(self, length_ns: int, times: int = 1) -> None:
        assert length_ns >= 0
        self.counts[min((length_ns // 1000).bit_length(), BUCKETS - 1)] += times
        self.sum_ns += length_ns * times
