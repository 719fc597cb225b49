# SPDX-License-Identifier: Apache-2.0
"""Families of metrics with the pair's label on every sample."""

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
)

from twinbeat.api.schema import Histogram, Status

BUCKETS_SHOWN: Final = 25
"""Buckets from 1 µs to 2^24 µs, 16.8 s; what is longer is in +Inf."""


def bucket_bounds() -> list[float]:
    """Upper bounds of the buckets shown, in seconds."""
    return [2**number / 1e6 for number in range(BUCKETS_SHOWN)]


class Family:
    """Adds the pair's label to every sample."""

    def __init__(self, status: Status) -> None:
        self._pair = str(status.pair)

    def gauge(self, name: str, text: str, value: float | None) -> Iterator[Metric]:
        """One number; nothing where it is not known."""
        if value is not None:
            family = GaugeMetricFamily(name, text, labels=["pair"])
            family.add_metric([self._pair], value)
            yield family

    def gauges(
        self, name: str, text: str, label: str, values: Iterable[tuple[str, float | None]]
    ) -> Iterator[Metric]:
        """Numbers by one label."""
        family = GaugeMetricFamily(name, text, labels=["pair", label])
        for key, value in values:
            if value is not None:
                family.add_metric([self._pair, key], value)
        yield family

    def table(
        self, name: str, text: str, labels: list[str], values: Iterable[tuple[list[str], float]]
    ) -> Iterator[Metric]:
        """Numbers by labels."""
        family = GaugeMetricFamily(name, text, labels=["pair", *labels])
        for keys, value in values:
            family.add_metric([self._pair, *keys], value)
        yield family

    def counter(self, name: str, text: str, value: float) -> Iterator[Metric]:
        """One count; `name` without _total."""
        family = CounterMetricFamily(name, text, labels=["pair"])
        family.add_metric([self._pair], value)
        yield family

    def counters(
        self, name: str, text: str, labels: list[str], values: Iterable[tuple[list[str], float]]
    ) -> Iterator[Metric]:
        """Counts by labels; `name` without _total."""
        family = CounterMetricFamily(name, text, labels=["pair", *labels])
        for keys, value in values:
            family.add_metric([self._pair, *keys], value)
        yield family

    def states(self, name: str, text: str, states: Iterable[str], now: str) -> Iterator[Metric]:
        """1 for the state that holds, 0 for the others."""
        family = StateSetMetricFamily(name, text, labels=["pair"])
        family.add_metric([self._pair], {state: state == now for state in states})
        yield family

    def info(self, name: str, text: str, labels: dict[str, str]) -> Iterator[Metric]:
        """What is said in labels; `name` without _info."""
        family = InfoMetricFamily(name, text, labels=["pair"])
        family.add_metric([self._pair], labels)
        yield family

    def histograms(
        self, name: str, text: str, label: str, values: Iterable[tuple[str, Histogram]]
    ) -> Iterator[Metric]:
        """Histograms by one label, or by none where it is empty."""
        labels = ["pair", label] if label else ["pair"]
        family = HistogramMetricFamily(name, text, labels=labels)
        for key, histogram in values:
            buckets, sum_s = cumulative(histogram)
            family.add_metric(
                [self._pair, key] if label else [self._pair], buckets=buckets, sum_value=sum_s
            )
        yield family


def cumulative(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Buckets as Prometheus has them, and the sum in seconds.

    Where no sum was kept it is estimated: every value counts as three quarters of its bucket's
    bound, the middle between two powers of two.
    """
    bounds = bucket_bounds()
    total = 0
    buckets: list[tuple[str, float]] = []
    for number, count in enumerate(histogram.counts):
        total += count
        if number < len(bounds):
            buckets.append((repr(bounds[number]), total))
    buckets.append(("+Inf", total))
    if histogram.sum_ns is not None:
        return buckets, histogram.sum_ns / 1e9
    estimate = sum(count * 0.75 * 2**number for number, count in enumerate(histogram.counts))
    return buckets, estimate / 1e6
