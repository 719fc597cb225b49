# SPDX-License-Identifier: Apache-2.0
"""Keys of what keeps two nodes alike: synchronization, lists of files, commands."""

from typing import Annotated

from msgspec import Struct

from twinbeat.config.fields import key, named


class SyncSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the worker of this node keeps the shared configuration the same on both nodes."""

    enabled: Annotated[
        bool, key("Take over what the peer has, and let it take over what is here.")
    ] = True
    propagation: Annotated[
        bool,
        key("Carry out commands on both nodes at once; false: on this node, synchronized later."),
    ] = True
    peer: Annotated[
        str,
        key(
            "Address of the peer's worker; empty = the peer's on the first link, or on the first "
            "one over `interface`."
        ),
    ] = ""
    listen: Annotated[str, key("Own address to be reached at; empty = any.")] = ""
    port: Annotated[int, key("TCP port, the same on both nodes.", ge=1, le=65_535)] = 3008
    interface: Annotated[
        str,
        key(
            "Nothing goes out or comes in but over this one, so that bulk data stays off the "
            "heartbeat links; empty = any.",
            pattern=r"^[^\s/:]{0,15}$",
            right="the name of a network interface",
        ),
    ] = ""
    strict_status: Annotated[
        bool,
        key("A synchronization of which an item failed is shown as `partial-success`."),
    ] = False
    timeout_s: Annotated[
        int, key("A command is answered by then, if only by `undecided`.", ge=1, le=600)
    ] = 10
    identity: Annotated[
        str,
        key(
            "Directory of this node's certificate and the peer's, which pairing fills.",
            pattern="^/",
            right="an absolute path",
        ),
    ] = "/var/lib/twinbeat/worker/identity"


ListName = Annotated[
    str, named(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$", "1 to 32 letters, digits, '-', '_' or '.'")
]


class FileSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files and directories that are kept alike on both nodes."""

    name: Annotated[ListName, key("Name of the list, unique.", example="certificates")]
    paths: Annotated[
        tuple[Annotated[str, named("^/", "an absolute path")], ...],
        key(
            "Files, and directories with all that is in them; a name may be a pattern. Nothing "
            "else can be read or written, not through symbolic links either.",
            max_length=256,
            example=["/etc/haproxy"],
        ),
    ]
    exclude: Annotated[
        tuple[str, ...],
        key(
            "What is left out: names at any depth, or with a slash whole paths; both may have "
            "patterns (*, ?, [...]).",
            max_length=256,
            example=["*.swp"],
        ),
    ] = ()
    delete: Annotated[
        bool,
        key("What is deleted on one node is deleted on the other; otherwise it comes back."),
    ] = True
    owner: Annotated[bool, key("Owner and group, by number, belong to what is kept alike.")] = True
    command: Annotated[
        tuple[str, ...],
        key(
            "Run on a node after files of the list have changed there: program, as an absolute "
            "path, and arguments. No shell is involved.",
            max_length=64,
        ),
    ] = ()
    timeout_s: Annotated[
        int, key("After that the command and its group are killed.", ge=1, le=3600)
    ] = 30


class CommandSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command of yours that is run on both nodes by its name, on the secondary first."""

    name: Annotated[ListName, key("Name of the command, unique.", example="nft")]
    argv: Annotated[
        tuple[str, ...],
        key(
            "Program, as an absolute path, and arguments. {1} to {9} are the arguments "
            "given, {file} the first of them, which has to be a path of a [[file]] list. No shell "
            "is involved.",
            max_length=64,
            example=["/usr/sbin/nft", "-f", "{file}"],
        ),
    ]
    undo: Annotated[
        tuple[str, ...],
        key(
            "What takes it back on the secondary when it fails on the primary; empty = nothing "
            "does.",
            max_length=64,
        ),
    ] = ()
    timeout_s: Annotated[
        int, key("After that it and its group are killed, and it has failed.", ge=1, le=3600)
    ] = 30
