# SPDX-License-Identifier: Apache-2.0
"""The shared document as the daemon has it: examined, kept and put in force, never decided upon.

Who has which document is the worker's affair; what a document does to this node is the daemon's. A
document that is in force is on disk before it is, so the daemon starts with it and needs no worker
for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from twinbeat import __version__
from twinbeat.api.worker import Mark, Standing, SyncSettings, Welcome
from twinbeat.aside import Aside
from twinbeat.config.inforce import Examiner
from twinbeat.config.model import Config
from twinbeat.config.problems import ConfigError
from twinbeat.config.problems import Problem as ConfigProblem
from twinbeat.core.machine import Machine
from twinbeat.core.types import Role, Watch
from twinbeat.runtime.current import Current
from twinbeat.runtime.guarded import REFUSALS
from twinbeat.runtime.store import Store, StoreError
from twinbeat.sessions.connections import ConnectionSettings
from twinbeat.sync.document import Document, Tables
from twinbeat.sync.operation import PROBLEMS_MOST, Problem

log = logging.getLogger("twinbeat")

CHECKED: Final = "shared document"
"""What a document without a number is called by its problems."""

Put = Callable[[Document, Callable[[], None]], Awaitable[tuple[str, ...]]]
"""`Reloader.put`."""


class Shared:
    """What the worker is told and answered about documents."""

    def __init__(
        self,
        *,
        current: Current,
        examiner: Examiner,
        store: Store,
        machine: Machine,
        put: Put,
        foresee: Callable[[], None],
        aside: Aside,
    ) -> None:
        """``foresee`` is that of the `Reloader`, with which ``aside`` is shared."""
        self._current = current
        self._examiner = examiner
        self._store = store
        self._machine = machine
        self._put = put
        self._foresee = foresee
        self._aside = aside
        self._connections: tuple[Config, ConnectionSettings] | None = None
        """What was made of which configuration."""

    def welcome(self) -> Welcome:
        """Who this node is, and what it has in force."""
        current = self._current
        return Welcome(
            node=current.config.node.index,
            name=current.config.node.name,
            pair=current.config.pair.id,
            build=__version__,
            document=current.document,
            tables=current.tables,
        )

    def standing(self) -> Standing:
        """How the node stands. Asked for each second: all that the core knows would cost more than
        the rest of that second's duties."""
        engine, document = self._machine.engine, self._current.document
        primary = self._machine.role is Role.PRIMARY
        term = 0
        if engine is not None:
            term = engine.term if primary else engine.highest
        return Standing(
            primary=primary,
            term=term,
            peer_alive=engine is not None and engine.watch in {Watch.ALIVE, Watch.SUSPECT},
            in_force=Mark(lineage=document.lineage, version=document.version)
            if document is not None
            else None,
            settings=settings(self._current.file),
            connections=self._kept_connections(),
        )

    def _kept_connections(self) -> ConnectionSettings:
        file = self._current.file
        if self._connections is None or self._connections[0] is not file:
            self._connections = file, connections(file)
        return self._connections[1]

    async def check(self, tables: Tables) -> tuple[Problem, ...]:
        """Why a document of these tables could not be put in force here."""
        found = await self._aside.call(self._examiner.problems_of, tables, CHECKED)
        if not found:
            # When the answer is on its way.
            asyncio.get_running_loop().call_soon(self._aside.post, self._foresee)
        return told(found)

    async def apply(self, document: Document) -> tuple[bool, tuple[Problem, ...]]:
        """Put it in force, wholly or not at all; and why not, or what of it needs a restart."""
        before = self._current.document
        try:
            waiting = await self._put(document, lambda: self._store.keep_document(document))
        except (ConfigError, StoreError, *REFUSALS) as error:
            log.error("%s was not put in force: %s", document.version, error)
            await self._aside.call(self._restore, before)
            if isinstance(error, ConfigError):
                return False, told(error.problems)
            return False, (Problem(where="this node", right=f"{error}"[:4096]),)
        except Exception:
            # A fault of ours, for whoever asked to tell: the next start finds what is in force.
            await self._aside.call(self._restore, before)
            raise
        if before is None or before.version != document.version:
            words = "the shared configuration is %s now", document.version
            asyncio.get_running_loop().call_soon(log.info, *words)
        later = "takes effect with a restart of the agent"
        return True, tuple(Problem(where=key[:1024], right=later) for key in waiting)

    def _restore(self, before: Document | None) -> None:
        try:
            self._store.keep_document(before)
        except StoreError as error:
            log.error("%s", error)


def tell_ignored(current: Current, before: Sequence[str] = ()) -> None:
    """Say in the log, as often as it is news, what the file says in vain."""
    if current.ignored and list(current.ignored) != list(before):
        log.warning(
            "%s says otherwise than the shared document, which counts: %s",
            current.file.path,
            ", ".join(current.ignored),
        )


def settings(config: Config) -> SyncSettings:
    """`[sync]`, and the peer's address where it isn't set."""
    section = config.sync
    return SyncSettings(
        enabled=section.enabled,
        propagation=section.propagation,
        strict_status=section.strict_status,
        peer=config.sync_peer,
        listen=section.listen,
        port=section.port,
        interface=section.interface,
        timeout_s=section.timeout_s,
        identity=section.identity,
        keys=config.keys.directory,
        weblog_listen=_weblog_listen(config),
    )


def connections(config: Config) -> ConnectionSettings:
    """`[connections]`, with the addresses of this node that have no part in it."""
    section, ends = config.connections, config.connection_ends
    if not section.enabled or ends is None:
        return ConnectionSettings()
    own = [each for link in config.links for each in (link.local, link.peer)]
    own += [ends.local, ends.peer, config.sync_peer, config.sync.listen]
    return ConnectionSettings(
        enabled=True,
        protocols=section.protocols,
        ignore=tuple(dict.fromkeys(filter(None, (*own, *section.ignore)))),
        drop_strays=section.drop_strays,
        refresh_s=section.refresh_s,
        flows_max=section.flows_max,
        resend_max=section.resend_max,
        buffer_kib=section.buffer_kib,
        port=section.port,
        interface=ends.interface,
        local=ends.local,
        peer=ends.peer,
        vips=tuple(vip for vrid in config.vrids for vip in vrid.vips)
        if section.drop_strays
        else (),
    )


def _weblog_listen(config: Config) -> tuple[str, ...]:
    """As set, and where the peer dials this node's worker."""
    if not config.weblog.listen:
        return ()
    own = [link.local for link in config.links if link.peer == config.sync_peer]
    dialed = config.sync.listen or next(iter(own), "")
    return tuple(dict.fromkeys(each for each in (config.weblog.listen, dialed) if each))


def told(problems: list[ConfigProblem]) -> tuple[Problem, ...]:
    """The same as the worker passes it on."""
    return tuple(
        Problem(
            where=f"{each.file}, {each.key}".rstrip(", ")[:1024],
            value=(each.value or "")[:4096],
            right=each.sentence[:4096],
        )
        for each in problems
        if not each.warning
    )[:PROBLEMS_MOST]
