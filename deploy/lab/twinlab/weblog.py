# SPDX-License-Identifier: Apache-2.0
"""Web logs in the lab: nginx on both gateways, a log client on a third machine, and the judge.

nginx answers on the LAN's VIP and logs each request; the log client runs in tb-client, as a third
machine would. What was written is compared with what the nodes said was replicated, what their
journals hold in the end, and what the nginx of each node has logged.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from twinbeat.api.client import ClientError
from twinbeat.sync.identity import Folder
from twinbeat.weblog.shown import Replication, WeblogView
from twinlab import agents, disks, lab, netns, plan, processes, storm
from twinlab.shell import LabError, run, wait_for

PORT: Final = 8080
RATE: Final = 2000
CLIENT: Final = "weblog-client"
ASKING: Final = "numbered"
PROGRAM: Final = plan.VENV_DIR / "bin" / "twinbeat-weblog"
LOOK_S: Final = 0.1
"""Between two looks at the watermarks."""
BACK_S: Final = 60.0
_NUMBER: Final = re.compile(rb'"GET /n/(\d+) ')
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


def view(node: str) -> WeblogView | None:
    """What the node's worker says of log records; None if it doesn't answer."""
    try:
        answer = storm.worker(node, 2.0).get("/v1/weblog")
        return msgspec.json.decode(answer.body, type=WeblogView)
    except (ClientError, msgspec.DecodeError):
        return None


def replicating() -> bool:
    """Both nodes pull the other one's records, and clients can reach them."""
    views = [view(node) for node in plan.NODES]
    return all(one is not None and one.port and one.replication.state == "pulling" for one in views)


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


# -- watching and judging ----------------------------------------------------------------------

Stream = tuple[str, int]


