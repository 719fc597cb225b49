# SPDX-License-Identifier: Apache-2.0
"""What the lab serves: nginx and the UDP echo on both servers; and the building of the tools."""

from __future__ import annotations

import functools
import json
import random
import sys

from twinlab import netns, plan, processes
from twinlab.shell import LabError, run, wait_for

DOWNLOAD = plan.RUN_DIR / "download"
DOWNLOAD_BYTES = 32 << 20
DOWNLOAD_RATE = "768k"
"""Bytes each second: whoever fetches it is busy for forty seconds."""


def download() -> bytes:
    """What /download is, the same at each start: another byte anywhere is seen."""
    return random.Random(DOWNLOAD_BYTES).randbytes(DOWNLOAD_BYTES)


def flows(*arguments: str) -> list[str]:
    """The program of connections that last (see `flows`)."""
    return [sys.executable, "-I", str(plan.LAB_DIR / "twinlab" / "flows.py"), *arguments]


def build_tools() -> None:
    """Compile the tools in C; nothing happens if they are newer than their sources."""
    run(["make", "-s", "-C", str(plan.LAB_DIR / "tools"), f"BUILD={plan.BUILD_DIR}"])


def tool(name: str) -> str:
    return str(plan.BUILD_DIR / name)


def start(options: plan.Options) -> None:
    """Start nginx, tb-echo and the line echo in both servers and wait until all answer there."""
    DOWNLOAD.write_bytes(download())
    for server in plan.SERVERS:
        _start_nginx(server, options)
        lines = [*flows("serve"), "--port", str(plan.LINE_PORT)]
        processes.spawn(f"lines-{server}", plan.namespace(server), lines)
        processes.spawn(f"echo-{server}", plan.namespace(server), [tool("tb-echo"), "--fifo", "10"])
    for server in plan.SERVERS:
        wait_for(
            functools.partial(_listens, plan.namespace(server)),
            f"nginx and echo in {plan.namespace(server)} "
            f"({processes.log_tail(f'nginx-{server}', 3)})",
            timeout_s=10,
        )


def _start_nginx(server: str, options: plan.Options) -> None:
    prefix = plan.RUN_DIR / f"nginx-{server}"
    prefix.mkdir()
    listen6 = f"listen [::]:{plan.HTTP_PORT};" if options.ipv6 else ""
    (prefix / "nginx.conf").write_text(
        f"""
daemon off;
worker_processes 1;
pid {prefix}/pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    server {{
        listen {plan.HTTP_PORT};
        {listen6}
        default_type text/plain;
        location / {{ return 200 "{server}\\n"; }}
        location /download {{ alias {DOWNLOAD}; limit_rate {DOWNLOAD_RATE}; }}
    }}
}}
"""
    )
    command = ["nginx", "-p", str(prefix), "-c", str(prefix / "nginx.conf")]
    processes.spawn(f"nginx-{server}", plan.namespace(server), command)


def _listens(name: str) -> bool:
    """Whether all ports are open in a server, asked from its own kernel's tables."""
    shown = run([*netns.enter(name), "ss", "-Hlntu"])
    return all(f":{port} " in shown for _, port in plan.SERVED)


def http_get(address: str, *, timeout_s: float = 1.0) -> str:
    """The body of http://ADDRESS/ as the client gets it; LabError if there is no answer."""
    enter = netns.enter(plan.CLIENT_NS)
    said = run([*enter, *web_client(address), "--count", "1", "--timeout-s", str(timeout_s)])
    answer = json.loads(said)
    if answer["error"]:
        raise LabError(f"http://{address}/: {answer['error']}")
    return str(answer["body"])


def web_client(address: str) -> list[str]:
    """The client that fetches a page again and again (see `web`); to be run in tb-client."""
    return [sys.executable, "-I", str(plan.LAB_DIR / "twinlab" / "web.py"), address]
