# SPDX-License-Identifier: Apache-2.0
"""`twinbeat show` about routes, injected addresses and hooks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from twinbeat.api import schema
from twinbeat.cli.main import run
from unit.memory_agent import Served, hook, status

CONFLICT = schema.RouteProblem(
    trouble="conflict",
    what="192.0.2.0/24 via 10.77.0.9 table 254",
    why="somebody else's route is there already",
)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        yield running


def shown(served: Served, capsys: pytest.CaptureFixture[str], *what: str, **parts: Any) -> str:
    served.agent.state = status(**parts)
    assert run(["show", *what, "--socket", served.path]) == 0
    return capsys.readouterr().out


def test_a_conflict_is_a_warning_and_has_its_line(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    routes = schema.Routes(
        wanted=3, standing=1, kept=1, problems_total=1, problems=[CONFLICT], replaced=2
    )
    text = shown(served, capsys, routes=routes)
    assert "! 192.0.2.0/24 via 10.77.0.9 table 254: somebody else's" in text
    assert "1 of 3 routes stand, 1 by somebody else" in text
    assert "conflict: 192.0.2.0/24" in text
    assert "2 routes of others are replaced and will be put back" in text


def test_injected_addresses_say_how_they_are_reached(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    vrid = schema.Vrid(
        id=51,
        interface="up0",
        inject=True,
        uplinks=["up1"],
        state="serving",
        carrier=True,
        vips_total=1,
        vips=["192.0.2.10"],
    )
    routes = schema.Routes(wanted=1, standing=1, injected=1, inject_table=155)
    text = shown(served, capsys, vrids=[vrid], routes=routes)
    assert "reached through routers over up0, up1" in text
    assert "1 of these tell the routing daemon in table 155" in text
    assert "forwarding through this node is not" not in text


def test_hooks_say_how_they_ended(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    bad = hook(
        name="page",
        outcomes={"ok": 1, "timeout": 3},
        last_good=False,
        last_sentence="took too long and was killed",
    )
    text = shown(served, capsys, "hooks", hooks=[hook(), bad, hook(name="busy", running="fault")])
    mail, page, busy = text.splitlines()
    assert mail.startswith("mail (primary, secondary): primary: ended with 0 after 12 ms; 4 runs")
    assert mail.endswith("1 skipped")
    assert "took too long and was killed" in page
    assert "3 not good" in page
    assert "running for fault" in busy
    assert "hook page took too long" in shown(served, capsys, hooks=[bad])


@pytest.mark.parametrize("part", ["routes", "hooks"])
def test_a_part_alone_as_json(
    served: Served, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    assert run(["show", part, "--json", "--socket", served.path]) == 0
    said = msgspec.json.decode(capsys.readouterr().out)
    assert set(said) == {"schema", part}
