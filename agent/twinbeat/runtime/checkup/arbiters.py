# SPDX-License-Identifier: Apache-2.0
"""What `doctor` says of witness, reference addresses, watchdog and fence agent."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from twinbeat.api.schema import Check
from twinbeat.config.model import Config
from twinbeat.config.secrets import load_options
from twinbeat.core.witness import Kind, Question, Verdict
from twinbeat.runtime import witness
from twinbeat.runtime.checkup.checks import ERROR, WARNING, check
from twinbeat.witness.base import WitnessError


def third_parties(config: Config) -> list[Check]:
    """Each member of the witness and each reference is asked on its own."""
    return asyncio.run(_ask_third_parties(config))


async def _ask_third_parties(config: Config) -> list[Check]:
    checks = []
    section, clusters = config.witness, {}
    for endpoint in section.endpoints if section.kind != "none" else ():
        alone = replace(config, witness=replace(section, endpoints=(endpoint,)))
        try:
            third_party = witness.build(alone, now_ns=time.monotonic_ns)
        except WitnessError as error:
            return [check("witness", False, str(error))]
        # The first request makes the connection, so the second one tells how long it takes.
        answer = await third_party.ask(Question(kind=Kind.LOOK))
        if answer.verdict is not Verdict.SILENT:
            answer = await third_party.ask(Question(kind=Kind.LOOK))
        await third_party.close()
        took_ms = (answer.done_ns - answer.sent_ns) / 1e6
        answered = answer.verdict is not Verdict.SILENT
        clusters[endpoint] = third_party.cluster
        in_time = took_ms < section.lease_ms / 8
        checks.append(
            check(
                "witness",
                answered and in_time,
                f"{endpoint} answers in {took_ms:.1f} ms" if answered else answer.why,
                fix="nearer members, or a longer witness.lease_ms"
                if answered
                else "see the documentation of the witness",
                level=WARNING if answered else ERROR,
            )
        )
    found = {cluster for cluster in clusters.values() if cluster}
    if len(found) > 1:
        checks.append(
            check(
                "witness",
                False,
                f"the endpoints belong to {len(found)} clusters, so there are as many arbiters",
                fix="name the members of one cluster",
            )
        )
    for reference in config.isolation.references:
        answers = await witness.reachable(reference, config.isolation.interval_ms / 1000)
        checks.append(
            check(
                "reference",
                answers,
                f"{reference} answers" if answers else f"{reference} doesn't answer",
                fix="isolation.references names addresses that always answer",
                level=WARNING,
            )
        )
    return checks


def last_resorts(config: Config) -> Iterator[Check]:
    """Watchdog and fence agent. The device isn't opened, as that would arm it."""
    dog, fence = config.watchdog, config.fence
    if dog.mode != "off":
        there = Path(dog.device).is_char_device() and os.access(dog.device, os.W_OK)
        yield check(
            "watchdog",
            there,
            f"{dog.device} {'can' if there else 'can not'} be opened ({dog.mode})",
            fix="load its driver (softdog, where the hardware has none), let group twinbeat write "
            "to it, and see that nobody else holds it",
            level=ERROR if dog.mode == "required" else WARNING,
        )
    if fence.agent:
        options = load_options(fence, config.path)
        count = len(options.open) + len(options.secret)
        told = f"{fence.agent}, {fence.action} {fence.policy} the takeover, {count} options"
        yield check(
            "fence",
            fence.action != "status",
            told,
            fix='action = "status" fences nobody; say off or reboot when it has been tried',
            level=WARNING,
        )
