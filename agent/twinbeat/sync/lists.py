# SPDX-License-Identifier: Apache-2.0
"""Lists of files: which paths belong to one, and which never do. Pure; touches no file.

A path of a list is a file or a directory with everything below it, by name or by a pattern. What is
left out is named by patterns too. Some names are left out of every list: the node's own identity,
keys and state, the kernel's file systems, and what is written on the way.

`FileList.covers` is the one gate for paths, wherever they come from: what it denies is neither read
nor written.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import translate
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from twinbeat.places import OWN
from twinbeat.sync.document import Argument, Name

NEVER: Final = (*OWN, "/proc", "/sys", "/dev")
"""What belongs to the node, or to its kernel."""
TEMPORARY: Final = ".twinbeat-new-"
"""How a file that isn't whole yet is called; what it will be is part of the rest."""
CONFLICT: Final = ".twinbeat-conflict-"
"""Between the name of a file that gave way and the time when it did."""

DEPTH_MAX: Final = 64
PATH_MAX: Final = 4095
NAME_MAX: Final = 255
_WILD: Final = re.compile(r"[*?\[]")

Listed = Annotated[str, Meta(min_length=1, max_length=4096)]


class FileList(Struct, frozen=True, kw_only=True):
    """Files and directories that are to be alike on both nodes: a row of the section ``file``."""

    name: Name
    paths: Annotated[tuple[Listed, ...], Meta(min_length=1, max_length=256)]
    exclude: Annotated[tuple[Listed, ...], Meta(max_length=256)] = ()
    """Without a slash: names, at any depth. With: paths."""
    delete: bool = True
    """What is deleted on one node goes on the other; otherwise it comes back."""
    owner: bool = True
    """Owner and group belong to what is to be alike."""
    command: Annotated[tuple[Argument, ...], Meta(max_length=64)] = ()
    """Run where something was changed, without a shell."""
    timeout_s: Annotated[int, Meta(ge=1, le=3600)] = 30
    """Of the command."""

    @property
    def digest(self) -> str:
        """Of all that both nodes must see alike before they compare what they have."""
        packed = msgspec.json.encode((self.paths, self.exclude, self.delete, self.owner))
        return hashlib.blake2s(packed).hexdigest()

    def roots(self) -> tuple[Root, ...]:
        """Its paths, taken apart; not those of `unusable`, which reach nothing."""
        return _roots(self.paths)

    def unusable(self) -> tuple[str, ...]:
        """Paths that `problems` names, of a list that nobody examined."""
        return tuple(path for path in self.paths if _wrong(path) is not None)

    def covers(self, path: str) -> bool:
        """Whether a path may be read and written as one of this list."""
        parts = components(path)
        if parts is None or reserved(path):
            return False
        return any(root.holds(parts) and not self._left_out(root, parts) for root in self.roots())

    def _left_out(self, root: Root, parts: Sequence[str]) -> bool:
        """Whether the path, or a directory that it lies in, is excluded or none of ours."""
        for depth in range(len(root.fixed), len(parts) + 1):
            if depth > len(root.fixed) or root.exact:
                name = parts[depth - 1]
                if ours(name) or any(_matches(p, name) for p in self.exclude if "/" not in p):
                    return True
            if any(_whole(p, parts[:depth]) for p in self.exclude if "/" in p):
                return True
        return False


class Root:
    """One path of a list: a fixed beginning, and the patterns that follow it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.parts = tuple(part for part in path.split("/") if part)
        wild = next((n for n, part in enumerate(self.parts) if _WILD.search(part)), None)
        self.exact = wild is None
        """Without patterns: the path itself and what is below it."""
        self.fixed = self.parts if wild is None else self.parts[:wild]

    def leads_to(self, parts: Sequence[str]) -> bool:
        """Whether a path of the list may lie below this one, or be it."""
        return all(_matches(p, part) for p, part in zip(self.parts, parts, strict=False))

    def holds(self, parts: Sequence[str]) -> bool:
        """Whether a path is this one or lies below it."""
        return len(parts) >= len(self.parts) and self.leads_to(parts)


def components(path: str) -> tuple[str, ...] | None:
    """The names that a path goes through, or None where it isn't absolute, plain and short."""
    if not path.startswith("/") or len(path.encode("utf-8", "replace")) > PATH_MAX:
        return None
    parts = tuple(path[1:].split("/"))
    if len(parts) > DEPTH_MAX or not all(_is_name(part) for part in parts):
        return None
    return parts


def reserved(path: str) -> bool:
    """Whether it lies where no list reaches."""
    return any(path == never or path.startswith(never + "/") for never in NEVER)


def ours(name: str) -> bool:
    """Whether it is a name that the synchronization itself gives."""
    return name.startswith(TEMPORARY) or CONFLICT in name


def problems(lists: Iterable[FileList]) -> Iterator[tuple[int, str, object, str]]:
    """What is wrong: which list, its key, the value, and what it should be."""
    named: set[str] = set()
    fixed: dict[tuple[str, ...], str] = {}
    for at, each in enumerate(lists):
        if each.name in named:
            yield at, "name", each.name, "a name that no other list has"
        named.add(each.name)
        if not each.paths:
            yield at, "paths", None, "at least one path: nothing would be kept alike"
        for path in each.paths:
            if (right := _wrong(path)) is not None:
                yield at, "paths", path, right
                continue
            root = Root(path)
            for other, owner in fixed.items():
                shorter = min(len(other), len(root.fixed))
                if owner != each.name and other[:shorter] == root.fixed[:shorter]:
                    yield at, "paths", path, f"a path that doesn't meet those of {owner!r}"
                    break
            if root.exact:
                fixed[root.fixed] = each.name
        for pattern in each.exclude:
            if not pattern or "\0" in pattern or ("/" in pattern and components(pattern) is None):
                yield at, "exclude", pattern, "a name, or an absolute path; both may have patterns"
            elif "**" in pattern:
                right = "without '**': a name without a slash is left out at any depth"
                yield at, "exclude", pattern, right
        if each.command and (right := wrong_argv(each.command)):
            yield at, "command", list(each.command), right


def wrong_argv(argv: Sequence[str]) -> str:
    """What an argv should be that can't be run, or nothing."""
    if not argv[0].startswith("/"):
        return "the absolute path of a program first: no PATH is searched, and there is no shell"
    return "without a null character" if any("\0" in part for part in argv) else ""


def _wrong(path: str) -> str | None:
    parts = components(path)
    if parts is None:
        return "an absolute path without '.', '..' and a slash at its end"
    if reserved(path):
        return "a path of what both nodes share; this one belongs to the node itself"
    if "**" in path:
        return "patterns for single names; a directory has everything below it anyway"
    if not Root(path).fixed:
        return "a path whose first name is no pattern"
    return None


def _is_name(part: str) -> bool:
    if part in {"", ".", ".."} or "\0" in part:
        return False
    try:
        return len(part.encode()) <= NAME_MAX
    except UnicodeEncodeError:
        return False


def _whole(pattern: str, parts: Sequence[str]) -> bool:
    names = pattern.strip("/").split("/")
    return len(names) == len(parts) and all(map(_matches, names, parts))


@functools.lru_cache(maxsize=256)
def _roots(paths: tuple[str, ...]) -> tuple[Root, ...]:
    return tuple(Root(path) for path in paths if _wrong(path) is None)


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


def _matches(pattern: str, name: str) -> bool:
    return _compiled(pattern).match(name) is not None
