# SPDX-License-Identifier: Apache-2.0
"""The rule of tests/conftest.py for what fails while the machine stands still."""

import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
TEST = """
import os, signal, time
from pathlib import Path

def run():
    with open(__file__ + ".runs", "a") as file:
        file.write("x")
    return len(Path(__file__ + ".runs").read_text())

def stand_still():
    # The one that measures is this process's only child.
    (meter,) = Path("/proc/self/task").joinpath(str(os.getpid()), "children").read_text().split()
    os.kill(int(meter), signal.SIGSTOP)
    time.sleep(0.5)
    os.kill(int(meter), signal.SIGCONT)
    time.sleep(0.5)

def test_it():
    if run() == 1:
        {first}
    {then}
"""
FAILS = "assert 'what came' == ''"
STILL = f"stand_still(); {FAILS}"
NEVER = """
        class TwoOwners(AssertionError):
            counts_at_once = True
        stand_still()
        raise TwoOwners("both")
"""


def tried(
    pytester: pytest.Pytester, tests: dict[str, tuple[str, str]], conftest: str
) -> tuple[dict[str, int], dict[str, int], str]:
    """How often each runs in the lanes of `make test`, what came of all, and what was told."""
    pytester.makeini(
        "[pytest]\naddopts = --import-mode=importlib\nmarkers =\n  privileged\ntimeout = 60\n"
    )
    pytester.makeconftest(conftest)
    for name, (first, then) in tests.items():
        path = pytester.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(TEST.format(first=first, then=then))
    result = pytester.run(
        *("chrt", "--other", "0", sys.executable),
        *("-m", "pytest", "-n", "2", "-p", "no:cacheprovider"),
    )
    runs = {name: len((pytester.path / f"{name}.runs").read_text()) for name in tests}
    return runs, result.parseoutcomes(), str(result.stdout)


@pytest.mark.privileged
def test_what_failed_in_a_machine_that_stood_still_is_tried_again_and_told(
    pytester: pytest.Pytester,
) -> None:
    tests = {
        "lab/test_once.py": (STILL, "pass"),
        "unit/test_once.py": (STILL, "pass"),
        "unit/test_always.py": (STILL, STILL),
        "sim/test_computes.py": (f"time.sleep(0.5); {FAILS}", "pass"),
    }
    runs, outcomes, told = tried(pytester, tests, CONFTEST.read_text())
    assert outcomes == {"passed": 2, "failed": 2}, told
    assert runs["unit/test_always.py"] == 3
    assert runs["sim/test_computes.py"] == 1, "it depends on no clock"
    for name in ("lab/test_once.py", "unit/test_once.py"):
        assert runs[name] == 2
        assert f"{name}::test_it: the machine stood still for " in told


@pytest.mark.privileged
def test_what_fails_in_a_machine_that_runs_has_failed_at_once(pytester: pytest.Pytester) -> None:
    text = CONFTEST.read_text()
    assert "\nSTILL_S = 0.1\n" in text
    text = text.replace("\nSTILL_S = 0.1\n", "\nSTILL_S = 1000.0\n")
    runs, outcomes, told = tried(pytester, {"lab/test_it.py": (FAILS, "pass")}, text)
    assert runs == {"lab/test_it.py": 1}
    assert outcomes == {"failed": 1}
    assert "tried again" not in told


@pytest.mark.privileged
def test_what_no_delay_may_cause_has_failed_at_once(pytester: pytest.Pytester) -> None:
    tests = {"lab/test_both.py": (NEVER, "pass"), "lab/test_late.py": (STILL, "pass")}
    runs, outcomes, told = tried(pytester, tests, CONFTEST.read_text())
    assert runs == {"lab/test_both.py": 1, "lab/test_late.py": 2}, told
    assert outcomes == {"passed": 1, "failed": 1}
