# SPDX-License-Identifier: Apache-2.0
"""Web logs in the lab: nginx on both gateways, a log client on a third machine, and what happens
to a primary.

nginx answers on the LAN's VIP and logs each request; the log client runs in tb-client, as a third
machine would. What it wrote is judged by `logwatch`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from twinbeat.sync.identity import Folder
from twinlab import agents, disks, lab, netns, plan, processes, storm
from twinlab.logwatch import RATE, Watch, replicating, view
from twinlab.shell import LabError, run, wait_for

PORT: Final = 8080
CLIENT: Final = "weblog-client"
ASKING: Final = "numbered"
PROGRAM: Final = plan.VENV_DIR / "bin" / "twinbeat-weblog"
BACK_S: Final = 60.0
KINDS: Final = ("silence", "worker", "agent", "nginx", "power")
"""What happens to a primary."""


def nginx_name(node: str) -> str:
    return f"logged-{node}"


# -- the gateways ------------------------------------------------------------------------------


ACCESS_LOG: Final = Path("/run/logged/access.log")
"""Where a node's nginx logs to, inside the node: on the disk that loses its power, which is there a
second time, as nobody may have a source where a node keeps its keys."""


def start_nginx(node: str) -> None:
    """nginx of a gateway, with one worker so that its log is in the order of its answers."""
    prefix = f"/run/nginx-{node}"
    config = f"""
daemon off;
worker_processes 1;
pid {prefix}/pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log {ACCESS_LOG};
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    keepalive_requests 100000000;
    server {{
        listen {PORT};
        default_type text/plain;
        location / {{ return 200 "{node}\\n"; }}
    }}
}}
"""
    home = netns.node_dir(node, "/run") / f"nginx-{node}"
    home.mkdir(exist_ok=True)
    (home / "nginx.conf").write_text(config)
    inside = netns.enter(plan.namespace(node))
    logs = str(ACCESS_LOG.parent)
    if subprocess.run([*inside, "mountpoint", "-q", logs], check=False).returncode:
        run([*inside, "mkdir", "-p", f"{disks.STATE}/nginx", logs])
        run([*inside, "mount", "--bind", f"{disks.STATE}/nginx", logs])
    command = ["nginx", "-p", prefix, "-c", f"{prefix}/nginx.conf"]
    processes.spawn(nginx_name(node), plan.namespace(node), command)
    wait_for(
        lambda: f":{PORT} " in run([*inside, "ss", "-Hlnt"]),
        f"nginx of {node} ({processes.log_tail(nginx_name(node), 3)})",
        timeout_s=10,
    )


def stop_logging() -> None:
    """No source and no client any more, on both nodes."""
    node = agents.wait_fit()
    for command in (("rm", "logsource", "web"), ("weblog", "deny", "logs")):
        done = agents.cli(node, *command, timeout_s=60)
        if done.returncode:
            raise LabError(f"{command}: {done.stderr.strip()}")


def let_go(node: str) -> None:
    """The disk is no longer there a second time, but for who has a file of it open."""
    inside = netns.enter(plan.namespace(node))
    run([*inside, "umount", "--lazy", str(ACCESS_LOG.parent)])


def kill_nginx(node: str) -> None:
    """SIGKILL, master and worker at once."""
    name = nginx_name(node)
    pid = processes.pid_of(name)
    if pid is None:
        raise LabError(f"{name} does not run")
    os.kill(pid, signal.SIGSTOP)  # else it would start another worker
    for each in (*processes.children_of(pid), pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    wait_for(lambda: processes.pid_of(name) is None, f"{name} to end", timeout_s=5)


def logged(node: str) -> list[bytes]:
    """The lines of the node's access log that are whole."""
    shown = subprocess.run(
        [*netns.enter(plan.namespace(node)), "cat", str(ACCESS_LOG)],
        capture_output=True,
        check=False,
    )
    return shown.stdout.split(b"\n")[:-1]


