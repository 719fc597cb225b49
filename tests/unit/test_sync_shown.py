# SPDX-License-Identifier: Apache-2.0
"""What is told of lists of files: bounded, and nothing that a terminal would take for an order."""

import click
import msgspec

from twinbeat.api.worker import Report
from twinbeat.cli.files import lines
from twinbeat.observe.sync import FILES_STATES
from twinbeat.sync.shown import (
    BRIEFS_MOST,
    STATES,
    FileFailure,
    ListStatus,
    briefs,
    printable,
)


def plain(status: ListStatus) -> list[str]:
    return [click.unstyle(line) for line in lines(status)]


def listed(name: str = "certs", **changes: object) -> ListStatus:
    usual = {"name": name, "state": "same", "sentence": "Both nodes have it alike."}
    return msgspec.convert(usual | changes, ListStatus)


def test_of_too_many_lists_those_that_are_not_alike_are_told() -> None:
    many = [listed(f"same{number:03}") for number in range(2 * BRIEFS_MOST)]
    bad = listed("zz", state="partly", sentence="x" * 2000, failed=3)
    told = briefs([*many, bad])
    assert len(told) == BRIEFS_MOST
    assert [each.name for each in told if each.state != "same"] == ["zz"]
    report = Report(state="enabled", sentence="", files=told)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_every_state_has_its_metric() -> None:
    assert FILES_STATES == STATES


def test_while_a_round_is_under_way_there_is_a_bar() -> None:
    working = listed(
        state="working", items=4, items_done=1, bytes_wanted=4000, bytes_done=1000, entries=9
    )
    bar = f"  [{'#' * 10}{'.' * 30}] 1 of 4 items, 1,000 of 4,000 bytes"
    assert bar in plain(working)
    by_items = listed(state="working", items=4, items_done=2)
    assert f"  [{'#' * 20}{'.' * 20}] 2 of 4 items" in plain(by_items)
    over = listed(items=4, items_done=4, bytes_wanted=4000, bytes_done=4000)
    assert not [line for line in plain(over) if "[" in line], "nothing is under way any more"


def test_each_failure_is_named_and_the_rest_counted() -> None:
    failures = [
        FileFailure(path="/etc/a", code="full", sentence="/etc/a: the disk is full."),
        FileFailure(path="/etc/b", code="kind", sentence="it is a pipe"),
        FileFailure(path="", code="lost", sentence="Nothing was heard."),
    ]
    seen = plain(listed(state="partly", failed=5, failures=failures, command="ended with 1"))
    assert seen[-5:] == [
        "  ! /etc/a: the disk is full (full)",
        "  ! /etc/b: it is a pipe (kind)",
        "  ! Nothing was heard (lost)",
        "  and 2 more",
        "  its command ended with 1",
    ]


def test_what_a_peer_says_moves_no_cursor() -> None:
    assert printable("a\x1b[2Jb\n") == "a?[2Jb?"
    failure = FileFailure(path="/etc/\x1b[2J", code="\x07", sentence="\r")
    assert "\x1b" not in "".join(plain(listed(failed=1, failures=[failure])))
    assert "\x07" not in "".join(plain(listed(failed=1, failures=[failure])))
