# SPDX-License-Identifier: Apache-2.0
"""Two nodes in one process: the real core, the real engine, the real rules of the kernel programs.

`world` turns the clock and carries frames, `node` is a node, `invariants` are the safety rules,
`faults` draws what goes wrong. Nothing of the protocol is written down here a second time.
"""
