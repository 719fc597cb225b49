# SPDX-License-Identifier: Apache-2.0
"""Asks the witness for the core, and the reference addresses whether this node is cut off.

One question is under way at a time. One may wait behind it and gives its place to a newer one: what
the core asked last is what it wants to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Final

from twinbeat.api import schema
from twinbeat.config.model import Config
from twinbeat.core.events import Event, IsolationChanged, WitnessAnswered
from twinbeat.core.types import SECOND
from twinbeat.core.witness import Arbitration, Question, Verdict
from twinbeat.health import answer as probes
from twinbeat.observe.histogram import Histogram
from twinbeat.runtime import wiring
from twinbeat.witness.base import Null, Witness
from twinbeat.witness.keeping import Keeping
from twinbeat.witness.reference import Reference, on_link

log = logging.getLogger("twinbeat.witness")

PATIENCE_PARTS: Final = 2
"""A question is given up after this part of a lease, a member after half of that."""


def build(config: Config, *, now_ns: Callable[[], int]) -> Witness:
    """The witness of the configuration. Raises WitnessError if it can't be used."""
    section = config.witness
    if section.kind == "none":
        return Null(now_ns)
    # Loads what speaks HTTP, which an agent without a witness has no use for.
    from twinbeat.witness.etcd import Access, Etcd

    patience_ns = wiring.witness_lease_ns(config) // PATIENCE_PARTS
    return Etcd(
        Access(
            endpoints=section.endpoints,
            ca_file=section.ca_file,
            cert_file=section.cert_file,
            key_file=section.key_file,
        ),
        Keeping(prefix=section.prefix, pair=config.pair.id, node=config.node.name),
        now_ns=now_ns,
        patience_ns=patience_ns,
        try_ns=patience_ns // 2,
    )


class WitnessDesk:
    """What the executor asks through."""

    def __init__(
        self,
        witness: Witness,
        *,
        config: Config,
        arbitration: Callable[[], Arbitration],
        feed: Callable[[Event], None],
        failed: Callable[[BaseException], None],
        now_ns: Callable[[], int],
    ) -> None:
        self._witness = witness
        self._section = config.witness
        self._lease_ns = wiring.witness_lease_ns(config)
        self._arbitration = arbitration
        self._feed = feed
        self._failed = failed
        self._now_ns = now_ns
        self._waiting: Question | None = None
        self._task: asyncio.Task[None] | None = None
        self._up = False
        self._took = Histogram()
        witness.tally.took = self._took.add

    def ask(self, question: Question) -> None:
        """Ask as soon as the question before is answered."""
        self._waiting = question
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Ask nothing more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._witness.close()

    async def _run(self) -> None:
        try:
            while self._waiting is not None:
                question, self._waiting = self._waiting, None
                answer = await self._witness.ask(question)
                self._up = answer.verdict is not Verdict.SILENT
                self._feed(WitnessAnswered(answer=answer))
        finally:
            self._task = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def status(self) -> schema.Witness | None:
        """None where none is configured."""
        if not self._lease_ns:
            return None
        known, now = self._arbitration(), self._now_ns()
        silent = known.is_silent(now)
        age_ns = now - known.confirmed_ns if known.confirmed_ns else None
        opens_ns = known.opens_ns
        return schema.Witness(
            kind=self._section.kind,
            endpoints=list(self._section.endpoints),
            without=self._section.without,
            lease_ns=self._lease_ns,
            up=self._up,
            answered_ns=known.answered_ns or None,
            confirmed_age_ns=age_ns,
            kept_term=known.kept,
            keeps_peer=known.holds_back(),
            opens_in_ns=max(0, opens_ns - now) if opens_ns else None,
            absent=silent and self._section.without == "serve",
            sentence="" if self._up else known.why,
        )

    def counters(self) -> dict[str, int]:
        """Requests by result."""
        return dict(self._witness.tally.results) if self._lease_ns else {}

    def took(self) -> Histogram:
        """How long requests took that were answered."""
        return self._took


class Isolation:
    """Asks the reference addresses in turn, and tells the core when none or again one answers."""

    def __init__(
        self,
        *,
        config: Config,
        feed: Callable[[Event], None],
        failed: Callable[[BaseException], None],
        now_ns: Callable[[], int],
    ) -> None:
        self._feed = feed
        self._failed = failed
        self._now_ns = now_ns
        self._section = config.isolation
        self._task: asyncio.Task[None] | None = None
        self._isolated = False
        self._reference: Reference | None = None

    def start(self) -> None:
        self._begin()

    def apply(self, config: Config) -> None:
        """Other addresses or another pace take effect at once. Whoever is cut off is so until one
        of the new addresses answers: not having asked yet is no answer."""
        if config.isolation == self._section:
            return
        self._section = config.isolation
        if self._task is not None:
            self._task.cancel()
        if not self._section.references:
            self._tell(isolated=False)
        self._begin()

    async def stop(self) -> None:
        """Ask nothing more. A task that has failed was told of when it did."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def status(self) -> schema.Isolation | None:
        """None where no reference is configured."""
        if self._reference is None:
            return None
        return schema.Isolation(
            references=list(self._section.references),
            isolated=self._isolated,
            answering=self._reference.answering,
        )

    def _begin(self) -> None:
        self._task = self._reference = None
        if not self._section.references:
            return
        interval_s = self._section.interval_ms / 1000
        self._reference = Reference(
            self._section.references,
            probe=_answers,
            now_ns=self._now_ns,
            patience_s=interval_s,
        )
        self._task = asyncio.get_running_loop().create_task(self._run(self._reference, interval_s))
        self._task.add_done_callback(self._ended)

    async def _run(self, reference: Reference, interval_s: float) -> None:
        while True:
            begun = self._now_ns()
            answered = await reference.reached()
            if answered and self._isolated:
                log.info("reference address %s answers again", reference.answering)
            self._tell(isolated=not answered)
            left_s = interval_s - (self._now_ns() - begun) / SECOND
            await asyncio.sleep(max(interval_s / 10, left_s))

    def _tell(self, *, isolated: bool) -> None:
        if isolated is not self._isolated:
            self._isolated = isolated
            self._feed(IsolationChanged(isolated=isolated))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)


async def reachable(text: str, timeout_s: float) -> bool:
    """Whether a reference address answers."""
    return await _answers(text, on_link(text), timeout_s)


async def _answers(text: str, interface: str, timeout_s: float) -> bool:
    """Whether an address answers ICMP echo, or ARP or neighbour discovery where it is on a link."""
    address = ip_address(text)
    ways: Sequence[tuple[str, str]] = [("icmp", "")]
    if interface:
        ways = [("icmp", ""), ("neighbour", interface)]
    found = await asyncio.gather(
        *(
            probes.ask(address, probe=probe, interface=on, timeout_s=timeout_s)
            for probe, on in ways
        ),
        return_exceptions=True,
    )
    return any(not isinstance(one, BaseException) and one.holds for one in found)
