# SPDX-License-Identifier: Apache-2.0
"""The page on monitoring: no object or trap is left out, and what it names exists."""

import re
from typing import Any

import msgspec

from repo import project

PAGE = project.DOCS / "monitoring.md"
ALERTS = project.ROOT / "deploy" / "prometheus" / "alerts.yml"
OBJECTS = [6, *range(1, 13), *range(14, 29)]
TRAPS = [1, 2, 68, 69, 70, 71, 85, 86, 116, 138, 142, 149, 150, 151, 152, 154]


def table(head: str) -> list[list[str]]:
    """The cells of the table that begins with a cell."""
    found = re.search(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE)
    assert found is not None, head
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def unknown_metrics(text: str) -> set[str]:
    from twinbeat.observe.metrics import METRIC_NAMES

    return set(re.findall(r"\btwinbeat_[a-z_]+", text)) - METRIC_NAMES


def unknown_alerts(text: str) -> set[str]:
    known = set(re.findall(r"^ +- alert: (\w+)$", ALERTS.read_text(), re.MULTILINE))
    return set(re.findall(r"\bTwinbeat[A-Z]\w+", text)) - known


def missing_fields(text: str) -> list[str]:
    """Paths of the status that a text names in backticks and that there aren't."""
    from twinbeat.api.schema import Status

    parts = "|".join(re.escape(name) for name in Status.__struct_fields__)
    paths = re.findall(rf"`((?:{parts})(?:\[\])?\.[a-z_.]+)`", text)
    assert len(paths) > 20
    return [path for path in paths if not exists(Status, path)]


def exists(type_: Any, path: str) -> bool:
    for name in path.replace("[]", "").split("."):
        info = msgspec.inspect.type_info(type_)
        while not isinstance(info, msgspec.inspect.StructType):
            if isinstance(info, msgspec.inspect.UnionType):
                info = next(t for t in info.types if not isinstance(t, msgspec.inspect.NoneType))
            elif isinstance(info, msgspec.inspect.ListType):
                info = info.item_type
            elif isinstance(info, msgspec.inspect.Metadata):
                info = info.type
            else:
                return False
        hints = msgspec.structs.fields(info.cls)
        found = [field.type for field in hints if field.name == name]
        if not found:
            return False
        type_ = found[0]
    return True


def test_no_object_and_no_trap_is_left_out() -> None:
    objects, traps = table("object"), table("trap")
    assert [int(row[0].lstrip(".")) for row in objects] == OBJECTS
    assert [int(row[0]) for row in traps] == TRAPS
    for row in [*objects, *traps]:
        assert re.fullmatch(r"ha[A-Z]\w+|sysHigh\w+|[a-z]\w+", row[1]), row
        named = re.search(r"twinbeat_|Twinbeat|of the status", row[2])
        assert named or row[2].startswith("none: "), row


def test_metrics_alerts_and_fields_of_the_page_exist() -> None:
    text = PAGE.read_text()
    assert unknown_metrics(text) == set()
    assert unknown_alerts(text) == set()
    assert missing_fields(text) == []


def test_what_does_not_exist_would_be_seen() -> None:
    assert unknown_metrics("`twinbeat_gone_total` `twinbeat_term`") == {"twinbeat_gone_total"}
    assert unknown_alerts("TwinbeatGone TwinbeatPeerLost") == {"TwinbeatGone"}
    wrong = "`links[].gone` `last_transition.gone` `node.role.gone`"
    text = PAGE.read_text() + wrong
    assert missing_fields(text) == ["links[].gone", "last_transition.gone", "node.role.gone"]


def test_status_codes_of_the_page_are_those_of_the_server() -> None:
    source = (project.ROOT / "agent/twinbeat/api/server.py").read_text()
    routes = set(re.findall(r'\("GET", "(/[a-z]+)"\): self\._get_', source)) - {"/metrics"}
    assert {row[0].strip("`") for row in table("path")} == routes
