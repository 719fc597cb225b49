# SPDX-License-Identifier: Apache-2.0
"""Prometheus' text format, version 0.0.4, of metric families.

`prometheus_client` has it beside three HTTP servers and a TLS client, which are three megabytes in
a process that has a server of its own; a test compares the two.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

_SUFFIXES: Final = {"counter": "_total", "info": "_info"}
"""What the format appends to a family's name."""
_TYPES: Final = {"info": "gauge", "stateset": "gauge"}
"""Types that the format doesn't know, and what it calls them."""


def text(families: Iterable[Metric]) -> bytes:
    """The exposition of some families, in their order."""
    lines: list[str] = []
    for family in families:
        name = family.name + _SUFFIXES.get(family.type, "")
        lines.append(f"# HELP {name} {_escaped(family.documentation)}\n")
        lines.append(f"# TYPE {name} {_TYPES.get(family.type, family.type)}\n")
        lines += [_line(sample) for sample in family.samples]
    return "".join(lines).encode()


def _line(sample: Sample) -> str:
    labels = ",".join(
        '{}="{}"'.format(key, _escaped(value).replace('"', r"\""))
        for key, value in sorted(sample.labels.items())
    )
    value: str = floatToGoString(sample.value)  # type: ignore[no-untyped-call]
    return f"{sample.name}{{{labels}}} {value}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n")
