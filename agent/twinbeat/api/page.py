# SPDX-License-Identifier: Apache-2.0
"""The status page: one file, and the little that it asks for again and again.

What `page.json` holds anybody may read who may read the metrics: who is primary, how the links are,
what happened. It has no configuration, no program's output, no key ids; the socket has those.
"""

import base64
import hashlib
import re
from importlib import resources
from typing import Final

from msgspec import Struct
from msgspec.structs import asdict, replace

from twinbeat.api.brief import Glance, Kept, kept, other_node, this_node
from twinbeat.api.schema import (
    PHASES,
    SCHEMA,
    Counters,
    Role,
    Severity,
    Status,
    Transition,
    Warn,
    Watch,
)

TRANSITIONS: Final = 8
WARNINGS: Final = 16
SENTENCE_MAX: Final = 500
TIMERS: Final = ("hello_us", "dead_us", "lease_us")
FRESH_NS: Final = 500_000_000
"""However many look, the answer is made anew twice a second at most."""


class PageNode(Glance, frozen=True, kw_only=True):
    """One of the two nodes, as this one knows it."""

    here: bool
    role_for_ns: int | None = None
    watch: Watch | None = None
    heard_ns: int | None = None
    round_trip_ns: int | None = None
    configuration: str = ""


class PageLink(Struct, frozen=True, kw_only=True):
    """A link, and the histogram of the time between two heartbeats (as in `Histogram`)."""

    name: str
    state: str
    up: bool
    loss_ratio: float | None = None
    gaps: list[int] = []


class PageChange(Struct, frozen=True, kw_only=True):
    """A change of role with the lengths of its phases."""

    time: str
    from_role: Role
    to_role: Role
    sentence: str
    term: int
    durations_ns: dict[str, int] = {}


class Page(Struct, frozen=True, kw_only=True):
    """What `GET /page.json` answers."""

    schema: int = SCHEMA
    time: str
    pair: int
    sentence: str
    nodes: list[PageNode]
    links: list[PageLink]
    timers: dict[str, int]
    """The intervals that the page draws by."""
    kept: list[Kept] = []
    """What outlasts a takeover, as the worker told it last."""
    warnings: list[Warn] = []
    transitions: list[PageChange] = []
    """Newest first."""


def page(status: Status, counters: Counters, transitions: list[Transition]) -> Page:
    """The pair at a glance."""
    gaps = {link.name: link.gaps.counts for link in counters.links if link.gaps is not None}
    heeded = [one for one in status.warnings if one.severity is not Severity.NOTICE]
    return Page(
        time=status.time,
        pair=status.pair,
        sentence=status.sentence,
        nodes=[_own(status), _peer(status)],
        links=[
            PageLink(
                name=link.name,
                state=link.state,
                up=link.up,
                loss_ratio=link.quality.loss_ratio,
                gaps=gaps.get(link.name, []),
            )
            for link in status.links
        ],
        timers={name: getattr(status.timers, name) for name in TIMERS},
        kept=kept(status, counters),
        warnings=[replace(one, sentence=one.sentence[:SENTENCE_MAX]) for one in heeded[:WARNINGS]],
        transitions=[_change(one) for one in reversed(transitions[-TRANSITIONS:])],
    )


def _own(status: Status) -> PageNode:
    said = status.configuration
    configuration = f"generation {said.generation}" if said.document else "of its file"
    if said.mismatch:
        configuration += ", differs from the peer's"
    return PageNode(
        **asdict(this_node(status)),
        here=True,
        role_for_ns=status.now_ns - status.node.role_since_ns,
        configuration=configuration,
    )


def _peer(status: Status) -> PageNode:
    peer = status.peer
    return PageNode(
        **asdict(other_node(status)),
        here=False,
        watch=peer.watch,
        heard_ns=peer.age_ns,
        round_trip_ns=peer.round_trip_ns,
    )


def _change(transition: Transition) -> PageChange:
    names = {name for name, _, _ in PHASES}
    return PageChange(
        time=transition.time,
        from_role=transition.from_role,
        to_role=transition.to_role,
        sentence=transition.sentence[:SENTENCE_MAX],
        term=transition.term,
        durations_ns={k: v for k, v in transition.durations_ns.items() if k in names},
    )


def file() -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """The page, and the headers that hold it to itself: its own script and style by their hashes,
    and nothing from anywhere but `page.json` of this very server.
    """
    body = resources.files("twinbeat.api").joinpath("page.html").read_bytes()
    policy = (
        f"default-src 'none'; style-src {_hash(body, b'style')}; "
        f"script-src {_hash(body, b'script')}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return body, (
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    )


def _hash(body: bytes, element: bytes) -> str:
    found = re.search(rb"<%b>(.*?)</%b>" % (element, element), body, re.DOTALL)
    assert found is not None, "the page that this module was written for has both"
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1]).digest()).decode()}'"
