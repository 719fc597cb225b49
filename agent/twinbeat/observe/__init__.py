# SPDX-License-Identifier: Apache-2.0
"""What is seen from outside: the finished status, metrics, history and logs.

Everything here reads; nothing decides. None of it runs on the fast path.
"""
