# SPDX-License-Identifier: Apache-2.0
"""Units, host settings and installer, checked with the very tools that will read them."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from repo import project

DEPLOY = project.ROOT / "deploy"
SYSTEMD = DEPLOY / "systemd"


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=project.ROOT,
        check=False,
    )


def exposure(unit: Path) -> float:
    """What systemd-analyze makes of a unit's hardening: 0 is a cage, 10 is the whole machine."""
    result = run("systemd-analyze", "security", "--offline=true", unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", result.stdout)
    assert found is not None, result.stderr
    return float(found.group(1))


def directive(unit: str, name: str) -> str:
    """The value of a directive that occurs once."""
    content = (SYSTEMD / unit).read_text()
    (value,) = re.findall(rf"^{name}=(.*)$", content, re.MULTILINE)
    return str(value)


# What is left for the daemon: the host's network and the capabilities that the engine needs.
@pytest.mark.parametrize(
    ("unit", "most"),
    [
        ("twinbeatd.service", 2.5),
        ("twinbeat-worker.service", 1.8),
        ("twinbeat-loader@.service", 1.2),
        ("twinbeat-weblog.service", 1.5),
    ],
)
def test_units_stay_hardened(unit: str, most: float) -> None:
    assert exposure(SYSTEMD / unit) <= most


def test_exposure_is_measured(tmp_path: Path) -> None:
    loose = tmp_path / "twinbeatd.service"
    strict = (SYSTEMD / "twinbeatd.service").read_text()
    loose.write_text(re.sub(r"^(Protect|Restrict|SystemCall|Private).*\n", "", strict, flags=re.M))
    assert exposure(loose) > 5


UNITS = (
    "twinbeatd.service",
    "twinbeat-loader.socket",
    "twinbeat-loader@.service",
    "twinbeat-worker.service",
    "twinbeat-weblog.service",
)


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_every_directive(unit: str, tmp_path: Path) -> None:
    # The programs are not installed here, and a missing one would hide what matters.
    for name in UNITS:
        content = (SYSTEMD / name).read_text()
        (tmp_path / name).write_text(re.sub(r"/usr/(bin|lib)/twinbeat\S*", "/bin/true", content))
    result = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / unit)
    complaints = [line for line in result.stderr.splitlines() if unit in line]
    assert complaints == []


def test_an_unknown_directive_would_be_seen(tmp_path: Path) -> None:
    unit = tmp_path / "twinbeatd.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nWatchdogSeconds=2s\n")
    result = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)
    assert "WatchdogSeconds" in result.stderr


def test_the_daemon_is_watched_and_closes_its_gate() -> None:
    unit = "twinbeatd.service"
    assert directive(unit, "Type") == "notify"
    assert directive(unit, "NotifyAccess") == "main"
    assert directive(unit, "WatchdogSec") == "2s"
    assert directive(unit, "Restart") == "on-failure"
    assert "--close-gate" in directive(unit, "ExecStopPost")


def test_the_gate_is_closed_only_after_an_end_out_of_order() -> None:
    command = directive("twinbeatd.service", "ExecStopPost")
    program, option, script = re.match(r"(\S+) (-c) '(.*)'$", command).groups()  # type: ignore[union-attr]
    script = script.replace("$$", "$").replace("exec /usr/bin/twinbeatd", "echo")
    for result, closed in (
        ("success", ""),
        ("watchdog", "--close-gate"),
        ("signal", "--close-gate"),
    ):
        ended = run(program, option, script, SERVICE_RESULT=result)
        assert (ended.returncode, ended.stdout.strip()) == (0, closed)


def test_a_planned_restart_counts_as_success_and_restarts() -> None:
    from twinbeat.runtime.app import EXIT_RESTART

    unit = "twinbeatd.service"
    assert directive(unit, "SuccessExitStatus") == str(EXIT_RESTART)
    assert directive(unit, "RestartForceExitStatus") == str(EXIT_RESTART)


def test_the_worker_never_outranks_the_daemon() -> None:
    assert int(directive("twinbeat-worker.service", "Nice")) > 0
    assert directive("twinbeat-worker.service", "RestrictRealtime") == "yes"
    assert directive("twinbeat-worker.service", "CapabilityBoundingSet") == (
        "CAP_NET_ADMIN CAP_NET_RAW"
    )
    daemon, worker = (
        int(directive(unit, "OOMScoreAdjust"))
        for unit in ("twinbeatd.service", "twinbeat-worker.service")
    )
    assert daemon < worker


def test_the_user_s_directories_are_declared() -> None:
    user = directive("twinbeatd.service", "User")
    assert f"u {user} " in (SYSTEMD / "sysusers.conf").read_text()
    declared = re.findall(r"^[dz] (\S+)", (SYSTEMD / "tmpfiles.conf").read_text(), re.MULTILINE)
    assert {"/etc/twinbeat", "/etc/twinbeat/keys", "/var/lib/twinbeat"} <= set(declared)
    assert "/sys/fs/bpf/twinbeat" in declared


def test_sysctls_are_well_formed_and_reasoned() -> None:
    lines = (DEPLOY / "sysctl" / "90-twinbeat.conf").read_text().splitlines()
    settings = [line for line in lines if line and not line.startswith("#")]
    malformed = [line for line in settings if not re.match(r"-?[a-z0-9._*]+ = \d+$", line)]
    assert malformed == []
    names = [line.partition(" =")[0].lstrip("-") for line in settings]
    unknown = [
        name
        for name in names
        if "nf_conntrack" not in name
        and not Path("/proc/sys", *name.replace("*", "all").split(".")).exists()
    ]
    assert unknown == []


@pytest.mark.privileged
def test_nftables_takes_the_rules() -> None:
    result = run("unshare", "-n", "nft", "-c", "-f", DEPLOY / "nftables" / "twinbeat.nft")
    assert result.stderr == ""


def test_setup_with_nothing_to_do_is_quick_and_quiet() -> None:
    began = time.monotonic()
    result = run(DEPLOY / "setup")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    # Generous: the machine may be busy. Anything that installs takes much longer.
    assert time.monotonic() - began < 5


def test_setup_refuses_what_it_does_not_know() -> None:
    result = run(DEPLOY / "setup", "--everything")
    assert result.returncode == 1
    assert "unknown argument" in result.stderr


def test_help_lists_every_verb() -> None:
    make = shutil.which("make")
    assert make is not None
    result = run(make)
    verbs = re.findall(r"^  make (\S+)", result.stdout, re.MULTILINE)
    assert set(verbs) >= {"setup", "build", "demo", "test", "bench", "lint", "format", "clean"}
    assert result.returncode == 0
