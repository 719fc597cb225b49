# SPDX-License-Identifier: Apache-2.0
"""What an operator types, and the rows that it makes."""

import tomllib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from twinbeat.config import document, edit
from twinbeat.config.contrast import lines
from twinbeat.config.edit import EditError
from twinbeat.config.model import SECTIONS
from twinbeat.config.rows import identity
from twinbeat.config.scopes import LOCAL_KEYS, SHARED
from twinbeat.config.shared import split
from twinbeat.config.timers import TIMER_KEYS
from twinbeat.sync.document import Change, ChangeRefused, Expect, Put, Tables, applied, difference
from unit.test_config_shared import EVERYTHING

FILE = """
[timers]
profile = "fast"
hello_us = 500

[[vrid]]
id = 51
interface = "lan0"
vips = ["192.0.2.10", "2001:db8::10"]

[[vrid]]
id = 52
interface = "lan1"
vips = ["192.0.2.20"]

[[route]]
destination = "10.0.0.0/8"
gateway = "192.0.2.1"

[[route]]
destination = "10.0.0.0/8"
gateway = "192.0.2.2"
table = 300

[[route]]
destination = "default"
gateway = "192.0.2.1"

[[rule]]
priority = 1000
table = 300
source = "10.1.0.0/16"

[[monitor]]
name = "uplink"
kind = "route"
prefix = "0.0.0.0/0"

[[linkset]]
name = "lan"
interfaces = ["lan0", "lan1"]

[[command]]
name = "nft"
argv = ["/usr/sbin/nft", "-f", "{file}"]
"""
Verb = Callable[[Tables, str, Sequence[str]], tuple[Change, ...]]


def tables() -> Tables:
    return split(tomllib.loads(FILE))[1]


def row(verb: Verb, what: str, line: str, *more: str) -> dict[str, Any]:
    """The one row that a line puts, which has to fit what is there."""
    before = tables()
    (change,) = verb(before, what, [*line.split(), *more])
    assert isinstance(change, Put)
    assert applied(before, (change,))[change.section][change.identity] == change.row
    assert identity(change.section, change.row) == change.identity
    return change.row


def refused(verb: Verb, what: str, line: str, *more: str) -> str:
    with pytest.raises(EditError) as caught:
        verb(tables(), what, [*line.split(), *more])
    return str(caught.value)


# --------------------------------------------------------------------------------- values --------


@pytest.mark.parametrize(
    ("section", "word", "value"),
    [
        ("timers", "hello_us=500", 500),
        ("timers", "hello=500us", 500),
        ("timers", "dead=20ms", 20_000),
        ("timers", "lease=2s", 2_000_000),
        ("timers", "attest=2s", 2_000),
        ("timers", "profile=fast", "fast"),
        ("monitor", "interval=1m", 60_000),
        ("monitor", "start_delay=1h", 3_600),
        ("monitor", "table=0x10", 16),
        ("monitor", "command=/bin/true,-v", ["/bin/true", "-v"]),
        ("monitor", 'command=["/bin/sh", "-c", "a,b"]', ["/bin/sh", "-c", "a,b"]),
        ("monitor", "probe=", ""),
        ("vrid", "monitor=false", False),
        ("vrid", "vips=192.0.2.10,2001:DB8:0::1", ["192.0.2.10", "2001:db8::1"]),
        ("vrid", "vips=", []),
        ("announce", "repeats_ms=2,5,20", [2, 5, 20]),
        ("hook", "events=primary,fault", ["primary", "fault"]),
        ("policy", "fail_safe=true", True),
    ],
)
def test_a_value_is_typed_by_its_key(section: str, word: str, value: Any) -> None:
    (found,) = edit.assigned(section, [word]).values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("section", "word", "said"),
    [
        ("timers", "hello", "timers: hello is no KEY=VALUE. Its keys: profile, hello_us"),
        ("timers", "hello=500", "timers: hello = 500 is no length such as hello=20us"),
        ("timers", "hello=5.5ms", "is no length"),
        ("timers", "attest=1500us", "timers: attest = 1500us is no whole number of ms"),
        ("timers", "hello_us=500us", "hello=500us takes a unit"),
        (
            "timers",
            "hello_us=1",
            'timers: hello_us = "1" should be an integer from 100 to 10000000',
        ),
        ("timers", "helo_us=500", "timers: helo_us is not a key. Did you mean `hello_us`?"),
        ("timers", "accept_host=true", "each node's own"),
        ("policy", "preferred=true", "each node's own"),
        ("vrid", "vips_file=a", "names a file of one node"),
        ("vrid", "vips=192.0.2.0/24", "vip 192.0.2.0/24 is no IPv4 or IPv6 address"),
        ("vrid", "monitor=yes", 'vrid: monitor = "yes" should be true or false'),
        ("monitor", "kind=rout", 'should be one of "interface", "route"'),
        ("monitor", "command=[1", "is no array"),
        ("announce", "repeats_ms=2,x", "should be a list, each of it an integer"),
    ],
)
def test_what_is_wrong_names_key_value_and_what_is_right(
    section: str, word: str, said: str
) -> None:
    with pytest.raises(EditError) as caught:
        edit.assigned(section, [word])
    assert said in str(caught.value)


