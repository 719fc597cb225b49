# SPDX-License-Identifier: Apache-2.0
"""The Debian package in a clean root under a real systemd: installed, served from, removed.

One machine for all tests, which go through its life in their order.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import twinbeat
from package.machine import Machine, booted, wait_for
from package.versions import NEXT, newer

pytestmark = [pytest.mark.privileged, pytest.mark.timeout(900)]

CONFIG = """
[node]
name = "a"
index = 0
[pair]
id = 7
[peer]
name = "b"
[timers]
profile = "balanced"
boot_wait_ms = 300
accept_host = true
[policy]
claim_alone = true
accept_single_link = true
[[link]]
interface = "lan0"
local = "10.77.0.1"
peer = "10.77.0.2"
[[vrid]]
id = 51
interface = "lan0"
vips = ["10.77.0.10", "fd77::10"]
[[route]]
destination = "192.0.2.0/24"
gateway = "10.77.0.9"
interface = "lan0"
"""
PINNED = "test ! -e /sys/fs/bpf/twinbeat || find /sys/fs/bpf/twinbeat -type f"
DAEMON, WORKER, CLIENT = "twinbeatd.service", "twinbeat-worker.service", "twinbeat-weblog.service"
DAEMON_CAPABILITIES = {"net_admin", "net_raw", "bpf", "sys_nice", "ipc_lock"}


@pytest.fixture(scope="module")
def machine(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    changes = tmp_path_factory.mktemp("package") / "machine"
    changes.mkdir()
    with booted(changes) as machine:
        shutil.copy(deb, machine.exchange / "twinbeat.deb")
        machine.sh(
            "ip netns add far; ip link add lan0 type veth peer name far0 netns far;"
            "ip -n far link set far0 up; ip link set lan0 up; ip addr add 10.77.0.1/24 dev lan0"
        )
        yield machine
    shutil.rmtree(changes)


def status(machine: Machine) -> dict[str, Any]:
    """What the agent says of itself; empty if it doesn't answer."""
    done = machine.run("twinbeat", "show", "--json")
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


def until_primary(machine: Machine) -> dict[str, Any]:
    def probe() -> dict[str, Any] | None:
        said = status(machine)
        return said if said and said["node"]["role"] == "primary" and said["gate"]["open"] else None

    return wait_for(probe, f"a primary\n{machine.journal()}")


def let_hang_for(machine: Machine, watchdog_s: int) -> None:
    """How long the agent may be silent from its next start on.

    A machine that stalls for seconds must not look like an agent that hangs, where none does.
    """
    machine.sh(
        "mkdir -p /run/systemd/system/twinbeatd.service.d;"
        f"printf '[Service]\\nWatchdogSec={watchdog_s}s\\n'"
        " >/run/systemd/system/twinbeatd.service.d/patient.conf; systemctl daemon-reload"
    )


def traces(machine: Machine) -> set[str]:
    """What Twinbeat may leave in a kernel."""
    links, addresses = machine.do("ip", "link"), machine.do("ip", "addr")
    found = {name for name in ("tbv51", "tbw51", "tbctl0") if name in links}
    found |= {"address"} if "10.77.0.10/" in addresses or "fd77::10/" in addresses else set()
    found |= {"program"} if "xdp" in machine.do("ip", "link", "show", "lan0") else set()
    found |= {"filter"} if "clsact" in machine.do("tc", "qdisc", "show", "dev", "lan0") else set()
    found |= {"route"} if machine.do("ip", "route", "show", "proto", "155") else set()
    found |= {"table"} if "twinbeat" in machine.do("nft", "list", "tables") else set()
    found |= {"pin"} if machine.sh(PINNED) else set()
    return found


def capabilities(machine: Machine, pid: str) -> set[str]:
    (mask,) = re.findall(r"^CapEff:\s*(\S+)", machine.do("cat", f"/proc/{pid}/status"), re.M)
    shown = machine.do("setpriv", "--list-caps").split()
    return {name for bit, name in enumerate(shown) if int(mask, 16) >> bit & 1}


def files(machine: Machine) -> set[str]:
    """What the machine has that the clean root has not, but for what other programs write."""
    of_others = re.compile(
        r"(mnt|run|tmp|var/(cache|log/(journal|apt|dpkg)|lib/(dpkg|apt|systemd|private))"
        r"|etc/(passwd|group|shadow|gshadow|subuid|subgid|machine-id|ld\.so\.cache|mtab|\.pwd\.lock))"
    )
    return {
        name
        for path in machine.changes.rglob("*")
        if (path.is_file() or path.is_symlink())
        and not of_others.match(name := str(path.relative_to(machine.changes)))
    }


def install(machine: Machine, name: str) -> str:
    return machine.do("apt-get", "install", "--yes", "--no-install-recommends", f"/mnt/{name}")


