# SPDX-License-Identifier: Apache-2.0
"""The rules of tests/conftest.py: what root is needed for is said, and in CI never skipped."""

import os
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A small copy of the test tree that runs under our conftest.py."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makeini(
        """
        [pytest]
        addopts = --import-mode=importlib
        markers =
            privileged
            unprivileged
        """
    )
    for directory in ("bpf", "unit"):
        pytester.mkdir(directory)
        (pytester.path / directory / f"test_{directory}.py").write_text("def test_runs(): pass\n")
    return pytester


def test_without_root_the_summary_says_what_was_left_out(suite: pytest.Pytester) -> None:
    result = suite.runpytest_inprocess()
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["Without root these privileged tests did not run: 1 of bpf."])


def test_in_ci_a_test_that_lacks_root_fails(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    result = suite.runpytest_inprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*no test may be skipped in CI*needs root*"])


@pytest.mark.parametrize("directory", ["bpf", "unit"])
def test_in_ci_any_skip_fails(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, directory: str
) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (suite.path / directory / f"test_{directory}.py").write_text(
        "import pytest\ndef test_runs(): pytest.skip('no such kernel')\n"
    )
    suite.runpytest_inprocess().assert_outcomes(passed=1, failed=1)


def test_in_ci_a_module_that_skips_itself_fails(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    (suite.path / "unit" / "test_unit.py").write_text(
        "import pytest\npytest.skip('not today', allow_module_level=True)\n"
    )
    result = suite.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*skips all of its tests, which CI does not allow*"])


def test_a_marked_exception_in_a_privileged_directory_runs_as_anybody(
    suite: pytest.Pytester,
) -> None:
    (suite.path / "bpf" / "test_bpf.py").write_text(
        "import pytest\n@pytest.mark.unprivileged\ndef test_runs(): pass\n"
    )
    suite.runpytest_inprocess().assert_outcomes(passed=2)


def test_with_root_everything_runs(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    suite.runpytest_inprocess().assert_outcomes(passed=2)


@pytest.mark.privileged
def test_what_computes_runs_beside_the_rest_and_never_in_its_way(suite: pytest.Pytester) -> None:
    """`make test` runs three processes; the conftest says which test belongs to which."""
    told = suite.path / "told"
    for directory in ("bpf", "lab", "sim", "c", "unit"):
        for number in range(2):
            at = suite.path / directory / f"test_{number}.py"
            at.parent.mkdir(exist_ok=True)
            at.write_text(
                "import os, time\n"
                "def test_runs():\n"
                f"    with open({str(told)!r}, 'a') as file:\n"
                "        how = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)\n"
                f"        print({directory!r}, os.getpid(), *how, file=file)\n"
            )
    for directory in ("bpf", "unit"):
        (suite.path / directory / f"test_{directory}.py").unlink()
    # From ordinary scheduling on, which this test itself may not have.
    result = suite.run("chrt", "--other", "0", sys.executable, "-m", "pytest", "-n", "3")
    assert result.ret == 0
    lines = [line.split() for line in told.read_text().splitlines()]
    lanes = {frozenset({"sim", "c"}), frozenset({"bpf", "lab"}), frozenset({"unit"})}
    processes = {line[1] for line in lines}
    assert {frozenset(line[0] for line in lines if line[1] == each) for each in processes} == lanes
    ways = {(line[0], line[2]) for line in lines}
    idle, ordinary = str(os.SCHED_IDLE), str(os.SCHED_OTHER)
    assert ways == {("sim", idle), ("c", idle)} | {(it, ordinary) for it in ("bpf", "lab", "unit")}
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert {(line[0] == "unit", int(line[3])) for line in lines} == {
        (False, usual),
        (True, max(usual, 5)),
    }
