# SPDX-License-Identifier: Apache-2.0
"""One change on two nodes: what is promised holds after every fault, and broken rules are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from msgspec import structs

from twinbeat.sync import events as ev
from twinbeat.sync import ground
from twinbeat.sync.document import ASKED_SIZE, Document, Done, Expect, Put, Remove, Version
from twinbeat.sync.effects import (
    Answer,
    Apply,
    Check,
    RunCommand,
    StoreAdopt,
    StoreCommit,
    StorePrepare,
)
from twinbeat.sync.messages import Ahead, Prepare, Summary, Verdict
from twinbeat.sync.operation import (
    Edit,
    Operation,
    Outcome,
    Policy,
    Problem,
    Replace,
    Request,
    State,
)
from twinbeat.sync.parts import FORETOLD_NS, QUEUE_MOST, Active, Phase, Result, Serving, Taking
from twinbeat.sync.propagation import Propagation
from twinbeat.sync.reasons import SENTENCES, outcome
from twinbeat.sync.synchronizer import Decision, SyncState, owed
from unit.sync_explorer import begun, explore, scripts, wander
from unit.sync_world import LINEAGE, SECOND, Command, Store, World, add, run, seed

STRICT, AVAILABLE = Policy.STRICT, Policy.AVAILABLE


# -- everything that can happen ------------------------------------------------------------------


@pytest.mark.parametrize("hasty", [False, True], ids=["network last", "network first"])
@pytest.mark.parametrize("name", scripts())
def test_promises_hold_whatever_happens_once(name: str, hasty: bool) -> None:
    explored = explore(begun(scripts()[name], hasty=hasty), 1)
    assert explored.found is None, str(explored.found)
    assert explored.ends > 20


# All scripts with two faults take some minutes (`python -m unit.sync_explorer`).
@pytest.mark.parametrize("name", ["strict", "available", "twice-strict"])
def test_promises_hold_whatever_happens_twice(name: str) -> None:
    explored = explore(begun(scripts()[name]), 2)
    assert explored.found is None, str(explored.found)
    assert explored.ends > 200


def test_promises_hold_on_long_random_paths() -> None:
    assert [str(found) for seed in range(200) if (found := wander(seed)) is not None] == []


def test_a_broken_rule_is_found_on_random_paths_too() -> None:
    assert any(wander(seed, LeavesDoubtAlone) for seed in range(100))


def test_a_node_that_was_never_paired_only_receives() -> None:
    """Whatever its generation, and though it is primary; with a fault at any moment."""
    explored = explore(fresh_beside_veteran(), 1)
    assert explored.found is None, str(explored.found)
    assert explored.ends > 10


def fresh_beside_veteran() -> World:
    """A primary that was never paired has the higher version and comes to a node that was."""
    fresh = Store(current=seed("b" * 32, term=1, generation=9), highest=9, paired=False)
    veteran = Store(current=seed(generation=3), highest=3)
    return World.made((Command(request=add("x", AVAILABLE)),), stores=(fresh, veteran))


# -- broken rules are found ----------------------------------------------------------------------


class SkipsQuery(Propagation):
    """Takes for granted that what it was in doubt about never reached the peer."""

    def _ask_about(self) -> None:
        active = self.active
        if active is not None and active.phase is Phase.DOUBT:
            self._abort(active, outcome(active.operation.request, State.REFUSED, "not_reached"))


class CommitsBeforeTheVote(Propagation):
    """Doesn't wait for the secondary."""

    def _offer(self, active: Active) -> None:
        Propagation._offer(self, active)
        if self.active is not None and self.active.phase is Phase.PEER:
            self._commit(replace(self.active, acked=True), "")


class ForgetsRequests(Propagation):
    """Does again what is asked for again."""

    def _past(self, request: str, known: Outcome | None) -> Outcome | None:
        return None


class UsesNumbersAgain(Propagation):
    """Takes the number of what it gave up for the next operation."""

    def _number(self) -> Version:
        current = self._document().version
        self.highest = max(self.highest, current.generation + 1)
        return Version(self.term, current.generation + 1)


class AnswersWhileAtIt(Propagation):
    """Says that it hasn't got an operation that it is just about to commit."""

    def _queried(self, request: str, known: Outcome | None) -> None:
        serving, self.serving = self.serving, None
        Propagation._queried(self, request, known)
        self.serving = serving


class ForgetsWhatItPrepared(Propagation):
    """A secondary that starts anew drops what may be in force already."""

    def _resume(self, operation: Operation) -> None:
        Propagation._resume(self, operation)
        if self.serving is not None and self.serving.phase is Phase.APPLY:
            self._abort_serving(outcome(operation.request, State.REFUSED, "not_reached"))


class RunsAgain(Propagation):
    """A secondary that starts anew runs the command once more."""

    def _owed(self, before: Document, after: Document) -> tuple[Done, ...]:
        return owed(before, after)


