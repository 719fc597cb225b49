# SPDX-License-Identifier: Apache-2.0
"""The bench: the figures Twinbeat is judged by, measured in the lab beside its rivals.

`figures` says what is measured and what it is held against; `measures_*` measure, one module for
each kind of failure; `judge` turns what was seen into numbers and knows no lab; `run` carries a
whole bench out, and `report` writes down what came of it.  Like the lab it needs the standard
library only.
"""
