# SPDX-License-Identifier: Apache-2.0
"""`python -m twinbeat.runtime.doctor`: what this host lacks for a pair, line by line, with the fix.

Runs in a process of its own beside a serving agent. The checks are those of
`twinbeat.runtime.checkup`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

import msgspec

from twinbeat.api.schema import Check, Doctor
from twinbeat.config.keys import load_keys
from twinbeat.config.load import examine
from twinbeat.config.model import CONFIG_PATH, Config
from twinbeat.config.problems import ConfigError
from twinbeat.runtime.checkup import machine
from twinbeat.runtime.checkup.arbiters import last_resorts, third_parties
from twinbeat.runtime.checkup.checks import ERROR, WARNING, check
from twinbeat.runtime.checkup.kernel import kernel, permissions
from twinbeat.runtime.checkup.network import network
from twinbeat.runtime.checkup.pace import realtime


def examine_host(path: str) -> Doctor:
    """Every check there is."""
    checks = [*kernel(), *permissions()]
    config, problems = examine(path)
    for problem in problems:
        level = WARNING if problem.warning else ERROR
        checks.append(check("configuration", False, str(problem), level=level))
    if config is not None:
        checks.append(check("configuration", True, f"{path} can be used"))
        checks += _keys(config)
        checks += last_resorts(config)
        checks += third_parties(config)
        checks += network(config)
        checks += machine.cards(config)
        checks.append(machine.sleep(config))
    checks += realtime(config)
    checks.append(machine.versions())
    return Doctor(checks=checks)


def _keys(config: Config) -> Iterator[Check]:
    try:
        keys = load_keys(config)
    except ConfigError:
        return  # told among the configuration's problems
    ids = ", ".join(str(key.id) for key in keys)
    yield check("keys", True, f"accepted: {ids}; sent under {config.keys.send}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; 1 if anything is an error."""
    parser = argparse.ArgumentParser(prog="twinbeat doctor")
    parser.add_argument("--config", default=CONFIG_PATH)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    report = examine_host(options.config)
    write: Callable[[str], int] = sys.stdout.write
    if options.json:
        write(msgspec.json.encode(report).decode() + "\n")
    else:
        for line in report.checks:
            write(f"{line.level:<8}{line.name}: {line.finding}\n")
            if line.fix:
                write(f"        {line.fix}\n")
    return 1 if any(line.level == ERROR for line in report.checks) else 0


if __name__ == "__main__":
    sys.exit(main())
