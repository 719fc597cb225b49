# SPDX-License-Identifier: Apache-2.0
"""keepalived.conf in Twinbeat's words: `grammar` reads it, `translate` says what it is here.

Nothing of it runs in the agent. It knows the manual page keepalived.conf(5) of keepalived 2.2 to
2.4, and must not guess: what it does not know is named, with its line.
"""
