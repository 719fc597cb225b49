# SPDX-License-Identifier: Apache-2.0
"""What is watched on this node, and what it says about the node's health.

`board` is the pure part: findings and a clock in, a node state out. The others find things out:
each asks one thing once, within its time, and says in a sentence what it found. Knows the core's
types and the standard library; what only netlink can tell is handed in by the runtime.
"""
