# SPDX-License-Identifier: Apache-2.0
"""The commands of `deploy/lab/lab`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from pathlib import Path

from twinlab import agents, capture, cutter, lab, plan
from twinlab.shell import LabError


def parser() -> argparse.ArgumentParser:
    """The command line, one subcommand for each verb."""
    top = argparse.ArgumentParser(
        prog="lab", description="A pair of gateways, a client and two servers in namespaces."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="bring the lab up (again, if it is up differently)")
    add_options(up)
    up.add_argument("--no-wait", action="store_true", help="don't wait until the pair is fit")

    status = commands.add_parser(
        "status",
        help="what there is and who serves",
        description="What there is and who serves. A node that the lab has cut off from everything "
        "is not the primary, whatever its agent says: that is in `primaries`.",
    )
    status.add_argument("--json", action="store_true", help="as one object")

    cli = commands.add_parser("cli", help="run twinbeat against a node")
    cli.add_argument("node", metavar="NODE", choices=plan.NODES)
    cli.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS")

    cut = commands.add_parser("cut", help="cut a node off, all links at once")
    cut.add_argument("node", metavar="NODE", choices=plan.NODES)
    cut.add_argument("--silent", action="store_true", help="no carrier falls")

    cut_link = commands.add_parser("cut-link", help="cut one link of a node (no carrier falls)")
    cut_link.add_argument("node", metavar="NODE", choices=plan.NODES)
    cut_link.add_argument("link", metavar="LINK", choices=plan.LINKS)
    cut_link.add_argument(
        "--one-way", choices=cutter.DIRECTIONS, help="in: what it hears; out: what it says"
    )

    for verb, text in (
        ("heal", "mend all links of a node"),
        ("stop", "SIGSTOP the node's agent"),
        ("cont", "SIGCONT the node's agent"),
        ("kill", "SIGKILL the node's agent"),
        ("start", "start the node's agent"),
    ):
        verb_parser = commands.add_parser(verb, help=text)
        verb_parser.add_argument("node", metavar="NODE", choices=plan.NODES)

    execute = commands.add_parser("exec", help="run a command in a namespace")
    execute.add_argument("namespace", metavar="NS", help="client, lan, a, b, ha, wan, s1, s2")
    execute.add_argument("arguments", nargs=argparse.REMAINDER, metavar="CMD")

    record = commands.add_parser("capture", help="record what the nodes send, on the switches")
    record.add_argument("--out", type=Path, default=plan.OUT_DIR, help="directory for the files")
    record.add_argument("--seconds", type=float, default=0, help="0 = until interrupted")
    record.add_argument("--links", default="lan0,wan0,ha0", help="which networks")
    record.add_argument("--without-heartbeats", action="store_true")

    commands.add_parser("down", help="take everything away")
    return top


def add_options(up: argparse.ArgumentParser) -> None:
    """The options that describe a lab; the demo takes them too."""
    up.add_argument("--profile", choices=plan.PROFILES, help="fast; routed with --routed")
    up.add_argument("--vips", type=int, default=1, metavar="N", help="VIPs on the lan side")
    up.add_argument("--no-vmac", action="store_true", help="VIPs on the ports' own MACs")
    up.add_argument("--ipv6", action="store_true", help="IPv6 as well")
    up.add_argument("--no-agent", action="store_true", help="the bare ground, without Twinbeat")
    up.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="TABLE.KEY=VALUE",
        help="configuration beyond the profile, in TOML",
    )
    up.add_argument("--links", help="links that carry heartbeats (ha0,lan0; routed: lan0,wan0)")
    up.add_argument("--witness", action="store_true", help="an etcd that decides partitions")
    up.add_argument(
        "--routed",
        action="store_true",
        help="gateways in different subnets, routers with BIRD between (IPv4)",
    )


def options_of(arguments: argparse.Namespace) -> plan.Options:
    """What was asked for on the command line."""
    usual = "lan0,wan0" if arguments.routed else "ha0,lan0"
    links = tuple(link for link in (arguments.links or usual).split(",") if link)
    unknown = set(links) - set(plan.LINKS)
    if unknown or not links:
        raise LabError(f"--links {arguments.links}: they are {', '.join(plan.LINKS)}")
    return plan.Options(
        profile=arguments.profile or ("routed" if arguments.routed else "fast"),
        vips=arguments.vips,
        vmac=not arguments.no_vmac,
        ipv6=arguments.ipv6,
        agent=not arguments.no_agent,
        settings=tuple(arguments.settings),
        links=links,
        routed=arguments.routed,
        witness=arguments.witness,
    )


def _up(arguments: argparse.Namespace) -> int:
    wanted = options_of(arguments)
    began = time.monotonic()
    print(f"lab: {lab.up(wanted)}", file=sys.stderr)
    if wanted.agent and not arguments.no_wait:
        serving = agents.wait_fit()
        print(f"lab: {serving} is primary ({time.monotonic() - began:.1f} s)", file=sys.stderr)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    state = lab.status()
    if arguments.json:
        print(json.dumps(state, indent=2))
        return 0
    if not state["up"]:
        print("The lab is not up.")
        return 0
    serving = [node for node in state["primaries"] if not state["nodes"][node]["cut_off"]]
    print(f"primary: {', '.join(serving) or 'none'}")
    for node, facts in state["nodes"].items():
        said = facts["sentence"] or facts["role"] or "no answer from an agent"
        print(f"{node}: {'(cut off) ' if facts['cut_off'] else ''}{said}")
        for link, words in state["links"][node].items():
            carrier = "" if words["carrier"] else "  no carrier"
            cut = f"  cut: {', '.join(words['cut'])}" if words["cut"] else ""
            print(f"   {link} {words['address']}{carrier}{cut}")
    return 0


def _capture(arguments: argparse.Namespace) -> int:
    lab.options()
    arguments.out.mkdir(parents=True, exist_ok=True)
    links = arguments.links.split(",")
    recorder = capture.Capture(
        links=links,
        heartbeats=not arguments.without_heartbeats,
        name="lab",
        directory=arguments.out.resolve(),
    )
    with recorder:
        print(f"recording {', '.join(links)}; interrupt to end", file=sys.stderr)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(arguments.seconds or 86400)
    recording = recorder.finish()
    print(f"{len(recording.frames)} frames, {recording.lost} lost", file=sys.stderr)
    for path in recorder.paths:
        print(path)
    return 0


def _act(arguments: argparse.Namespace) -> int:
    """The verbs that need no more than a line each."""
    lab.options()
    match arguments.command:
        case "cut":
            lab.cut(arguments.node, silent=arguments.silent)
        case "cut-link":
            lab.cut_link(arguments.node, arguments.link, one_way=arguments.one_way)
        case "heal":
            lab.heal(arguments.node)
        case "stop":
            agents.stop(arguments.node)
        case "cont":
            agents.cont(arguments.node)
        case "kill":
            agents.kill(arguments.node)
        case "start":
            agents.start(arguments.node)
    return 0


def _carry_out(arguments: argparse.Namespace) -> int:
    """One command; the exit code."""
    match arguments.command:
        case "up":
            return _up(arguments)
        case "down":
            lab.down()
            return 0
        case "status":
            return _status(arguments)
        case "cli":
            return lab.execute(arguments.node, agents.command(*arguments.arguments))
        case "exec":
            if not arguments.arguments:
                raise LabError("exec needs a command")
            return lab.execute(arguments.namespace, arguments.arguments)
        case "capture":
            return _capture(arguments)
        case _:
            return _act(arguments)


def main(argv: list[str] | None = None) -> int:
    """Carry out one command; a LabError becomes one line and exit code 1."""
    arguments = parser().parse_args(argv)
    try:
        lab.need_root()
        code = _carry_out(arguments)
        sys.stdout.flush()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read has enough; leave nothing for the interpreter to complain about.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code
