# SPDX-License-Identifier: Apache-2.0
"""What watches over a node: monitors, hooks, watchdog, fencing, witness, references."""

from typing import Final

from msgspec import Struct

SHOWN_OUTPUT: Final = 1024
"""Characters of a hook's output in a status; the log has more of it."""


class Hook(Struct, frozen=True, kw_only=True):
    """A program of the operator that is told what happened."""

    name: str
    exec: str
    events: list[str]
    running: str | None = None
    """The event that it is being told at the moment."""
    waiting: list[str] = []
    runs: int = 0
    outcomes: dict[str, int] = {}
    """ok | failed (another exit code than 0) | timeout | refused (could not be started)"""
    skipped: int = 0
    """News that newer ones overtook before the hook was free."""
    last_event: str | None = None
    last_exit_code: int | None = None
    """Negative: the signal that ended it."""
    last_good: bool | None = None
    last_sentence: str = ""
    last_length_ns: int | None = None
    last_output: str = ""
    """The first SHOWN_OUTPUT characters."""


class Monitor(Struct, frozen=True, kw_only=True):
    """Something that has to hold for this node to be fit, as it stands."""

    name: str
    kind: str
    """interface | linkset | route | address | process | script"""
    state: str
    """up | failed | pending (not known yet, or excused by its start delay) | idle (not for this
    role)"""
    since_ns: int
    since: str
    target: str = ""
    """What is watched, for people."""
    reason: str = ""
    """What the newest look found."""
    weight: int = 0
    """What its failure takes from the score; 0 = it is only shown, or the set counts."""
    linkset: str = ""
    """The set it is a member of."""
    looked_ns: int | None = None
    """When the newest look ended."""
    took_ns: int = 0
    """How long that took."""
    output: str = ""
    """What a script printed, shortened."""


class Watchdog(Struct, frozen=True, kw_only=True):
    """The host's watchdog."""

    mode: str
    """off | auto | required"""
    device: str
    armed: bool = False
    """It runs, and the deciding loop pings it."""
    resting: bool = False
    """Stopped for as long as the pair is paused."""
    identity: str = ""
    """What its driver calls itself."""
    timeout_s: int = 0
    """Without a ping for so long it resets the machine; 0 = the driver doesn't say."""
    nowayout: bool | None = None
    """Once armed it never stops; None = the driver doesn't say."""
    sentence: str = ""
    """What is wrong with it."""


class Fencing(Struct, frozen=True, kw_only=True):
    """One run of the fence agent, ended."""

    action: str
    """off | reboot | status | monitor"""
    outcome: str
    """succeeded | failed | timed_out | not_run"""
    sentence: str
    time: str
    at_ns: int
    duration_ns: int
    exit_code: int | None = None
    """None = it did not end by itself."""


class Fence(Struct, frozen=True, kw_only=True):
    """Power fencing of the peer."""

    agent: str = ""
    """The program; empty = none is configured."""
    action: str = "off"
    policy: str = "after"
    running: str = ""
    """The action under way, with how many times it was begun for this death in `attempts`."""
    attempts: int = 0
    fenced: bool = False
    """The peer was fenced, and hasn't been heard since."""
    last: Fencing | None = None
    """The newest attempt to fence."""
    check: Fencing | None = None
    """The newest check of whether it could."""


class Witness(Struct, frozen=True, kw_only=True):
    """The third party that decides between nodes that don't hear each other."""

    kind: str
    endpoints: list[str]
    without: str
    """stay | serve: what happens while it is silent."""
    lease_ns: int
    """How long its word is good for."""
    up: bool = False
    """The newest question was answered."""
    answered_ns: int | None = None
    """When the newest answer had arrived; None = never."""
    confirmed_age_ns: int | None = None
    """Since the newest confirmation of the own term was asked for; None = there is none."""
    kept_term: int = 0
    """The highest term kept there, as far as known."""
    keeps_peer: bool = False
    """It says that the peer serves, which this node doesn't hear."""
    opens_in_ns: int | None = None
    """A claim was granted and waits for older words to run out."""
    absent: bool = False
    """It is silent, and the node goes on as if there were none."""
    sentence: str = ""
    """Why there was no answer."""


class Isolation(Struct, frozen=True, kw_only=True):
    """Whether this node is itself cut off from the network, by its reference addresses."""

    references: list[str]
    isolated: bool = False
    answering: str = ""
    """Who answered last."""
