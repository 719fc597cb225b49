# SPDX-License-Identifier: Apache-2.0
"""A whole agent, alone in a namespace of its own: from the first start to the last trace of it."""

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from twinbeat.engine import bpf, loader
from twinbeat.engine.bpf import ProgramType
from twinbeat.engine.maps import Maps
from twinbeat.runtime.gate import shut_pinned
from unit.namespace import fresh_namespace, ip, veth

pytestmark = pytest.mark.privileged

CONFIG = """
[node]
name = "a"
index = 0
[pair]
id = 7
[peer]
name = "b"
[keys]
directory = "{root}/keys"
[timers]
profile = "balanced"
boot_wait_ms = 1300
hello_us = 10000
dead_us = 200000
verify_us = 60000
stall_us = 300000
lease_us = 1000000
attest_ms = 4000
accept_host = true
[policy]
claim_alone = true
accept_single_link = true
[metrics]
listen = ""
[[link]]
interface = "lan0"
local = "10.77.0.1"
peer = "10.77.0.2"
[[vrid]]
id = 51
interface = "lan0"
vips = {vips}
[[route]]
destination = "192.0.2.0/24"
gateway = "10.77.0.9"
interface = "lan0"
"""

_DETACH = 2


class Agent:
    """twinbeatd with directories of its own."""

    def __init__(self, root: Path, pins: Path) -> None:
        self.root = root
        self.pins = pins
        self.process: subprocess.Popen[bytes] | None = None
        self.log = root / "log"
        for name in ("run", "state", "keys"):
            (root / name).mkdir(mode=0o700)
        key = root / "keys" / "1.key"
        key.touch(mode=0o600)
        key.write_text(os.urandom(16).hex())
        self.configure("10.77.0.10", "fd77::10")

    def configure(self, *vips: str) -> None:
        text = CONFIG.format(root=self.root, vips=json.dumps(vips))
        (self.root / "twinbeat.toml").write_text(text)

    def command(self, *arguments: str) -> list[str]:
        root = self.root
        directories = ["--run", f"{root}/run", "--state", f"{root}/state"]
        directories += ["--pins", str(self.pins)]
        config = ["--config", f"{root}/twinbeat.toml", "--foreground"]
        program = [sys.executable, "-m", "twinbeat.runtime.main"]
        return [*program, *directories, *config, *arguments]

    def start(self) -> "Agent":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), stderr=log)
        self.until(lambda status: not status["node"]["starting"])
        return self

    def end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self.process = None
        return code

    def status(self) -> dict[str, Any] | None:
        """What it says of itself, None while it doesn't answer."""

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.settimeout(5)
                self.sock.connect(path)

        path = f"{self.root}/run/control.sock"
        connection = Connection("localhost")
        try:
            connection.request("GET", "/v1/status")
            return dict(json.loads(connection.getresponse().read()))
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def until(self, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Its status once that holds of it."""
        deadline = time.monotonic() + 60
        status = None
        while time.monotonic() < deadline:
            assert self.process is None or self.process.poll() is None, self.log.read_text()
            status = self.status()
            if status is not None and holds(status):
                return status
            time.sleep(0.02)
        raise AssertionError(f"never came: {status}\n{self.log.read_text()}")

    def until_logged(self, text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def until_primary(self) -> dict[str, Any]:
        return self.until(lambda status: status["node"]["role"] == "primary")


@pytest.fixture(scope="module")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A BPF file system for all tests: the programs are compiled once."""
    mount = tmp_path_factory.mktemp("bpf")
    loader.mount_bpf_file_system(mount)
    yield mount / "twinbeat"
    assert ctypes.CDLL(None).umount2(os.fsencode(mount), _DETACH) == 0


@pytest.fixture
def agent(tmp_path: Path, pins: Path) -> Iterator[Agent]:
    with fresh_namespace():
        veth("lan0", "far0")
        ip("addr add 10.77.0.1/24 dev lan0")
        agent = Agent(tmp_path, pins)
        try:
            yield agent
            assert not agent.log.exists() or "Traceback" not in agent.log.read_text()
        finally:
            if agent.process is not None:
                agent.process.kill()
                agent.process.wait()
            # Nothing of a reign may reach the next test.
            shut_pinned(pins)


def traces() -> set[str]:
    """What an agent may leave on this namespace's interfaces."""
    found = {name for name in ("tbv51", "tbw51", "tbctl0") if name in ip("link show")}
    if "xdp" in ip("link show lan0"):
        found.add("xdp")
    qdiscs = subprocess.run(
        ["tc", "qdisc", "show", "dev", "lan0"], capture_output=True, text=True, check=True
    )
    if "clsact" in qdiscs.stdout:
        found.add("clsact")
    return found


EVERYTHING = {"tbv51", "tbw51", "tbctl0", "xdp", "clsact"}


def test_serves_alone_and_leaves_nothing_behind(agent: Agent) -> None:
    agent.start()
    status = agent.until_primary()
    assert status["gate"]["open"]
    assert status["node"]["fit"]
    assert traces() == EVERYTHING
    assert "10.77.0.10/32" in ip("addr show tbv51")
    assert "fd77::10/128" in ip("addr show tbw51")
    agent.until(lambda _: "192.0.2.0/24 via 10.77.0.9" in ip("route show proto 155"))
    assert agent.end(signal.SIGTERM) == 0
    assert traces() == set()
    assert ip("route show proto 155") == ""
    assert not (agent.root / "run" / "control.sock").exists()


def test_a_crash_leaves_a_gate_that_shuts_by_itself_and_addresses_that_are_reused(
    agent: Agent,
) -> None:
    agent.start()
    before = agent.until_primary()
    index = ip("-o link show tbv51").split(":")[0]
    agent.end(signal.SIGKILL)
    with Maps.open(7, root=agent.pins) as maps:
        deadline = time.monotonic() + 60
        while maps.gate().is_open(time.clock_gettime_ns(time.CLOCK_BOOTTIME)):
            assert time.monotonic() < deadline, "the lease never ran out"
    assert traces() == EVERYTHING
    agent.start()
    after = agent.until_primary()
    assert ip("-o link show tbv51").split(":")[0] == index
    assert after["node"]["term"] > before["node"]["term"], "a lapsed reign is over"


def removed(agent: Agent) -> subprocess.CompletedProcess[str]:
    """What `--remove` says and ends with."""
    return subprocess.run(
        agent.command("--remove"), capture_output=True, text=True, timeout=60, check=False
    )


def test_removal_takes_away_what_a_crash_left(agent: Agent) -> None:
    agent.start()
    agent.until_primary()
    agent.until(lambda _: "192.0.2.0/24 via 10.77.0.9" in ip("route show proto 155"))
    ip("addr add 10.77.0.99/24 dev lan0")
    agent.end(signal.SIGKILL)
    assert traces() == EVERYTHING
    done = removed(agent)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert traces() == set()
    assert ip("route show proto 155") == ""
    assert list(agent.pins.iterdir()) == []
    assert list((agent.root / "run").glob("*lock")) == []
    assert "10.77.0.1/24" in ip("addr show lan0"), "what isn't ours stays"
    assert "10.77.0.99/24" in ip("addr show lan0")
    again = removed(agent)
    assert (again.returncode, again.stderr) == (0, ""), "nothing is left to be removed"


def test_removal_leaves_a_running_agent_alone(agent: Agent) -> None:
    agent.start()
    agent.until_primary()
    done = removed(agent)
    assert done.returncode == 1
    assert "another twinbeatd runs on this node: stop it first" in done.stderr
    assert traces() == EVERYTHING
    assert agent.until_primary()["gate"]["attached"]


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_a_planned_restart_keeps_the_gate_open_and_the_reign(agent: Agent) -> None:
    agent.start()
    for _ in range(5):
        before = agent.until_primary()
        asked_ns = boot_ns()
        assert agent.end(signal.SIGUSR2) == 75
        with Maps.open(7, root=agent.pins) as maps:
            open_until = maps.gate().open_until
        assert open_until - asked_ns > 3_000_000_000, "the lease was not lengthened"
        assert traces() == EVERYTHING
        agent.start()
        after = agent.until_primary()
        if boot_ns() < open_until:
            break
        # The machine stood still for as long as the lease lasts.
    assert after["node"]["term"] == before["node"]["term"]
    agent.until(lambda status: status["last_transition"]["reason"] == "resumed")


def test_a_gate_removed_by_hand_takes_the_addresses_with_it(agent: Agent) -> None:
    agent.start()
    agent.until_primary()
    ip("link set lan0 xdpdrv off")
    lost = agent.until(lambda status: not status["gate"]["attached"])
    assert not lost["node"]["fit"]
    assert not lost["gate"]["open"]
    agent.until(lambda _: not {"tbv51", "tbw51"} & traces())
    agent.until(lambda status: status["gate"]["attached"])
    agent.until(lambda _: traces() == EVERYTHING)


def test_an_egress_gate_removed_by_hand_is_noticed_too(agent: Agent) -> None:
    agent.start()
    agent.until_primary()
    subprocess.run(["tc", "qdisc", "del", "dev", "lan0", "clsact"], check=True, timeout=60)
    agent.until(lambda status: not status["gate"]["attached"])
    agent.until(lambda _: not {"tbv51", "tbw51"} & traces())


def test_an_address_removed_by_hand_is_put_back(agent: Agent) -> None:
    agent.start()
    agent.until_primary()
    ip("addr del 10.77.0.10/32 dev tbv51")
    agent.until(lambda _: "10.77.0.10/32" in ip("addr show tbv51"))


def test_a_reload_changes_addresses_and_a_broken_one_nothing(agent: Agent) -> None:
    agent.start()
    before = agent.until_primary()
    agent.configure("10.77.0.11", "10.77.0.12")
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)
    agent.until_logged("the configuration was reloaded")
    shown = ip("addr show tbv51")
    assert "10.77.0.10/32" not in shown
    assert "10.77.0.11/32" in shown
    assert "10.77.0.12/32" in shown
    assert "tbw51" not in traces(), "no IPv6 address is left"
    (agent.root / "twinbeat.toml").write_text('[node]\nname = "a"\nindex = 3\n')
    agent.process.send_signal(signal.SIGHUP)
    agent.until_logged("node.index = 3: should be")
    agent.until_logged("the configuration in force stays")
    after = agent.until_primary()
    assert after["node"]["term"] == before["node"]["term"], "the reign went on"
    assert ip("addr show tbv51") == shown


