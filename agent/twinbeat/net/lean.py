# SPDX-License-Identifier: Apache-2.0
"""A package's parts without its `__init__`, as long as nobody asks for more.

`import pyroute2` loads two hundred modules, ten megabytes, of which the agent needs a tenth: a
sixth of all the memory it is allowed.  So the package is put in place unexecuted; its submodules
import as ever, and whoever asks for a name that only its `__init__` has gets the whole package
after all.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any


def defer(name: str) -> None:
    """Put a package in place without executing it; one that is imported already stays as it is."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    assert spec is not None, name
    assert spec.loader is not None, name
    loader = spec.loader
    package = importlib.util.module_from_spec(spec)

    def find(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        try:
            return importlib.import_module(f"{name}.{attribute}")
        except ModuleNotFoundError:
            del package.__dict__["__getattr__"]
            loader.exec_module(package)
            return getattr(package, attribute)

    package.__dict__["__getattr__"] = find
    sys.modules[name] = package