class HidesWhatWasLost(Propagation):
    """Takes a document over without a word on what is superseded."""

    def _adopt(self, taking: Taking) -> None:
        Propagation._adopt(self, taking)
        effect = self._out[-1]
        assert isinstance(effect, StoreAdopt)
        self._out[-1] = replace(effect, outcomes=())


class ServesTwoAtOnce(Propagation):
    """Takes an operation of the peer on while another thing is under way."""

    def _occupied(self) -> bool:
        return False


class SaysSoBeforeItIsJournaled(Propagation):
    """A secondary that binds itself to what its death would take away."""

    def _journal(self, serving: Serving) -> None:
        if serving.live:
            self._send(Ahead(request=serving.operation.request))
        Propagation._journal(self, serving)


class SaysSoBeforeItIsInForce(Propagation):
    """A secondary that binds itself to what its daemon may yet refuse."""

    def _serving_result(self, serving: Serving, event: Result, now_ns: int) -> None:
        if serving.live and serving.phase is Phase.PREPARE and isinstance(event, ev.Stored):
            self._send(Ahead(request=serving.operation.request))
        Propagation._serving_result(self, serving, event, now_ns)


class LeavesDoubtAlone(Propagation):
    """Never finds out what became of an operation."""

    def _ask_about(self) -> None:
        return


class PutsInForceBeforeTheVote(Propagation):
    """A primary that doesn't wait for the secondary with its daemon, only with its store."""

    def _ahead(self, active: Active, now_ns: int) -> bool:
        if active.phase is Phase.PEER and active.after is not None and not self.applying:
            if not self._has(active.after):
                self._apply(active.after)
            return True
        return Propagation._ahead(self, active, now_ns)


class ReturnsAfterItsDeath(Propagation):
    """A worker that starts anew takes back what the daemon has in force already."""

    def _ahead(self, active: Active, now_ns: int) -> bool:
        return active.phase is not Phase.DOUBT and Propagation._ahead(self, active, now_ns)


HASTY = {AnswersWhileAtIt}
"""Found where the network is first."""

PLANTS = [
    (SkipsQuery, "strict-strict", 1),
    (CommitsBeforeTheVote, "strict-strict", 1),
    (ForgetsRequests, "available-available", 1),
    (UsesNumbersAgain, "strict-available", 2),
    (AnswersWhileAtIt, "strict-strict", 1),
    (ForgetsWhatItPrepared, "strict-strict", 1),
    (RunsAgain, "run-available", 1),
    (HidesWhatWasLost, "available-available", 2),
    (ServesTwoAtOnce, "strict-available", 1),
    (SaysSoBeforeItIsJournaled, "strict-strict", 1),
    (SaysSoBeforeItIsInForce, "strict-strict", 1),
    (LeavesDoubtAlone, "strict-strict", 1),
    (PutsInForceBeforeTheVote, "strict-strict", 1),
    (ReturnsAfterItsDeath, "strict", 2),
]


@pytest.mark.parametrize(("kind", "script", "faults"), PLANTS)
def test_a_broken_rule_is_found(kind: type[Propagation], script: str, faults: int) -> None:
    explored = explore(begun(scripts()[script], kind, hasty=kind in HASTY), faults)
    assert explored.found is not None, f"{explored.states} states, {explored.ends} ends"


def by_generation_alone(own: Summary, peer: Summary, *, adopting: bool = False) -> Decision:
    """Whose document rules, by one who forgot about terms."""
    if own.version.generation == peer.version.generation:
        return Decision.IN_STEP
    return Decision.TAKE if own.version.generation < peer.version.generation else Decision.GIVE


def test_a_comparison_without_terms_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ground, "decide", by_generation_alone)
    explored = explore(begun(scripts()["available-available"]), 2)
    assert explored.found is not None


def whatever_was_paired(own: Summary, peer: Summary, *, adopting: bool = False) -> Decision:
    """Whose document rules, by one who takes lineages for one."""
    if own.version == peer.version:
        return Decision.IN_STEP
    return Decision.TAKE if own.version < peer.version else Decision.GIVE


def test_a_new_node_that_overwrites_an_old_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ground, "decide", whatever_was_paired)
    assert explore(fresh_beside_veteran(), 0).found is not None


# -- by name: what a request meets ---------------------------------------------------------------


def calm_pair(*stores: Store) -> World:
    world = World.made(stores=(stores[0], stores[1]) if stores else None)
    world.calm()
    return world


def asked(world: World, request: Request, to: int = 0) -> tuple[State, str]:
    """What is answered, once all has come to rest."""
    world.ask(to, request)
    world.calm()
    node, name, state, code = world.answers[-1]
    assert (node, name) == (to, request.request)
    return state, code


