# SPDX-License-Identifier: Apache-2.0
"""What keeps a figure from being better here, in sentences made of what was measured.  Pure.

Its material is the result alone: the figures, and of each group a bare real-time thread's lateness
and costs just before, and the kernel's own books meanwhile.  A sentence whose numbers are missing
is left out; nothing is said that was not measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twinbench.samples import count_above, median, quantile

Object = dict[str, Any]

VMEXIT_NS = 2000
"""A local timer that takes longer than this to program is programmed by a hypervisor."""


class Seen:
    """A figure with everything that was measured beside it."""

    def __init__(self, figure: Object, group: Object, others: Mapping[str, Object]) -> None:
        self.figure = figure
        self.details: Object = figure["details"]
        self.bare: Object = group.get("bare_thread_before") or {}
        self.meanwhile: Object = group.get("machine_meanwhile") or {}
        self._others = others

    def middle(self, name: str) -> float | None:
        """Another figure's median."""
        value = self._others.get(name, {}).get("median")
        return None if value is None else float(value)

    def most(self, name: str) -> float | None:
        """Another figure's maximum."""
        value = self._others.get(name, {}).get("max")
        return None if value is None else float(value)

    def values(self, name: str) -> list[float]:
        """All of another figure's values."""
        return list(self._others.get(name, {}).get("values", ()))

    def detail(self, name: str, key: str) -> Any:
        """A detail of another figure; None if it has none."""
        return self._others.get(name, {}).get("details", {}).get(key)


def machine(group: Object) -> list[str]:
    """What the machine did before and during a group of figures; the same for all of them."""
    seen = Seen({"details": {}}, group, {})
    return [sentence for general in _GENERAL if (sentence := general(seen))]


def explain(figures: Sequence[Object], groups: Sequence[Object]) -> list[Object]:
    """The figures, each with the sentences on what limits it (`limited_by`)."""
    by_name = {figure["name"]: figure for figure in figures}
    nothing: Object = {}
    by_group = {group["name"]: group for group in groups}
    return [
        {
            **figure,
            "limited_by": _sentences(figure, by_group.get(figure["group"], nothing), by_name),
        }
        for figure in figures
    ]


def _sentences(figure: Object, group: Object, others: Mapping[str, Object]) -> list[str]:
    seen = Seen(figure, group, others)
    if figure["error"] or not figure["values"] or figure["name"] == "machine_noise":
        return []
    said: list[str | None] = []
    for names, explanations in _OWN:
        if figure["name"] in names:
            said += [explanation(seen) for explanation in explanations]
    if figure["bar"] is not None:
        said += [_over(seen), *machine(group)]
    return [sentence for sentence in said if sentence]


# -------------------------------------------------------------------- the machine ------------


def _lateness(seen: Seen) -> str | None:
    bare = seen.bare
    if not bare:
        return None
    each_s = bare["above_1ms"] / bare["seconds"]
    return (
        f"just before, a bare SCHED_FIFO 90 thread that sleeps each 200 us woke "
        f"{_us(bare['p50_ns'])} / {_us(bare['p99_ns'])} / {_us(bare['p999_ns'])} us late "
        f"(p50/p99/p99.9), {_us(bare['max_ns'])} us at worst, more than 1 ms {each_s:.1f} times "
        "a second"
    )


def _costs(seen: Seen) -> str | None:
    bare = seen.bare
    if not bare:
        return None
    return (
        f"each wake-up of that thread took {_us(bare['wake_ns'])} us of processor time; a system "
        f"call takes {bare['syscall_ns']} ns, programming the local timer "
        f"{_us(bare['programming_ns'])} us"
        + (" (left to the hypervisor)" if bare["programming_ns"] > VMEXIT_NS else "")
    )


def _stolen(seen: Seen) -> str | None:
    meanwhile = seen.meanwhile
    if not meanwhile:
        return None
    return (
        f"meanwhile the processors were {meanwhile['busy_percent']:g} % busy, "
        f"{meanwhile['stolen_percent']:g} % of their time was stolen by the hypervisor and "
        f"{meanwhile['interrupts_percent']:g} % went into interrupts "
        f"({meanwhile['interrupts_per_s']:,} a second)"
    )


_GENERAL: tuple[Callable[[Seen], str | None], ...] = (_lateness, _costs, _stolen)


def _over(seen: Seen) -> str | None:
    """How often the bar was exceeded, where it is one for a median: a tail or the rule?"""
    figure = seen.figure
    if figure["bar_on"] != "median" or figure["at_least"] or figure["runs"] < 2:
        return None
    above = count_above(figure["values"], figure["bar"])
    tails = [figure["median"], *(quantile(figure["values"], share) for share in (0.9, 0.99))]
    shown = " / ".join(_number(tail) for tail in tails)
    return (
        f"{above} of {figure['runs']} runs lay above the bar; p50/p90/p99 are {shown} "
        f"{figure['unit']}"
    )


