# SPDX-License-Identifier: Apache-2.0
"""What a keepalived.conf is in Twinbeat's configuration, and what of it is nothing there.  Pure.

One file is one node's word, and says little of the other node: its name, its address where
adverts are multicast, and often which of the two this one is. Those are given as `Site`.
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from msgspec import Struct

from twinbeat.config.keepalived import routes
from twinbeat.config.keepalived.grammar import Statement
from twinbeat.config.keepalived.values import (
    address,
    command,
    milliseconds,
    number,
    pairs,
    process,
    weight,
)
from twinbeat.config.keepalived.words import LEFT, NEEDLESS, NEEDLESS_BEGINNINGS, PRIVATE
from twinbeat.config.model import SECTIONS

FIRST_RULE: Final = 1000
"""Priority of a rule without one."""
SCORE: Final = 1000
PRIORITIES: Final = 254
VRIDS: Final = 255


class Note(Struct, frozen=True, kw_only=True):
    """What became of a line that has no key of its own."""

    file: str
    line: int
    what: str
    """Its keyword and words, without anything secret."""
    verdict: Literal["left", "changed", "needless"]
    """left: to be done by hand; changed: means something else here; needless: does nothing here."""
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What one node's file does not say."""

    index: int | None = None
    peer: str = ""
    links: tuple[tuple[str, str, str], ...] = ()
    """(interface, own address, the peer's address); they take the place of those found."""


@dataclass(slots=True)
class Translation:
    """Tables of a twinbeat.toml, and what is to be told of them."""

    tables: dict[str, Any]
    notes: list[Note]

    @property
    def left(self) -> bool:
        """Whether anything has to be done by hand."""
        return any(note.verdict == "left" for note in self.notes)


def translate(statements: tuple[Statement, ...], site: Site) -> Translation:
    """The whole configuration of the node that the statements are of."""
    work = _Work(site=site)
    for statement in statements:
        work.top(statement)
    other = mixed(statements)
    if other is not None:
        work.note(
            other,
            "left",
            "its state is another than the first one's, and a pair has one role for all.",
        )
    work.finish()
    order = list(SECTIONS)
    tables = {name: work.tables[name] for name in sorted(work.tables, key=order.index)}
    return Translation(tables, work.notes)


def shown(statement: Statement) -> str:
    """A statement in a sentence."""
    words = statement.words[:1] if statement.name in PRIVATE else statement.words
    text = " ".join(words)
    return text if len(text) <= 60 else text[:59] + "…"


