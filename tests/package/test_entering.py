# SPDX-License-Identifier: Apache-2.0
"""What is meant for a machine of the tests never runs on the host."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from package.controller import Controller, confined, host_file
from package.entering import ASK, ELSEWHERE, NotTheMachineError, entering, refusal
from package.machine import wait_for

APART = ("unshare", "--mount", "--net", "--uts", "--ipc", "--cgroup", "--pid", "--fork")


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[int]:
    """A process with namespaces of its own, whose root is the host's all the same."""
    said = tmp_path / "ready"
    command = (*APART, "--kill-child", "sh", "-c", f"echo >{said}; exec sleep infinity")
    process = subprocess.Popen(command)
    try:
        wait_for(said.exists, "the process")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        yield int(children)
    finally:
        process.kill()
        process.wait()


def test_the_host_s_own_processes_are_no_machine() -> None:
    why = refusal(os.getpid(), "mark")
    assert why is not None
    assert "namespaces of whoever asks: cgroup, ipc, mnt, net, pid, uts" in why
    # Of process 1 not even that can be read everywhere.
    assert refusal(1, "mark") is not None
    for first in (os.getpid(), 1):
        with pytest.raises(NotTheMachineError):
            entering(first, "mark", "true")


def test_a_process_on_the_host_s_root_is_no_machine(apart: int) -> None:
    assert refusal(apart, "mark") == f"/ of process {apart} is the host's"


def test_a_process_that_is_gone_is_no_machine() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert "can't be asked" in str(refusal(process.pid, "mark"))


@pytest.mark.parametrize("mark", ["mark", ""])
def test_a_command_that_finds_itself_elsewhere_does_nothing(tmp_path: Path, mark: str) -> None:
    done = subprocess.run(
        ["sh", "-c", ASK, mark, "touch", tmp_path / "touched"], capture_output=True, check=False
    )
    assert done.returncode == ELSEWHERE
    assert not (tmp_path / "touched").exists()


def test_ansible_refuses_the_host_before_any_task(tmp_path: Path) -> None:
    touched = host_file(tmp_path, "touched")
    book = tmp_path / "touch.json"
    tasks = [{"ansible.builtin.raw": f"touch {touched}"}]
    book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    home = tmp_path / "home"
    home.mkdir()
    controller = Controller(home, {})
    controller.describe({"host": {"machine_first": os.getpid(), "machine_mark": "mark"}})
    played = controller.play(book)
    assert "namespaces of whoever asks: cgroup, pid" in played.said, played.said
    assert played.counted("unreachable") == {"host": 1}
    assert played.counted("ok") == {"host": 0}
    assert not touched.exists()


def test_the_controller_itself_can_change_nothing(tmp_path: Path) -> None:
    touched = host_file(Path("/etc"), "twinbeat-test")
    home = tmp_path / "home"
    home.mkdir()
    book = tmp_path / "touch.json"
    task = {"ansible.builtin.file": {"path": str(touched), "state": "touch"}}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}
    book.write_text(json.dumps([play]))
    try:
        played = Controller(home, {}).play(book)
        assert played.code != 0
        assert "Read-only file system" in played.said, played.said
        script = 'ls -A /run; ip -brief link; touch "$0"'
        done = subprocess.run(
            confined(home, "sh", "-c", script, touched), capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        # mount(8) keeps notes there; sockets of the host's are none of them.
        assert done.stdout.removeprefix("mount\n").split()[0] == "lo"
        assert not touched.exists()
    finally:
        touched.unlink(missing_ok=True)
