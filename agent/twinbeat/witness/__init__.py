# SPDX-License-Identifier: Apache-2.0
"""Third parties that a node can ask when it doesn't hear its peer.

They answer questions of `twinbeat.core.witness` and decide nothing. What they know of the pair is
what a question says; what an answer is worth is the core's to judge.
"""
