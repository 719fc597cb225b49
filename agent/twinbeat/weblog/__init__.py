# SPDX-License-Identifier: Apache-2.0
"""Log records of web servers: collected, kept on both nodes, and given to log clients.

Knows nothing of the pair's roles, of its shared document or of who is trusted: the worker says
which sources there are, whom to admit, and where the peer is.
"""
