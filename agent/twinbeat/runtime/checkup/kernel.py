# SPDX-License-Identifier: Apache-2.0
"""What `doctor` says of the kernel and of what this process may do with it."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from twinbeat.api.schema import Check
from twinbeat.engine import bpf
from twinbeat.engine.bpf import BpfError, MapFlag, MapType
from twinbeat.engine.maps import PIN_ROOT
from twinbeat.runtime.checkup.checks import WARNING, check, effective, sysctl
from twinbeat.runtime.store import STATE_DIRECTORY

KERNEL_LEAST: Final = (5, 18)
"""The first that loads XDP programs which take packets in fragments (BPF_F_XDP_HAS_FRAGS)."""
_CAPABILITIES: Final = {
    "CAP_NET_ADMIN": (12, "interfaces, addresses, programs"),
    "CAP_NET_RAW": (13, "heartbeats and announcements"),
    "CAP_IPC_LOCK": (14, "memory that is never swapped"),
    "CAP_SYS_NICE": (23, "the engine's real-time priority"),
    "CAP_PERFMON": (38, "kernel programs that look into packets"),
    "CAP_BPF": (39, "kernel programs and maps"),
}


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
    jit = sysctl("net/core/bpf_jit_enable")
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
    granted = effective()
    for name, (bit, what) in _CAPABILITIES.items():
        yield check(
            name,
            bool(granted >> bit & 1),
            f"{what}: {'granted' if granted >> bit & 1 else 'missing'}",
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
