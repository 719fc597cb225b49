# SPDX-License-Identifier: Apache-2.0
"""What was found right once, so that of the next configuration only what is another is examined.

A change touches a row or two, and everybody waits for its examination. So a section that is the
same is not read again, and a rule is not applied again as long as all that it looks at is the same:
what it warned of then still stands. What the machine says of sections that stay is not asked again
either; a change isn't refused for something that it doesn't touch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from twinbeat.config.model import SECTIONS
from twinbeat.config.problems import Findings, Problem

Rule = Callable[..., object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A configuration in which nothing is wrong."""

    tables: Mapping[str, Any]
    """As a file has them. Nobody changes them any more."""
    sections: Mapping[str, Any]
    """Arguments of `Config`, in canonical form."""
    warned: Mapping[Rule, list[Problem]]
    """By each rule that was applied."""


@dataclass(slots=True)
class Examination:
    """One that is under way."""

    findings: Findings
    since: Examined | None = None
    """What was found right before; None: nothing is known."""
    same: set[str] = field(default_factory=set)
    """Attributes of `Config` that are as they were then."""
    warned: dict[Rule, list[Problem]] = field(default_factory=dict)

    def compare(self, tables: Mapping[str, Any]) -> None:
        """Find out what is the same. What `[interfaces]` calls a device is in all the others."""
        if self.since is None:
            return
        before = self.since.tables
        if tables.get("interfaces") != before.get("interfaces"):
            self.since = None
            return
        for name, (attribute, _, _) in SECTIONS.items():
            if tables.get(name) == before.get(name):
                self.same.add(attribute)

    def known(self, attribute: str) -> Any:
        """The section in canonical form if it is the same, or None."""
        if self.since is None or attribute not in self.same:
            return None
        return self.since.sections[attribute]

    def apply(
        self,
        rule: Rule,
        needs: tuple[str, ...],
        sections: Mapping[str, Any],
        *more: object,
        ports: bool = False,
    ) -> None:
        """Apply a rule to these sections, or tell what it warned of when they were the same.

        With ``ports`` it looks at no more of a VRID than the interfaces that are named there.
        """
        before = len(self.findings.problems)
        known = self._warned_of(rule, needs, sections, ports=ports)
        if known is None:
            rule(*(sections[need] for need in needs), self.findings, *more)
        else:
            self.findings.problems += known
        self.warned[rule] = self.findings.problems[before:]

    def _warned_of(
        self, rule: Rule, needs: tuple[str, ...], sections: Mapping[str, Any], *, ports: bool
    ) -> list[Problem] | None:
        since = self.since
        if since is None or rule not in since.warned:
            return None
        for need in needs:
            if need in self.same:
                continue
            if not (ports and need == "vrids" and _ports(since.sections) == _ports(sections)):
                return None
        return since.warned[rule]


def _ports(sections: Mapping[str, Any]) -> list[tuple[object, ...]]:
    return [(vrid.interface, vrid.uplinks, vrid.vmac) for vrid in sections["vrids"]]
