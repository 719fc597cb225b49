# SPDX-License-Identifier: Apache-2.0
"""Twinbeat in the nodes: its configuration and key, its processes, what it says of itself."""

from __future__ import annotations

import contextlib
import functools
import json
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

from twinlab import netns, plan, processes, routed, witness
from twinlab.shell import LabError, run, wait_for

DAEMON = plan.VENV_DIR / "bin" / "twinbeatd"
WORKER = plan.VENV_DIR / "bin" / "twinbeat-worker"
TOOL = plan.VENV_DIR / "bin" / "twinbeat"

KEY_ID = 1
_answer_timeout_s: ContextVar[float] = ContextVar("answer_timeout_s", default=2.0)
"""How long an answer over the socket is waited for; see `patient`."""
FIT_TIMEOUT_S = 60.0
"""A pair has come up, or a node is fit again, long before; a boot waits for the longest lease."""


def process_name(node: str) -> str:
    return f"agent-{node}"


def installed() -> bool:
    return DAEMON.exists()


# ------------------------------------------------------------------- configuration -----------


def configuration(node: str, options: plan.Options) -> str:
    """The node's twinbeat.toml, in the words of the shipped documentation."""
    peer = plan.peer(node)
    vmac = str(options.vmac).lower()
    vips_file = 'vips_file = "/etc/twinbeat/vips-lan.txt"\n' if options.vips > 1 else ""
    tables: dict[str, list[str]] = {
        "node": [f'name = "{node}"', f"index = {plan.node_index(node)}"],
        "pair": [f"id = {plan.PAIR_ID}"],
        "peer": [f'name = "{peer}"'],
        "keys": [f"send = {KEY_ID}"],
        "timers": [f'profile = "{options.profile}"'],
        "policy": [],
    }
    if len(options.links) == 1:
        tables["policy"].append("accept_single_link = true")
    if options.witness:
        tables["witness"] = witness.table()
    for setting in options.settings:
        key, equals, value = setting.partition("=")
        table, dot, name = key.strip().partition(".")
        if not (equals and dot):
            raise LabError(f"--set {setting}: not of the form table.key=value")
        lines = tables.setdefault(table, [])
        lines[:] = [line for line in lines if line.partition(" ")[0] != name]
        lines.append(f"{name} = {value.strip()}")
    text = "".join(f"[{table}]\n" + "\n".join(lines) + "\n\n" for table, lines in tables.items())
    text += sessions(options)
    if options.routed:
        return text + routed.sections(node, options)
    for link in options.links:
        text += (
            f'[[link]]\nname = "{link}"\ninterface = "{link}"\n'
            f"direct = {str(link == 'ha0').lower()}\n"
            f'local = "{plan.node_address(node, link)}"\n'
            f'peer = "{plan.node_address(peer, link)}"\n\n'
        )
    lan = [plan.LAN_VIP, plan.LAN_VIP6] if options.ipv6 else [plan.LAN_VIP]
    servers = plan.servers(4) + (plan.servers(6) if options.ipv6 else [])
    text += (
        f'[[vrid]]\nid = {plan.LAN_VRID}\ninterface = "lan0"\nvmac = {vmac}\n'
        f"vips = {json.dumps(lan)}\n{vips_file}\n"
        f'[[vrid]]\nid = {plan.WAN_VRID}\ninterface = "wan0"\nvmac = {vmac}\n'
        f"vips = {json.dumps(options.wan_vips())}\n"
        f"neighbours = {json.dumps(servers)}\n"
    )
    return text


def sessions(options: plan.Options) -> str:
    """What the gateways' clients are bound by: their own address, to one of the two servers."""
    versions = (4, 6) if options.ipv6 else (4,)
    servers = [address for version in versions for address in plan.servers(version)]
    text = (
        f'[[pool]]\nname = "web"\nservers = {json.dumps(servers)}\n'
        f'probe = "tcp"\nprobe_port = {plan.HTTP_PORT}\n\n'
    )
    for version in versions:
        for protocol, port in plan.SERVED:
            name = plan.rule_name(port)
            text += (
                f'[[persistence]]\nname = "{name}{"" if version == 4 else "6"}"\n'
                f"vips = {json.dumps(options.served(version))}\n"
                f'protocol = "{protocol}"\nport = {port}\npool = "web"\n'
                f"limit = {plan.ENTRIES_MAX}\n\n"
            )
    return text


