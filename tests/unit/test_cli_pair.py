# SPDX-License-Identifier: Apache-2.0
"""`twinbeat pair` on two nodes, each with its operator at a terminal."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from twinbeat.cli.main import run
from twinbeat.config.keys import store_key
from twinbeat.sync.identity import Folder
from unit.worker_pair import free_port

PATIENCE_S = 30.0
MADE = "00112233445566778899aabbccddeeff"
CONFIG = """
[node]
name = "{name}"
index = {index}
[pair]
id = {pair}
[peer]
name = "{other}"
[keys]
directory = "{root}/keys"
[sync]
listen = "127.0.0.{own}"
peer = "127.0.0.{peer}"
port = {port}
interface = "lo"
identity = "{root}/identity"
[policy]
accept_single_link = true
[[link]]
interface = "ha0"
local = "10.0.0.{own}"
peer = "10.0.0.{peer}"
"""


class Operator:
    """Sits at a terminal and runs `twinbeat pair`."""

    def __init__(self, root: Path, index: int, port: int, *, pair: int = 7) -> None:
        self.root = root / "ab"[index]
        self.root.mkdir()
        self.file = self.root / "twinbeat.toml"
        facts = {"name": "ab"[index], "index": index, "other": "ab"[1 - index], "pair": pair}
        addresses = {"own": index + 1, "peer": 2 - index, "port": port, "root": self.root}
        self.file.write_text(CONFIG.format(**facts, **addresses))
        self.folder = Folder(self.root / "identity")
        self.seen = ""
        self._program: subprocess.Popen[str] | None = None
        self._terminal = -1

    @property
    def keys(self) -> dict[str, str]:
        return {file.name: file.read_text().strip() for file in (self.root / "keys").glob("*.key")}

    def sits_down(self, *options: str) -> None:
        line = ["pair", "--config", str(self.file), *options]
        self._terminal, inner = pty.openpty()
        self._program = subprocess.Popen(
            [sys.executable, "-c", "from twinbeat.cli.main import main; main()", *line],
            stdin=inner,
            stdout=subprocess.PIPE,
            stderr=inner,
            text=True,
        )
        os.close(inner)

    def reads(self, pattern: str) -> str:
        """What the terminal shows, until this is in it."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, self.seen
            ready, _, _ = select.select([self._terminal], [], [], 0.1)
            if ready:
                self.seen += os.read(self._terminal, 4096).decode()
        return found[1] if found.groups() else found[0]

    def types(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def ends(self) -> tuple[int, str]:
        assert self._program is not None
        out, _ = self._program.communicate(timeout=PATIENCE_S)
        while select.select([self._terminal], [], [], 0)[0]:
            try:
                self.seen += os.read(self._terminal, 4096).decode()
            except OSError:
                break  # Nobody writes to it any more.
        return self._program.returncode, out

    def leaves(self) -> None:
        if self._program is not None and self._program.poll() is None:
            self._program.kill()
            self._program.communicate()
        if self._terminal >= 0:
            os.close(self._terminal)


Operators = tuple[Operator, Operator]


@pytest.fixture
def operators(tmp_path: Path) -> Iterator[Operators]:
    port = free_port()
    both = (Operator(tmp_path, 0, port), Operator(tmp_path, 1, port))
    yield both
    for each in both:
        each.leaves()


CODE = r"the code with [ab] \(node [01]\): (\d{4} \d{4})"


def test_both_see_one_code_and_believe_each_other_then(operators: Operators) -> None:
    a, b = operators
    b.sits_down()
    b.reads("dialing 127.0.0.1")
    a.sits_down("--json")
    a.reads("waiting at port")
    assert a.reads(CODE) == b.reads(CODE)
    for each in operators:
        each.reads("same code")
        each.types("y\n")
    code, out = a.ends()
    told: dict[str, Any] = json.loads(out)
    assert (code, told["peer"], told["key"]) == (0, "b", 1)
    code, out = b.ends()
    assert code == 0
    assert out.startswith("paired with a, whose certificate has ")
    assert f"both nodes have key 1 for heartbeats, here in {b.root}/keys" in out
    own = [each.folder.own() for each in operators]
    assert own[0] is not None
    assert own[1] is not None
    assert a.folder.trusted() == (own[1].certificate,)
    assert b.folder.trusted() == (own[0].certificate,)
    assert a.keys == b.keys
    assert set(a.keys) == {"1.key"}


def test_one_who_sees_another_code_ends_it_for_both(operators: Operators) -> None:
    a, b = operators
    for each in operators:
        each.sits_down()
    for each in operators:
        each.reads("same code")
    a.types("n\n")
    assert a.ends()[0] == 1
    assert b.ends()[0] == 1
    assert "the operator says" in a.seen.lower()
    assert "The other node has given up" in b.seen
    for each in operators:
        assert each.folder.trusted() == ()
        assert each.keys == {}


def test_an_interface_that_is_not_there_is_named(operators: Operators) -> None:
    for each in operators:
        text = each.file.read_text()
        each.file.write_text(text.replace('interface = "lo"', 'interface = "tbnone0"'))
        each.sits_down("--yes")
        assert each.ends()[0] == 1
        assert "tbnone0: No such device" in each.seen


def test_keys_that_are_there_stay(operators: Operators) -> None:
    a, b = operators
    store_key(a.root / "keys", 1, MADE)
    for each in operators:
        each.sits_down("--yes")
    assert [each.ends()[0] for each in operators] == [0, 0]
    assert a.keys == b.keys == {"1.key": MADE}


def test_another_key_under_the_same_number_is_not_overwritten(operators: Operators) -> None:
    a, b = operators
    store_key(b.root / "keys", 1, MADE)
    for each in operators:
        each.sits_down("--yes")
    assert [each.ends()[0] for each in operators] == [1, 1]
    assert "wait (--listen) on the node whose key is to stay" in b.seen
    assert (a.keys, b.keys) == ({}, {"1.key": MADE})
    b.seen = a.seen = ""
    a.sits_down("--yes", "127.0.0.2")
    b.sits_down("--yes", "--listen")
    assert [each.ends()[0] for each in operators] == [0, 0]
    assert a.keys == b.keys == {"1.key": MADE}


def test_where_nobody_can_compare_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = Operator(tmp_path, 0, 1)
    assert run(["pair", "--config", str(a.file)]) == 2
    assert "add --yes" in capsys.readouterr().err
    assert run(["pair", "--yes", "--listen", "127.0.0.2", "--config", str(a.file)]) == 2
    assert run(["pair", "--yes", "--config", str(tmp_path / "none")]) == 2
    assert "there is no such file" in capsys.readouterr().err
