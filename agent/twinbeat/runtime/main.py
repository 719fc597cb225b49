# SPDX-License-Identifier: Apache-2.0
"""`twinbeatd`: the daemon's command line and its exit codes.

    twinbeatd [--config PATH] [--foreground]   run
    twinbeatd --close-gate                     shut every gate of this node and exit, whether or
                                               not an agent runs
    twinbeatd --remove                         take off this host what an agent left, and exit

0 it ended in good order, 1 it could not start, 2 the configuration can't be used, 70 an invariant
was broken, 75 it ended for a planned restart (SIGUSR2).  Signals: TERM stops after handing the role
over, HUP reloads, USR2 restarts without an outage.
"""

from __future__ import annotations

# ruff: noqa: E402 - what isn't needed is left out first
from twinbeat.runtime.lean import postpone, spare_openssl

spare_openssl()
postpone("prometheus_client")

import argparse
import asyncio
import errno
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from twinbeat import __version__
from twinbeat.config.model import CONFIG_PATH
from twinbeat.config.problems import ConfigError
from twinbeat.engine.bpf import BpfError

EXIT_CONFIG: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.close_gate:
        return _close_gate(options.pins)
    if options.remove:
        return _remove(options)
    # What it takes to run is loaded only now: closing a gate in an emergency must be quick.
    from twinbeat.config.inforce import load_in_force
    from twinbeat.observe.log import set_up
    from twinbeat.runtime.app import EXIT_FAILED, App
    from twinbeat.runtime.ground import Paths, StartError
    from twinbeat.runtime.notify import Notifier
    from twinbeat.runtime.store import Store, StoreError

    try:
        store = Store(options.state)
        found = load_in_force(options.config, store.document())
    except ConfigError as error:
        return _explain(error)
    except StoreError as error:
        _say(str(error))
        return EXIT_FAILED
    sink = set_up("auto" if options.foreground else found.config.log.format, name="twinbeatd")
    for complaint in store.complaints:
        logging.getLogger("twinbeat").error("%s", complaint)
    notifier = Notifier()

    async def run() -> int:
        paths = Paths(run=options.run, state=options.state, pins=options.pins)
        return await App(found, notifier=notifier, paths=paths).run()

    try:
        return asyncio.run(run())
    except ConfigError as error:
        return _explain(error)
    except StartError as error:
        _say(str(error))
        notifier.status(str(error))
        return EXIT_FAILED
    finally:
        sink.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="twinbeatd", description="Keeps a pair of gateways answering as one."
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(CONFIG_PATH),
        metavar="PATH",
        help="default: %(default)s",
    )
    for name, default, what in (
        ("--run", "/run/twinbeat", "sockets"),
        ("--state", "/var/lib/twinbeat", "what survives a restart"),
        ("--pins", "/sys/fs/bpf/twinbeat", "kernel programs and maps, on a BPF file system"),
    ):
        parser.add_argument(
            name,
            type=Path,
            default=Path(default),
            metavar="DIR",
            help=f"{what}; default: %(default)s",
        )
    parser.add_argument(
        "--foreground", action="store_true", help="log to standard error, whatever log.format says"
    )
    parser.add_argument(
        "--close-gate",
        action="store_true",
        help="shut every gate of this node and exit; harmless if it is shut already",
    )
    parser.add_argument(
        "--remove",
        action="store_true",
        help="take addresses, programs, pins, routes and rules of an agent that has ended off this "
        "host and exit; the package does so when it is removed",
    )
    parser.add_argument("--version", action="version", version=f"twinbeatd {__version__}")
    return parser


def _close_gate(pins: Path) -> int:
    from twinbeat.runtime.gate import shut_pinned

    try:
        for pair in shut_pinned(pins):
            _say(f"the gate of pair {pair} is shut")
    except (BpfError, OSError) as error:
        mine = "; be root" if error.errno in {errno.EACCES, errno.EPERM} else ""
        _say(f"the gate could not be shut: {error}{mine}")
        return 1
    return 0


def _remove(options: argparse.Namespace) -> int:
    from twinbeat.runtime.ground import StartError
    from twinbeat.runtime.removal import remove

    if os.geteuid() != 0:
        _say("only root can tell all that is to be removed")
        return 1
    try:
        done, failed = remove(run=options.run, state=options.state, pins=options.pins)
    except StartError as error:
        _say(f"{error}: stop it first (systemctl stop twinbeatd)")
        return 1
    for sentence in (*done, *(f"this stays: {why}" for why in failed)):
        _say(sentence)
    return 1 if failed else 0


def _explain(error: ConfigError) -> int:
    for problem in error.problems:
        _say(str(problem))
    return EXIT_CONFIG


def _say(sentence: str) -> None:
    for line in sentence.splitlines():
        sys.stderr.write(f"twinbeatd: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
