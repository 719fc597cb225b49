# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a configuration: file, key, value, and what would be right."""

import re
from typing import Any, Final

from msgspec import Struct

_LOOKS_SECRET: Final = re.compile(r"\b[0-9a-fA-F]{32,}\b")
_VALUE_MAX: Final = 80


class Problem(Struct, frozen=True, kw_only=True):
    """One thing that is wrong (or, as a warning, doubtful)."""

    file: str
    key: str
    """Path of the key, such as `timers.dead_us` or `link[1].peer`; empty = the file as a whole."""
    value: str | None
    """As written, shortened and without anything that could be a secret; None = not given."""
    sentence: str
    """What is wrong with it and what would be right."""
    warning: bool = False

    def __str__(self) -> str:
        where = f"{self.file}: {self.key}" if self.key else self.file
        shown = "" if self.value is None else f" = {self.value}"
        return f"{where}{shown}: {self.sentence}"


class ConfigError(Exception):
    """The configuration can't be used. `problems` holds everything found, warnings included."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems if not problem.warning))
        self.problems = problems


class Findings:
    """Collects problems of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.called: dict[str, str] = {}
        """Device -> what `[interfaces]` calls it; said wherever such a device is complained of."""

    @property
    def failed(self) -> bool:
        """Whether anything was found that forbids to use the configuration."""
        return any(not problem.warning for problem in self.problems)

    def add(self, key: str, value: Any, sentence: str, *, file: str | None = None) -> None:
        """Something is wrong. `value` may be None when nothing was given."""
        self._append(key, value, sentence, file, warning=False)

    def warn(self, key: str, value: Any, sentence: str, *, file: str | None = None) -> None:
        """Something is doubtful, yet allowed."""
        self._append(key, value, sentence, file, warning=True)

    def about(self, key: str, value: str, file: str) -> "AboutFile":
        """For what is wrong with a file that a key leads to: whoever reads it is told of both."""
        return AboutFile(self, key, value, file)

    def _append(
        self, key: str, value: Any, sentence: str, file: str | None, *, warning: bool
    ) -> None:
        if isinstance(value, str) and value in self.called:
            sentence = f"{sentence} ([interfaces] calls it {self.called[value]}.)"
        self.problems.append(
            Problem(
                file=file or self.file,
                key=key,
                value=None if value is None else show(value),
                sentence=_LOOKS_SECRET.sub("(not shown)", sentence),
                warning=warning,
            )
        )


class AboutFile:
    """Collects problems of a file that the configuration names, or whose directory it names."""

    def __init__(self, findings: Findings, key: str, value: str, file: str) -> None:
        self._findings = findings
        self._key = key
        self._value = value
        self._file = file

    def add(self, sentence: str) -> None:
        """Something is wrong. The sentence goes on after the file's name."""
        self._findings.add(self._key, self._value, f"{self._file} {sentence}")

    def warn(self, sentence: str) -> None:
        """Something is doubtful, yet allowed."""
        self._findings.warn(self._key, self._value, f"{self._file} {sentence}")


def show(value: Any) -> str:
    """A value as TOML has it, on one line, never one that could be a key."""
    match value:
        case bool():
            text = "true" if value else "false"
        case str():
            text = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case list() | tuple():
            text = "[" + ", ".join(show(item) for item in value) + "]"
        case dict():
            text = "{" + ", ".join(f"{key} = {show(item)}" for key, item in value.items()) + "}"
        case _:
            text = str(value)
    if _LOOKS_SECRET.search(text):
        return "(not shown)"
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return text if len(text) <= _VALUE_MAX else text[: _VALUE_MAX - 1] + "…"


def did_you_mean(word: str, known: list[str]) -> str:
    """A hint in a sentence of its own, or nothing."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean `{close[0]}`?" if close else ""


def once_each(section: str, keys: list[Any], what: str, findings: Findings) -> None:
    """No two tables of a section may have the same key."""
    seen: dict[Any, int] = {}
    for number, key in enumerate(keys):
        first = seen.setdefault(key, number)
        if first != number:
            findings.add(f"{section}[{number}]", None, f"{what} {section}[{first}].")
