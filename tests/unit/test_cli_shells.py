# SPDX-License-Identifier: Apache-2.0
"""Completion where people have it: typed into bash, zsh and fish in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.terminal import Terminal

SHELLS = {
    "bash": (["bash", "--norc", "-i"], 'eval "$(twinbeat completion bash)"; PS1="ready> "'),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -Uz compinit && compinit -u -D; eval "$(twinbeat completion zsh)"; PS1="ready> "',
    ),
    "fish": (
        ["fish", "--no-config", "--private", "-i"],
        'twinbeat completion fish | source; function fish_prompt; echo -n "ready> "; end',
    ),
}
PATIENCE_S = 60.0
"""Each key that completes starts a Python, beside whatever else the machine does."""


class Shell:
    """One of them, in which `twinbeat` is this one."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def line(self) -> str:
        """What stands at the last prompt."""
        lines = [line for line in self._terminal.text.splitlines() if line.startswith("ready>")]
        return lines[-1].removeprefix("ready>").strip() if lines else ""

    def completes(self, *steps: tuple[str, str]) -> None:
        """Typed on an empty line, each step has the line become what it says."""
        self._terminal.type("\x15")  # ^U
        self._terminal.until(lambda _: self.line() == "", PATIENCE_S)
        for typed, becomes in steps:
            self._terminal.type(typed)
            self._terminal.until(lambda _, line=becomes: self.line() == line, PATIENCE_S)

    def offers(self, typed: str, *words: str) -> None:
        """The words stand on the screen, and none of them did before."""
        self.completes((typed, typed.strip()))
        assert not any(word in self._terminal.text for word in words)
        self._terminal.type("\t\t")
        self._terminal.until(lambda text: all(word in text for word in words), PATIENCE_S)


@pytest.fixture(params=SHELLS)
def shell(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shell]:
    tool = tmp_path / "twinbeat"
    tool.write_text(f"#!{sys.executable}\nfrom twinbeat.cli.main import main\nmain()\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    command, prepares = SHELLS[request.param]
    with Terminal(command, columns=120) as terminal:
        # Only what is printed for a prompt stands at the beginning of a line.
        terminal.type(prepares + "\r")
        prompt = "\nready>"
        terminal.until(lambda text: prompt in text, PATIENCE_S)
        yield Shell(terminal)


def test_commands_options_keys_and_values_are_completed(shell: Shell) -> None:
    shell.completes(("twinbeat his\t", "twinbeat history"))
    shell.completes(("twinbeat --js\t", "twinbeat --json"))
    # A key leaves the cursor where its value goes, and a value ends the word.
    shell.completes(
        ("twinbeat set timers pro\t", "twinbeat set timers profile="),
        ("cl\t", "twinbeat set timers profile=classic"),
        ("x", "twinbeat set timers profile=classic x"),
    )
    shell.completes(("twinbeat config check /etc/host.c\t", "twinbeat config check /etc/host.conf"))
    shell.offers("twinbeat stay ", "primary", "secondary")