def exposed(world: World) -> bool:
    """The primary has asked its peer to prepare something."""
    return any(isinstance(message, Prepare) for message in world.wires[0])


def alone(world: World) -> World:
    """The peer's worker is gone and stays so."""
    world.act("kill-worker", 1)
    world.dead = frozenset({1})
    world.calm()
    return world


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("to", [0, 1])
def test_a_change_is_on_both_before_it_is_answered(policy: Policy, to: int) -> None:
    world = calm_pair()
    assert asked(world, add("x", policy), to) == (State.DONE, "done")
    for node in world.nodes:
        assert node.store.current.version == Version(2, 2)
        assert node.in_force == node.store.current


def test_the_secondary_is_first() -> None:
    world = calm_pair()
    world.ask(0, add("x", STRICT))
    while not world.nodes[1].store.current.contains("x"):
        assert not world.nodes[0].store.current.contains("x")
        assert world.answers == ()
        world.act(*world.pending()[0])
    assert world.nodes[1].in_force == world.nodes[1].store.current


def test_the_secondary_examines_while_the_primary_does() -> None:
    """It was told beforehand: both are asked before either has said a word."""
    world = calm_pair()
    world.ask(0, add("x", STRICT))
    world.act("wire", 0)
    for node in world.nodes:
        assert [type(effect) for effect in node.asks] == [Check]
    until(world, lambda: world.answers != ())
    assert world.answers[-1][2:] == (State.DONE, "done")


def test_a_worker_that_was_not_told_beforehand_examines_when_asked() -> None:
    """As with a peer of an older release, or one that refuses beforehand."""
    world = calm_pair()
    world.ask(0, add("x", STRICT))
    world.wires = ((), ())
    until(world, lambda: world.answers != ())
    assert world.answers[-1][2:] == (State.DONE, "done")


def test_what_was_examined_beforehand_is_not_examined_again() -> None:
    world = calm_pair()
    world.ask(0, add("x", STRICT))
    world.act("wire", 0)
    world.act("daemon", 1)
    until(world, lambda: world.nodes[1].stores != ())
    (prepare,) = world.nodes[1].stores
    assert isinstance(prepare, StorePrepare)
    assert world.nodes[1].asks == ()


def test_what_was_examined_a_while_ago_is_examined_again() -> None:
    world = calm_pair()
    world.ask(0, add("x", STRICT))
    world.act("wire", 0)
    world.act("daemon", 1)
    world.now_ns += FORETOLD_NS
    until(world, lambda: exposed(world))
    world.act("wire", 0)
    (check,) = world.nodes[1].asks
    assert isinstance(check, Check)


def test_what_is_being_examined_is_waited_for() -> None:
    world = calm_pair()
    world.ask(0, add("x", STRICT))
    world.act("wire", 0)
    world.act("daemon", 0)
    world.act("store", 0)
    world.act("wire", 0)
    (check,) = world.nodes[1].asks
    assert isinstance(check, Check)
    world.act("refuse", 1)
    world.calm()
    assert world.answers[-1][2:] == (State.REFUSED, "peer_invalid")


def test_the_primary_journals_while_its_daemon_examines() -> None:
    world = calm_pair()
    world.ask(0, add("x", STRICT))
    assert [type(effect) for effect in world.nodes[0].asks] == [Check]
    assert [type(effect) for effect in world.nodes[0].stores] == [StorePrepare]
    world.act("store", 0)
    assert world.nodes[0].store.prepared is not None
    assert not exposed(world)
    world.act("daemon", 0)
    assert exposed(world)


@pytest.mark.parametrize("journaled", [False, True])
def test_what_is_refused_while_it_is_journaled_is_forgotten(journaled: bool) -> None:
    world = calm_pair()
    world.ask(0, add("x", STRICT))
    if journaled:
        world.act("store", 0)
    world.act("refuse", 0)
    assert world.answers == ()
    world.calm()
    assert world.answers[-1][2:] == (State.REFUSED, "invalid")
    assert world.nodes[0].store.prepared is None
    assert asked(world, add("y", STRICT)) == (State.DONE, "done")


def test_what_is_wrong_is_said_though_the_disk_is_full() -> None:
    world = calm_pair()
    world.ask(0, add("x", STRICT))
    world.act("refuse", 0)
    world.act("disk-full", 0)
    assert world.answers[-1][2:] == (State.REFUSED, "invalid")
    assert asked(world, add("y", STRICT)) == (State.DONE, "done")


def ahead(world: World) -> None:
    """The secondary has a strict change in force, and the primary has heard so."""
    world.ask(0, add("x", STRICT))
    until(world, lambda: bool(world.nodes[1].stores and world.nodes[1].store.prepared))
    while not world.nodes[0].asks:
        world.act("wire", 1)


