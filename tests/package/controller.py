# SPDX-License-Identifier: Apache-2.0
"""Ansible, run where it can change nothing but the machines of a test.

It sees the host's files read-only and none of its sockets, and has no network: a task that is
carried out by the controller itself fails, whatever it wants. Into machines it gets by the
connection `machine`, which takes it nowhere else.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from package.machine import PATIENCE_S, Machine

TESTS = Path(__file__).resolve().parents[1]
PROJECT = TESTS.parent / "deploy" / "ansible"
CONFINE = """
mount --bind "$1" "$1"
mount -t tmpfs -o size=1m none /run
awk '{ print $5 }' /proc/self/mountinfo | while IFS= read -r at; do
    at=$(printf %b "$at")
    case $at in
        "$1" | "$1"/* | /run | /dev | /dev/*) ;;
        *) mount -o remount,bind,ro "$at" 2>/dev/null || true ;;
    esac
done
for at in / /etc /usr /var /root /tmp; do
    ! touch "$at/.twinbeat-test" 2>/dev/null || { rm "$at/.twinbeat-test"; exit 125; }
done
cd "$1"
shift
exec "$@"
"""


def confined(writable: Path, *command: str | Path) -> list[str | Path]:
    """A command for which that directory is all of the host that can be written to."""
    apart = ("unshare", "--mount", "--net", "--uts", "--ipc", "--propagation=private")
    return [*apart, "sh", "-euc", CONFINE, "sh", writable, *command]


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """What came of a playbook."""

    code: int
    said: str

    def counted(self, what: str) -> dict[str, int]:
        """One column of the recap, by machine."""
        found = re.findall(rf"^(\S+) +: .*\b{what}=(\d+)", self.said, re.M)
        return {name: int(count) for name, count in found}


class Controller:
    """The project's playbooks for a few machines, from a directory of the test's."""

    def __init__(self, home: Path, machines: Mapping[str, Machine]) -> None:
        self.home = home
        (home / "tmp").mkdir()
        hosts = {
            name: {"machine_first": machine.first, "machine_mark": machine.mark}
            for name, machine in machines.items()
        }
        self.describe(hosts)

    def describe(self, hosts: Mapping[str, Mapping[str, Any]]) -> None:
        """Whom the inventory has. Whoever is in it is reached by the connection `machine` alone."""
        way = {
            "ansible_connection": "machine",
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        inventory = {"gateways": {"hosts": hosts, "vars": way}}
        (self.home / "hosts.json").write_text(json.dumps(inventory))

    def play(self, playbook: str | Path, *options: str, **variables: Any) -> Play:
        """A playbook of the project, or of a test's; the variables go over all others."""
        (self.home / "variables.json").write_text(json.dumps(variables))
        command: Sequence[str | Path] = (
            *("ansible-playbook", "--inventory", self.home / "hosts.json"),
            *("--extra-vars", f"@{self.home / 'variables.json'}"),
            *(*options, PROJECT / playbook),
        )
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            "PYTHONPATH": str(TESTS),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ANSIBLE_HOME": str(self.home / "ansible"),
            "ANSIBLE_CONNECTION_PLUGINS": str(TESTS / "package" / "ansible"),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCALHOST_WARNING": "0",
        }
        done = subprocess.run(
            confined(self.home, *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            timeout=4 * PATIENCE_S,
            check=False,
        )
        return Play(code=done.returncode, said=done.stdout)


def host_file(directory: Path, name: str) -> Path:
    """A name on the host that nobody has, to see that nothing was written there."""
    path = directory / f"{name}-{os.getpid()}"
    assert not path.exists()
    return path
