# SPDX-License-Identifier: Apache-2.0
"""What has to be right about pools and persistence rules, beyond their types."""

from typing import Any

from twinbeat.config.problems import Findings, once_each
from twinbeat.config.service import VridSection
from twinbeat.config.sessions import PersistenceSection, PoolSection
from twinbeat.config.system import parse_address
from twinbeat.sessions import rules


def check_sessions(
    pools: tuple[PoolSection, ...],
    persistences: tuple[PersistenceSection, ...],
    vrids: tuple[VridSection, ...],
    findings: Findings,
) -> None:
    """What the worker makes of them says whether they can be used."""
    once_each("pool", [pool.name for pool in pools], "has the name of", findings)
    once_each("persistence", [each.name for each in persistences], "has the name of", findings)
    servers = [rules.Pool(**_values(pool)) for pool in pools]
    for at, key, value, right in rules.pool_problems(servers):
        findings.add(f"pool[{at}].{key}", value, f"should be {right}.")
    rows = [rules.Persistence(**_values(each)) for each in persistences]
    known = {pool.name: pool for pool in servers}
    for at, key, value, right in rules.rule_problems(rows, known):
        findings.add(f"persistence[{at}].{key}", value, f"should be {right}.")
    shared = {parse_address(vip) for vrid in vrids for vip in vrid.vips}
    for at, row in enumerate(rows):
        for vip in row.vips:
            address = parse_address(vip)
            if address is not None and address not in shared:
                nowhere = "is no address of a [[vrid]]: nobody reaches the rule by it."
                findings.warn(f"persistence[{at}].vips", vip, nowhere)


def _values(section: PoolSection | PersistenceSection) -> dict[str, Any]:
    return {name: getattr(section, name) for name in section.__struct_fields__}
