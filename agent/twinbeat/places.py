# SPDX-License-Identifier: Apache-2.0
"""Directories that are a node's own: keys, state and sockets, which nothing may carry elsewhere."""

from __future__ import annotations

import os.path
from typing import Final

OWN: Final = ("/var/lib/twinbeat", "/etc/twinbeat", "/run/twinbeat")


def is_own(path: str) -> bool:
    """Whether an absolute path leads there by its name; links are not followed."""
    # Two slashes at the begin are kept by normpath, as POSIX has it.
    plain = os.path.normpath("/" + path.lstrip("/"))
    return any(plain == own or plain.startswith(own + "/") for own in OWN)