@dataclass(slots=True)
class _Work:
    """A translation under way."""

    site: Site
    tables: dict[str, Any] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    scripts: dict[str, Statement] = field(default_factory=dict)
    processes: dict[str, Statement] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    """Instance -> MASTER or BACKUP."""
    links: list[tuple[str, str, str]] = field(default_factory=list)
    hooks: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)
    monitored: dict[str, dict[str, Any]] = field(default_factory=dict)
    vrids: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    """By what keepalived knows them by: number and interface."""
    grouped: bool = False
    told: set[tuple[str, str]] = field(default_factory=set)
    """What needs to be said once, of however many lines it holds."""

    def note(
        self, statement: Statement, verdict: Literal["left", "changed", "needless"], sentence: str
    ) -> None:
        if verdict != "left" and (statement.name, sentence) in self.told:
            return
        self.told.add((statement.name, sentence))
        self.notes.append(
            Note(
                file=statement.file,
                line=statement.line,
                what=shown(statement),
                verdict=verdict,
                sentence=sentence,
            )
        )

    def unread(self, statement: Statement) -> None:
        """Nothing here reads it: say what comes of that."""
        name = statement.name
        begun = (text for start, text in NEEDLESS_BEGINNINGS.items() if name.startswith(start))
        if name.startswith("@"):
            self.note(statement, "left", "a line for some hosts only: take its sign away, or it.")
        elif name in LEFT:
            self.note(statement, "left", LEFT[name])
        elif (needless := NEEDLESS.get(name) or next(begun, None)) is not None:
            self.note(statement, "needless", needless)
        else:
            self.note(statement, "left", f"nothing is known here of `{name[:40]}`.")

    # -------------------------------------------------------------------------- top level -------

    def top(self, statement: Statement) -> None:
        match statement.name:
            case "global_defs":
                for each in statement.block:
                    self._global(each)
            case "vrrp_instance":
                self._instance(statement)
            case "vrrp_sync_group":
                self._group(statement)
            case "vrrp_script":
                self.scripts[statement.value] = statement
            case "vrrp_track_process" | "vrrp_process":
                self.processes[statement.value] = statement
            case _:
                self.unread(statement)

    def _global(self, statement: Statement) -> None:
        match statement.name:
            case "router_id":
                name = re.sub(r"[^A-Za-z0-9_.-]", "-", statement.value).lstrip("_.-")[:63]
                if name:
                    self.tables["node"] = {"name": name}
            case "vrrp_garp_master_refresh" | "garp_master_refresh":
                self._refresh(statement)
            case _:
                self.unread(statement)

    def _group(self, statement: Statement) -> None:
        """All addresses of a pair move together: a group is what there is."""
        if self.grouped:
            self.note(
                statement,
                "left",
                "a pair has one role for all of its addresses: one group, not two.",
            )
        self.grouped = True
        for each in statement.block:
            match each.name:
                case "group":
                    continue
                case "track_interface" | "track_script" | "track_process":
                    self._track(each)
                case name if name.startswith("notify"):
                    self._notify(each)
                case "global_tracking" | "sync_group_tracking_weight":
                    self.note(
                        each, "needless", "checks are the node's, and count for all addresses."
                    )
                case _:
                    self.unread(each)

    # --------------------------------------------------------------------------- instances ------

    def _instance(self, statement: Statement) -> None:
        found = {each.name: each for each in statement.block}
        interface = found["interface"].value if "interface" in found else ""
        id_ = number(found["virtual_router_id"].value) if "virtual_router_id" in found else None
        if not interface or id_ is None or not 1 <= id_ <= VRIDS:
            self.note(
                statement,
                "left",
                "an instance needs `interface` and a `virtual_router_id`, 1 to 255.",
            )
            return
        vrid = self._vrid(id_, interface, statement)
        vrid["vmac"] = vrid["vmac"] or "use_vmac" in found
        if "use_vmac" not in found:
            self.note(
                statement,
                "changed",
                "vmac = false, as there is no use_vmac: true, Twinbeat's default, is faster with "
                "many addresses, and gates what is only forwarded.",
            )
        for each in statement.block:
            self._instance_word(each, statement, vrid, interface)
        self._unicast(found, interface)

    def _instance_word(
        self, each: Statement, instance: Statement, vrid: dict[str, Any], interface: str
    ) -> None:
        match each.name:
            case "interface" | "virtual_router_id" | "unicast_src_ip" | "unicast_peer":
                pass
            case "use_vmac":
                if each.value:
                    self.note(
                        each, "changed", "the virtual MAC's interface gets a name of its own."
                    )
            case "mcast_src_ip":
                self.note(each, "needless", "a link names both of its addresses.")
            case "state":
                self.states[instance.value] = each.value.upper()
            case "priority":
                self.note(
                    each,
                    "changed",
                    "the node with index 0 goes first where all else is equal; `twinbeat stay "
                    "primary` has a node take the role back.",
                )
            case "advert_int":
                self._advert(each)
            case "nopreempt":
                self.note(
                    each,
                    "changed",
                    "a primary keeps the role anyway. With state BACKUP on both nodes say "
                    "--index 0 on one of them.",
                )
            case "preempt_delay":
                seconds = number(each.value)
                if seconds is not None:
                    self.tables.setdefault("policy", {})["preempt_hold_s"] = min(seconds, 86_400)
            case "garp_master_refresh":
                self._refresh(each)
            case "virtual_ipaddress" | "virtual_ipaddress_excluded":
                for line in each.block:
                    self._address(line, vrid, interface)
            case "virtual_routes":
                self._routing(each, "route")
            case "virtual_rules":
                self._routing(each, "rule")
            case "track_interface" | "track_script" | "track_process":
                self._track(each)
            case "dont_track_primary":
                vrid["monitor"] = False
            case "notify_stop" | "notify_priority_changes" | "notify_deleted":
                self.unread(each)
            case name if name.startswith("notify"):
                self._notify(each)
            case _:
                self.unread(each)

    def _vrid(self, id_: int, interface: str, statement: Statement) -> dict[str, Any]:
        """The VRID of that number on that interface; a number is free only once here."""
        known = self.vrids.get((id_, interface))
        if known is not None:
            return known
        taken = {vrid["id"] for vrid in self.vrids.values()}
        following = (*range(id_, VRIDS + 1), *range(1, id_))
        free = next((number for number in following if number not in taken), None)
        if free is None:
            self.note(statement, "left", f"a node has {VRIDS} VRIDs, and they are all given.")
            return {"id": id_, "interface": interface, "vmac": False, "vips": []}
        if free != id_:
            self.note(
                statement,
                "changed",
                f"VRID {id_} is that of another interface already: {free} on {interface}.",
            )
        made: dict[str, Any] = {"id": free, "interface": interface, "vmac": False, "vips": []}
        self.vrids[id_, interface] = made
        return made

    def _address(self, line: Statement, vrid: dict[str, Any], interface: str) -> None:
        """`ADDRESS[/LENGTH] [dev INTERFACE] …`"""
        found = address(line.name)
        if found is None:
            self.note(line, "left", f"{line.name[:40]} is no address.")
            return
        options = pairs(line.rest)
        device = options.get("dev", interface)
        if device != interface:
            other = self._vrid(vrid["id"], device, line)
            other["vmac"] = vrid["vmac"]
            vrid = other
        if "label" in options:
            self.note(line, "needless", "addresses are on an interface of the virtual MAC's own.")
        owners = [known for known in self.vrids.values() if found in known["vips"]]
        if owners:
            self.note(line, "needless", f"{found} is an address of VRID {owners[0]['id']} already.")
            return
        vrid["vips"].append(found)

    def _unicast(self, found: dict[str, Statement], interface: str) -> None:
        if "unicast_peer" not in found:
            return
        peers = [each.name for each in found["unicast_peer"].block]
        local = found["unicast_src_ip"].value if "unicast_src_ip" in found else ""
        if len(peers) > 1:
            self.note(
                found["unicast_peer"],
                "left",
                f"a pair has two nodes, and {peers[0]} is the peer: {peers[1]} has to go.",
            )
        if peers and local:
            self.links.append((interface, local, peers[0]))
        elif peers:
            self.note(
                found["unicast_peer"],
                "left",
                f"without unicast_src_ip: say --link {interface},ADDRESS,{peers[0]}.",
            )

    def _advert(self, statement: Statement) -> None:
        self.note(
            statement,
            "changed",
            'profile "balanced" notices a death within 25 ms; "classic" has seconds, as here.',
        )

    def _refresh(self, statement: Statement) -> None:
        seconds = number(statement.value)
        if seconds:
            self.tables["announce"] = {"refresh_s": min(seconds, 3600)}

    def _routing(self, block: Statement, section: Literal["route", "rule"]) -> None:
        read = routes.route if section == "route" else routes.rule
        for line in block.block:
            try:
                row = read(line.words)
            except routes.UnknownError as error:
                self.note(line, "left", f"{error}")
                continue
            rows = self.tables.setdefault(section, [])
            if section == "rule" and "priority" not in row:
                row["priority"] = FIRST_RULE + len(rows)
                self.note(line, "changed", f"it gets priority {row['priority']}: it names none.")
            if row not in rows:
                rows.append(row)

    # ------------------------------------------------------------------ checks and hooks --------

    def _track(self, block: Statement) -> None:
        for line in block.block:
            points = weight(line.rest)
            match block.name:
                case "track_interface":
                    self._monitor(line, line.name, points, kind="interface", interface=line.name)
                case "track_process":
                    self._process(line, points)
                case _:
                    self._script(line, points)

    def _monitor(self, line: Statement, name: str, points: int | None, **keys: Any) -> None:
        name = re.sub(r"[^A-Za-z0-9_.:@-]", "-", name)[:63]
        made = {"name": name, **keys}
        if points:
            # Points of a priority become points of a score, so that what mattered more still does.
            made["weight"] = max(1, min(SCORE - 1, abs(points) * SCORE // PRIORITIES))
        known = self.monitored.setdefault(name, made)
        if known != made:
            self.note(
                line, "changed", "its checks are the node's: that of the first instance counts."
            )
        if "reverse" in line.rest:
            self.note(line, "left", "`reverse`: write a script that ends the other way round.")

    def _process(self, line: Statement, points: int | None) -> None:
        tracked = self.processes.get(line.name)
        if tracked is None:
            self.note(line, "left", f"no vrrp_track_process is called {line.name[:40]}.")
            return
        keys = {each.name: each for each in tracked.block}
        program = keys["process"].value.rpartition("/")[2] if "process" in keys else ""
        if not program or len(keys["process"].words) > 2 or "quorum" in keys:
            self.note(tracked, "left", "a monitor of kind process knows a name, once and no more.")
            return
        points = weight(keys["weight"].words) if points is None and "weight" in keys else points
        self._monitor(line, line.name, points, kind="process", process=program[:15])

    def _script(self, line: Statement, points: int | None) -> None:
        script = self.scripts.get(line.name)
        if script is None:
            self.note(line, "left", f"no vrrp_script is called {line.name[:40]}.")
            return
        keys: dict[str, Any] = {}
        for each in script.block:
            match each.name:
                case "script":
                    text = " ".join(each.rest)
                    keys |= self._checked(each, text)
                case "interval" | "timeout":
                    keys[f"{each.name}_ms"] = milliseconds(each.value)
                case "rise" | "fall":
                    keys[each.name] = number(each.value) or 1
                case "weight":
                    points = weight(each.words) if points is None else points
                case _:
                    self.unread(each)
        if "kind" not in keys:
            self.note(script, "left", "a script without a program.")
            return
        keys.setdefault("interval_ms", 1000)
        if keys["kind"] == "script":
            # keepalived gives up on a script when the next one is due.
            keys.setdefault("timeout_ms", keys["interval_ms"])
        else:
            keys.pop("timeout_ms", None)
        self._monitor(line, line.name, points, **keys)

    def _checked(self, statement: Statement, text: str) -> dict[str, Any]:
        """What a script looks at: a process where that is all it does, else the script."""
        name = process(text)
        if name is not None:
            return {"kind": "process", "process": name}
        argv = command(text)
        if argv is None:
            return {}
        if argv[0] == "/bin/sh":
            self.note(
                statement, "changed", "/bin/sh is asked to run it, as it is no program's path."
            )
        return {"kind": "script", "command": argv}

    def _notify(self, statement: Statement) -> None:
        events = {
            "notify_master": ["primary"],
            "notify_master_rx_lower_pri": [],
            "notify_backup": ["secondary"],
            "notify_fault": ["fault"],
            "notify": ["primary", "secondary", "fault"],
        }.get(statement.name)
        argv = command(" ".join(statement.rest))
        if not events or argv is None:
            self.unread(statement)
            return
        if statement.name == "notify":
            self.note(
                statement,
                "changed",
                "it is told by TWINBEAT_EVENT (primary, secondary, fault) of its environment, not "
                "by arguments.",
            )
        known = self.hooks.get(tuple(argv))
        if known is not None:
            known["events"] += [event for event in events if event not in known["events"]]
            return
        base = re.sub(r"[^A-Za-z0-9_.-]", "-", argv[0].rpartition("/")[2])[:24] or "hook"
        names = {hook["name"] for hook in self.hooks.values()}
        name = next(
            n for i in itertools.count(1) if (n := base if i == 1 else f"{base}-{i}") not in names
        )
        self.hooks[tuple(argv)] = {
            "name": name,
            "exec": argv[0],
            "arguments": argv[1:],
            "events": list(events),
        }

    # --------------------------------------------------------------------------- the whole ------

    def finish(self) -> None:
        """What no single line says."""
        states = set(self.states.values())
        index = self.site.index
        if index is None:
            index = 0 if states == {"MASTER"} else 1
        node = {"name": f"node{index}"} | self.tables.get("node", {})
        self.tables["node"] = {"name": node["name"], "index": index}
        self.tables["pair"] = {"id": min((vrid["id"] for vrid in self.vrids.values()), default=1)}
        peer = self.site.peer or f"node{1 - index}"
        self.tables["peer"] = {"name": peer if peer != node["name"] else f"{peer}-peer"}
        if index == 0 and "MASTER" in states:
            self.tables.setdefault("policy", {})["preferred"] = True
        self.tables["timers"] = {"profile": "balanced"}
        links = list(dict.fromkeys(self.site.links or self.links))
        self.tables["link"] = [
            {"interface": interface, "local": local, "peer": far} for interface, local, far in links
        ]
        if len(links) == 1:
            self.tables.setdefault("policy", {})["accept_single_link"] = True
        own = {vrid["interface"] for vrid in self.vrids.values() if vrid.get("monitor", True)}
        monitors = [
            monitor
            for monitor in self.monitored.values()
            if monitor["kind"] != "interface" or monitor["interface"] not in own
        ]
        for name, rows in (("vrid", list(self.vrids.values())), ("monitor", monitors)):
            if rows:
                self.tables[name] = rows
        if self.hooks:
            self.tables["hook"] = list(self.hooks.values())


def mixed(statements: Iterable[Statement]) -> Statement | None:
    """The first instance with another state than the first has: a pair that shares the load."""
    first = ""
    for statement in statements:
        if statement.name != "vrrp_instance":
            continue
        state = next((each.value.upper() for each in statement.block if each.name == "state"), "")
        first = first or state
        if state != first:
            return statement
    return None
