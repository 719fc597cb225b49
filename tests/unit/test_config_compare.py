# SPDX-License-Identifier: Apache-2.0
"""What a reload changes, what it leaves to a restart, and the digest of what both nodes share."""

from typing import Any

import pytest
from msgspec.structs import replace

from twinbeat.config.compare import Said, compare, digest
from twinbeat.config.model import Config
from twinbeat.config.nodes import LinkSection, NodeSection, PairSection, PeerSection
from twinbeat.config.service import HookSection, RouteSection, RuleSection, VridSection
from twinbeat.config.timers import TimersSection

A = Config(
    node=NodeSection(name="a", index=0),
    pair=PairSection(id=1),
    peer=PeerSection(name="b"),
    links=(
        LinkSection(
            name="ha0", interface="ha0", local="10.0.0.1", peer="10.0.0.2", number=0, ttl_min=255
        ),
        LinkSection(
            name="lan0", interface="lan0", local="10.0.1.1", peer="10.0.1.2", number=1, ttl_min=255
        ),
    ),
    vrids=(
        VridSection(id=51, interface="lan0", vips=("10.0.1.10",)),
        VridSection(id=52, interface="wan0", vips=("10.0.2.10",)),
    ),
)


def changed(config: Config, attribute: str, **values: Any) -> Config:
    return replace(config, **{attribute: replace(getattr(config, attribute), **values)})


def test_nothing_differs_from_itself() -> None:
    assert compare(A, A) == []
    assert compare(A, replace(A, path="/elsewhere")) == []


@pytest.mark.parametrize(
    ("after", "key", "restart"),
    [
        (changed(A, "policy", strict=True), "policy.strict", False),
        (changed(A, "timers_set", profile="fast"), "timers.profile", False),
        (changed(A, "timers_set", dead_us=30_000), "timers.dead_us", False),
        (changed(A, "keys", send=2), "keys.send", False),
        (changed(A, "log", format="json"), "log.format", False),
        (changed(A, "announce", repeats_ms=(1, 2)), "announce.repeats_ms", False),
        (changed(A, "pair", id=2), "pair.id", True),
        (changed(A, "node", name="z"), "node.name", True),
        (changed(A, "metrics", listen=""), "metrics.listen", True),
        (
            replace(A, links=(replace(A.links[0], vlan=5), A.links[1])),
            "link[ha0].vlan",
            False,
        ),
        (
            replace(A, vrids=(replace(A.vrids[0], interface="lan1"), A.vrids[1])),
            "vrid[51].interface",
            True,
        ),
    ],
)
def test_a_changed_key_is_named_with_what_it_takes(after: Config, key: str, restart: bool) -> None:
    (change,) = compare(A, after)
    assert (change.key, change.restart) == (key, restart)
    assert change.before != change.after


def test_long_lists_differ_even_where_they_look_alike() -> None:
    many = tuple(f"10.9.{number // 250}.{number % 250}" for number in range(1000))
    before = replace(A, vrids=(replace(A.vrids[0], vips=many),))
    after = replace(A, vrids=(replace(A.vrids[0], vips=(*many[:-1], "10.9.9.9")),))
    assert [change.key for change in compare(before, after)] == ["vrid[51].vips"]


def test_order_means_nothing_where_it_numbers_nothing() -> None:
    assert compare(A, replace(A, vrids=A.vrids[::-1])) == []
    assert compare(A, replace(A, links=A.links[::-1])) == []
    swapped = tuple(replace(link, number=1 - (link.number or 0)) for link in A.links)
    assert [change.key for change in compare(A, replace(A, links=swapped))] == [
        "link[ha0].number",
        "link[lan0].number",
    ]


@pytest.mark.parametrize(
    ("section", "tables", "values"),
    [
        (
            "routes",
            (
                RouteSection(destination="default", gateway="10.0.1.1"),
                RouteSection(destination="default", gateway="2001:db8::1"),
            ),
            {"mtu": 1400},
        ),
        (
            "rules",
            (
                RuleSection(priority=9, table=7, fwmark=1, fwmask=1),
                RuleSection(priority=9, table=7, fwmark=1, fwmask=3),
            ),
            {"fwmask": 5},
        ),
        (
            "rules",
            (
                RuleSection(priority=9, table=7, family="ipv4"),
                RuleSection(priority=9, table=7, family="ipv6"),
            ),
            {"interface": "lan0"},
        ),
    ],
)
@pytest.mark.parametrize("number", [0, 1])
def test_no_table_hides_another(
    section: str, tables: tuple[Any, ...], values: dict[str, Any], number: int
) -> None:
    others = list(tables)
    others[number] = replace(tables[number], **values)
    before, after = (replace(A, **{section: these}) for these in (tables, tuple(others)))
    assert compare(before, after)


def test_keys_are_told_in_the_order_of_the_file() -> None:
    after = replace(changed(A, "log", format="json"), vrids=A.vrids[:1], links=A.links[1:])
    sections = [change.key.partition("[")[0].partition(".")[0] for change in compare(A, after)]
    assert list(dict.fromkeys(sections)) == ["link", "vrid", "log"]


def test_a_link_that_comes_needs_no_restart() -> None:
    more = replace(A.links[0], name="ha1", interface="ha1", number=2)
    changes = compare(A, replace(A, links=(*A.links, more)))
    assert {change.key for change in changes} >= {"link[ha1].interface", "link[ha1].peer"}
    assert not any(change.restart for change in changes)


def test_a_vrid_that_goes_is_told_key_by_key() -> None:
    changes = compare(A, replace(A, vrids=A.vrids[:1]))
    assert {change.key for change in changes} >= {"vrid[52].id", "vrid[52].vips"}
    assert all(change.after is None and not change.restart for change in changes)


def test_both_nodes_of_a_pair_have_one_digest() -> None:
    b = Config(
        node=NodeSection(name="b", index=1),
        pair=A.pair,
        peer=PeerSection(name="a"),
        links=tuple(
            replace(link, local=link.peer, peer=link.local, interface=f"x{link.interface}")
            for link in A.links
        ),
        vrids=tuple(replace(vrid, interface="eth9") for vrid in A.vrids[::-1]),
    )
    assert digest(A) == digest(b)


@pytest.mark.parametrize(
    "other",
    [
        changed(A, "pair", id=2),
        replace(A, timers_set=TimersSection(profile="fast")),
        changed(A, "policy", fail_safe=False),
        replace(A, vrids=(replace(A.vrids[0], vips=("10.0.1.11",)), A.vrids[1])),
        replace(A, vrids=(replace(A.vrids[0], vmac=False), A.vrids[1])),
        replace(A, links=A.links[:1]),
        replace(A, links=(A.links[0], replace(A.links[1], number=2))),
        replace(A, links=(A.links[0], replace(A.links[1], heartbeat=False))),
    ],
)
def test_what_must_be_the_same_changes_the_digest(other: Config) -> None:
    assert digest(other) != digest(A)
    assert 0 <= digest(other) < 2**32


def test_what_was_worked_out_for_another_configuration_changes_no_digest() -> None:
    said: Said = {}
    for timers in (TimersSection(), TimersSection(profile="fast"), TimersSection()):
        for hooks in ((), (HookSection(name="a", exec="/bin/true", events=("primary",)),)):
            config = replace(A, timers_set=timers, hooks=hooks)
            assert digest(config, whole=True, said=said) == digest(config, whole=True)
            assert digest(config, said=said) == digest(config)
    assert said


def test_the_timers_count_not_how_they_are_written() -> None:
    written_out = changed(A, "timers_set", hello_us=6_600, lease_us=100_000)
    assert digest(written_out) == digest(A)
