# SPDX-License-Identifier: Apache-2.0
"""The way into a machine of the tests, and into nothing else.

A command that is meant for a machine and runs on the host would install packages, write into /etc
and restart services there. So it is asked twice: from outside, whether that process has namespaces
and a root of its own with the mark that was put into that machine; and inside, by whatever is about
to run, whether the mark is there. Neither finds it on the host.

It knows the standard library only: Ansible loads it with an interpreter that isn't ours.
"""

import os
import secrets
from pathlib import Path

MARK = ".machine"
"""Below /mnt inside, which is a directory of the test's outside."""
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
ELSEWHERE = 125
"""The exit code of a command that found itself in another place than that machine."""
ASK = f"""
[ -n "$0" ] && [ "$(cat /mnt/{MARK})" = "$0" ] || {{
    echo "this is not the machine that was meant: nothing was run" >&2
    exit {ELSEWHERE}
}}
exec "$@"
"""


class NotTheMachineError(Exception):
    """Nothing may be run there; the text says why."""


def mark(exchange: Path) -> str:
    """Put a new mark into what is /mnt of a machine; what it is."""
    token = secrets.token_hex(16)
    (exchange / MARK).write_text(token)
    return token


def refusal(first: int, token: str) -> str | None:
    """Why that process is not the first one of the machine with that mark; None if it is."""
    own, theirs = Path("/proc/self"), Path(f"/proc/{first}")
    try:
        shared = [
            name
            for name in NAMESPACES
            if os.readlink(theirs / "ns" / name) == os.readlink(own / "ns" / name)
        ]
        if shared:
            return f"process {first} is in namespaces of whoever asks: {', '.join(shared)}"
        for path in ("", "etc"):
            if os.path.samestat((theirs / "root" / path).stat(), Path("/", path).stat()):
                return f"/{path} of process {first} is the host's"
        found = (theirs / "root" / "mnt" / MARK).read_text()
    except (OSError, ValueError) as error:
        return f"process {first} can't be asked whether it is a machine: {error}"
    if not token or found != token:
        return f"process {first} is of another machine"
    return None


def entering(first: int, token: str, *command: str) -> list[str]:
    """That command as root of the machine. Raises NotTheMachineError where it is none."""
    why = refusal(first, token)
    if why is not None:
        raise NotTheMachineError(why)
    # --wdns, not --wd: the latter's directory is the host's, and stays open for the command.
    way = ("nsenter", f"--target={first}", "--all", "--wdns=/", "env", "-i")
    paths = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8")
    return [*way, *paths, "DEBIAN_FRONTEND=noninteractive", "sh", "-c", ASK, token, *command]
