# SPDX-License-Identifier: Apache-2.0
"""Everything that touches interfaces, addresses, routes and neighbours of this node.

Knows netlink; knows nothing of roles, terms or the peer's state, and never decides when something
is done.  All of it is idempotent: what a crashed agent left behind is recognised by its mark and
reused.
"""
