# SPDX-License-Identifier: Apache-2.0
"""The project within reach of those who are not root, wherever it was checked out."""

import stat
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOR_OTHERS = stat.S_IROTH | stat.S_IXOTH

OVER = """
mount --bind "$1" /mnt && mount -t tmpfs -o mode=755 none "$2" &&
mkdir -p "$1" && mount --bind /mnt "$1" && shift 2 && exec "$@"
"""


def as_nobody(*capabilities: str) -> list[str]:
    """What a command of root's begins with, to become another user's with these options of setpriv.

    A checkout below a directory that others may not enter, as /root, is put in its place in a mount
    namespace of the command's own.
    """
    who = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *capabilities]
    closed = [one for one in ROOT.parents if one.stat().st_mode & FOR_OTHERS != FOR_OTHERS]
    if not closed:
        return who
    over = ["unshare", "--mount", "sh", "-euc", OVER, "sh", str(ROOT), str(closed[-1])]
    return [*over, *who]
