# SPDX-License-Identifier: Apache-2.0
"""The text of keepalived.conf as statements: words, and blocks of further statements.

As keepalived reads it: a statement ends with its line, a block stands in braces, `#` and `!` begin
comments, quotes hold blanks together, a backslash joins lines, `$NAME=` defines what `$NAME` stands
for. Everything is bounded; what can't be read is a ConfigError that names file and line.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from twinbeat.config.problems import ConfigError, Findings

FILE_MAX: Final = 1 << 20
FILES_MAX: Final = 64
"""Files that one file may include, directly or not."""
DEPTH_MAX: Final = 16
VALUE_MAX: Final = 4096
"""Characters of a word after definitions were put in."""

_INCLUDES: Final = frozenset(
    {"include", "includer", "includem", "includew", "includeb", "includea"}
)
_TOKEN: Final = re.compile(
    r"""(?P<blank>[ \t\r\f\v]+|\\\r?\n)
      | (?P<comment>[#!][^\n]*)
      | (?P<line>\n)
      | (?P<open>\{)
      | (?P<close>\})
      | (?P<quoted>"(?:[^"\\\n]|\\.)*"|'[^'\n]*')
      | (?P<unfinished>["'])
      | (?P<word>(?:\$\{[^}\n]*\}|[^\s{}"'\#!\\]|\\.)+)""",
    re.VERBOSE,
)
_DEFINITION: Final = re.compile(r"^\$(\w+)=(.*)$", re.DOTALL)
_USE: Final = re.compile(r"\$\{(\w+)\}|\$(\w+)")


@dataclass(frozen=True, slots=True)
class Statement:
    """A keyword, its words, and what stands in its block."""

    words: tuple[str, ...]
    file: str
    line: int
    block: tuple["Statement", ...] = ()

    @property
    def name(self) -> str:
        """The keyword."""
        return self.words[0]

    @property
    def rest(self) -> tuple[str, ...]:
        """The words behind it."""
        return self.words[1:]

    @property
    def value(self) -> str:
        """The first word behind it, or nothing."""
        return self.words[1] if len(self.words) > 1 else ""


@dataclass(slots=True)
class _Text:
    """One file while it is read."""

    path: Path
    tokens: list[tuple[str, str, int]]
    at: int = 0


@dataclass(slots=True)
class _Reading:
    definitions: dict[str, str] = field(default_factory=dict)
    files: int = 0


def read(path: Path) -> tuple[Statement, ...]:
    """The statements of a file and of those that it includes.

    Raises ConfigError if one of them can't be read or understood.
    """
    return _file(path, _Reading())


def _fail(path: Path, line: int, sentence: str) -> NoReturn:
    findings = Findings(str(path))
    findings.add(f"line {line}" if line else "", None, sentence)
    raise ConfigError(findings.problems)


def _file(path: Path, reading: _Reading) -> tuple[Statement, ...]:
    reading.files += 1
    if reading.files > FILES_MAX:
        _fail(path, 0, f"is one of more than {FILES_MAX} files: does one include itself?")
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_MAX + 1)
    except OSError as error:
        _fail(path, 0, f"can't be read: {error.strerror}.")
    if len(raw) > FILE_MAX:
        _fail(path, 0, "is larger than a mebibyte, which no keepalived.conf is.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        _fail(path, 0, f"is not UTF-8 (byte {error.start}): is it a keepalived.conf?")
    if "\0" in text:
        _fail(path, 0, "holds NUL bytes: is it a keepalived.conf?")
    tokens = list(_tokens(path, text))
    return tuple(_statements(_Text(path, tokens), reading, 0, 0))


def _tokens(path: Path, text: str) -> Iterator[tuple[str, str, int]]:
    line, at = 1, 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            _fail(path, line, f"{text[at]!r} can't stand here.")
        kind, word = str(found.lastgroup), found.group()
        if kind == "unfinished":
            _fail(path, line, "a quote is not closed on its line.")
        if kind == "quoted":
            word = re.sub(r"\\(.)", r"\1", word[1:-1]) if word[0] == '"' else word[1:-1]
        if kind not in {"blank", "comment"}:
            yield "word" if kind == "quoted" else kind, word, line
        line += found.group().count("\n")
        at = found.end()


def _statements(text: _Text, reading: _Reading, depth: int, opened: int) -> Iterator[Statement]:
    """What stands up to the brace that closes, or up to the end of the file."""
    if depth > DEPTH_MAX:
        _fail(text.path, opened, f"is more than {DEPTH_MAX} blocks deep.")
    while text.at < len(text.tokens):
        kind, word, line = text.tokens[text.at]
        text.at += 1
        if kind == "line":
            continue
        if kind == "close":
            if not depth:
                _fail(text.path, line, "closes a block that was not opened.")
            return
        if kind == "open":
            _fail(text.path, line, "a block begins without a keyword before it.")
        words = [word]
        while text.at < len(text.tokens) and text.tokens[text.at][0] == "word":
            words.append(text.tokens[text.at][1])
            text.at += 1
        yield from _statement(text, reading, depth, words, line)
    if depth:
        _fail(text.path, opened, "opens a block that is not closed.")


def _statement(
    text: _Text, reading: _Reading, depth: int, words: list[str], line: int
) -> Iterator[Statement]:
    defined = _DEFINITION.match(words[0]) if not depth else None
    if defined is not None:
        value = " ".join([defined[2], *words[1:]]).strip()
        reading.definitions[defined[1]] = _filled(text, reading, value, line)
        return
    words = [_filled(text, reading, word, line) for word in words]
    if words[0] in _INCLUDES:
        yield from _included(text, reading, words, line)
        return
    after = text.at
    while after < len(text.tokens) and text.tokens[after][0] == "line":
        after += 1
    block: tuple[Statement, ...] = ()
    if after < len(text.tokens) and text.tokens[after][0] == "open":
        text.at = after + 1
        block = tuple(_statements(text, reading, depth + 1, line))
    yield Statement(tuple(words), str(text.path), line, block)


def _filled(text: _Text, reading: _Reading, word: str, line: int) -> str:
    """A word with definitions in the place of their names; names that aren't defined stay."""

    def replaced(found: re.Match[str]) -> str:
        return reading.definitions.get(found[1] or found[2], found[0])

    filled = _USE.sub(replaced, word)
    if len(filled) > VALUE_MAX:
        _fail(text.path, line, f"becomes a word of more than {VALUE_MAX} characters.")
    return filled


def _included(text: _Text, reading: _Reading, words: list[str], line: int) -> Iterator[Statement]:
    if len(words) != 2:
        _fail(text.path, line, f"`{words[0]}` needs one file, or a pattern of files.")
    pattern = Path(words[1])
    base = Path("/") if pattern.is_absolute() else text.path.parent
    relative = pattern.relative_to("/") if pattern.is_absolute() else pattern
    try:
        found = sorted(base.glob(str(relative))) if str(relative) != "." else []
    except ValueError:
        _fail(text.path, line, f"includes {words[1]}, which is no pattern of files.")
    if not found:
        _fail(text.path, line, f"includes {words[1]}, and there is no such file.")
    for path in found:
        yield from _file(path, reading)
