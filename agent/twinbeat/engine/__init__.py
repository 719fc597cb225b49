# SPDX-License-Identifier: Apache-2.0
"""The bindings: the C engine (cffi), the one-shot bcc loader and the pinned maps.

Knows layouts, descriptors and sockets; knows nothing of policy, and never decides a role.
"""
