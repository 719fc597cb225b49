# SPDX-License-Identifier: Apache-2.0
"""Two nodes' worth of everything that `Propagation` relies on, as values that can be copied.

The workers are the real thing. Their stores are durable and atomic, and so is what a daemon has in
force; everything else is lost when its process ends. Messages keep their order and are lost with
their connection. What breaks the promises of the design is found by `check` after each step, and
by `judge` when all is mended and quiet.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, Final

from twinbeat.sync import events as ev
from twinbeat.sync.document import Document, Expect, Put, Run, Version, fingerprint
from twinbeat.sync.effects import (
    Answer,
    Apply,
    Check,
    Effect,
    Note,
    RunCommand,
    Send,
    StoreAbort,
    StoreAdopt,
    StoreCommit,
    StorePaired,
    StorePrepare,
    StoreRecord,
)
from twinbeat.sync.events import Held, Mark
from twinbeat.sync.messages import Forward, Message, Query
from twinbeat.sync.operation import (
    Edit,
    Operation,
    Outcome,
    Output,
    Policy,
    Problem,
    Request,
    State,
)
from twinbeat.sync.parts import Phase
from twinbeat.sync.propagation import Propagation

LINEAGE: Final = "a" * 32
SECOND: Final = 1_000_000_000
NOBODY: Final = Problem(where="route", right="not on this node")


class ViolationError(AssertionError):
    """A promise of the design was broken."""


def seed(lineage: str = LINEAGE, term: int = 0, generation: int = 1) -> Document:
    return Document(lineage=lineage, version=Version(term, generation), tables={})


def add(name: str, policy: Policy, timeout_s: int = 10) -> Request:
    """A request that can't be done twice."""
    change = Put(section="route", identity=name, row={"metric": 1}, expect=Expect.ABSENT)
    return Request(
        request=name, wish=Edit(changes=(change,)), policy=policy, timeout_ns=timeout_s * SECOND
    )


