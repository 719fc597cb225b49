# SPDX-License-Identifier: Apache-2.0
"""Shutting a gate from outside: never said to be done where it wasn't."""

import os
import tempfile
from pathlib import Path

import pytest

from twinbeat.runtime.gate import shut_pinned

NOBODY = 65534


def test_nothing_is_pinned_where_there_is_no_directory(tmp_path: Path) -> None:
    assert shut_pinned(tmp_path / "twinbeat") == []
    (tmp_path / "1").mkdir()
    assert shut_pinned(tmp_path) == []


@pytest.mark.privileged
def test_who_may_not_look_is_not_told_that_there_is_none() -> None:
    # Not below tmp_path, which lies in a directory that is closed to others itself.
    with tempfile.TemporaryDirectory() as closed:
        (Path(closed) / "1").mkdir()
        os.seteuid(NOBODY)
        try:
            with pytest.raises(PermissionError):
                shut_pinned(Path(closed))
        finally:
            os.seteuid(0)
