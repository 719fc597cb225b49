# SPDX-License-Identifier: Apache-2.0
"""What the pair holds on its networks: addresses, neighbours, rivals, routes."""

from typing import Final

from msgspec import Struct

LISTED_VIPS: Final = 64
"""A status names at most so many addresses of a VRID; `vips_total` counts them all."""

LISTED_PROBLEMS: Final = 64
"""A status names at most so many routes that aren't as they should be."""


class Vrid(Struct, frozen=True, kw_only=True):
    """One set of virtual addresses with its virtual MAC."""

    id: int
    interface: str
    vmac: str | None = None
    """The IPv4 virtual MAC; None = addresses are answered from the port's own."""
    inject: bool = False
    """Reached through routers: the addresses are on lo, and host routes tell the routing daemon."""
    uplinks: list[str] = []
    """With `inject`: further interfaces over which their traffic may arrive."""
    state: str = "absent"
    """serving (gate open) | ready (in place behind a closed gate) | absent"""
    carrier: bool = False
    vips_total: int = 0
    vips: list[str] = []
    """The first LISTED_VIPS of them."""
    xdp: str = ""


class Rival(Struct, frozen=True, kw_only=True):
    """Somebody else who uses one of our addresses, or the number of one of our virtual MACs."""

    kind: str
    """address | vrrp"""
    interface: str
    what: str
    """The address, or VRID and its number."""
    who: str
    """MAC of who speaks for the address; source address of who speaks VRRP."""
    since: str
    age_ns: int
    """Since it was heard last."""
    frames: int
    sentence: str


class Neighbours(Struct, frozen=True, kw_only=True):
    """Whom a new primary would talk to at once through one port."""

    interface: str
    kept: int
    """How many are kept known, the role notwithstanding."""
    warm: int
    """Of them: with a MAC in the kernel's table. The others are being asked for, or are silent."""


class RouteProblem(Struct, frozen=True, kw_only=True):
    """A route or rule of the role that isn't as it should be."""

    trouble: str
    """conflict (somebody else's is there) | failed | not_restored (what was there before)"""
    what: str
    why: str


class Routes(Struct, frozen=True, kw_only=True):
    """Routes and rules that come and go with the role; a secondary wants none."""

    wanted: int = 0
    standing: int = 0
    """Of these, in the kernel."""
    kept: int = 0
    """Of these, somebody else's that does the same."""
    replaced: int = 0
    """Routes of others whose place ours have taken, and which will be put back."""
    injected: int = 0
    """Of those wanted: host routes for the routing daemon."""
    inject_table: int | None = None
    """Where these are put; None = no address is injected."""
    rules_wanted: int = 0
    rules_standing: int = 0
    rules_kept: int = 0
    problems_total: int = 0
    troubles: dict[str, int] = {}
    """All of them by their kind."""
    problems: list[RouteProblem] = []
    """The first LISTED_PROBLEMS of them."""
    settled_in_ns: int | None = None
    """How long it took the last time to compare and change all of them."""