# ----------------------------------------------------------------- single figures ------------


def _parts_of_a_death(seen: Seen) -> str | None:
    detection = median(seen.detail("silent_death_outage", "detection_ms") or ())
    frame = seen.middle("verdict_to_first_frame")
    answer = seen.middle("verdict_to_first_answer")
    if detection is None or frame is None or answer is None:
        return None
    return (
        f"the medians of its parts: {detection:.3f} ms from the death to the verdict (the timers' "
        f"dead + verify, less the age of the last heartbeat), {frame:.0f} us to the first frame, "
        f"{answer - frame:.0f} us more to the first answer (the client's pause of up to 100 us "
        "until its next probe, and the round trip through NAT and a server)"
    )


def _client_paused(seen: Seen) -> str | None:
    paused = seen.detail("silent_death_outage", "client_itself_paused_1_ms")
    return (
        None
        if paused is None
        else f"in {paused} of the runs the client itself got no processor for 1 ms"
    )


def _both_of_the_ratio(seen: Seen) -> str | None:
    ours, theirs = seen.middle("silent_death_outage"), seen.middle("keepalived_outage")
    if ours is None or theirs is None:
        return None
    return f"its parts are {theirs:.2f} ms of keepalived over {ours:.3f} ms"


def _both_of_many(seen: Seen) -> str | None:
    said = []
    for name in ("many_vips_outage", "one_vip_outage"):
        values = seen.values(name)
        if not values:
            return None
        said.append(f"{_number(min(values))} to {_number(max(values))} ms in {len(values)} runs")
    return f"with many VIPs {said[0]}, with one {said[1]}: the spread of either bounds the ratio"


def _outage_of_switchovers(seen: Seen) -> str | None:
    outages = seen.details.get("outage_ms") or ()
    middle = median(outages)
    if middle is None:
        return None
    return (
        f"the outages behind it have a median of {middle:.2f} ms, {max(outages):.2f} ms at most; a "
        "probe is sent each 0.2 ms"
    )


def _stall_outage(seen: Seen) -> str | None:
    name = seen.figure["name"].partition("_")[0]
    outages = seen.detail(f"{name}_overlap", "outage_ms")
    kinds = seen.detail(f"{name}_overlap", "old_gate_shut_by")
    if not outages or not kinds:
        return None
    counted = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in sorted(set(kinds)))
    return (
        f"the client's outage itself had a median of {_number(median(outages))} ms and was "
        f"{_number(max(outages))} ms at most; the old gate was shut by: {counted}"
    )


def _capture_whole(seen: Seen) -> str | None:
    lost = seen.details.get("frames_lost_by_capture")
    return None if lost is None else f"the capture that counts them lost {lost} frames"


def _load_witness(seen: Seen) -> str | None:
    details = seen.details
    if "late_ticks" not in details:
        return None
    profile = seen.figure["name"].rpartition("_")[2]
    fenced = details.get("primaries_stepped_down", {}).get("fenced", 0)
    late = [
        takeover["primary_was_late_ms"]
        for takeover in details.get("takeovers", ())
        if takeover["primary_was_late_ms"] is not None
    ]
    lateness = f" (the primary itself was held up for {max(late):g} ms at most)" if late else ""
    return (
        f"witnesses: {details['late_ticks']} late rounds of the engines, "
        f"{seen.most(f'lapses_{profile}') or 0:g} lapses of a lease{lateness}, "
        f"{fenced} primaries that say they were fenced, "
        f"{details['cleared_by_the_peers_kernel']} suspicions cleared by the peer's kernel, gates "
        f"unwatched for {_us(details['gates_unwatched_ns'])} us at most"
    )


def _contests(seen: Seen) -> str | None:
    shut = list(seen.detail("partition_served", "first_gate_shut_after_us") or ())
    known = [value for value in shut if value is not None]
    if not known:
        return None
    return (
        f"of {len(shut)} contests the first gate shut {_number(median(known))} us (median) and "
        f"{_number(max(known))} us (most) after the first frame that got through; keepalived's "
        f"median is {_number(seen.middle('keepalived_partition_served'))} ms"
    )


