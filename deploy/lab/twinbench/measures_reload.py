# SPDX-License-Identifier: Apache-2.0
"""A reload under probes, beside the same time without one, and beside an equal, unrelated burden.

On a machine this small any processor time that something takes delays somebody's engine, and raises
suspicions.  So each reload has two companions, measured just before and just after it: a stretch
like it in which nothing happens, and one in which a process that knows nothing of Twinbeat takes as
much processor time as the reload did, in one piece.  The bar is on the reload alone; beside it
stands in how many more stretches it raised suspicions than its companions, and if that is chance.

A reload that finds nothing new is over when the file is read.  So before each one the node's file
is rewritten, and the reload counts only if the agent then says that the new values are in force.
One of a file that nobody changed is a third companion.
"""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from twinlab import agents, lab, netns, plan, probe
from twinlab.shell import LabError, wait_for

from twinbench import cpu, figures, ground, judge, samples
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure

AFTER_S = 0.1
"""How long each stretch goes on after what happens in it."""
BURDEN_MIN_MS = 1.0
RELOADED_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What a rewritten file says of the keys that are toggled, all of which change at run time."""

    refresh_s: int
    preempt_hold_s: int
    vips: int
    """On the lan side."""

    @classmethod
    def of(cls, number: int) -> Variant:
        """That of a node's n-th reload, from 0: two values in turn, each tenth time a VIP as well.

        The first ones of all differ from the file that the lab begins with.
        """
        return cls(
            refresh_s=61 + number % 2,
            preempt_hold_s=11 + number % 2,
            vips=1 + (number + 8) // 10 % 2,
        )

    def options(self, wanted: plan.Options) -> plan.Options:
        """The same lab, with these values in its nodes' files."""
        settings = (
            f"announce.refresh_s = {self.refresh_s}",
            f"policy.preempt_hold_s = {self.preempt_hold_s}",
        )
        return replace(wanted, vips=self.vips, settings=(*wanted.settings, *settings))

    def is_in_force(self, said: Mapping[str, Any]) -> bool:
        """Whether an agent's status shows them."""
        lan = next(one for one in said["vrids"] if one["id"] == plan.LAN_VRID)
        seen = (said["policy"]["preempt_hold_s"], lan["vips_total"])
        waiting = said["configuration"]["needs_restart"]
        return seen == (self.preempt_hold_s, self.vips) and not waiting


