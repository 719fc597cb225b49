# SPDX-License-Identifier: Apache-2.0
"""The alert rules ask for metrics that exist, fire when they should, and have a runbook."""

import re
import subprocess
from pathlib import Path

from repo import project

PROMETHEUS = project.ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "alerts.yml"
UNIT_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
OPERATIONS = project.DOCS / "operations.md"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def alerts(rules: str) -> list[str]:
    return re.findall(r"^ +- alert: (\w+)$", rules, re.MULTILINE)


def metrics(rules: str) -> set[str]:
    """The metrics that a text asks for, histograms by their own name."""
    without_comments = re.sub(r"^\s*#.*$", "", rules, flags=re.MULTILINE)
    named = re.findall(r"\btwinbeat_[a-z_]+", without_comments)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}


def test_every_metric_of_the_rules_exists() -> None:
    from twinbeat.observe.metrics import METRIC_NAMES
    from twinbeat.weblog.client import told

    client = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in told.families(told.ClientStatus())
    }
    asked = metrics(RULES.read_text())
    assert len(asked) > 10
    assert asked - METRIC_NAMES - client == set()
    assert len(asked & client) == 4


def test_a_metric_that_does_not_exist_would_be_seen() -> None:
    rules = "# twinbeat_comment\nexpr: rate(twinbeat_gone_seconds_bucket[5m]) > twinbeat_term"
    assert metrics(rules) == {"twinbeat_gone_seconds", "twinbeat_term"}


def test_promtool_takes_the_rules() -> None:
    result = promtool("check", "rules", RULES)
    assert result.returncode == 0, result.stdout + result.stderr


def test_rules_fire_when_they_should_and_only_then() -> None:
    result = promtool("test", "rules", *UNIT_TESTS)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_rule_that_never_fires_would_be_seen(tmp_path: Path) -> None:
    rules = RULES.read_text().replace("sum by (pair) (twinbeat_primary) > 1", "vector(0) > 1")
    (tmp_path / "alerts.yml").write_text(rules)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "alerts.yml").write_text(
        (PROMETHEUS / "tests" / "alerts.yml").read_text()
    )
    result = promtool("test", "rules", tmp_path / "tests" / "alerts.yml")
    assert result.returncode == 1
    assert "TwinbeatTwoPrimaries" in result.stdout + result.stderr


def test_every_alert_is_seen_firing() -> None:
    fired = re.findall(
        r"alertname: (\w+)\n\s+exp_alerts:\n\s+- exp_labels",
        "\n".join(path.read_text() for path in UNIT_TESTS),
    )
    assert set(alerts(RULES.read_text())) == set(fired)


def test_every_alert_is_fired_by_its_fault_in_the_lab() -> None:
    """By one test or another, of files that `make alerts` runs."""
    lab = project.ROOT / "tests" / "lab"
    files = [*lab.glob("test_prometheus*.py"), *lab.glob("alerts_by_*.py")]
    fired = re.findall(r"\bfires\((.*?)\)", "".join(path.read_text() for path in files), re.DOTALL)
    names = [name for call in fired for name in re.findall(r'"(Twinbeat[A-Z]\w+)"', call)]
    assert sorted(names) == sorted(alerts(RULES.read_text())), "each of them, and by one test"
    makefile = (project.ROOT / "Makefile").read_text()
    assert all(f"tests/lab/{path.name}" in makefile for path in files)


def test_every_alert_has_its_runbook_and_no_runbook_is_left_over() -> None:
    rules = RULES.read_text()
    sections = re.findall(r"^### (Twinbeat\w+)$", OPERATIONS.read_text(), re.MULTILINE)
    assert sections == alerts(rules)
    linked = re.findall(r'runbook: "deploy/docs/operations\.md#(\w+)"', rules)
    assert linked == [name.lower() for name in alerts(rules)]
