# SPDX-License-Identifier: Apache-2.0
"""The heartbeat links of a living pair: added, taken away, switched off, cut, over IPv6, tagged;
and the keys of its heartbeats.
"""

from __future__ import annotations

import json
import re
import secrets
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twinlab import agents, capture, lab, netns, plan, processes
from twinlab.shell import run, wait_for

from lab import watching

PAIR = plan.Options(profile="balanced", settings=(*watching.CALM, "policy.accept_single_link=true"))
LAB_OPTIONS = PAIR

THIRD = """
[[link]]
name = "wan0"
number = 2
interface = "wan0"
local = "{local}"
peer = "{peer}"
"""


def third(node: str) -> str:
    return THIRD.format(
        local=plan.node_address(node, "wan0"), peer=plan.node_address(plan.peer(node), "wan0")
    )


def without(text: str, link: str) -> str:
    """The file without one of its links; those behind it keep their numbers."""
    numbered = text.replace('name = "lan0"\ninterface', 'name = "lan0"\nnumber = 1\ninterface')
    head, *tables = numbered.split("[[")
    gone = [table for table in tables if table.startswith(f'link]]\nname = "{link}"')]
    assert len(gone) == 1, text
    return "[[".join([head, *(table for table in tables if table not in gone)])


def reload(node: str, change: Callable[[str], str]) -> str:
    """Change a node's file and have it read; what the node says to that."""
    text = change(agents.file_of(node).read_text())
    tomllib.loads(text)
    return agents.reconfigure(node, text)


def links(node: str) -> dict[str, dict[str, Any]]:
    said = agents.show(node)
    assert said is not None, f"the agent of {node} does not answer"
    return {link["name"]: link for link in said["links"]}


def carries(node: str, name: str) -> bool:
    link = links(node).get(name)
    return bool(link and link["up"] and link["two_way"])


def verdicts(node: str) -> dict[str, int]:
    """What suspicions came to that may move a role.

    Left out are those that were cleared at once, and agents that the machine kept from running for
    a moment (`stalled`: the node's kernel answered for it).
    """
    counted = agents.counters(node)
    assert counted is not None
    harmless = ("cleared", "stalled")
    return {key: count for key, count in counted["suspicions"].items() if key not in harmless}


def xdp_on(node: str, interface: str) -> bool:
    shown = run([*netns.enter(plan.namespace(node)), "ip", "-j", "link", "show", interface])
    return "xdp" in json.loads(shown)[0]


@pytest.fixture
def calm(primary: str) -> Iterator[str]:
    """A pair whose files are put back, and which must not have noticed anything."""
    files = {node: agents.file_of(node).read_text() for node in plan.NODES}
    for node in plan.NODES:
        for link in ("ha0", "lan0"):
            wait_for(
                lambda node=node, link=link: carries(node, link),
                f"{link} of {node} carries",
                timeout_s=20,
            )
    before = {node: (verdicts(node), watching.transitions(node)) for node in plan.NODES}
    reign = watching.term(primary)
    yield primary
    for node in plan.NODES:
        lab.heal(node)
    assert watching.term(primary) == reign
    assert {node: (verdicts(node), watching.transitions(node)) for node in plan.NODES} == before
    for node, text in files.items():
        wait_for(
            lambda text=text, node=node: "was reloaded" in reload(node, lambda _: text),
            f"{node} goes back",
            timeout_s=30,
        )


def test_a_link_comes_and_another_goes(calm: str) -> None:
    """One node after the other, with the pair serving all the time."""
    first, second = calm, plan.peer(calm)
    assert "was reloaded" in reload(first, lambda text: text + third(first))
    assert links(first)["wan0"]["state"] == "never-heard"
    assert "was reloaded" in reload(second, lambda text: text + third(second))
    for node in plan.NODES:
        wait_for(lambda node=node: carries(node, "wan0"), f"{node} hears wan0", timeout_s=20)

    for node in (second, first):
        assert xdp_on(node, "ha0")
        assert "was reloaded" in reload(node, lambda text: without(text, "ha0"))
        assert sorted(links(node)) == ["lan0", "wan0"]
        assert not xdp_on(node, "ha0"), "nothing of ours is left where nothing is ours"
    counted = agents.counters(first)
    assert counted is not None
    sent = {link["name"]: link["sent"] for link in counted["links"]}
    assert set(sent) == {"lan0", "wan0"}
    for node in plan.NODES:
        assert carries(node, "lan0")
        assert carries(node, "wan0")


