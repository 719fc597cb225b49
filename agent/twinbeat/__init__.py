# SPDX-License-Identifier: Apache-2.0
"""Twinbeat keeps a pair of gateways answering as one.

The package is split by what a part may know: `core` decides and knows no input or output, `engine`
binds the C engine and the kernel maps, `net` speaks netlink, `runtime` feeds the core and executes
its effects, `worker` is the second process for bulky work, and `cli` knows nothing but the schema
of the local interface. tests/repo enforces who may import whom.
"""

__version__ = "0.1.0"
