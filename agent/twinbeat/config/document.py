# SPDX-License-Identifier: Apache-2.0
"""The configuration's own documentation: a commented file, made from the model."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, get_args, get_origin

from msgspec import Meta, Struct
from msgspec.structs import FieldInfo

from twinbeat.config.compare import needs_restart
from twinbeat.config.fields import ANY_NAME, fields_of
from twinbeat.config.model import CONFIG_PATH, SECTIONS, Config
from twinbeat.config.problems import show
from twinbeat.config.shared import join
from twinbeat.config.structure import right
from twinbeat.config.timers import PROFILES, TIMER_KEYS
from twinbeat.sync.document import Tables

_EXAMPLES: Final[dict[str, list[dict[str, Any]]]] = {
    "link": [
        {
            "interface": "ha0",
            "local": "169.254.10.1",
            "peer": "169.254.10.2",
            "direct": True,
        },
        {"interface": "lan0", "local": "192.0.2.1", "peer": "192.0.2.2"},
    ],
    "vrid": [{"id": 51, "interface": "lan0", "vips": ["192.0.2.10", "2001:db8::10"]}],
}
"""Tables that the generated file shows filled; a key that isn't named here stays a comment."""


_NAMED_EXAMPLE: Final = 'lan = "eth3"'


def toml(only: Config | None = None) -> str:
    """A commented file with every key: required ones filled by examples, others at their defaults.

    With a configuration its values stand in place of the examples, all of them in force.
    """
    lines = [
        f"# Twinbeat, {only.path if only else CONFIG_PATH}",
        "#",
        "# A key behind a comment sign has the value shown; take the sign away to change it.",
        "# Durations are integers with the unit in the key. `twinbeat config check` says what is",
        "# wrong, `systemctl reload twinbeatd` puts changes into force, all of them or none.",
        "",
    ]
    for section, (attribute, model, many) in SECTIONS.items():
        lines += _wrapped(model.__doc__ or "", "# ")
        if only is not None:
            value = getattr(only, attribute)
            tables = list(value) if many else [value]
            lines += [line for table in tables for line in _filled(section, table, many)]
            continue
        examples: list[dict[str, Any]] = _EXAMPLES.get(section, [{}])
        for number, example in enumerate(examples):
            commented = many and not example
            header = f"[[{section}]]" if many else f"[{section}]"
            lines.append(f"# {header}" if commented else header)
            lines += _keys(model, example, commented=commented, brief=number > 0)
            lines.append("")
        if section == "timers":
            lines[-1:-1] = [f"# {line}".rstrip() for line in _profiles()]
    return "\n".join(lines).rstrip() + "\n"


def _keys(
    model: type[Struct], example: dict[str, Any], *, commented: bool, brief: bool
) -> Iterator[str]:
    for field in fields_of(model):
        meta = description_of(field.type)
        if field.encode_name == ANY_NAME:
            yield from ["", *_wrapped(f"{meta.description}", "# "), f"# {_NAMED_EXAMPLE}"]
            continue
        if not brief:
            yield ""
            yield from _wrapped(f"{meta.description} ({_allowed(field)})", "# ")
        given = example.get(field.encode_name)
        if given is None and field.required:
            given = (meta.examples or [""])[0]
        if given is not None and not commented:
            yield f"{field.encode_name} = {show(given)}"
        elif not brief:
            yield f"# {field.encode_name} = {show(_default(field, given))}"


def _filled(section: str, table: Struct, many: bool) -> Iterator[str]:
    yield f"[[{section}]]" if many else f"[{section}]"
    for field in fields_of(type(table)):
        value = getattr(table, field.name)
        if field.encode_name == ANY_NAME:
            yield from (f"{show(name)} = {show(device)}" for name, device in value.items())
            continue
        if field.name == "vips_file":
            continue  # its addresses stand in vips already
        if value is not None:
            yield f"{field.encode_name} = {_whole(value)}"
    yield ""


def _whole(value: Any) -> str:
    """A value as TOML has it, however long."""
    if isinstance(value, tuple):
        return "[" + ", ".join(show(item) for item in value) + "]"
    return show(value)


def _default(field: FieldInfo, given: Any) -> Any:
    if given is not None:
        return given
    if field.default is None and field.encode_name in TIMER_KEYS:
        return getattr(PROFILES["balanced"], field.encode_name)
    return 255 if field.default is None else field.default


def _allowed(field: FieldInfo) -> str:
    text = right(field.type)
    text = "required, " + text if field.required else text
    return text + ("; needs a restart" if needs_restart(field.type) else "")


def _profiles() -> Iterator[str]:
    """The profiles as a small table."""
    yield ""
    yield f"{'profile':<10}" + "".join(f"{key:>14}" for key in TIMER_KEYS)
    for name, timers in PROFILES.items():
        yield f"{name:<10}" + "".join(f"{getattr(timers, key):>14}" for key in TIMER_KEYS)


def _wrapped(text: str, prefix: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), 96, initial_indent=prefix, subsequent_indent=prefix
    )


def description_of(type_: Any) -> Meta:
    """The Meta that says what a key means."""
    if get_origin(type_) is Annotated:
        metas = [meta for meta in get_args(type_)[1:] if isinstance(meta, Meta)]
        return next(meta for meta in reversed(metas) if meta.description)
    return next(description_of(part) for part in get_args(type_) if get_origin(part) is Annotated)


def shared_toml(shared: Tables) -> str:
    """Shared tables as a file has them; the file's tables are these again."""
    tables, _ = join({}, shared)
    return tables_toml(tables)


def tables_toml(tables: Mapping[str, Any]) -> str:
    """Tables as TOML: read again, they are the same."""
    lines: list[str] = []
    for section, value in tables.items():
        many = isinstance(value, list)
        for table in value if many else [value]:
            lines.append(f"[[{section}]]" if many else f"[{section}]")
            lines += [f"{key} = {_exact(item)}" for key, item in table.items()]
            lines.append("")
    return "\n".join(lines)


def _exact(value: Any) -> str:
    """A value as TOML has it, whatever is in it."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            # JSON escapes all that TOML wants escaped, but for one character.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return "[" + ", ".join(map(_exact, value)) + "]"
        case _:
            return str(value)