def configure(options: plan.Options) -> None:
    """Write both nodes' /etc/twinbeat: configuration, key, and the file of further VIPs."""
    key = secrets.token_hex(16)
    for node in plan.NODES:
        etc = netns.node_dir(node, "/etc/twinbeat")
        (etc / "twinbeat.toml").write_text(configuration(node, options))
        (etc / "vips-lan.txt").write_text("\n".join(plan.more_vips(options.vips - 1)) + "\n")
        keys = etc / "keys"
        keys.mkdir(mode=0o700, exist_ok=True)
        if options.witness:
            witness.hand_out(node)
        key_file = keys / f"{KEY_ID}.key"
        key_file.touch(mode=0o600)
        key_file.write_text(key + "\n")
        (netns.node_dir(node, "/var/lib") / "twinbeat").mkdir(mode=0o750, exist_ok=True)
        (netns.node_dir(node, "/run") / "twinbeat").mkdir(mode=0o750, exist_ok=True)


# ----------------------------------------------------------------------- processes -----------


def start_worker(node: str) -> None:
    """Start the node's worker, if it doesn't run."""
    worker = f"worker-{node}"
    if processes.pid_of(worker) is None:
        processes.spawn(worker, plan.namespace(node), [str(WORKER)])


def start(node: str, environment: Mapping[str, str] = MappingProxyType({})) -> int:
    """Start the node's agent (and its worker, where one is installed); returns the agent's pid."""
    if not installed():
        raise LabError(f"{DAEMON} is missing; `make setup` builds it")
    variables = [f"{name}={value}" for name, value in environment.items()]
    command = ["env", *variables, str(DAEMON)]
    started = processes.spawn(process_name(node), plan.namespace(node), command)
    if WORKER.exists():
        start_worker(node)
    return started


def pid(node: str) -> int:
    """The agent's pid; LabError if it doesn't run."""
    found = processes.pid_of(process_name(node))
    if found is None:
        raise LabError(f"the agent of {node} does not run")
    return found


def pinned(node: str, name: str) -> Path:
    """Where the host finds a map that the node's agent pinned, as long as that agent runs."""
    return Path(f"/proc/{pid(node)}/root/sys/fs/bpf/twinbeat/{plan.PAIR_ID}/{name}")


def stop(node: str) -> int:
    """SIGSTOP, and wait until the kernel has stopped it: from then on nothing of it runs."""
    stopped = processes.send_signal(process_name(node), signal.SIGSTOP)
    wait_for(lambda: processes.state_of(stopped) == "T", f"agent of {node} to stop", timeout_s=5)
    return stopped


def cont(node: str) -> int:
    return processes.send_signal(process_name(node), signal.SIGCONT)


def kill(node: str) -> int:
    """SIGKILL, and wait until it is gone."""
    killed = processes.send_signal(process_name(node), signal.SIGKILL)
    name = process_name(node)
    wait_for(lambda: processes.pid_of(name) is None, f"agent of {node} to end", timeout_s=5)
    return killed


def terminate(node: str) -> None:
    """SIGTERM, as systemd does it, and wait for the orderly end."""
    processes.end(process_name(node))


def restart(node: str, environment: Mapping[str, str] = MappingProxyType({})) -> int:
    """The planned restart: the agent leaves its reign under a longer lease, and is started anew.

    What systemd does when the agent ends with the exit code for it.  Returns the new pid.
    """
    name = process_name(node)
    processes.send_signal(name, signal.SIGUSR2)
    wait_for(lambda: processes.pid_of(name) is None, f"the agent of {node} to end", timeout_s=20)
    return start(node, environment)


def reload(node: str) -> int:
    """SIGHUP: read the configuration again."""
    return processes.send_signal(process_name(node), signal.SIGHUP)


def file_of(node: str) -> Path:
    """The node's configuration."""
    return netns.node_dir(node, "/etc/twinbeat") / "twinbeat.toml"


def reconfigure(node: str, text: str) -> str:
    """Give the node another file and have it read; what the node says to that."""
    file_of(node).write_text(text)
    request = json.dumps({"request_id": secrets.token_hex(8)})
    asked = ["curl", "-sS", "--max-time", "20", "--unix-socket", socket_path(node)]
    return run([*asked, "--json", request, "http://localhost/v1/reload"])


# ------------------------------------------------------------------------ answers ------------


def command(*arguments: str) -> list[str]:
    """`twinbeat ARGUMENTS`, to be run inside a node."""
    if not TOOL.exists():
        raise LabError(f"{TOOL} is missing; `make setup` builds it")
    return [str(TOOL), *arguments]