def test_the_primary_puts_in_force_while_the_secondary_commits() -> None:
    world = calm_pair()
    ahead(world)
    (there,), (here,), (apply,) = (
        *[node.stores for node in world.nodes[::-1]],
        world.nodes[0].asks,
    )
    assert isinstance(there, StoreCommit)
    assert isinstance(here, StoreCommit)
    assert isinstance(apply, Apply)
    world.act("daemon", 0)
    assert world.answers == ()
    world.act("store", 0)
    # The secondary has it journaled and in force, and its store may take its time.
    assert world.answers[-1][2:] == (State.DONE, "done")
    assert world.nodes[1].stores == (there,)
    workers = [node.worker for node in world.nodes]
    assert workers[0] is not None
    assert workers[1] is not None
    assert workers[1].decided == workers[0].current  # Whoever reads it there is told so, too.
    world.calm()
    assert world.nodes[1].store.current == world.nodes[0].store.current


def test_the_next_change_waits_until_the_secondary_has_committed_the_one_before() -> None:
    world = calm_pair()
    ahead(world)
    world.act("daemon", 0)
    world.act("store", 0)
    assert world.answers[-1][2:] == (State.DONE, "done")
    world.ask(0, add("y", STRICT))
    while world.wires[0]:
        assert not isinstance(world.wires[0][0], Prepare)
        world.act("wire", 0)
    assert not world.nodes[0].stores
    world.act("store", 1)
    world.calm()
    assert world.answers[-1][1:] == ("y", State.DONE, "done")


@pytest.mark.parametrize("policy", [STRICT, AVAILABLE])
def test_a_secondary_that_never_says_so_is_not_waited_for_without_end(policy: Policy) -> None:
    world = calm_pair()
    ahead(world)
    world.act("daemon", 0)
    world.act("store", 0)
    world.ask(0, add("y", policy))
    for _ in range(100):
        if world.answers[-1][1] == "y":
            break
        act = ("wire", 0) if world.wires[0] else ("wire", 1)
        if world.nodes[1].stores:
            act = ("disk-full", 1)  # Whenever it tries again.
        elif world.nodes[0].stores or world.nodes[0].asks:
            act = ("store" if world.nodes[0].stores else "daemon", 0)
        elif not any(world.wires):
            act = ("time", 0)
        world.act(*act)
    assert world.answers[-1][1:3] == ("y", State.REFUSED if policy is STRICT else State.ALONE)
    world.calm()
    assert world.nodes[1].store.current == world.nodes[0].store.current


@pytest.mark.parametrize("dies", [0, 1])
def test_what_is_in_force_on_both_is_kept_whoever_dies_before_it_is_committed(dies: int) -> None:
    world = calm_pair()
    ahead(world)
    world.act("daemon", 0)
    world.act("kill-worker", dies)
    world.calm()
    for node in world.nodes:
        assert node.store.current.contains("x")
        assert node.in_force == node.store.current


def test_what_is_in_force_on_both_stays_though_another_change_cannot_wait() -> None:
    """The secondary is gone before it committed, and the primary is asked for more."""
    world = calm_pair()
    ahead(world)
    world.act("daemon", 0)
    alone(world)
    assert asked(world, add("y", AVAILABLE)) == (State.ALONE, "alone_unreachable")
    assert world.nodes[0].store.current.contains("x")
    assert world.nodes[0].in_force == world.nodes[0].store.current
    world.dead = frozenset()
    world.calm()
    assert world.nodes[1].store.current == world.nodes[0].store.current
    assert asked(world, add("x", STRICT)) == (State.DONE, "done")


def test_the_primary_puts_in_force_while_its_store_commits() -> None:
    """As with a peer of an older release, which says nothing before it has committed."""
    world = calm_pair()
    world.ask(0, add("x", STRICT))
    until(world, lambda: any(isinstance(one, Ahead) for one in world.wires[1]))
    left = tuple(one for one in world.wires[1] if not isinstance(one, Ahead))
    world.wires = (world.wires[0], left)
    world.act("store", 1)
    while world.wires[1]:
        world.act("wire", 1)
    (commit,), (apply,) = world.nodes[0].stores, world.nodes[0].asks
    assert isinstance(commit, StoreCommit)
    assert isinstance(apply, Apply)
    world.act("daemon", 0)
    assert world.answers == ()
    world.act("store", 0)
    assert world.answers[-1][2:] == (State.DONE, "done")


def test_alone_strict_is_refused_and_available_is_marked() -> None:
    world = alone(calm_pair())
    assert asked(world, add("x", STRICT)) == (State.REFUSED, "peer_unreachable")
    assert world.nodes[0].store.highest == 1
    assert asked(world, add("y", AVAILABLE)) == (State.ALONE, "alone_unreachable")
    worker = world.nodes[0].worker
    assert worker is not None
    assert worker.standing().state is SyncState.UNREACHABLE
    world.dead = frozenset()
    world.calm()
    assert world.nodes[1].store.current.contains("y")
    assert worker.standing().in_step


