# SPDX-License-Identifier: Apache-2.0
"""The others, on the same ground: keepalived and FRR's bfdd in the same node namespaces.

Their settings are the fastest that hold: VRRPv3 with 10 ms adverts, priorities 254/253, real-time
priority; BFD with 10 ms × 3.  The lab has to be up without agents (`lab up --no-agent`).
"""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

from twinlab import netns, plan, processes
from twinlab.shell import LabError, run, wait_for


class Keepalived:
    """keepalived on both nodes, a as master.  Use as a context.

    layout: `one` instance on lan0 that carries the wan VIP as well (one timer, one takeover: the
    quickest); `two` instances, one for each side; `group`, the two in a sync group.
    """

    def __init__(
        self,
        *,
        use_vmac: bool = True,
        vips: list[str] | None = None,
        advert_s: float = 0.01,
        priorities: tuple[int, int] = (254, 253),
        rt_priority: int = 50,
        layout: str = "one",
        extra: str = "",
    ) -> None:
        self._use_vmac = use_vmac
        self._lan_vips = vips or [plan.LAN_VIP]
        self._advert_s = advert_s
        self._priorities = priorities
        self._rt_priority = rt_priority
        self._layout = layout
        self._extra = extra

    def configuration(self, node: str) -> str:
        """The node's keepalived.conf."""
        priority = self._priorities[plan.node_index(node)]
        realtime = (
            f"  vrrp_rt_priority {self._rt_priority}\n  vrrp_no_swap\n"
            f"  vrrp_rlimit_rttime 1000000\n"
            if self._rt_priority
            else ""
        )
        text = f"global_defs {{\n  router_id {node}\n  vrrp_version 3\n  script_user root\n"
        text += f"{realtime}  {self._extra}\n}}\n"
        # An advert names at most a few dozen addresses; the others ride along unnamed.
        listed = self._lan_vips[:20]
        rest = [f"{vip}/32" for vip in self._lan_vips[20:]]
        if self._layout == "one":
            wan = f"{plan.WAN_VIP}/32 dev wan0"
            return text + self._instance(
                "LAN", "lan0", plan.LAN_VRID, priority, listed, [wan, *rest]
            )
        if self._layout == "group":
            text += "vrrp_sync_group GATEWAY {\n  group {\n    LAN\n    WAN\n  }\n}\n"
        text += self._instance("LAN", "lan0", plan.LAN_VRID, priority, listed, rest)
        return text + self._instance("WAN", "wan0", plan.WAN_VRID, priority, [plan.WAN_VIP], [])

    def _instance(
        self,
        name: str,
        interface: str,
        vrid: int,
        priority: int,
        vips: list[str],
        excluded: list[str],
    ) -> str:
        vmac = f"  use_vmac vrrp.{vrid}\n" if self._use_vmac else ""
        listed = "".join(f"    {vip}/32\n" for vip in vips)
        unnamed = "".join(f"    {vip}\n" for vip in excluded)
        if unnamed:
            unnamed = f"  virtual_ipaddress_excluded {{\n{unnamed}  }}\n"
        return (
            f"vrrp_instance {name} {{\n  state BACKUP\n  interface {interface}\n"
            f"  virtual_router_id {vrid}\n  priority {priority}\n  advert_int {self._advert_s}\n"
            f"{vmac}  virtual_ipaddress {{\n{listed}  }}\n{unnamed}}}\n"
        )

    def __enter__(self) -> Keepalived:
        try:
            for node in plan.NODES:
                self.start(node)
            self.wait_master("a")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in plan.NODES:
            self.stop(node)

    def start(self, node: str) -> None:
        """Start it on one node."""
        directory = netns.node_dir(node, "/run") / "keepalived"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        (directory / "keepalived.conf").write_text(self.configuration(node))
        # Its pid files lie in the node's own /run; stale ones went with the directory.
        # Not by syslog: where nothing listens at /dev/log it writes to the console, and a slow
        # serial console between verdict and announcement doubled the outage here.
        command = ["keepalived", "-n", "-l", "-G", "-P", "-f", "/run/keepalived/keepalived.conf"]
        command += ["-p", "/run/keepalived/pid", "-r", "/run/keepalived/vrrp.pid"]
        processes.spawn(f"keepalived-{node}", plan.namespace(node), command)

    def stop(self, node: str) -> None:
        """End it on one node, in good order."""
        processes.end(f"keepalived-{node}")

    def holds(self, node: str) -> bool:
        """Whether the node has the last lan VIP and the wan VIP on its interfaces."""
        shown = run([*netns.enter(plan.namespace(node)), "ip", "-j", "-4", "address"])
        held = {
            address["local"] for link in json.loads(shown) for address in link.get("addr_info", [])
        }
        return {self._lan_vips[-1], plan.WAN_VIP} <= held

    def wait_master(self, node: str, *, timeout_s: float = 30.0) -> None:
        """Wait until the node alone holds the VIPs."""
        try:
            wait_for(
                lambda: self.holds(node) and not self.holds(plan.peer(node)),
                f"keepalived's master is {node}",
                timeout_s=timeout_s,
            )
        except LabError as error:
            tail = processes.log_tail(f"keepalived-{node}", 5)
            raise LabError(f"{error}\n{tail}") from error


