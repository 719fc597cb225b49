# SPDX-License-Identifier: Apache-2.0
"""What the documentation tells people to type.

Commands stand in blocks marked `sh`, or `console` where their output is shown as well (behind `# `
or `$ `).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "console")
PROGRAMS = re.compile(
    r"(?:[#$] )?(?:sudo )?(?:twinbeatd?|twinbeat-\w+|make|apt|apt-get|systemctl|journalctl|curl|"
    r"ssh|ip|pip|dpkg|ansible\S*|tcpdump|tshark|kill|cp|ln|cd|install) "
)
"""What a line of a block that isn't marked as typed must not begin with."""


def blocks(markdown: str) -> Iterator[tuple[str, str]]:
    """Language and content of each block."""
    for found in BLOCK.finditer(markdown):
        yield found[1], found[2]


def typed(markdown: str) -> Iterator[str]:
    """The commands of a page as they stand there, without comments behind them."""
    for language, content in blocks(markdown):
        if language not in SHELL:
            continue
        for line in re.sub(r"\\\n\s*", "", content).splitlines():
            if language == "console" and not line.startswith(("# ", "$ ")):
                continue
            command = line[2:] if language == "console" else line
            command = re.sub(r"\s{2,}#.*", "", command).strip()
            if command:
                yield command


def unmarked(markdown: str) -> Iterator[str]:
    """Lines that look as if somebody were to type them, in blocks that aren't marked so."""
    for language, content in blocks(markdown):
        if not language:
            yield from (line for line in content.splitlines() if PROGRAMS.match(line))