def key_file(node: str, number: int) -> Path:
    return netns.node_dir(node, "/etc/twinbeat") / "keys" / f"{number}.key"


def give_key(node: str, number: int, key: str) -> None:
    key_file(node, number).touch(mode=0o600)
    key_file(node, number).write_text(key + "\n")


def sending_under(number: int) -> Callable[[str], str]:
    return lambda text: re.sub(r"send = \d+", f"send = {number}", text)


def keys(node: str, side: str) -> tuple[int, list[int]]:
    """What a node says of its own keys ("configuration") or of its peer's ("peer")."""
    said = agents.show(node)
    assert said is not None, f"the agent of {node} does not answer"
    return said[side]["send_key"], said[side]["keys"]


def rotate(nodes: tuple[str, str], old: int, new: int, key: str) -> None:
    """In the right order."""
    both = sorted((old, new))
    for node in nodes:
        give_key(node, new, key)
        assert "was reloaded" in reload(node, sending_under(old))
        assert keys(node, "configuration") == (old, both)
    for node in nodes:
        peer_is(node, (old if node is nodes[0] else new, both))
        assert "was reloaded" in reload(node, sending_under(new))
    for node in nodes:
        peer_is(node, (new, both if node is nodes[0] else [new]))
        key_file(node, old).unlink()
        assert "was reloaded" in reload(node, sending_under(new))
        assert keys(node, "configuration") == (new, [new])


def peer_is(node: str, wanted: tuple[int, list[int]]) -> None:
    wait_for(lambda: keys(node, "peer") == wanted, f"{node} hears of {wanted}", timeout_s=20)


def refused_for_keys(node: str) -> int:
    counted = watching.reasons(node)
    return counted["key"] + counted["auth"]


def test_keys_rotate_in_one_order_only(calm: str) -> None:
    """In any other the pair would be cut: that is refused as a whole, and says what to do first."""
    first, second = nodes = calm, plan.peer(calm)
    old, new = key_file(first, 1).read_text().strip(), secrets.token_hex(16)
    missed = {node: refused_for_keys(node) for node in nodes}
    give_key(first, 2, new)
    said = reload(first, sending_under(2))
    assert "nothing was changed" in said
    assert f"{second} doesn't accept key 2 yet" in said
    assert keys(first, "configuration") == (1, [1])

    give_key(second, 2, new)
    for node in nodes:
        assert "was reloaded" in reload(node, sending_under(1))
    peer_is(first, (1, [1, 2]))
    assert "was reloaded" in reload(first, sending_under(2))
    key_file(first, 1).unlink()
    said = reload(first, sending_under(2))
    assert "nothing was changed" in said
    assert f"{second} sends under key 1" in said
    assert keys(first, "configuration") == (2, [1, 2])
    assert "sends under 2, accepts 1 and 2" in agents.cli(second, "show", "peer").stdout

    give_key(first, 1, old)
    assert "was reloaded" in reload(first, sending_under(1))
    rotate(nodes, 1, 2, new)
    rotate(nodes, 2, 1, old)
    assert {node: refused_for_keys(node) for node in nodes} == missed, "not one frame was missed"


def test_the_last_link_that_carries_stays(calm: str) -> None:
    """The file is refused as a whole, and the pair goes on over the link that it wanted to drop."""
    node = plan.peer(calm)
    lab.cut_link(node, "lan0")
    wait_for(lambda: links(node)["lan0"]["state"] == "silent", "lan0 is silent", timeout_s=20)
    said = reload(node, lambda text: without(text, "ha0"))
    assert "none carries heartbeats both ways" in said
    assert carries(node, "ha0")
    lab.heal(node)
    wait_for(lambda: carries(node, "lan0"), "lan0 carries again", timeout_s=20)


def test_a_silent_link_gives_an_alarm_and_moves_nobody(calm: str) -> None:
    node = plan.peer(calm)
    lab.cut_link(node, "lan0", one_way="in")
    wait_for(lambda: links(node)["lan0"]["quality"]["alarm"], "the alarm", timeout_s=30)
    log = processes.log_tail(agents.process_name(node), 20)
    assert f"link lan0 (lan0) carries no heartbeats, though {calm} is heard on ha0" in log
    assert "no frame comes in" in log
    scraped = agents.metrics(node)
    assert 'twinbeat_link_silent{link="lan0",pair="1"} 1.0' in scraped
    assert 'twinbeat_link_silent{link="ha0",pair="1"} 0.0' in scraped
    assert not links(calm)["lan0"]["quality"]["alarm"], "the other direction works"

    def lost(name: str) -> float:
        return links(node)[name]["quality"]["loss_ratio"] or 0

    # Probes of a busy machine's suspicions blur the estimate for as long as it has them in view.
    wait_for(lambda: lost("lan0") > 0.2 and lost("ha0") < 0.05, "loss of one alone", timeout_s=20)
    lab.heal(node)
    wait_for(lambda: not links(node)["lan0"]["quality"]["alarm"], "it is over", timeout_s=20)


