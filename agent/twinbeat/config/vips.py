# SPDX-License-Identifier: Apache-2.0
"""What has to be right about virtual routers and their addresses, beyond their types."""

from pathlib import Path
from typing import Final

from msgspec.structs import replace

from twinbeat.config.nodes import LinkSection
from twinbeat.config.problems import Findings
from twinbeat.config.service import VIPS_MAX, VridSection
from twinbeat.config.system import OWN_INTERFACES, System, parse_address, useless

_VIPS_FILE_MAX: Final = 4 << 20
_WRONG_MAX: Final = 100
"""Lines of a file that are complained of one by one."""


def with_addresses(vrid: VridSection, path: str, base: Path, findings: Findings) -> VridSection:
    """The same with the addresses of the file behind its own, all in canonical form."""
    addresses = [
        canonical
        for number, text in enumerate(vrid.vips)
        if (canonical := _vip(text, f"{path}.vips[{number}]", findings, None)) is not None
    ]
    if vrid.vips_file:
        file = base / vrid.vips_file
        addresses.extend(read_addresses(file, f"{path}.vips_file", vrid.vips_file, findings))
    neighbours = [
        canonical
        for number, text in enumerate(vrid.neighbours)
        if (canonical := _vip(text, f"{path}.neighbours[{number}]", findings, None)) is not None
    ]
    vmac = vrid.vmac and not vrid.inject
    return replace(vrid, vmac=vmac, vips=tuple(addresses), neighbours=tuple(neighbours))


def read_addresses(file: Path, key: str, written: str, findings: Findings) -> list[str]:
    """The addresses that a `vips_file` holds, in canonical form."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(_VIPS_FILE_MAX + 1)
        if len(raw) > _VIPS_FILE_MAX:
            findings.add(key, written, "is larger than any list of addresses can be.")
            return []
        lines = raw.decode("utf-8").splitlines()
    except OSError as error:
        findings.add(key, written, f"{file} can't be read: {error.strerror}.")
        return []
    except UnicodeDecodeError:
        findings.add(key, written, f"{file} is not text.")
        return []
    found, wrong = [], 0
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if text:
            canonical = _vip(text, f"line {number}", findings, str(file))
            if canonical is not None:
                found.append(canonical)
                continue
            wrong += 1
            if wrong == _WRONG_MAX:
                findings.add(key, written, f"{file} isn't looked at behind line {number}.")
                break
    return found


def _vip(text: str, key: str, findings: Findings, file: str | None) -> str | None:
    address = parse_address(text)
    if address is None:
        wrong = "should be an IPv4 or IPv6 address."
        if parse_address(text.partition("/")[0]) is not None:
            wrong = "should be without a prefix length: an address stands for itself."
        findings.add(key, text, wrong, file=file)
        return None
    kind = useless(address)
    if kind:
        findings.add(key, text, f"is {kind}, at which no single host can be reached.", file=file)
        return None
    return str(address)


def check_vrids(vrids: tuple[VridSection, ...], findings: Findings) -> None:
    if not vrids:
        findings.warn("vrid", None, "no shared address is configured: the pair serves nothing.")
    ids: dict[int, int] = {}
    owners: dict[str, str] = {}
    for number, vrid in enumerate(vrids):
        path = f"vrid[{number}]"
        if vrid.id in ids:
            findings.add(f"{path}.id", vrid.id, f"is that of vrid[{ids[vrid.id]}] already.")
        ids.setdefault(vrid.id, number)
        if not vrid.vips:
            findings.add(f"{path}.vips", None, "holds no address, and no vips_file gives any.")
        for vip in vrid.vips:
            if vip in owners:
                findings.add(f"{path}.vips", vip, f"stands in {owners[vip]} already.")
            owners.setdefault(vip, path)
    for number, vrid in enumerate(vrids):
        for neighbour in vrid.neighbours:
            if neighbour in owners:
                wrong = f"is a shared address ({owners[neighbour]}), so nobody else answers for it."
                findings.add(f"vrid[{number}].neighbours", neighbour, wrong)
    for version in (4, 6):
        count = sum((":" in vip) == (version == 6) for vip in owners)
        if count > VIPS_MAX:
            findings.add(
                "vrid", count, f"IPv{version} addresses; the kernel's map holds {VIPS_MAX}."
            )


def check_vip_is_node(
    links: tuple[LinkSection, ...], vrids: tuple[VridSection, ...], findings: Findings
) -> None:
    own = {
        address: f"link[{number}].{side}"
        for number, link in enumerate(links)
        for side, address in (("local", link.local), ("peer", link.peer))
    }
    for number, vrid in enumerate(vrids):
        for vip in vrid.vips:
            if vip in own:
                findings.add(
                    f"vrid[{number}].vips",
                    vip,
                    f"is a node's own address ({own[vip]}); a shared address must be another one.",
                )


def check_addresses_here(
    links: tuple[LinkSection, ...],
    vrids: tuple[VridSection, ...],
    findings: Findings,
    system: System,
) -> None:
    """A shared address may be here as /32 or /128 from the agent itself, but not as the node's."""
    assigned = system.addresses()
    own = {
        entry.address: entry.interface
        for entry in assigned
        if not entry.interface.startswith(OWN_INTERFACES)
        and entry.prefix < (128 if ":" in entry.address else 32)
    }
    for number, vrid in enumerate(vrids):
        for vip in vrid.vips:
            if vip in own:
                findings.add(
                    f"vrid[{number}].vips",
                    vip,
                    f"is this node's own address on {own[vip]}; a shared address must be another.",
                )
    here = {(entry.interface, entry.address) for entry in assigned}
    for number, link in enumerate(links):
        missing = link.vlan == 0 and (link.interface, link.local) not in here
        if assigned and missing and link.interface in system.interfaces():
            findings.warn(
                f"link[{number}].local",
                link.local,
                f"is not assigned to {link.interface} at the moment.",
            )
