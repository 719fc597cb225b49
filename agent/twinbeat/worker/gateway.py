# SPDX-License-Identifier: Apache-2.0
"""What a node does beside its document: files that are kept alike, and commands that are run.

Both are rows of the document. What they do is `twinbeat.sync`'s; here they are told which document
counts, who is primary, and over which session they speak.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import msgspec

from twinbeat.sync import templates
from twinbeat.sync.alike import Files, leads
from twinbeat.sync.document import Run, Tables
from twinbeat.sync.lists import FileList
from twinbeat.sync.operation import Output
from twinbeat.sync.session import Session
from twinbeat.sync.shown import FilesStatus
from twinbeat.sync.templates import CommandRefused, Template
from twinbeat.sync.wire import Filing, Traffic
from twinbeat.worker.driver import Driver

IN_STEP_S: Final = 3.0
"""A command waits so long for its file to be on both nodes."""


class Gateway:
    """Files and commands of one node."""

    def __init__(self, driver: Driver, directory: Path) -> None:
        self._driver = driver
        self._directory = directory
        self._files: Files | None = None
        self._rows: dict[str, dict[str, object]] | None = None
        self._leading: bool | None = None
        self.stood: Callable[[], None] = lambda: None
        """Called when a list stands otherwise."""

    async def run(self) -> None:
        """Watch the lists, until cancelled."""
        await self._driver.begun.wait()
        assert self._driver.welcome is not None
        self._files = Files(self._driver.welcome.name, self._directory)
        self._files.on_standing(self.stood)
        self.look()
        await self._files.run()

    def look(self) -> None:
        """The document or the roles may be others now."""
        machine, files = self._driver.machine, self._files
        if machine is None or machine.current is None or files is None:
            return
        rows = machine.current.tables.get("file", {}) if machine.sync else {}
        if rows != self._rows:
            self._rows = rows
            files.configure([msgspec.convert(row, FileList) for row in rows.values()])
        leading = leads(machine.summary(), machine.peer) if machine.peer is not None else None
        if leading != self._leading:
            self._leading = leading
            files.lead(leading)

    def attending(self, session: Session) -> AbstractAsyncContextManager[None]:
        """Speak about files over this session while the block lasts."""
        return contextlib.nullcontext() if self._files is None else self._files.attending(session)

    def take(self, message: Traffic) -> None:
        """A message about files."""
        if self._files is not None and isinstance(message, Filing):
            self._files.take(message)

    def rescan(self) -> None:
        """Walk all lists now."""
        if self._files is not None:
            self._files.rescan()

    def status(self) -> FilesStatus:
        """How each list stands."""
        return self._files.status() if self._files is not None else FilesStatus()

    async def known(self, tables: Tables, run: Run) -> str:
        """Why a command can't be run, or nothing."""
        try:
            template, _ = templates.argv(*_rows(tables), run)
        except CommandRefused as refused:
            return refused.sentence
        path, machine = template.file(run), self._driver.machine
        if path and self._files is not None and machine is not None and machine.primary:
            return await self._files.in_step(path, IN_STEP_S)
        return ""

    async def carry_out(self, tables: Tables, run: Run, request: str) -> tuple[Output, bool]:
        """Run a command; what it said, and whether it can be taken back."""
        welcome, machine = self._driver.welcome, self._driver.machine
        assert welcome is not None
        assert machine is not None
        try:
            template, argv = templates.argv(*_rows(tables), run)
        except CommandRefused as refused:
            if refused.code == "no_undo":
                return Output(node=welcome.name, status=0), False
            said = Output(node=welcome.name, status=templates.NOT_STARTED, text=refused.sentence)
            return said, False
        environment = {
            "TWINBEAT_NODE": welcome.name,
            "TWINBEAT_REQUEST": request,
            "TWINBEAT_ROLE": "primary" if machine.primary else "secondary",
        }
        output, _ = await templates.carry_out(
            template, argv, node=welcome.name, environment=environment
        )
        return output, bool(template.undo)


def _rows(tables: Tables) -> tuple[list[Template], list[FileList]]:
    return (
        [msgspec.convert(row, Template) for row in tables.get("command", {}).values()],
        [msgspec.convert(row, FileList) for row in tables.get("file", {}).values()],
    )
