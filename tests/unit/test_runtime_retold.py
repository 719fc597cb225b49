# SPDX-License-Identifier: Apache-2.0
"""What the worker says stands in the status as it said it, with nothing left out."""

from typing import Any

import msgspec
import pytest
from msgspec import Struct

from twinbeat.api import schema
from twinbeat.api.worker import Report
from twinbeat.runtime import retold
from twinbeat.sessions.connections import ConnectionsBrief
from twinbeat.sessions.shown import SessionsStatus
from twinbeat.weblog.shown import WeblogView

OWN = {
    "Connections": {"flows_max", "heard_ns", "filled_ns"},
    "Weblog": {"listening", "pulling", "waiting"},
    "WeblogClient": {"connected"},
}
"""What isn't called so by the worker, or is another thing there."""


def filled(kind: Any, number: int = 7) -> Any:
    """A value of the kind in which nothing is what it is if nobody says it."""
    match kind:
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.IntType():
            return number
        case msgspec.inspect.FloatType():
            return number + 0.5
        case msgspec.inspect.StrType():
            return f"word {number}"
        case msgspec.inspect.DictType():
            return {"word": filled(kind.value_type)}
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType():
            return [filled(kind.item_type, number + each) for each in range(2)]
        case msgspec.inspect.TupleType():
            return [filled(each, number + at) for at, each in enumerate(kind.item_types)]
        case msgspec.inspect.UnionType():
            return filled(kind.types[0], number)
        case msgspec.inspect.StructType():
            return {field.name: filled(field.type, number) for field in kind.fields}
        case msgspec.inspect.Metadata():
            return filled(kind.type, number)
    raise AssertionError(kind)


def said(kind: type[Struct]) -> Any:
    return msgspec.convert(filled(msgspec.inspect.type_info(kind)), kind)


def differences(told: Struct, source: Any) -> list[str]:
    """Fields of what is shown that aren't what was said under the same name."""
    found = []
    for name in told.__struct_fields__:
        if name in OWN.get(type(told).__name__, ()):
            continue
        shown, known = getattr(told, name), getattr(source, name)
        if isinstance(shown, Struct) and isinstance(known, Struct):
            found += differences(shown, known)
        elif isinstance(shown, list) and shown and isinstance(shown[0], Struct):
            assert len(shown) == len(known)
            found += [
                each for pair in zip(shown, known, strict=True) for each in differences(*pair)
            ]
        elif shown != (list(known) if isinstance(shown, list) else known):
            found.append(f"{type(told).__name__}.{name}")
    return found


def test_everything_the_worker_says_is_in_the_status() -> None:
    report = said(Report)
    told = retold.sync(report)
    assert isinstance(told, schema.Sync)
    assert differences(told, report) == []
    told_too = retold.connections(report)
    assert isinstance(told_too, schema.Connections)
    assert differences(told_too, report.connections) == []
    assert (told_too.heard_ns, told_too.filled_ns) == (7_000_000, 7_000_000)


def test_persistence() -> None:
    status = said(SessionsStatus)
    told = retold.persistence(status)
    assert isinstance(told, schema.Sessions)
    assert told.window == schema.Histogram(counts=status.window, sum_ns=status.window_sum_ns)
    assert [name for name in differences(told, status) if name != "Sessions.window"] == []


def test_log_records() -> None:
    view = said(WeblogView)
    told = retold.sync(Report(state="idle", sentence="", weblog=view))
    assert told is not None
    assert told.weblog is not None
    assert told.weblog.listening
    assert told.weblog.waiting == view.replication.waiting
    assert not told.weblog.pulling
    told = retold.sync(Report(state="idle", sentence="", weblog=WeblogView()))
    assert told is not None
    assert told.weblog is not None
    assert not told.weblog.listening


@pytest.mark.parametrize("report", [None, Report(state="idle", sentence="")])
def test_a_worker_that_says_nothing(report: Report | None) -> None:
    assert retold.connections(report) is None
    assert retold.persistence(None) is None
    assert (retold.sync(report) is None) == (report is None)


def test_what_is_not_known_is_none() -> None:
    report = Report(state="idle", sentence="", connections=ConnectionsBrief(state="off"))
    told = retold.connections(report)
    assert told is not None
    assert (told.flows, told.heard_ns, told.filled_ns) == (None, None, None)