def test_a_key_is_given_once() -> None:
    with pytest.raises(EditError, match="hello_us is given twice"):
        edit.assigned("timers", ["hello_us=500", "hello=1ms"])


# ----------------------------------------------------------------------------------- rows --------


def test_a_row_is_added_under_what_it_is_called() -> None:
    assert row(edit.add, "vrid", "53 interface=lan0") == {"id": 53, "interface": "lan0"}
    assert row(edit.add, "vrid", "id=53 interface=lan0") == {"id": 53, "interface": "lan0"}
    assert row(edit.add, "route", "10.9.0.0/16 gateway=192.0.2.1 metric=5") == {
        "destination": "10.9.0.0/16",
        "gateway": "192.0.2.1",
        "metric": 5,
    }
    assert row(edit.add, "rule", "1001 table=300") == {"priority": 1001, "table": 300}


def test_what_is_there_is_not_added_again() -> None:
    changes = edit.add(tables(), "vrid", ["51", "interface=lan0"])
    with pytest.raises(ChangeRefused, match="vrid 51 is there already"):
        applied(tables(), changes)


def test_what_is_missing_is_named_with_what_it_is() -> None:
    assert refused(edit.add, "vrid", "53") == (
        "vrid 53: interface is missing. It is the name of a network interface."
    )
    assert "vrid 300: id" in refused(edit.add, "vrid", "300 interface=lan0")
    assert "id is given twice" in refused(edit.add, "vrid", "53 id=54 interface=lan0")
    assert "set timers" in refused(edit.add, "timers", "hello_us=500")


def test_only_the_keys_that_are_set_are_different_then() -> None:
    before = tables()["vrid"]["51"]
    assert row(edit.change, "vrid", "51 monitor=false") == before | {"monitor": False}
    assert row(edit.change, "timers", "dead=20ms") == {
        "profile": "fast",
        "hello_us": 500,
        "dead_us": 20_000,
    }
    assert row(edit.change, "policy", "fail_safe=false") == {"fail_safe": False}


def test_of_several_that_are_called_so_keys_or_the_whole_name_say_which() -> None:
    said = refused(edit.change, "route", "10.0.0.0/8 gateway=192.0.2.3")
    assert "several are called route 10.0.0.0/8: 10.0.0.0/8 table 254 metric 0; 10.0" in said
    changed = row(edit.change, "route", "10.0.0.0/8 table=300 gateway=192.0.2.3")
    assert (changed["table"], changed["gateway"]) == (300, "192.0.2.3")
    (put,) = edit.change(tables(), "route", ["10.0.0.0/8 table 254 metric 0", "mtu=1400"])
    assert isinstance(put, Put)
    assert put.row["mtu"] == 1400
    assert row(edit.change, "route", "default mtu=1400")["destination"] == "default"


