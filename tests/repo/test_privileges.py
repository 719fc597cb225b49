# SPDX-License-Identifier: Apache-2.0
"""The rules of tests/conftest.py: what root is needed for is said, and in CI never skipped."""

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
    result.stdout.fnmatch_lines(["*a privileged test may not be skipped in CI*needs root*"])


def test_in_ci_any_skip_of_a_privileged_test_fails(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (suite.path / "bpf" / "test_bpf.py").write_text(
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
