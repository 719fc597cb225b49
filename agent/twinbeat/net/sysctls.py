# SPDX-License-Identifier: Apache-2.0
"""Kernel settings under which an address behind a gate stays behind it.

Those of `all` and of the operator's interfaces come from deploy/sysctl and are only checked here,
so the service needs no write access to them; those of interfaces the agent made itself it sets
where it may, and reports where it may not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path("/proc/sys/net")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A setting that isn't what it should be."""

    key: str
    value: str
    wanted: str
    why: str

    def sentence(self) -> str:
        return f"{self.key} is {self.value}, should be {self.wanted}: {self.why}"

    def fix(self) -> str:
        return f"sysctl -w {self.key}={self.wanted.split()[-1]}  (deploy/sysctl/90-twinbeat.conf)"


def read(key: str) -> str | None:
    """The value of `net.…`; None where the kernel has no such key."""
    try:
        return _path(key).read_text().strip()
    except OSError:
        return None


def check_ports(names: list[str], *, ipv6: bool) -> list[Finding]:
    """What is wrong with the settings of the ports that VIPs are reached through."""
    findings = []
    for name in names:
        findings += [
            _at_least("arp_ignore", name, 1, "else the closed node answers ARP for a VIP"),
            _at_least(
                "arp_announce", name, 2, "else an ARP request carries a VIP with the port's own MAC"
            ),
            _not_value(
                "rp_filter", name, 1, "2", "else frames to a virtual MAC are taken for spoofed ones"
            ),
            _exactly("send_redirects", name, 0, "else redirects teach clients the node's own MAC"),
            _exactly("proxy_arp", name, 0, "else the node answers ARP for what it doesn't own"),
        ]
        if ipv6:
            findings.append(_exactly6("proxy_ndp", name, 0, "else the node answers for others"))
    return [finding for finding in findings if finding is not None]


VMAC_SETTINGS: Final = {
    4: {"arp_ignore": "1", "arp_announce": "2", "rp_filter": "0", "send_redirects": "0"},
    6: {
        "accept_ra": "0",
        "autoconf": "0",
        "dad_transmits": "0",
        "keep_addr_on_down": "1",
        "router_solicitations": "0",
    },
}
"""What the agent sets on its own virtual-MAC interfaces, by IP version."""


def set_vmac(name: str) -> list[Finding]:
    """Set what an interface of ours needs; returns what is wrong and could not be set."""
    findings = []
    for version, settings in VMAC_SETTINGS.items():
        for setting, wanted in settings.items():
            key = f"net.ipv{version}.conf.{name}.{setting}"
            value = read(key)
            if value is None or value == wanted:
                continue
            try:
                _path(key).write_text(wanted)
            except OSError as error:
                why = f"could not be set ({error.strerror}); set the same key of `default` instead"
                findings.append(Finding(key=key, value=value, wanted=wanted, why=why))
    return findings


def _path(key: str) -> Path:
    # A dot in an interface's name (VLANs) is part of one directory, so the key is split around it.
    net, version, conf, *rest = key.split(".")
    assert (net, conf) == ("net", "conf"), key
    return ROOT / version / conf / ".".join(rest[:-1]) / rest[-1]


def _effective(setting: str, name: str) -> int | None:
    """The kernel takes the larger of `all` and the interface's own for these."""
    values = [read(f"net.ipv4.conf.{scope}.{setting}") for scope in ("all", name)]
    numbers = [int(value) for value in values if value is not None]
    return max(numbers) if numbers else None


def _at_least(setting: str, name: str, least: int, why: str) -> Finding | None:
    value = _effective(setting, name)
    if value is None or value >= least:
        return None
    return _finding(setting, name, value, str(least), why)


def _exactly(setting: str, name: str, wanted: int, why: str) -> Finding | None:
    value = _effective(setting, name)
    if value is None or value == wanted:
        return None
    return _finding(setting, name, value, str(wanted), why)


def _not_value(setting: str, name: str, bad: int, wanted: str, why: str) -> Finding | None:
    value = _effective(setting, name)
    if value is None or value != bad:
        return None
    return _finding(setting, name, value, wanted, why)


def _exactly6(setting: str, name: str, wanted: int, why: str) -> Finding | None:
    key = f"net.ipv6.conf.{name}.{setting}"
    value = read(key)
    if value is None or int(value) == wanted:
        return None
    return Finding(key=key, value=value, wanted=str(wanted), why=why)


def _finding(setting: str, name: str, value: int, wanted: str, why: str) -> Finding:
    key = f"net.ipv4.conf.{name}.{setting}"
    return Finding(key=key, value=str(value), wanted=wanted, why=why)