def test_a_foreign_program_on_a_port_is_refused_by_name_and_stays(agent: Agent) -> None:
    returns_pass = bytes.fromhex("b7000000020000009500000000000000")
    fd = bpf.load_program("firewall", returns_pass, kind=ProgramType.XDP, license_name="GPL")
    try:
        bpf.pin(fd, agent.pins.parent / "firewall")
        ip(f"link set lan0 xdpdrv pinned {agent.pins.parent}/firewall")
        done = subprocess.run(
            agent.command(), capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 1
        assert "(firewall) is there already" in done.stderr
        assert "Traceback" not in done.stderr
        assert bpf.program_info(fd).name == "firewall"
        assert f"id {bpf.program_info(fd).id}" in ip("-d link show lan0")
        assert not {"tbv51", "tbw51"} & traces(), "no gate, no address"
    finally:
        os.close(fd)
        (agent.pins.parent / "firewall").unlink()


def test_a_second_agent_on_the_node_is_refused(agent: Agent) -> None:
    agent.start()
    done = subprocess.run(agent.command(), capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 1
    assert "another twinbeatd runs" in done.stderr
    assert agent.until_primary()["gate"]["attached"], "the first one was not disturbed"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("index = 0", "index = 3"), "node.index = 3: should be"),
        (('interface = "lan0"', 'interface = "lan9"'), "lan9"),
        (("[node]", "[nodes]"), "nodes"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_explained(
    agent: Agent, change: tuple[str, str], complaint: str
) -> None:
    path = agent.root / "twinbeat.toml"
    path.write_text(path.read_text().replace(*change))
    done = subprocess.run(agent.command(), capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert traces() == set()


def test_close_gate_shuts_a_living_gate_and_may_be_repeated(agent: Agent) -> None:
    agent.start()
    agent.until_primary()
    assert agent.end(signal.SIGUSR2) == 75
    for _ in range(2):
        subprocess.run(agent.command("--close-gate"), check=True, timeout=60, capture_output=True)
        with Maps.open(7, root=agent.pins) as maps:
            assert not maps.gate().is_open(time.clock_gettime_ns(time.CLOCK_BOOTTIME))


def test_the_worker_may_come_and_go(agent: Agent) -> None:
    agent.start()
    before = agent.until_primary()
    assert not before["process"]["worker"]
    program = [sys.executable, "-m", "twinbeat.worker.main"]
    path = f"{agent.root}/run/worker.sock"
    command = [*program, "--socket", path, "--state", f"{agent.root}/worker"]
    with subprocess.Popen(command) as worker:
        agent.until(lambda status: status["process"]["worker"])
        worker.kill()
    after = agent.until(lambda status: not status["process"]["worker"])
    assert after["node"]["role"] == "primary"
    assert after["node"]["term"] == before["node"]["term"]


def test_a_wiped_disk_forgets_no_term(agent: Agent) -> None:
    agent.start()
    before = agent.until_primary()
    agent.end(signal.SIGKILL)
    for file in (agent.root / "state").iterdir():
        file.unlink()
    agent.start()
    # The kernel has it: a reign whose lease still runs goes on, any other has a higher term.
    assert agent.until_primary()["node"]["term"] >= before["node"]["term"]
