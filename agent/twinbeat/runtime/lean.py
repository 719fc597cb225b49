# SPDX-License-Identifier: Apache-2.0
"""Imports without what the agent never uses, and memory given back once it stands.

The agent speaks no TLS and its digests are short, but asyncio, hashlib and hmac load OpenSSL for
whoever might want it: seven megabytes, a sixth of all that the agent takes.  They know how to do
without, as on a Python that was built so.  Whoever asks `ssl` for anything later gets it after all.
And `import prometheus_client` loads three HTTP servers, of which no part is needed for a metric.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import sys
from typing import Any, Final

_OPENSSL: Final = ("ssl", "_hashlib")
_USERS: Final = ("asyncio", "hashlib", "hmac")

GC_THRESHOLDS: Final = (20_000, 20, 20)
"""Next to no garbage of the agent is cyclic; the default of 700 is for programs that grow."""


def spare_openssl() -> None:
    """Import those that load OpenSSL without it; to be called before anything else is imported."""
    modules: dict[str, Any] = sys.modules  # None in it means "there is no such module"
    hidden = [name for name in _OPENSSL if name not in modules]
    modules.update(dict.fromkeys(hidden))
    try:
        for name in _USERS:
            importlib.import_module(name)
    finally:
        for name in hidden:
            del modules[name]
    if "ssl" in hidden:
        postpone("ssl")


def postpone(name: str) -> None:
    """Import a module when the first of its names is asked for; parts of a package import as ever.

    One that is imported already stays as it is, and one that isn't there stays absent.
    """
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    loader = spec.loader
    module = importlib.util.module_from_spec(spec)

    def find(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        del module.__dict__["__getattr__"]
        loader.exec_module(module)
        return getattr(module, attribute)

    module.__dict__["__getattr__"] = find
    sys.modules[name] = module


def settle() -> None:
    """What stands by now stays for good: collect around it, and give back what the start used."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # a function of glibc alone
        trim(0)