class Burden:
    """A running `burden.py`.  Use as a context."""

    def __init__(self) -> None:
        toml = netns.node_dir("a", "/etc/twinbeat") / "twinbeat.toml"
        nice = os.getpriority(os.PRIO_PROCESS, agents.pid("a"))
        script = plan.LAB_DIR / "twinbench" / "burden.py"
        python = plan.VENV_DIR / "bin" / "python"
        self._command = [*netns.enter(plan.CLIENT_NS), str(python), str(script)]
        self._command += [str(toml), str(nice)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Burden:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._expect("ready")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def burn(self, milliseconds: float) -> None:
        """Take so much processor time; returns when it is done."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{milliseconds:.3f}\n")
        self._process.stdin.flush()
        self._expect("done")

    def _expect(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != word:
            raise LabError("the unrelated burden ended by itself")


@dataclass(slots=True)
class Stretches:
    """What happened in all stretches of one kind."""

    suspicions: list[int] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    """Of the node's agent, without its engine."""

    def add(self, others: Stretches) -> None:
        """Those of another collection as well."""
        self.suspicions += others.suspicions
        self.spans += others.spans
        self.cpu_ms += others.cpu_ms

    def per_minute(self) -> float:
        return judge.per_minute(sum(self.suspicions), sum(e - b for b, e in self.spans) / 1e9)

    def beyond(self, others: Stretches) -> tuple[int, str]:
        """In how many more stretches there were suspicions than in their companions; in words."""
        pairs = min(len(self.suspicions), len(others.suspicions))
        mine, theirs = self.suspicions[:pairs], others.suspicions[:pairs]
        more, chance = judge.excess(mine, theirs)
        words = f"{sum(map(bool, mine))} of {pairs} stretches against {sum(map(bool, theirs))}; "
        return more, words + f"by chance alone {100 * chance:.1f} % of runs show as many more"

    def lost(self, record: probe.Record) -> list[int]:
        """Probes lost in each stretch."""
        return [_lost_between(record, begin, end) for begin, end in self.spans]


def reload(effort: Effort, budget: Budget) -> list[Figure]:
    """SIGHUP, as `systemctl reload` sends it, on both nodes in turn, while probes run."""
    wanted = ground.options()
    ground.twinbeat(wanted)
    quiet, loaded, burdened, unchanged = (Stretches() for _ in range(4))
    nodes = itertools.cycle(plan.NODES)
    extras: list[float] = []
    with_vips = 0
    try:
        with probe.Probe(interval_us=200) as running, Burden() as burden:
            running.wait_served(run=200)
            for number in budget.runs(effort.reloads, "reloads"):
                node, own = next(nodes), number // len(plan.NODES)
                variant = Variant.of(own)
                with budget.attempt(f"reload {number + 1}"):
                    _stretch(quiet, node, running, lambda: None)
                    _rewrite(node, variant.options(wanted))
                    _reload(loaded, node, running, variant)
                    extras.append(loaded.cpu_ms[-1] - quiet.cpu_ms[-1])
                    with_vips += variant.vips != (Variant.of(own - 1).vips if own else 1)
                    burned = max(BURDEN_MIN_MS, extras[-1])
                    _stretch(burdened, node, running, functools.partial(burden.burn, burned))
                    _reload(unchanged, node, running, variant)
            record = running.finish()
    finally:
        _restore(wanted)
    return _figures(record, quiet, loaded, burdened, unchanged, extras, with_vips)


def _rewrite(node: str, wanted: plan.Options) -> None:
    """Write the node's file anew, and the list of VIPs that it may refer to."""
    etc = netns.node_dir(node, "/etc/twinbeat")
    (etc / "vips-lan.txt").write_text("\n".join(plan.more_vips(wanted.vips - 1)) + "\n")
    (etc / "twinbeat.toml").write_text(agents.configuration(node, wanted))


def _restore(wanted: plan.Options) -> None:
    """The files that the lab began with; if they can't be put in force, the lab goes down."""
    try:
        for node in plan.NODES:
            before = _loaded(node)
            _rewrite(node, wanted)
            agents.reload(node)
            wait_for(
                functools.partial(_has_loaded, node, before),
                f"{node} reads its first configuration again",
                timeout_s=RELOADED_WITHIN_S,
            )
    except LabError as error:
        ground.say(f"  {error}")
        lab.down()


def _stretch(
    into: Stretches,
    node: str,
    running: probe.Probe,
    act: Callable[[], object],
    done: Callable[[], bool] | None = None,
) -> None:
    """Something happens, and a moment passes; a longer one only if it isn't done by then.

    The agents are asked the same in every kind of stretch: answering takes processor time too.
    """
    pid = agents.pid(node)
    before, used = _raised(), cpu.times(pid)
    began = agents.boot_ns()
    act()
    running.wait_for_time(AFTER_S)
    done = done or (lambda: _loaded(node) is not None)
    while not done():
        running.wait_for_time(AFTER_S)
    ended = agents.boot_ns()
    into.cpu_ms.append(cpu.used_ns(used, cpu.times(pid))["others"] / 1e6)
    into.suspicions.append(_raised() - before)
    into.spans.append((began, ended))


def _reload(into: Stretches, node: str, running: probe.Probe, variant: Variant) -> None:
    """One reload, with its stretch, after which the agent says that the file's values are in force.

    LabError if it doesn't: then nothing was measured.
    """
    before = _loaded(node)
    ends = time.monotonic() + RELOADED_WITHIN_S

    def done() -> bool:
        if time.monotonic() > ends:
            raise LabError(f"{node} has not read its configuration again")
        return _has_loaded(node, before)

    seen = Stretches()
    _stretch(seen, node, running, functools.partial(agents.reload, node), done)
    said = agents.show(node)
    if said is None or not variant.is_in_force(said):
        raise LabError(f"{node} has read its file again, and {variant} is not in force")
    into.add(seen)


def _has_loaded(node: str, before: str | None) -> bool:
    """Whether it has read its file since it said when it had."""
    return _loaded(node) not in (before, None)


def _loaded(node: str) -> str | None:
    said = agents.show(node)
    return str(said["configuration"]["loaded"]) if said else None


def _raised() -> int:
    """Suspicions so far, whatever came of them."""
    return sum(ground.suspicions().values())


def _lost_between(record: probe.Record, begin_ns: int, end_ns: int) -> int:
    judged = record.judged()
    return sum(
        1
        for sent, answered in zip(record.sent_ns[:judged], record.answered_ns[:judged], strict=True)
        if begin_ns <= sent <= end_ns and not answered
    )


def _figures(
    record: probe.Record,
    quiet: Stretches,
    loaded: Stretches,
    burdened: Stretches,
    unchanged: Stretches,
    extras: list[float],
    with_vips: int,
) -> list[Figure]:
    seconds = sum(end - begin for begin, end in loaded.spans) / 1e9
    kinds = {
        "quiet": quiet,
        "equal_unrelated_burden": burdened,
        "reload": loaded,
        "unchanged_reload": unchanged,
    }
    details = {
        "suspicions_per_minute": {
            name: round(kind.per_minute(), 1) for name, kind in kinds.items()
        },
        "probes_lost": {name: sum(kind.lost(record)) for name, kind in kinds.items()},
        "processor_ms_of_a_reload": samples.median(extras),
        "reloads_with_a_vip_more_or_less": with_vips,
    }
    note = (
        "each changed two keys (announce.refresh_s, policy.preempt_hold_s), as the agent's status "
        f"showed after it, and {with_vips} of them a VIP as well"
    )
    over_quiet, quiet_words = loaded.beyond(quiet)
    over_burden, burden_words = loaded.beyond(burdened)
    rates = (
        ("reload_suspicion_rate", loaded),
        ("beside_load_suspicion_rate", burdened),
        ("beside_quiet_suspicion_rate", quiet),
    )
    return [
        figures.measured("reload_lost", loaded.lost(record), note=note, details=details),
        figures.measured("reload_suspicions", loaded.suspicions, note=note, details=details),
        figures.measured("reload_over_quiet", [over_quiet], note=quiet_words),
        figures.measured("reload_over_load", [over_burden], note=burden_words),
        *(
            figures.measured(name, [kind.per_minute()] if kind.spans else [], seconds=seconds)
            for name, kind in rates
        ),
        figures.measured("beside_load_lost", burdened.lost(record)),
        figures.measured("reload_cpu", extras),
        figures.measured("unchanged_reload_lost", unchanged.lost(record)),
        figures.measured("unchanged_reload_suspicions", unchanged.suspicions),
    ]