def test_a_request_for_the_primary_only() -> None:
    world = calm_pair()
    local = Request(request="x", wish=add("x", STRICT).wish, local=True)
    assert asked(world, local, to=1) == (State.REFUSED, "local")


def test_a_secondary_without_its_primary_refuses() -> None:
    world = calm_pair()
    world.act("kill-worker", 0)
    world.dead = frozenset({0})
    assert asked(world, add("x", AVAILABLE), to=1) == (State.REFUSED, "not_primary")


def test_a_change_that_does_not_fit_is_refused() -> None:
    world = calm_pair()
    edits = [
        (Put(section="route", identity="r", row={}, expect=Expect.PRESENT), "missing"),
        (Remove(section="route", identity="r"), "missing"),
    ]
    for number, (change, code) in enumerate(edits):
        request = Request(request=f"n{number}", wish=Edit(changes=(change,)))
        assert asked(world, request) == (State.REFUSED, code)
    assert asked(world, add("x", STRICT))[0] is State.DONE
    again = Put(section="route", identity="x", row={}, expect=Expect.ABSENT)
    assert asked(world, Request(request="m", wish=Edit(changes=(again,)))) == (
        State.REFUSED,
        "exists",
    )


def test_what_is_so_already_makes_no_generation() -> None:
    world = calm_pair()
    tables = {"route": {"x": {"metric": 1}}}
    assert asked(world, Request(request="a", wish=Replace(tables=tables))) == (State.DONE, "done")
    assert asked(world, Request(request="b", wish=Replace(tables=tables))) == (
        State.DONE,
        "unchanged",
    )
    assert world.nodes[0].store.current.version == Version(2, 2)


def test_a_wish_for_another_document_is_refused() -> None:
    world = calm_pair()
    stale = Request(request="a", wish=add("a", STRICT).wish, base=Version(1, 7))
    assert asked(world, stale) == (State.REFUSED, "changed_meanwhile")


@pytest.mark.parametrize(("refuser", "code"), [(0, "invalid"), (1, "peer_invalid")])
@pytest.mark.parametrize("policy", Policy)
def test_a_wrong_configuration_is_nowhere(refuser: int, code: str, policy: Policy) -> None:
    world = calm_pair()
    world.ask(0, add("x", policy))
    # The secondary finds so when it is foretold, and once more when it is asked.
    for _ in range(1 + refuser):
        until(world, lambda: bool(world.nodes[refuser].asks))
        assert isinstance(world.nodes[refuser].asks[0], Check)
        world.act("refuse", refuser)
    world.calm()
    assert world.answers[-1][2:] == (State.REFUSED, code)
    for node in world.nodes:
        assert node.store.current == seed()
        assert node.in_force == seed()


def until(world: World, holds: Callable[[], bool]) -> None:
    for _ in range(100):
        if holds():
            return
        world.act(*(world.pending() or world.broken())[0])
    raise AssertionError("it didn't come to that")


def test_what_the_primary_cannot_put_in_force_is_taken_back_on_both() -> None:
    world = calm_pair()
    ahead(world)
    for _ in range(2):  # While the store is at it, and when it is through.
        until(world, lambda: bool(world.nodes[0].asks))
        assert isinstance(world.nodes[0].asks[0], Apply)
        world.act("refuse", 0)
    world.calm()
    assert world.answers[-1][2:] == (State.REFUSED, "taken_back")
    for node in world.nodes:
        assert node.store.current.version == Version(2, 3)
        assert node.store.current.tables == {}
        assert node.in_force == node.store.current
        kept = node.store.outcome("x")
        assert kept is not None
        assert kept.code == "taken_back"


@pytest.mark.parametrize("answers", [True, False])
def test_what_is_taken_back_waits_until_the_secondary_has_committed_it(answers: bool) -> None:
    world = calm_pair()
    ahead(world)
    world.act("refuse", 0)
    world.act("store", 0)
    world.act("refuse", 0)
    world.act("store", 0)
    worker = world.nodes[0].worker
    assert worker is not None
    assert worker.active is not None
    assert worker.active.held
    world.act("store" if answers else "kill-worker", 1)
    world.calm()
    assert not worker.active
    assert world.answers[-1][2] is (State.REFUSED if answers else State.UNDECIDED)
    for node in world.nodes:
        assert node.store.current.tables == {}
        assert node.in_force == node.store.current


def test_a_command_that_fails_on_the_primary_is_taken_back() -> None:
    world = calm_pair()
    world.ask(0, run("x", STRICT))
    until(world, lambda: world.nodes[0].store.current.contains("x"))
    world.act("refuse", 0)
    world.calm()
    assert world.answers[-1][2:] == (State.REFUSED, "run_taken_back")
    assert len(world.nodes[1].ran) == 2
    assert world.nodes[1].ran[0] == "x False"
    assert world.nodes[1].ran[1].endswith("True")


