# SPDX-License-Identifier: Apache-2.0
"""The manual pages are what the code says, and troff takes nothing in them for a request."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from repo import project

MAN = project.ROOT / "deploy" / "man"
REQUESTS = {".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".BR", ".nf", ".fi", '.\\"'}
PAGES = sorted(path for path in MAN.iterdir() if path.suffix in {".1", ".5", ".8"})


def strange(text: str) -> list[str]:
    """Lines that troff would take for something else than they are."""
    requests = [line for line in text.splitlines() if re.match(r"[.']", line)]
    unknown = [line for line in requests if line.split()[0] not in REQUESTS]
    escapes = re.findall(r"\\(?![-e&\"]).", text)
    return unknown + escapes


def test_the_pages_are_what_the_code_says() -> None:
    result = subprocess.run(
        [sys.executable, MAN / "write", "--check"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_every_command_and_every_key_has_its_entry() -> None:
    from twinbeat.cli.main import COMMANDS
    from twinbeat.config.model import SECTIONS

    tool = (MAN / "twinbeat.1").read_text().replace("\\-", "-")
    for name in COMMANDS:
        assert re.search(rf"^\.SS twinbeat {name}\b", tool, re.MULTILINE), name
    file = (MAN / "twinbeat.toml.5").read_text()
    for name, (_, struct, _) in SECTIONS.items():
        assert re.search(rf"^\.SS \[+{name}\]+$", file, re.MULTILINE), name
        for key in struct.__struct_encode_fields__:
            assert f"\n.B {key}\n" in file, (name, key)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_troff_takes_nothing_for_a_request(page: Path) -> None:
    assert len(PAGES) == 4
    assert strange(page.read_text()) == []


def test_what_troff_would_take_for_a_request_is_seen() -> None:
    assert strange(".SH NAME\n.toml is a suffix\n'quoted'\n\\fBbold\\fR\n") == [
        ".toml is a suffix",
        "'quoted'",
        "\\f",
        "\\f",
    ]
