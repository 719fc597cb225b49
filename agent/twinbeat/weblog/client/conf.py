# SPDX-License-Identifier: Apache-2.0
"""Reads `log.conf`, and says of everything in it that can't be used: line, reason, what is right.

The file has the manner of the reference product's (product.md, section 14): one NODE line for each
node, Filter lines, and a `begin NAME … end NAME` block of directives for each filter. Keywords may
be written in any case. A `#` at the begin of a line makes it a comment.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from twinbeat.weblog.client import formats, names, values
from twinbeat.weblog.client.model import (
    DEFAULT,
    METRICS,
    OUTPUT,
    SIZE_LIMIT_MB,
    Conf,
    ConfError,
    Filter,
    FormatError,
    Interval,
    Kind,
    Node,
    Problem,
    Writing,
)
from twinbeat.weblog.client.values import CRITERIA, Unusable

FILE_MAX: Final = 1 << 20
TOP: Final = ("NODE", "Filter", "begin", "metrics")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
_LABEL: Final = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_FOREIGN: Final = ("nsip", "userid", "password", "nsusername")
"""How the reference's client logs in; ours has a certificate."""


def read(file: Path) -> Conf:
    """The configuration of a file. Raises ConfError, with everything that is wrong with it."""
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_MAX + 1)
    except OSError as error:
        sentence = f"can't be read: {error.strerror}. `twinbeat-weblog add-node` makes one."
        raise ConfError([Problem(file=str(file), line=0, sentence=sentence)]) from None
    if len(content) > FILE_MAX:
        sentence = f"has more than {FILE_MAX} bytes, which are the most."
        raise ConfError([Problem(file=str(file), line=0, sentence=sentence)])
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        sentence = "is not UTF-8; write it in that encoding."
        raise ConfError([Problem(file=str(file), line=line, sentence=sentence)]) from None
    return parse(text, str(file))


def parse(text: str, file: str = "log.conf") -> Conf:
    """The configuration that a text is. Raises ConfError, with everything that is wrong with it."""
    reading = _Reading(file)
    for number, line in enumerate(text.split("\n"), 1):
        reading.line(number, line.strip())
    return reading.result()


