# SPDX-License-Identifier: Apache-2.0
"""Keys of [timers], the profiles, and what comes of both.

Durations are integers with the unit in the key; nobody but `Durations` turns them into nanoseconds.
"""

from typing import Annotated, Final, Literal

from msgspec import Struct

from twinbeat.config.fields import key

NS_PER_US: Final = 1_000
NS_PER_MS: Final = 1_000_000


class TimersSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast a death is noticed. A profile gives all values; single ones can be set over it."""

    profile: Annotated[
        Literal["fast", "balanced", "routed", "classic"],
        key(
            "fast: dedicated links, isolated processor. balanced: any LAN. routed: "
            "nodes in different subnets. classic: seconds, as older products have it."
        ),
    ] = "balanced"
    hello_us: Annotated[int, key("Time between two heartbeats.", ge=100, le=10_000_000)] | None = (
        None
    )
    dead_us: (
        Annotated[
            int,
            key(
                "Silence that raises suspicion; at least three times hello_us.",
                ge=300,
                le=60_000_000,
            ),
        ]
        | None
    ) = None
    verify_us: (
        Annotated[
            int,
            key(
                "Window in which a suspicion is checked by probing the peer's kernel.",
                ge=100,
                le=10_000_000,
            ),
        ]
        | None
    ) = None
    stall_us: (
        Annotated[
            int,
            key(
                "How long an agent that hangs behind an open gate is waited for.",
                ge=100,
                le=60_000_000,
            ),
        ]
        | None
    ) = None
    lease_us: (
        Annotated[
            int,
            key(
                "How long the gate stays open without renewal: the longest time that a hung "
                "engine goes on serving.",
                ge=1_000,
                le=60_000_000,
            ),
        ]
        | None
    ) = None
    attest_ms: (
        Annotated[
            int,
            key(
                "How long the engine acts on its own when the deciding loop hangs; at least one "
                "and a half times lease_us, or no claim could begin.",
                ge=50,
                le=90_000,
            ),
        ]
        | None
    ) = None
    boot_wait_ms: (
        Annotated[
            int,
            key(
                "How long a starting node listens for the peer before it may claim alone, and "
                "leaves a role that nobody had yet to a preferred peer that starts as well.",
                ge=100,
                le=600_000,
            ),
        ]
        | None
    ) = None
    accept_host: Annotated[
        bool,
        key(
            "Keep timers that this host was measured to wake up too late for, instead of "
            "raising them or refusing to start. For laboratories.",
            restart=True,
        ),
    ] = False


class Durations(Struct, frozen=True, kw_only=True):
    """Every timer in nanoseconds, those that follow from others included."""

    hello_ns: int
    dead_ns: int
    verify_ns: int
    stall_ns: int
    lease_ns: int
    attest_ns: int
    boot_wait_ns: int
    late_ns: int
    """A tick that comes later than this is late and restarts the verify window: verify / 2."""
    listen_ns: int
    """What a node without a living reign listens at least (rule R10): lease + dead + verify."""
    idle_claim_ns: int
    """How long a peer may be heard without serving (rule R8): dead + verify."""


class Timers(Struct, frozen=True, kw_only=True):
    """The timers in force: the profile's values with the overrides on top."""

    profile: str
    hello_us: int
    dead_us: int
    verify_us: int
    stall_us: int
    lease_us: int
    attest_ms: int
    boot_wait_ms: int

    @property
    def ns(self) -> Durations:
        """The one place where configured units become nanoseconds."""
        dead, verify = self.dead_us * NS_PER_US, self.verify_us * NS_PER_US
        lease = self.lease_us * NS_PER_US
        return Durations(
            hello_ns=self.hello_us * NS_PER_US,
            dead_ns=dead,
            verify_ns=verify,
            stall_ns=self.stall_us * NS_PER_US,
            lease_ns=lease,
            attest_ns=self.attest_ms * NS_PER_MS,
            boot_wait_ns=self.boot_wait_ms * NS_PER_MS,
            late_ns=verify // 2,
            listen_ns=lease + dead + verify,
            idle_claim_ns=dead + verify,
        )


def _profile(
    name: str, hello: int, dead: int, verify: int, stall: int, lease: int, attest: int, boot: int
) -> Timers:
    return Timers(
        profile=name,
        hello_us=hello,
        dead_us=dead,
        verify_us=verify,
        stall_us=stall,
        lease_us=lease,
        attest_ms=attest,
        boot_wait_ms=boot,
    )


# The attestation of `classic` exceeds its lease: the engine begins a claim only while a whole lease
# of it is left (rule R6), so with the five seconds of the first draft it could never claim.
PROFILES: Final[dict[str, Timers]] = {
    timers.profile: timers
    for timers in (
        #                     hello     dead   verify      stall       lease attest    boot
        #                        µs       µs       µs         µs          µs     ms      ms
        _profile("fast", 200, 600, 300, 2_000, 10_000, 500, 2_000),
        _profile("balanced", 6_600, 20_000, 5_000, 20_000, 100_000, 1_000, 3_000),
        _profile("routed", 100_000, 500_000, 200_000, 500_000, 2_000_000, 3_000, 10_000),
        _profile("classic", 200_000, 3_000_000, 200_000, 1_000_000, 10_000_000, 20_000, 20_000),
    )
}

TIMER_KEYS: Final = tuple(name for name in Timers.__struct_fields__ if name != "profile")


def resolve_timers(section: TimersSection) -> Timers:
    """The profile's values with those set singly on top."""
    profile = PROFILES[section.profile]
    values = {}
    for name in TIMER_KEYS:
        override = getattr(section, name)
        values[name] = getattr(profile, name) if override is None else override
    return Timers(profile=section.profile, **values)
