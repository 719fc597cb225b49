# SPDX-License-Identifier: Apache-2.0
"""What the worker says of itself, in the words of the schema: for status, counters and metrics.

The worker keeps all of it; here it is only told again. Most of it is called the same in both.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from twinbeat.api import schema
from twinbeat.api.worker import Report
from twinbeat.runtime import conntrack
from twinbeat.sessions.shown import SessionsStatus
from twinbeat.weblog.shown import WeblogView

_Told = TypeVar("_Told", bound=Struct)


def sync(report: Report | None) -> schema.Sync | None:
    """How the shared configuration, files and log records stand; None: no worker tells."""
    if report is None:
        return None
    weblog = _weblog(report.weblog) if report.weblog is not None else None
    return _alike(report, schema.Sync, weblog=weblog)


def connections(report: Report | None) -> schema.Connections | None:
    """How the state of connections stands; None: no worker tells."""
    brief = report.connections if report is not None else None
    if brief is None:
        return None
    return _alike(
        brief,
        schema.Connections,
        flows=None if brief.flows < 0 else brief.flows,
        flows_max=conntrack.setting("nf_conntrack_max"),
        heard_ns=None if brief.heard_ms < 0 else brief.heard_ms * 1_000_000,
        filled_ns=None if brief.fill_ms < 0 else brief.fill_ms * 1_000_000,
    )


def persistence(told: SessionsStatus | None) -> schema.Sessions | None:
    """How persistence stands; None: no worker tells."""
    if told is None:
        return None
    window = schema.Histogram(counts=told.window, sum_ns=told.window_sum_ns)
    return _alike(told, schema.Sessions, window=window)


def _weblog(view: WeblogView) -> schema.Weblog:
    return _alike(
        view,
        schema.Weblog,
        listening=view.port != 0,
        pulling=view.replication.state == "pulling",
        waiting=view.replication.waiting,
        clients=[
            schema.WeblogClient(name=each.name, connected=each.connected > 0, lag=each.lag)
            for each in view.clients
        ],
    )


def _alike(said: Struct, kind: type[_Told], **other: Any) -> _Told:
    """A ``kind`` of what is called the same in ``said``; ``other`` is what isn't."""
    same = {name: getattr(said, name) for name in kind.__struct_fields__ if name not in other}
    return msgspec.convert(same | other, kind, from_attributes=True)
