# SPDX-License-Identifier: Apache-2.0
"""What `doctor` makes of cards and processors, on trees as /sys and /proc have them."""

import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from twinbeat import __version__
from twinbeat.api.http import HttpServer, Request, Response
from twinbeat.api.server import unix_socket
from twinbeat.config.model import Config
from twinbeat.config.nodes import (
    EngineSection,
    LinkSection,
    NodeSection,
    PairSection,
    PeerSection,
)
from twinbeat.config.timers import TimersSection
from twinbeat.net import ethtool
from twinbeat.runtime.checkup import machine
from twinbeat.runtime.checkup.machine import versions
from unit.memory_agent import Served, status

LINK = LinkSection(interface="ha0", local="169.254.10.1", peer="169.254.10.2")
CONFIG = Config(
    node=NodeSection(name="a", index=0),
    pair=PairSection(id=1),
    peer=PeerSection(name="b"),
    links=(LINK,),
    vrids=(),
)
FAST = replace(CONFIG, timers_set=TimersSection(profile="fast"))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("told", "hello_us", "level"),
    [
        ((0, False), 200, "ok"),
        ((50, False), 200, "ok"),
        ((51, False), 200, "warning"),
        ((0, True), 200, "warning"),
        ((100, False), 6600, "ok"),
    ],
)
def test_a_card_that_holds_frames_back(told: tuple[int, bool], hello_us: int, level: str) -> None:
    found = machine.coalescing("eth0", told, hello_us)
    assert found is not None
    assert found.level == level
    assert found.fix == ("" if level == "ok" else "ethtool -C eth0 adaptive-rx off rx-usecs 0")


def test_a_card_without_such_a_thing_is_not_spoken_of() -> None:
    assert machine.coalescing("lo", ethtool.coalescing("lo"), 200) is None
    assert ethtool.coalescing("nosuch0") is None


def test_who_takes_frames_in(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", {"sys/class/net/ha0/threaded": "0"})
    assert machine.napi("ha0", plain).level == "ok"
    assert machine.napi("ha0", tmp_path / "older").level == "ok", "kernels without the file"
    # A process of ours in the place of a kernel thread: its priority is asked of the real kernel.
    with subprocess.Popen(["sleep", "60"]) as process:
        threaded = write(
            tmp_path / "threaded",
            {
                "sys/class/net/ha0/threaded": "1",
                f"proc/{process.pid}/comm": "napi/ha0-8193",
                "proc/1/comm": "napi/ha1-8194",
            },
        )
        found = machine.napi("ha0", threaded)
        assert found.level == "warning"
        assert f"chrt -f -p 50 {process.pid}" in found.fix
        if os.geteuid() == 0:
            os.sched_setscheduler(process.pid, os.SCHED_FIFO, os.sched_param(50))
            assert machine.napi("ha0", threaded).level == "ok"
        process.kill()


@pytest.mark.parametrize(
    ("cpu", "level"), [(None, "ok"), (0, "warning"), (3, "warning"), (2, "ok"), (4, "ok")]
)
def test_interrupts_on_the_engine_s_processor(cpu: int | None, level: str, tmp_path: Path) -> None:
    device = "sys/class/net/ha0/device/msi_irqs"
    root = write(
        tmp_path,
        {
            f"{device}/31": "msi",
            f"{device}/32": "msi",
            "proc/irq/31/effective_affinity_list": "0",
            "proc/irq/31/smp_affinity_list": "0-7",
            "proc/irq/32/smp_affinity_list": "3,6-7",
        },
    )
    found = machine.interrupts("ha0", cpu, root)
    assert found is not None
    assert (found.level, "0, 3, 6, 7" in found.finding) == (level, True)


def test_an_interface_without_interrupts_is_not_spoken_of(tmp_path: Path) -> None:
    assert machine.interrupts("ha0", 1, tmp_path) is None


def test_how_deep_processors_sleep(tmp_path: Path) -> None:
    idle = "sys/devices/system/cpu/cpu0/cpuidle"
    states = {"state0": ("POLL", 0), "state1": ("C1", 2), "state2": ("C6", 133)}
    files = {}
    for state, (name, latency) in states.items():
        files[f"{idle}/{state}/name"] = name
        files[f"{idle}/{state}/latency"] = str(latency)
        files[f"{idle}/{state}/disable"] = "0"
    root = write(tmp_path, files)
    engine = EngineSection(idle_latency_us=-1)
    assert machine.sleep(CONFIG, root).level == "ok", "balanced has milliseconds"
    deep = machine.sleep(replace(FAST, engine=engine), root)
    assert (deep.level, "C6" in deep.finding, "133 µs" in deep.finding) == ("warning", True, True)
    assert machine.sleep(FAST, root).level == "ok", "fast keeps them awake"
    write(root, {f"{idle}/state2/disable": "1"})
    assert machine.sleep(replace(FAST, engine=engine), root).level == "ok"
    assert machine.sleep(FAST, tmp_path / "none").level == "ok"


def test_all_of_it_runs_on_this_machine() -> None:
    here = replace(CONFIG, links=(replace(LINK, interface="lo"), replace(LINK, interface="gone0")))
    names = [found.name for found in machine.cards(here)]
    assert set(names) == {"lo"}
    assert machine.sleep(here).name == "c_states"


@pytest.mark.parametrize(("version", "level"), [(__version__, "ok"), ("9.9.9", "warning")])
def test_the_other_node_s_version(version: str, level: str, tmp_path: Path) -> None:
    state = status()
    other = replace(state, process=replace(state.process, version=version))

    async def peer(_: Request) -> Response:
        return Response(body=msgspec.json.encode(other))

    with Served(tmp_path) as served:
        server = HttpServer({("GET", "/v1/peer"): peer})
        served.run(server.listen(unix_socket(str(tmp_path / "sync.sock"))))
        found = versions(served.path)
        served.run(server.close())
    assert (found.level, version in found.finding) == (level, True)


def test_another_node_that_cannot_be_asked_is_said(tmp_path: Path) -> None:
    found = versions(str(tmp_path / "control.sock"))
    assert found.level == "warning"
    assert "can't be asked" in found.finding