def test_wheel_and_source_distribution_have_what_is_built_from(deb: Path) -> None:
    dist = deb.parents[1] / "dist"
    (wheel,) = dist.glob(f"twinbeat-{twinbeat.__version__}-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {"twinbeat/ebpf/link.c", "twinbeat/engine/_engine.abi3.so"} <= inside
    # The wheel is made from it, so nothing that it takes to build is missing.
    with tarfile.open(dist / f"twinbeat-{twinbeat.__version__}.tar.gz") as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {"pyproject.toml", "LICENSE", "csrc/CMakeLists.txt", "ebpf/link.c"} <= names


def test_it_installs_and_starts_nothing(machine: Machine) -> None:
    said = install(machine, "twinbeat.deb")
    assert "nothing runs yet" in said
    for unit in (DAEMON, WORKER, CLIENT):
        shown = machine.unit(unit)
        assert (shown["LoadState"], shown["ActiveState"]) == ("loaded", "inactive")
    for program in ("twinbeat", "twinbeatd", "twinbeat-worker", "twinbeat-weblog"):
        assert twinbeat.__version__ in machine.do(program, "--version")
    assert machine.do("stat", "-c", "%U:%G %a", "/etc/twinbeat/keys") == "twinbeat:twinbeat 700\n"
    owner = machine.do("stat", "-c", "%U:%G %a", "/etc/twinbeat/twinbeat.toml")
    assert owner == "root:twinbeat 640\n"
    here = files(machine)
    assert {
        "usr/share/man/man8/twinbeatd.8.gz",
        "usr/share/man/man5/twinbeat.toml.5.gz",
        "usr/share/bash-completion/completions/twinbeat",
        "usr/share/zsh/vendor-completions/_twinbeat",
        "usr/share/fish/vendor_completions.d/twinbeat.fish",
        "usr/share/twinbeat/prometheus/alerts.yml",
        "usr/share/twinbeat/grafana/twinbeat.json",
        "etc/sysctl.d/90-twinbeat.conf",
        "etc/needrestart/conf.d/twinbeat.conf",
    } <= here
    assert any(
        re.fullmatch(r"usr/lib/[^/]+/wireshark/plugins/twinbeat\.lua", name) for name in here
    )


def test_without_a_configuration_the_unit_says_what_is_missing(machine: Machine) -> None:
    assert machine.run("systemctl", "start", DAEMON).returncode != 0
    assert "node" in machine.do("journalctl", "--unit", DAEMON, "--no-pager")
    machine.do("systemctl", "stop", DAEMON)
    assert traces(machine) == set()


def test_it_serves_as_its_own_user(machine: Machine) -> None:
    (machine.exchange / "twinbeat.toml").write_text(CONFIG)
    machine.sh("cat /mnt/twinbeat.toml >/etc/twinbeat/twinbeat.toml; twinbeat keys generate")
    machine.do("twinbeat", "config", "check")
    machine.do("systemctl", "restart", "systemd-sysctl")
    let_hang_for(machine, 60)
    # Comes back only once the agent says that it is ready.
    machine.do("systemctl", "enable", "--now", DAEMON, WORKER)
    shown = machine.unit(DAEMON)
    assert (shown["ActiveState"], shown["SubState"]) == ("active", "running")
    warned = until_primary(machine)["warnings"]
    assert not [one for one in warned if one["code"] == "sysctl"], "shipped settings are enough"
    pid = shown["MainPID"]
    assert machine.do("stat", "-c", "%U", f"/proc/{pid}") == "twinbeat\n"
    assert capabilities(machine, pid) == DAEMON_CAPABILITIES
    # What loads the programs has what the agent goes without, and is gone when it has.
    log = machine.do("journalctl", "--no-pager", "--output=cat")
    assert "Started twinbeat-loader@" in log
    loaders = ("systemctl", "list-units", "--no-legend", "twinbeat-loader@*")
    wait_for(lambda: machine.do(*loaders) == "", "the loader's end")
    state = machine.do("cat", f"/proc/{pid}/status")
    assert re.search(r"^NoNewPrivs:\s*1$", state, re.M)
    assert re.search(r"^Seccomp:\s*2$", state, re.M), "the unit's filter of system calls"
    worker = machine.until_unit(WORKER, lambda found: found["SubState"] == "running")
    assert capabilities(machine, worker["MainPID"]) == {"net_admin", "net_raw"}


def test_the_engine_s_threads_alone_are_real_time_ones(machine: Machine) -> None:
    until_primary(machine)
    pid = machine.unit(DAEMON)["MainPID"]
    stats = machine.sh(f"cat /proc/{pid}/task/*/stat || true").splitlines()
    # Name, and field 41 of proc(5), counted behind it: the policy, 1 = SCHED_FIFO.
    found = [(line[line.index("(") + 1 : line.rindex(")")], line) for line in stats]
    policies = [(name, line.rpartition(")")[2].split()[38]) for name, line in found]
    assert ("tb-engine", "1") in policies
    assert {policy for name, policy in policies if name.startswith("tb-")} == {"1"}
    assert {policy for name, policy in policies if not name.startswith("tb-")} == {"0"}


def test_a_hung_agent_is_killed_and_started_again(machine: Machine) -> None:
    machine.sh("rm /run/systemd/system/twinbeatd.service.d/patient.conf; systemctl daemon-reload")
    machine.do("systemctl", "restart", DAEMON)
    before = machine.unit(DAEMON)
    assert before["WatchdogUSec"] == "2s", "the unit's own"
    machine.do("systemctl", "kill", "--kill-who=main", "--signal=STOP", DAEMON)
    after = machine.until_unit(
        DAEMON,
        lambda now: now["MainPID"] not in {"0", before["MainPID"]} and now["SubState"] == "running",
    )
    assert int(after["NRestarts"]) > int(before["NRestarts"])
    log = machine.do("journalctl", "--unit", DAEMON, "--no-pager")
    assert "Watchdog timeout" in log
    assert "the gate of pair 7 is shut" in log, "ExecStopPost= has shut it"
    let_hang_for(machine, 60)
    machine.do("systemctl", "restart", DAEMON)
    until_primary(machine)


def test_a_killed_agent_is_started_again(machine: Machine) -> None:
    before = until_primary(machine), machine.unit(DAEMON)
    machine.do("systemctl", "kill", "--kill-who=main", "--signal=KILL", DAEMON)
    machine.until_unit(
        DAEMON,
        lambda now: (
            now["MainPID"] not in {"0", before[1]["MainPID"]} and now["SubState"] == "running"
        ),
    )
    assert until_primary(machine)["node"]["term"] > before[0]["node"]["term"]


def test_an_upgrade_restarts_nothing_and_keeps_the_configuration(
    machine: Machine, deb: Path, tmp_path: Path
) -> None:
    until_primary(machine)
    before = machine.unit(DAEMON), machine.unit(WORKER)
    newer(deb, tmp_path / "new", machine.exchange / "newer.deb")
    said = install(machine, "newer.deb")
    steps = re.findall(r"^ +(\d)\. (.*?):", said, re.M)
    assert [number for number, _ in steps] == ["1", "2", "3", "4", "5"]
    assert (steps[0][1], steps[2][1]) == ("On the secondary", "On the primary")
    for unit, earlier in zip((DAEMON, WORKER), before, strict=True):
        assert machine.unit(unit)["MainPID"] == earlier["MainPID"]
    assert NEXT in machine.do("twinbeatd", "--version")
    # The agent of before goes on with its files gone: it has all that it needs.
    assert until_primary(machine)["node"]["name"] == "a"
    machine.do("systemctl", "reload", DAEMON)
    machine.do("twinbeat", "show", "links")
    assert machine.sh("cat /etc/twinbeat/twinbeat.toml") == CONFIG
    machine.do("systemctl", "restart", DAEMON, WORKER)
    until_primary(machine)
    log = machine.do("journalctl", "--unit", DAEMON, "--no-pager", "--output=cat")
    assert "kernel programs: replaced" in log, "the new version's own, while it served nobody"
    assert "Traceback" not in log


@pytest.mark.parametrize("end", ["in good order", "killed"])
def test_removal_leaves_nothing(machine: Machine, end: str) -> None:
    if not machine.run("which", "twinbeatd").stdout:
        install(machine, "newer.deb")
        machine.do("systemctl", "start", DAEMON, WORKER)
    until_primary(machine)
    wait_for(lambda: "route" in traces(machine), "the route of the primary")
    assert traces(machine) >= {"tbv51", "tbw51", "tbctl0", "address", "program", "filter", "pin"}
    if end == "killed":
        machine.sh("nft add table inet twinbeat_sessions; nft add table inet twinbeat_connections")
        machine.sh(f"systemctl mask --runtime {DAEMON}; systemctl kill --signal=KILL {DAEMON}")
        machine.until_unit(DAEMON, lambda now: now["ActiveState"] == "failed")
        assert "address" in traces(machine)
        machine.do("systemctl", "unmask", "--runtime", DAEMON)
    machine.do("apt-get", "remove", "--yes", "twinbeat")
    assert traces(machine) == set()
    assert "twinbeat" not in machine.do("ls", "/sys/fs/bpf")
    assert "10.77.0.1/24" in machine.do("ip", "addr", "show", "lan0")
    left = {name for name in files(machine) if "twinbeat" in name}
    state = {name for name in left if name.startswith("var/lib/twinbeat/")}
    assert {name for name in left - state if not name.startswith("etc/")} == set()
    assert "etc/twinbeat/twinbeat.toml" in left
    owners = machine.sh("stat -c %U /proc/[0-9]* 2>/dev/null || true").split()
    assert "root" in owners
    assert "twinbeat" not in owners


def test_a_purge_leaves_no_file(machine: Machine) -> None:
    machine.do("apt-get", "purge", "--yes", "twinbeat")
    assert {name for name in files(machine) if "twinbeat" in name} == set()
    assert machine.sh("ls -d /run/twinbeat* 2>/dev/null || true") == ""
    assert machine.do("systemctl", "list-units", "--all", "--no-legend", "twinbeat*") == ""