def cli(node: str, *arguments: str, timeout_s: float = 20.0) -> subprocess.CompletedProcess[str]:
    """Run `twinbeat ARGUMENTS` against a node, inside it; the result with both outputs."""
    return subprocess.run(
        [*netns.enter(plan.namespace(node)), *command(*arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def socket_path(node: str) -> str:
    """Where the host finds the node's control socket."""
    return str(netns.node_dir(node, "/run") / "twinbeat" / "control.sock")


def show(node: str) -> dict[str, Any] | None:
    """What the node's agent says about itself (`show --json`); None if it doesn't answer.

    Asked over its socket, which is what the command does too, without starting a Python for it.
    """
    return _get(node, "/v1/status")


def counters(node: str) -> dict[str, Any] | None:
    """Everything the node counts; None if it doesn't answer."""
    return _get(node, "/v1/counters")


def metrics(node: str) -> str:
    """What Prometheus would scrape from the node, asked inside it."""
    inside = netns.enter(plan.namespace(node))
    return run([*inside, "curl", "-sS", "--max-time", "5", "http://127.0.0.1:9703/metrics"])


def history(node: str) -> list[dict[str, Any]]:
    """The node's transitions, oldest first; empty if its agent doesn't answer."""
    answer = _get(node, "/v1/history")
    return list(answer["transitions"]) if answer else []


@contextlib.contextmanager
def patient(timeout_s: float) -> Iterator[None]:
    """Wait longer for answers: under heavy load an agent's slow path is slow indeed."""
    token = _answer_timeout_s.set(timeout_s)
    try:
        yield
    finally:
        _answer_timeout_s.reset(token)


def _get(node: str, path: str) -> dict[str, Any] | None:
    """GET over the node's unix socket; None if nothing useful came back in time.

    A stopped agent accepts nothing, yet its socket still queues: hence the timeout, and no question
    to a process that is known not to run.
    """
    import http.client
    import socket

    running = processes.pid_of(process_name(node))
    if running is None or processes.state_of(running) == "T":
        return None

    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(_answer_timeout_s.get())
            self.sock.connect(socket_path(node))

    connection = Connection("localhost")
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        return dict(json.loads(body)) if response.status == http.HTTPStatus.OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def roles() -> dict[str, str | None]:
    """Each node's role as it says itself; None where no agent answers."""
    return {node: (said["node"]["role"] if (said := show(node)) else None) for node in plan.NODES}


def primary() -> str | None:
    """The node that serves; None if there is none, or (a partition) more than one."""
    serving = []
    for node in plan.NODES:
        said = show(node)
        if said and said["node"]["role"] == "primary" and said["gate"]["open"]:
            serving.append(node)
    return serving[0] if len(serving) == 1 else None


def pair_is_fit() -> str | None:
    """The primary's name if the pair is whole: one serves, the other is fit and hears it."""
    said = {node: show(node) for node in plan.NODES}
    serving = primary()
    if serving is None or not all(said.values()):
        return None
    for answer in said.values():
        assert answer is not None
        if answer["peer"]["watch"] != "alive" or not answer["node"]["fit"]:
            return None
    other = said[plan.peer(serving)]
    assert other is not None
    ready = other["node"]["role"] == "secondary" and not other["node"]["starting"]
    return serving if ready and not other.get("waiting") else None


def wait_bound() -> None:
    """Wait until both gateways' kernels bind clients to servers."""
    for node in plan.NODES:
        try:
            wait_for(
                functools.partial(_binds, node),
                f"the worker of {node} to bind clients",
                timeout_s=20,
            )
        except LabError as error:
            logs = [processes.log_tail(name, 8) for name in (process_name(node), f"worker-{node}")]
            raise LabError("\n".join([f"{error}", *logs])) from error


def _binds(node: str) -> bool:
    command = [*netns.enter(plan.namespace(node)), "nft", "list", "chain", "inet"]
    asked = [*command, "twinbeat_sessions", "bind"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=False)
    return "goto" in shown.stdout


def wait_fit(*, timeout_s: float = FIT_TIMEOUT_S) -> str:
    """Wait until the pair is whole; returns the primary. The error says what was missing."""
    try:
        return wait_for(pair_is_fit, "the pair is fit", timeout_s=timeout_s, interval_s=0.1)
    except LabError as error:
        parts = [str(error)]
        for node in plan.NODES:
            said = show(node)
            words = said["sentence"] if said else "its agent does not answer"
            parts.append(f"{node}: {words}\n{processes.log_tail(process_name(node), 8)}")
        raise LabError("\n".join(parts)) from error


def boot_ns() -> int:
    """Now, on the clock of the agents' timelines."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
