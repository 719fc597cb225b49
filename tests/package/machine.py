# SPDX-License-Identifier: Apache-2.0
"""A machine that boots: systemd as process 1 of a clean Debian root, in namespaces of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from package.entering import entering, mark, refusal

DEBIAN = Path(__file__).resolve().parents[2] / "deploy" / "debian"
PATIENCE_S = 60.0
"""A wait is for a condition; this only ends one that is hopeless, on however slow a machine."""

Found = TypeVar("Found")


def wait_for(probe: Callable[[], Found | None], what: str) -> Found:
    """What `probe` says once that is true of anything."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S:g} s"
        time.sleep(0.1)


class Machine:
    """Commands in it, and its files as the host sees them."""

    def __init__(self, changes: Path, first: int, mark: str) -> None:
        self.first = first
        """Its process 1, as the host numbers it."""
        self.mark = mark
        """What only this machine has (`entering`)."""
        self.changes = changes / "layer" / "upper"
        """What differs from the clean root."""
        self.exchange = changes / "mnt"
        """/mnt inside."""

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """A command as root, and what came of it."""
        return subprocess.run(
            entering(self.first, self.mark, *(str(part) for part in command)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_S,
            check=False,
        )

    def do(self, *command: str | Path) -> str:
        """What a command prints; it has to succeed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout

    def sh(self, script: str) -> str:
        return self.do("sh", "-euc", script)

    def journal(self) -> str:
        """Its last lines of all units."""
        return self.run("journalctl", "--no-pager", "--lines=40", "--output=short").stdout

    def cable(self, other: Machine, name: str) -> None:
        """A cable to another machine, an interface of that name on both."""
        assert not [why for one in (self, other) if (why := refusal(one.first, one.mark))]
        here, there = ("ip", "link", "add", name, "type", "veth"), ("peer", "name", name)
        subprocess.run(
            [
                *("nsenter", f"--target={self.first}", "--net", *here, *there),
                *("netns", str(other.first)),
            ],
            check=True,
        )

    def unit(self, name: str) -> Mapping[str, str]:
        """A unit's properties."""
        shown = self.do("systemctl", "show", name).splitlines()
        return dict(line.split("=", 1) for line in shown if "=" in line)

    def until_unit(
        self, name: str, holds: Callable[[Mapping[str, str]], object]
    ) -> Mapping[str, str]:
        """A unit's properties once that holds of them."""

        def probe() -> Mapping[str, str] | None:
            shown = self.unit(name)
            return shown if holds(shown) else None

        try:
            return wait_for(probe, f"{name} of the machine")
        except AssertionError as error:
            status = self.run("systemctl", "status", "--no-pager", name).stdout
            raise AssertionError(f"{error}\n{status}\n{self.journal()}") from error


def _first_process(below: int) -> int | None:
    """The process 1 that was started by this one's descendants, once it is systemd."""
    with contextlib.suppress(OSError, ValueError):
        while Path(f"/proc/{below}/comm").read_text().strip() != "systemd":
            children = Path(f"/proc/{below}/task/{below}/children").read_text().split()
            below = int(children[0]) if children else -1
        return below
    return None


@contextmanager
def booted(changes: Path) -> Iterator[Machine]:
    """A machine whose changes to the clean root are kept in that directory. It ends afterwards."""
    log = changes.with_suffix(".log")
    (changes / "mnt").mkdir(parents=True, exist_ok=True)
    token = mark(changes / "mnt")
    with log.open("w") as output:
        started = subprocess.Popen(
            [DEBIAN / "inside", changes, "/lib/systemd/systemd", "--unit=multi-user.target"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    first = None
    try:
        first = wait_for(lambda: _first_process(started.pid), "process 1 of the machine")
        machine = Machine(changes, first, token)

        def is_up() -> bool:
            assert started.poll() is None, log.read_text()
            said = machine.run("systemctl", "is-system-running").stdout.strip()
            return said in {"running", "degraded"}

        wait_for(is_up, f"the machine ({log.read_text()})")
        yield machine
    finally:
        # With process 1 all others of its namespace end, and `inside` clears up after them.
        os.kill(first, signal.SIGKILL) if first else started.terminate()
        started.wait(timeout=PATIENCE_S)
