# SPDX-License-Identifier: Apache-2.0
"""The second process: what is bulky and may crash or fall behind without a change of role.

Knows the daemon only by its socket, and never shares an interpreter with the loop that decides.
"""
