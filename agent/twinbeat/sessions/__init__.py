# SPDX-License-Identifier: Apache-2.0
"""Persistence: which server a client is bound to; and the state of connections; on both nodes."""
