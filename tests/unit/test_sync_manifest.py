# SPDX-License-Identifier: Apache-2.0
"""What is done where two nodes differ: every case by itself, and that it always comes to an end."""

import hashlib
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from twinbeat.sync.manifest import (
    Entry,
    Kind,
    Order,
    What,
    agreed,
    amended,
    changed,
    plan,
    stamps,
    with_common,
)


def file(path: str, text: str, **fields: int) -> Entry:
    content = hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
    return Entry(path=path, kind=Kind.FILE, size=len(text), content=content, **fields)


def directory(path: str, mode: int = 0o755) -> Entry:
    return Entry(path=path, kind=Kind.DIRECTORY, mode=mode)


def link(path: str, target: str) -> Entry:
    return Entry(path=path, kind=Kind.LINK, target=target)


def unknown(path: str) -> Entry:
    return Entry(path=path, kind=Kind.UNKNOWN, why="permission")


@dataclass
class Node:
    """What a node has, and what it knows as common."""

    entries: dict[str, Entry] = field(default_factory=dict)
    common: dict[str, str] = field(default_factory=dict)

    def told(self) -> dict[str, Entry]:
        return with_common(self.entries, self.common)


def node(*entries: Entry, common: tuple[Entry, ...] = ()) -> Node:
    has = {entry.path: entry for entry in entries}
    return Node(has, {entry.path: entry.stamp for entry in common})


OLD, NEW, OTHER = (file("/p", text) for text in ("old", "new", "other"))


def orders(found: list[Order]) -> list[tuple[str, str, bool]]:
    return [(order.what.value, order.entry.path, order.keep) for order in found]


TAKE, KEEP, DELETE = ("take", "/p", False), ("take", "/p", True), ("delete", "/p", False)


@pytest.mark.parametrize(
    ("here", "there", "to_do_here", "to_do_there"),
    [
        pytest.param(node(OLD), node(OLD), [], [], id="alike"),
        pytest.param(node(OLD), node(), [], [TAKE], id="new-here"),
        pytest.param(node(), node(OLD), [TAKE], [], id="new-there"),
        pytest.param(node(NEW, common=(OLD,)), node(OLD, common=(OLD,)), [], [TAKE], id="changed"),
        pytest.param(
            node(OLD, common=(OLD,)), node(NEW, common=(OLD,)), [TAKE], [], id="changed-there"
        ),
        pytest.param(
            node(NEW, common=(OLD,)), node(OTHER, common=(OLD,)), [], [KEEP], id="conflict"
        ),
        pytest.param(node(NEW), node(OTHER), [], [KEEP], id="never-in-step"),
        pytest.param(
            node(common=(OLD,)), node(OLD, common=(OLD,)), [], [DELETE], id="deleted-here"
        ),
        pytest.param(
            node(OLD, common=(OLD,)), node(common=(OLD,)), [DELETE], [], id="deleted-there"
        ),
        pytest.param(node(common=(OLD,)), node(NEW, common=(OLD,)), [TAKE], [], id="revived"),
        pytest.param(node(NEW, common=(OLD,)), node(common=(OLD,)), [], [TAKE], id="revived-there"),
        # What one of them has forgotten, or not heard of yet, deletes nothing and is no conflict.
        pytest.param(node(), node(OLD, common=(OLD,)), [TAKE], [], id="lost-all-here"),
        pytest.param(node(OLD, common=(OLD,)), node(), [], [TAKE], id="lost-all-there"),
        pytest.param(node(NEW, common=(OLD,)), node(OLD), [], [TAKE], id="forgot-there"),
        pytest.param(node(OLD), node(NEW, common=(OLD,)), [TAKE], [], id="forgot-here"),
        # Unreadable is not deleted.
        pytest.param(
            node(unknown("/p"), common=(OLD,)), node(OLD, common=(OLD,)), [], [], id="unknown"
        ),
        pytest.param(node(NEW, common=(OLD,)), node(unknown("/p")), [], [], id="unknown-there"),
        pytest.param(
            node(unknown("/d")),
            node(directory("/d"), file("/d/x", "x")),
            [],
            [],
            id="below-unknown",
        ),
    ],
)
def test_what_is_done(here: Node, there: Node, to_do_here: list, to_do_there: list) -> None:
    made = plan(here.told(), there.told(), delete=True)
    assert orders(made.here) == to_do_here
    assert orders(made.there) == to_do_there


def test_an_order_says_what_is_to_be_there_and_what_it_expects_to_find() -> None:
    here, there = node(NEW, common=(OLD,)), node(OLD, common=(OLD,))
    (order,) = plan(here.told(), there.told(), delete=True).there
    assert order == Order(what=What.TAKE, entry=NEW, expect=OLD.stamp)


def test_without_deletions_what_was_deleted_comes_back() -> None:
    here, there = node(common=(OLD,)), node(OLD, common=(OLD,))
    assert orders(plan(here.told(), there.told(), delete=False).here) == [TAKE]
    assert orders(plan(there.told(), here.told(), delete=False).there) == [TAKE]


def test_mode_owner_and_target_make_a_difference_and_time_does_not() -> None:
    for change in ({"mode": 0o600}, {"uid": 7}, {"gid": 7}):
        assert replace(OLD, **change).stamp != OLD.stamp
    assert replace(OLD, mtime_ns=7).stamp == OLD.stamp
    assert link("/p", "a").stamp != link("/p", "b").stamp


def test_a_copy_is_kept_of_contents_only() -> None:
    here, there = node(replace(OLD, mode=0o600)), node(OLD)
    assert orders(plan(here.told(), there.told(), delete=True).there) == [TAKE]
    here, there = node(directory("/p", 0o700)), node(directory("/p"))
    assert orders(plan(here.told(), there.told(), delete=True).there) == [TAKE]


