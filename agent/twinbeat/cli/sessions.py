# SPDX-License-Identifier: Apache-2.0
"""`twinbeat show sessions` and `show persistence`: rules, servers, entries, the other node."""

import urllib.parse
from collections.abc import Iterator
from typing import Final

import msgspec

from twinbeat.api.text import length
from twinbeat.cli.base import ask_worker, paint, say, say_json, settings
from twinbeat.sessions.shown import Entries, Replication, SessionsStatus, quantile_ns
from twinbeat.sync.shown import printable

_COLORS: Final = {"up": "green", "in-step": "green", "follows": "green", "down": "red"}
MEDIAN: Final = 0.5
LATE: Final = 0.999


def show_sessions() -> None:
    """Every rule and server, on this node or the other."""
    body = ask_worker("/v1/sessions").body
    if settings().json:
        say_json(body)
        return
    for line in lines(msgspec.json.decode(body, type=SessionsStatus)):
        say(line)


def show_persistence(rule: str, client: str, most: int) -> None:
    """Entries: of a rule, of a client, or the first of all."""
    query = urllib.parse.urlencode({"rule": rule, "client": client, "limit": most})
    body = ask_worker(f"/v1/persistence?{query}").body
    if settings().json:
        say_json(body)
        return
    found = msgspec.json.decode(body, type=Entries)
    for entry in found.entries:
        left = length(entry.remaining_ms * 1_000_000)
        client_, server = printable(entry.client), printable(entry.server)
        say(f"{entry.rule}: {client_} -> {server}, {left} left")
    if not found.entries:
        say("no entry" + (f" of {client}" if client else ""))
    if found.more:
        say(f"and more (--most is {most})")


def lines(seen: SessionsStatus) -> Iterator[str]:
    """All of it."""
    if seen.why:
        yield paint("NOT IN THE KERNEL", "red", bold=True) + f": {printable(seen.why)}"
    if not seen.rules:
        yield "nobody is bound to a server (`twinbeat add persistence` makes a rule)"
        return
    for rule in seen.rules:
        share = 100 * rule.entries // max(1, rule.limit)
        facts = [f"{rule.name}: {rule.kind}", f"{rule.entries:,} of {rule.limit:,} entries"]
        facts[-1] = paint(facts[-1], "yellow") if share >= 90 else facts[-1]
        facts.append(f"most {rule.high:,}")
        facts.append(f"forgotten after {rule.timeout_s} s")
        counted = [f"{what} {count:,}" for what, count in sorted(rule.counts.items()) if count]
        yield ", ".join(facts)
        yield f"  {', '.join(counted) or 'nothing happened yet'}"
    for server in seen.servers:
        state = paint(server.state, _COLORS.get(server.state, "yellow"))
        failed = f", failed {server.failures} times" if server.failures else ""
        told = printable(server.sentence)
        yield f"{server.pool}: {server.address} {state}, {server.entries:,} bound{failed} ({told})"
    yield from _replication(seen, seen.replication)
    counted = [f"{what} {count:,}" for what, count in sorted(seen.counts.items()) if count]
    if counted:
        yield f"packets: {', '.join(counted)}"


def _replication(seen: SessionsStatus, now: Replication) -> Iterator[str]:
    state = paint(now.state, _COLORS.get(now.state, "yellow"))
    facts = [f"other node: {state}"]
    if now.state == "filling":
        facts.append(f"{now.filled[0]:,} of {now.filled[1]:,} sent")
    if now.filled_ns:
        facts.append(f"filled in {length(now.filled_ns)}")
    if now.outstanding or now.waiting:
        facts.append(f"{now.outstanding + now.waiting:,} on their way")
    yield ", ".join(facts)
    if sum(seen.window):
        median, late = (length(quantile_ns(seen.window, share)) for share in (MEDIAN, LATE))
        total = sum(seen.window)
        told = f"half within {median}, 999 of 1,000 within {late}"
        yield f"  window in which an entry could be lost: {told} ({total:,} entries)"
    counted = [f"{what} {count:,}" for what, count in sorted(now.counts.items()) if count]
    if counted:
        yield f"  {', '.join(counted)}"
