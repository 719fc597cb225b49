# SPDX-License-Identifier: Apache-2.0
"""A process that burns processor time on request, and has nothing to do with Twinbeat.

What a reload costs the pair beyond the processor time it takes shows beside an equal burden: each
line of standard input says how many milliseconds to spend; they go into parsing the TOML file given
on the command line, as a reload does, with the nice value given there.  Each is answered by a line.
"""

from __future__ import annotations

import os
import sys
import time
import tomllib
from pathlib import Path


def burn(text: str, seconds: float) -> None:
    """Parse a text until so much processor time is spent."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        tomllib.loads(text)


def main() -> None:
    """Serve requests until standard input ends."""
    path, nice = Path(sys.argv[1]), int(sys.argv[2])
    text = path.read_text()
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    print("ready", flush=True)
    for line in sys.stdin:
        burn(text, float(line) / 1e3)
        print("done", flush=True)


if __name__ == "__main__":
    main()
