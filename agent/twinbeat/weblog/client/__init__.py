# SPDX-License-Identifier: Apache-2.0
"""`twinbeat-weblog`, the log client: pulls the web logs of pairs and writes them to files.

It runs on a third machine and knows nothing of roles: it asks both nodes of a pair for the records
of both, and writes each exactly once.
"""
