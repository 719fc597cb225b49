# SPDX-License-Identifier: Apache-2.0
"""`python -m twinbeat.runtime.doctor`: what this host lacks for a pair, line by line, with the fix.

Looks, and changes nothing; runs in a process of its own beside a serving agent.  A check that can't
be made here is a warning that says so, never silence.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from twinbeat.api.schema import Check, Doctor
from twinbeat.config.keys import load_keys
from twinbeat.config.load import examine
from twinbeat.config.model import CONFIG_PATH, Config
from twinbeat.config.problems import ConfigError
from twinbeat.config.secrets import load_options
from twinbeat.core.witness import Kind, Question, Verdict
from twinbeat.engine import bpf
from twinbeat.engine.bpf import BpfError, MapFlag, MapType
from twinbeat.engine.maps import PIN_ROOT
from twinbeat.net import ethtool, sysctls
from twinbeat.net.interfaces import Interface, interfaces
from twinbeat.runtime import conntrack, host, machine, witness
from twinbeat.runtime.store import STATE_DIRECTORY
from twinbeat.witness.base import WitnessError

OK: Final = "ok"
WARNING: Final = "warning"
ERROR: Final = "error"

KERNEL_LEAST: Final = (5, 18)
"""The first that loads XDP programs which take packets in fragments (BPF_F_XDP_HAS_FRAGS)."""
MTU_LEAST: Final = 576
_CAPABILITIES: Final = {
    "CAP_NET_ADMIN": (12, "interfaces, addresses, programs"),
    "CAP_NET_RAW": (13, "heartbeats and announcements"),
    "CAP_IPC_LOCK": (14, "memory that is never swapped"),
    "CAP_SYS_NICE": (23, "the engine's real-time priority"),
    "CAP_PERFMON": (38, "kernel programs that look into packets"),
    "CAP_BPF": (39, "kernel programs and maps"),
}
_GOOD_CLOCKS: Final = frozenset(
    {"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"}
)


def check(
    name: str, holds: bool | None, finding: str, *, fix: str = "", level: str = ERROR
) -> Check:
    """A line: `level` where the finding is bad, a warning where it can't be made out (None)."""
    if holds is None:
        return Check(name=name, level=WARNING, finding=finding, fix=fix)
    return Check(name=name, level=OK if holds else level, finding=finding, fix="" if holds else fix)


# -- the kernel -----------------------------------------------------------------------------------


def kernel() -> Iterator[Check]:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    least = ".".join(map(str, KERNEL_LEAST))
    yield check(
        "kernel",
        numbers >= KERNEL_LEAST,
        f"Linux {release}",
        fix=f"Twinbeat needs Linux {least} or newer",
    )
    yield _maps()
    mounted = PIN_ROOT.parent.is_mount()
    yield check(
        "bpffs",
        mounted,
        f"{PIN_ROOT.parent} is {'' if mounted else 'not '}a BPF file system",
        fix=f"mount -t bpf bpf {PIN_ROOT.parent}",
    )
    found = importlib.util.find_spec("bcc") is not None
    yield check(
        "bcc",
        found,
        "the compiler of the kernel programs " + ("is there" if found else "can't be imported"),
        fix="apt install python3-bpfcc (never PyPI's bcc, which is about lattices)",
    )
    jit = _sysctl("net/core/bpf_jit_enable")
    if jit is not None:
        compiled = jit != "0"
        yield check(
            "bpf_jit",
            compiled,
            "kernel programs are compiled to machine code"
            if compiled
            else "kernel programs are interpreted, several times slower",
            fix="sysctl -w net.core.bpf_jit_enable=1",
            level=WARNING,
        )


def _maps() -> Check:
    try:
        fd = bpf.create_map(
            "tb_doctor",
            kind=MapType.ARRAY,
            key_size=4,
            value_size=64,
            entries=1,
            flags=MapFlag.MMAPABLE,
        )
    except BpfError as error:
        fix = "needs CAP_BPF and CONFIG_BPF_SYSCALL; a container may forbid bpf(2) altogether"
        return check("bpf", False, str(error), fix=fix)
    os.close(fd)
    return check("bpf", True, "maps can be made and shared with the engine")


