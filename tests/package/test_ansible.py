# SPDX-License-Identifier: Apache-2.0
"""The Ansible role on two machines that boot: a pair is made, changed and upgraded by it.

One pair for all tests, which go through its life in their order.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import twinbeat
from package.controller import Controller, Play
from package.machine import Machine, booted, wait_for
from package.versions import NEXT, newer

pytestmark = [pytest.mark.privileged, pytest.mark.timeout(600)]

NAMES = ("gw-a", "gw-b")
KEY = "00112233445566778899aabbccddeeff"
SHARED: dict[str, Any] = {
    "timers": {
        "hello_us": 50_000,
        "dead_us": 300_000,
        "verify_us": 50_000,
        "lease_us": 500_000,
        "boot_wait_ms": 1000,
    },
    "policy": {"accept_single_link": True},
    "vrid": [{"id": 51, "interface": "lan0", "vips": ["10.77.0.10", "fd77::10"]}],
}
CONFIGURATION = "/etc/twinbeat/twinbeat.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two machines with a cable, and who describes them."""

    machines: Mapping[str, Machine]
    controller: Controller
    deb: Path

    def play(self, playbook: str, *options: str, **variables: Any) -> Play:
        """A playbook, with what the inventory says of this pair where nothing else is said."""
        usual = {
            "twinbeat_pair": NAMES,
            "twinbeat_pair_id": 7,
            "twinbeat_package": str(self.deb),
            "twinbeat_key": KEY,
            "twinbeat_shared": SHARED,
        }
        played = self.controller.play(playbook, *options, **(usual | variables))
        assert KEY not in played.said
        return played

    def did(self, playbook: str, *options: str, **variables: Any) -> Play:
        """A playbook that has to succeed."""
        played = self.play(playbook, *options, **variables)
        journals = [machine.journal() for machine in self.machines.values() if played.code]
        assert played.code == 0, "\n".join([played.said, *journals])
        return played

    def each(self, *command: str) -> dict[str, str]:
        return {name: machine.do(*command) for name, machine in self.machines.items()}

    def processes(self) -> dict[str, str]:
        return {
            name: machine.unit("twinbeatd.service")["MainPID"]
            for name, machine in self.machines.items()
        }

    def primary(self) -> str:
        def probe() -> str | None:
            serve = [
                name
                for name, machine in self.machines.items()
                if machine.run("twinbeat", "is-primary").returncode == 0
            ]
            return serve[0] if len(serve) == 1 else None

        return wait_for(probe, "one primary")


