# SPDX-License-Identifier: Apache-2.0
"""The primary dies silently: Twinbeat beside keepalived in alternating runs, bfdd's detection, many
VIPs.

Silent means that nothing tells: no carrier falls, no process ends, from one moment on nothing comes
from the node any more and nothing reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twinlab import agents, capture, lab, measure, plan, rivals
from twinlab.shell import LabError

from twinbench import figures, ground, judge, samples
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure

MS = 1e6
US = 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """One silent death of a Twinbeat primary."""

    outage_ns: int
    detection_ns: int
    """From the death to the verdict."""
    to_frame_ns: int | None
    """From the verdict to the survivor's first frame for a VIP on the client's switch."""
    to_answer_ns: int | None
    """From the verdict to the first answer that reached the client."""
    reason: str
    sender_gap_ns: int
    """The longest pause in the client's own sending around the outage."""


def one_death(
    node: str, options: plan.Options, *, interval_us: int = 100, vips: list[str] | None = None
) -> Death:
    """Let the primary die, measure, heal it and wait until the pair is whole.

    A node that was no longer primary when its death came makes the run void: LabError.
    """
    survivor = plan.peer(node)
    with capture.Capture(links=("lan0",), ports=(survivor,)) as recorder:
        moments: list[int] = []
        failure = measure.failure(
            lambda: moments.extend(ground.cut_silently(node)), interval_us=interval_us, vips=vips
        )
        recording = recorder.finish()
    died = moments[1]
    if not ground.was_primary(node, moments[0]):
        lab.heal(node)
        agents.wait_fit()
        raise LabError(f"{node} lost the role by itself just before it was to die")
    takeover = ground.takeover_after(survivor, moments[0])
    lab.heal(node)
    agents.wait_fit()
    if failure.outage_ns is None:
        raise LabError("the client was not served again")
    verdict = takeover.verdict_ns
    first = judge.first_frame_ns(ground.owned(recording, options), survivor, verdict or died)
    answered = failure.outage.first_good_ns if failure.outage else None
    return Death(
        outage_ns=failure.outage_ns,
        detection_ns=(verdict or takeover.gate_ns) - died,
        to_frame_ns=first - verdict if first is not None and verdict is not None else None,
        to_answer_ns=answered - verdict if answered is not None and verdict is not None else None,
        reason=takeover.reason,
        sender_gap_ns=failure.outage.sender_gap_ns if failure.outage else 0,
    )


def silent_death(effort: Effort, budget: Budget) -> list[Figure]:
    """Twinbeat and keepalived in turn, run by run, on the same lab."""
    ours: list[Death] = []
    theirs: list[float] = []
    for number in budget.runs(effort.deaths, "pairs of deaths"):
        with budget.attempt(f"run {number + 1} of Twinbeat"):
            serving = ground.twinbeat(ground.options())
            ours.append(one_death(serving, ground.options()))
            ground.say(f"  twinbeat {ours[-1].outage_ns / MS:.2f} ms ({ours[-1].reason})")
        ground.mend()
        ground.end_twinbeat()
        with budget.attempt(f"run {number + 1} of keepalived"):
            with ground.keepalived(ground.options()):
                theirs.append(_keepalived_death())
            ground.say(f"  keepalived {theirs[-1]:.2f} ms")
        ground.mend()
    return _death_figures(ours, theirs)


def _keepalived_death() -> float:
    failure = measure.failure(lambda: ground.cut_silently("a"), interval_us=100)
    if failure.outage_ns is None:
        raise LabError("keepalived's client was not served again")
    return failure.outage_ns / MS


def _death_figures(ours: list[Death], theirs: list[float]) -> list[Figure]:
    outages = [death.outage_ns / MS for death in ours]
    frames = [death.to_frame_ns / US for death in ours if death.to_frame_ns is not None]
    answers = [death.to_answer_ns / US for death in ours if death.to_answer_ns is not None]
    ratio = samples.ratio(samples.median(theirs), samples.median(outages))
    details: dict[str, Any] = {
        "detection_ms": [round(death.detection_ns / MS, 3) for death in ours],
        "reasons": [death.reason for death in ours],
        "above_1.3_ms": samples.count_above(outages, 1.3),
        "above_5_ms": samples.count_above(outages, 5),
        "client_itself_paused_1_ms": sum(1 for d in ours if d.sender_gap_ns > MS),
    }
    # The ratio of the medians stands for all pairs of runs: there are as many as both have runs.
    pairs = min(len(outages), len(theirs))
    return [
        figures.measured("silent_death_outage", outages, details=details),
        figures.measured("keepalived_outage", theirs),
        figures.measured("silent_death_ratio", [ratio] * pairs if ratio is not None else []),
        figures.measured("verdict_to_first_frame", frames),
        figures.measured("verdict_to_first_answer", answers),
    ]


def bfd(effort: Effort, budget: Budget) -> list[Figure]:
    """How long bfdd takes to detect what Twinbeat has repaired by then."""
    ground.end_twinbeat()
    ground.bare(ground.options())
    found = []
    with rivals.Bfd() as rival:
        for number in budget.runs(effort.bfd, "deaths"):
            with budget.attempt(f"run {number + 1} of bfdd"):
                rival.wait_up()
                found.append(measure.bfd_detection_ns("a") / MS)
                ground.say(f"  bfdd {found[-1]:.2f} ms")
            lab.heal("a")
    return [figures.measured("bfd_detection", found)]


def many_vips(effort: Effort, budget: Budget) -> list[Figure]:
    """10,000 VIPs and one, in turn as far as bringing them up permits."""
    many: list[float] = []
    one: list[float] = []
    for block in budget.runs(effort.many_vips_blocks, "blocks of deaths with one VIP and many"):
        of_block = 1 / (effort.many_vips_blocks - block)
        for count, into, share in ((1, one, 0.3), (effort.many_vips, many, 1.0)):
            options = ground.options(vips=count)
            lan = [vip for vip in options.lan_vips() if ":" not in vip]
            began = agents.boot_ns()
            serving = ground.twinbeat(options)
            ground.say(f"  {count} VIPs up in {(agents.boot_ns() - began) / 1e9:.1f} s")
            what = f"deaths with {count} VIPs"
            for _ in budget.runs(effort.many_vips_runs, what, share=share * of_block):
                with budget.attempt(what):
                    into.append(one_death(serving, options, vips=lan).outage_ns / MS)
                    ground.say(f"  {count} VIPs: {into[-1]:.2f} ms")
                serving = agents.wait_fit()
    ratio = samples.ratio(samples.median(many), samples.median(one))
    details = {"vips": effort.many_vips}
    return [
        figures.measured(
            "many_vips_outage",
            many,
            details=details,
        ),
        figures.measured("one_vip_outage", one),
        figures.measured(
            "many_vips_ratio", [ratio] * min(len(many), len(one)) if ratio is not None else []
        ),
    ]
