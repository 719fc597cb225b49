# SPDX-License-Identifier: Apache-2.0
"""The parts of the schema, by subject; `twinbeat.api.schema` is the door to all of them."""
