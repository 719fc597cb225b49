# SPDX-License-Identifier: Apache-2.0
"""What keywords of keepalived.conf come to where no key of Twinbeat says the same.

LEFT is what somebody has to do by hand; NEEDLESS does nothing here, for the reason told. A keyword
that stands in neither, and that `translate` does not read, is left with a sentence that says so.
"""

from typing import Final

_MAIL: Final = "Twinbeat sends no mail: a [[hook]] can, or an alert of deploy/prometheus."
_IPVS: Final = "Twinbeat balances no load: keep IPVS, or put haproxy or nginx behind the addresses."
_BFD: Final = "Twinbeat's own heartbeats notice a silent peer sooner than BFD, and need none."
_CLEAR: Final = (
    "heartbeats are sealed with a key of their own: `twinbeat keys generate`, or `twinbeat pair`."
)
_GARP: Final = "announcements are paced by themselves; [announce] has repeats_ms and rate_per_s."
_FILE: Final = "no monitor reads a file: a script that does and ends with 0 or 1 is one."
_REALTIME: Final = "[engine] has priority and cpu for the one thread that has to be in time."
_SNMP: Final = "there is no SNMP agent; /metrics has it all (deploy/docs/monitoring.md)."
_STATIC: Final = (
    "what stays on the node is the system's own: put it into its network configuration."
)
_ACTIVE: Final = "which virtual MACs answer is the gate's matter, in XDP and tc."

LEFT: Final = {
    "virtual_server": _IPVS,
    "virtual_server_group": _IPVS,
    "lvs_sync_daemon": _IPVS,
    "lvs_sync_daemon_interface": _IPVS,
    "bfd_instance": _BFD,
    "track_bfd": _BFD,
    "track_file": _FILE,
    "vrrp_track_file": _FILE,
    "vrrp_track_files": _FILE,
    "static_ipaddress": _STATIC,
    "static_routes": _STATIC,
    "static_rules": _STATIC,
    "smtp_alert": _MAIL,
    "smtp_alert_vrrp": _MAIL,
    "notification_email": _MAIL,
    "net_namespace": "start twinbeatd in that namespace: NetworkNamespacePath= of its unit.",
    "vrf": "put the interface into its VRF by the system's own means; the addresses follow it.",
    "notify_stop": "no hook is told of a stop: ExecStopPost= of the unit is.",
    "notify_fifo": "`twinbeat events --follow` is such a stream.",
    "vrrp_notify_fifo": "`twinbeat events --follow` is such a stream.",
    "notify_fifo_script": "`twinbeat events --follow` is such a stream.",
    "track_src_ip": "a monitor of kind address asks whether a host answers.",
    "timer_expired_backup": "no node preempts unless told to stay primary.",
    "script_user": "scripts run as the agent's user, `twinbeat`, without a shell.",
    "user": "scripts run as the agent's user, `twinbeat`, without a shell.",
}

NEEDLESS: Final = {
    "authentication": _CLEAR,
    "auth_hmac": _CLEAR,
    "notification_email_from": _MAIL,
    "smtp_server": _MAIL,
    "smtp_helo_name": _MAIL,
    "smtp_connect_timeout": _MAIL,
    "vrrp_version": "Twinbeat speaks its own heartbeats, on the links.",
    "version": "Twinbeat speaks its own heartbeats, on the links.",
    "vrrp_mcast_group4": "heartbeats go to the peer's address, never to a group.",
    "vrrp_mcast_group6": "heartbeats go to the peer's address, never to a group.",
    "vrrp_strict": "there is one protocol, and it is always checked in full.",
    "strict_mode": "there is one protocol, and it is always checked in full.",
    "vrrp_skip_check_adv_addr": "every heartbeat is checked, at no cost that would matter.",
    "vrrp_check_unicast_src": "every heartbeat is checked for who sent it.",
    "check_unicast_src": "every heartbeat is checked for who sent it.",
    "vrrp_iptables": _ACTIVE,
    "vrrp_ipsets": _ACTIVE,
    "nftables": _ACTIVE,
    "accept": _ACTIVE,
    "vmac_xmit_base": "heartbeats leave by the link, never by the virtual MAC's interface.",
    "native_ipv6": "a VRID may have addresses of both families.",
    "linkbeat_use_polling": "the kernel tells of a lost carrier.",
    "linkbeat_interfaces": "the kernel tells of a lost carrier.",
    "dynamic_interfaces": "an interface that is missing makes the node unfit until it is there.",
    "enable_script_security": "scripts run unprivileged, always.",
    "vrrp_startup_delay": "a node that starts listens for timers.boot_wait_ms.",
    "vrrp_no_swap": "the agent's memory is locked, always.",
    "checker_no_swap": "the agent's memory is locked, always.",
    "process_names": "the processes are called twinbeatd and twinbeat-worker.",
    "use_pid_dir": "systemd knows the process.",
    "debug": "`twinbeat events --follow` and the journal have it.",
    "log_unknown_vrids": "frames of others are counted: `twinbeat stat`.",
    "max_auto_priority": _REALTIME,
    "min_auto_priority_delay": _REALTIME,
    "enable_snmp_vrrp": _SNMP,
    "enable_snmp_keepalived": _SNMP,
    "enable_snmp_rfc": _SNMP,
    "enable_traps": _SNMP,
    "enable_dbus": "`twinbeat --json`, or the socket, is the interface.",
    "down_timer_adverts": "timers.dead_us is the silence that counts.",
    "lower_prio_no_advert": "who hears an open gate shuts its own or is shut, in the kernel.",
    "higher_prio_send_advert": "who hears an open gate shuts its own or is shut, in the kernel.",
    "promote_secondaries": "addresses are on an interface of their own.",
    "delta_down_garp": _GARP,
    "ttl": "links[].ttl_min is 255 on links of one subnet, and heartbeats leave with 255.",
    "unicast_ttl": "links[].ttl_min is 255 on links of one subnet, and heartbeats leave with 255.",
    "init_fail": "a monitor counts only once it has looked.",
    "no_accept": _ACTIVE,
    "no_virtual_ipaddress": "no frame lists addresses.",
}

NEEDLESS_BEGINNINGS: Final = {
    "garp_": _GARP,
    "vrrp_garp_": _GARP,
    "vrrp_gna_": _GARP,
    "vrrp_min_garp": _GARP,
    "vrrp_rt_": _REALTIME,
    "vrrp_rlimit_": _REALTIME,
    "vrrp_priority": _REALTIME,
    "vrrp_cpu_": _REALTIME,
    "checker_": _IPVS,
    "lvs_": _IPVS,
    "bfd_": _BFD,
    "vrrp_rx_": "the kernel's program takes heartbeats before any socket's buffer.",
    "vrrp_netlink_": "the agent reads the kernel's tables again after it missed anything.",
    "skip_check_adv_addr": "every heartbeat is checked, at no cost that would matter.",
    "advert_int_": "[timers] has every interval.",
}

PRIVATE: Final = frozenset({"authentication", "auth_pass", "auth_hmac"})
"""What follows these keywords is never shown."""
