# SPDX-License-Identifier: Apache-2.0
"""Keys of [policy] that come to nothing are warned of."""

from pathlib import Path

import pytest

from twinbeat.config.load import examine
from unit.test_config_witness import BASE


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("flip_window_s = 600", ["policy.flip_window_s: means nothing without max_flips"]),
        ("flip_window_s = 600\nmax_flips = 3", []),
        (
            "recovery_hold_ms = 90000",
            ["policy.recovery_hold_ms: is longer than recovery_hold_max_s = 60, which counts"],
        ),
        ("recovery_hold_ms = 60000", []),
    ],
)
def test_what_comes_to_nothing_is_warned_of(tmp_path: Path, keys: str, said: list[str]) -> None:
    path = tmp_path / "twinbeat.toml"
    path.write_text(f"{BASE}[policy]\n{keys}\n")
    config, problems = examine(path, offline=True)
    assert config is not None
    found = [f"{problem.key}: {problem.sentence}" for problem in problems]
    assert [sentence.split(":")[0] for sentence in found] == [one.split(":")[0] for one in said]
    assert all(one in sentence for one, sentence in zip(said, found, strict=True))
