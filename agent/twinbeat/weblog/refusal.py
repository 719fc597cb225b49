# SPDX-License-Identifier: Apache-2.0
"""Why a journal takes nothing: the disk refuses, or what is left of it belongs to others."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

SPARED_MAX: Final = 64 << 20
"""Bytes of the file system that are left to others."""
SPARED_PART: Final = 32
"""Of a small one no more than such a part."""
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class JournalError(Exception):
    """The disk refused. Nothing was changed; the message is a sentence, ``code`` is counted:
    full, readonly or disk."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


def refused(directory: Path, error: OSError) -> JournalError:
    """What the kernel said, as a refusal."""
    code = "full" if error.errno in _FULL else "readonly" if error.errno == errno.EROFS else "disk"
    return JournalError(code, f"{directory} can't be used: {error.strerror}.")


def spare(directory: Path, size: int) -> None:
    """See to it that so many bytes may be written there.

    The daemon keeps its terms on the same file system, and without them it claims nothing: log
    records never take its last room. Raises JournalError, and OSError where nobody knows.
    """
    status = os.statvfs(directory)
    spared = min(SPARED_MAX, status.f_blocks * status.f_frsize // SPARED_PART)
    # Without blocks it is a file system that has no bound of its own.
    if spared and status.f_bavail * status.f_frsize < spared + size:
        raise JournalError(
            "full",
            f"The file system of {directory} is full but for {spared >> 10} KiB, which are left "
            "to the daemon.",
        )