def permissions() -> Iterator[Check]:
    effective = int(_status_field("CapEff") or "0", 16)
    for name, (bit, what) in _CAPABILITIES.items():
        yield check(
            name,
            bool(effective >> bit & 1),
            f"{what}: {'granted' if effective >> bit & 1 else 'missing'}",
            fix=f"run as root, or grant {name} (the unit in deploy/systemd does)",
        )
    for directory in (STATE_DIRECTORY, Path("/run/twinbeat")):
        present = directory.is_dir()
        yield check(
            "directory",
            present and os.access(directory, os.W_OK | os.X_OK),
            f"{directory} {'' if present else 'does not exist or '}"
            f"{'can be written' if os.access(directory, os.W_OK) else 'can not be written'}",
            fix=f"mkdir -m 0700 {directory} (the unit's StateDirectory= and RuntimeDirectory= do)",
        )


# -- time -----------------------------------------------------------------------------------------


def realtime(config: Config | None) -> Iterator[Check]:
    latency_us = config.idle_latency_us if config else None
    held = host.keep_awake(latency_us) if latency_us is not None else None
    lateness = host.measure()
    if isinstance(held, int):
        os.close(held)
    if held is not None:
        yield check(
            "idle_latency",
            isinstance(held, int),
            held
            if isinstance(held, str)
            else f"processors can be kept awake: they wake up within {latency_us} µs while the "
            "agent runs",
            fix=f"let the agent write to {host.LATENCY_DEVICE} (deploy/systemd/tmpfiles.conf and "
            "DeviceAllow= do), or set engine.idle_latency_us = -1",
            level=WARNING,
        )
    yield check(
        "realtime",
        lateness.realtime,
        "the engine's thread gets real-time priority"
        if lateness.realtime
        else "SCHED_FIFO is refused",
        fix="grant CAP_SYS_NICE or LimitRTPRIO=; under cgroup v1 with CONFIG_RT_GROUP_SCHED give "
        "the group a cpu.rt_runtime_us",
    )
    text = (
        f"wake-ups are late by {lateness.median_ns // 1000} µs in the median, "
        f"{lateness.p99_ns // 1000} µs at one in a hundred, {lateness.max_ns // 1000} µs at most"
    )
    if config is None:
        yield check("lateness", None, text, fix="fix the configuration to compare it with timers")
    else:
        forgiving = msgspec.structs.replace(config.timers_set, accept_host=False)
        fitting = host.fit(msgspec.structs.replace(config, timers_set=forgiving), lateness)
        wrong = fitting.refused or fitting.raised
        yield check(
            "lateness",
            not wrong,
            wrong or text,
            fix="isolate a processor (isolcpus=), stop what else runs, or choose a slower profile",
            level=ERROR if fitting.refused and not config.timers_set.accept_host else WARNING,
        )
    yield from _throttling()
    yield from _clock()
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    free = locked == resource.RLIM_INFINITY or bool(
        int(_status_field("CapEff") or "0", 16) >> 14 & 1
    )
    yield check(
        "memlock",
        free,
        "memory can be locked" if free else f"only {locked >> 10} KiB of memory can be locked",
        fix="LimitMEMLOCK=infinity",
        level=WARNING,
    )


def _throttling() -> Iterator[Check]:
    runtime, period = _sysctl("kernel/sched_rt_runtime_us"), _sysctl("kernel/sched_rt_period_us")
    if runtime is None or period is None:
        return
    off = runtime == "-1"
    pause_ms = 0 if off else max(0, int(period) - int(runtime)) // 1000
    yield check(
        "rt_throttling",
        off,
        "real-time threads are never stopped"
        if off
        else f"a real-time thread that hogs a processor stops all of them for {pause_ms} ms in "
        "each second; the engine sleeps between rounds, others may not",
        fix="keep other real-time threads off the engine's processor, or sysctl -w "
        "kernel.sched_rt_runtime_us=-1",
        level=WARNING,
    )


def _clock() -> Iterator[Check]:
    source = _read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    yield check(
        "clock",
        None if source is None else source in _GOOD_CLOCKS,
        f"clock source {source or 'unknown'}"
        + ("" if source in _GOOD_CLOCKS else ": reading it may cost microseconds"),
        fix="cat /sys/devices/system/clocksource/clocksource0/available_clocksource; prefer tsc",
        level=WARNING,
    )


# -- the network ----------------------------------------------------------------------------------


