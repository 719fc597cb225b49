# SPDX-License-Identifier: Apache-2.0
"""What people see of a real pair: the live screen, the status page."""

from __future__ import annotations

from pathlib import Path

import pytest
from twinlab import agents, lasting, netns, plan, storm

from lab import watching
from unit.browser import Browser
from unit.terminal import Terminal

PORT = 9703
LAB_OPTIONS = plan.Options(
    profile="balanced",
    settings=(*watching.STEADY, lasting.ENABLED, f'metrics.listen = "0.0.0.0:{PORT}"'),
)
"""Reached from the client, where those sit who look."""


def top(node: str) -> list[str]:
    command = agents.command("top", "--interval", "0.3")
    return [*netns.enter(plan.namespace(node)), *command]


@pytest.fixture
def acquainted(primary: str) -> str:
    """The workers know each other, so that each node can be asked for the other one's word."""
    storm.acquaint()
    return primary


def test_the_live_screen_shows_both_nodes_and_a_takeover(acquainted: str) -> None:
    old, new = acquainted, plan.peer(acquainted)
    with Terminal(top(new), columns=120) as terminal:
        links = [f"{node} {link}" for node in plan.NODES for link in LAB_OPTIONS.links]
        wanted = ["PRIMARY for", "SECONDARY for", *links]
        terminal.until(lambda text: all(words in text for words in wanted), timeout_s=30)
        agents.kill(old)
        terminal.until(lambda text: f"{old}  as heard" in text and "stalled" in text)
        terminal.until(lambda text: "-> primary" in text)
        # Its own agent goes as well, and comes back.
        agents.kill(new)
        terminal.until(lambda text: "no answer since" in text)
        agents.start(new)
        agents.start(old)
        terminal.until(lambda text: "no answer since" not in text, timeout_s=30)
        terminal.until(lambda text: "PRIMARY for" in text and "SECONDARY for" in text, 30)
        terminal.type("q")
        assert terminal.end() == 0


def test_the_status_page_tells_of_a_takeover(primary: str, tmp_path: Path) -> None:
    old, new = primary, plan.peer(primary)
    with Browser(tmp_path, enter=netns.enter(plan.CLIENT_NS)) as browser:
        browser.window(900, 1100)
        browser.open(f"http://{plan.node_address(new, 'lan0')}:{PORT}/")
        browser.until("document.querySelector('.node .role')?.innerText === 'secondary'")
        browser.until("document.querySelectorAll('#links rect').length >= 2")
        agents.kill(old)
        browser.until("document.querySelector('.node .role')?.innerText === 'primary'")
        total = "[...document.querySelectorAll('.key')].some(one => /in all/.test(one.innerText))"
        browser.until(total)
        assert "STALLED" in str(browser.value("document.body.innerText")), "its kernel answers"
        agents.start(old)
        agents.wait_fit()
        lasting.wait_synced()
        browser.until("/synced/.test(document.getElementById('kept').innerText)", 30)
        kept = str(browser.value("document.getElementById('kept').innerText"))
        assert "entries" in kept, "of persistence, which the lab's gateways have always"
        browser.until("document.querySelectorAll('#links rect').length >= 8", 60)
        assert browser.complaints == []
        plan.OUT_DIR.mkdir(exist_ok=True)
        # The README has this picture: copied from there when the page looks otherwise.
        (plan.OUT_DIR / "status-page.png").write_bytes(browser.picture())
