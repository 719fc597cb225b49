# SPDX-License-Identifier: Apache-2.0
"""What the units leave is enough for the hardest of the work: loading programs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from repo import project

pytestmark = pytest.mark.privileged

CONFINE = Path(__file__).with_name("confine.py")
SYSTEMD = project.ROOT / "deploy" / "systemd"
DAEMON = "twinbeatd.service"
LOADER_UNIT = "twinbeat-loader@.service"


def unit_capabilities(unit: str = LOADER_UNIT) -> str:
    """The unit's bounding set, as setpriv writes it."""
    lines = (SYSTEMD / unit).read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("CapabilityBoundingSet=")]
    names = line.partition("=")[2].lower().split()
    return ",".join(["-all", *("+" + name.removeprefix("cap_") for name in names)])


def as_the_unit_does(*command: str, capabilities: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with its own BPF file system, these capabilities and nothing executable."""
    return subprocess.run(
        [
            *("unshare", "--mount", "--net", "sh", "-c"),
            'mount -t bpf -o mode=0711 bpf /sys/fs/bpf && exec "$@"',
            *("sh", "setpriv", "--no-new-privs"),
            *(f"--{kind}={capabilities}" for kind in ("inh-caps", "bounding-set")),
            *(sys.executable, str(CONFINE), *command),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


LOADER = (sys.executable, "-m", "twinbeat.engine.loader", "--pair", "1")


def test_the_loader_gets_by_with_what_the_unit_leaves() -> None:
    result = as_the_unit_does(*LOADER, capabilities=unit_capabilities())
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads(result.stdout)["ok"]


@pytest.mark.parametrize("name", ["bpf", "perfmon", "net_admin"])
def test_without_a_capability_it_says_so(name: str) -> None:
    without = unit_capabilities().replace(f",+{name}", "")
    assert without != unit_capabilities()
    result = as_the_unit_does(*LOADER, capabilities=without)
    assert result.returncode == 1
    assert not json.loads(result.stdout)["ok"]


def test_the_daemon_s_unit_is_not_enough_to_load_programs() -> None:
    result = as_the_unit_does(*LOADER, capabilities=unit_capabilities(DAEMON))
    assert result.returncode == 1
    assert not json.loads(result.stdout)["ok"]


def test_the_doctor_looks_for_each_capability_that_the_units_grant() -> None:
    result = as_the_unit_does(
        *(sys.executable, "-c"),
        "from twinbeat.runtime.checkup.kernel import permissions\n"
        "print(*(one.name for one in permissions() if one.name.startswith('CAP_')))",
        capabilities="-all",
    )
    granted = {
        name
        for unit in (DAEMON, LOADER_UNIT)
        for name in unit_capabilities(unit).split(",")
        if name != "-all"
    }
    looked_for = {f"+{name.removeprefix('CAP_').lower()}" for name in result.stdout.split()}
    assert looked_for == granted, result.stderr


def test_memory_is_confined() -> None:
    program = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)"
    result = as_the_unit_does(sys.executable, "-c", program, capabilities=unit_capabilities())
    assert "PermissionError" in result.stderr
