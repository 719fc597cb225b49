# SPDX-License-Identifier: Apache-2.0
"""Runs a command as `MemoryDenyWriteExecute=yes` would: no memory both writable and executable.

systemd does it by a seccomp filter, and so does this, for x86-64: mmap with PROT_WRITE and
PROT_EXEC together, and mprotect with PROT_EXEC, fail with EPERM.

Usage: confine.py COMMAND ARGUMENT…
"""

import ctypes
import mmap
import os
import platform
import struct
import sys

LOAD, AND, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
NUMBER, THIRD_ARGUMENT = 0, 32  # offsets in struct seccomp_data
MMAP, MPROTECT, PKEY_MPROTECT = 9, 10, 329
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 1
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2

# code, value, how many instructions to skip if it holds, and if not
FILTER = (
    (LOAD, NUMBER, 0, 0),
    (JUMP_EQUAL, MMAP, 0, 3),
    (LOAD, THIRD_ARGUMENT, 0, 0),
    (AND, mmap.PROT_WRITE | mmap.PROT_EXEC, 0, 0),
    (JUMP_EQUAL, mmap.PROT_WRITE | mmap.PROT_EXEC, 5, 4),
    (JUMP_EQUAL, MPROTECT, 1, 0),
    (JUMP_EQUAL, PKEY_MPROTECT, 0, 2),
    (LOAD, THIRD_ARGUMENT, 0, 0),
    (JUMP_SET, mmap.PROT_EXEC, 1, 0),
    (RETURN, ALLOW, 0, 0),
    (RETURN, REFUSE, 0, 0),
)


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine() -> None:
    """Applies the filter to this process and whatever it becomes."""
    assert platform.machine() == "x86_64", "the numbers of the system calls are those of x86-64"
    code = b"".join(struct.pack("=HBBI", op, yes, no, value) for op, value, yes, no in FILTER)
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(FILTER), code)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    confine()
    os.execv(sys.argv[1], sys.argv[1:])
