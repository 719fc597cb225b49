# SPDX-License-Identifier: Apache-2.0
"""What has to be right about synchronization, lists of files and commands, beyond their types."""

import re
import stat
from pathlib import Path, PurePosixPath
from typing import Final

from twinbeat.config.model import CommandSection, FileSection, LinkSection, SyncSection
from twinbeat.config.problems import Findings
from twinbeat.config.system import System, parse_address

PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
"""In an argument of a command: what is put there when it is run."""
_KNOWN: Final = re.compile(r"file|[1-9]")


def check_sync(sync: SyncSection, links: tuple[LinkSection, ...], findings: Findings) -> None:
    """Addresses are addresses, and the peer's isn't this node's own."""
    for key in ("peer", "listen"):
        text = getattr(sync, key)
        if text and parse_address(text) is None:
            findings.add(f"sync.{key}", text, "should be an IPv4 or IPv6 address.")
    if sync.peer and sync.peer in {link.local for link in links}:
        findings.add("sync.peer", sync.peer, "is this node's own address.")
    if sync.listen and sync.listen in {link.peer for link in links}:
        findings.add("sync.listen", sync.listen, "is the peer's address.")


def check_files(files: tuple[FileSection, ...], findings: Findings) -> None:
    """Every path is in one list, and no list is all there is."""
    names: dict[str, int] = {}
    owners: list[tuple[PurePosixPath, str]] = []
    for number, section in enumerate(files):
        where = f"file[{number}]"
        _once(names, section.name, where, number, "file", findings)
        if not section.paths:
            findings.add(f"{where}.paths", None, "is empty: nothing would be kept alike.")
        for text in section.paths:
            path = PurePosixPath(text)
            if ".." in path.parts or path == PurePosixPath("/") or "\0" in text:
                wrong = 'should be a path below "/", without ".." in it.'
                findings.add(f"{where}.paths", text, wrong)
                continue
            for other, owner in owners:
                met = path == other or path in other.parents or other in path.parents
                if met and owner != where:
                    findings.add(f"{where}.paths", text, f"meets {other} of {owner}.")
            owners.append((path, where))
        for pattern in section.exclude:
            if not pattern or "\0" in pattern:
                findings.add(f"{where}.exclude", pattern, "is no pattern.")
        _program(section.command, f"{where}.command", findings)


def check_commands(commands: tuple[CommandSection, ...], findings: Findings) -> None:
    """Programs with absolute paths, and placeholders that mean something."""
    names: dict[str, int] = {}
    for number, section in enumerate(commands):
        where = f"command[{number}]"
        _once(names, section.name, where, number, "command", findings)
        if not section.argv:
            findings.add(f"{where}.argv", None, "is empty: there is nothing to run.")
        for key in ("argv", "undo"):
            arguments: tuple[str, ...] = getattr(section, key)
            _program(arguments, f"{where}.{key}", findings)
            for found in (name for text in arguments for name in PLACEHOLDER.findall(text)):
                if not _KNOWN.fullmatch(found):
                    wrong = "should be {file}, or the number of an argument from {1} to {9}."
                    findings.add(f"{where}.{key}", "{" + found + "}", wrong)


def check_programs_here(
    files: tuple[FileSection, ...], commands: tuple[CommandSection, ...], findings: Findings
) -> None:
    """Programs that can't be run now may be installed later, so nothing is refused for that."""
    used = [(f"file[{at}].command", section.command) for at, section in enumerate(files)]
    for at, section in enumerate(commands):
        used += [(f"command[{at}].argv", section.argv), (f"command[{at}].undo", section.undo)]
    for key, arguments in used:
        if not arguments or not arguments[0].startswith("/"):
            continue
        try:
            mode = Path(arguments[0]).stat().st_mode
        except OSError as error:
            findings.warn(key, arguments[0], f"can't be run at the moment: {error.strerror}.")
            continue
        if not stat.S_ISREG(mode) or not mode & 0o111:
            findings.warn(key, arguments[0], "is no program that could be run.")
        elif mode & 0o002:
            findings.add(key, arguments[0], "can be changed by anybody, and would be run.")


def check_sync_here(sync: SyncSection, findings: Findings, system: System) -> None:
    """The interface that bulk data is to take."""
    if sync.interface and sync.interface not in system.interfaces():
        findings.add("sync.interface", sync.interface, "there is no such interface here.")


def _once(
    names: dict[str, int], name: str, where: str, number: int, section: str, findings: Findings
) -> None:
    first = names.setdefault(name, number)
    if first != number:
        findings.add(f"{where}.name", name, f"is that of {section}[{first}] already.")


def _program(arguments: tuple[str, ...], key: str, findings: Findings) -> None:
    if arguments and not arguments[0].startswith("/"):
        wrong = "should begin with the program's absolute path: no PATH is searched, no shell is."
        findings.add(key, list(arguments), wrong)
    if any("\0" in argument for argument in arguments):
        findings.add(key, None, "holds a null character.")
