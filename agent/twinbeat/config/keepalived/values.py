# SPDX-License-Identifier: Apache-2.0
"""Words of keepalived.conf as values: numbers, lengths, addresses, commands.  Pure."""

import ipaddress
import itertools
import math
import re
import shlex
from typing import Final

_PROCESS: Final = re.compile(
    r"^(?:/(?:usr/)?s?bin/)?(?:killall -0|pidof(?: -[sx])*|pgrep(?: -x)?)\s+([\w.-]{1,15})$"
)
_SHELL: Final = re.compile(r"[|&;<>()$`*?~]")


def number(text: str) -> int | None:
    """A number from 0 to 2^32 - 1, as keepalived reads one; None if it is none."""
    try:
        value = int(text, 0) if text[:2].lower() == "0x" else int(float(text))
    except (ValueError, OverflowError):
        return None
    return value if 0 <= value <= 0xFFFFFFFF else None


def milliseconds(text: str) -> int:
    """Seconds, with a fraction perhaps, within what a monitor takes; a second if it is none."""
    try:
        value = float(text)
    except ValueError:
        return 1000
    return max(50, min(3_600_000, math.ceil(value * 1000))) if math.isfinite(value) else 1000


def weight(words: tuple[str, ...]) -> int | None:
    """What stands behind `weight`, whatever its sign; None where nothing does."""
    for before, value in itertools.pairwise(words):
        if before == "weight" and re.fullmatch(r"[+-]?\d{1,4}", value):
            return int(value)
    return None


def address(text: str) -> str | None:
    """An address without its prefix length, or None."""
    try:
        return str(ipaddress.ip_interface(text).ip)
    except ValueError:
        return None


def network(text: str) -> str | None:
    """A network in canonical form, or `default`, or None."""
    if text == "default":
        return text
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return None


def pairs(words: tuple[str, ...]) -> dict[str, str]:
    """Each word with the one behind it."""
    return dict(itertools.pairwise(words))


def command(text: str) -> list[str] | None:
    """Program and arguments; a shell's where only a shell understands it."""
    try:
        words = shlex.split(text)
    except ValueError:
        return None
    if not words:
        return None
    if words[0].startswith("/") and not _SHELL.search(text):
        return words
    return ["/bin/sh", "-c", text]


def process(text: str) -> str | None:
    """The process of which a script asks nothing but whether it is there."""
    found = _PROCESS.match(text.strip())
    return found[1] if found is not None else None