class Bfd:
    """FRR's bfdd on both nodes with a session over lan0.  Use as a context."""

    DAEMONS = Path("/usr/lib/frr")

    def __init__(self, *, interval_ms: int = 10, multiplier: int = 3) -> None:
        self._interval_ms = interval_ms
        self._multiplier = multiplier

    def __enter__(self) -> Bfd:
        try:
            for node in plan.NODES:
                self.start(node)
            self.wait_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in plan.NODES:
            self.stop(node)

    def start(self, node: str) -> None:
        """Start zebra and bfdd on one node."""
        peer = plan.node_address(plan.peer(node), "lan0")
        local = plan.node_address(node, "lan0")
        directory = netns.node_dir(node, "/run") / "frr"
        directory.mkdir(exist_ok=True)
        shutil.chown(directory, "frr", "frr")
        (directory / "zebra.conf").write_text(f"hostname {node}\n")
        (directory / "bfdd.conf").write_text(
            f"bfd\n peer {peer} local-address {local} interface lan0\n"
            f"  detect-multiplier {self._multiplier}\n"
            f"  receive-interval {self._interval_ms}\n"
            f"  transmit-interval {self._interval_ms}\n"
        )
        for daemon in ("zebra", "bfdd"):
            for stale in directory.glob(f"{daemon}.*[!f]"):
                if stale.suffix in (".pid", ".vty"):
                    stale.unlink()
            command = [str(self.DAEMONS / daemon), "-f", f"/run/frr/{daemon}.conf"]
            command += ["-i", f"/run/frr/{daemon}.pid", "-z", "/run/frr/zserv.api"]
            command += ["--vty_socket", "/run/frr", "--log", "stdout"]
            processes.spawn(f"{daemon}-{node}", plan.namespace(node), command)
            wait_for(
                (directory / f"{daemon}.vty").exists,
                f"{daemon} of {node} ({processes.log_tail(f'{daemon}-{node}', 3)})",
                timeout_s=10,
            )

    def stop(self, node: str) -> None:
        """End it on one node."""
        for daemon in ("bfdd", "zebra"):
            processes.end(f"{daemon}-{node}")

    def peers(self, node: str) -> list[dict[str, Any]]:
        """The node's sessions as `show bfd peers json` gives them."""
        command = ["vtysh", "--vty_socket", "/run/frr", "-d", "bfdd", "-c", "show bfd peers json"]
        said = run([*netns.enter(plan.namespace(node)), *command])
        return list(json.loads(said))

    def is_up(self, node: str) -> bool:
        return any(peer.get("status") == "up" for peer in self.peers(node))

    def wait_up(self, *, timeout_s: float = 30.0) -> None:
        """Wait until the session is up at both ends."""
        for node in plan.NODES:
            wait_for(
                functools.partial(self.is_up, node),
                f"bfdd's session at {node}",
                timeout_s=timeout_s,
            )
