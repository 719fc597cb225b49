# SPDX-License-Identifier: Apache-2.0
"""Documents, how they differ, and the operations that lead from one to the next."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinbeat.sync.document import (
    RECENT,
    Change,
    ChangeRefused,
    Document,
    Done,
    Expect,
    Put,
    Remove,
    Run,
    Version,
    applied,
    difference,
    fingerprint,
)
from twinbeat.sync.operation import Operation, Policy, Request

ROWS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=2)
TABLES = st.dictionaries(
    st.sampled_from(["vrid", "route", "timers"]),
    st.dictionaries(st.sampled_from(["", "51", "10.0.0.0/8 254 0"]), ROWS, max_size=3),
    max_size=3,
)


def document(tables: Any = None, **more: Any) -> Document:
    return Document(
        **{"lineage": "a" * 32, "version": Version(2, 5), "tables": tables or {}, **more}
    )


def operation(base: Document, *changes: Change, **more: Any) -> Operation:
    return Operation(
        **{
            "request": "r",
            "node": 0,
            "lineage": base.lineage,
            "base": base.version,
            "version": Version(2, base.version.generation + 1),
            "changes": changes,
            "fingerprint": fingerprint(applied(base.tables, changes)),
            "policy": Policy.STRICT,
            **more,
        }
    )


def test_a_higher_term_rules_whatever_the_generation() -> None:
    assert Version(3, 1) > Version(2, 900)
    assert Version(2, 7) > Version(2, 6)
    assert str(Version(2, 7)) == "generation 7 of term 2"


@given(TABLES, TABLES)
def test_a_difference_makes_one_of_the_other(before: Any, after: Any) -> None:
    changes = difference(before, after)
    made = applied(before, changes)
    assert fingerprint(made) == fingerprint(after)
    assert difference(made, after) == ()
    assert (changes == ()) == (fingerprint(before) == fingerprint(after))


@given(TABLES, TABLES)
def test_what_is_given_is_not_changed(before: Any, after: Any) -> None:
    copy = msgspec.msgpack.encode(before)
    applied(before, difference(before, after))
    assert msgspec.msgpack.encode(before) == copy


def test_only_what_differs_is_touched_and_removals_come_first() -> None:
    before = {"vrid": {"51": {"vips": ["a"]}, "52": {}}, "route": {"r": {"metric": 1}}}
    after = {"vrid": {"51": {"vips": ["a", "b"]}}, "route": {"r": {"metric": 1}}, "hook": {"h": {}}}
    assert difference(before, after) == (
        Remove(section="vrid", identity="52"),
        Put(section="hook", identity="h", row={}, expect=Expect.ABSENT),
        Put(section="vrid", identity="51", row={"vips": ["a", "b"]}, expect=Expect.PRESENT),
    )


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (Remove(section="route", identity="r"), "missing"),
        (Remove(section="vrid", identity="52"), "missing"),
        (Put(section="vrid", identity="52", row={}, expect=Expect.PRESENT), "missing"),
        (Put(section="vrid", identity="51", row={}, expect=Expect.ABSENT), "exists"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(change: Change, code: str) -> None:
    tables = {"vrid": {"51": {"vmac": True}}}
    with pytest.raises(ChangeRefused) as refused:
        applied(tables, [change])
    assert refused.value.code == code
    assert change.identity in refused.value.sentence
    assert tables == {"vrid": {"51": {"vmac": True}}}


def test_a_fingerprint_knows_no_order_and_no_empty_sections() -> None:
    one = fingerprint({"a": {"x": {"k": 1, "l": 2}}, "b": {}})
    assert one == fingerprint({"a": {"x": {"l": 2, "k": 1}}})
    assert one != fingerprint({"a": {"x": {"l": 2, "k": "1"}}})
    assert len(one) == 64


def test_an_operation_makes_the_next_document_and_names_itself_in_it() -> None:
    base = document({"vrid": {"51": {}}}, recent=(Done("q", Version(2, 5)),))
    after = operation(base, Remove(section="vrid", identity="51"), by="me").onto(base)
    assert after.tables == {}
    assert after.version == Version(2, 6)
    assert [done.request for done in after.recent] == ["q", "r"]
    assert after.contains("q")
    assert after.by == "me"


@pytest.mark.parametrize(
    ("other", "code"),
    [
        (document(version=Version(1, 5)), "out_of_step"),
        (Document(lineage="b" * 32, version=Version(2, 5), tables={}), "out_of_step"),
        (document({"hook": {"h": {}}}), "content_differs"),
    ],
)
def test_an_operation_is_for_one_document_only(other: Document, code: str) -> None:
    made = operation(document(), Put(section="a", identity="", row={}))
    with pytest.raises(ChangeRefused) as refused:
        made.onto(other)
    assert refused.value.code == code


def test_what_is_taken_back_is_no_longer_named() -> None:
    base = document(recent=(Done("x", Version(2, 5)),))
    after = operation(base, request="undo-x", undoes="x").onto(base)
    assert not after.contains("x")
    assert after.recent == (Done("undo-x", Version(2, 6), None, "x"),)


def test_a_document_names_so_many_changes_only() -> None:
    current = document()
    for number in range(RECENT + 3):
        current = operation(current, request=f"r{number}").onto(current)
    assert len(current.recent) == RECENT
    assert current.recent[0].request == "r3"


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_what_travels_comes_back(codec: Any) -> None:
    done = Done("q", Version(2, 5), Run(command="load", arguments=("f",)))
    base = document({"timers": {"": {"hello_us": 5000}}}, recent=(done,))
    made = operation(base, Put(section="a", identity="", row={"k": [1, {"b": None}]}))
    for value in (base, made):
        assert codec.decode(codec.encode(value), type=type(value)) == value


@pytest.mark.parametrize(
    "change",
    [
        {"request": ""},
        {"request": "x" * 65},
        {"lineage": "A" * 32},
        {"fingerprint": "0" * 63},
        {"version": [-1, 0]},
        {"version": [1, 1 << 32]},
        {"node": 2},
        {"policy": "perhaps"},
        {"changes": [{"type": "put"}]},
    ],
)
def test_what_is_out_of_bounds_is_not_taken_in(change: dict[str, Any]) -> None:
    whole = msgspec.to_builtins(operation(document()))
    msgspec.convert(whole, Operation)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(whole | change, Operation)


def test_a_newer_node_may_say_more() -> None:
    whole = msgspec.to_builtins(operation(document())) | {"mood": "good"}
    assert msgspec.convert(whole, Operation).request == "r"


def test_a_request_has_defaults_that_can_be_told() -> None:
    request = msgspec.json.decode(
        b'{"request": "r", "wish": {"type": "run", "command": "load"}}', type=Request
    )
    assert request.policy is Policy.AVAILABLE
    assert request.wish == Run(command="load")
