# SPDX-License-Identifier: Apache-2.0
"""The package that the tests of this directory install, and the one that comes after it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from package.machine import DEBIAN


@pytest.fixture(scope="session")
def deb() -> Path:
    """The package, built if anything changed."""
    done = subprocess.run(
        [DEBIAN / "build"], capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.strip())
