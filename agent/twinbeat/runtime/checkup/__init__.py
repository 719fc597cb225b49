# SPDX-License-Identifier: Apache-2.0
"""What this host lacks for a pair, line by line, each with the command that mends it.

Looks, and changes nothing. A check that can't be made here is a warning that says so, never
silence. `twinbeat.runtime.doctor` puts the lines together.
"""
