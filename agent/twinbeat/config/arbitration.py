# SPDX-License-Identifier: Apache-2.0
"""What has to be right about witness, isolation check, watchdog and fencing, beyond their types."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from twinbeat.config.arbiters import FenceSection, IsolationSection, WatchdogSection, WitnessSection
from twinbeat.config.nodes import LinkSection
from twinbeat.config.problems import Findings
from twinbeat.config.secrets import check_options, check_written
from twinbeat.config.service import VridSection
from twinbeat.config.system import parse_address, useless
from twinbeat.config.timers import TimersSection, resolve_timers


def check_witness(
    witness: WitnessSection,
    section: TimersSection,
    links: tuple[LinkSection, ...],
    vrids: tuple[VridSection, ...],
    findings: Findings,
) -> None:
    """Whoever decides between the nodes must be somebody else, reached by a way that is secured."""
    if witness.kind == "none":
        return
    if not witness.endpoints:
        findings.add("witness.endpoints", None, "is empty: name the members of the cluster.")
    if len(set(witness.endpoints)) < len(witness.endpoints):
        findings.add("witness.endpoints", witness.endpoints, "names a member twice.")
    if len(witness.endpoints) == 1:
        findings.warn(
            "witness.endpoints",
            witness.endpoints[0],
            "is the only member: when it is down there is no witness.",
        )
    ours = {vip for vrid in vrids for vip in vrid.vips}
    nodes = {address for link in links for address in (link.local, link.peer)}
    for endpoint in witness.endpoints:
        host = endpoint_host(endpoint)
        if host is None:
            wrong = "should be https://HOST:PORT and nothing behind it."
            findings.add("witness.endpoints", endpoint, wrong)
        elif host in ours:
            wrong = "is at a shared address of this pair, which only the primary could ask."
            findings.add("witness.endpoints", endpoint, wrong)
        elif host in nodes:
            wrong = "is on a node of this pair: it would fall with it, and decide for it."
            findings.add("witness.endpoints", endpoint, wrong)
    if not witness.ca_file.startswith("/"):
        findings.add("witness.ca_file", witness.ca_file, "should be an absolute path.")
    if bool(witness.cert_file) != bool(witness.key_file):
        key = "key_file" if witness.cert_file else "cert_file"
        findings.add(f"witness.{key}", None, "is missing: certificate and key belong together.")
    timers = resolve_timers(section)
    least_ms = -(-(4 * timers.hello_us + timers.dead_us) // 1000)
    if witness.lease_ms < least_ms:
        findings.add(
            "witness.lease_ms",
            witness.lease_ms,
            f"must be at least four times hello_us and dead_us, {least_ms} ms here: the peer's "
            "word is good for as long.",
        )


def check_witness_here(witness: WitnessSection, findings: Findings) -> None:
    """The agent doesn't start with certificates that it can't read."""
    if witness.kind == "none":
        return
    for key in ("ca_file", "cert_file", "key_file"):
        name = getattr(witness, key)
        if not name.startswith("/"):
            continue
        if not Path(name).is_file():
            findings.add(f"witness.{key}", name, "there is no such file.")
        elif not os.access(name, os.R_OK):
            findings.add(f"witness.{key}", name, "this user can't read it.")
        elif key == "key_file" and (mode := Path(name).stat().st_mode & 0o777) & 0o077:
            findings.warn(
                f"witness.{key}", name, f"has mode {mode:04o}: others may use this node's key."
            )


def endpoint_host(text: str) -> str | None:
    """The host of an endpoint of the witness, or None where it is none."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    bare = not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
    return host if parts.scheme == "https" and host and port and bare else None


def check_isolation(
    isolation: IsolationSection,
    links: tuple[LinkSection, ...],
    vrids: tuple[VridSection, ...],
    findings: Findings,
) -> None:
    taken = {
        vip: "a shared address, which this node answers itself"
        for vrid in vrids
        for vip in vrid.vips
    }
    for link in links:
        taken[link.local] = "this node's own"
        taken[link.peer] = "the peer's: its death would look like this node's isolation"
    for number, text in enumerate(isolation.references):
        path = f"isolation.references[{number}]"
        address = parse_address(text)
        if address is None:
            findings.add(path, text, "should be an IPv4 or IPv6 address.")
        elif kind := useless(address):
            findings.add(path, text, f"is {kind}, at which no single host can be reached.")
        elif str(address) in taken:
            findings.add(path, text, f"is {taken[str(address)]}.")


def check_watchdog(watchdog: WatchdogSection, section: TimersSection, findings: Findings) -> None:
    if watchdog.mode == "off":
        return
    timers = resolve_timers(section)
    gate_ms = timers.attest_ms + timers.lease_us // 1000
    if watchdog.timeout_s * 1000 <= gate_ms:
        findings.add(
            "watchdog.timeout_s",
            watchdog.timeout_s,
            f"must be longer than attest_ms + lease_us ({gate_ms} ms): a loop that hangs loses its "
            "gate first, and the machine is reset only if it goes on hanging.",
        )


def check_fence(fence: FenceSection, findings: Findings) -> None:
    check_written(fence.options, findings)
    if not fence.agent and (fence.options or fence.secrets_file):
        findings.add("fence.agent", None, "is missing: there are options for it.")
    if fence.agent and fence.action == "status":
        findings.warn("fence.action", fence.action, "only asks: nobody is fenced.")
        if fence.policy == "before":
            findings.add(
                "fence.policy",
                fence.policy,
                'waits for a peer that was fenced, and action = "status" fences nobody.',
            )


def check_fence_here(fence: FenceSection, findings: Findings) -> None:
    if not fence.agent:
        return
    program = Path(fence.agent)
    if not program.is_file():
        findings.add("fence.agent", fence.agent, "there is no such program.")
    elif not os.access(program, os.X_OK):
        findings.add("fence.agent", fence.agent, "this user can't run it.")
    check_options(fence, findings)
