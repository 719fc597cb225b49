# SPDX-License-Identifier: Apache-2.0
"""The configuration as a JSON schema, from the model: for editors, and for programs that write it.

What the schema takes may still be refused: relations between keys, and what only the node itself
can answer, are for `twinbeat config check`. What the schema refuses, that refuses too.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

from twinbeat.config.compare import needs_restart
from twinbeat.config.fields import ANY_NAME, fields_of, free_key
from twinbeat.config.model import CONFIG_PATH, SECTIONS

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema of a node's file, in JSON Schema 2020-12, without references to elsewhere."""
    models = [model for _, model, _ in SECTIONS.values()]
    _, components = msgspec.json.schema_components(models, ref_template="#/$defs/{name}")
    definitions = {model.__name__: _table(model, components[model.__name__]) for model in models}
    properties: dict[str, Any] = {}
    required = []
    for section, (_, model, many) in SECTIONS.items():
        reference = {"$ref": f"#/$defs/{model.__name__}"}
        properties[section] = {"type": "array", "items": reference} if many else reference
        if not many and any(field.required for field in fields_of(model)):
            required.append(section)
    return {
        "$schema": DIALECT,
        "title": CONFIG_PATH,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _table(model: type[Struct], made: dict[str, Any]) -> dict[str, Any]:
    """A section's table: as msgspec has it, without what a TOML file can't say."""
    made["description"] = " ".join(made.get("description", "").split())
    if free_key(model):
        # Its keys are names that the user chooses.
        names = made["properties"].pop(ANY_NAME)
        return {"title": made["title"], "description": made["description"], **names}
    for field in fields_of(model):
        name = field.encode_name
        made["properties"][name] = _value(made["properties"][name])
        if needs_restart(field.type):
            made["properties"][name]["description"] += " Takes effect after a restart."
    return made


def _value(made: dict[str, Any]) -> dict[str, Any]:
    """A key's values; TOML has no null, so what may be absent is simply not required."""
    if "anyOf" not in made:
        return made
    (kept,) = (part for part in made["anyOf"] if part != {"type": "null"})
    return dict(kept)
