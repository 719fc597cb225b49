# SPDX-License-Identifier: Apache-2.0
"""What every test shares: who may run what, and that nothing is left out in silence.

Tests below a privileged directory, and those marked `privileged`, need root. Without root they are
skipped and the summary says how many of which kind were left out. In continuous integration
(CI=true) such a skip is a failure, whatever its reason: there everything runs or the run is red.

`make test` runs three processes (`-n 3`), each with a lane of its own. What only computes takes
what processor time is left over. The lab is there once, and waits most of its time: its tests, and
those that measure, run one after the other and before anybody else. So do the remaining tests of
units, which have namespaces of their own, and yield to the lab where both want a processor.
"""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PRIVILEGED_DIRECTORIES = ("bpf", "lab", "package")
COMPUTING_DIRECTORIES = ("c", "repo", "sim", "transcripts")
"""Of tests whose outcome depends on no clock, and that share nothing with those that run beside."""
COMPUTING_UNITS = ("bench", "config", "core", "engine_step", "observe", "sync_propagation")
"""Such tests among those of units: what their files' names begin with, after test_."""
LEFTOVERS_S = 540
"""How long one of these may take out of what processor time is left over."""
ALONE_DIRECTORIES = ("bpf", "lab")
"""Of tests of which only one may run at a time, with the machine's processors to hand."""
YIELDING = 5
"""How nice a test of units is to the lab: a third of its share, and never nothing."""
TESTS = Path(__file__).parent

NEEDS_ROOT = "needs root"


def in_ci() -> bool:
    return os.environ.get("CI", "") not in {"", "0", "false"}


def pytest_configure() -> None:
    # A shell that runs the tests in its background makes them, and all they start, deaf to ^C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
    below = path.relative_to(TESTS).parts if path.is_relative_to(TESTS) else ()
    return below[0] if len(below) > 1 else ""


def _only_computes(path: Path) -> bool:
    unit = path.name.removeprefix("test_").startswith(COMPUTING_UNITS)
    return _directory(path) in COMPUTING_DIRECTORIES or (_directory(path) == "unit" and unit)


def _lane(path: Path) -> str:
    if _only_computes(path):
        return "computes"
    return "alone" if _directory(path) in ALONE_DIRECTORIES else "units"


def _is_privileged(item: pytest.Item) -> bool:
    return item.get_closest_marker("privileged") is not None


def _has_lanes(config: pytest.Config) -> bool:
    return getattr(config, "workerinput", {}).get("workercount", 1) > 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if _has_lanes(config) and _only_computes(item.path):
            # It has to wait for processor time, and that is nobody's fault.
            item.add_marker(pytest.mark.timeout(LEFTOVERS_S))
        if (
            item.path.is_relative_to(TESTS)
            and _directory(item.path) in PRIVILEGED_DIRECTORIES
            and item.get_closest_marker("unprivileged") is None
        ):
            item.add_marker("privileged")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if _is_privileged(item) and os.geteuid() != 0:
        pytest.skip(NEEDS_ROOT)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    if _has_lanes(item.config) and _only_computes(item.path):
        # Nice would not do: a nice process that runs still keeps its turn for milliseconds.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    elif _has_lanes(item.config) and _lane(item.path) == "units":
        usual = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, max(usual, YIELDING))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Three units of work, each for one process, each in the order of its tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _lane(config.rootpath / nodeid.partition("::")[0])

    return Lanes(config, log)


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


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    _tell_figures(terminalreporter)
    left_out = Counter(
        _directory(config.rootpath / report.nodeid.partition("::")[0]) or "tests"
        for report in terminalreporter.getreports("skipped")
        if isinstance(report.longrepr, tuple) and report.longrepr[2].endswith(NEEDS_ROOT)
    )
    if not left_out:
        return
    terminalreporter.section("left out", sep="-")
    what = ", ".join(f"{count} of {name}" for name, count in sorted(left_out.items()))
    terminalreporter.write_line(f"Without root these privileged tests did not run: {what}.")
    terminalreporter.write_line("Run `sudo make test` to run everything.")


def _tell_figures(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have to say of what they tried (the fixture `record_property`, name "figures")."""
    told = [
        str(value)
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "figures" and report.when == "call"
    ]
    if told:
        terminalreporter.section("figures", sep="-")
        for each in told:
            terminalreporter.write_line(each)
