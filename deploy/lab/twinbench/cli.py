# SPDX-License-Identifier: Apache-2.0
"""The command line of deploy/lab/bench."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from twinlab import plan
from twinlab.shell import LabError

from twinbench import effort, ground, report, run

REPORT = plan.REPO_DIR / "deploy" / "docs" / "bench.md"


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    top = argparse.ArgumentParser(
        prog="bench",
        description="Measure the figures Twinbeat is judged by beside keepalived and FRR.",
        epilog="Groups: "
        + ", ".join(group.name for group in run.GROUPS)
        + "; only if asked for: "
        + ", ".join(group.name for group in run.GROUPS if group.by_name),
    )
    top.add_argument("--quick", action="store_true", help="every figure, fewer runs: 4 minutes")
    top.add_argument("--json", action="store_true", help="the result as one object")
    top.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these only")
    top.add_argument("--runs", type=int, metavar="N", help="so many runs wherever there are runs")
    top.add_argument("--load-seconds", type=float, metavar="S", help="watched under load")
    top.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="TABLE.KEY=VALUE",
        help="configuration beyond the profiles, in TOML",
    )
    top.add_argument(
        "--out", type=Path, default=plan.OUT_DIR, help="directory for bench.json and bench.md"
    )
    top.add_argument(
        "--report-from", type=Path, metavar="JSON", help="only write the report of an earlier run"
    )
    top.add_argument(
        "--report-to", type=Path, default=REPORT, metavar="MD", help=f"where to ({REPORT.name})"
    )
    return top


def main(argv: list[str] | None = None) -> int:
    """Run a bench; exit code 1 if a figure is missing or misses its bar."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.report_from:
            text = report.markdown(json.loads(arguments.report_from.read_text()))
            arguments.report_to.write_text(text)
            print(arguments.report_to)
            return 0
        wanted = effort.QUICK if arguments.quick else effort.FULL
        if arguments.runs:
            wanted = wanted.with_runs(arguments.runs)
        if arguments.load_seconds:
            wanted = wanted.with_load(arguments.load_seconds)
        ground.SETTINGS[:] = arguments.settings
        result = run.bench(wanted, run.chosen(arguments.only))
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
        (arguments.out / "bench.md").write_text(report.markdown(result))
    except LabError as error:
        ground.say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    if arguments.json:
        json.dump(result, sys.stdout, indent=1)
        print()
    else:
        print(report.table(result["figures"]))
        print(f"\n{report.summary(result)}  ({arguments.out / 'bench.md'})")
    return run.exit_code(result)
