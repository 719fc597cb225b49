# SPDX-License-Identifier: Apache-2.0
"""What has to be right about synchronization, lists of files and commands, beyond their types."""

import stat
from pathlib import Path

from twinbeat.config.alike import CommandSection, FileSection, SyncSection
from twinbeat.config.nodes import LinkSection
from twinbeat.config.problems import Findings
from twinbeat.config.system import System, parse_address
from twinbeat.sync import lists, templates


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
    if sync.interface and not sync.peer:
        over = {link.interface for link in links}
        if sync.interface not in over:
            there = "carries no link: set sync.peer to the peer's address there."
            findings.warn("sync.interface", sync.interface, there)


def check_files(files: tuple[FileSection, ...], findings: Findings) -> None:
    """What the worker makes of a list says whether it is one."""
    rows = [
        lists.FileList(name=each.name, paths=each.paths, exclude=each.exclude, command=each.command)
        for each in files
    ]
    for at, key, value, right in lists.problems(rows):
        findings.add(f"file[{at}].{key}", value, f"should be {right}.")


def check_commands(commands: tuple[CommandSection, ...], findings: Findings) -> None:
    """What the worker makes of a command says whether it is one."""
    rows = [templates.Template(name=each.name, argv=each.argv, undo=each.undo) for each in commands]
    for at, key, value, right in templates.problems(rows):
        findings.add(f"command[{at}].{key}", value, f"should be {right}.")


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
