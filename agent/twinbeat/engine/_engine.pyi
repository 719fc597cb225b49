# SPDX-License-Identifier: Apache-2.0
"""The compiled engine. Written by csrc/build_engine.py --stub out of the C headers; don't edit."""

from typing import Any

from cffi import FFI

class _Lib:
    TB_MAGIC: int
    TB_VERSION: int
    TB_PORT: int
    TB_SIEVE_FACTOR: int
    TB_PAUSE_LEFT: int
    TB_PAUSE_SHIFT: int
    TB_PAUSE_HALVED: int
    TB_LINKS: int
    TB_CPUS: int
    TB_KEYS: int
    TB_VIPS: int
    TB_SIEVE_WORDS: int
    TB_BUCKETS: int
    TB_FRAME_SIZE: int
    TB_MAC_COVERS: int
    TB_HELLO: int
    TB_PROBE: int
    TB_ANSWER: int
    TB_CONTROL: int
    TB_F_OPEN: int
    TB_F_HEARS_YOU: int
    TB_F_YIELD: int
    TB_F_PAUSED: int
    TB_F_RESTART: int
    TB_F_ISOLATED: int
    TB_F_CONTESTED: int
    TB_F_FIT: int
    TB_F_STARTING: int
    TB_F_PREFERRED: int
    TB_F_CLAIMING: int
    TB_F_PAUSE_ACK: int
    TB_F_STRANDED: int
    TB_F_NEVER_CLAIMS: int
    TB_F_KNOWN: int
    TB_F_NEWBORN: int
    TB_F_PROPOSAL: int
    TB_F_REFUSES: int
    TB_F_EVEN_SO: int
    TB_F_NEGOTIATES: int
    TB_ROLE_INIT: int
    TB_ROLE_SECONDARY: int
    TB_ROLE_CLAIMING: int
    TB_ROLE_PRIMARY: int
    TB_ROLE_DISABLED: int
    TB_ADMIN_ENABLED: int
    TB_ADMIN_STAY_PRIMARY: int
    TB_ADMIN_STAY_SECONDARY: int
    TB_ADMIN_DISABLED: int
    TB_PROPOSAL_FLAGS: int
    TB_VRID_V4: int
    TB_VRID_V6: int
    TB_R_HELLO: int
    TB_R_PROBE: int
    TB_R_ANSWER: int
    TB_R_CONTROL: int
    TB_R_LENGTH: int
    TB_R_MALFORMED: int
    TB_R_VERSION: int
    TB_R_PAIR: int
    TB_R_TTL: int
    TB_R_OWN: int
    TB_R_KEY: int
    TB_R_AUTH: int
    TB_R_REPLAY: int
    TB_R_STRANGER: int
    TB_R_WINDOW: int
    TB_R_LINK: int
    TB_R_CHALLENGED: int
    TB_R_SNAPSHOT_BUSY: int
    TB_R_FENCED: int
    TB_R_CONTESTED: int
    TB_R_CLEARED: int
    TB_R_EXPIRED: int
    TB_R_ADOPTED: int
    TB_R_BAD_LINK: int
    TB_R_BAD_CPU: int
    TB_R_IN_OPEN: int
    TB_R_IN_VMAC: int
    TB_R_IN_VIP: int
    TB_R_IN_ARP: int
    TB_R_IN_ND: int
    TB_R_OUT_OPEN: int
    TB_R_OUT_VMAC: int
    TB_R_OUT_VIP: int
    TB_R_OUT_ARP: int
    TB_R_OUT_ND: int
    TB_R_OUT_LEAK: int
    TB_R_OUT_REWRITTEN: int
    TB_REASONS: int
    TB_MAY_SERVE: int
    TB_MAY_CLAIM_DEAD: int
    TB_MAY_CLAIM_STALLED: int
    TB_MAY_CLAIM_IDLE: int
    TB_MAY_CLAIM_YIELD: int
    TB_MAY_CLAIM_COLD: int
    TB_CLAIM_NOW: int
    TB_YIELD: int
    TB_PREFERRED: int
    TB_PAUSED: int
    TB_RESUME: int
    TB_UNHEARD: int
    TB_LISTENING: int
    TB_CLAIMING: int
    TB_SERVING: int
    TB_ALIVE: int
    TB_SUSPECT: int
    TB_STALLED: int
    TB_DEAD: int
    TB_UNKNOWN: int
    TB_C_NONE: int
    TB_C_DEAD: int
    TB_C_STALLED: int
    TB_C_IDLE: int
    TB_C_YIELDED: int
    TB_C_COLD: int
    TB_C_ORDERED: int
    TB_C_RENEW: int
    TB_C_DEAF: int
    TB_C_RESUMED: int
    TB_C_RECEIPT: int
    TB_C_SILENCE: int
    TB_C_LEASE_RAN_OUT: int
    TB_C_FENCED: int
    TB_C_EXPIRED: int
    TB_C_CONTEST_LOST: int
    TB_C_RESIGNED: int
    TB_C_STRANDED_ISOLATED: int
    TB_C_ORDER_VOID: int
    TB_C_GATE_LOST: int
    TB_C_NO_RECEIPT: int
    TB_C_OVERTAKEN: int
    TB_C_BLOCK_SPENT: int
    TB_C_ISOLATED: int
    TB_C_NO_CONTROL: int
    TB_C_PEER_SERVES: int
    TB_C_NOT_PERMITTED: int
    TB_C_PEER_LEASE: int
    TB_C_MISMATCH: int
    TB_C_UNPROVEN: int
    TB_C_DESPITE_MISMATCH: int
    TB_C_WITNESSED: int
    TB_C_NO_WITNESS: int
    TB_C_PEER_STARTS: int
    TB_E_HEARD: int
    TB_E_SUSPECT: int
    TB_E_CLEARED: int
    TB_E_STALLED: int
    TB_E_DEAD: int
    TB_E_WITHHELD: int
    TB_E_CLAIM: int
    TB_E_RECEIPT: int
    TB_E_OPENED: int
    TB_E_ANNOUNCED: int
    TB_E_ABANDONED: int
    TB_E_CLOSED: int
    TB_E_LINK_SILENT: int
    TB_E_LINK_HEARD: int
    TB_E_LATE: int
    TB_E_TERM_LOW: int
    TB_E_ORDER: int
    TB_E_COUNTER_JUMP: int
    TB_E_PEER_CHANGED: int
    TB_E_CONTESTED: int
    TB_E_REOPENED: int
    TB_PASSING: int
    TB_RATIONED: int
    TB_URGENT: int
    TB_STEP_EVENTS: int
    TB_RING: int
    TB_H_LATENESS: int
    TB_H_SEND_LATENESS: int
    TB_H_ROUND_DURATION: int
    TB_H_ROUND_TRIP: int
    TB_H_SILENCE: int
    TB_H_SUSPECT_TO_VERDICT: int
    TB_H_VERDICT_TO_OPEN: int
    TB_H_OPEN_TO_ANNOUNCE: int
    TB_HISTOGRAMS: int
    TB_MODE_ETHERNET: int
    TB_MODE_UDP: int
    TB_UDP_SOCKETS: int
    TB_ERRNOS: int
    TB_TYPES: int
    TB_ANNOUNCE_REPEATS: int
    TB_ANNOUNCE_MAX: int
    TB_ANNOUNCE_CHUNK: int
    TB_ANNOUNCE_FRAME: int
    TB_PORTS: int
    TB_STAGE_SETUP: int
    TB_STAGE_MEMORY: int
    TB_STAGE_MAPS: int
    TB_STAGE_RING: int
    TB_STAGE_ALARM: int
    TB_STAGE_LINK: int
    TB_STAGE_ANNOUNCE: int
    TB_STAGE_PORT: int
    TB_WATCHDOG_NAME: int
    def tb_event_urgency(self, kind: Any) -> int: ...
    def tb_engine_init(self, engine: Any, settings: Any, now: Any) -> None: ...
    def tb_engine_configure(self, engine: Any, settings: Any) -> None: ...
    def tb_engine_step(self, engine: Any, now: Any, input_: Any, actions: Any) -> None: ...
    def tb_pause_said(self, left_ns: Any) -> int: ...
    def tb_pause_left_ns(self, flags: Any) -> int: ...
    def tb_thread_open(self, setup: Any, out: Any, stage: Any) -> int: ...
    def tb_stage_name(self, stage: Any) -> Any: ...
    def tb_thread_close(self, thread: Any) -> None: ...
    def tb_thread_start(self, thread: Any, report: Any) -> int: ...
    def tb_thread_stop(self, thread: Any, close_gate: Any, timeout_ns: Any) -> int: ...
    def tb_thread_running(self, thread: Any) -> bool: ...
    def tb_thread_set_order(self, thread: Any, order: Any, timeout_ns: Any) -> int: ...
    def tb_thread_attest(self, thread: Any, until_ns: Any) -> None: ...
    def tb_thread_set_witness(self, thread: Any, witness: Any) -> None: ...
    def tb_thread_set_settings(self, thread: Any, settings: Any) -> None: ...
    def tb_thread_set_config(self, thread: Any, config: Any) -> None: ...
    def tb_thread_set_peer_mac(self, thread: Any, link: Any, mac: Any) -> int: ...
    def tb_thread_set_links(self, thread: Any, link: Any) -> int: ...
    def tb_thread_set_ports(self, thread: Any, ifindex: Any, count: Any) -> int: ...
    def tb_thread_set_announcements(
        self, thread: Any, announcements: Any, count: Any, schedule: Any
    ) -> int: ...
    def tb_thread_announce(self, thread: Any) -> None: ...
    def tb_thread_eventfd(self, thread: Any) -> int: ...
    def tb_thread_events(self, thread: Any, events: Any, max_: Any) -> int: ...
    def tb_thread_counters(self, thread: Any, counters: Any) -> None: ...
    def tb_thread_histogram(self, thread: Any, which: Any, out: Any) -> int: ...
    def tb_thread_view(self, thread: Any, view: Any, timeout_ns: Any) -> int: ...
    def tb_plain_receive(
        self,
        plain: Any,
        link: Any,
        bytes_: Any,
        size: Any,
        now: Any,
        cpu: Any,
        ttl: Any,
        ttl_min: Any,
        answered: Any,
    ) -> int: ...
    def tb_plain_receive_control(
        self, plain: Any, bytes_: Any, size: Any, now: Any, cpu: Any
    ) -> int: ...
    def tb_plain_gate_open(self, plain: Any, now: Any) -> bool: ...
    def tb_plain_look(self, plain: Any, input_: Any, links: Any) -> None: ...
    def tb_plain_act(self, plain: Any, actions: Any, term: Any) -> None: ...
    def tb_plain_frame(
        self,
        plain: Any,
        frame: Any,
        type_: Any,
        link: Any,
        now: Any,
        echo: Any,
        echo_ns: Any,
        hold_ns: Any,
        proposal: Any,
    ) -> None: ...
    def tb_watchdog_arm(self, dog: Any, path: Any, timeout_s: Any) -> int: ...
    def tb_watchdog_ping(self, dog: Any) -> int: ...
    def tb_watchdog_disarm(self, dog: Any) -> int: ...
    def tb_watchdog_leave(self, dog: Any) -> None: ...

ffi: FFI
lib: _Lib
