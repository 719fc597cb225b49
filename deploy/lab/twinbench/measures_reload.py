# SPDX-License-Identifier: Apache-2.0
"""A reload under probes, beside the same time without one, and beside an equal, unrelated burden.

On a machine this small any processor time that something takes delays somebody's engine, and raises
suspicions.  So each reload has two companions, measured just before and just after it: a stretch
like it in which nothing happens, and one in which a process that knows nothing of Twinbeat takes as
much processor time as the reload did, in one piece.  The bar is on the reload alone.
"""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from twinlab import agents, netns, plan, probe
from twinlab.shell import LabError

from twinbench import cpu, figures, ground, judge, samples
from twinbench.budget import Budget
from twinbench.effort import Effort
from twinbench.figures import Figure

AFTER_S = 0.1
"""How long each stretch goes on after what happens in it."""
BURDEN_MIN_MS = 1.0
RELOADED_WITHIN_S = 10.0


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

    def per_minute(self) -> float:
        return judge.per_minute(sum(self.suspicions), sum(e - b for b, e in self.spans) / 1e9)

    def lost(self, record: probe.Record) -> list[int]:
        """Probes lost in each stretch."""
        return [_lost_between(record, begin, end) for begin, end in self.spans]


def reload(effort: Effort, budget: Budget) -> list[Figure]:
    """SIGHUP, as `systemctl reload` sends it, on both nodes in turn, while probes run."""
    ground.twinbeat(ground.options())
    quiet, loaded, burdened = Stretches(), Stretches(), Stretches()
    nodes = itertools.cycle(plan.NODES)
    with probe.Probe(interval_us=200) as running, Burden() as burden:
        running.wait_served(run=200)
        for number in budget.runs(effort.reloads, "reloads"):
            node = next(nodes)
            with budget.attempt(f"reload {number + 1}"):
                _stretch(quiet, node, running, lambda: None)
                _reload(loaded, node, running)
                extra = max(BURDEN_MIN_MS, loaded.cpu_ms[-1] - quiet.cpu_ms[-1])
                _stretch(burdened, node, running, functools.partial(burden.burn, extra))
        record = running.finish()
    return _figures(record, quiet, loaded, burdened)


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


def _reload(into: Stretches, node: str, running: probe.Probe) -> None:
    """One reload, with its stretch."""
    before = _loaded(node)
    ends = time.monotonic() + RELOADED_WITHIN_S

    def done() -> bool:
        if time.monotonic() > ends:
            raise LabError(f"{node} has not read its configuration again")
        return _loaded(node) not in (before, None)

    _stretch(into, node, running, functools.partial(agents.reload, node), done)


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
    record: probe.Record, quiet: Stretches, loaded: Stretches, burdened: Stretches
) -> list[Figure]:
    seconds = sum(end - begin for begin, end in loaded.spans) / 1e9
    extra = [
        reload_ms - quiet_ms
        for reload_ms, quiet_ms in zip(loaded.cpu_ms, quiet.cpu_ms, strict=False)
    ]
    details = {
        "suspicions_per_minute": {
            "quiet": round(quiet.per_minute(), 1),
            "equal_unrelated_burden": round(burdened.per_minute(), 1),
            "reload": round(loaded.per_minute(), 1),
        },
        "probes_lost": {
            "quiet": sum(quiet.lost(record)),
            "equal_unrelated_burden": sum(burdened.lost(record)),
            "reload": sum(loaded.lost(record)),
        },
        "processor_ms_of_a_reload": samples.median(extra),
    }
    rates = (
        ("reload_suspicion_rate", loaded),
        ("beside_load_suspicion_rate", burdened),
        ("beside_quiet_suspicion_rate", quiet),
    )
    return [
        figures.measured("reload_lost", loaded.lost(record), details=details),
        figures.measured("reload_suspicions", loaded.suspicions, details=details),
        *(
            figures.measured(name, [kind.per_minute()] if kind.spans else [], seconds=seconds)
            for name, kind in rates
        ),
        figures.measured("beside_load_lost", burdened.lost(record)),
        figures.measured("reload_cpu", extra),
    ]
