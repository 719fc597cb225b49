# SPDX-License-Identifier: Apache-2.0
"""Every figure of the bench: its name, its unit, what it is held against and when that counts.

This is the specification as data.  A *bar* is the least that has to be reached, an *aim* what is
wanted.  A bar is only judged if the figure was measured as thoroughly as the bar asks for: too few
runs, or a run too short, give no verdict either way (`holds` is None).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from twinbench.samples import median

MEDIAN, MAXIMUM = "median", "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What one figure is, before anything is measured."""

    name: str
    what: str
    """One line for people."""
    unit: str
    bar: float | None = None
    """None = shown for comparison, judged by nobody."""
    aim: float | None = None
    bar_on: str = MEDIAN
    """Which of the figure's numbers the bar holds for."""
    at_least: bool = False
    """The bar is a lower bound (a ratio in our favour), not an upper one."""
    runs_needed: int = 1
    seconds_needed: float = 0.0

    def __post_init__(self) -> None:
        if self.bar_on not in (MEDIAN, MAXIMUM):
            raise ValueError(f"{self.name}: a bar holds for the median or the maximum")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure as measured."""

    spec: Spec
    values: tuple[float, ...] = ()
    """One for each run, in the order of the runs."""
    seconds: float = 0.0
    """How long was watched, where the bar asks for a duration."""
    note: str = ""
    """What the numbers alone don't say."""
    details: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    """Why there is no figure, or why it isn't complete."""
    bar: float | None = None
    """Stands for the specification's bar where that depends on the timers in force."""
    aim: float | None = None
    """So for the aim."""

    @property
    def median(self) -> float | None:
        return median(self.values)

    @property
    def max(self) -> float | None:
        return max(self.values, default=None)

    @property
    def bar_in_force(self) -> float | None:
        return self.spec.bar if self.bar is None else self.bar

    @property
    def aim_in_force(self) -> float | None:
        return self.spec.aim if self.aim is None else self.aim

    @property
    def holds(self) -> bool | None:
        """Whether the bar is reached; None where there is none or too little was measured."""
        if self.bar_in_force is None or self.error:
            return None
        if len(self.values) < self.spec.runs_needed or self.seconds < self.spec.seconds_needed:
            return None
        return self._reaches(self.bar_in_force)

    @property
    def reaches_aim(self) -> bool | None:
        """Whether the aim is reached as well, judged under the same conditions as the bar."""
        if self.holds is None or self.aim_in_force is None:
            return None
        return self._reaches(self.aim_in_force)

    def _reaches(self, bound: float) -> bool | None:
        value = self.median if self.spec.bar_on == MEDIAN else self.max
        if value is None:
            return None
        return value >= bound if self.spec.at_least else value <= bound

    def to_json(self) -> dict[str, Any]:
        """The object of `bench --json`; numbers rounded to what was measured."""
        return {
            "name": self.spec.name,
            "median": _rounded(self.median),
            "max": _rounded(self.max),
            "runs": len(self.values),
            "unit": self.spec.unit,
            "bar": _rounded(self.bar_in_force),
            "aim": _rounded(self.aim_in_force),
            "holds": self.holds,
            "what": self.spec.what,
            "bar_on": self.spec.bar_on,
            "at_least": self.spec.at_least,
            "runs_needed": self.spec.runs_needed,
            "seconds": round(self.seconds, 1),
            "seconds_needed": self.spec.seconds_needed,
            "reaches_aim": self.reaches_aim,
            "values": [_rounded(value) for value in self.values],
            "note": self.note,
            "details": self.details,
            "error": self.error,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _specs(*specs: Spec) -> dict[str, Spec]:
    found = {spec.name: spec for spec in specs}
    if len(found) != len(specs):
        raise ValueError("two figures bear the same name")
    return found


SPECS = _specs(
    # ---------------------------------------------------------------- silent death -----------
    Spec(
        name="silent_death_outage",
        what="outage seen by the client when the primary dies silently, fast",
        unit="ms",
        bar=1.3,
        aim=1.0,
        runs_needed=20,
    ),
    Spec(
        name="keepalived_outage",
        what="the same with keepalived's fastest settings, in alternating runs",
        unit="ms",
    ),
    Spec(
        name="silent_death_ratio",
        what="keepalived's median outage over Twinbeat's",
        unit="times",
        bar=20,
        aim=30,
        at_least=True,
        runs_needed=20,
    ),
    Spec(
        name="bfd_detection",
        what="FRR bfdd, 10 ms x 3: from the death to its detection alone",
        unit="ms",
    ),
    Spec(
        name="verdict_to_first_frame",
        what="from the verdict to the new primary's first frame for the VIP on the switch",
        unit="us",
        bar=150,
        aim=50,
        runs_needed=20,
    ),
    Spec(
        name="verdict_to_first_answer",
        what="from the verdict to the first answer that reaches the client (sent each 100 us)",
        unit="us",
    ),
    # ------------------------------------------------------------------- many VIPs -----------
    Spec(
        name="many_vips_outage",
        what="outage with 10,000 VIPs on one VMAC, all of them probed in turn",
        unit="ms",
        runs_needed=10,
    ),
    Spec(
        name="one_vip_outage",
        what="outage with 1 VIP, in the same run",
        unit="ms",
        runs_needed=10,
    ),
    Spec(
        name="many_vips_ratio",
        what="outage with 10,000 VIPs over that with one",
        unit="times",
        bar=1.3,
        aim=1.0,
        runs_needed=10,
    ),
    # ------------------------------------------------------------------ switch-over ----------
    Spec(
        name="planned_lost",
        what="probes lost in a planned switch-over, one each 200 us",
        unit="probes",
        bar=2,
        aim=1,
        runs_needed=20,
    ),
    # ------------------------------------------------------------- a hung, dead agent --------
    Spec(
        name="sigstop_overlap",
        what="SIGSTOP: frames for a VIP from the old primary after the new one's first",
        unit="frames",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=20,
    ),
    Spec(
        name="sigstop_back",
        what="SIGSTOP: from the signal until the new primary serves",
        unit="ms",
        runs_needed=20,
    ),
    Spec(
        name="sigkill_overlap",
        what="SIGKILL: frames for a VIP from the old primary after the new one's first",
        unit="frames",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=20,
    ),
    Spec(
        name="sigkill_back",
        what="SIGKILL: from the signal until the new primary serves",
        unit="ms",
        runs_needed=20,
    ),
    Spec(
        name="lone_restart",
        what="SIGKILL without a peer, the agent started anew at once: outage seen by the client",
        unit="ms",
        runs_needed=5,
    ),
    # ----------------------------------------------------------- different subnets -----------
    Spec(
        name="routed_outage",
        what="gateways in different subnets, silent death: outage seen by the client, routed",
        unit="ms",
        runs_needed=5,
    ),
    Spec(
        name="routed_detection",
        what="of which ours: from the death to the verdict",
        unit="ms",
        runs_needed=5,
    ),
    Spec(
        name="routed_act",
        what="of which ours: from the verdict to the host route in the kernel's table",
        unit="ms",
        runs_needed=5,
    ),
    Spec(
        name="routed_daemon",
        what="of which the routing daemons': from the host route to the client's first answer",
        unit="ms",
        runs_needed=5,
    ),
    Spec(
        name="routed_routes_many",
        what="from the open gate to 1,000 routes of the role in the kernel",
        unit="ms",
        runs_needed=3,
    ),
    # ------------------------------------------------------------- false failovers -----------
    *(
        spec
        for profile in ("fast", "balanced")
        for spec in (
            Spec(
                name=f"false_failovers_{profile}",
                what=f"false failovers under 64 busy processes, {profile}",
                unit="failovers",
                bar=0,
                aim=0,
                bar_on=MAXIMUM,
                seconds_needed=600,
            ),
            Spec(
                name=f"undetected_deaths_{profile}",
                what=f"real deaths at random moments that nobody noticed, {profile}",
                unit="deaths",
                bar=0,
                aim=0,
                bar_on=MAXIMUM,
                runs_needed=10,
            ),
            Spec(
                name=f"lapses_{profile}",
                what=f"takeovers after the primary's lease had really run out, {profile}",
                unit="takeovers",
            ),
            Spec(
                name=f"suspicions_{profile}",
                what=f"suspicions a minute under that load, {profile}",
                unit="1/min",
            ),
        )
    ),
    # ------------------------------------------------------------------- partition -----------
    Spec(
        name="partition_served",
        what="total partition for 2 s: client served again after the first frame that gets through",
        unit="ms",
        bar=5,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=20,
    ),
    Spec(
        name="partition_lost",
        what="probes lost after the partition healed",
        unit="probes",
    ),
    Spec(
        name="partition_overlap",
        what="from the first frame that gets through to the last that a sole owner would not send",
        unit="us",
        bar_on=MAXIMUM,
        runs_needed=20,
    ),
    Spec(
        name="keepalived_partition_served",
        what="the same with keepalived (a run that never recovered counts as the time watched)",
        unit="ms",
    ),
    # ---------------------------------------------------------------------- reload -----------
    Spec(
        name="reload_lost",
        what="probes lost in a reload that changes keys of the configuration, fast",
        unit="probes",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=50,
    ),
    Spec(
        name="reload_suspicions",
        what="suspicions raised in a reload that changes keys of the configuration, fast",
        unit="suspicions",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=50,
    ),
    Spec(
        name="reload_over_quiet",
        what="stretches with suspicions: those with a reload, less those in which nothing happens",
        unit="stretches",
    ),
    Spec(
        name="reload_over_load",
        what="the same, less those in which an unrelated process takes as much processor time",
        unit="stretches",
    ),
    Spec(
        name="reload_suspicion_rate",
        what="the same as a rate, fast",
        unit="1/min",
    ),
    Spec(
        name="beside_load_suspicion_rate",
        what="suspicions beside it while an unrelated process takes as much processor time",
        unit="1/min",
    ),
    Spec(
        name="beside_quiet_suspicion_rate",
        what="suspicions beside it while nothing happens",
        unit="1/min",
    ),
    Spec(
        name="beside_load_lost",
        what="probes lost in those stretches of unrelated load",
        unit="probes",
    ),
    Spec(
        name="reload_cpu",
        what="processor time that such a reload takes, the engine's thread left out",
        unit="ms",
    ),
    Spec(
        name="unchanged_reload_lost",
        what="probes lost in a reload beside it of a file that nobody changed",
        unit="probes",
    ),
    Spec(
        name="unchanged_reload_suspicions",
        what="suspicions raised in a reload beside it of a file that nobody changed",
        unit="suspicions",
    ),
    # ------------------------------------------------------ one configuration on two ----------
    Spec(
        name="propagation",
        what="a change asked for on the primary until it is in force on both nodes, balanced",
        unit="ms",
        bar=10,
        runs_needed=50,
    ),
    Spec(
        name="propagation_command",
        what="the same through the command line, its start included",
        unit="ms",
    ),
    Spec(
        name="full_sync",
        what="a secondary's worker starts and takes over 10,000 VIPs and 1,000 routes, balanced",
        unit="s",
        bar=5,
    ),
    Spec(
        name="full_sync_transitions",
        what="changes of role or term meanwhile, and while the primary took them",
        unit="transitions",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
    ),
    Spec(
        name="full_sync_missed",
        what="heartbeats that were sent and not seen meanwhile",
        unit="heartbeats",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
    ),
    Spec(name="full_sync_suspicions", what="suspicions meanwhile", unit="1/min"),
    Spec(
        name="full_sync_quiet_suspicions",
        what="suspicions just before, while nothing happens",
        unit="1/min",
    ),
    Spec(
        name="storm_lost",
        what="processes killed in a stream of commands: acknowledged commands that are lost",
        unit="commands",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=200,
    ),
    Spec(
        name="storm_twice",
        what="commands that were applied twice",
        unit="commands",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=200,
    ),
    Spec(
        name="storm_faults",
        what="whatever else is otherwise than it was answered, those two included",
        unit="commands",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=200,
    ),
    Spec(
        name="storm_agree",
        what="from each death until both nodes agree again, its restart included",
        unit="s",
        bar=10,
        aim=5,
        bar_on=MAXIMUM,
        runs_needed=200,
    ),
    # --------------------------------------------------------------- connections --------------
    Spec(
        name="connections_download",
        what="downloads through NAT that a silent death of the primary breaks, balanced",
        unit="downloads",
        bar=1,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=20,
    ),
    Spec(
        name="connections_conversation",
        what="conversations, line by line, that it breaks",
        unit="conversations",
        bar=1,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=20,
    ),
    Spec(
        name="connections_pause",
        what="the longest a line of those that go on took, there and back",
        unit="ms",
    ),
    Spec(
        name="connections_fill",
        what="until the node that came back had all of the primary's connections",
        unit="s",
    ),
    # ------------------------------------------------------------------ sessions --------------
    Spec(
        name="sessions_moved",
        what="clients that were bound for half a second and got another server after a death",
        unit="clients",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=3,
    ),
    Spec(
        name="sessions_unanswered",
        what="clients that got no answer then",
        unit="clients",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=3,
    ),
    Spec(
        name="sessions_fill",
        what="a node that comes back gets 50,000 entries into its kernel",
        unit="s",
        bar=5,
        bar_on=MAXIMUM,
    ),
    Spec(
        name="sessions_fill_suspicions",
        what="suspicions meanwhile",
        unit="suspicions",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
    ),
    Spec(
        name="sessions_window",
        what="5,000 new clients a second: half of the entries are in the other kernel within",
        unit="ms",
        bar=100,
    ),
    Spec(
        name="sessions_window_late",
        what="and 999 of 1,000 within",
        unit="ms",
        bar=500,
    ),
    Spec(
        name="sessions_stream_missing",
        what="of these entries, those that the other kernel has not got in the end",
        unit="entries",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
    ),
    Spec(
        name="sessions_outage",
        what="outage of a silent death while 5,000 new clients a second come, balanced",
        unit="ms",
    ),
    Spec(
        name="sessions_outage_quiet",
        what="the same beside it without them",
        unit="ms",
    ),
    Spec(
        # The bar is made of the runs without them.
        name="sessions_outage_added",
        what="so much longer with them; the bar is the noise, by which those without differ",
        unit="ms",
        bar=0,
        runs_needed=5,
    ),
    # ----------------------------------------------------------------------- web logs --------
    Spec(
        name="weblog_lost",
        what="failovers under 2,000 requests a second: streams that lack replicated records",
        unit="streams",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=20,
    ),
    Spec(
        name="weblog_twice",
        what="records or requests that were written twice",
        unit="records",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=20,
    ),
    Spec(
        name="weblog_disorder",
        what="records of a node that came behind later ones",
        unit="records",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=20,
    ),
    Spec(
        name="weblog_missing",
        what="streams and logs of nginx of which something is never written",
        unit="streams",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=20,
    ),
    Spec(
        name="weblog_in_time",
        what="records that are on both nodes' disks within 100 ms, nothing happening",
        unit="%",
        bar=99,
        at_least=True,
        seconds_needed=20,
    ),
    Spec(
        name="weblog_in_time_failovers",
        what="the same between failovers, while both nodes can reach each other",
        unit="%",
        bar=99,
        at_least=True,
    ),
    Spec(
        name="weblog_rejoined",
        what="from a node's return until both replicate again, its programs' start included",
        unit="s",
    ),
    Spec(
        name="weblog_outage",
        what="outage of a silent death while 2,000 requests a second are logged, balanced",
        unit="ms",
    ),
    Spec(
        name="weblog_outage_quiet",
        what="the same beside it, with the requests and no logging",
        unit="ms",
    ),
    Spec(
        name="weblog_caught_up",
        what="a log client that stood still for a minute catches up, under the same load",
        unit="s",
    ),
    Spec(
        name="weblog_throughput",
        what="records a second: collected, on both disks, pulled and written",
        unit="1/s",
        bar=50_000,
        at_least=True,
    ),
    Spec(
        name="weblog_cost",
        what="processor time of a record, both workers and the client together",
        unit="us",
    ),
    # ------------------------------------------------------------------------- hog -----------
    Spec(
        name="hog_overlap",
        what="SCHED_FIFO hog above the engine on one CPU, 5 s: frames from two owners",
        unit="frames",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=2,
    ),
    Spec(
        name="hog_outage",
        what="longest outage while that hog ran",
        unit="ms",
        aim=5000,
        bar_on=MAXIMUM,
        runs_needed=2,
    ),
    # ----------------------------------------------------------------------- flood -----------
    Spec(
        name="flood_rate",
        what="forged or replayed frames a second that reached the node",
        unit="1/s",
        bar=200_000,
        at_least=True,
        seconds_needed=10,
    ),
    Spec(
        name="flood_transitions",
        what="changes of role during the flood",
        unit="transitions",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        seconds_needed=10,
    ),
    Spec(
        name="flood_unexplained",
        what="those of them that no stall of the machine was beside",
        unit="transitions",
    ),
    Spec(
        name="flood_stalls",
        what="stalls of the machine in it: a bare real-time thread waited for a lease or longer",
        unit="stalls",
    ),
    Spec(
        name="plain_flood_transitions",
        what="changes of role during an equal flood of unrelated frames",
        unit="transitions",
    ),
    Spec(
        name="flood_uncounted",
        what="forged frames that reached the node, less those counted as refused for what they are",
        unit="frames",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        seconds_needed=10,
    ),
    Spec(
        name="flood_accepted",
        what="signs of an accepted forged frame: a fence, a term or a peer that the flood named",
        unit="signs",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        seconds_needed=10,
    ),
    Spec(
        name="flood_suspicions",
        what="suspicions a minute under the forged flood",
        unit="1/min",
    ),
    Spec(
        name="plain_flood_suspicions",
        what="suspicions a minute under an equal flood of unrelated frames",
        unit="1/min",
    ),
    Spec(
        name="flood_undetected_deaths",
        what="real deaths during the flood that nobody noticed",
        unit="deaths",
        bar=0,
        aim=0,
        bar_on=MAXIMUM,
        runs_needed=3,
    ),
    # ------------------------------------------------------------------------ cost -----------
    Spec(name="xdp_hello", what="XDP cost of a HELLO", unit="ns", bar=400, aim=200),
    Spec(
        name="xdp_probe", what="XDP cost of a PROBE that is answered", unit="ns", bar=700, aim=350
    ),
    Spec(
        name="xdp_unrelated",
        what="XDP cost of an unrelated packet of the dearest kind",
        unit="ns",
        bar=30,
        aim=15,
    ),
    Spec(
        name="agent_memory",
        what="resident memory of twinbeatd",
        unit="MB",
        bar=60,
        aim=30,
        bar_on=MAXIMUM,
    ),
    *(
        spec
        for profile, bar in (("fast", 10.0), ("balanced", 1.5))
        for spec in (
            Spec(
                name=f"agent_cpu_{profile}",
                what=f"processor time of twinbeatd, {profile}, of one core",
                unit="%",
                bar=bar,
                aim=bar / 2,
                bar_on=MAXIMUM,
                seconds_needed=10,
            ),
            Spec(
                name=f"bare_sleep_{profile}",
                what=f"beside it: a real-time thread that only sleeps, woken as often, {profile}",
                unit="%",
            ),
            Spec(
                name=f"bare_armed_{profile}",
                what=f"the same, sleeping in the engine's way, {profile}",
                unit="%",
            ),
            Spec(
                name=f"of_which_sending_{profile}",
                what=f"what that thread takes more when it sends the engine's frames, {profile}",
                unit="%",
            ),
            Spec(
                name=f"of_which_lab_{profile}",
                what="of which the lab's cables, switches and the receiver's program, which run on "
                f"the sender's time, {profile}",
                unit="%",
            ),
        )
    ),
    # ----------------------------------------------------------------------- noise -----------
    Spec(
        name="machine_noise",
        what="lateness of a SCHED_FIFO 90 wake-up each 200 us on this machine, 99.9 %",
        unit="us",
    ),
)


def measured(
    name: str,
    values: Sequence[float],
    *,
    seconds: float = 0.0,
    note: str = "",
    details: dict[str, Any] | None = None,
    bar: float | None = None,
    aim: float | None = None,
) -> Figure:
    """A figure of the table with its values."""
    return Figure(
        spec=SPECS[name],
        values=tuple(values),
        seconds=seconds,
        note=note,
        details=details or {},
        bar=bar,
        aim=aim,
    )


def failed(name: str, error: str) -> Figure:
    """A figure that could not be measured, and why."""
    return Figure(spec=SPECS[name], error=error)
