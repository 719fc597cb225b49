# SPDX-License-Identifier: Apache-2.0
"""What `doctor` says of the last resorts."""

import platform
import re
from pathlib import Path

import pytest

from twinbeat.config.arbiters import FenceSection
from twinbeat.config.arbiters import WatchdogSection as Watchdog
from twinbeat.config.model import Config
from twinbeat.config.nodes import NodeSection, PairSection, PeerSection
from twinbeat.engine.bpf import BpfError
from twinbeat.engine.loader import failure
from twinbeat.runtime.checkup.arbiters import last_resorts
from twinbeat.runtime.checkup.kernel import KERNEL_LEAST, kernel


def config(watchdog: Watchdog, fence: FenceSection) -> Config:
    return Config(
        node=NodeSection(name="a", index=0),
        pair=PairSection(id=1),
        peer=PeerSection(name="b"),
        links=(),
        vrids=(),
        watchdog=watchdog,
        fence=fence,
    )


def said(watchdog: Watchdog, fence: FenceSection) -> list[tuple[str, str]]:
    return [(one.name, one.level) for one in last_resorts(config(watchdog, fence))]


def test_what_is_not_configured_is_not_told() -> None:
    assert said(Watchdog(), FenceSection()) == []


def test_a_watchdog_is_looked_at_and_never_opened(tmp_path: Path) -> None:
    nobody = FenceSection()
    missing = str(tmp_path / "watchdog")
    assert said(Watchdog(mode="required", device=missing), nobody) == [("watchdog", "error")]
    assert said(Watchdog(mode="auto", device=missing), nobody) == [("watchdog", "warning")]
    Path(missing).touch()
    assert said(Watchdog(mode="auto", device=missing), nobody) == [("watchdog", "warning")]
    assert said(Watchdog(mode="required", device="/dev/null"), nobody) == [("watchdog", "ok")]


def test_a_fence_agent_that_only_asks_is_warned_of() -> None:
    off = Watchdog()
    assert said(off, FenceSection(agent="/bin/true")) == [("fence", "ok")]
    assert said(off, FenceSection(agent="/bin/true", action="status")) == [("fence", "warning")]


@pytest.mark.parametrize(
    ("release", "level"),
    [
        ("5.10.0-28-amd64", "error"),
        ("5.17.9", "error"),
        ("5.18.0-rc1", "ok"),
        ("6.1.0-44-amd64", "ok"),
    ],
)
def test_the_kernel_is_as_new_as_the_programs_need(
    monkeypatch: pytest.MonkeyPatch, release: str, level: str
) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    (said,) = [one for one in kernel() if one.name == "kernel"]
    assert said.level == level


def test_who_refuses_a_kernel_names_the_same_one() -> None:
    least = ".".join(map(str, KERNEL_LEAST))
    for log in ("", "invalid argument"):
        refused = failure(BpfError("loading", 22, log=log))
        assert re.findall(r"[0-9]\.[0-9]+", refused.fix) == [least]
