# SPDX-License-Identifier: Apache-2.0
"""An ext4 of a test's own in a file, which can lose its power: what wasn't synced is gone then."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy" / "lab"))

from twinlab.disks import cut, fill

__all__ = ["cut", "fill", "mount", "mounted_anew", "own_disk", "turn_read_only"]


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


@contextlib.contextmanager
def own_disk(image: Path, where: Path, size: int) -> Iterator[None]:
    """A new file system of that many bytes, mounted there."""
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    where.mkdir()
    mount("-o", "loop", image, where)
    try:
        yield
    finally:
        # Also where somebody still holds a file: he is about to let go of it.
        subprocess.run(["umount", "--lazy", where], check=False)


def turn_read_only(where: Path) -> None:
    """As ext4 does by itself where the disk below it fails, though files are open for writing."""
    mount("-o", "remount,abort", where)


def mounted_anew(image: Path, where: Path) -> None:
    """After `cut`: the machine starts again, and what the disk kept is there.

    A copy of it: whoever made a mount namespace meanwhile, for a test that runs beside this one,
    holds the dead file system in there. The image itself would be mounted as that, and fail.
    """
    subprocess.run(["umount", "--lazy", where], check=True)
    fresh = image.with_suffix(f".{time.monotonic_ns()}")
    subprocess.run(["cp", "--sparse=always", image, fresh], check=True)
    fresh.replace(image)
    mount("-o", "loop", image, where)