def test_an_available_command_that_fails_on_the_primary_says_so() -> None:
    world = calm_pair()
    world.ask(0, run("x", AVAILABLE))
    until(world, lambda: world.nodes[0].store.current.contains("x"))
    world.act("refuse", 0)
    world.calm()
    assert world.answers[-1][2:] == (State.PARTLY, "run_failed")


def test_a_command_is_run_on_a_peer_that_comes_back() -> None:
    world = alone(calm_pair())
    assert asked(world, run("x", AVAILABLE))[0] is State.ALONE
    world.dead = frozenset()
    world.calm()
    assert world.nodes[1].ran == ("x False",)
    assert world.nodes[1].worker is not None
    assert world.nodes[1].worker.standing().in_step


@pytest.mark.parametrize(
    ("strict", "state"), [(True, SyncState.PARTIAL_SUCCESS), (False, SyncState.SUCCESS)]
)
def test_strict_status_tells_of_items_that_failed(strict: bool, state: SyncState) -> None:
    world = alone(calm_pair())
    assert asked(world, run("x", AVAILABLE))[0] is State.ALONE
    world.dead = frozenset()
    returning = world.nodes[1]
    until(world, lambda: any(isinstance(one, RunCommand) for one in returning.asks))
    feed(world, 1, ev.SettingsChanged(sync=True, propagation=True, strict_status=strict))
    world.act("refuse", 1)
    world.calm()
    assert returning.worker is not None
    standing = returning.worker.standing()
    assert (standing.state, standing.in_step) == (state, True)
    assert [failure.where for failure in returning.worker.failures] == ["command x"]
    assert ("command x" in standing.sentence) is strict


def test_what_waits_for_a_restart_is_told_until_the_daemon_has_it_in_force() -> None:
    world = calm_pair()
    node = world.nodes[1]
    assert node.worker is not None
    later = Problem(where="vrid 51.vmac", right="takes effect with a restart of the agent")
    for problems in ((later,), ()):
        feed(world, 1, ev.DaemonLost())
        feed(world, 1, ev.DaemonFound(in_force=None))
        asked_for = node.asks[0]
        assert isinstance(asked_for, Apply)
        node.asks = node.asks[1:]
        feed(world, 1, ev.Applied(token=asked_for.token, in_force=True, problems=problems))
        world.calm()
        assert node.worker.unfulfilled == problems


def test_a_strict_request_in_doubt_is_answered_and_decided_later() -> None:
    world = calm_pair()
    world.ask(0, add("x", STRICT))
    until(world, lambda: any(isinstance(one, Prepare) for one in world.wires[0]))
    alone(world)
    assert world.answers[-1][2:] == (State.UNDECIDED, "undecided")
    world.dead = frozenset()
    world.calm()
    assert asked(world, add("x", STRICT)) == (State.REFUSED, "not_reached")


def test_an_available_request_does_not_wait_for_one_in_doubt() -> None:
    world = calm_pair()
    world.ask(0, add("x", STRICT))
    until(world, lambda: world.nodes[1].store.current.contains("x"))
    alone(world)
    assert asked(world, add("y", AVAILABLE)) == (State.ALONE, "alone_unreachable")
    assert asked(world, add("x", STRICT)) == (State.UNDECIDED, "given_up")
    world.dead = frozenset()
    world.calm()
    assert asked(world, add("x", STRICT)) == (State.REFUSED, "undone")
    assert asked(world, add("x", STRICT)) == (State.REFUSED, "undone")
    for node in world.nodes:
        assert set(node.store.current.tables["route"]) == {"y"}


def test_a_queue_has_an_end() -> None:
    world = calm_pair()
    for number in range(QUEUE_MOST + 2):
        world.ask(0, add(f"r{number}", AVAILABLE, timeout_s=60))
    assert [code for *_, code in world.answers] == ["busy"]
    world.calm(5000)
    assert len(world.nodes[1].store.current.recent) == QUEUE_MOST + 1


def test_asked_twice_done_once() -> None:
    world = calm_pair()
    for to in (0, 1, 0):
        world.ask(to, add("x", STRICT))
    world.calm()
    assert {(state, code) for *_, state, code in world.answers} == {(State.DONE, "done")}
    assert {node for node, *_ in world.answers} == {0, 1}
    world.move_role()
    world.calm()
    assert asked(world, add("x", STRICT), to=1) == (State.DONE, "settled")
    assert world.nodes[0].store.current.version == Version(2, 2)


def another(request: Request) -> Request:
    """Another command under the same id."""
    return structs.replace(request, asked="ab" * ASKED_SIZE)


