# SPDX-License-Identifier: Apache-2.0
"""What has to be right about routes and rules that go with the role, beyond their types."""

import ipaddress

from twinbeat.config.problems import Findings, once_each
from twinbeat.config.service import (
    InjectSection,
    RouteSection,
    RuleSection,
    VridSection,
    route_destination,
)
from twinbeat.config.system import parse_address


def check_routes(routes: tuple[RouteSection, ...], findings: Findings) -> None:
    for number, route in enumerate(routes):
        path = f"route[{number}]"
        version = 0
        if route.destination != "default":
            try:
                version = ipaddress.ip_network(route.destination).version
            except ValueError as error:
                findings.add(
                    f"{path}.destination",
                    route.destination,
                    f'should be a network such as 192.0.2.0/24, or "default" ({error}).',
                )
        gateway = parse_address(route.gateway) if route.gateway else None
        if route.gateway and gateway is None:
            findings.add(f"{path}.gateway", route.gateway, "should be an IPv4 or IPv6 address.")
        elif gateway is not None and version and gateway.version != version:
            findings.add(
                f"{path}.gateway", route.gateway, f"is not of the family of {route.destination}."
            )
        if route.type == "unicast":
            if not route.gateway and not route.interface:
                findings.add(path, None, "needs a gateway or an interface.")
            if route.onlink and not (route.gateway and route.interface):
                findings.add(f"{path}.onlink", True, "needs a gateway and an interface.")
        else:
            for key in ("gateway", "interface", "source", "onlink", "mtu"):
                if getattr(route, key):
                    wrong = f'means nothing with type = "{route.type}".'
                    findings.add(f"{path}.{key}", getattr(route, key), wrong)
        if route.mtu and route.mtu < (1280 if version == 6 else 68):
            findings.add(f"{path}.mtu", route.mtu, "is less than any IP network carries.")
        source = parse_address(route.source) if route.source else None
        if route.source and (source is None or (version and source.version != version)):
            findings.add(
                f"{path}.source", route.source, "should be an address of the destination's family."
            )
    once_each(
        "route",
        [(route_destination(route), route.table, route.metric) for route in routes],
        "has the destination, table and metric of",
        findings,
    )


def check_rules(rules: tuple[RuleSection, ...], findings: Findings) -> None:
    for number, rule in enumerate(rules):
        path = f"rule[{number}]"
        versions = set()
        for key in ("source", "destination"):
            text = getattr(rule, key)
            if not text:
                continue
            try:
                versions.add(ipaddress.ip_network(text).version)
            except ValueError as error:
                findings.add(
                    f"{path}.{key}", text, f"should be a network such as 192.0.2.0/24 ({error})."
                )
        if len(versions) > 1:
            findings.add(path, None, "source and destination are of different families.")
        given = {"ipv4": {4}, "ipv6": {6}, "both": {4, 6}}.get(rule.family, versions)
        if versions and given != versions:
            findings.add(f"{path}.family", rule.family, "is not that of source and destination.")
        if rule.fwmark & ~rule.fwmask:
            findings.add(
                f"{path}.fwmark", rule.fwmark, f"has bits that fwmask {rule.fwmask} hides."
            )
    once_each("rule", list(rules), "is the same as", findings)


def check_inject(
    vrids: tuple[VridSection, ...],
    inject: InjectSection,
    routes: tuple[RouteSection, ...],
    findings: Findings,
) -> None:
    injecting = False
    for number, vrid in enumerate(vrids):
        injecting = injecting or vrid.inject
        if vrid.uplinks and not vrid.inject:
            findings.add(
                f"vrid[{number}].uplinks",
                vrid.uplinks,
                "means nothing without inject = true: only an injected address may arrive "
                "anywhere but on `interface`.",
            )
        if len({vrid.interface, *vrid.uplinks}) <= len(vrid.uplinks):
            findings.add(f"vrid[{number}].uplinks", vrid.uplinks, "names an interface twice.")
    for number, route in enumerate(routes):
        if injecting and route.table == inject.table and inject.table not in {253, 254}:
            findings.warn(
                f"route[{number}].table",
                route.table,
                "is that of the injected host routes: the routing daemon learns this one too.",
            )
