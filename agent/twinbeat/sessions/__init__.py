# SPDX-License-Identifier: Apache-2.0
"""Persistence: which server a client is bound to, on both nodes."""