def test_an_id_that_another_command_has_is_refused() -> None:
    world = calm_pair()
    first = structs.replace(add("x", STRICT), asked="cd" * ASKED_SIZE)
    used = (State.REFUSED, "id_used")
    world.ask(0, first)
    world.ask(0, another(first))  # While the first is under way.
    assert world.answers[-1][2:] == used
    world.calm()
    assert world.answers[-1][2:] == (State.DONE, "done")
    for to in (0, 1):
        assert asked(world, another(first), to) == used
        assert asked(world, first, to)[0] is State.DONE
    world.move_role()
    world.calm()
    assert asked(world, another(first), to=1) == used
    assert world.nodes[0].store.current.version == Version(2, 2)


def test_of_those_who_gave_one_id_only_the_other_is_refused() -> None:
    first = structs.replace(add("x", STRICT), asked="cd" * ASKED_SIZE)
    world = calm_pair()
    worker = world.nodes[0].worker
    assert worker is not None
    worker.step(ev.Requested(request=first), 0)
    effects = worker.step(ev.Requested(request=another(first)), 0)
    (answer,) = (effect for effect in effects if isinstance(effect, Answer))
    assert (answer.outcome.code, answer.only) == ("id_used", another(first).asked)


def test_a_full_disk_is_said_and_nothing_is_half_done() -> None:
    world = calm_pair()
    world.ask(0, add("x", STRICT))
    until(world, lambda: bool(world.nodes[0].stores))
    world.act("disk-full", 0)
    world.calm()
    assert world.answers[-1][2:] == (State.REFUSED, "store")
    world.ask(0, add("y", STRICT))
    until(world, lambda: bool(world.nodes[1].stores))
    world.act("disk-full", 1)
    world.calm()
    assert world.answers[-1][2:] == (State.REFUSED, "peer_refused")
    assert {node.store.current.version for node in world.nodes} == {Version(0, 1)}


def feed(world: World, index: int, event: ev.Event) -> None:
    world.feed(world.nodes[index], event)


@pytest.mark.parametrize("where", [0, 1])
def test_propagation_switched_off(where: int) -> None:
    world = calm_pair()
    feed(world, where, ev.SettingsChanged(sync=True, propagation=False, strict_status=False))
    world.calm()
    assert asked(world, add("x", STRICT)) == (State.REFUSED, "propagation_disabled")
    assert asked(world, add("y", AVAILABLE)) == (State.ALONE, "alone_disabled")
    assert world.nodes[1].store.current.contains("y")  # Synchronization brought it.


@pytest.mark.parametrize("where", [0, 1])
def test_synchronization_switched_off(where: int) -> None:
    world = alone(calm_pair())
    assert asked(world, add("x", AVAILABLE))[0] is State.ALONE
    world.dead = frozenset()
    world.act("start-worker", 1)
    feed(world, where, ev.SettingsChanged(sync=False, propagation=True, strict_status=False))
    world.calm()
    assert not world.nodes[1].store.current.contains("x")
    for node in world.nodes:
        assert node.worker is not None
        assert node.worker.standing().state is SyncState.DISABLED
    assert asked(world, add("y", STRICT)) == (State.REFUSED, "out_of_sync")


# -- documents that differ -----------------------------------------------------------------------


def test_two_pairs_do_not_touch_each_other_until_one_gives_up() -> None:
    other = Store(current=seed("b" * 32, term=5, generation=8), highest=8)
    world = calm_pair(Store(current=seed()), other)
    for node in world.nodes:
        assert node.worker is not None
        assert node.worker.standing().state is SyncState.LINEAGE_CONFLICT
    assert world.nodes[1].store.current == other.current
    assert asked(world, add("x", STRICT)) == (State.REFUSED, "out_of_sync")
    worker = world.nodes[1].worker
    assert worker is not None
    assert worker.force_refused(adopt=True) is None
    feed(world, 1, ev.SyncForced(adopt=True))
    world.calm()
    assert worker.force_refused(adopt=True) == ("nothing_to_adopt", SENTENCES["nothing_to_adopt"])
    assert world.nodes[1].store.current == world.nodes[0].store.current == seed()
    assert world.nodes[1].store.backups == (other.current,)
    assert asked(world, add("y", STRICT)) == (State.DONE, "done")


def test_of_two_new_nodes_the_primary_rules() -> None:
    newer = Store(current=seed("b" * 32, generation=8), highest=8, paired=False)
    world = calm_pair(Store(current=seed(), paired=False), newer)
    for node in world.nodes:
        assert node.store.current.lineage == LINEAGE
        assert node.store.paired


