# SPDX-License-Identifier: Apache-2.0
"""Reference addresses: a witness that keeps nothing and only shows that one is still connected.

At least one of several addresses has to answer. That refutes isolation; it says nothing about who
may serve, so a claim gets no answer here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from twinbeat.core.witness import Answer, Kind, Question, Verdict
from twinbeat.witness.base import Tally

Probe = Callable[[str, str, float], Awaitable[bool]]
"""Whether an address (on an interface, empty = behind a router) answers within some seconds."""

_ROUTES: Final = Path("/proc/net/route")
_ROUTES6: Final = Path("/proc/net/ipv6_route")


class Reference:
    """Implements `twinbeat.witness.base.Witness`, as far as it can."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        probe: Probe,
        now_ns: Callable[[], int],
        patience_s: float,
    ) -> None:
        self._addresses = tuple(addresses)
        self._probe = probe
        self._now_ns = now_ns
        self._patience_s = patience_s
        self.answering = ""
        """Who answered the newest look; empty = nobody."""
        self.tally = Tally()
        self.cluster = ""

    async def reached(self) -> bool:
        """Whether any of the addresses answers; all are asked at once, the first answer counts."""
        asked = {
            asyncio.ensure_future(self._probe(one, on_link(one), self._patience_s)): one
            for one in self._addresses
        }
        waiting, answering = set(asked), ""
        try:
            while waiting and not answering:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                answering = next((asked[one] for one in done if one.result()), "")
        finally:
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        # Not before: whoever looks meanwhile sees who answered the look before.
        self.answering = answering
        return bool(answering)

    async def ask(self, question: Question) -> Answer:
        sent_ns = self._now_ns()
        looked = question.kind is Kind.LOOK and await self.reached()
        self.tally.count("looked" if looked else "unanswered")
        return Answer(
            question=question,
            verdict=Verdict.GRANTED if looked else Verdict.SILENT,
            sent_ns=sent_ns,
            done_ns=self._now_ns(),
            why="" if looked else "a reference address keeps no term, or none answers",
        )

    async def close(self) -> None:
        pass


def on_link(text: str) -> str:
    """The interface on whose link an address lies by the kernel's routes; empty = on none."""
    address = ipaddress.ip_address(text)
    best, found = -1, ""
    for network, interface in _links(address.version):
        if address in network and network.prefixlen > best:
            best, found = network.prefixlen, interface
    return found


def _links(version: int) -> list[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str]]:
    """Networks that are reached without a gateway."""
    found: list[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str]] = []
    try:
        lines = (_ROUTES if version == 4 else _ROUTES6).read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        fields = line.split()
        if version == 4 and fields[:1] != ["Iface"] and fields[2] == "00000000":
            network, mask = (
                socket.inet_ntoa(struct.pack("=I", int(fields[at], 16))) for at in (1, 7)
            )
            found.append((ipaddress.IPv4Network(f"{network}/{mask}"), fields[0]))
        elif version == 6 and not int(fields[4], 16) and fields[9] != "lo":
            start = ipaddress.IPv6Address(bytes.fromhex(fields[0]))
            found.append((ipaddress.IPv6Network((start, int(fields[1], 16))), fields[9]))
    return [one for one in found if one[0].prefixlen]
