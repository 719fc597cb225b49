# SPDX-License-Identifier: Apache-2.0
"""A throw-away network namespace for a test, entered by the test's own thread."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def fresh_namespace() -> Iterator[None]:
    """Be in a namespace with nothing but `lo`; it is gone when the last thread has left it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.unshare(_CLONE_NEWNET))
        ip("link set lo up")
        yield
    finally:
        _checked(_libc.setns(home, _CLONE_NEWNET))
        os.close(home)


def ip(arguments: str) -> str:
    """Run `ip` here; its output."""
    done = subprocess.run(
        ["ip", *arguments.split()], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, f"ip {arguments}: {done.stderr}"
    return done.stdout


def veth(name: str, peer: str) -> None:
    """A pair of interfaces, both up."""
    ip(f"link add {name} type veth peer name {peer}")
    for one in (name, peer):
        ip(f"link set {one} up")
