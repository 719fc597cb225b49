# SPDX-License-Identifier: Apache-2.0
"""What a new configuration changes in a running agent: all of it, or nothing.

Keys that only a restart puts into force keep their old values until then and are named; everything
else takes effect at once, without a touch on heartbeats under way.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from twinbeat.config.compare import Change, compare
from twinbeat.config.model import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A reload, thought through before anything is touched."""

    config: Config
    """What will be in force."""
    changes: tuple[Change, ...]
    """What takes effect now."""
    needs_restart: tuple[str, ...]
    """Keys that differ in the file and don't."""

    @property
    def links(self) -> bool:
        """The heartbeat links change."""
        return any(change.key.startswith("link[") for change in self.changes)

    @property
    def addresses(self) -> bool:
        """Shared addresses or their VRIDs change."""
        return any(change.key.startswith("vrid[") for change in self.changes)


def plan(running: Config, wanted: Config) -> Plan:
    """What is to be done to get from the configuration in force to that in the file."""
    found = compare(running, wanted)
    served = {section.id: section for section in running.vrids}
    vrids = tuple(
        replace(
            served[section.id],
            vips=section.vips,
            vips_file=section.vips_file,
            neighbours=section.neighbours,
            monitor=section.monitor,
        )
        if section.id in served
        else section
        for section in wanted.vrids
    )
    timers = replace(wanted.timers_set, accept_host=running.timers_set.accept_host)
    return Plan(
        config=replace(
            wanted,
            node=running.node,
            pair=running.pair,
            peer=running.peer,
            vrids=vrids,
            timers_set=timers,
            metrics=running.metrics,
            witness=running.witness,
        ),
        changes=tuple(change for change in found if not change.restart),
        needs_restart=tuple(change.key for change in found if change.restart),
    )
