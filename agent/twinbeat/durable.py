# SPDX-License-Identifier: Apache-2.0
"""Files that are replaced so that a crash or a power cut leaves the old content or the new one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

TEMPORARY: Final = ".new"
"""What the name of a file ends with that isn't whole yet, and that a power cut may leave behind."""


def replace_file(path: Path, content: bytes, *, mode: int = 0o600, at_once: bool = True) -> None:
    """Put a whole file in the place of another, by way of one beside it, safely on disk.

    Without ``at_once`` a cut may leave the old one though this has returned, until the file system
    writes its journal the next time: for what is written again a second later, and so is synced by
    then. Raises OSError; the old one stays then.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    if at_once:
        sync_directory(path.parent)


def sync_directory(path: str | Path) -> None:
    """See to it that names which came, changed or went there are on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
