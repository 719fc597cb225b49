# SPDX-License-Identifier: Apache-2.0
"""Connections of the client's that last, and whether both nodes know them."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from twinlab import agents, lab, netns, plan, services
from twinlab.shell import LabError, run, wait_for

SYNCED_S = 30.0
"""Both nodes know the connections long before, once they hear each other."""
ENABLED = "connections.enabled=true"
"""For `Options.settings`."""


@dataclass(slots=True)
class Flow:
    """A connection of the client's."""

    process: subprocess.Popen[str]
    source_port: int

    def known(self, node: str) -> bool:
        """Whether the kernel of a node knows it as established."""
        return f"sport={self.source_port} " in established(node)

    def end(self, *, stop: bool, timeout_s: float = 60.0) -> dict[str, Any]:
        """What the client says of all of it, told to stop or not."""
        if stop:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
        try:
            said, _ = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"a connection goes on after {timeout_s:g} s") from error
        return dict(json.loads(said.splitlines()[-1]))


def established(node: str) -> str:
    """The TCP connections that a node's kernel knows."""
    listed = ["conntrack", "-L", "-p", "tcp", "--state", "ESTABLISHED"]
    return run([*netns.enter(plan.namespace(node)), *listed])


@contextmanager
def flow(*arguments: str) -> Iterator[Flow]:
    """One that has begun (see `flows`)."""
    command = [*netns.enter(plan.CLIENT_NS), *services.flows(*arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            began = json.loads(process.stdout.readline())
            if "source_port" not in began:
                raise LabError(f"no connection was made: {began['error']}")
            yield Flow(process, began["source_port"])
        finally:
            process.kill()


def talking(patience_s: float = 20.0) -> AbstractContextManager[Flow]:
    """Lines go there and back, or it is over."""
    where = ("--port", str(plan.LINE_PORT), "--patience-s", str(patience_s))
    return flow("talk", plan.LAN_VIP, *where)


def downloading(size: int = services.DOWNLOAD_BYTES) -> AbstractContextManager[Flow]:
    """The first bytes of the download, at its slow rate."""
    where = ("--port", str(plan.HTTP_PORT), "--path", "/download", "--bytes", str(size))
    return flow("download", plan.LAN_VIP, *where)


def kept(node: str) -> dict[str, Any]:
    """What a node says of the state of connections; empty if it doesn't answer."""
    said = agents.show(node)
    return dict(said["connections"] or {}) if said is not None else {}


def is_synced(node: str, since_s: float = 0.0) -> bool:
    """Whether a node says that both know the connections, and came to that after a moment."""
    said = kept(node)
    return said.get("state") == "synced" and said["synced_s"] + 1 > since_s


def wait_synced(*, anew: str = "", since_s: float = 0.0) -> None:
    """Until both nodes say so, and one of them anew since a moment; LabError tells what was in the
    way."""
    for node in plan.NODES:
        since = since_s if node == anew else 0.0
        try:
            wait_for(partial(is_synced, node, since), f"{node} knows", timeout_s=SYNCED_S)
        except LabError as error:
            raise LabError(f"{error}: {kept(node)}") from error


def heal(node: str) -> None:
    """Mend a node that was cut off, and wait until the pair is whole and knows the connections:
    that node anew, as it doesn't serve any more."""
    healed_s = time.time()
    lab.heal(node)
    agents.wait_fit()
    wait_synced(anew=node, since_s=healed_s)
