# SPDX-License-Identifier: Apache-2.0
"""What every test shares: who may run what, and that nothing is left out in silence.

Tests below a privileged directory, and those marked `privileged`, need root. Without root they are
skipped and the summary says how many of which kind were left out. In continuous integration
(CI=true) any skip is a failure, whatever its reason: there everything runs or the run is red.

`make test` runs three processes (`-n 3`), each with a lane of its own. What only computes takes
what processor time is left over. The lab is there once, and waits most of its time: its tests, and
those that measure, run one after the other and before anybody else. So do the remaining tests of
units, which have namespaces of their own, and yield to the lab where both want a processor.

What depends on a clock may fail because the machine stands still for longer than a pair has timers
or a test has patience. So a failure of the lab or of units counts there if nothing stood still
meanwhile, or if it comes back: else it is tried again, and the summary says so. What no delay may
ever cause (an error that `counts_at_once`: two owners of an address) is never tried again.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

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
TRIES = 3
"""How often at most something is tried that fails while the machine stands still."""
STILL_S = 0.1
"""What no process runs for that long is a machine that stands still: more than a pair's `dead`."""
TESTS = Path(__file__).parent

METER = """
import os, sys, threading, time

def watch(processor):
    os.sched_setaffinity(threading.get_native_id(), [processor])
    before = time.monotonic()
    while True:
        time.sleep(0.01)
        now = time.monotonic()
        if now - before >= float(sys.argv[1]):
            os.write(1, b"%.3f\\n" % (now - before))
        before = now

for processor in os.sched_getaffinity(0):
    threading.Thread(target=watch, args=(processor,), daemon=True).start()
print("runs", flush=True)
sys.stdin.read()
"""

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
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if not _has_lanes(item.config):
        return None
    if _only_computes(item.path):
        # Nice would not do: a nice process that runs still keeps its turn for milliseconds.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        return None
    if _lane(item.path) == "units":
        usual = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, max(usual, YIELDING))
    _try(item, nextitem)
    return True


class StillMeter:
    """A process that tells for how long it was not let run, on any processor."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-SEc", METER, str(STILL_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        os.set_blocking(self._process.stdout.fileno(), False)

    def longest_s(self) -> float:
        """The longest time since this was asked last; 0 = none of STILL_S or more."""
        assert self._process.stdout is not None
        told = b""
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self._process.stdout.fileno(), 1 << 16):
                told += more
        return max(map(float, told.split()), default=0.0)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


METERS = pytest.StashKey[StillMeter]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if METERS in session.config.stash:
        session.config.stash[METERS].end()


def _try(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Run a test as pytest does; once more where it fails while the machine stands still."""
    where = {"nodeid": item.nodeid, "location": item.location}
    if METERS not in item.config.stash:
        item.config.stash[METERS] = StillMeter()
    meter = item.config.stash[METERS]
    item.ihook.pytest_runtest_logstart(**where)
    for left in reversed(range(TRIES)):
        meter.longest_s()
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        failed = [report for report in reports if report.failed]
        still_s = meter.longest_s()
        at_once = any(getattr(report, "counts_at_once", False) for report in failed)
        if not (failed and left and still_s) or at_once:
            break
        why = str(failed[0].longrepr).strip().splitlines()[-1:]
        item.user_properties[:] = [
            *(told for told in item.user_properties if told[0] == "tried again"),
            ("tried again", f"{item.nodeid}: the machine stood still for {still_s} s: {why}"),
        ]
        _begin_anew(item)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(**where)


def _begin_anew(item: pytest.Item) -> None:
    """Take down all that was set up, also for a whole module, and give the test its time again."""
    try:
        item.session._setupstate.teardown_exact(None)
    except Exception as error:  # noqa: BLE001 - what it broke is to be seen in the next try
        item.user_properties.append(("tried again", f"{item.nodeid}: at its end: {error!r}"))
    timeout = item.config.pluginmanager.getplugin("timeout")
    settings = timeout._get_item_settings(item) if timeout is not None else None
    if settings is not None and settings.timeout and not settings.func_only:
        timeout.pytest_timeout_cancel_timer(item)
        timeout.pytest_timeout_set_timer(item, settings)


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
    if call.excinfo is not None:
        report.counts_at_once = getattr(call.excinfo.value, "counts_at_once", False)
    # An expected failure reports itself as skipped too, yet it did run.
    if report.skipped and not hasattr(report, "wasxfail") and in_ci():
        report.outcome = "failed"
        report.longrepr = f"no test may be skipped in CI: {call.excinfo}"
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
    _tell_tries(terminalreporter)
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


def _tell_tries(terminalreporter: pytest.TerminalReporter) -> None:
    told = [
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "teardown"
        for name, value in report.user_properties
        if name == "tried again"
    ]
    if told:
        terminalreporter.section("tried again", sep="-")
        for each in told:
            terminalreporter.write_line(each)


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
