# SPDX-License-Identifier: Apache-2.0
"""Gateways in different subnets: what of an outage is Twinbeat's, and what the routing daemons'.

The border between the two is the host route in the kernel's table: until it stands the daemons have
nothing to announce, and from then on the rest is theirs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

from twinlab import agents, lab, measure, netns, plan, routed, timeline
from twinlab.shell import LabError, wait_for

from twinbench import figures, ground
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure

MS = 1e6
BOOT_WAIT = "timers.boot_wait_ms = 3000"
"""The profile's ten seconds of listening at a start have no part in a takeover."""
MANY = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedDeath:
    """One silent death, in nanoseconds."""

    outage_ns: int
    detection_ns: int
    """From the death to the verdict."""
    act_ns: int
    """From the verdict to the host routes in the kernel's table: gate and routes."""
    routes_ns: int
    """Of that: from the open gate."""
    daemon_ns: int
    """From the host routes to the client's first answer."""


def options() -> plan.Options:
    """The routed lab with the profile that is made for it."""
    usual = ground.options("routed")
    settings = (*usual.settings, BOOT_WAIT)
    return replace(usual, routed=True, links=routed.LINKS, settings=settings)


def one_death(node: str) -> RoutedDeath:
    """Let the primary die, measure, heal it and wait until the pair and the router are whole."""
    survivor = plan.peer(node)
    _wait_announced(node)
    moments: list[int] = []
    failure = measure.failure(
        lambda: moments.extend(ground.cut_silently(node)), interval_us=1000, served_timeout_s=40
    )
    transition = timeline.takeover(survivor, moments[0])
    lab.heal(node)
    agents.wait_fit()
    stamps = transition["timeline"]
    outage = failure.outage
    if outage is None or outage.duration_ns is None or outage.first_good_ns is None:
        raise LabError("the client noticed nothing, or was not served again")
    verdict, gate, routes = (stamps[f"{name}_ns"] for name in ("verdict", "gate", "routes"))
    if verdict is None or gate is None or routes is None:
        raise LabError(f"{survivor} did not tell every moment of its takeover: {stamps}")
    return RoutedDeath(
        outage_ns=outage.duration_ns,
        detection_ns=verdict - moments[1],
        act_ns=routes - verdict,
        routes_ns=routes - gate,
        daemon_ns=outage.first_good_ns - routes,
    )


def _wait_announced(node: str) -> None:
    wait_for(
        lambda: routed.next_hop(plan.LAN_VIP) == node, f"the router to lead to {node}", timeout_s=30
    )


def routed_death(effort: Effort, budget: Budget) -> list[Figure]:
    """One host route first; then a thousand routes beside it, whose time is what is measured."""
    one = _deaths(effort.routed, budget, "routed deaths", share=0.7)
    with budget.attempt(f"{MANY} routes"):
        _reload_with(MANY)
    many = _deaths(effort.routed_many, budget, f"routed deaths with {MANY} routes", share=1.0)
    lab.down()
    details: dict[str, Any] = {
        "profile": "routed",
        "addresses": 1,
        "act_ms": [round(death.act_ns / MS, 3) for death in one],
    }
    return [
        figures.measured("routed_outage", [d.outage_ns / MS for d in one], details=details),
        figures.measured("routed_detection", [d.detection_ns / MS for d in one]),
        figures.measured("routed_act", [d.act_ns / MS for d in one]),
        figures.measured("routed_daemon", [d.daemon_ns / MS for d in one]),
        figures.measured(
            "routed_routes_many", [d.routes_ns / MS for d in many], details={"routes": MANY}
        ),
    ]


def _reload_with(count: int) -> None:
    """So many routes of the role, in both nodes, without a takeover."""
    routes = "".join(
        f'[[route]]\ndestination = "198.18.{n // 256}.{n % 256}/32"\ntype = "blackhole"\n'
        for n in range(count)
    )
    for node in plan.NODES:
        file = netns.node_dir(node, "/etc/twinbeat") / "twinbeat.toml"
        file.write_text(agents.configuration(node, options()) + routes)
        before = _loaded(node)
        agents.reload(node)
        wait_for(
            functools.partial(_has_read, node, before),
            f"{node} to read its configuration again",
            timeout_s=20,
        )


def _has_read(node: str, before: str | None) -> bool:
    return _loaded(node) not in {None, before}


def _loaded(node: str) -> str | None:
    said = agents.show(node)
    return str(said["configuration"]["loaded"]) if said else None


def _deaths(wanted: int, budget: Budget, what: str, *, share: float) -> list[RoutedDeath]:
    found: list[RoutedDeath] = []
    # The lab stands with the first run; what it takes is part of the time.
    for number in budget.runs(wanted, what, share=share):
        with budget.attempt(f"run {number + 1} of {what}"):
            serving = ground.twinbeat(options())
            found.append(one_death(serving))
            last = found[-1]
            ground.say(
                f"  {what}: {last.outage_ns / MS:.0f} ms, of which detection "
                f"{last.detection_ns / MS:.0f}, gate and routes {last.act_ns / MS:.1f}, "
                f"daemons {last.daemon_ns / MS:.1f}"
            )
        ground.mend(keep=("bird-",))
    return found
