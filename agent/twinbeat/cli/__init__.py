# SPDX-License-Identifier: Apache-2.0
"""`twinbeat`: what operators and scripts type. It knows the schema of the interface and no more."""
