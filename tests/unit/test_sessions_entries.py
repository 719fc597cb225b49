# SPDX-License-Identifier: Apache-2.0
"""Entries of persistence: bound, prolonged, over, and never more than the table holds."""

import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from twinbeat.sessions import entries as entries_module
from twinbeat.sessions import ordered as ordered_module
from twinbeat.sessions.entries import (
    FORGET_MOST,
    Change,
    Gone,
    Origin,
    Put,
    Reason,
    Refused,
    Store,
    Table,
)
from twinbeat.sessions.keys import key_of
from twinbeat.sessions.ordered import Ordered
from twinbeat.sessions.rules import KEY_MOST, Kind, Persistence

S = 1_000_000_000
NOW = 1_000_000 * S
OPAQUE = Persistence(name="proxy", kind="opaque", timeout_s=60, limit=16)
WEB = Persistence(name="web", vips=("192.0.2.10",), port=80, pool="web", timeout_s=60, limit=16)


class Heard:
    """Follows a table by what listeners are told, and nothing else."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.live: dict[tuple[str, bytes], str] = {}

    def __call__(self, change: Change) -> None:
        self.changes.append(change)
        at = change.rule, change.key
        if isinstance(change, Put):
            assert (at in self.live) == (change.before is not None) or change.before is None
            self.live[at] = change.entry.server
        else:
            del self.live[at]

    @property
    def reasons(self) -> list[Reason]:
        return [change.reason for change in self.changes if isinstance(change, Gone)]


def store(*rules: Persistence) -> tuple[Store, Heard]:
    made, heard = Store(), Heard()
    made.listen(heard)
    made.configure(rules or (OPAQUE, WEB))
    return made, heard


def test_an_entry_is_there_until_its_lifetime_is_over() -> None:
    made, _ = store()
    made.put("proxy", b"k", "s1", NOW)
    entry = made.get("proxy", b"k", NOW + 60 * S - 1)
    assert entry is not None
    assert (entry.server, entry.remaining_ns(NOW)) == ("s1", 60 * S)
    assert made.get("proxy", b"k", NOW + 60 * S) is None


def test_only_a_touch_prolongs_it() -> None:
    made, _ = store()
    made.put("proxy", b"k", "s1", NOW)
    made.get("proxy", b"k", NOW + 30 * S)
    assert made.touch("proxy", b"k", NOW + 40 * S) is not None
    assert made.get("proxy", b"k", NOW + 99 * S) is not None
    assert made.get("proxy", b"k", NOW + 100 * S) is None
    assert made.touch("proxy", b"k", NOW + 100 * S) is None


def test_a_lifetime_is_never_longer_than_the_rule_says() -> None:
    made, _ = store()
    assert made.put("proxy", b"k", "s1", NOW, lifetime_ns=90 * S).remaining_ns(NOW) == 60 * S
    assert made.put("proxy", b"k", "s1", NOW, lifetime_ns=9 * S).remaining_ns(NOW) == 9 * S


def test_the_oldest_makes_room_and_is_told_of() -> None:
    made, heard = store()
    for number in range(16):
        made.put("proxy", b"%d" % number, "s1", NOW + number)
    made.touch("proxy", b"0", NOW + 100)
    made.put("proxy", b"new", "s2", NOW + 200)
    table = made.table("proxy")
    assert len(table) == table.high == 16
    assert heard.reasons == [Reason.EVICTED]
    assert table.counts[Reason.EVICTED] == 1
    assert made.get("proxy", b"1", NOW + 200) is None
    assert made.get("proxy", b"0", NOW + 200) is not None


def test_what_is_over_is_swept_once() -> None:
    made, heard = store()
    made.put("proxy", b"short", "s1", NOW, lifetime_ns=5 * S)
    made.put("proxy", b"long", "s1", NOW)
    made.put("proxy", b"kept", "s1", NOW, lifetime_ns=5 * S)
    made.touch("proxy", b"kept", NOW + 4 * S)
    made.sweep(NOW + 30 * S)
    assert heard.reasons == [Reason.EXPIRED]
    assert sorted(made.table("proxy").keys()) == [b"kept", b"long"]
    made.sweep(NOW + 64 * S + 2 * S)
    assert made.table("proxy").counts[Reason.EXPIRED] == 3
    assert len(made.table("proxy")) == 0


def test_a_shorter_lifetime_is_swept_at_its_own_end() -> None:
    made, _ = store()
    made.put("proxy", b"k", "s1", NOW)
    made.put("proxy", b"k", "s1", NOW, lifetime_ns=2 * S)
    made.sweep(NOW + 4 * S)
    assert len(made.table("proxy")) == 0


def test_another_limit_or_timeout_keeps_entries_and_another_kind_doesnt() -> None:
    made, heard = store()
    table = made.table("web")
    for number in range(16):
        table.put(b"%d" % number, "10.0.0.1", NOW, origin=Origin.KERNEL)
    less = Persistence(
        name="web", vips=("192.0.2.10",), port=80, pool="web", timeout_s=30, limit=20
    )
    assert made.configure([less]) == set()
    assert len(made.table("web")) == 16
    prefix = Persistence(
        name="web", kind="source-prefix", vips=("192.0.2.10",), port=80, pool="web"
    )
    assert made.configure([prefix]) == {"web"}
    assert len(made.table("web")) == 0
    assert heard.reasons == [Reason.DROPPED] * 16
    with pytest.raises(Refused, match="known: web"):
        made.table("proxy")


@pytest.mark.parametrize(
    ("rules", "left", "reason"),
    [
        ([], 0, Reason.DROPPED),
        ([replace(WEB, limit=50_000, kind="source-prefix")], 0, Reason.DROPPED),
        ([replace(WEB, limit=100)], 100, Reason.EVICTED),
        ([replace(WEB, limit=50_000, timeout_s=5)], 9000, Reason.EVICTED),
    ],
)
def test_a_bounded_number_goes_before_other_rules_are_in_force(
    rules: list[Persistence], left: int, reason: Reason
) -> None:
    made, heard = store(replace(WEB, limit=50_000))
    table = made.table("web")
    for number in range(9000):
        table.put(number.to_bytes(4), "s1", NOW)
    sizes = [len(table)]
    sizes += (len(table) for _ in made.make_way(rules))
    assert max(map(operator.sub, sizes, sizes[1:]), default=0) <= FORGET_MOST
    assert sizes[-1] - len(table) <= FORGET_MOST
    assert len(table) == left
    assert table.counts[reason] == 9000 - left
    made.configure(rules)
    assert heard.reasons == [reason] * (9000 - left)


def test_a_proxy_writes_to_its_own_rules_only() -> None:
    made, heard = store()
    for key, server, code in (
        (b"", "s1", "bad_key"),
        (b"k" * (KEY_MOST + 1), "s1", "bad_key"),
        (b"k", "", "bad_server"),
        (b"k", "s" * (KEY_MOST + 1), "bad_server"),
    ):
        with pytest.raises(Refused) as refused:
            made.put("proxy", key, server, NOW)
        assert refused.value.code == code
    with pytest.raises(Refused, match="the kernel makes its entries"):
        made.put("web", b"k", "s1", NOW)
    assert heard.changes == []


def test_pages_go_through_everything_once() -> None:
    rule = Persistence(name="proxy", kind="opaque", limit=500)
    made, _ = store(rule)
    keys = sorted(b"%d" % number for number in range(300))
    for key in keys:
        made.put("proxy", key, "s", NOW)
    found: list[bytes] = []
    after = b""
    while True:
        page, after = made.table("proxy").page(NOW, after=after, limit=100)
        found += [key for key, _ in page]
        if not after:
            break
    assert found == keys


def test_a_page_looks_at_a_bounded_number_of_those_that_are_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entries_module, "PAGE_LOOK", 10)
    made, _ = store(Persistence(name="proxy", kind="opaque", limit=500))
    for number in range(25):
        made.put("proxy", b"%02d" % number, "s", NOW, lifetime_ns=S)
    made.put("proxy", b"99", "s", NOW, lifetime_ns=60 * S)
    later, after = NOW + 2 * S, b""
    pages = []
    while not pages or after:
        page, after = made.table("proxy").page(later, after=after, limit=5)
        pages.append([key for key, _ in page])
    assert pages == [[], [], [b"99"]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=2)), max_size=200))
def test_keys_are_in_order_whatever_comes_and_goes(steps: list[tuple[bool, bytes]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordered_module, "PART_MOST", 8)
        ordered, model = Ordered(), set[bytes]()
        for comes, key in steps:
            if comes and key not in model:
                ordered.add(key)
                model.add(key)
            elif not comes:
                ordered.discard(key)
                model.discard(key)
            assert list(ordered.after(key)) == sorted(each for each in model if each > key)
        assert list(ordered.after(b"")) == sorted(model)


KEYS = st.sampled_from([b"%d" % number for number in range(24)])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "touch", "delete", "sweep", "wait"]),
        KEYS,
        st.integers(0, 90 * S),
    ),
    max_size=80,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_whatever_happens_listeners_can_follow(steps: list[tuple[str, bytes, int]]) -> None:
    """A table and who listens to it agree; what is over is never given out; none is lost before."""
    heard = Heard()
    table = Table(OPAQUE, heard)
    model: dict[bytes, int] = {}
    now = NOW
    for what, key, length in steps:
        match what:
            case "put":
                table.put(key, "s", now, lifetime_ns=length)
                model[key] = now + length
            case "touch":
                if table.touch(key, now, lifetime_ns=length) is not None:
                    model[key] = now + min(length, 60 * S)
            case "delete":
                table.delete(key, now)
                model.pop(key, None)
            case "sweep":
                table.sweep(now)
                assert all(model[each] > now - 2 * S for each in set(table.keys()))
            case _:
                now += length // 8
        assert {key for _, key in heard.live} == set(table.keys())
        assert table.keys() == list(table._entries), "both have the order of use"
        live = {each for each in table.keys() if table.get(each, now)}  # noqa: SIM118
        assert [key for key, _ in table.page(now)[0]] == sorted(live)
        assert len(table) <= OPAQUE.limit
        assert sum(table.servers.values()) == len(table)
        for each in list(model):
            held = table.get(each, now)
            assert held is None or held.expires_ns == model[each] > now
            if held is None and model[each] > now:
                assert table.counts[Reason.EVICTED]


@pytest.mark.parametrize(
    ("kind", "client", "key"),
    [
        ("source", "192.0.2.7", b"\xc0\x00\x02\x07"),
        ("source-prefix", "192.0.2.7", b"\xc0\x00\x02\x00"),
        ("source-destination", "192.0.2.7", b"\xc0\x00\x02\x07"),
        ("source", "2001:db8::7", None),
        ("source", "cookie", None),
        ("opaque", "cookie", b"cookie"),
    ],
)
def test_the_key_of_a_client(kind: Kind, client: str, key: bytes | None) -> None:
    assert key_of(replace(WEB if kind != "opaque" else OPAQUE, kind=kind), client) == key
