# SPDX-License-Identifier: Apache-2.0
"""Keys of those who have a word when the peer is silent: watchdog, fence, witness, isolation."""

from typing import Annotated, Literal

from msgspec import Struct

from twinbeat.config.fields import key


class WatchdogSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The host's watchdog, a device that resets the machine when the deciding loop hangs."""

    mode: Annotated[
        Literal["off", "auto", "required"],
        key(
            "auto: used where there is one. required: without it the agent doesn't start.",
            restart=True,
        ),
    ] = "off"
    device: Annotated[
        str,
        key("Its device.", pattern="^/dev/", right="a path below /dev", restart=True),
    ] = "/dev/watchdog"
    timeout_s: Annotated[
        int,
        key(
            "Without a ping for so long it resets the machine. Longer than the agent takes to be "
            "started anew, and than attest_ms and lease_us together.",
            ge=2,
            le=600,
            restart=True,
        ),
    ] = 10


class FenceSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cutting the power of a peer that was found dead, by a fence agent (ClusterLabs)."""

    agent: Annotated[
        str,
        key(
            "The program; empty = none.",
            pattern="^(/.*)?$",
            right="an absolute path",
        ),
    ] = ""
    options: Annotated[
        tuple[str, ...],
        key(
            "What it gets on its standard input, key=value each. Nothing secret.",
            max_length=64,
            example=["ip=192.0.2.12", "username=fence"],
        ),
    ] = ()
    secrets_file: Annotated[
        str,
        key(
            "More of them, one per line, from a file of mode 0600; they are never logged or shown.",
            pattern="^(/.*)?$",
            right="an absolute path",
        ),
    ] = ""
    action: Annotated[
        Literal["off", "reboot", "status"],
        key("What it is to do. status only asks, for trying the settings: nothing is fenced."),
    ] = "off"
    policy: Annotated[
        Literal["after", "before"],
        key(
            "after: the role is taken over at once, and the peer fenced beside it. before: a "
            "silent peer is fenced first, and the role taken only when that has succeeded."
        ),
    ] = "after"
    timeout_s: Annotated[
        int,
        key("An agent that isn't done by then is stopped and has failed.", ge=1, le=600),
    ] = 60
    check_s: Annotated[
        int,
        key(
            "How often the program is asked whether it could (monitor); 0 = never.",
            ge=0,
            le=86_400,
        ),
    ] = 3600


class WitnessSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A third party that decides between nodes that don't hear each other. The same on both."""

    kind: Annotated[
        Literal["none", "etcd"],
        key("etcd: a cluster of etcd 3.4 or newer, through its JSON gateway.", restart=True),
    ] = "none"
    endpoints: Annotated[
        tuple[str, ...],
        key(
            "The members of the cluster, at addresses of which none is shared by this pair; who "
            "answered last is asked first.",
            max_length=9,
            example=["https://192.0.2.31:2379", "https://192.0.2.32:2379"],
            restart=True,
        ),
    ] = ()
    ca_file: Annotated[
        str,
        key(
            "The authority that signed the members' certificates; no other is trusted.",
            example="/etc/twinbeat/witness-ca.crt",
            restart=True,
        ),
    ] = ""
    cert_file: Annotated[
        str,
        key("Certificate of this node, where the members ask for one.", restart=True),
    ] = ""
    key_file: Annotated[
        str,
        key("Its private key, readable by the agent alone.", restart=True),
    ] = ""
    prefix: Annotated[
        str,
        key(
            "Begin of the keys in etcd; the pair's number follows, so pairs may share it.",
            pattern="^/[A-Za-z0-9_.@/-]*/$",
            right="letters, digits and '_.@-' between slashes, such as /twinbeat/",
            restart=True,
        ),
    ] = "/twinbeat/"
    lease_ms: Annotated[
        int,
        key(
            "How long a confirmation is good for, counted from before it was asked for. A primary "
            "without the peer's word and without the witness' shuts its gate after so long; a "
            "takeover by silence takes as much longer.",
            ge=100,
            le=60_000,
            restart=True,
        ),
    ] = 500
    without: Annotated[
        Literal["stay", "serve"],
        key(
            "While the witness doesn't answer. stay: a primary that is cut off shuts its gate, and "
            "nobody takes over by silence. serve: as if there were no witness, with an alarm.",
            restart=True,
        ),
    ] = "stay"


class IsolationSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a node finds out that it is itself cut off from the network: then it claims nothing."""

    references: Annotated[
        tuple[str, ...],
        key(
            "Addresses of which at least one answers as long as this node is connected: routers "
            "and other hosts, but no shared ones and not the peer's.",
            max_length=16,
            example=["192.0.2.1", "192.0.2.2"],
        ),
    ] = ()
    interval_ms: Annotated[
        int,
        key(
            "How often they are asked, by ARP or neighbour discovery and by ICMP echo.",
            ge=100,
            le=60_000,
        ),
    ] = 1000
