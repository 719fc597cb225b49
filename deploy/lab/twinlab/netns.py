# SPDX-License-Identifier: Apache-2.0
"""Namespaces of the lab: making them, marking them as ours, entering them, taking them away.

A network namespace is ours if the alias of its `lo` says so (`plan.MARK`); one that merely has the
same name is somebody else's and is never touched.  A node has a mount namespace besides, with its
own /run, /var/lib, /etc/twinbeat, /sys (of its network namespace) and /sys/fs/bpf, so a node finds
every shipped path where it is shipped, and never the other node's pins.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from twinlab import plan
from twinlab.shell import LabError, run

OURS = (*plan.NAMESPACES, plan.WITNESS_NS)
"""Every name that a namespace of the lab may have."""

ETC_TWINBEAT = Path("/etc/twinbeat")


_libc = ctypes.CDLL(None, use_errno=True)


def packet_socket(name: str, device: str) -> socket.socket:
    """An AF_PACKET socket on a device of a namespace, for a process that stays outside.

    It sends through the device's qdisc and hooks, as a program in the namespace would.
    """
    with open("/proc/self/ns/net") as home, (plan.NETNS_DIR / name).open() as away:
        _setns(away.fileno())
        try:
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            opened.bind((device, 0))
        finally:
            _setns(home.fileno())
    return opened


def _setns(fd: int) -> None:
    if _libc.setns(fd, 0) != 0:
        code = ctypes.get_errno()
        raise LabError(f"setns: {os.strerror(code)}")


def exists(name: str) -> bool:
    return (plan.NETNS_DIR / name).exists()


def enter(name: str) -> list[str]:
    """The command prefix that runs a program inside a namespace (a node: mounts included)."""
    prefix = ["nsenter", f"--net={plan.NETNS_DIR / name}"]
    node = name.removeprefix("tb-")
    if node in plan.NODES and (plan.MOUNTS_DIR / node).exists():
        prefix.append(f"--mount={plan.MOUNTS_DIR / node}")
    return prefix


def is_ours(name: str) -> bool:
    """Whether the namespace carries the lab's mark."""
    shown = subprocess.run(
        ["nsenter", f"--net={plan.NETNS_DIR / name}", "ip", "link", "show", "dev", "lo"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"alias {plan.MARK}" in shown.stdout


def present() -> list[str]:
    """The lab's namespaces that exist now and are ours."""
    return [name for name in OURS if exists(name) and is_ours(name)]


def refuse_foreign() -> None:
    """LabError if a namespace bears one of our names without being ours."""
    foreign = [name for name in OURS if exists(name) and not is_ours(name)]
    if foreign:
        raise LabError(
            f"namespace {', '.join(foreign)} exists, but the lab did not make it; "
            f"it stays untouched (remove it with `ip netns delete NAME` if it is nobody's)"
        )


def create(name: str) -> None:
    run(["ip", "netns", "add", name])
    run([*enter(name), "ip", "link", "set", "dev", "lo", "up", "alias", plan.MARK])


def make_run_dir() -> None:
    """Mount the lab's own tmpfs and bpffs; nothing in them is seen from other mount namespaces."""
    plan.RUN_DIR.mkdir(mode=0o755, exist_ok=True)
    if not os.path.ismount(plan.RUN_DIR):
        run(["mount", "-t", "tmpfs", "-o", "mode=0755,size=512m", plan.MARK, str(plan.RUN_DIR)])
        # Pinning a mount namespace to a file needs a parent mount that propagates nowhere.
        run(["mount", "--make-private", str(plan.RUN_DIR)])
    for directory in (plan.BPF_DIR, plan.NODES_DIR, plan.MOUNTS_DIR, plan.LOG_DIR):
        directory.mkdir(exist_ok=True)
    if not os.path.ismount(plan.BPF_DIR):
        run(["mount", "-t", "bpf", "-o", "mode=0700", plan.MARK, str(plan.BPF_DIR)])


def node_dir(node: str, path: str) -> Path:
    """Where the host finds a node's /run, /var/lib or /etc/twinbeat."""
    return plan.NODES_DIR / node / path.strip("/").replace("/", "-")


def create_mounts(node: str) -> None:
    """Make the node's mount namespace, kept alive by a file rather than by a process."""
    if not ETC_TWINBEAT.exists():
        # A mount point has to exist; `down` takes it away again.
        ETC_TWINBEAT.mkdir(mode=0o755)
        (plan.RUN_DIR / "made-etc-twinbeat").touch()
    holder = plan.MOUNTS_DIR / node
    holder.touch()
    name = plan.namespace(node)
    script = ["set -e", "mount -t sysfs sysfs /sys", "mount -t bpf bpf /sys/fs/bpf"]
    for path in ("/var/lib", "/etc/twinbeat", "/run"):
        source = node_dir(node, path)
        source.mkdir(parents=True, exist_ok=True)
        script.append(f"mount --bind {source} {path}")
    _on_some_processor(
        [
            *["nsenter", f"--net={plan.NETNS_DIR / name}"],
            *["unshare", f"--mount={holder}", "--propagation", "private"],
            *["sh", "-c", "\n".join(script)],
        ]
    )


def _on_some_processor(command: list[str]) -> None:
    """Run a command that keeps a new mount namespace in a file, where the kernel lets it be kept.

    A mount namespace may only be kept within an older one, and Linux 6.18 tells which is older by
    numbers that each processor deals out from a stock of its own.  Where the lab itself lives in a
    mount namespace of its own (a container), a processor with a lower stock has every new one
    refused: "Invalid argument".
    """
    refused = None
    for processor in sorted(os.sched_getaffinity(0)):
        try:
            run(["taskset", "-c", str(processor), *command])
        except LabError as error:
            if "Invalid argument" not in str(error):
                raise
            refused = error
        else:
            return
    if refused is not None:
        raise refused


def processes(name: str) -> list[int]:
    """The processes whose network namespace this is."""
    identity = os.stat(plan.NETNS_DIR / name)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            own = os.stat(entry / "ns" / "net")
            if (own.st_dev, own.st_ino) == (identity.st_dev, identity.st_ino):
                found.append(int(entry.name))
    return found


def end_processes(names: list[str], *, grace_s: float = 2.0) -> None:
    """End whatever runs in these namespaces: ask first, insist after the grace period.

    The namespaces are ours, so what runs in them was started through the lab.  A stopped process
    hears SIGTERM only once it is continued.
    """
    deadline = time.monotonic() + grace_s
    asked: set[int] = set()
    while left := {pid for name in names for pid in processes(name) if _runs(pid)}:
        late = time.monotonic() >= deadline
        for pid in left if late else left - asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
                os.kill(pid, signal.SIGCONT)
        asked |= left
        if late and time.monotonic() >= deadline + grace_s:
            raise LabError(f"processes {sorted(left)} don't end (see `ps`)")
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def remove() -> None:
    """Take everything of ours away, whatever state an interrupted `up` left it in."""
    ours = present()
    end_processes(ours)
    for node in plan.NODES:
        holder = plan.MOUNTS_DIR / node
        if holder.exists():
            subprocess.run(["umount", str(holder)], capture_output=True, check=False)
    for name in ours:
        run(["ip", "netns", "delete", name])
    if (plan.RUN_DIR / "made-etc-twinbeat").exists():
        with contextlib.suppress(OSError):
            ETC_TWINBEAT.rmdir()
    if os.path.ismount(plan.BPF_DIR):
        run(["umount", str(plan.BPF_DIR)])
    if os.path.ismount(plan.RUN_DIR):
        run(["umount", str(plan.RUN_DIR)])
    if plan.RUN_DIR.exists():
        shutil.rmtree(plan.RUN_DIR)