def _beside_a_reload(seen: Seen) -> str | None:
    rates, lost = seen.details.get("suspicions_per_minute"), seen.details.get("probes_lost")
    took = seen.details.get("processor_ms_of_a_reload")
    if not rates or not lost or took is None:
        return None
    parts = [
        f"{rates[kind]:g} suspicions a minute and {lost[kind]} probes lost {words}"
        for kind, words in (
            ("quiet", "while nothing happened"),
            ("equal_unrelated_burden", "under an unrelated process of equal processor time"),
            ("reload", "in the reloads"),
            ("unchanged_reload", "in reloads of an unchanged file"),
        )
        if kind in rates
    ]
    return (
        f"side by side: {', '.join(parts)}; a reload takes {took:.1f} ms of processor time outside "
        "the engine's thread"
    )


def _flood_ways(seen: Seen) -> str | None:
    sent, arrived = (seen.detail("flood_uncounted", key) for key in ("sent", "arrived"))
    if not sent or arrived is None:
        return None
    return (
        f"of {sent:,} frames sent {arrived:,} reached the node and {sent - arrived:,} were dropped "
        "at the switch's port: sender, switch, victim and watchers share the processors"
    )


def _plain_flood(seen: Seen) -> str | None:
    ours, plain = seen.middle("flood_suspicions"), seen.middle("plain_flood_suspicions")
    if ours is None or plain is None:
        return None
    return f"suspicions a minute: {_number(ours)} in it, {_number(plain)} in the unrelated flood"


def _hogs(seen: Seen) -> str | None:
    runs = seen.detail("hog_overlap", "runs") or ()
    parts = [
        f"cpu {run['cpu']}: {run['takeovers']} takeovers, outage {run['outage_ms']:.1f} ms, the "
        f"client itself paused {run['client_paused_ms']} ms"
        for run in runs
    ]
    return "; ".join(parts) or None


def _xdp(seen: Seen) -> str | None:
    medians = seen.details.get("medians_ns") or {}
    parts = ", ".join(
        f"{name} {_number(value)} ns" for name, value in medians.items() if value is not None
    )
    return f"medians side by side: {parts}" if parts else None


def _memory(seen: Seen) -> str | None:
    worker = seen.detail("agent_cpu_fast", "worker") or {}
    parts = [f"{name} {said['memory_mb']} MB" for name, said in worker.items()]
    return f"beside it, not counted in: {', '.join(parts)}" if parts else None


def _where_cpu_goes(seen: Seen) -> str | None:
    profile = seen.figure["name"].rpartition("_")[2]
    engine = median(seen.details.get("engine_thread_percent") or ())
    sleep, armed = (seen.middle(f"bare_{kind}_{profile}") for kind in ("sleep", "armed"))
    if engine is None or sleep is None or armed is None:
        return None
    text = (
        f"the engine's thread takes {engine:.2f} % of a core; a bare thread that only wakes as "
        f"often takes {sleep:.2f} %, and {armed:.2f} % sleeping in the engine's way"
    )
    sending = seen.middle(f"of_which_sending_{profile}")
    lab = seen.middle(f"of_which_lab_{profile}")
    if sending is not None:
        text += f"; sending the engine's frames adds {sending:.2f} points to that"
    if lab is not None:
        text += (
            f", {lab:.2f} of them for the lab's cables, switches and the receiver's program, "
            "which run on the sender's time (where a network card has its driver instead)"
        )
    return text


Explanation = Callable[[Seen], str | None]

_OWN: tuple[tuple[tuple[str, ...], tuple[Explanation, ...]], ...] = (
    (("silent_death_outage",), (_parts_of_a_death, _client_paused)),
    (("silent_death_ratio",), (_both_of_the_ratio, _parts_of_a_death)),
    (("verdict_to_first_frame", "verdict_to_first_answer"), (_parts_of_a_death,)),
    (("many_vips_ratio",), (_both_of_many,)),
    (("planned_lost",), (_outage_of_switchovers,)),
    (("sigstop_back", "sigkill_back"), (_stall_outage,)),
    (("sigstop_overlap", "sigkill_overlap"), (_stall_outage, _capture_whole)),
    (("false_failovers_fast", "false_failovers_balanced"), (_load_witness,)),
    (("partition_served", "partition_overlap"), (_contests, _capture_whole)),
    (("reload_lost", "reload_suspicions"), (_beside_a_reload,)),
    (("hog_overlap", "hog_outage"), (_hogs,)),
    (("flood_rate", "flood_uncounted"), (_flood_ways,)),
    (("flood_transitions", "flood_accepted", "flood_undetected_deaths"), (_plain_flood,)),
    (("xdp_hello", "xdp_probe", "xdp_unrelated"), (_xdp,)),
    (("agent_memory",), (_memory,)),
    (("agent_cpu_fast", "agent_cpu_balanced"), (_where_cpu_goes,)),
)


def _us(ns: float) -> str:
    return f"{ns / 1e3:,.1f}" if ns < 100_000 else f"{ns / 1e3:,.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"