class _Reading:
    """One file, line by line."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._problems: list[Problem] = []
        self._nodes: dict[tuple[str, int], Node] = {}
        self._filters: dict[str, Filter] = {}
        self._blocks: dict[str, tuple[int, _Block]] = {}
        self._block: tuple[str, int, _Block] | None = None
        self._metrics = METRICS
        self._metrics_line = 0

    def line(self, number: int, line: str) -> None:
        if not line or line.startswith("#"):
            return
        try:
            if self._block is not None:
                self._in_block(number, line)
            else:
                self._at_top(number, line)
        except Unusable as finding:
            self._find(number, str(finding))

    def result(self) -> Conf:
        if self._block is not None:
            name, number, _ = self._block
            self._find(number, f"begin {name} has no end: write `end {name}` after its directives.")
        for name, (number, _) in self._blocks.items():
            if name not in self._filters:
                known = values.did_you_mean(name, list(self._filters))
                self._find(number, f"begin {name}: there is no `Filter {name}`.{known}")
        filters = [self._finished(each) for each in self._filters.values()]
        self._compare(filters)
        if not self._filters and not self._problems:
            self._find(0, "has no filter: write `Filter default` at least.")
        elif self._filters and DEFAULT not in self._filters:
            self._find(
                0, "has no `Filter default`: records that match no filter are dropped.", warn=True
            )
        if any(not each.warning for each in self._problems):
            raise ConfError(sorted(self._problems, key=lambda each: each.line))
        filters.sort(key=lambda each: each.name == DEFAULT)  # stable: the others keep their order
        return Conf(
            file=self._file,
            nodes=tuple(self._nodes.values()),
            filters=tuple(filters),
            metrics=self._metrics,
            problems=tuple(self._problems),
        )

    def _find(self, number: int, sentence: str, *, warn: bool = False) -> None:
        self._problems.append(
            Problem(file=self._file, line=number, sentence=sentence, warning=warn)
        )

    # -- lines outside blocks ----------------------------------------------------------------------

    def _at_top(self, number: int, line: str) -> None:
        words = values.split(line)
        match words[0].lower():
            case "node":
                self._node(number, words[1:])
            case "filter":
                self._filter(number, words[1:])
            case "begin":
                self._begin(number, words[1:])
            case "metrics":
                self._set_metrics(number, words[1:])
            case "end":
                raise Unusable(f"`{line}` without a `begin` before it.")
            case word if word in _FOREIGN:
                raise Unusable(
                    f"{words[0]}: nodes are logged into by certificates, not by passwords. "
                    "`twinbeat-weblog add-node ADDRESS` writes the line for a node."
                )
            case word if word in _DIRECTIVES:
                raise Unusable(f"{words[0]} stands outside `begin NAME … end NAME`.")
            case _:
                known = values.did_you_mean(words[0], list(TOP))
                raise Unusable(f"{words[0]}: unknown. A line begins with {', '.join(TOP)}.{known}")

    def _node(self, number: int, words: list[str]) -> None:
        if not words:
            raise Unusable("NODE needs an address: `NODE ADDRESS [PORT n] FINGERPRINT hex`.")
        address, rest = words[0], words[1:]
        node = Node(address=values.address(address), fingerprint="", line=number)
        if len(rest) % 2:
            raise Unusable(f"NODE {address}: `{rest[-1]}` needs a value.")
        for key, value in zip(rest[::2], rest[1::2], strict=True):
            match key.lower():
                case "port":
                    node = replace(node, port=values.number(value, 1, 65535, "PORT"))
                case "fingerprint":
                    digits = value.replace(":", "").lower()
                    if not _FINGERPRINT.fullmatch(digits):
                        raise Unusable(
                            "FINGERPRINT has 64 hexadecimal digits, as `add-node` prints them."
                        )
                    node = replace(node, fingerprint=digits)
                case "pair":
                    if not _LABEL.fullmatch(value):
                        raise Unusable("PAIR has 1 to 32 letters, digits, '_', '-' or '.'.")
                    node = replace(node, pair=value)
                case _:
                    known = values.did_you_mean(key, ["PORT", "FINGERPRINT", "PAIR"])
                    raise Unusable(f"NODE: {key} is unknown; PORT, FINGERPRINT, PAIR are.{known}")
        if not node.fingerprint:
            raise Unusable(
                f"NODE {address} has no FINGERPRINT, and without one nobody is believed. "
                f"`twinbeat-weblog add-node {address}` shows and writes it."
            )
        key_ = (node.address, node.port)
        if key_ in self._nodes:
            raise Unusable(f"{node.name} is there already, in line {self._nodes[key_].line}.")
        for other in self._nodes.values():
            if other.fingerprint == node.fingerprint:
                raise Unusable(
                    f"{node.name} has the certificate of {other.name} (line {other.line}): "
                    "every node stands here once."
                )
        self._nodes[key_] = node

    def _filter(self, number: int, words: list[str]) -> None:
        if not words:
            raise Unusable("Filter needs a name: `Filter NAME [HOST …] [IP …] [ON|OFF]`.")
        name, rest = values.filter_name(words[0]), words[1:]
        if name in self._filters:
            raise Unusable(f"Filter {name} is there already, line {self._filters[name].line}.")
        on = True
        if rest and rest[-1].lower() in {"on", "off"}:
            on = rest.pop().lower() == "on"
        found = values.criteria(rest)
        if name == DEFAULT and rest:
            raise Unusable("Filter default takes what no other has taken: it has no criteria.")
        if name != DEFAULT and not rest:
            raise Unusable(
                f"Filter {name} says of no record that it is meant: add "
                f"{', '.join(CRITERIA[:3])}, NODE or SOURCE, or call it default."
            )
        self._filters[name] = replace(found, name=name, on=on, line=number)

    def _begin(self, number: int, words: list[str]) -> None:
        if len(words) != 1:
            raise Unusable("`begin` has one name after it, that of a filter.")
        name = values.filter_name(words[0])
        if name in self._blocks:
            raise Unusable(f"begin {name} is there already, in line {self._blocks[name][0]}.")
        block = _Block()
        self._blocks[name] = (number, block)
        self._block = (name, number, block)

    def _set_metrics(self, number: int, words: list[str]) -> None:
        if self._metrics_line:
            raise Unusable(f"metrics is there already, in line {self._metrics_line}.")
        self._metrics_line = number
        if len(words) != 1:
            raise Unusable("metrics has one value: ADDRESS:PORT, or none.")
        if words[0].lower() == "none":
            self._metrics = ""
            return
        address, colon, port = words[0].rpartition(":")
        if not colon:
            raise Unusable(f"metrics {words[0]}: write ADDRESS:PORT (127.0.0.1:9704), or none.")
        values.address(address.strip("[]"))
        values.number(port, 1, 65535, "the port of metrics")
        self._metrics = words[0]

    # -- lines in blocks ---------------------------------------------------------------------------

    def _in_block(self, number: int, line: str) -> None:
        assert self._block is not None
        name, began, block = self._block
        word, _, rest = line.partition(" ") if " " in line else line.partition("\t")
        rest = rest.strip()
        key = word.lower()
        if key == "end":
            if rest != name:
                self._find(number, f"`{line}` ends another block than `begin {name}`, line {began}")
            self._block = None
            return
        if key in {"begin", "filter", "node"}:
            self._block = None
            self._find(began, f"begin {name} has no end before line {number}.")
            self._at_top(number, line)
            return
        directive = _DIRECTIVES.get(key)
        if directive is None:
            known = values.did_you_mean(word, list(_SPELLED.values()))
            raise Unusable(
                f"{word}: unknown. In a block stand {', '.join(_SPELLED.values())}.{known}"
            )
        if key in block.lines:
            raise Unusable(f"{word} is there already, in line {block.lines[key]}.")
        block.lines[key] = number
        if not rest:
            raise Unusable(f"{word} needs a value.")
        directive(block, rest)

    # -- the whole ---------------------------------------------------------------------------------

    def _finished(self, each: Filter) -> Filter:
        _, block = self._blocks.get(each.name, (0, _Block()))
        return replace(each, writing=block.writing(each.name))

    def _compare(self, filters: list[Filter]) -> None:
        """No two filters may write the same file."""
        seen: dict[str, Filter] = {}
        for each in filters:
            if not each.on:
                continue
            first = seen.setdefault(each.writing.name, each)
            if first is not each:
                line = each.writing.lines.get("logfilenameformat", each.line)
                self._find(
                    line, f"Filter {each.name} would write the files of filter {first.name}: give "
                    "them different logFilenameFormat.",
                )  # fmt: skip


class _Block:
    """The directives of one filter, as far as they have been read."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self.kind = Kind.RAW
        self.format = ""
        self.interval: Interval | None = None
        self.size_limit = 0
        self.name = ""
        self.local: bool | None = None
        self.exclude: tuple[bytes, ...] = ()

    def writing(self, filter_name: str) -> Writing:
        """What they amount to, with the defaults that depend on each other."""
        interval = self.interval or Interval.DAILY
        limit = self.size_limit
        if interval is Interval.SIZE and not limit:
            limit = SIZE_LIMIT_MB << 20
        name = self.name or f"{filter_name}-%{{%Y%m%d}}t.log"
        return Writing(
            kind=self.kind,
            format=self.format,
            interval=interval,
            size_limit=limit,
            name=name if name.startswith("/") else f"{OUTPUT}/{name}",
            local=self.kind is not Kind.W3C if self.local is None else self.local,
            exclude=self.exclude,
            lines=self.lines,
        )

    def set_format(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        match word.lower():
            case "raw" | "ncsa":
                if rest.strip():
                    raise Unusable(f"logFormat {word} has nothing after it.")
                self.kind = Kind(word.lower())
            case "w3c":
                self.kind, self.format = Kind.W3C, values.unquoted(rest.strip())
            case "custom":
                self.kind, self.format = Kind.CUSTOM, values.unquoted(rest.strip())
            case _ if "%" in text:
                self.kind, self.format = Kind.CUSTOM, values.unquoted(text)
            case _:
                known = values.did_you_mean(word, ["RAW", "NCSA", "W3C", "CUSTOM"])
                raise Unusable(
                    f'logFormat {word}: write RAW, NCSA, W3C [FIELD …] or CUSTOM "…".{known}'
                )
        try:
            formats.check(self.kind, self.format)
        except FormatError as error:
            raise Unusable(f"logFormat: {error}") from None

    def set_interval(self, text: str) -> None:
        try:
            self.interval = Interval(text.lower())
        except ValueError:
            words = [each.value.capitalize() for each in Interval]
            known = values.did_you_mean(text, words)
            raise Unusable(f"logInterval {text}: write {', '.join(words)}.{known}") from None

    def set_size_limit(self, text: str) -> None:
        self.size_limit = values.number(text, 1, 1 << 20, "logFileSizeLimit, in MB,") << 20

    def set_name(self, text: str) -> None:
        name = values.unquoted(text)
        try:
            names.check(name)
        except FormatError as error:
            raise Unusable(f"logFilenameFormat: {error}") from None
        self.name = name

    def set_time(self, text: str) -> None:
        if text.lower() not in {"gmt", "local"}:
            raise Unusable(f"logtime {text}: write GMT or LOCAL.")
        self.local = text.lower() == "local"

    def set_exclude(self, text: str) -> None:
        ends = text.replace(",", " ").split()
        for end in ends:
            if not end.startswith(".") or len(end) < 2:
                raise Unusable(f"logExclude {end}: write ends of names, such as `.gif .jpg`.")
        self.exclude = tuple(end.lower().encode() for end in ends)


_SPELLED: Final = {
    "logformat": "logFormat",
    "loginterval": "logInterval",
    "logfilesizelimit": "logFileSizeLimit",
    "logfilenameformat": "logFilenameFormat",
    "logtime": "logtime",
    "logexclude": "logExclude",
}
_DIRECTIVES: Final[dict[str, Callable[[_Block, str], None]]] = {
    "logformat": _Block.set_format,
    "loginterval": _Block.set_interval,
    "logfilesizelimit": _Block.set_size_limit,
    "logfilenameformat": _Block.set_name,
    "logtime": _Block.set_time,
    "logexclude": _Block.set_exclude,
}
