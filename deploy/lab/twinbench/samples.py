# SPDX-License-Identifier: Apache-2.0
"""What is made of a handful of noisy values.

A virtual machine loses its processor for milliseconds now and then, so means say nothing here: the
bench speaks of medians, of maxima, and of how many values exceeded a bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def median(values: Sequence[float]) -> float | None:
    """The middle value, or the mean of the two in the middle; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of all values don't exceed; None of nothing."""
    if not 0 < share <= 1:
        raise ValueError(f"a share lies above 0 and up to 1, not at {share}")
    if not values:
        return None
    return sorted(values)[math.ceil(share * len(values)) - 1]


def count_above(values: Sequence[float], bound: float) -> int:
    """How many values exceed a bound."""
    return sum(1 for value in values if value > bound)


def ratio(above: float | None, below: float | None) -> float | None:
    """`above / below`; None if either is unknown or nothing can be divided by it."""
    if above is None or below is None or below <= 0:
        return None
    return above / below