def test_heartbeats_are_switched_off_on_one_link(calm: str) -> None:
    """Nothing is sent there and nothing missed."""

    def off(text: str) -> str:
        return text.replace('name = "lan0"', 'name = "lan0"\nheartbeat = false')

    for node in plan.NODES:
        assert "was reloaded" in reload(node, off)
    with capture.Capture(links=("lan0", "ha0"), heartbeats=True) as recorder:
        wait_for(lambda: carries(calm, "ha0"), "ha0 carries", timeout_s=20)
        beats = agents.counters(calm)
        assert beats is not None
        sent = beats["links"][0]["sent"]
        wait_for(
            lambda: (agents.counters(calm) or beats)["links"][0]["sent"] > sent + 100,
            "a hundred heartbeats",
            timeout_s=20,
        )
    frames = recorder.finish().frames
    port = plan.HEARTBEAT_PORT
    seen = {frame.link for frame in frames if port in (frame.udp_ports() or ())}
    assert seen == {"ha0"}
    for node in plan.NODES:
        link = links(node)["lan0"]
        assert (link["state"], link["heartbeat"], link["quality"]["alarm"]) == ("off", False, False)
        said = agents.show(node)
        assert said is not None
        assert "1/1 links" in said["sentence"]
        assert not [one for one in said["warnings"] if one["code"].startswith("link_")]


@pytest.fixture
def bare() -> Iterator[None]:
    """The ground without agents, for a pair with links of another kind."""
    lab.down()
    yield
    lab.down()


def start_with(options: plan.Options, change: Callable[[str, str], str]) -> str:
    lab.up(replace(options, agent=False))
    for node in plan.NODES:
        agents.file_of(node).write_text(change(node, agents.file_of(node).read_text()))
    for node in plan.NODES:
        agents.start(node)
    return agents.wait_fit()


def survives_its_primary(dead: str) -> None:
    survivor = plan.peer(dead)
    watching.watch(
        lambda: lab.cut(dead, silent=True),
        lambda: watching.serves(survivor),
        f"{survivor} takes over",
    )


def link_local(node: str, interface: str) -> str:
    shown = run(
        [*netns.enter(plan.namespace(node)), "ip", "-j", "-6", "address", "show", interface]
    )
    return next(
        str(one["local"]) for one in json.loads(shown)[0]["addr_info"] if one["scope"] == "link"
    )


def test_a_pair_over_ipv6_alone(bare: None) -> None:
    """Unique local addresses on one link, link-local ones on the other, and no IPv4 heartbeat."""

    def ipv6(node: str, text: str) -> str:
        for one, side in ((node, "local"), (plan.peer(node), "peer")):
            for link, address in (
                ("ha0", plan.node_address6(one, "ha0")),
                ("lan0", link_local(one, "lan0")),
            ):
                old = plan.node_address(one, link)
                text = text.replace(f'{side} = "{old}"', f'{side} = "{address}"')
        return text

    serving = start_with(replace(PAIR, ipv6=True), ipv6)
    for node in plan.NODES:
        for name in ("ha0", "lan0"):
            wait_for(
                lambda node=node, name=name: carries(node, name), f"{name} carries", timeout_s=20
            )
            assert ":" in links(node)[name]["local"]
    survives_its_primary(serving)


def test_a_tagged_link(bare: None) -> None:
    def tagged(_node: str, text: str) -> str:
        return text.replace('name = "ha0"', 'name = "ha0"\nvlan = 7')

    lab.up(replace(PAIR, agent=False))
    for node in plan.NODES:
        # As a switch does: the tag is in the frame when it gets to the node.
        run([*netns.enter(plan.SWITCHES["ha0"]), "ethtool", "-K", node, "txvlan", "off"])
    serving = start_with(PAIR, tagged)
    for node in plan.NODES:
        # The kernel looks a link up by interface and tag: without its tag nothing would be heard.
        wait_for(lambda node=node: carries(node, "ha0"), f"{node} hears ha0", timeout_s=20)
        assert links(node)["ha0"]["vlan"] == 7
    survives_its_primary(serving)
