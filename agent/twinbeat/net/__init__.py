# SPDX-License-Identifier: Apache-2.0
"""Everything that touches interfaces, addresses, routes and neighbours of this node.

Knows netlink; knows nothing of roles, terms or the peer's state, and never decides when something
is done.  All of it is idempotent: what a crashed agent left behind is recognised by its mark and
reused.
"""

from twinbeat.net.lean import defer

defer("pyroute2")

from pyroute2.iproute.linux import AsyncIPRoute  # noqa: E402 - after the package was deferred

__all__ = ["AsyncIPRoute"]