def configure(fingerprint: str) -> None:
    """A source and a client, on both nodes, by the commands that an operator gives."""
    node = agents.wait_fit()
    source = ("add", "logsource", "web", "kind=nginx", f"path={ACCESS_LOG}")
    for command in (source, ("weblog", "allow", "logs", fingerprint)):
        done = agents.cli(node, *command, timeout_s=60)
        if done.returncode:
            raise LabError(f"{command}: {done.stderr.strip()}")


# -- the third machine -------------------------------------------------------------------------


class Third:
    """The machine of the log client."""

    def __init__(
        self, root: Path, form: str = 'CUSTOM "%N %E %Q %L"', metrics: str = "none"
    ) -> None:
        """``metrics``: where it answers Prometheus, in the words of its log.conf."""
        self.root = root
        self.root.mkdir(exist_ok=True)
        self._metrics = metrics
        self.out = root / "all.log"
        self._form = form
        self.folder = Folder(root / "state" / "identity")
        own = self.folder.own() or self.folder.make_own("logs", time.time())
        self.fingerprint = own.certificate.fingerprint

    def write_conf(self) -> None:
        """Both nodes are added, with the fingerprints that they show of themselves."""
        block = f"logFormat {self._form}\nlogInterval None\nlogFilenameFormat {self.out}"
        lines = [
            "Filter default",
            "begin default",
            block,
            "end default",
            f"metrics {self._metrics}",
        ]
        (self.root / "log.conf").write_text("\n".join(lines) + "\n")
        for node in plan.NODES:
            said = view(node)
            assert said is not None
            add = ("add-node", plan.node_address(node, "lan0"), "--fingerprint", said.fingerprint)
            run([*netns.enter(plan.CLIENT_NS), *self.command(*add)])

    def command(self, *arguments: str) -> list[str]:
        files = ["-f", str(self.root / "log.conf"), "--state", str(self.root / "state")]
        return [str(PROGRAM), *files, "--control", str(self.root / "control.sock"), *arguments]

    def start(self) -> None:
        processes.spawn(CLIENT, plan.CLIENT_NS, self.command("start", "--foreground"))

    def status(self) -> dict[str, Any] | None:
        """What it says of itself; None if it doesn't answer."""
        done = subprocess.run(
            self.command("show", "--json"), capture_output=True, check=False, timeout=20
        )
        return dict(json.loads(done.stdout)) if done.returncode == 0 else None

    def lines(self) -> list[bytes]:
        return self.out.read_bytes().split(b"\n")[:-1] if self.out.exists() else []


# -- numbered requests -------------------------------------------------------------------------


@contextlib.contextmanager
def asking(rate: int = RATE) -> Iterator[None]:
    """Requests at a rate to the LAN's VIP while the block lasts; `asked` says what came of it."""
    script = str(plan.LAB_DIR / "twinlab" / "numbered.py")
    processes.log_file(ASKING).unlink(missing_ok=True)
    command = ["/usr/bin/python3", "-I", script, plan.LAN_VIP, "--port", str(PORT)]
    # No run has numbers of another one.
    command += ["--rate", str(rate), "--first", str(int(time.time()) * 100_000)]
    processes.spawn(ASKING, plan.CLIENT_NS, command)
    try:
        yield
    finally:
        processes.end(ASKING)


def asked() -> dict[str, Any]:
    """What the last run says of itself."""
    return dict(json.loads(processes.log_tail(ASKING, 1)))


def logs() -> dict[str, list[bytes]]:
    """Those of both nodes."""
    return {node: logged(node) for node in plan.NODES}


def settled(third: Third) -> bool:
    """Everything that was logged is on both nodes, and everything on the nodes was written."""
    views = [view(node) for node in plan.NODES]
    status = third.status()
    if status is None or any(one is None for one in views):
        return False
    behind = sum(source.behind for one in views if one for source in one.sources)
    waiting = sum(one.replication.waiting for one in views if one)
    connected = all(node["connected"] and not node["lag"] for node in status["nodes"])
    return connected and not behind and not waiting and not status["pending_bytes"]


# -- what happens to a primary -----------------------------------------------------------------