def test_what_identifies_a_row_is_not_changed() -> None:
    assert "every key identifies it" in refused(edit.change, "rule", "1000 source=10.1.0.0/16")
    assert "there is no vrid 51 id=52" in refused(edit.change, "vrid", "51 id=52")
    assert "nothing is set" in refused(edit.change, "vrid", "51")
    assert "say which" in refused(edit.change, "vrid", "monitor=false")
    assert "say what is to be set" in refused(edit.change, "policy", "")


def test_one_that_is_not_there_is_named_with_those_that_are() -> None:
    assert refused(edit.change, "vrid", "53 monitor=false") == (
        "there is no vrid 53. There is 51; 52."
    )
    assert "Did you mean `uplink`?" in refused(edit.remove, "monitor", "upling")


def test_unset_gives_defaults_again() -> None:
    assert "gateway" not in row(edit.unset, "route", "default gateway")
    assert row(edit.unset, "timers", "hello") == {"profile": "fast"}
    assert row(edit.unset, "timers", "") == {"profile": "fast"}
    assert "interface has no default" in refused(edit.unset, "vrid", "51 interface")
    assert "id has no default" in refused(edit.unset, "vrid", "51 id")
    assert "say what" in refused(edit.unset, "policy", "")
    assert edit.unset(tables(), "policy", ["strict"]) == ()
    assert len(edit.unset(tables(), "timers", ["profile", "hello_us"])) == 1
    after = applied(tables(), edit.unset(tables(), "timers", ["profile", "hello_us"]))
    assert "timers" not in after
    assert set(TIMER_KEYS) > {"hello_us"}


def test_rows_are_removed_by_name_and_keys() -> None:
    for what, line in (
        ("vrid", "51"),
        ("route", "10.0.0.0/8 table=300"),
        ("route", "10.0.0.0/8 gateway=192.0.2.1"),
        ("route", "default"),
        ("rule", "1000"),
        ("linkset", "lan"),
    ):
        after = applied(tables(), edit.remove(tables(), what, line.split()))
        assert len(after.get(what, {})) == len(tables()[what]) - 1
    assert "several are called" in refused(edit.remove, "route", "10.0.0.0/8")
    assert "can't be removed" in refused(edit.remove, "timers", "")
    assert "say which" in refused(edit.remove, "vrid", "")


# -------------------------------------------------------------------------------- members --------


def held(changes: Sequence[Change], name: str) -> list[str]:
    rows: list[str] = applied(tables(), changes)["vrid"][name]["vips"]
    return rows


def test_an_address_belongs_to_one_vrid() -> None:
    words = ["192.0.2.11", "2001:db8::0:11", "vrid", "51"]
    changes = edit.bind(tables(), "vip", words, fresh=True)
    assert held(changes, "51") == ["192.0.2.10", "2001:db8::10", "192.0.2.11", "2001:db8::11"]
    moved = edit.bind(tables(), "vip", ["2001:db8:0::10", "vrid=52"])
    assert held(moved, "51") == ["192.0.2.10"]
    assert held(moved, "52") == ["192.0.2.20", "2001:db8::10"]


def test_binding_what_is_bound_changes_nothing() -> None:
    changes = edit.bind(tables(), "vip", ["192.0.2.10", "vrid", "51"])
    assert applied(tables(), changes) == tables()


def test_what_is_bound_elsewhere_is_not_added() -> None:
    verb = add_member
    assert refused(verb, "vip", "192.0.2.10 vrid 52") == (
        "192.0.2.10 is in vrid 51 already; `twinbeat bind vip 192.0.2.10 vrid 52` moves it"
    )
    assert refused(verb, "vip", "192.0.2.10 vrid 51") == "192.0.2.10 is in vrid 51 already"
    assert "say which vrid: 51; 52" in refused(verb, "vip", "192.0.2.11")
    assert "no IPv4 or IPv6 address" in refused(verb, "vip", "192.0.2.11/24 vrid 51")
    assert "say which" in refused(verb, "vip", "vrid=51")
    assert "the name of a network interface" in refused(verb, "interface", "a/b linkset lan")


