# SPDX-License-Identifier: Apache-2.0
"""Keys of what a node looks at, and of what it makes of it."""

from typing import Annotated, Literal

from msgspec import Struct

from twinbeat.config.fields import InterfaceName, key, named

MonitorName = Annotated[
    str,
    named(
        r"^[A-Za-z0-9][A-Za-z0-9_.:@-]{0,62}$",
        "1 to 63 letters, digits, '-', '_', '.', ':' or '@'",
    ),
]


class LinksetSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Interfaces of which one is enough: only when all of them fail, the set does."""

    name: Annotated[MonitorName, key("Name of the set.", example="lan")]
    interfaces: Annotated[
        tuple[InterfaceName, ...],
        key(
            "Its members. None of them is critical by itself any more.",
            max_length=32,
            example=["lan0", "lan1"],
        ),
    ]
    weight: Annotated[int, key("As in [[monitor]].", ge=0, le=1000)] = 1000


class MonitorSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that has to hold for this node to be fit. Interfaces of links and VRIDs are
    monitored without being listed.
    """

    name: Annotated[MonitorName, key("Name of the monitor.", example="uplink")]
    kind: Annotated[
        Literal["interface", "route", "address", "process", "script"],
        key("What is watched; decides which of the following keys are needed.", example="route"),
    ]
    interface: Annotated[
        str,
        key(
            "interface: the one that must be up and have carrier. address: the one to ask through, "
            "needed for probe neighbour.",
            pattern=r"^[^\s/:]{0,15}$",
            right="the name of a network interface",
        ),
    ] = ""
    prefix: Annotated[
        str,
        key("route: the network that must have a route, exactly so; 0.0.0.0/0 is the default."),
    ] = ""
    table: Annotated[int, key("route: the table it must be in, 0 = any.", ge=0, le=0xFFFFFFFF)] = 0
    protocol: Annotated[
        str,
        key(
            "route: who must have put it there: static, kernel, dhcp, bird, zebra, bgp, ospf, … or "
            "a number; empty = anybody."
        ),
    ] = ""
    address: Annotated[str, key("address: the host that must answer.")] = ""
    probe: Annotated[
        Literal["", "neighbour", "icmp", "tcp"],
        key(
            "How a host is asked. neighbour: ARP or neighbour discovery. route: its next hop is "
            "asked, or nobody where this is empty; never by tcp. address: empty is icmp."
        ),
    ] = ""
    port: Annotated[int, key("address: the port that must take connections.", ge=0, le=65_535)] = 0
    pidfile: Annotated[
        str, key("process: a file with its number.", pattern="^(/.*)?$", right="an absolute path")
    ] = ""
    process: Annotated[
        str,
        key(
            "process: its name as `ps -o comm` has it; with a pidfile, what that process must be "
            "called."
        ),
    ] = ""
    command: Annotated[
        tuple[str, ...],
        key(
            "script: program, as an absolute path, and arguments. It is not given to a shell. Exit "
            "code 0 = all is well.",
            max_length=64,
        ),
    ] = ()
    interval_ms: Annotated[
        int, key("Time between two looks; events are taken in at once.", ge=50, le=3_600_000)
    ] = 1000
    timeout_ms: Annotated[
        int,
        key("How long an answer, or the end of a script, is waited for.", ge=10, le=600_000),
    ] = 1000
    rise: Annotated[int, key("So many successes in a row end a failure.", ge=1, le=1000)] | None = (
        None
    )
    fall: (
        Annotated[
            int,
            key(
                "So many failures in a row are one. Not set: 1 for what the kernel knows (carrier, "
                "route, process), 3 for what is asked for.",
                ge=1,
                le=1000,
            ),
        ]
        | None
    ) = None
    weight: Annotated[
        int,
        key(
            "What its failure takes from the node's score of 1000. The node is up while a point "
            "is left, so with 1000 any failure makes it unfit; a smaller weight makes it the worse "
            "choice. 0 = only shown.",
            ge=0,
            le=1000,
        ),
    ] = 1000
    start_delay_s: Annotated[
        int,
        key(
            "After the start, and after becoming primary, it doesn't fail for so long.",
            ge=0,
            le=3600,
        ),
    ] = 0
    when: Annotated[
        Literal["always", "primary", "secondary"], key("In which role it is looked at.")
    ] = "always"


class PolicySection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is allowed when."""

    strict: Annotated[
        bool,
        key(
            "A takeover by silence waits for the end of the peer's last known lease. "
            "Slower, and never two owners even where only one direction of a link "
            "works."
        ),
    ] = False
    fail_safe: Annotated[bool, key("Two unhealthy nodes still have one primary.")] = True
    stall: Annotated[
        Literal["wait-stall", "wait-lease"],
        key(
            "How long an agent that hangs behind an open gate is waited for: stall_us, "
            "or until its lease ends."
        ),
    ] = "wait-lease"
    claim_alone: Annotated[
        bool,
        key(
            "A starting node that never hears its peer claims though no link has proven "
            "that it forwards anything."
        ),
    ] = False
    preferred: Annotated[bool, key("Of two equal nodes this one takes a free role first.")] = False
    preempt_hold_s: Annotated[
        int,
        key(
            "How long a node told to stay primary must be fit before it takes the role back.",
            ge=0,
            le=86_400,
        ),
    ] = 10
    recovery_hold_ms: Annotated[
        int,
        key(
            "How long better health has to hold before it counts; doubled with each relapse. Worse "
            "health counts at once, always.",
            ge=0,
            le=3_600_000,
        ),
    ] = 2_000
    recovery_hold_max_s: Annotated[
        int, key("However often it relapsed, no longer than this.", ge=0, le=86_400)
    ] = 60
    recovery_forget_s: Annotated[
        int,
        key(
            "Each such time without a failure undoes one doubling; 0 = none does.", ge=0, le=86_400
        ),
    ] = 60
    max_flips: Annotated[
        int,
        key(
            "How often the role may move for the sake of health; then the primary keeps it, "
            "sticky, until the next failure after all has recovered. 0 = any number.",
            ge=0,
            le=1_000,
        ),
    ] = 0
    flip_window_s: Annotated[
        int,
        key(
            "Within this time; 0 = since the last reset.",
            ge=0,
            le=86_400,
        ),
    ] = 0
    accept_single_link: Annotated[
        bool,
        key("One link is enough. Its failure then looks like the peer's death."),
    ] = False
