# SPDX-License-Identifier: Apache-2.0
"""Words of `log.conf` and what they mean: numbers, addresses, names, the criteria of a filter."""

from __future__ import annotations

import difflib
import ipaddress
import re
import shlex
from typing import Final

from twinbeat.weblog.client.model import DEFAULT, FILTER_NAME_MAX, Filter, Network, Writing

CRITERIA: Final = ("HOST", "IP", "SERVER", "NETMASK", "NODE", "SOURCE")
_NAME: Final = re.compile(rf"[A-Za-z0-9_.-]{{1,{FILTER_NAME_MAX}}}")
_HOST: Final = re.compile(r"(\*\.)?[A-Za-z0-9_.:\[\]-]{1,253}")


class Unusable(Exception):  # noqa: N818 - a finding on its way to the list of findings
    """This line can't be used. The message is a sentence."""


def split(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True) or [line]
    except ValueError:
        raise Unusable("a quote is opened and not closed.") from None


def unquoted(text: str) -> str:
    """Without the quotes around it; `\\"`, `\\t` and `\\\\` inside mean what they do elsewhere."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    escapes = {'\\"': '"', "\\'": "'", "\\t": "\t", "\\\\": "\\"}
    return re.sub(r"\\[\"'t\\]", lambda found: escapes[found.group()], text)


def number(text: str, first: int, last: int, what: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and first <= int(text) <= last):
        raise Unusable(f"{what} is a number from {first} to {last}, not {text}.")
    return int(text)


def address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise Unusable(f"{text} is no address: names are not asked for, write the IP.") from None


def filter_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise Unusable(
            f"{text}: the name of a filter has 1 to {FILTER_NAME_MAX} letters, digits, '_', '-' "
            "or '.'."
        )
    return DEFAULT if text.lower() == DEFAULT else text


def criteria(words: list[str]) -> Filter:
    """HOST, IP, SERVER, NETMASK, NODE and SOURCE with their values."""
    hosts: list[bytes] = []
    nodes: list[str] = []
    sources: list[str] = []
    addresses: dict[str, list[str]] = {"ip": [], "server": []}
    masks: dict[str, str] = {}
    kind, last = "", ""
    for word in words:
        if word.upper() in CRITERIA:
            kind = word.lower()
            if kind in {"ip", "server"}:
                last = kind
            continue
        match kind:
            case "host":
                if not _HOST.fullmatch(word):
                    raise Unusable(f"HOST {word}: write a host's name, or `*.` and a domain.")
                hosts.append(word.lower().encode())
            case "node":
                nodes.append(word)
            case "source":
                sources.append(word)
            case "netmask":
                if not last:
                    raise Unusable("NETMASK stands behind the IP or SERVER that it is for.")
                masks[last] = word
            case "":
                known = did_you_mean(word, [*CRITERIA, "ON", "OFF"])
                raise Unusable(f"{word}: write {', '.join(CRITERIA)} or ON, OFF at the end.{known}")
            case _:
                addresses[kind].append(word)
    if kind and words[-1].upper() in CRITERIA:
        raise Unusable(f"{words[-1]} has no value.")
    return Filter(
        name="",
        hosts=tuple(hosts),
        clients=networks(addresses["ip"], masks.get("ip", "")),
        servers=networks(addresses["server"], masks.get("server", "")),
        nodes=tuple(nodes),
        sources=tuple(sources),
        writing=Writing(),
    )


def networks(addresses: list[str], mask: str) -> tuple[Network, ...]:
    made: list[Network] = []
    for address in addresses:
        if mask and "/" in address:
            raise Unusable(f"{address} has a mask already: write it without NETMASK.")
        try:
            made.append(
                ipaddress.ip_network(f"{address}/{mask}" if mask else address, strict=False)
            )
        except ValueError:
            shown = f"{address} NETMASK {mask}" if mask else address
            raise Unusable(
                f"IP {shown}: write an address (192.0.2.7), a network (192.0.2.0/24), or an "
                "address and NETMASK 255.255.255.0."
            ) from None
    return tuple(made)


def did_you_mean(word: str, known: list[str]) -> str:
    spelled = {each.lower(): each for each in known}
    close = difflib.get_close_matches(word.lower(), list(spelled), n=1)
    return f" Did you mean `{spelled[close[0]]}`?" if close else ""
