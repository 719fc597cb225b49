# SPDX-License-Identifier: Apache-2.0
"""The lab: a pair of gateways, a client and two servers in network namespaces.

`plan` says what is where, `topology` builds it, `cutter` breaks it, `agents` and `rivals` run what
is under test, `probe` and `capture` measure from outside, `measure` puts one measurement together.
Only the standard library is used, so the lab can be built before anything else is installed.
"""
