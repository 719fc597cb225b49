# SPDX-License-Identifier: Apache-2.0
"""One configuration on two nodes: what is the same, how a change gets there, how a gap is closed.

`document` is what both nodes share, `operation` one change on its way, `propagation` how it gets to
both, `synchronizer` how nodes that differ get equal again. These four are pure: events in, effects
out; they read no clock and touch no file, socket or process. The rest of the package carries their
effects out, in the worker's process.
"""
