# SPDX-License-Identifier: Apache-2.0
"""Takes off this host whatever an agent may have left there, however it ended.

An orderly end leaves pins only; a crash leaves everything, behind gates that shut by themselves.
What is ours is told by our marks and by nothing else: no configuration is asked, since the one that
put it there may be gone. Gates are shut first, and the addresses go before the programs that guard
them (GATE-FIRST).
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from twinbeat.engine import bpf
from twinbeat.engine.bpf import BpfError
from twinbeat.engine.compile import FUNCTIONS
from twinbeat.net import AsyncIPRoute, addresses, interfaces, routes, rules, vmac, xdp
from twinbeat.net.errors import NetError
from twinbeat.runtime.gate import shut_pinned
from twinbeat.runtime.ground import be_alone
from twinbeat.runtime.routes import REPLACED_ROUTES, replaced_routes

_NO_PROGRAM: Final = -1
"""No interface has a program of this id, so that all are told by their names."""


def remove(*, run: Path, state: Path, pins: Path) -> tuple[list[str], list[str]]:
    """Take everything of ours off this host; what was taken, and what could not be, as sentences.

    Routes that ours had taken the place of are put back. Files stay, but for the pins. Harmless
    where nothing is. Raises StartError if an agent runs: it would put back what is taken here.
    """
    lock = be_alone(run)
    try:
        return asyncio.run(_remove(state, pins))
    finally:
        (run / "twinbeatd.lock").unlink(missing_ok=True)
        os.close(lock)
        with suppress(OSError):  # Others may have something there.
            run.rmdir()


async def _remove(state: Path, pins: Path) -> tuple[list[str], list[str]]:
    done: list[str] = []
    failed: list[str] = []

    @contextmanager
    def trying() -> Iterator[None]:
        """One refusal doesn't hold up the rest."""
        try:
            yield
        except (NetError, BpfError, OSError) as error:
            failed.append(str(error))

    with trying():
        done += [f"the gate of pair {pair} is shut" for pair in shut_pinned(pins)]
    with trying():
        done += _routes(state)
    for one in interfaces.interfaces().values():
        if one.kind == "macvlan" and one.alias.startswith(interfaces.MARK):
            with trying():
                await _delete(one)
                done.append(f"the virtual MAC {one.name} is gone")
            continue
        with trying():
            count = addresses.assign(one.index, [], name=one.name, own=False).removed
            done += [f"{count} addresses are off {one.name}"] if count else []
    for one in interfaces.interfaces().values():
        with trying():
            done += _programs(one)
        if one.kind == "veth" and one.alias.startswith(interfaces.MARK):
            with trying():
                await _delete(one)
                done.append(f"{one.name} is gone")
    with trying():
        done += _pins(pins)
    return done, failed


def _pins(root: Path) -> list[str]:
    """The directory itself stays: it is the administrator's to make, for the user of the agent."""
    pairs = sorted(one for one in root.glob("*") if one.is_dir())
    for pair in pairs:
        shutil.rmtree(pair)
    return [f"the pins of pair {pair.name} are gone" for pair in pairs]


async def _delete(one: interfaces.Interface) -> None:
    async with AsyncIPRoute() as ipr:
        await vmac.remove(ipr, one)


def _routes(state: Path) -> list[str]:
    path = state / REPLACED_ROUTES

    def remember(left: Mapping[routes.Key, bytes]) -> None:
        if not left:
            path.unlink(missing_ok=True)

    gone = routes.settle([], remembered=replaced_routes(path), remember=remember)
    dropped = rules.settle([])
    for problem in (*gone.problems, *dropped.problems):
        raise NetError(problem.sentence())
    count = gone.removed + gone.restored + dropped.removed
    return [f"{count} routes and rules are gone, or as they were"] if count else []


def _programs(one: interfaces.Interface) -> list[str]:
    function, _ = FUNCTIONS["prog_link"]
    name = function[: bpf.OBJECT_NAME_MAX]
    ours = xdp.Program(fd=_NO_PROGRAM, id=_NO_PROGRAM, name=name)
    taken = []
    if one.xdp_program and xdp.detach_xdp(one.index, ours, name_of=_name_of):
        taken.append(f"the XDP program is off {one.name}")
    if xdp.detach_egress(one.index):
        taken.append(f"the egress filter is off {one.name}")
    return taken


def _name_of(number: int) -> str:
    found = bpf.program_by_id(number)
    return found.name if found is not None else ""