def network(config: Config) -> Iterator[Check]:
    present = interfaces()
    ports = {section.interface for section in config.vrids}
    tagged = {section.interface for section in config.links if section.vlan}
    for name in sorted(ports | {section.interface for section in config.links}):
        found = present.get(name)
        if found is None:
            yield check(name, False, "there is no such interface", fix="`ip link` lists them")
            continue
        yield from _interface(found)
        if name in tagged:
            yield _vlan_offload(name)
        yield from _queues(name, config)
    ipv6 = any(":" in text for section in config.vrids for text in section.vips)
    findings = sysctls.check_ports(sorted(ports), ipv6=ipv6)
    for finding in findings:
        yield check("sysctl", False, finding.sentence(), fix=finding.fix(), level=WARNING)
    if not findings:
        yield check(
            "sysctl", True, "ARP, redirects and reverse path filtering are as they should be"
        )
    for good, sentence, fix in conntrack.findings(config):
        yield check("conntrack", good, sentence, fix=fix, level=WARNING)


def _interface(found: Interface) -> Iterator[Check]:
    usable = found.up and found.carrier
    yield check(
        found.name,
        usable,
        "up, with carrier" if usable else "no carrier" if found.up else "down",
        fix=f"ip link set {found.name} up, and look at the cable",
        level=WARNING,
    )
    yield check(
        found.name,
        found.mtu >= MTU_LEAST,
        f"MTU {found.mtu}",
        fix=f"ip link set {found.name} mtu 1500",
    )
    driver = ethtool.driver(found.name) or found.kind or "unknown driver"
    yield from _carrier_of_xdp(found)
    match found.xdp_mode:
        case "native":
            yield check(found.name, True, f"XDP runs in the driver ({driver})")
        case "generic" if found.kind in _GENERIC_KINDS:
            pass  # told above
        case "generic":
            yield check(
                found.name,
                False,
                f"XDP runs in generic mode: driver {driver} has no native one, so each frame costs "
                "a copy more",
                fix="another card, or a newer driver; it works as it is",
                level=WARNING,
            )
        case _:
            yield check(
                found.name,
                None,
                f"no XDP program is attached now (driver {driver}); the mode shows when twinbeatd "
                "runs",
            )


_GENERIC_KINDS: Final = frozenset({"vlan", "bridge", "macvlan"})


def _carrier_of_xdp(found: Interface) -> Iterator[Check]:
    """On a device that is made of others: where the gate stands, and what that costs."""
    match found.kind:
        case "vlan" | "bridge" | "macvlan":
            yield check(
                found.name,
                None,
                f"a {found.kind}: XDP runs on it in generic mode, behind the kernel's own handling "
                "of the frame, so each frame for this host costs a copy more",
                fix="it works as it is; faster is the card itself, and for heartbeats its name "
                "with vlan = …",
            )
        case "bond":
            ports = [one for one in interfaces().values() if one.master == found.index]
            names = ", ".join(one.name for one in ports) or "none"
            native = found.xdp_mode == "native"
            yield check(
                found.name,
                native or found.xdp_mode == "none" or None,
                f"a bond: XDP is attached to it and runs natively on each of its ports ({names})"
                if native or found.xdp_mode == "none"
                else f"a bond whose ports ({names}) or mode allow no native XDP: it runs on the "
                "bond in generic mode",
                fix="modes balance-rr, active-backup, balance-xor and 802.3ad run it natively, if "
                "the drivers of all ports do",
            )
        case _:
            pass


def _vlan_offload(name: str) -> Check:
    stripped = ethtool.strips_vlan_tags(name)
    return check(
        name,
        None if stripped is None else not stripped,
        "the card doesn't say whether it strips VLAN tags"
        if stripped is None
        else f"the card {'strips' if stripped else 'leaves'} VLAN tags"
        + (": XDP doesn't see them, and its answers would leave untagged" if stripped else ""),
        fix=f"ethtool -K {name} rxvlan off",
    )


def _queues(name: str, config: Config) -> Iterator[Check]:
    queues = len(list(Path(f"/sys/class/net/{name}/queues").glob("rx-*")))
    links = [section for section in config.links if section.interface == name]
    if queues < 2 or not links:
        return
    versions = {6 if ":" in section.local else 4 for section in links}
    for version in sorted(versions):
        hashed = ethtool.hashes_udp_ports(name, version)
        yield check(
            name,
            hashed,
            f"{queues} receive queues; UDP ports over IPv{version} "
            + (
                "choose among them"
                if hashed
                else "are not known to choose among them, so probes may test only one"
            ),
            fix=f"ethtool -N {name} rx-flow-hash udp{version} sdfn",
            level=WARNING,
        )


# -- witness and references -----------------------------------------------------------------------


def third_parties(config: Config) -> list[Check]:
    """Each member of the witness and each reference is asked on its own."""
    return asyncio.run(_ask_third_parties(config))