@pytest.fixture(scope="module")
def pair(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    work = tmp_path_factory.mktemp("ansible")
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        boots = [booted(work / name) for name in NAMES]
        started = list(threads.map(stack.enter_context, boots))
        machines = dict(zip(NAMES, started, strict=True))
        started[0].cable(started[1], "lan0")
        for number, machine in enumerate(started, 1):
            # apt would try its mirrors again and again.
            machine.sh(
                f"ip link set lan0 up; ip addr add 10.77.0.{number}/24 dev lan0;"
                "rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*"
            )
        home = work / "controller"
        home.mkdir()
        shutil.copy(deb, home)
        controller = Controller(home, machines)
        controller.describe(
            {
                name: {
                    "machine_first": machine.first,
                    "machine_mark": machine.mark,
                    "twinbeat_own": {
                        "timers": {"accept_host": True},
                        "link": [
                            {
                                "interface": "lan0",
                                "local": f"10.77.0.{number}",
                                "peer": f"10.77.0.{3 - number}",
                            }
                        ],
                    },
                }
                for number, (name, machine) in enumerate(machines.items(), 1)
            }
        )
        yield Pair(machines=machines, controller=controller, deb=home / deb.name)
    shutil.rmtree(work)


@pytest.fixture
def made(pair: Pair) -> Pair:
    """The pair as the role has made it, also where this test is the first one that needs it."""
    if pair.machines[NAMES[0]].run("which", "twinbeat").returncode:
        pair.did("site.yml")
    return pair


def test_check_mode_says_what_is_missing_and_brings_nothing(pair: Pair) -> None:
    played = pair.did("site.yml", "--check")
    assert played.counted("changed") == dict.fromkeys(NAMES, 2)
    for machine in pair.machines.values():
        assert machine.run("which", "twinbeat").returncode != 0
        assert machine.sh("ls -d /etc/twinbeat /var/cache/apt/archives/*.deb || true") == ""


def test_it_makes_a_pair(pair: Pair) -> None:
    played = pair.did("site.yml", "-vvv", "--diff")
    assert all(played.counted("changed").values())
    assert set(pair.each("twinbeatd", "--version").values()) == {
        f"twinbeatd {twinbeat.__version__}\n"
    }
    key = "/etc/twinbeat/keys/1.key"
    assert set(pair.each("stat", "-c", "%U:%G %a", key).values()) == {"twinbeat:twinbeat 600\n"}
    assert set(pair.each("cat", key).values()) == {f"{KEY}\n"}
    owners = pair.each("stat", "-c", "%U:%G %a", CONFIGURATION)
    assert set(owners.values()) == {"root:twinbeat 640\n"}
    for machine in pair.machines.values():
        for unit in ("twinbeatd.service", "twinbeat-worker.service"):
            shown = machine.unit(unit)
            assert (shown["ActiveState"], shown["UnitFileState"]) == ("active", "enabled")
    assert pair.primary() in NAMES
    assert KEY not in "".join(pair.each("journalctl", "--no-pager", "--output=verbose").values())
    # What the role waited for.
    assert all("TWINBEAT OK" in said for said in pair.each("twinbeat", "check").values())


def test_the_second_run_changes_nothing(made: Pair) -> None:
    before = made.processes()
    played = made.did("site.yml")
    assert played.counted("changed") == dict.fromkeys(NAMES, 0)
    assert made.processes() == before


def test_a_change_is_reloaded_and_nobody_restarts(made: Pair) -> None:
    before, written = made.processes(), made.each("cat", CONFIGURATION)
    (vrid,) = SHARED["vrid"]
    more = SHARED | {"vrid": [vrid | {"vips": [*vrid["vips"], "10.77.0.11"]}]}
    foreseen = made.did("site.yml", "--check", "--diff", twinbeat_shared=more)
    assert foreseen.counted("changed") == dict.fromkeys(NAMES, 2)
    assert '+vips = ["10.77.0.10", "fd77::10", "10.77.0.11"]' in foreseen.said
    assert made.each("cat", CONFIGURATION) == written
    made.did("site.yml", twinbeat_shared=more)
    for machine in made.machines.values():
        wait_for(lambda: "10.77.0.11/" in machine.do("ip", "addr"), "the new address")  # noqa: B023
    assert made.processes() == before


def test_a_mistake_is_a_sentence_and_replaces_nothing(made: Pair) -> None:
    written = made.each("cat", CONFIGURATION)
    (vrid,) = SHARED["vrid"]
    mistaken = SHARED | {"vrid": [vrid | {"vips": ["10.77.0.300"]}]}
    played = made.play("site.yml", twinbeat_shared=mistaken)
    assert played.code != 0
    assert "should be an IPv4 or IPv6 address" in " ".join(played.said.split()), played.said
    assert made.each("cat", CONFIGURATION) == written
    for wrong, sentence in (
        ({"twinbeat_pair_id": "seven"}, "twinbeat_pair_id"),
        ({"twinbeat_key": KEY[1:]}, "is 32 hexadecimal digits"),
        ({"twinbeat_package": "twinbeat.deb"}, "its name says which version it is"),
    ):
        played = made.play("site.yml", **wrong)
        assert played.code != 0
        assert sentence in " ".join(played.said.split())
        assert KEY[1:] not in played.said


def test_a_pair_is_upgraded_node_by_node(made: Pair, tmp_path: Path) -> None:
    before, served = made.processes(), made.primary()
    package = made.controller.home / f"twinbeat_{NEXT}_amd64.deb"
    newer(made.deb, tmp_path / "next", package)
    played = made.did("upgrade.yml", twinbeat_package=str(package))
    assert played.counted("failed") == dict.fromkeys(NAMES, 0)
    assert set(made.each("twinbeatd", "--version").values()) == {f"twinbeatd {NEXT}\n"}
    after = made.processes()
    assert not set(before.items()) & set(after.items())
    assert made.primary() != served, "the role moved once, by the switch-over"
    said = made.machines[made.primary()].do("twinbeat", "history", "--brief")
    assert re.findall(r"-> primary: (\w+)", said)[-1] == "peer_yielded", "by a planned switch-over"
