# SPDX-License-Identifier: Apache-2.0
"""What the counters' histograms come to, for the agent and for its tools.  Pure."""

from collections.abc import Sequence


def percentile(counts: Sequence[int], part: float) -> int | None:
    """A percentile in ns of a histogram whose bucket i holds lengths below 2^i µs, interpolated."""
    total = sum(counts)
    if total == 0:
        return None
    wanted = part * total
    seen = 0
    for bucket, count in enumerate(counts):
        if count and seen + count >= wanted:
            low = 0 if bucket == 0 else 1 << (bucket - 1)
            high = 1 << bucket
            return int((low + (high - low) * (wanted - seen) / count) * 1000)
        seen += count
    return (1 << (len(counts) - 1)) * 1000


def grown(before: Sequence[int], now: Sequence[int]) -> list[int]:
    """What each bucket grew by; all of it where a new agent counts anew."""
    if len(before) != len(now) or any(new < old for old, new in zip(before, now, strict=True)):
        return list(now)
    return [new - old for old, new in zip(before, now, strict=True)]
