# SPDX-License-Identifier: Apache-2.0
"""Every schedule of two actions is tried; `python -m sim.explorer --depth 3` tries more."""

from __future__ import annotations

import faulthandler
import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parents[1]
SHARES = 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_short_schedule_breaks_a_rule() -> None:
    faulthandler.cancel_dump_traceback_later()  # Long by intent.
    # In processes of their own: a fork of this one would carry pytest along.
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "sim.explorer", "--depth", "2", "--share", f"{i}/{SHARES}"],
            cwd=TESTS,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(SHARES)
    ]
    told = [process.communicate()[0] for process in running]
    print("".join(told))
    assert all(process.returncode == 0 for process in running), "".join(told)
    paths = sum(int(each.split(": ")[1].split()[0]) for each in told)
    assert paths > 1000, "most of the tree was cut off"
