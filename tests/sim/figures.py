# SPDX-License-Identifier: Apache-2.0
"""What runs cost."""

from __future__ import annotations

import os


def processor_s() -> float:
    """What this process, and those that it started and that have ended, used of processors."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
