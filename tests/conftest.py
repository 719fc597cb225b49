# SPDX-License-Identifier: Apache-2.0
"""What every test shares: who may run what, and that nothing is left out in silence.

Tests below a privileged directory, and those marked `privileged`, need root. Without root they are
skipped and the summary says how many of which kind were left out. In continuous integration
(CI=true) such a skip is a failure, whatever its reason: there everything runs or the run is red.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PRIVILEGED_DIRECTORIES = ("bpf", "lab")
TESTS = Path(__file__).parent

_left_out: Counter[str] = Counter()


def in_ci() -> bool:
    return os.environ.get("CI", "") not in {"", "0", "false"}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulator and transcripts")
    group.addoption("--seed", type=int, help="play this one schedule of the simulator again")
    group.addoption("--schedules", type=int, help="how many random schedules to play")
    group.addoption("--fresh", action="store_true", help="schedules that nobody has played yet")
    group.addoption(
        "--rewrite", action="store_true", help="write the transcripts anew; read the diff"
    )


def _directory(path: Path) -> str:
    """The directory directly below tests/ that the path lies in."""
    relative = path.relative_to(TESTS)
    return relative.parts[0] if len(relative.parts) > 1 else ""


def _is_privileged(item: pytest.Item) -> bool:
    return item.get_closest_marker("privileged") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (
            item.path.is_relative_to(TESTS)
            and _directory(item.path) in PRIVILEGED_DIRECTORIES
            and item.get_closest_marker("unprivileged") is None
        ):
            item.add_marker("privileged")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if _is_privileged(item) and os.geteuid() != 0:
        _left_out[_directory(item.path) or "tests"] += 1
        pytest.skip("needs root")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[pytest.TestReport]:
    report = yield
    # An expected failure reports itself as skipped too, yet it did run.
    if report.skipped and not hasattr(report, "wasxfail") and in_ci() and _is_privileged(item):
        report.outcome = "failed"
        report.longrepr = f"a privileged test may not be skipped in CI: {call.excinfo}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[pytest.CollectReport]:
    report = yield
    if report.skipped and in_ci():
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} skips all of its tests, which CI does not allow"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _left_out:
        return
    terminalreporter.section("left out", sep="-")
    what = ", ".join(f"{count} of {name}" for name, count in sorted(_left_out.items()))
    terminalreporter.write_line(f"Without root these privileged tests did not run: {what}.")
    terminalreporter.write_line("Run `sudo make test` to run everything.")
