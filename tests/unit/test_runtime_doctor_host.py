# SPDX-License-Identifier: Apache-2.0
"""What `doctor` says of a host's time, interfaces and key files."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from twinbeat.api.schema import Check
from twinbeat.net.interfaces import Interface
from twinbeat.runtime.checkup import pace
from twinbeat.runtime.checkup.checks import sysctl
from twinbeat.runtime.checkup.network import interface, network
from unit.test_runtime_doctor_machine import CONFIG, LINK, write
from unit.test_runtime_duties import LAN

PERIOD = "proc/sys/kernel/sched_rt_period_us"
RUNTIME = "proc/sys/kernel/sched_rt_runtime_us"
SOURCE = "sys/devices/system/clocksource/clocksource0/current_clocksource"
PORT = dataclasses.replace(LAN, name="eth0")


@pytest.mark.parametrize(
    ("runtime", "level", "words"),
    [("-1", "ok", "never stopped"), ("950000", "warning", "for 50 ms in each second")],
)
def test_real_time_threads_may_be_stopped(
    runtime: str, level: str, words: str, tmp_path: Path
) -> None:
    root = write(tmp_path, {PERIOD: "1000000", RUNTIME: runtime})
    (said,) = pace.throttling(root)
    assert (said.level, words in said.finding) == (level, True)
    assert ("sysctl -w kernel.sched_rt_runtime_us=-1" in said.fix) is (level == "warning")


def test_a_kernel_without_throttling_is_not_spoken_of(tmp_path: Path) -> None:
    assert list(pace.throttling(tmp_path)) == []
    assert sysctl("kernel/sched_rt_runtime_us", tmp_path) is None


@pytest.mark.parametrize(
    ("source", "level"),
    [("tsc", "ok"), ("kvm-clock", "ok"), ("hpet", "warning"), (None, "warning")],
)
def test_a_clock_that_is_slow_to_read(source: str | None, level: str, tmp_path: Path) -> None:
    root = write(tmp_path, {SOURCE: source} if source is not None else {})
    said = pace.clock(root)
    assert said.level == level
    assert (source or "unknown") in said.finding


def levels(found: Interface) -> list[str]:
    return [said.level for said in interface(found)]


def test_an_interface_as_it_should_be() -> None:
    assert levels(PORT) == ["ok"] * 3


@pytest.mark.parametrize(
    ("changes", "expected", "words"),
    [
        ({"carrier": False}, ["warning", "ok", "ok"], "no carrier"),
        ({"up": False, "carrier": False}, ["warning", "ok", "ok"], "ip link set eth0 up"),
        ({"mtu": 500}, ["ok", "error", "ok"], "ip link set eth0 mtu 1500"),
        ({"xdp_mode": "generic"}, ["ok", "ok", "warning"], "a copy more"),
        ({"xdp_mode": "none"}, ["ok", "ok", "warning"], "when twinbeatd runs"),
        ({"xdp_mode": "generic", "kind": "vlan"}, ["ok", "ok", "warning"], "a vlan: XDP"),
        ({"xdp_mode": "generic", "kind": "bond"}, ["ok", "ok", "warning", "warning"], "a bond"),
    ],
)
def test_what_is_wrong_with_an_interface(
    changes: dict[str, Any], expected: list[str], words: str
) -> None:
    found: list[Check] = list(interface(dataclasses.replace(PORT, **changes)))
    assert [said.level for said in found] == expected
    assert words in "".join(f"{said.finding} {said.fix}" for said in found)


def test_an_interface_that_is_not_there_is_an_error() -> None:
    here = replace(CONFIG, links=(replace(LINK, interface="gone0"),))
    said = next(one for one in network(here) if one.name == "gone0")
    assert (said.level, said.fix) == ("error", "`ip link` lists them")


def test_a_key_that_others_may_read_is_named_with_what_mends_it(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    (keys / "1.key").write_text("00112233445566778899aabbccddeeff\n")
    (keys / "1.key").chmod(0o644)
    file = tmp_path / "twinbeat.toml"
    file.write_text(
        '[node]\nname = "a"\nindex = 0\n[pair]\nid = 1\n[peer]\nname = "b"\n'
        f'[keys]\nsend = 1\ndirectory = "{keys}"\n[policy]\naccept_single_link = true\n'
        '[[link]]\nname = "lo"\ninterface = "lo"\nlocal = "169.254.10.1"\npeer = "169.254.10.2"\n'
    )
    report = examined(file)
    said = [one["finding"] for one in report if one["level"] == "error"]
    assert any(f"chmod 0600 {keys}/1.key" in finding for finding in said), report
    os.chmod(keys / "1.key", 0o600)
    report = examined(file)
    assert {"name": "keys", "level": "ok"}.items() <= next(
        one for one in report if one["name"] == "keys"
    ).items()


def examined(file: Path) -> list[dict[str, str]]:
    """The whole report, as `twinbeat doctor` has it made."""
    done = subprocess.run(
        [sys.executable, "-m", "twinbeat.runtime.doctor", "--json", "--config", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    found: list[dict[str, str]] = json.loads(done.stdout)["checks"]
    assert {one["level"] for one in found} <= {"ok", "warning", "error"}
    return found
