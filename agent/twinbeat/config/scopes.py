# SPDX-License-Identifier: Apache-2.0
"""Which sections and keys both nodes share, and which are each node's own."""

from typing import Final

from twinbeat.config.model import SECTIONS

SHARED: Final = frozenset(
    {
        "timers",
        "vrid",
        "route",
        "rule",
        "monitor",
        "linkset",
        "hook",
        "policy",
        "inject",
        "announce",
        "file",
        "command",
        "pool",
        "persistence",
        "connections",
        "weblog",
        "logsource",
        "logclient",
    }
)
"""Sections that are the same on both nodes, because a document says what is in them."""

NODE_LOCAL: Final = frozenset(SECTIONS) - SHARED
"""Sections that stay in the file of each node."""

LOCAL_KEYS: Final = {
    "policy": frozenset({"preferred"}),
    "timers": frozenset({"accept_host"}),
    "connections": frozenset({"interface", "local", "peer"}),
    "weblog": frozenset({"listen"}),
}
"""Keys of shared sections that are each node's own and stay in its file."""

FILE_KEYS: Final = {"vrid": frozenset({"vips_file"})}
"""Keys of shared sections that name a file: a document has what is in it instead."""

DEVICE_KEYS: Final = {
    "vrid": ("interface", "uplinks"),
    "route": ("interface",),
    "rule": ("interface",),
    "monitor": ("interface",),
    "linkset": ("interfaces",),
}
"""Keys of shared sections that name interfaces, which may be called otherwise on each node."""
