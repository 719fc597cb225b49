# SPDX-License-Identifier: Apache-2.0
"""What is in force: timers, policy, a pause, the configuration, the processes."""

from msgspec import Struct

from twinbeat.api.parts.terms import Reason


class Timers(Struct, frozen=True, kw_only=True):
    """The timers in force."""

    profile: str
    hello_us: int
    dead_us: int
    verify_us: int
    stall_us: int
    lease_us: int
    attest_ms: int
    boot_wait_ms: int
    kept_hello_us: int | None = None
    """Kept at this moment: while two nodes approach other intervals it may be shorter than
    `hello_us`, and longer than `dead_us`."""
    kept_dead_us: int | None = None
    override: int | None = None
    """Number of the change by which an operator set them while the pair ran; None = they are the
    configuration's."""
    even_so: bool = False
    """It was made though a host can't hold them."""
    refused: Reason | None = None
    """Why the peer doesn't keep what was set."""
    raised: list[Reason] = []
    """Timers this host can't hold as configured, and what they were raised to."""


class Policy(Struct, frozen=True, kw_only=True):
    """What is allowed when: `[policy]` as in force."""

    fail_safe: bool
    strict: bool
    stall: str
    claim_alone: bool
    preferred: bool
    preempt_hold_s: int
    recovery_hold_ms: int = 0
    recovery_hold_max_s: int = 0
    recovery_forget_s: int = 0
    max_flips: int = 0
    flip_window_s: int = 0


class Pause(Struct, frozen=True, kw_only=True):
    """Maintenance: nobody claims, renewal goes on."""

    reason: str
    since_ns: int
    """0 = since before this boot."""
    until_ns: int | None = None
    expires: str | None = None
    both: bool = False
    """The peer has acknowledged it; otherwise it is one-sided."""


class Waiting(Struct, frozen=True, kw_only=True):
    """What this node is waiting for before it may act, counted down."""

    code: str
    """boot_wait | listen | hold_down | backoff | peer_lease"""
    sentence: str
    until_ns: int
    left_ns: int


class Configuration(Struct, frozen=True, kw_only=True):
    """Where the configuration in force came from."""

    path: str
    loaded: str
    generation: int = 0
    digest: int = 0
    mismatch: bool = False
    """The peer's shared configuration differs."""
    needs_restart: list[str] = []
    """Keys changed by a reload that only a restart puts into force."""
    document: bool = False
    """A shared document is in force, not what the file says of shared tables."""
    ignored: list[str] = []
    """What the file says otherwise than the document."""
    send_key: int = 0
    """Id of the key that heartbeats are sealed with."""
    keys: list[int] = []
    """Ids of the keys that are accepted."""


class Process(Struct, frozen=True, kw_only=True):
    """The agent's processes."""

    version: str
    pid: int
    started: str
    started_ns: int
    worker: bool = False
    """twinbeat-worker answers."""
    rss_bytes: int = 0
    realtime: bool = False
    """The engine's thread runs under SCHED_FIFO."""
    python: str = ""
    bpf: str = ""
    """Hash of source and layout of the loaded programs."""
    commit: str = ""