def test_a_directory_in_which_something_stays_comes_back() -> None:
    was = (directory("/d"), file("/d/old", "x"))
    here = node(common=was)
    there = node(*was, file("/d/new", "y"), common=was)
    made = plan(here.told(), there.told(), delete=True)
    assert orders(made.there) == [("delete", "/d/old", False)]
    assert sorted(orders(made.here)) == [("take", "/d", False), ("take", "/d/new", False)]


def test_a_directory_gives_way_to_a_file_with_all_that_stays_in_it() -> None:
    was = (directory("/p"), file("/p/old", "x"))
    here = node(NEW, common=was)
    there = node(*was, file("/p/new", "y"), common=was)
    made = plan(here.told(), there.told(), delete=True)
    assert orders(made.there) == [KEEP]
    assert made.here == []
    assert made.conflicts == ["/p"]


def test_manifests_are_told_by_what_is_different() -> None:
    before = node(OLD, file("/q", "q"), common=(OLD, file("/r", "r"))).told()
    after = node(NEW, file("/s", "s"), common=(OLD,)).told()
    told = changed(before, after)
    assert {entry.path for entry in told} == {"/p", "/q", "/r", "/s"}
    assert amended(before, told) == after
    assert changed(after, after) == ()


# -- any two nodes, in the end ---------------------------------------------------------------------

DIR = Kind.DIRECTORY
NAMES = ("/a", "/b", "/d", "/d/x", "/d/y", "/d/e", "/d/e/z")
STATES = st.sampled_from(["", "1", "2", "3", "directory", "link", "unknown"])
WORLDS = st.dictionaries(st.sampled_from(NAMES), STATES)


def entry(path: str, state: str) -> Entry:
    if state == "directory":
        return directory(path)
    if state == "link":
        return link(path, "x")
    return unknown(path) if state == "unknown" else file(path, state)


def world(states: dict[str, str]) -> dict[str, Entry]:
    """Entries as a file system may have them: what has something below it is a directory."""
    made: dict[str, Entry] = {}
    for path, state in sorted(states.items()):
        if not state or any(path.startswith(a + "/") and made[a].kind is not DIR for a in made):
            continue
        above = path.rpartition("/")[0]
        while above and above not in made:
            made[above] = directory(above)
            above = above.rpartition("/")[0]
        if path not in made:
            made[path] = entry(path, state)
    return made


def carried_out(node: Node, todo: list[Order], kept: list[Entry]) -> None:
    """What the orders make of a node; anything that can't be done is a mistake of the plan."""
    absent = Entry(path="/", kind=Kind.ABSENT)
    for order in todo:
        assert node.entries.get(order.entry.path, absent).stamp == order.expect
    for order in sorted(todo, key=lambda order: order.entry.path, reverse=True):
        if order.what is What.DELETE:
            below = order.entry.path + "/"
            assert not any(path.startswith(below) for path in node.entries), "it isn't empty"
            del node.entries[order.entry.path]
    for order in sorted(todo, key=lambda order: order.entry.path):
        path = order.entry.path
        if order.what is not What.TAKE:
            continue
        above = path.rpartition("/")[0]
        assert not above or node.entries[above].kind is Kind.DIRECTORY
        if order.keep and path in node.entries:
            kept.append(node.entries[path])
            gone = [p for p in node.entries if p.startswith(path + "/")]
            kept += [node.entries.pop(p) for p in gone]
        if order.entry.kind is not Kind.DIRECTORY:
            assert not any(p.startswith(path + "/") for p in node.entries), "it isn't empty"
        node.entries[path] = order.entry


@settings(max_examples=400, deadline=None)
@given(WORLDS, WORLDS, WORLDS, WORLDS, st.booleans())
def test_two_nodes_come_together_and_no_content_is_lost(
    mine: dict[str, str],
    theirs: dict[str, str],
    mine_before: dict[str, str],
    theirs_before: dict[str, str],
    delete: bool,
) -> None:
    here = Node(world(mine), stamps(world(mine_before)))
    there = Node(world(theirs), stamps(world(theirs_before)))
    known = set(here.common.values()) | set(there.common.values())
    fresh = {
        e.content
        for n in (here, there)
        for e in n.entries.values()
        if e.kind is Kind.FILE and e.stamp not in known
    }
    blind = {e.path for n in (here, there) for e in n.entries.values() if e.kind is Kind.UNKNOWN}
    kept: list[Entry] = []
    for _ in range(6):
        made = plan(here.told(), there.told(), delete=delete)
        for one in (here, there):
            for path, stamp in made.common.items():
                if stamp:
                    one.common[path] = stamp
                else:
                    one.common.pop(path, None)
        if made.empty:
            break
        carried_out(here, made.here, kept)
        carried_out(there, made.there, kept)
    else:
        pytest.fail("it doesn't come to an end")

    def visible(node: Node) -> dict[str, str]:
        hidden = tuple(path + "/" for path in blind)
        return {
            path: stamp
            for path, stamp in stamps(node.entries).items()
            if path not in blind and not path.startswith(hidden)
        }

    assert visible(here) == visible(there)
    left = {e.content for n in (here, there) for e in n.entries.values()}
    assert fresh <= left | {e.content for e in kept}


def test_both_reckon_alike_what_was_told_and_agreed() -> None:
    there = node(NEW, common=(OLD, file("/q", "q")))
    common = {"/p": NEW.stamp, "/q": ""}
    told = agreed(there.told(), common.items())
    assert told == node(NEW, common=(NEW,)).told()