@dataclass
class Watch:
    """The watermarks of both nodes, looked at again and again."""

    replicated: dict[Stream, int] = field(default_factory=dict)
    """The highest that anybody has said."""
    over: threading.Event = field(default_factory=threading.Event)
    delays: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By worker and start of it: records known to be on both nodes, and those within 100 ms."""
    together: tuple[int, int] = (0, 0)
    """The same for all workers, but for what came to be known from a fault on until both nodes
    replicated again: nobody could have had those in time."""
    rejoined_s: list[float] = field(default_factory=list)
    """How long that took after all had been mended: from one end of `apart` to the other."""
    _runs: dict[str, int] = field(default_factory=dict)
    _last: dict[str, int] = field(default_factory=dict)
    _fault: bool = False
    _mended_s: float = 0.0
    _is_apart: bool = True
    _known: dict[str, tuple[int, int]] = field(default_factory=dict)

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Something happens to a node, and is mended when this ends."""
        self._fault = self._is_apart = True
        try:
            yield
        finally:
            self._mended_s = time.monotonic()
            self._fault = False

    def look(self) -> None:
        while not self.over.is_set():
            fault, views = self._fault, {}
            for node in plan.NODES:
                if processes.pid_of(f"worker-{node}") is not None:
                    said = view(node)
                    if said is not None:
                        self._note(node, said)
                        views[node] = said.replication
            if not fault and not self._fault and len(views) == len(plan.NODES):
                self._add(views)
            self.over.wait(LOOK_S)

    def _add(self, views: Mapping[str, Replication]) -> None:
        """Both nodes run and can reach each other."""
        known = {node: (said.records, said.in_time) for node, said in views.items()}
        if self._is_apart:
            most = 2 * RATE * LOOK_S
            if any(said.state != "pulling" or said.waiting > most for said in views.values()):
                return
            self._is_apart = False
            if self._mended_s:
                self.rejoined_s.append(time.monotonic() - self._mended_s)
        else:
            grown = [
                tuple(now - then for now, then in zip(known[node], self._known[node], strict=True))
                for node in known
            ]
            records, fast = (sum(each) for each in zip(self.together, *grown, strict=True))
            self.together = records, fast
        self._known = known

    def _note(self, node: str, said: WeblogView) -> None:
        for stream in said.streams:
            key = (stream.node, stream.epoch)
            self.replicated[key] = max(self.replicated.get(key, 0), stream.replicated)
        told = said.replication
        if told.records < self._last.get(node, 0):
            self._runs[node] = self._runs.get(node, 0) + 1  # it was started anew
        self._last[node] = told.records
        self.delays[f"{node} {self._runs.get(node, 0)}"] = (told.records, told.in_time)

    def is_whole(self) -> bool:
        """Both nodes replicate again."""
        return not self._is_apart


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Watch while the block lasts."""
    watch = Watch()
    looking = threading.Thread(target=watch.look)
    looking.start()
    try:
        yield watch
    finally:
        watch.over.set()
        looking.join()


@dataclass
class Judged:
    """What is wrong with what was written; all of them are to be empty."""

    records: int = 0
    twice: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """The watermark had said replicated, and they were not written."""
    missing: list[str] = field(default_factory=list)
    """In a journal in the end, and not written."""
    disorder: list[str] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    """In the log of an nginx, and not written."""

    @property
    def faults(self) -> list[str]:
        return [*self.twice, *self.lost, *self.missing, *self.disorder, *self.unwritten]


def judge(
    lines: list[bytes],
    replicated: dict[Stream, int],
    held: dict[Stream, int],
    logs: Mapping[str, list[bytes]] = MappingProxyType({}),
) -> Judged:
    """`held`: what the nodes have in the end, as the sequence that follows; `logs`: what each
    nginx has logged."""
    written: Counter[tuple[str, bytes]] = Counter()
    found: dict[Stream, list[int]] = {}
    numbers: Counter[bytes] = Counter()
    newest: dict[str, tuple[int, int]] = {}
    judged = Judged(records=len(lines))
    for line in lines:
        node, epoch, sequence, record = line.split(b" ", 3)
        key = (node.decode(), int(epoch))
        written[key[0], record] += 1
        found.setdefault(key, []).append(int(sequence))
        place = (int(epoch), int(sequence))
        if place < newest.get(key[0], (-1, -1)) and len(judged.disorder) < 20:
            judged.disorder.append(f"{place} of {key[0]} came after {newest[key[0]]}")
        newest[key[0]] = max(place, newest.get(key[0], (-1, -1)))
        if asked_for := _NUMBER.search(line):
            numbers[asked_for.group(1)] += 1
    judged.twice += [
        f"request {n.decode()} {count} times" for n, count in numbers.items() if count > 1
    ]
    for stream, sequences in found.items():
        if len(set(sequences)) != len(sequences):
            judged.twice.append(f"{stream}: {len(sequences) - len(set(sequences))} records twice")
    for marks, faults in ((replicated, judged.lost), (held, judged.missing)):
        for stream, end in marks.items():
            lacking = set(range(end)) - set(found.get(stream, ()))
            if lacking:
                faults.append(f"{stream}: {len(lacking)} of {end}, the first {min(lacking)}")
    for name, log in logs.items():
        # A line with a null in it is what a power failure left of the end of a file.
        left = Counter((name, record) for record in log if b"\0" not in record) - written
        if left:
            some = sorted(record for _, record in left)
            judged.unwritten.append(f"{left.total()} of {name}, {some[0]!r} to {some[-1]!r}"[:500])
    return judged


def logs() -> dict[str, list[bytes]]:
    """Those of both nodes."""
    return {node: logged(node) for node in plan.NODES}


def held() -> dict[Stream, int]:
    """What is durable on the nodes now; LabError if one doesn't say."""
    found: dict[Stream, int] = {}
    for node in plan.NODES:
        said = wait_for(partial(view, node), f"the streams of {node}", timeout_s=20)
        for stream in said.streams:
            key = (stream.node, stream.epoch)
            found[key] = max(found.get(key, 0), stream.durable)
    return found


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