def test_a_document_that_is_refused_is_failed_until_it_is_tried_again() -> None:
    world = alone(calm_pair())
    assert asked(world, add("x", AVAILABLE))[0] is State.ALONE
    world.dead = frozenset()
    world.act("start-worker", 1)
    until_taking(world)
    world.act("refuse", 1)
    while world.pending():
        world.act(*world.pending()[0])
    worker = world.nodes[1].worker
    assert worker is not None
    assert worker.standing().state is SyncState.FAILED
    assert "not on this node" in worker.standing().sentence
    assert worker.next_deadline(world.now_ns) == world.now_ns + 30 * SECOND
    assert asked_now(world, add("y", STRICT)) == (State.REFUSED, "out_of_sync")
    world.calm()
    assert worker.standing().state is SyncState.SUCCESS


def until_taking(world: World) -> None:
    while True:
        worker = world.nodes[1].worker
        if worker is not None and worker.taking is not None and world.nodes[1].asks:
            return
        world.act(*(world.pending() or world.broken())[0])


def asked_now(world: World, request: Request) -> tuple[State, str]:
    world.ask(0, request)
    return world.answers[-1][2:]


def test_what_is_the_same_is_taken_over_again_when_told_so() -> None:
    world = calm_pair()
    feed(world, 0, ev.SyncForced())
    world.calm()
    assert world.nodes[1].store.backups == (seed(),)
    feed(world, 1, ev.SyncForced())
    world.calm()
    assert len(world.nodes[1].store.backups) == 2


def test_a_primary_that_lost_its_disk_gets_everything_back() -> None:
    world = calm_pair()
    assert asked(world, add("x", STRICT)) == (State.DONE, "done")
    world.ask(0, add("y", STRICT))
    until(world, lambda: world.nodes[1].store.current.contains("y"))
    assert not world.nodes[0].store.current.contains("y")
    world.lose_store(0)
    world.calm()
    for node in world.nodes:
        assert set(node.store.current.tables["route"]) == {"x", "y"}


def test_a_primary_that_lost_its_disk_uses_no_number_again() -> None:
    world = calm_pair()
    world.ask(0, add("y", STRICT))
    until(world, lambda: world.nodes[1].store.current.contains("y"))
    world.lose_store(0)
    world.act("kill-worker", 1)
    world.dead = frozenset({1})
    world.calm()
    assert asked(world, add("z", AVAILABLE))[0] is State.ALONE
    world.dead = frozenset()
    world.calm()
    assert world.nodes[0].store.current == world.nodes[1].store.current
    assert set(world.nodes[0].store.current.tables["route"]) == {"z"}
    kept = world.nodes[1].store.outcome("y")
    assert kept is not None
    assert kept.state is State.SUPERSEDED


def test_the_old_primary_gives_way_and_names_what_it_loses() -> None:
    world = calm_pair()
    alone(world)
    assert asked(world, add("x", AVAILABLE))[0] is State.ALONE
    world.act("kill-worker", 0)
    world.dead = frozenset({0})
    world.move_role()
    assert asked_at_new_primary(world, add("y", AVAILABLE)) is State.ALONE
    world.dead = frozenset()
    world.calm()
    assert world.nodes[0].store.current == world.nodes[1].store.current
    assert not world.nodes[0].store.current.contains("x")
    assert asked(world, add("x", AVAILABLE), to=0) == (State.SUPERSEDED, "superseded")
    assert world.nodes[0].store.backups[-1].contains("x")


def asked_at_new_primary(world: World, request: Request) -> State:
    world.calm()
    world.ask(1, request)
    world.calm()
    return world.answers[-1][2]


# -- small print ---------------------------------------------------------------------------------


def test_every_code_has_a_sentence_that_can_be_made() -> None:
    facts = dict.fromkeys(
        (
            *("why", "base", "current", "where", "count", "term", "known", "version"),
            *("request", "name"),
        ),
        "?",
    )
    for code, text in SENTENCES.items():
        assert text.format(**facts), code


def test_nothing_is_wanted_when_nothing_waits() -> None:
    world = calm_pair()
    worker = world.nodes[0].worker
    assert worker is not None
    assert worker.next_deadline(world.now_ns) is None


def test_stale_results_change_nothing() -> None:
    world = calm_pair()
    before = world.copied()
    feed(world, 0, ev.Stored(token=9999))
    feed(world, 0, ev.Tick())
    assert world.nodes[0].worker == before.nodes[0].worker


def test_the_committed_outcome_travels_with_the_commit() -> None:
    """One transaction: no crash can come between a document and what is said of it."""
    world = calm_pair()
    world.ask(0, add("x", STRICT))
    seen = []
    for _ in range(40):
        seen += [one for node in world.nodes for one in node.stores]
        acts = world.pending()
        if not acts:
            break
        world.act(*acts[0])
    commits = [one for one in seen if isinstance(one, StoreCommit)]
    assert commits
    assert all(one.outcomes[0].request == "x" for one in commits)
    assert not any(isinstance(one, Answer) for one in seen)
    assert Verdict.COMMITTED in Verdict
