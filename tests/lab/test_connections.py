# SPDX-License-Identifier: Apache-2.0
"""Connections through the gateways outlast a takeover: seen from a client that stays connected."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from twinlab import agents, lab, netns, plan, services
from twinlab.shell import LabError, run, wait_for

from lab import watching

LAB_OPTIONS = plan.Options(
    profile="balanced", settings=(*watching.STEADY, "connections.enabled=true")
)


@dataclass(slots=True)
class Flow:
    """A connection of the client's."""

    process: subprocess.Popen[str]
    source_port: int

    def known(self, node: str) -> bool:
        """Whether the kernel of a node knows it as established."""
        return f"sport={self.source_port} " in established(node)

    def end(self, *, stop: bool) -> dict[str, Any]:
        """What the client says of all of it."""
        if stop:
            self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=60)
        return dict(json.loads(said.splitlines()[-1]))


def established(node: str) -> str:
    listed = ["conntrack", "-L", "-p", "tcp", "--state", "ESTABLISHED"]
    return run([*netns.enter(plan.namespace(node)), *listed])


@contextmanager
def flow(*arguments: str) -> Iterator[Flow]:
    """One that has begun."""
    command = [*netns.enter(plan.CLIENT_NS), *services.flows(*arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            began = json.loads(process.stdout.readline())
            assert "source_port" in began, began
            yield Flow(process, began["source_port"])
        finally:
            process.kill()


def talking() -> Any:
    return flow("talk", plan.LAN_VIP, "--port", str(plan.LINE_PORT))


def downloading() -> Any:
    return flow("download", plan.LAN_VIP, "--port", str(plan.HTTP_PORT), "--path", "/download")


def kept(node: str) -> dict[str, Any]:
    said = agents.show(node)
    return dict(said["connections"] or {}) if said is not None else {}


def is_synced(node: str) -> bool:
    return kept(node).get("state") == "synced"


def wait_synced(*nodes: str) -> None:
    for node in nodes or plan.NODES:
        try:
            wait_for(partial(is_synced, node), f"{node} has the connections", timeout_s=30)
        except LabError as error:
            raise AssertionError(f"{error}: {kept(node)}") from error


def die(primary: str) -> str:
    """A silent death of the primary; returns the survivor, which serves."""
    survivor = plan.peer(primary)
    lab.cut(primary, silent=True)
    wait_for(lambda: watching.serves(survivor), f"{survivor} takes over", timeout_s=10)
    return survivor


def test_a_download_and_a_conversation_outlast_two_deaths_in_a_row(primary: str) -> None:
    wait_synced()
    with talking() as conversation, downloading() as download:
        for survivor in (plan.peer(primary), primary):
            for each in (conversation, download):
                wait_for(partial(each.known, survivor), f"{survivor} knows", timeout_s=5)
            old = plan.peer(survivor)
            assert die(old) == survivor
            lab.heal(old)
            agents.wait_fit()
            wait_synced()
        said = conversation.end(stop=True)
        assert said["error"] == ""
        assert said["lines"] > 100
        fetched = download.end(stop=False)
    assert fetched["error"] == ""
    assert fetched["sha256"] == hashlib.sha256(services.download()).hexdigest()
