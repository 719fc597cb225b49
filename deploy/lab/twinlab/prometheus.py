# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus in the lab, behind the wan switch: it scrapes both nodes and judges the rules.

It sits in a server's namespace, so that cutting the nodes' other links leaves it its sight.
"""

from __future__ import annotations

import json
import re
import shutil
import urllib.parse
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from twinlab import netns, plan, processes
from twinlab.shell import LabError, run, wait_for

NAME = "prometheus"
WHERE = plan.namespace("s1")
METRICS_PORT = 9703
PORT = 9090
RULES = plan.REPO_DIR / "deploy" / "prometheus" / "alerts.yml"
DIRECTORY = plan.RUN_DIR / NAME
EVERY = "250ms"


def start(*, waits: str | None = None, others: Mapping[str, str] = MappingProxyType({})) -> None:
    """Start it and wait until it has scraped both nodes, whose `metrics.listen` has to be open.

    `waits` takes the place of what alerts wait for before they fire (`for:`), for tests: what
    makes them pending stays as it is. `others`: further machines, as instance and target.
    """
    targets = {
        node: f"{plan.node_address(node, 'wan0')}:{METRICS_PORT}" for node in plan.NODES
    } | dict(others)
    DIRECTORY.mkdir(exist_ok=True)
    rules = RULES.read_text()
    if waits is not None:
        rules = re.sub(r"^( +for:) .*$", rf"\1 {waits}", rules, flags=re.MULTILINE)
    (DIRECTORY / "alerts.yml").write_text(rules)
    (DIRECTORY / "prometheus.yml").write_text(_configuration(targets))
    command = [
        NAME,
        f"--config.file={DIRECTORY / 'prometheus.yml'}",
        f"--storage.tsdb.path={DIRECTORY / 'data'}",
        f"--web.listen-address=127.0.0.1:{PORT}",
        "--log.level=warn",
    ]
    processes.spawn(NAME, WHERE, command)
    wait_for(
        lambda: len(query("up == 1")) == len(targets),
        f"prometheus to scrape {', '.join(targets)} ({processes.log_tail(NAME, 3)})",
        timeout_s=20,
        interval_s=0.2,
    )


def stop() -> None:
    """End it and forget what it knew."""
    if processes.pid_of(NAME) is not None:
        processes.end(NAME)
    shutil.rmtree(DIRECTORY, ignore_errors=True)


def _configuration(targets: Mapping[str, str]) -> str:
    nodes = "".join(
        f"      - targets: ['{target}']\n        labels: {{instance: '{name}'}}\n"
        for name, target in targets.items()
    )
    return (
        f"global:\n  scrape_interval: {EVERY}\n  scrape_timeout: {EVERY}\n"
        f"  evaluation_interval: {EVERY}\n"
        f"rule_files: ['{DIRECTORY / 'alerts.yml'}']\n"
        f"scrape_configs:\n  - job_name: twinbeat\n    static_configs:\n{nodes}"
    )


def _get(path: str) -> Any:
    """The data of an answer; LabError with its own words where it is an error."""
    address = f"http://127.0.0.1:{PORT}/api/v1/{path}"
    said = run([*netns.enter(WHERE), "curl", "-sS", "--max-time", "5", address])
    answer = json.loads(said)
    if answer["status"] != "success":
        raise LabError(f"prometheus: {answer.get('error', answer)}")
    return answer["data"]


def query(expression: str) -> list[dict[str, Any]]:
    """What an expression comes to now; nothing while nobody answers. LabError if it is wrong."""
    try:
        data = _get(f"query?query={urllib.parse.quote(expression, safe='')}")
    except json.JSONDecodeError:
        return []
    except LabError as error:
        if "curl" in str(error):
            return []
        raise
    result: list[dict[str, Any]] = data["result"]
    return result


def firing() -> set[str]:
    """Names of the alerts that fire now."""
    alerts = _get("alerts")["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
