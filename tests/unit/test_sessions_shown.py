# SPDX-License-Identifier: Apache-2.0
"""What is told of lengths of time that are counted by powers of two."""

from __future__ import annotations

import pytest

from twinbeat.observe.histogram import Histogram
from twinbeat.sessions.shown import quantile_ns

MS = 1_000_000


def test_a_share_lies_within_the_bucket_that_it_ends_in() -> None:
    seen = Histogram()
    assert quantile_ns(seen.counts, 0.5) == 0
    for length_ms in range(1000):
        seen.add(length_ms * MS)
    assert quantile_ns(seen.counts, 0.5) == pytest.approx(500 * MS, rel=0.03)
    assert quantile_ns(seen.counts, 0.1) == pytest.approx(100 * MS, rel=0.03)
    # The last bucket that has any ends beyond the longest.
    assert quantile_ns(seen.counts, 1.0) == 1_048_576_000


def test_one_length_alone_is_told_by_its_bucket() -> None:
    seen = Histogram()
    seen.add(300 * MS, 10)
    assert quantile_ns(seen.counts, 0.999) == pytest.approx(524 * MS, rel=0.01)
    assert quantile_ns(seen.counts, 0.001) == pytest.approx(262 * MS, rel=0.01)