async def _ask_third_parties(config: Config) -> list[Check]:
    checks = []
    section, clusters = config.witness, {}
    for endpoint in section.endpoints if section.kind != "none" else ():
        alone = replace(config, witness=replace(section, endpoints=(endpoint,)))
        try:
            third_party = witness.build(alone, now_ns=time.monotonic_ns)
        except WitnessError as error:
            return [check("witness", False, str(error))]
        # The first request makes the connection, so the second one tells how long it takes.
        answer = await third_party.ask(Question(kind=Kind.LOOK))
        if answer.verdict is not Verdict.SILENT:
            answer = await third_party.ask(Question(kind=Kind.LOOK))
        await third_party.close()
        took_ms = (answer.done_ns - answer.sent_ns) / 1e6
        answered = answer.verdict is not Verdict.SILENT
        clusters[endpoint] = third_party.cluster
        in_time = took_ms < section.lease_ms / 8
        checks.append(
            check(
                "witness",
                answered and in_time,
                f"{endpoint} answers in {took_ms:.1f} ms" if answered else answer.why,
                fix="nearer members, or a longer witness.lease_ms"
                if answered
                else "see the documentation of the witness",
                level=WARNING if answered else ERROR,
            )
        )
    found = {cluster for cluster in clusters.values() if cluster}
    if len(found) > 1:
        checks.append(
            check(
                "witness",
                False,
                f"the endpoints belong to {len(found)} clusters, so there are as many arbiters",
                fix="name the members of one cluster",
            )
        )
    for reference in config.isolation.references:
        answers = await witness.reachable(reference, config.isolation.interval_ms / 1000)
        checks.append(
            check(
                "reference",
                answers,
                f"{reference} answers" if answers else f"{reference} doesn't answer",
                fix="isolation.references names addresses that always answer",
                level=WARNING,
            )
        )
    return checks


# -- the whole ------------------------------------------------------------------------------------


def examine_host(path: str) -> Doctor:
    """Every check there is."""
    checks = [*kernel(), *permissions()]
    config, problems = examine(path)
    for problem in problems:
        level = WARNING if problem.warning else ERROR
        checks.append(check("configuration", False, str(problem), level=level))
    if config is not None:
        checks.append(check("configuration", True, f"{path} can be used"))
        checks += _keys(config)
        checks += last_resorts(config)
        checks += third_parties(config)
        checks += network(config)
        checks += machine.cards(config)
        checks.append(machine.sleep(config))
    checks += realtime(config)
    checks.append(machine.versions())
    return Doctor(checks=checks)


def _keys(config: Config) -> Iterator[Check]:
    try:
        keys = load_keys(config)
    except ConfigError:
        return  # told among the configuration's problems
    ids = ", ".join(str(key.id) for key in keys)
    yield check("keys", True, f"accepted: {ids}; sent under {config.keys.send}")


def last_resorts(config: Config) -> Iterator[Check]:
    """Watchdog and fence agent. The device isn't opened, as that would arm it."""
    dog, fence = config.watchdog, config.fence
    if dog.mode != "off":
        there = Path(dog.device).is_char_device() and os.access(dog.device, os.W_OK)
        yield check(
            "watchdog",
            there,
            f"{dog.device} {'can' if there else 'can not'} be opened ({dog.mode})",
            fix="load its driver (softdog, where the hardware has none), let group twinbeat write "
            "to it, and see that nobody else holds it",
            level=ERROR if dog.mode == "required" else WARNING,
        )
    if fence.agent:
        options = load_options(fence, config.path)
        count = len(options.open) + len(options.secret)
        told = f"{fence.agent}, {fence.action} {fence.policy} the takeover, {count} options"
        yield check(
            "fence",
            fence.action != "status",
            told,
            fix='action = "status" fences nobody; say off or reboot when it has been tried',
            level=WARNING,
        )


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return None


def _sysctl(key: str) -> str | None:
    return _read(f"/proc/sys/{key}")


def _status_field(name: str) -> str | None:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return line.split(":", 1)[1].strip()
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; 1 if anything is an error."""
    parser = argparse.ArgumentParser(prog="twinbeat doctor")
    parser.add_argument("--config", default=CONFIG_PATH)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    report = examine_host(options.config)
    write: Callable[[str], int] = sys.stdout.write
    if options.json:
        write(msgspec.json.encode(report).decode() + "\n")
    else:
        for line in report.checks:
            write(f"{line.level:<8}{line.name}: {line.finding}\n")
            if line.fix:
                write(f"        {line.fix}\n")
    return 1 if any(line.level == ERROR for line in report.checks) else 0


if __name__ == "__main__":
    sys.exit(main())
