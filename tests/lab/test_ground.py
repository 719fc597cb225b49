# SPDX-License-Identifier: Apache-2.0
"""The ground that everything else stands on: does the lab build, cut, heal and measure truly?

No agent takes part.  What a later test reads from a probe or a capture is only worth something if a
cut is a cut, in both directions and at once, and if the measuring sees what is known to be there.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from twinlab import agents, capture, cutter, lab, measure, netns, plan, probe, services, topology
from twinlab.shell import LabError, run, wait_for

LAB = str(plan.LAB_DIR / "lab")

pytestmark = pytest.mark.usefixtures("ground")


@pytest.fixture(autouse=True)
def _healed() -> Iterator[None]:
    yield
    for node in plan.NODES:
        lab.heal(node)


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The lab's command, as a person would call it."""
    return subprocess.run([LAB, *arguments], capture_output=True, text=True, check=False)


def carrier(node: str, link: str) -> bool:
    """Whether the node sees a carrier, read where its agent reads it."""
    words = [*netns.enter(plan.namespace(node)), "cat", f"/sys/class/net/{link}/carrier"]
    return run(words).strip() == "1"


def ping(source: str, target: str) -> bool:
    done = subprocess.run(
        [*netns.enter(plan.namespace(source)), "ping", "-q", "-c1", "-W1", target],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


# ------------------------------------------------------------------------ what there is ------


def test_up_again_changes_nothing() -> None:
    before = os.stat(plan.NETNS_DIR / "tb-a").st_ino
    done = call("up", "--no-agent")
    assert (done.returncode, "already up" in done.stderr) == (0, True)
    assert os.stat(plan.NETNS_DIR / "tb-a").st_ino == before


def test_status_is_one_object_with_everything_in_it() -> None:
    state = json.loads(call("status", "--json").stdout)
    assert set(state["namespaces"]) == set(plan.NAMESPACES)
    assert state["vips"] == {"lan0": [plan.LAN_VIP], "wan0": [plan.WAN_VIP]}
    assert state["vmacs"]["lan0"] == "00:00:5e:00:01:33"
    assert state["primary"] is None
    for node in plan.NODES:
        assert set(state["links"][node]) == set(plan.LINKS)
        facts = state["nodes"][node]
        assert {"socket", "pid", "role", "term", "gate_open"} <= set(facts)
        assert facts["role"] is None


def test_a_node_is_cut_off_when_nothing_gets_through() -> None:
    def cut_off() -> list[bool]:
        return [lab.status()["nodes"][node]["cut_off"] for node in plan.NODES]

    lab.cut("a", silent=True)
    assert cut_off() == [True, False]
    lab.heal("a")
    for link in plan.LINKS:
        lab.cut_link("a", link, one_way="in")
    assert cut_off() == [False, False], "it may still be heard"


def test_client_is_served_by_both_servers() -> None:
    served = {services.http_get(plan.LAN_VIP) for _ in range(30)}
    assert served == set(plan.SERVERS)


def test_switch_ports_of_the_nodes_have_native_xdp() -> None:
    for switch in plan.SWITCHES.values():
        for node in plan.NODES:
            shown = run([*netns.enter(switch), "ip", "-j", "link", "show", "dev", node])
            assert json.loads(shown)[0]["xdp"]["mode"] == 1, "1 is the driver's own mode"


def test_nodes_have_paths_of_their_own() -> None:
    for directory in ("/run", "/var/lib", "/etc/twinbeat"):
        run([*netns.enter("tb-a"), "touch", f"{directory}/only-a"])
        assert run([*netns.enter("tb-a"), "ls", directory]).count("only-a") == 1
        assert "only-a" not in run([*netns.enter("tb-b"), "ls", directory])
        assert not Path(directory, "only-a").exists()
        run([*netns.enter("tb-a"), "rm", f"{directory}/only-a"])
    filesystems = {
        run([*netns.enter(f"tb-{node}"), "stat", "-c", "%d %T", "-f", "/sys/fs/bpf"])
        for node in plan.NODES
    }
    assert filesystems, "both nodes have a bpffs"
    devices = {run([*netns.enter(f"tb-{n}"), "stat", "-c", "%d", "/sys/fs/bpf"]) for n in "ab"}
    assert len(devices) == 2, "and it is not the same one"


def test_configuration_and_key_are_in_place() -> None:
    keys = set()
    for node in plan.NODES:
        etc = netns.node_dir(node, "/etc/twinbeat")
        assert f'name = "{node}"' in (etc / "twinbeat.toml").read_text()
        key = etc / "keys" / "1.key"
        assert key.stat().st_mode & 0o777 == 0o600
        keys.add(key.read_text())
    assert len(keys) == 1
    assert len(bytes.fromhex(keys.pop().strip())) == 16


# -------------------------------------------------------------------- cutting and healing ----


def test_silent_cut_takes_all_links_both_ways_at_once() -> None:
    with (
        capture.Capture(links=plan.LINKS, name="cut") as recorder,
        probe.Probe(interval_us=200) as running,
    ):
        running.wait_served()
        with cutter.CutWord("a") as word:
            word.store(cutter.ALL_BITS)
            cut_at = agents.boot_ns()
            # Both directions of both busy links are seen to lose frames, so both were busy.
            wait_for(
                lambda: word.dropped()["lan0"]["in"] > 20 and not running.tail(1)[0][1],
                "frames to the cut node are dropped",
                timeout_s=20,
            )
            assert not ping("a", "10.88.0.21")
            assert word.dropped()["wan0"]["out"] > 0
        for link in plan.LINKS:
            assert carrier("a", link)
        lab.heal("a")
        healed_at = agents.boot_ns()
        running.wait_served(since_ns=healed_at)
        record = running.finish()
    recording = recorder.finish()
    assert recording.lost == 0
    heard = [frame for frame in recording.frames if frame.port == "a"]
    assert [frame for frame in heard if frame.at_ns < cut_at], "the node was heard before"
    assert [frame for frame in heard if frame.at_ns > healed_at], "and after"
    assert not [frame for frame in heard if cut_at < frame.at_ns < healed_at - 20_000_000]
    outage = record.outage_around(cut_at)
    assert outage is not None
    assert outage.duration_ns is not None
    assert outage.last_good_ns < cut_at + 1_000_000
    assert outage.first_good_ns is not None
    assert outage.first_good_ns > healed_at - 20_000_000


def test_cut_with_carrier_falls_at_both_ends() -> None:
    lab.cut("a", silent=False)
    for link in plan.LINKS:
        assert not carrier("a", link)
    assert not carrier("b", "ha0"), "the other end of the direct cable"
    assert carrier("b", "lan0"), "a switch port of its own"
    lab.heal("a")
    for node in plan.NODES:
        for link in plan.LINKS:
            assert carrier(node, link)
    assert ping("a", plan.node_address("b", "ha0"))


def test_direct_cable_stays_dark_until_both_ends_have_power() -> None:
    lab.cut("a", silent=False)
    lab.cut("b", silent=False)
    lab.heal("a")
    assert not carrier("a", "ha0")
    lab.heal("b")
    assert carrier("a", "ha0")


@pytest.mark.parametrize("way", cutter.DIRECTIONS)
def test_one_way_cut_drops_only_that_way(way: str) -> None:
    other_way = next(other for other in cutter.DIRECTIONS if other != way)
    assert ping("a", plan.node_address("b", "ha0"))
    lab.cut_link("a", "ha0", one_way=way)
    assert not ping("a", plan.node_address("b", "ha0"))
    assert not ping("b", plan.node_address("a", "ha0"))
    with cutter.CutWord("a") as word:
        dropped = word.dropped()
    assert dropped["ha0"][way] > 0
    assert dropped["ha0"][other_way] == 0
    assert dropped["lan0"] == {"in": 0, "out": 0}
    assert ping("a", plan.node_address("b", "lan0"))
    lab.heal("a")
    assert ping("a", plan.node_address("b", "ha0"))


def test_links_are_cut_one_after_the_other_and_healed_together() -> None:
    for link in plan.LINKS:
        lab.cut_link("b", link)
    state = lab.status()["links"]["b"]
    assert all(sorted(state[link]["cut"]) == ["in", "out"] for link in plan.LINKS)
    lab.heal("b")
    assert not any(words["cut"] for words in lab.status()["links"]["b"].values())


# ------------------------------------------------------------------------- measuring ---------


def test_an_outage_of_known_length_is_measured_as_such() -> None:
    def blink() -> None:
        with cutter.CutWord("a") as word:
            word.store(cutter.ALL_BITS)
            begin = agents.boot_ns()
            while agents.boot_ns() < begin + 30_000_000:
                pass
            word.store(0)

    seen = measure.failure(blink, interval_us=200)
    assert seen.outage is not None
    lasted = seen.after_ns - seen.before_ns
    assert seen.outage_ns is not None
    assert seen.outage_ns >= 30_000_000 - 200_000
    # Upward only the client's own delay may add to it.
    assert seen.outage_ns <= lasted + 2_000_000 + 2 * seen.record.lateness_max_ns
    assert seen.lost == seen.outage.lost


def test_capture_names_the_port_and_the_address() -> None:
    with capture.Capture(links=("lan0",)) as recorder, probe.Probe() as running:
        running.wait_served()
        running.finish()
    recording = recorder.finish()
    answers = recording.by_owner([plan.LAN_VIP])
    assert recording.lost == 0
    assert {frame.port for frame in answers} == {"a"}
    assert any(frame.udp_ports() == (plan.PROBE_PORT, frame.udp_ports()[1]) for frame in answers)
    tshark = run(
        ["tshark", "-r", str(recorder.paths[0]), "-c", "1", "-T", "fields", "-e", "eth.src"]
    )
    assert tshark.strip()


# ----------------------------------------------------------------------- bad input -----------


def test_wrong_calls_are_explained_without_a_traceback() -> None:
    for arguments, code in (
        (["cut", "c"], 2),
        (["cut-link", "a", "eth9"], 2),
        (["exec", "mars", "true"], 1),
        (["stop", "a"], 1),
        (["up", "--no-agent", "--vips", "0"], 1),
        (["up", "--no-agent", "--vips", str(plan.VIPS_MAX)], 1),
        (["capture", "--links", "foo"], 1),
    ):
        done = call(*arguments)
        assert done.returncode == code, done.stderr
        assert done.stderr.strip()
        assert "Traceback" not in done.stderr


def test_exec_runs_inside_and_hands_the_exit_code_on() -> None:
    assert call("exec", "s1", "sh", "-c", "exit 7").returncode == 7
    shown = call("exec", "b", "ip", "-o", "-4", "address", "show", "dev", "lan0").stdout
    assert "10.77.0.2/24" in shown


def test_ports_go_up_and_down_one_by_one() -> None:
    topology.set_port("b", "lan0", up=False)
    assert not topology.port_is_up("b", "lan0")
    assert topology.port_is_up("a", "lan0")
    with pytest.raises(LabError):
        lab.cut_link("b", "eth9")
