# SPDX-License-Identifier: Apache-2.0
"""Names of interfaces that both nodes use, turned into this node's devices.

Only sections that both nodes share may use them: whatever else a file holds is about one machine.
"""

from typing import Any

from msgspec.structs import replace

from twinbeat.config.model import SECTIONS
from twinbeat.config.nodes import InterfacesSection
from twinbeat.config.problems import Findings
from twinbeat.config.scopes import DEVICE_KEYS


def check_names(interfaces: InterfacesSection, findings: Findings) -> None:
    """A name stands for one device, and no device is a name for another."""
    for name, device in interfaces.device_of.items():
        if device != name and device in interfaces.device_of:
            wrong = "is a name of this table itself: what both would mean can't be told apart."
            findings.add(f"interfaces.{name}", device, wrong)


def resolve(sections: dict[str, Any], sound: set[str], findings: Findings) -> None:
    """Put devices in the place of names, in place. Problems found later tell the name as well."""
    if "interfaces" not in sound:
        return
    interfaces: InterfacesSection = sections["interfaces"]
    device_of = interfaces.device_of
    if not device_of:
        return
    findings.called = {device: name for name, device in device_of.items() if device != name}
    for section, keys in DEVICE_KEYS.items():
        attribute = SECTIONS[section][0]
        if attribute in sound:
            sections[attribute] = tuple(
                replace(table, **{key: _device(getattr(table, key), device_of) for key in keys})
                for table in sections[attribute]
            )


def _device(named: str | tuple[str, ...], device_of: dict[str, str]) -> str | tuple[str, ...]:
    if isinstance(named, str):
        return device_of.get(named, named)
    return tuple(device_of.get(name, name) for name in named)
