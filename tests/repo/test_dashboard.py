# SPDX-License-Identifier: Apache-2.0
"""The Grafana dashboard: its metrics exist, its panels have their place; the lab asks it."""

import itertools
import json
import re
from typing import Any

from repo import project

DASHBOARD = project.ROOT / "deploy" / "grafana" / "twinbeat.json"
BOARD = json.loads(DASHBOARD.read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
COLUMNS = 24


def unknown_metrics(text: str) -> set[str]:
    from twinbeat.observe.metrics import METRIC_NAMES

    named = re.findall(r"\btwinbeat_[a-z_]+", text)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in named} - METRIC_NAMES


def expressions(panels: list[dict[str, Any]]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel["targets"]]


def overlaps(panels: list[dict[str, Any]]) -> list[tuple[str, str]]:
    def meet(a: dict[str, int], b: dict[str, int]) -> bool:
        across = a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"]
        return across and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]

    return [
        (one["title"], other["title"])
        for one, other in itertools.combinations(panels, 2)
        if meet(one["gridPos"], other["gridPos"])
    ]


def test_every_metric_of_the_dashboard_exists() -> None:
    found = " ".join([*expressions(PANELS), BOARD["annotations"]["list"][0]["expr"]])
    assert len(set(re.findall(r"twinbeat_[a-z_]+", found))) > 25
    assert unknown_metrics(found) == set()
    assert unknown_metrics("rate(twinbeat_gone_bucket[5m])") == {"twinbeat_gone"}


def test_every_panel_explains_itself_and_asks_for_the_chosen_pair() -> None:
    for panel in PANELS:
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for expr in expressions([panel]):
            selectors = len(re.findall(r"\btwinbeat_[a-z_]+\{", expr))
            assert selectors == expr.count('pair=~"$pair"') >= 1, expr


def test_panels_have_a_place_of_their_own() -> None:
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert overlaps(BOARD["panels"]) == []
    for panel in BOARD["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= COLUMNS
    twice = [dict(PANELS[0], title="a"), dict(PANELS[0], title="b")]
    assert overlaps(twice) == [("a", "b")]


def test_nothing_of_a_site_is_in_it() -> None:
    text = DASHBOARD.read_text()
    assert BOARD["uid"] == "twinbeat"
    assert "id" not in BOARD, "Grafana gives it one"
    assert re.search(r"https?://", text) is None
