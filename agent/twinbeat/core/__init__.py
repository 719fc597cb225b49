# SPDX-License-Identifier: Apache-2.0
"""The core: what a node decides, as a pure function of what it was told and when.

`Machine.step(event, now_ns)` gives `Effects`; `Machine.next_deadline()` says when it wants a
`Tick`. Nothing here reads a clock, opens a file or a socket, or imports anything beyond the
standard library.
"""
