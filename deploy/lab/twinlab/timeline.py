# SPDX-License-Identifier: Apache-2.0
"""A failover on one screen: the client's moments and the agent's, on one clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twinlab import agents
from twinlab.measure import Failure
from twinlab.shell import LabError, wait_for

MOMENTS = (
    ("last_heard_ns", "{node} last hears {peer}"),
    ("suspect_ns", "{node} suspects {peer}, and asks its kernel"),
    ("verdict_ns", "{node}'s verdict: {reason}"),
    ("claim_ns", "{node} claims the role"),
    ("receipt_ns", "{peer}'s kernel confirms that its gate is shut"),
    ("gate_ns", "{node} opens its gate"),
    ("announced_ns", "{node} announces the addresses"),
)
"""Fields of a transition's timeline, in the order they normally come, and what they mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One moment of a failover."""

    at_ns: int
    who: str
    """client, event, or a node's name."""
    key: str
    text: str


def takeover(node: str, since_ns: int, *, timeout_s: float = 10.0) -> dict[str, Any]:
    """How the node first became primary after a moment, from its own history."""

    def recorded() -> dict[str, Any] | None:
        return first_takeover(agents.history(node), since_ns)

    try:
        return wait_for(recorded, f"{node}'s history of the takeover", timeout_s=timeout_s)
    except LabError as error:
        raise LabError(f"{error}: {agents.history(node)[-2:]}") from error


def first_takeover(history: list[dict[str, Any]], since_ns: int) -> dict[str, Any] | None:
    """The first transition that made a node primary. One that goes on under a newer term was it."""
    for transition in history:
        became = transition["to_role"] == "primary" and transition["from_role"] != "primary"
        if became and transition["at_ns"] >= since_ns:
            return dict(transition)
    return None


def moments(
    seen: Failure, transition: dict[str, Any], *, node: str, peer: str, event: str
) -> list[Moment]:
    """Everything known about one failover, in the order of time."""
    found = [Moment(at_ns=seen.before_ns, who="event", key="event", text=event)]
    if seen.outage is not None:
        found.append(
            Moment(
                at_ns=seen.outage.last_good_ns,
                who="client",
                key="last_good_ns",
                text="the client gets its last good reply",
            )
        )
        if seen.outage.first_good_ns is not None:
            found.append(
                Moment(
                    at_ns=seen.outage.first_good_ns,
                    who="client",
                    key="first_good_ns",
                    text="the client gets its first good reply again",
                )
            )
    for key, text in MOMENTS:
        at = transition["timeline"].get(key)
        if at is not None:
            words = text.format(node=node, peer=peer, reason=transition["reason"])
            found.append(Moment(at_ns=at, who=node, key=key, text=words))
    return sorted(found, key=lambda moment: moment.at_ns)


def table(listed: list[Moment], zero_ns: int) -> str:
    """The moments as lines: µs since the event, who, what."""
    lines = []
    for moment in listed:
        offset = (moment.at_ns - zero_ns) / 1000
        lines.append(f"  {offset:+12,.0f} µs  {moment.who:>6}  {moment.text}")
    return "\n".join(lines)