@dataclass
class Ground:
    """A pair that collects, a log client that pulls; on disks that can lose their power."""

    third: Third
    disks: dict[str, disks.Disk]

    def fail(self, kind: str, *, watch: Watch, for_s: float = 1.0) -> str:
        """One failover: it happens, the other node serves for a while, all is whole again."""
        primary = agents.wait_fit()
        # Else a role is not handed over by command.
        wait_for(storm.agree, "both nodes to have the same in force", timeout_s=BACK_S)
        peer = plan.peer(primary)
        with watch.apart():
            try:
                getattr(self, f"_{kind}")(primary)
                wait_for(lambda: _serves(peer), f"{peer} to take over ({kind})", timeout_s=20)
                time.sleep(for_s)
            finally:
                self._mend(primary)
        agents.wait_fit()
        return primary

    def _silence(self, node: str) -> None:
        lab.cut(node, silent=True)

    def _worker(self, node: str) -> None:
        self._kill(f"worker-{node}")
        _force(node)

    def _agent(self, node: str) -> None:
        agents.kill(node)

    def _nginx(self, node: str) -> None:
        kill_nginx(node)
        _force(node)

    def _power(self, node: str) -> None:
        log = Path(f"/proc/{agents.pid(node)}/root{ACCESS_LOG}")
        # A part of it is on the disk by then, and the end is lost.
        run(["sync", "-f", str(log)])
        size = log.stat().st_size
        wait_for(lambda: log.stat().st_size > size + 10_000, "more in the log", timeout_s=10)
        lab.cut(node, silent=True)
        let_go(node)
        names = [f"worker-{node}", agents.process_name(node), nginx_name(node)]
        disks.lose_power([self.disks[node]], names)
        # What lay below /run is gone with the kernel that ran.
        for path in netns.node_dir(node, "/run").joinpath("twinbeat").iterdir():
            path.unlink()

    @staticmethod
    def _kill(name: str) -> None:
        processes.send_signal(name, signal.SIGKILL)
        wait_for(lambda: processes.pid_of(name) is None, f"{name} to end", timeout_s=5)

    def _mend(self, node: str) -> None:
        if processes.pid_of(agents.process_name(node)) is None and self._is_off(node):
            self.disks[node].mount()
        lab.heal(node)
        if processes.pid_of(nginx_name(node)) is None:
            start_nginx(node)
        if processes.pid_of(agents.process_name(node)) is None:
            agents.start(node)
        agents.start_worker(node)

    def _is_off(self, node: str) -> bool:
        command = [*netns.enter(plan.namespace(node)), "mountpoint", "-q", disks.STATE]
        return subprocess.run(command, check=False).returncode != 0


def _serves(node: str) -> bool:
    said = agents.show(node)
    return bool(said and said["node"]["role"] == "primary" and said["gate"]["open"])


def _force(node: str) -> None:
    """By command; again while the peer is not heard, which may be so just after something else."""
    said: list[str] = []

    def done() -> bool:
        tried = agents.cli(node, "force", "failover", "--yes")
        said[:] = [tried.stderr.strip()]
        return tried.returncode == 0

    try:
        wait_for(done, "a failover by command", timeout_s=10)
    except LabError as error:
        raise LabError(f"{error}: {said[0]}") from None


@contextlib.contextmanager
def ground(root: Path, *, size: int = 256 << 20) -> Iterator[Ground]:
    """On a lab whose agents run: both in step, nginx logging, the client pulling."""
    made = {node: disks.Disk(node, root, size) for node in plan.NODES}
    names = [name for node in plan.NODES for name in (f"worker-{node}", agents.process_name(node))]
    for name in names:
        processes.end(name)
    for node, disk in made.items():
        disk.mount()
        start_nginx(node)
        agents.start(node)
    agents.wait_fit()
    storm.pair()
    third = Third(root / "third")
    configure(third.fingerprint)
    wait_for(replicating, "both nodes to replicate log records", timeout_s=30)
    third.write_conf()
    third.start()
    try:
        yield Ground(third, made)
    finally:
        for name in (CLIENT, *names, *map(nginx_name, plan.NODES)):
            processes.end(name)
        for node, disk in made.items():
            for end in (partial(let_go, node), disk.umount):
                with contextlib.suppress(LabError):
                    end()