def run(name: str, policy: Policy, timeout_s: int = 10) -> Request:
    return Request(
        request=name, wish=Run(command=name), policy=policy, timeout_ns=timeout_s * SECOND
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """What survives on one node; each method is one transaction."""

    current: Document
    prepared: Operation | None = None
    highest: int = 1
    paired: bool = True
    outcomes: tuple[Outcome, ...] = ()
    backups: tuple[Document, ...] = ()

    def held(self) -> Held:
        in_doubt = tuple(one for one in self.outcomes if one.state is State.UNDECIDED)
        return Held(
            current=self.current,
            prepared=self.prepared,
            highest=self.highest,
            paired=self.paired,
            in_doubt=in_doubt,
        )

    def outcome(self, request: str) -> Outcome | None:
        return next((one for one in self.outcomes if one.request == request), None)

    def done(self, effect: Effect) -> Store:
        match effect:
            case StorePrepare(operation=operation):
                expect(self.prepared is None, "one operation is prepared at a time")
                expect(operation.base == self.current.version, "what is prepared fits")
                highest = max(self.highest, operation.version.generation)
                return replace(self, prepared=operation, highest=highest)
            case StoreCommit(request=request, outcomes=outcomes):
                expect(self.prepared is not None, "what is committed was prepared")
                assert self.prepared is not None
                expect(self.prepared.request == request, "and is the same")
                current = self.prepared.onto(self.current)
                return replace(self, current=current, prepared=None)._kept(outcomes)
            case StoreAbort(request=request, outcomes=outcomes):
                expect(self.prepared is not None, "what is aborted was prepared")
                return replace(self, prepared=None)._kept(outcomes)
            case StoreAdopt(document=document, outcomes=outcomes):
                expect(self.prepared is None, "nothing is prepared when a document is adopted")
                highest = max(self.highest, document.version.generation)
                return replace(
                    self,
                    current=document,
                    highest=highest,
                    paired=True,
                    backups=(*self.backups, self.current),
                )._kept(outcomes)
            case StoreRecord(outcomes=outcomes):
                return self._kept(outcomes)
            case StorePaired():
                return replace(self, paired=True)
            case _:
                raise AssertionError(effect)

    def _kept(self, outcomes: tuple[Outcome, ...]) -> Store:
        names = {one.request for one in outcomes}
        kept = tuple(one for one in self.outcomes if one.request not in names)
        return replace(self, outcomes=(*kept, *outcomes))


def expect(holds: bool, promise: str) -> None:
    if not holds:
        raise ViolationError(promise)


@dataclass(slots=True, kw_only=True)
class Node:
    index: int
    store: Store
    worker: Propagation | None = None
    in_force: Document | None = None
    daemon: bool = True
    stores: tuple[Effect, ...] = ()
    """What the store was asked for and hasn't done."""
    asks: tuple[Effect, ...] = ()
    """What the daemon, or a command, was asked for and hasn't done."""
    role: tuple[bool, int] = (False, 1)
    """What the daemon says."""
    told: tuple[bool, int] | None = None
    """What the worker was told of it."""
    ran: tuple[str, ...] = ()

    def copied(self) -> Node:
        node = copy.copy(self)
        node.worker = copy.copy(self.worker)
        return node


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A request and the node that it is given to; None for whoever is primary then."""

    request: Request
    to: int | None = None


@dataclass(slots=True, kw_only=True)
class World:
    """Both nodes, the connection between them, and their clients."""

    nodes: tuple[Node, Node]
    script: tuple[Command, ...] = ()
    given: int = 0
    connected: bool = False
    wires: tuple[tuple[Message, ...], tuple[Message, ...]] = ((), ())
    """By sender."""
    now_ns: int = 0
    primary: int = 0
    term: int = 2
    answers: tuple[tuple[int, str, State, str], ...] = ()
    """Node, request, state, code: in the order in which they were given."""
    kind: type[Propagation] = Propagation
    hasty: bool = False
    """Messages and roles come first, and a connection that is lost stands again at once."""
    dead: frozenset[int] = field(default=frozenset())
    """Workers that stay so until the end."""

    @classmethod
    def made(
        cls,
        script: tuple[Command, ...] = (),
        *,
        kind: type[Propagation] = Propagation,
        stores: tuple[Store, Store] | None = None,
    ) -> World:
        """Node 0 is primary under term 2; everything runs and nothing was heard yet."""
        stores = stores or (Store(current=seed()), Store(current=seed()))
        nodes = tuple(
            Node(index=index, store=stores[index], in_force=stores[index].current)
            for index in (0, 1)
        )
        world = cls(nodes=(nodes[0], nodes[1]), script=script, kind=kind)
        world.primary, world.term = 1, 1
        world.move_role()
        return world

    def copied(self) -> World:
        world = copy.copy(self)
        world.nodes = (self.nodes[0].copied(), self.nodes[1].copied())
        return world

    # -- what can be done ------------------------------------------------------------------------

    def pending(self) -> list[tuple[str, int]]:
        """What goes on by itself, the one whose turn it is first."""
        local, wires = [], [("wire", sender) for sender in (0, 1) if self.wires[sender]]
        for node in self.nodes:
            if node.worker is not None and node.stores:
                local.append(("store", node.index))
            if node.worker is not None and node.asks and node.daemon:
                local.append(("daemon", node.index))
        new, old = self._untold(self.primary), self._untold(1 - self.primary)
        give = []
        if self.given < len(self.script) and self._open(self.script[self.given]) is not None:
            give = [("give", 0)]
        if self.hasty:
            connect = [act for act in self.broken() if act[0] == "connect"]
            return [*new, *old, *connect, *wires, *local, *give]
        # Who was primary is the last to hear that it isn't any more.
        return [*local, *wires, *new, *give, *old]

    def _untold(self, index: int) -> list[tuple[str, int]]:
        node = self.nodes[index]
        untold = node.worker is not None and node.daemon and node.told != node.role
        return [("role", index)] if untold else []

    def broken(self) -> list[tuple[str, int]]:
        """What somebody has to mend."""
        acts = []
        for node in self.nodes:
            if not node.daemon:
                acts.append(("start-daemon", node.index))
            if node.worker is None and node.index not in self.dead:
                acts.append(("start-worker", node.index))
        if not self.connected and all(node.worker is not None for node in self.nodes):
            acts.append(("connect", 0))
        return acts

    def deadline(self) -> int | None:
        moments = [
            moment
            for node in self.nodes
            if node.worker is not None
            and (moment := node.worker.next_deadline(self.now_ns)) is not None
        ]
        return min(moments, default=None)

    def faults(self) -> list[tuple[str, int]]:
        acts = []
        if self.connected:
            acts.append(("cut", 0))
        for node in self.nodes:
            if node.worker is not None:
                acts.append(("kill-worker", node.index))
            if node.daemon:
                acts.append(("kill-daemon", node.index))
            if node.stores and node.worker is not None:
                acts.append(("disk-full", node.index))
            if node.asks and node.worker is not None and node.daemon:
                acts.append(("refuse", node.index))
        acts.append(("take-over", 0))
        return acts

    def act(self, name: str, index: int) -> None:
        node = self.nodes[index]
        match name:
            case "store":
                self._store(node)
            case "disk-full":
                effect, node.stores = node.stores[0], node.stores[1:]
                assert not isinstance(effect, Send | Answer | Note | Check | Apply | RunCommand)
                self.feed(
                    node, ev.StoreFailed(token=effect.token, code="disk_full", sentence="no space")
                )
            case "daemon" | "refuse":
                self._daemon(node, refuses=name == "refuse")
            case "wire":
                self._deliver(index)
            case "role":
                node.told = node.role
                self.feed(node, ev.RoleChanged(primary=node.role[0], term=node.role[1]))
            case "give":
                command = self.script[self.given]
                self.given += 1
                there = self._open(command)
                assert there is not None
                self.ask(there, command.request)
            case "cut":
                self.cut()
            case "kill-worker":
                self.cut()
                node.worker = None
                node.stores = node.asks = ()
            case "kill-daemon":
                node.daemon = False
                node.asks = tuple(one for one in node.asks if isinstance(one, RunCommand))
                self.feed(node, ev.DaemonLost())
            case "start-daemon":
                node.daemon, node.told = True, None
                self.feed(node, ev.DaemonFound(in_force=mark(node.in_force)))
            case "start-worker":
                self.start_worker(node)
            case "connect":
                self.connect()
            case "take-over":
                self.move_role()
            case "time":
                deadline = self.deadline()
                assert deadline is not None
                self.now_ns = max(self.now_ns, deadline)
                for one in self.nodes:
                    self.feed(one, ev.Tick())
            case _:
                raise AssertionError(name)
        self.check()

    def lose_store(self, index: int) -> None:
        """A node's disk is new; its daemon goes on with what it has."""
        node = self.nodes[index]
        self.act("kill-worker", index)
        assert node.in_force is not None
        highest = node.in_force.version.generation + ev.LOST_NUMBERS
        node.store = Store(current=node.in_force, highest=highest, paired=False)

    def start_worker(self, node: Node) -> None:
        node.worker = self.kind(node=node.index)
        node.told = None
        self.feed(node, ev.Started(held=node.store.held()))
        if node.daemon:
            self.feed(node, ev.DaemonFound(in_force=mark(node.in_force)))

    def connect(self) -> None:
        a, b = (node.worker for node in self.nodes)
        assert a is not None
        assert b is not None
        hellos = (a.summary(), b.summary())
        self.connected = True
        for node in self.nodes:
            self.feed(node, ev.PeerFound(summary=hellos[1 - node.index]))

    def cut(self) -> None:
        if self.connected:
            self.connected, self.wires = False, ((), ())
            for node in self.nodes:
                self.feed(node, ev.PeerLost())

    def move_role(self) -> None:
        """The other node claims. Who was primary hears of it in its turn."""
        self.primary, self.term = 1 - self.primary, self.term + 1
        for node in self.nodes:
            node.role = (node.index == self.primary, self.term)

    def ask(self, index: int, request: Request) -> None:
        node = self.nodes[index]
        known = node.store.outcome(request.request)
        self.feed(node, ev.Requested(request=request, known=known))

    def _open(self, command: Command) -> int | None:
        index = self.primary if command.to is None else command.to
        return index if self.nodes[index].worker is not None else None

    # -- how it is carried out -------------------------------------------------------------------

    def feed(self, node: Node, event: ev.Event) -> None:
        if node.worker is None:
            return
        for effect in node.worker.step(event, self.now_ns):
            match effect:
                case Send(message=message):
                    assert self.connected
                    mine = (*self.wires[node.index], message)
                    other = self.wires[1 - node.index]
                    self.wires = (mine, other) if node.index == 0 else (other, mine)
                case Answer(outcome=said):
                    self._answered(node, said)
                case Note():
                    pass
                case Check() | Apply() | RunCommand():
                    node.asks = (*node.asks, effect)
                case _:
                    node.stores = (*node.stores, effect)

    def _answered(self, node: Node, said: Outcome) -> None:
        self.answers = (*self.answers, (node.index, said.request, said.state, said.code))
        if said.state is State.DONE and said.code == "done":
            for one in self.nodes:
                expect(
                    _is_there(one, said.request),
                    f"{said.request} was answered as done on both and node {one.index} lacks it",
                )

    def _store(self, node: Node) -> None:
        effect, node.stores = node.stores[0], node.stores[1:]
        before = node.store
        node.store = before.done(effect)
        # What was superseded may be asked for once more, and is a new attempt then.
        again = {one.request for one in node.store.outcomes if one.state is State.SUPERSEDED}
        node.ran = tuple(one for one in node.ran if one.partition(" ")[0] not in again)
        old, new = before.current, node.store.current
        if old.lineage != new.lineage:
            assert node.worker is not None
            given_up = not before.paired or node.worker.adopting
            expect(given_up, "a node that was paired only gives up its document when told to")
        elif old != new:
            expect(new.version > old.version, "a node never returns to an older generation")
        assert not isinstance(effect, Send | Answer | Note | Check | Apply | RunCommand)
        self.feed(node, ev.Stored(token=effect.token))

    def _daemon(self, node: Node, *, refuses: bool = False) -> None:
        """The daemon, or a command, does what it was asked for, or for once does not."""
        effect, node.asks = node.asks[0], node.asks[1:]
        match effect:
            case Check(token=token):
                wrong = (NOBODY,) if refuses else ()
                self.feed(node, ev.Checked(token=token, problems=wrong))
            case Apply(token=token) if refuses:
                self.feed(node, ev.Applied(token=token, in_force=False, problems=(NOBODY,)))
            case Apply(token=token, document=document):
                before = node.in_force
                if before is not None and before.lineage == document.lineage:
                    expect(
                        document.version >= before.version,
                        "what is in force never returns to an older generation",
                    )
                node.in_force = document
                self.feed(node, ev.Applied(token=token, in_force=True))
            case RunCommand(token=token, request=request, run=wanted):
                status = 1 if refuses else 0
                if not refuses:  # What failed may be tried again.
                    node.ran = (*node.ran, f"{request} {wanted.undo}")
                output = Output(node=str(node.index), status=status)
                self.feed(node, ev.Ran(token=token, output=output, undo=True))
            case _:
                raise AssertionError(effect)

    def _deliver(self, sender: int) -> None:
        message = self.wires[sender][0]
        wires = list(self.wires)
        wires[sender] = wires[sender][1:]
        self.wires = (wires[0], wires[1])
        node = self.nodes[1 - sender]
        known = None
        if isinstance(message, Query):
            known = node.store.outcome(message.request)
        elif isinstance(message, Forward):
            known = node.store.outcome(message.request.request)
        self.feed(node, ev.Heard(message=message, known=known))

    # -- what must hold --------------------------------------------------------------------------

    def check(self) -> None:
        """After every step."""
        a, b = (node.store.current for node in self.nodes)
        if a.lineage == b.lineage and a.version == b.version and a is not b:
            expect(
                a.recent == b.recent and a.tables == b.tables,
                "two documents of one version are the same",
            )
        for node in self.nodes:
            names = [done.request for done in node.store.current.recent]
            expect(len(names) == len(set(names)), "a request is done once")
            expect(len(node.ran) == len(set(node.ran)), "a command is run once per node")

    def calm(self, most: int = 400) -> None:
        """Mends everything and lets it come to rest."""
        for _ in range(most):
            acts = self.pending() or self.broken()
            if not acts:
                deadline = self.deadline()
                if deadline is None or deadline > self.now_ns + 120 * SECOND:
                    return
                acts = [("time", 0)]
            self.act(*acts[0])
        raise ViolationError(f"it doesn't come to rest: {acts[0]}")

    def judge(self) -> None:
        """When all is mended and quiet. Clients then ask again for what they heard nothing final
        of, and for what is there already."""
        self._judge_documents()
        names = self._names()
        last = {name: state for _, name, state, _ in self.answers}
        requests = {command.request.request: command.request for command in self.script}
        for name, request in requests.items():
            self._judge_answers(name, there=name in names)
            if name in names or last.get(name, State.UNDECIDED) is State.UNDECIDED:
                self.ask(self.primary, request)
                self.calm()
        self._judge_documents()
        for command in self.script:
            self._judge_end(command.request, there=command.request.request in self._names())

    def _names(self) -> set[str]:
        return {done.request for done in self.nodes[0].store.current.recent}

    def _judge_documents(self) -> None:
        a, b = self.nodes
        expect(a.store.current == b.store.current, "both documents are equal in the end")
        for node in self.nodes:
            expect(node.store.prepared is None, "nothing is left prepared")
            expect(node.in_force == node.store.current, "what is in force is the document")
            left = [one for one in node.store.outcomes if one.state is State.UNDECIDED]
            expect(not left, "nothing is left undecided")
            assert node.worker is not None
            expect(node.worker.standing().in_step, "and the node knows that")

    def _judge_answers(self, name: str, *, there: bool) -> None:
        """What was said before holds."""
        states = {state for _, request, state, _ in self.answers if request == name}
        kept = {one.state for node in self.nodes if (one := node.store.outcome(name))}
        if there:
            # What was refused may be asked for once more, and done then.
            once = [command.request.request for command in self.script].count(name) == 1
            expect(State.REFUSED not in states or not once, f"{name} was refused and is there")
            return
        expect(State.DONE not in states, f"{name} was answered as done and is gone")
        if State.ALONE in states:
            expect(
                bool(kept & {State.SUPERSEDED, State.REFUSED}),
                f"{name} was done alone, and is gone unnoticed",
            )

    def _judge_end(self, request: Request, *, there: bool) -> None:
        """Everything is decided, and as it is said to be."""
        name = request.request
        states = [state for _, asked, state, _ in self.answers if asked == name]
        expect(bool(states), f"{name} is answered")
        # Asked a second time, the secondary may have to say that it has it and the primary not yet.
        once = [command.request.request for command in self.script].count(name) == 1
        strict = once and request.policy is Policy.STRICT
        expect(not (strict and State.ALONE in states), f"{name} is done by both or none")
        if there:
            expect(states[-1] in {State.DONE, State.PARTLY}, f"{name} is known to be there")
        else:
            gone = {State.REFUSED, State.SUPERSEDED, State.PARTLY, State.ALONE}
            expect(states[-1] in gone, f"{name} is known not to be there")


def _is_there(node: Node, request: str) -> bool:
    """Committed, or journaled and in force: no death of its node and no cut of power takes it away,
    as `judge` finds."""
    prepared, in_force = node.store.prepared, node.in_force
    journaled = prepared is not None and prepared.request == request
    coming = journaled and in_force is not None and in_force.contains(request)
    return coming or node.store.current.contains(request)


def mark(document: Document | None) -> Mark | None:
    return document and Mark(lineage=document.lineage, version=document.version)


# -- a world as a key ----------------------------------------------------------------------------

_FIELDS: dict[type, Callable[[Any], tuple[Any, ...]] | None] = {}
_KNOWN: dict[int, tuple[Any, int]] = {}
_NUMBERS: dict[Any, int] = {}


def frozen(value: Any) -> Any:
    """Something hashable that tells apart what behaves differently; numbers of tokens don't.

    Values are immutable but for the nodes and their workers, so each is looked at once only.
    """
    kind = type(value)
    if kind is tuple:
        return tuple([frozen(one) for one in value]) if value else value
    if kind in _LEAVES:
        return value
    if kind is Node or issubclass(kind, Propagation):
        return tuple([frozen(one) for one in _getter(kind)(value)])
    known = _KNOWN.get(id(value))
    if known is None:
        number = _NUMBERS.setdefault(_content(value), len(_NUMBERS))
        _KNOWN[id(value)] = known = (value, number)
    return known[1]


_LEAVES: Final = frozenset({int, bool, str, type(None), frozenset, Version, Phase})


def _content(value: Any) -> Any:
    kind = type(value)
    match value:
        case Document():
            tables = fingerprint(value.tables)
            return (kind, value.lineage, value.version, value.recent, tables)
        case Operation():
            return (kind, value.request, value.version, value.base)
        case Request():
            return (kind, value.request)
        case Outcome():
            return (kind, value.request, value.state, value.code)
        case dict():
            return kind
    getter = _getter(kind)
    if getter is None:
        return (kind, value)
    return (kind, *[frozen(one) for one in getter(value)])


def _getter(kind: type) -> Any:
    if kind not in _FIELDS:
        names = _names(kind)
        if len(names) == 1:
            _FIELDS[kind] = lambda value: (getattr(value, names[0]),)
        else:
            _FIELDS[kind] = attrgetter(*names) if names else None
    return _FIELDS[kind]


def _names(kind: type) -> tuple[str, ...]:
    if hasattr(kind, "__dataclass_fields__"):
        tokens = {"token", "tokens", "journal", "applying", "owed_token", "marking", "recording"}
        hidden = {*tokens, "_out"}
        return tuple(one.name for one in fields(kind) if one.name not in hidden)
    if hasattr(kind, "__struct_fields__") and kind.__name__ not in {"Done", "Run"}:
        return tuple(kind.__struct_fields__)
    return ()


def _awaited(node: Node) -> tuple[Any, ...]:
    """Which effects under way are still waited for, and by whom."""
    worker = node.worker
    if worker is None:
        return ()
    waits = {
        worker.active and worker.active.token: "active",
        worker.active and worker.active.journal: "journal",
        worker.serving and worker.serving.token: "serving",
        worker.taking and worker.taking.token: "taking",
        worker.applying: "applying",
        worker.foreseen and worker.foreseen.token: "foreseen",
        worker.owed_token: "owed",
        worker.marking: "marking",
        worker.recording[0]: "recording",
    }
    return tuple(waits.get(getattr(one, "token", -1), "") for one in (*node.stores, *node.asks))


def key(world: World) -> int:
    return hash(
        (
            frozen(world.nodes),
            _awaited(world.nodes[0]),
            _awaited(world.nodes[1]),
            world.given,
            world.connected,
            frozen(world.wires),
            world.now_ns,
            world.primary,
            world.term,
            frozenset(world.answers),
        )
    )
