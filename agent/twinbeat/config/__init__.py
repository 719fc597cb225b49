# SPDX-License-Identifier: Apache-2.0
"""The configuration: model, reading and checking, comparison of two, documentation from the model.

`load` gives a `Config` or raises `ConfigError` with every problem found.
"""

from twinbeat.config.model import CONFIG_PATH, Config
from twinbeat.config.timers import Durations, Timers

__all__ = ["CONFIG_PATH", "Config", "Durations", "Timers"]
