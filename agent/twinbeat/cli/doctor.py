# SPDX-License-Identifier: Apache-2.0
"""`twinbeat doctor`: what this host lacks. The checks run in a process of their own."""

import subprocess
import sys

import click
import msgspec

from twinbeat.api.schema import Doctor
from twinbeat.cli.base import CONFIG, Exit, Stop, paint, readable, say, say_json, settings

_TIMEOUT_S = 60.0
_COLORS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command()
@click.option("--config", "file", default=CONFIG, type=click.Path(dir_okay=False))
@readable
def doctor(file: str) -> int:
    """Kernel features, XDP, real-time limits, clock, permissions: one line each, with the fix."""
    program = [sys.executable, "-m", "twinbeat.runtime.doctor", "--json", "--config", file]
    try:
        done = subprocess.run(program, capture_output=True, timeout=_TIMEOUT_S, check=False)
        report = msgspec.json.decode(done.stdout, type=Doctor)
    except subprocess.TimeoutExpired as error:
        raise Stop(Exit.UNKNOWN, "the checks did not end in a minute") from error
    except msgspec.DecodeError as error:
        why = done.stderr.decode(errors="replace").strip().splitlines()
        raise Stop(
            Exit.NO, f"the checks could not run: {why[-1] if why else 'no output'}"
        ) from error
    if settings().json:
        say_json(done.stdout)
    else:
        for check in report.checks:
            mark = paint(f"{check.level:<8}", _COLORS.get(check.level))
            say(f"{mark}{check.name}: {check.finding}")
            if check.fix and check.level != "ok":
                say(f"        {check.fix}")
    return Exit.NO if any(check.level == "error" for check in report.checks) else Exit.OK
