# SPDX-License-Identifier: Apache-2.0
"""What a fence agent is told: options from the configuration, secrets from a file of their own.

A secret never appears in a message, a repr or an exception.
"""

import re
from pathlib import Path
from typing import Final

from twinbeat.config.arbiters import FenceSection
from twinbeat.config.keys import read_private
from twinbeat.config.problems import AboutFile, ConfigError, Findings

SECRETS_MAX: Final = 16 << 10
OURS: Final = frozenset({"action", "option"})
"""Options that the agent itself gives."""

_OPTION: Final = re.compile(r"([A-Za-z0-9_-]{1,64})=([^\x00-\x1f\x7f]{0,1024})")
_SECRET: Final = re.compile(r"pass|secret|token|key", re.IGNORECASE)
_NAMES_A_PLACE: Final = ("_file", "_script", "_path")


class Options:
    """Lines for a fence agent's standard input, which no repr shows."""

    __slots__ = ("open", "secret")

    def __init__(self, open: tuple[str, ...] = (), secret: tuple[str, ...] = ()) -> None:  # noqa: A002
        self.open = open
        self.secret = secret

    def __repr__(self) -> str:
        return f"Options({len(self.open)} open, {len(self.secret)} secret)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and (self.open, self.secret) == (other.open, other.secret)

    def __hash__(self) -> int:
        return hash((self.open, self.secret))


def load_options(fence: FenceSection, path: str) -> Options:
    """Options and secrets together. Raises ConfigError with everything that is wrong."""
    findings = Findings(path)
    options = check_options(fence, findings)
    if findings.failed:
        raise ConfigError(findings.problems)
    return options


def check_options(fence: FenceSection, findings: Findings) -> Options:
    """Read the secrets as well, noting what is wrong."""
    where = fence.secrets_file
    about = findings.about("fence.secrets_file", where, where)
    secrets = _secrets(Path(where), about) if where else []
    names = [line.partition("=")[0] for line in (*fence.options, *secrets)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        findings.add("fence.options", name, "is given twice.")
    return Options(fence.options, tuple(secrets))


def check_written(options: tuple[str, ...], findings: Findings) -> None:
    """What stands in the configuration itself, where everybody may read it."""
    for number, option in enumerate(options):
        key = f"fence.options[{number}]"
        found = _OPTION.fullmatch(option)
        if found is None:
            # It may be a secret without its name.
            findings.add(key, None, "should be key=value, on one line.")
        elif found[1] in OURS:
            findings.add(key, found[1], "is given by the agent itself, from fence.action.")
        elif _SECRET.search(found[1]) and not found[1].endswith(_NAMES_A_PLACE):
            findings.add(key, found[1], "looks like a secret, which belongs into secrets_file.")


def _secrets(file: Path, about: AboutFile) -> list[str]:
    content, good = read_private(file, SECRETS_MAX + 1, "make new secrets", about)
    if content is None or not good:
        return []
    if len(content) > SECRETS_MAX:
        about.add(f"is larger than {SECRETS_MAX} bytes.")
        return []
    lines = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = _OPTION.fullmatch(text)
        if found is None:
            about.add(f"has a line {number} that should be key=value.")
        elif found[1] in OURS:
            about.add(f"has a line {number} with {found[1]}, which is given by the agent.")
        else:
            lines.append(text)
    return lines
