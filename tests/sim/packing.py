# SPDX-License-Identifier: Apache-2.0
"""A world as bytes and back, quickly: the explorer does little else.

Pickle does it, with two helps. What is frozen is packed by its fields alone; and what was frozen
already when the search began (`keep`) is not packed at all but named by a number, which is the same
in every process that is forked afterwards.
"""

from __future__ import annotations

import copyreg
import dataclasses
import io
import pickle
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from twinbeat.engine._engine import ffi

_kept: Final[list[object]] = []
_numbers: Final[dict[int, int]] = {}
"""By the identity of a kept value: it lives as long as the process."""
_values: Final[dict[type, Callable[[Any], tuple[object, ...]]]] = {}
_setters: Final[dict[type, list[Callable[[object, object], None]]]] = {}


def packed(value: object) -> bytes:
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def unpacked(content: bytes) -> Any:
    return pickle.loads(content)


# -- structures of C -----------------------------------------------------------------------------


def _c_value(name: str, content: bytes) -> Any:
    """A C structure again."""
    made = ffi.new(name)
    ffi.memmove(made, content, len(content))
    return made


def _of_c(value: Any) -> tuple[Callable[..., Any], tuple[str, bytes]]:
    kind = ffi.typeof(value)
    size = ffi.sizeof(kind if kind.kind == "array" else kind.item)
    return _c_value, (kind.cname, bytes(ffi.buffer(value, size)))


copyreg.pickle(type(ffi.new("int *")), _of_c)
copyreg.pickle(type(ffi.new("uint8_t[2]")), _of_c)


# -- frozen values -------------------------------------------------------------------------------


class _Finder(pickle.Pickler):
    """Finds what is frozen in a value."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), pickle.HIGHEST_PROTOCOL)
        self.found: list[object] = []

    def persistent_id(self, value: object) -> None:
        params = getattr(type(value), "__dataclass_params__", None)
        if params is not None and params.frozen:
            self.found.append(value)


def keep(value: object) -> None:
    """From now on what is frozen in `value` is named wherever it is met, and not packed."""
    finder = _Finder()
    finder.dump(value)
    for each in finder.found:
        kind = type(each)
        if kind not in _values:
            _learn(kind)
        if id(each) not in _numbers:
            _numbers[id(each)] = len(_kept)
            _kept.append(each)


def _learn(kind: Any) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    if len(names) > 1:
        _values[kind] = attrgetter(*names)
    else:
        _values[kind] = lambda value: tuple(getattr(value, name) for name in names)
    _setters[kind] = [_setter(kind, name) for name in names]
    copyreg.pickle(kind, _of_frozen)


def _setter(kind: type, name: str) -> Callable[[object, object], None]:
    slot = kind.__dict__.get(name)
    if hasattr(slot, "__set__"):
        return slot.__set__  # type: ignore[no-any-return,union-attr]
    return lambda made, value: object.__setattr__(made, name, value)


def _of_frozen(value: object) -> tuple[Callable[..., object], tuple[object, ...]]:
    number = _numbers.get(id(value))
    if number is not None:
        return _kept_as, (number,)
    kind = type(value)
    return _made, (kind, _values[kind](value))


def _kept_as(number: int) -> object:
    return _kept[number]


def _made(kind: type, values: tuple[object, ...]) -> object:
    made = object.__new__(kind)
    for put, value in zip(_setters[kind], values, strict=True):
        put(made, value)
    return made