def add_member(before: Tables, kind: str, words: Sequence[str]) -> tuple[Change, ...]:
    return edit.bind(before, kind, words, fresh=True)


def test_an_only_row_need_not_be_named() -> None:
    assert row(edit.bind, "interface", "lan2")["interfaces"] == ["lan0", "lan1", "lan2"]
    assert "there is no file yet" in refused(edit.bind, "path", "/etc/haproxy")


def test_members_are_taken_out_of_wherever_they_are() -> None:
    assert held(edit.unbind(tables(), "vip", ["192.0.2.10"]), "51") == ["2001:db8::10"]
    assert "vips" not in row(edit.unbind, "vip", "192.0.2.20")
    assert row(edit.unbind, "interface", "lan0 linkset lan")["interfaces"] == ["lan1"]
    assert refused(edit.unbind, "vip", "192.0.2.20 vrid 51") == "192.0.2.20 is not in vrid 51"
    assert refused(edit.unbind, "vip", "192.0.2.99") == "192.0.2.99 is not in any vrid"


# ------------------------------------------------------------------------------ differences ------


def test_a_difference_is_told_row_by_row() -> None:
    before = tables()
    after = applied(
        before,
        (
            *edit.bind(before, "vip", ["192.0.2.11", "192.0.2.10", "vrid", "52"]),
            *edit.remove(before, "monitor", ["uplink"]),
            *edit.add(before, "route", ["10.9.0.0/16"]),
            *edit.change(before, "timers", ["hello=1ms", "dead=5ms"]),
        ),
    )
    assert list(lines(before, difference(before, after))) == [
        "- monitor uplink",
        '+ route 10.9.0.0/16 table 254 metric 0: destination = "10.9.0.0/16"',
        "~ timers: hello_us = 500 -> 1000; dead_us = 5000",
        '~ vrid 51: vips - "192.0.2.10"',
        '~ vrid 52: vips + "192.0.2.11", "192.0.2.10"',
    ]


def test_a_long_list_is_told_shortly() -> None:
    before: Tables = {"vrid": {"51": {"id": 51, "interface": "lan0", "vips": []}}}
    many = {"id": 51, "interface": "lan0", "vips": [f"10.0.{n // 250}.{n % 250}" for n in range(9)]}
    (line,) = lines(before, (Put(section="vrid", identity="51", row=many, expect=Expect.ANY),))
    assert line.endswith('"10.0.0.7" and 1 more')


def test_what_is_printed_is_the_same_tables_again() -> None:
    _, shared = split(tomllib.loads(EVERYTHING))
    assert set(shared) > {"vrid", "route", "timers"}
    assert split(tomllib.loads(document.shared_toml(shared)))[1] == shared
    strange = {"hook": {"a": {"name": "a", "exec": "/bin/\x7f", "arguments": ['"\n\\é\u2028', ""]}}}
    assert split(tomllib.loads(document.shared_toml(strange)))[1] == strange


# ---------------------------------------------------------------------------------- the model ----


def test_the_command_line_knows_the_sections_of_the_model() -> None:
    from twinbeat.cli import change

    assert change.KINDS == edit.KINDS
    assert tuple(edit.MEMBERS) == change.MEMBERS
    assert set(edit.KINDS) == SHARED


@pytest.mark.parametrize("section", edit.KINDS)
def test_every_key_of_every_section_can_be_typed(section: str) -> None:
    """Its default, or its example, written as text, is read as what it was."""
    from twinbeat.config.fields import fields_of

    own = LOCAL_KEYS.get(section, frozenset())
    for field in fields_of(SECTIONS[section][1]):
        value = field.default
        if field.encode_name in own or field.required or value is None or value == ():
            continue
        if field.encode_name == "vips_file":
            continue
        text = document._exact(list(value) if isinstance(value, tuple) else value).strip('"')
        typed = edit.assigned(section, [f"{field.encode_name}={text}"])
        assert typed == {field.encode_name: list(value) if isinstance(value, tuple) else value}
