# SPDX-License-Identifier: Apache-2.0
"""The filter `to_toml`: tables as twinbeat.toml(5) has them.

It knows how TOML is written and nothing of what the tables mean: `twinbeat config check` does. It
runs on the controller, whose Python may be older than a node's.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError


def to_toml(tables: Mapping[str, Any]) -> str:
    """Each table with its keys; a list of mappings is an array of tables."""
    parts = []
    for name, found in tables.items():
        many = isinstance(found, list)
        for table in found if many else [found]:
            if not isinstance(table, Mapping):
                raise AnsibleFilterError(
                    f"{name} is {table!r}: a section of twinbeat.toml is a mapping of keys,"
                    " or a list of such mappings"
                )
            head = f"[[{_key(name)}]]" if many else f"[{_key(name)}]"
            lines = [f"{_key(key)} = {_value(value, name, key)}" for key, value in table.items()]
            parts.append("\n".join([head, *lines]))
    return "\n\n".join(parts)


def _key(name: object) -> str:
    text = str(name)
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else _text(text)


def _text(text: str) -> str:
    # JSON's strings are TOML's, but for one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object, section: object, key: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(each, section, key) for each in value)}]"
    if isinstance(value, Mapping):
        inner = (f"{_key(name)} = {_value(each, section, key)}" for name, each in value.items())
        return f"{{ {', '.join(inner)} }}"
    raise AnsibleFilterError(
        f"{section}.{key} is {value!r}: give it a value, or leave it out for its default"
    )


class FilterModule:
    """What Ansible looks for in here."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"to_toml": to_toml}
