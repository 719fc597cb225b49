# SPDX-License-Identifier: Apache-2.0
"""Pairing over real TLS: what both operators see, and what nobody between them can do."""

import asyncio
import functools
import logging
import random
import shutil
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from twinbeat.config import keys
from twinbeat.framing import framed, read_frame
from twinbeat.sync import claims, identity, pairing, parties, sockets
from twinbeat.sync.ceremony import Ceremony
from twinbeat.sync.claims import Claim
from twinbeat.sync.identity import Folder, generate
from twinbeat.sync.pairing import pair_dialing, pair_listening
from twinbeat.sync.parties import (
    Comparison,
    HeartbeatKey,
    Paired,
    PairingError,
    Party,
    Patience,
)
from unit.clocks import Loop, skip
from unit.sync_pair import HERE, PATIENCE_S, Node, introduce, running, until

QUICK = Patience(meet_s=PATIENCE_S, step_s=PATIENCE_S, confirm_s=PATIENCE_S)
HASTY = Patience(meet_s=0.3, step_s=0.3, confirm_s=0.3)


class Keys:
    """Key files, as the command keeps them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def store(self, key: HeartbeatKey) -> None:
        keys.store_key(self.directory, key.id, key.digits)

    def remove(self, key: HeartbeatKey) -> None:
        (self.directory / f"{key.id}.key").unlink()

    def held(self) -> dict[str, str]:
        return {file.name: file.read_text() for file in self.directory.glob("*")}


class Side:
    """One node, its operator, and what became of its pairing."""

    def __init__(self, root: Path, node: int, *, key: int = 0, name: str = "") -> None:
        self.name = name or "ab"[node]
        self.folder = Folder(root / self.name)
        self.keys = Keys(root / f"{self.name}.keys")
        self.key = HeartbeatKey(id=key, digits=keys.new_key()) if key else None
        self.party = Party(name=self.name, node=node, pair=1, key=self.key)
        self.seen: list[Comparison] = []
        self.cancelled = False
        self.answer: Callable[[Comparison], Awaitable[bool]] = self.yes
        self.port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.away: list[str] = []

    async def yes(self, _: Comparison) -> bool:
        return True

    async def no(self, _: Comparison) -> bool:
        return False

    async def think(self, _: Comparison) -> bool:
        await asyncio.Event().wait()
        return True

    async def ask(self, comparison: Comparison) -> bool:
        self.seen.append(comparison)
        try:
            return await self.answer(comparison)
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def listen(self, patience: Patience = QUICK, **options: Any) -> Paired:
        return await pair_listening(
            self.folder,
            self.party,
            self.ask,
            self.keys,
            address=HERE,
            port=0,
            patience=patience,
            listening=self.port.set_result,
            turned_away=self.away.append,
            **options,
        )

    async def dial(self, port: int, patience: Patience = QUICK, **options: Any) -> Paired:
        return await pair_dialing(
            self.folder,
            self.party,
            self.ask,
            self.keys,
            peer=HERE,
            port=port,
            patience=patience,
            **options,
        )

    def state(self) -> tuple[dict[str, bytes], dict[str, str]]:
        """All that it has on disk."""
        files = {file.name: file.read_bytes() for file in self.folder.path.glob("*")}
        return files, self.keys.held()

    @property
    def code(self) -> str:
        assert len(self.seen) == 1
        return self.seen[0].code


def asynchronous(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in a loop of its own."""

    @functools.wraps(test)
    def run(**kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(4 * PATIENCE_S):
                await test(**kwargs)

        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(bounded())

    return run


async def outcome(pair: Awaitable[Paired]) -> Paired | PairingError:
    try:
        return await pair
    except PairingError as error:
        return error


async def meet(listener: Side, dialer: Side) -> list[Paired | PairingError]:
    """Both sides to the end: what the listener and the dialer were told."""
    listening = asyncio.create_task(outcome(listener.listen()))
    done = await outcome(dialer.dial(await listener.port))
    return [await listening, done]


def codes(results: list[Paired | PairingError]) -> list[str]:
    return [each.code if isinstance(each, PairingError) else "paired" for each in results]


# -- what it is for ------------------------------------------------------------------------------


@asynchronous
async def test_two_nodes_are_paired_in_one_step(tmp_path: Path) -> None:
    a, b = Side(tmp_path, 0), Side(tmp_path, 1, key=3)
    results = await meet(b, a)
    assert codes(results) == ["paired", "paired"]
    assert a.code == b.code
    left, _, right = a.code.partition(" ")
    assert (len(left), len(right), (left + right).isdecimal()) == (4, 4, True)
    assert (a.seen[0].peer_name, b.seen[0].peer_name) == ("b", "a")
    own = [side.folder.own() for side in (a, b)]
    assert own[0] is not None
    assert own[1] is not None
    assert b.folder.trusted() == (own[0].certificate,)
    assert a.folder.trusted() == (own[1].certificate,)
    assert a.keys.held() == b.keys.held() == {"3.key": f"{b.key.digits}\n"}  # type: ignore[union-attr]
    assert (a.keys.directory / "3.key").stat().st_mode & 0o777 == 0o600
    # And that is all that the connection needs.
    second = Node(b.folder, 1)
    async with running(second):
        first = Node(a.folder, 0, peer_port=await second.port())
        async with running(first):
            await until(lambda: first.up and second.up)


@asynchronous
async def test_the_key_comes_from_whoever_has_one(tmp_path: Path) -> None:
    for index, (listener_s, dialer_s, held) in enumerate(
        [(0, 2, "2.key"), (1, 2, "1.key"), (0, 0, None)]
    ):
        root = tmp_path / str(index)
        a, b = Side(root, 0, key=dialer_s), Side(root, 1, key=listener_s)
        assert codes(await meet(b, a)) == ["paired", "paired"]
        assert a.keys.held() == b.keys.held()
        assert list(a.keys.held()) == ([held] if held else [])


@asynchronous
async def test_no_two_pairings_show_the_same_code(tmp_path: Path) -> None:
    seen = set()
    a, b = Side(tmp_path, 0), Side(tmp_path, 1)
    for _ in range(10):
        for side in (a, b):
            side.seen.clear()
            side.port = asyncio.get_running_loop().create_future()
        assert codes(await meet(b, a)) == ["paired", "paired"]
        seen.add(a.code)
    assert len(seen) == 10


@asynchronous
async def test_either_may_come_first(tmp_path: Path) -> None:
    a, b = Side(tmp_path, 0), Side(tmp_path, 1)
    with socket.create_server((HERE, 0)) as taken:
        port = taken.getsockname()[1]
    dialing = asyncio.create_task(a.dial(port))
    await asyncio.sleep(0)
    paired = await pair_listening(
        b.folder, b.party, b.ask, b.keys, address=HERE, port=port, patience=QUICK
    )
    assert paired.name == "a"
    assert (await dialing).name == "b"


@asynchronous
async def test_it_goes_over_the_interface_that_is_named(tmp_path: Path) -> None:
    a, b = Side(tmp_path, 0), Side(tmp_path, 1)
    listening = asyncio.create_task(outcome(b.listen(interface="lo")))
    assert (await a.dial(await b.port, own=HERE, interface="lo")).name == "b"
    assert isinstance(await listening, Paired)
    for said in (
        await outcome(Side(tmp_path, 1, name="c").listen(interface="tbnone0")),
        await outcome(a.dial(1, own=HERE, interface="tbnone0")),
    ):
        assert isinstance(said, PairingError)
        assert said.code == "address"
        assert "tbnone0: No such device" in said.sentence


@asynchronous
async def test_pairing_anew_takes_the_place_of_what_was(tmp_path: Path) -> None:
    a, b = Side(tmp_path, 0), Side(tmp_path, 1)
    b.folder.make_own("b", time.time())
    b.folder.trust(generate("old", time.time()).certificate)
    before = b.folder.own()
    assert codes(await meet(b, a)) == ["paired", "paired"]
    assert before is not None
    now = b.folder.own()
    assert now is not None
    assert now.certificate == before.certificate, "an identity that is there is used"
    assert [each.name for each in b.folder.trusted()] == ["a"]


class Later(Ceremony):
    """The next release says more in its claim."""

    def _claim(self) -> bytes:
        claim = msgspec.msgpack.decode(super()._claim())
        return msgspec.msgpack.encode({**claim, "versions": [1, 2], "colour": "red"})


@asynchronous
async def test_this_release_and_the_next_can_be_paired(tmp_path: Path) -> None:
    a, b = Side(tmp_path, 0), Side(tmp_path, 1)
    listening = asyncio.create_task(b.listen())
    await dial_as(Later, a, await b.port)
    assert (await listening).name == "a"
    assert a.code == b.code


# -- what goes wrong -----------------------------------------------------------------------------


def veteran(root: Path, node: int, **options: Any) -> Side:
    """A node that is paired already, so that there is something to lose."""
    side = Side(root, node, **options)
    side.folder.make_own(side.name, time.time())
    side.folder.trust(generate("past", time.time()).certificate)
    side.folder.expect(generate("past", time.time()).certificate)
    return side


@pytest.mark.parametrize("who", ["listener", "dialer", "both"])
@asynchronous
async def test_an_operator_who_says_no_leaves_all_as_it_was(tmp_path: Path, who: str) -> None:
    a, b = veteran(tmp_path, 0), Side(tmp_path, 1, key=3)
    before = a.state(), b.state()
    for side, name in ((b, "listener"), (a, "dialer")):
        if who in {name, "both"}:
            side.answer = side.no
    results = await meet(b, a)
    assert set(codes(results)) <= {"refused", "given_up"}
    assert (a.state(), b.state()) == before
    assert not b.folder.own_file.exists(), "an identity that nobody believes is taken back"


@asynchronous
async def test_whoever_still_looks_hears_that_the_other_gave_up(tmp_path: Path) -> None:
    a, b = Side(tmp_path, 0), Side(tmp_path, 1)
    b.answer = b.think
    a.answer = a.no
    assert codes(await meet(b, a)) == ["given_up", "refused"]
    assert b.cancelled


@asynchronous
async def test_an_operator_who_stops_it_is_heard(tmp_path: Path) -> None:
    a, b = Side(tmp_path, 0), Side(tmp_path, 1)
    before = a.state(), b.state()
    a.answer, b.answer = a.think, b.think
    listening = asyncio.create_task(outcome(b.listen()))
    dialing = asyncio.create_task(a.dial(await b.port))
    await until(lambda: a.seen and b.seen)
    dialing.cancel()
    result = await listening
    assert isinstance(result, PairingError)
    assert "stopped" in result.sentence
    await asyncio.wait((dialing,))
    assert dialing.cancelled()
    assert (a.state(), b.state()) == before


@asynchronous
async def test_nobody_is_waited_for_without_end(tmp_path: Path) -> None:
    a, b = Side(tmp_path, 0), Side(tmp_path, 1)
    before = a.state(), b.state()
    with pytest.raises(PairingError) as caught:
        await b.listen(HASTY)
    assert caught.value.code == "alone"
    with pytest.raises(PairingError) as caught:
        await a.dial(1, HASTY)
    assert caught.value.code == "alone"
    b.port = asyncio.get_running_loop().create_future()
    a.answer, b.answer = a.think, b.think
    listening = asyncio.create_task(outcome(b.listen(HASTY)))
    results = [await outcome(a.dial(await b.port, HASTY)), await listening]
    assert set(codes(results)) <= {"slow", "given_up"}
    assert "slow" in codes(results)
    assert (a.state(), b.state()) == before


@pytest.mark.parametrize(
    ("changes", "code"), [({"pair": 2}, "pair"), ({"node": 1}, "node")], ids=["pair", "node"]
)
@asynchronous
async def test_nodes_that_are_no_pair_are_told(
    tmp_path: Path, changes: dict[str, int], code: str
) -> None:
    a, b = Side(tmp_path, 0), Side(tmp_path, 1)
    a.party = Party(**({"name": "a", "node": 0, "pair": 1} | changes))  # type: ignore[arg-type]
    listening = asyncio.create_task(outcome(b.listen()))
    with pytest.raises(PairingError) as caught:
        await a.dial(await b.port)
    assert caught.value.code in {code, "given_up"}
    await until(lambda: b.away)
    assert HERE in b.away[0]
    # It goes on waiting for the right one.
    right = Side(tmp_path, 0, name="right")
    assert (await right.dial(await b.port)).name == "b"
    assert isinstance(await listening, Paired)


async def dial_as(kind: type[Ceremony], side: Side, port: int) -> Paired:
    """Dial with another's manners."""
    with parties.Writing(side.folder, side.party, side.keys) as writing:
        connected = await pairing._met(HERE, port)
        return await kind(connected, writing, QUICK, dialed=True).hold(side.ask)


def vanishing(after: int) -> type[Ceremony]:
    """One who is gone, without a word, once he has said so many things."""

    class Vanishing(Ceremony):
        said = 0

        async def _send_raw(self, payload: bytes) -> None:
            if self.said == after:
                self.drop()
                raise PairingError("given_up", "Killed.")
            self.said += 1
            await super()._send_raw(payload)

    return Vanishing


@pytest.mark.parametrize(
    "after", range(6), ids=["nothing", "claim", "reveal", "agree", "proof", "ready"]
)
@asynchronous
async def test_a_dialer_that_is_killed_leaves_nothing_behind(tmp_path: Path, after: int) -> None:
    a, b = Side(tmp_path, 0), veteran(tmp_path, 1, key=3)
    before = b.state()
    meet_s = PATIENCE_S if after else 0.2
    listening = asyncio.create_task(outcome(b.listen(Patience(meet_s=meet_s, step_s=PATIENCE_S))))
    with pytest.raises(PairingError):
        await dial_as(vanishing(after), a, await b.port)
    result = await listening
    assert isinstance(result, PairingError)
    assert result.code == ("broken" if after else "alone")
    assert b.state() == before


@pytest.mark.parametrize(
    "after", range(6), ids=["nothing", "claim", "reveal", "agree", "proof", "hand"]
)
@asynchronous
async def test_a_listener_that_is_killed_leaves_nothing_behind(tmp_path: Path, after: int) -> None:
    a, b = veteran(tmp_path, 0), Side(tmp_path, 1, key=3)
    before = a.state()

    async def listen() -> None:
        with (
            parties.Writing(b.folder, b.party, b.keys) as writing,
            sockets.bound(HERE, 0) as listener,
        ):
            listener.listen()
            b.port.set_result(listener.getsockname()[1])
            connected, _ = await asyncio.get_running_loop().sock_accept(listener)
            await vanishing(after)(connected, writing, QUICK, dialed=False).hold(b.ask)

    listening = asyncio.create_task(listen())
    with pytest.raises(PairingError):
        await a.dial(await b.port)
    with pytest.raises(PairingError):
        await listening
    assert a.state() == before


@pytest.mark.parametrize("who", ["listener", "dialer"])
@pytest.mark.parametrize("what", ["key", "certificate"])
@asynchronous
async def test_what_one_cannot_write_down_the_other_takes_back(
    tmp_path: Path, who: str, what: str
) -> None:
    a, b = veteran(tmp_path, 0), veteran(tmp_path, 1, key=3)
    failing = b if who == "listener" else a
    if what == "key":
        failing.keys.store(HeartbeatKey(id=3, digits=keys.new_key()))
    else:
        (failing.folder.path / f".{identity.PEER}.new").mkdir()
    before = {side: (side.folder.trusted(), side.keys.held()) for side in (a, b)}
    results = await meet(b, a)
    assert set(codes(results)) == {"key_exists" if what == "key" else "disk", "given_up"}
    assert {side: (side.folder.trusted(), side.keys.held()) for side in (a, b)} == before


# -- those who mean harm --------------------------------------------------------------------------


@asynchronous
async def test_somebody_in_the_middle_shows_two_codes(tmp_path: Path) -> None:
    a, b = veteran(tmp_path, 0), veteran(tmp_path, 1, key=3)
    before = a.state(), b.state()
    # Towards each he is the other.
    as_a, as_b = Side(tmp_path / "m", 0), Side(tmp_path / "m", 1, key=3)

    async def compare(_: Comparison) -> bool:
        await until(lambda: a.seen and b.seen)
        return a.code == b.code

    a.answer = b.answer = compare
    ends = [asyncio.create_task(outcome(side.listen())) for side in (b, as_b)]
    ends += [
        asyncio.create_task(outcome(as_a.dial(await b.port))),
        asyncio.create_task(outcome(a.dial(await as_b.port))),
    ]
    results = await asyncio.gather(*ends)
    assert set(codes(list(results))) <= {"refused", "given_up"}
    assert a.code != b.code
    assert (a.code, b.code) == (as_b.code, as_a.code)
    assert (a.state(), b.state()) == before


@asynchronous
async def test_passing_on_what_both_say_makes_no_codes_alike(tmp_path: Path) -> None:
    # His own certificate towards both, but the honest commitments and nonces.
    a, b, m = veteran(tmp_path, 0), veteran(tmp_path, 1, key=3), Side(tmp_path, 0, name="m")
    before = a.state(), b.state()

    async def compare(_: Comparison) -> bool:
        await until(lambda: a.seen and b.seen)
        return a.code == b.code

    a.answer = b.answer = compare
    with (
        parties.Writing(m.folder, m.party, m.keys) as writing,
        sockets.bound(HERE, 0) as listener,
    ):
        listener.listen()
        ends = [
            asyncio.create_task(outcome(b.listen())),
            asyncio.create_task(outcome(a.dial(listener.getsockname()[1]))),
        ]
        from_a, _ = await asyncio.get_running_loop().sock_accept(listener)
        to_b = await pairing._met(HERE, await b.port)
        streams = []
        for connected, dialed in ((from_a, False), (to_b, True)):
            tls = Ceremony(connected, writing, QUICK, dialed=dialed)._context()
            streams.append(await sockets.secured(connected, tls, dialed=dialed, within_s=30.0))
        (a_reads, a_writes), (b_reads, b_writes) = streams
        both = [
            msgspec.msgpack.decode(await read_frame(reader), type=Claim)
            for reader in (a_reads, b_reads)
        ]
        for claim, writer in zip(both, (b_writes, a_writes), strict=True):
            own = writing.identity.certificate.der
            writer.write(
                framed(claims.CODEC.encode(msgspec.structs.replace(claim, certificate=own)))
            )
        for reader, writer in ((a_reads, b_writes), (b_reads, a_writes)):
            writer.write(framed(await read_frame(reader)))
        results = await asyncio.gather(*ends)
        for writer in (a_writes, b_writes):
            writer.close()
    assert a.code != b.code
    assert "refused" in codes(list(results))
    assert (a.state(), b.state()) == before


@asynchronous
async def test_a_code_is_drawn_from_all_that_was_said() -> None:
    def drawn(*said: bytes, dialed: bool = True) -> bytes:
        ceremony = Ceremony(
            socket.socket(),
            None,  # type: ignore[arg-type]
            QUICK,
            dialed=dialed,
        )
        ceremony.drop()
        ceremony._claims, ceremony._nonce = (said[0], said[1]), said[2]
        return ceremony._transcript(said[3])

    plain = drawn(b"A", b"B", b"x", b"y")
    assert drawn(b"B", b"A", b"y", b"x", dialed=False) == plain, "both sides draw the same"
    others = [
        drawn(b"C", b"B", b"x", b"y"),
        drawn(b"A", b"C", b"x", b"y"),
        drawn(b"A", b"B", b"z", b"y"),
        drawn(b"A", b"B", b"x", b"z"),
        drawn(b"B", b"A", b"x", b"y"),
        drawn(b"A", b"B", b"y", b"x"),
    ]
    assert len({plain, *others}) == 7


class Pretender(Ceremony):
    """Claims another's certificate as his own."""

    borrowed: bytes

    def _claim(self) -> bytes:
        claim = msgspec.msgpack.decode(super()._claim(), type=Claim)
        return claims.CODEC.encode(msgspec.structs.replace(claim, certificate=self.borrowed))


@asynchronous
async def test_nobody_claims_a_certificate_without_its_key(tmp_path: Path) -> None:
    a, b, m = Side(tmp_path, 0), veteran(tmp_path, 1, key=3), Side(tmp_path, 0, name="m")
    borrowed = a.folder.make_own("a", time.time()).certificate.der
    before = b.state()
    # Even if the operator were talked into it.
    kind = type("Borrower", (Pretender,), {"borrowed": borrowed})
    listening = asyncio.create_task(outcome(b.listen()))
    with pytest.raises(PairingError):
        await dial_as(kind, m, await b.port)
    result = await listening
    assert isinstance(result, PairingError)
    assert result.code == "proof"
    assert b.state() == before


@asynchronous
async def test_nobody_passes_on_the_listener_s_certificate(tmp_path: Path) -> None:
    # What the dialer would see, if somebody in the middle claimed the true listener's certificate.
    a, b, m = veteran(tmp_path, 0), Side(tmp_path, 1), Side(tmp_path, 1, name="m")
    before = a.state()
    borrowed = b.folder.make_own("b", time.time()).certificate.der
    with (
        parties.Writing(m.folder, m.party, m.keys) as writing,
        sockets.bound(HERE, 0) as listener,
    ):
        listener.listen()
        dialing = asyncio.create_task(outcome(a.dial(listener.getsockname()[1])))
        connected, _ = await asyncio.get_running_loop().sock_accept(listener)
        kind = type("Borrower", (Pretender,), {"borrowed": borrowed})
        with pytest.raises(PairingError):
            await kind(connected, writing, QUICK, dialed=False).hold(m.ask)
    result = await dialing
    assert isinstance(result, PairingError)
    assert result.code == "certificate"
    assert not a.seen, "not even a code is shown"
    assert a.state() == before


class Grinder(Ceremony):
    """Chooses his nonce when he has seen the other's."""

    async def _send(self, message: msgspec.Struct) -> None:
        if isinstance(message, claims.Reveal):
            message = claims.Reveal(nonce=bytes(32))
        await super()._send(message)


@asynchronous
async def test_a_nonce_that_was_chosen_late_is_found_out(tmp_path: Path) -> None:
    m, b = Side(tmp_path, 0), veteran(tmp_path, 1, key=3)
    before = b.state()
    listening = asyncio.create_task(outcome(b.listen()))
    with pytest.raises(PairingError):
        await dial_as(Grinder, m, await b.port)
    result = await listening
    assert isinstance(result, PairingError)
    assert result.code == "commitment"
    assert not b.seen
    assert b.state() == before


@asynchronous
async def test_nothing_is_revealed_before_the_other_has_committed_himself(tmp_path: Path) -> None:
    b = Side(tmp_path, 1)
    patience = Patience(meet_s=2 * PATIENCE_S, step_s=PATIENCE_S)
    listening = asyncio.create_task(outcome(b.listen(patience)))
    tls = Ceremony(
        socket.socket(),
        None,
        QUICK,
        dialed=True,  # type: ignore[arg-type]
    )
    context = tls._context()
    tls.drop()
    reader, writer = await asyncio.open_connection(
        HERE, await b.port, ssl=context, server_hostname=""
    )
    said = [claims.CODEC.decode(await read_frame(reader))]
    skip(PATIENCE_S)
    said.append(claims.CODEC.decode(await read_frame(reader)))
    assert [type(each) for each in said] == [Claim, claims.Stop]
    writer.close()
    assert f"{PATIENCE_S:g} s" in b.away[0]
    listening.cancel()
    await asyncio.wait((listening,))


@asynchronous
async def test_who_guesses_has_one_guess(tmp_path: Path) -> None:
    a, b, m = Side(tmp_path, 0), veteran(tmp_path, 1, key=3), Side(tmp_path, 0, name="m")
    before = b.state()
    right = "0000 0000"

    async def compare(comparison: Comparison) -> bool:
        return comparison.code == right

    b.answer = compare
    listening = asyncio.create_task(outcome(b.listen()))
    port = await b.port
    with pytest.raises(PairingError):
        await m.dial(port)
    assert codes([await listening]) == ["refused"]
    # There is nobody any more whom he could ask again.
    with pytest.raises(PairingError) as caught:
        await a.dial(port, HASTY)
    assert caught.value.code == "alone"
    assert b.state() == before


def test_codes_are_spread_evenly() -> None:
    rng = random.Random(7)
    drawn = [claims.code_of(rng.randbytes(32)).replace(" ", "") for _ in range(10_000)]
    assert len(set(drawn)) > 9_990
    for place in range(8):
        counts = [sum(code[place] == str(digit) for code in drawn) for digit in range(10)]
        assert max(counts) - min(counts) < 300


def test_what_a_code_is_drawn_from_cannot_be_shifted() -> None:
    assert claims.hashed("x", b"ab", b"c") != claims.hashed("x", b"a", b"bc")
    assert claims.hashed("x", b"a") != claims.hashed("y", b"a")
    nonce = bytes(32)
    assert claims.commitment(nonce, dialed=True) != claims.commitment(nonce, dialed=False)


@asynchronous
async def test_a_claim_that_is_sent_back_is_refused(tmp_path: Path) -> None:
    a = veteran(tmp_path, 0)
    twin = Side(tmp_path / "twin", 1, name="a")
    shutil.copytree(a.folder.path, twin.folder.path)
    listening = asyncio.create_task(outcome(twin.listen(HASTY)))
    assert codes([await outcome(a.dial(await twin.port))]) == ["certificate"]
    assert codes([await listening]) == ["alone"]


@asynchronous
async def test_strangers_keep_nobody_out(tmp_path: Path) -> None:
    a, b = Side(tmp_path, 0), Side(tmp_path, 1, key=3)
    listening = asyncio.create_task(outcome(b.listen()))
    port = await b.port
    rng = random.Random(8)
    writers = []
    for _ in range(12):
        _, writer = await asyncio.open_connection(HERE, port)
        writers.append(writer)
    noisy = [b"GET / HTTP/1.1\r\n\r\n", rng.randbytes(300), b"\x16\x03\x01\xff\xff", b""]
    for noise in noisy:
        _, writer = await asyncio.open_connection(HERE, port)
        writer.write(noise)
        writers.append(writer)
    await until(lambda: len(b.away) >= 8)
    result = await outcome(a.dial(port))
    assert isinstance(result, Paired)
    assert isinstance(await listening, Paired)
    for writer in writers:
        writer.close()


@asynchronous
async def test_broken_claims_are_turned_away_and_no_more(tmp_path: Path) -> None:
    a, b = Side(tmp_path, 0), Side(tmp_path, 1, key=3)
    listening = asyncio.create_task(outcome(b.listen()))
    port = await b.port
    rng = random.Random(9)
    sample = Claim(
        versions=(1, 1),
        name="m",
        node=0,
        pair=1,
        certificate=generate("m", time.time()).certificate.der,
        commitment=bytes(32),
    )
    good = claims.CODEC.encode(sample)
    maker = Ceremony(socket.socket(), None, QUICK, dialed=True)  # type: ignore[arg-type]
    context = maker._context()
    maker.drop()
    for attempt in range(60):
        payload = bytearray(good)
        # Any change of a certificate makes it no certificate; elsewhere it must break the form.
        at = good.index(sample.certificate) + rng.randrange(len(sample.certificate))
        payload[at] ^= rng.randrange(1, 256)
        frame = bytearray(framed(bytes(payload)))
        if attempt % 3 == 0:
            frame = frame[: rng.randrange(len(frame))]
        elif attempt % 7 == 0:
            frame[0] = 0xFF
        _, writer = await asyncio.open_connection(HERE, port, ssl=context, server_hostname="")
        writer.write(frame)
        writer.close()
        await until(lambda attempt=attempt: len(b.away) > attempt)
    assert not b.seen
    assert isinstance(await outcome(a.dial(port)), Paired)
    assert isinstance(await listening, Paired)


@asynchronous
async def test_a_known_address_keeps_all_others_out(tmp_path: Path) -> None:
    b = Side(tmp_path, 1)
    listening = asyncio.create_task(outcome(b.listen(HASTY, only_from="127.0.0.7")))
    reader, writer = await asyncio.open_connection(HERE, await b.port)
    assert await reader.read() == b""
    writer.close()
    assert codes([await listening]) == ["alone"]
    assert not b.away


@asynchronous
async def test_a_worker_is_no_one_to_pair_with(tmp_path: Path) -> None:
    one, other = Folder(tmp_path / "x"), Folder(tmp_path / "y")
    one.make_own("a", time.time())
    other.make_own("b", time.time())
    introduce(one, other)
    a, worker = Side(tmp_path, 0), Node(other, 1)
    async with running(worker):
        with pytest.raises(PairingError):
            await a.dial(await worker.port(), HASTY)
        assert not worker.sessions
    assert not a.folder.own_file.exists()


# -- secrets ---------------------------------------------------------------------------------------


def test_no_secret_goes_where_it_can_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    marks: list[str] = ["PRIVATE KEY"]

    async def run() -> None:
        for index, answer in enumerate(("yes", "no")):
            a, b = Side(tmp_path / str(index), 0), Side(tmp_path / str(index), 1, key=3)
            a.answer = getattr(a, answer)
            results = await meet(b, a)
            assert b.key is not None
            marks.extend((b.key.digits, repr(bytes.fromhex(b.key.digits))[2:-1]))
            shown.extend(repr(each) for each in results)
            shown.extend(repr(each) for side in (a, b) for each in (side.party, side.seen))
            shown.extend(
                f"{each!r} {each.__cause__!r}"
                for each in results
                if each is not None and isinstance(each, PairingError)
            )

    asyncio.run(run())
    secret = bytes(range(40, 56))
    shown += [
        repr(claims.Hand(id=1, secret=secret)),
        repr(claims.Reveal(nonce=secret * 2)),
        str([claims.Hand(id=1, secret=secret)]),
    ]
    marks += [repr(secret)[2:-1], secret.hex()]
    shown += [record.getMessage() + repr(record.__dict__) for record in caplog.records]
    text = "\n".join(shown)
    assert [mark for mark in marks if mark in text] == []
