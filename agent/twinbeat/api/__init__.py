# SPDX-License-Identifier: Apache-2.0
"""The local interface: one schema, a server on a Unix socket, a client without dependencies.

`schema` is all that a command or a test needs to know; it imports neither the server nor the agent.
"""
