# SPDX-License-Identifier: Apache-2.0
"""Keys and certificates change on two workers that run, and no order is ever taken that would make
an agent refuse the other's frames: each agent in memory reads real files and asks the real rule.
"""

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from twinbeat.api import schema
from twinbeat.api.sync import Rotated
from twinbeat.cli.main import run
from twinbeat.config.keys import check_keys, choose, chosen, store_key
from twinbeat.config.model import Config
from twinbeat.config.nodes import KeysSection, NodeSection, PairSection, PeerSection
from twinbeat.config.problems import Findings
from twinbeat.engine._engine import ffi
from twinbeat.engine.convert import peer_words
from twinbeat.engine.types import Watch
from twinbeat.runtime.rotation import check_rotation
from unit.memory_agent import MemoryAgent, Served
from unit.worker_pair import Site, in_step, looped, working

FIRST = "00112233445566778899aabbccddeeff"


class Agent(MemoryAgent):
    """One that has keys, and hears the other's frames at once."""

    other: "Agent"

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__()
        self.name = name
        self.directory = directory
        self.fixed = 0
        """What its file says of `[keys] send`."""
        self.broken = ""
        store_key(directory, 1, FIRST)
        self.keys = check_keys(str(directory), 1, Findings(""))
        self.seen: list[tuple[int, ...]] = []

    @property
    def ids(self) -> tuple[int, ...]:
        """The one that it sends under, and then the others."""
        return tuple(key.id for key in self.keys)

    def status(self) -> schema.Status:
        state = self.state
        return replace(
            state,
            node=replace(state.node, name=self.name),
            configuration=replace(state.configuration, send_key=self.ids[0], keys=sorted(self.ids)),
            peer=replace(state.peer, send_key=self.other.ids[0], keys=sorted(self.other.ids)),
        )

    async def command(
        self, command: schema.Command, caller: schema.Caller
    ) -> schema.Outcome | schema.Refusal:
        assert isinstance(command, schema.Reload)
        findings = Findings("twinbeat.toml")
        send = self.fixed or chosen(str(self.directory))
        keys = check_keys(str(self.directory), send, findings)
        other = self.other.ids
        words = {"keys": [*other, 0][:2], "key_id": other[0]}
        if not findings.failed:
            check_rotation(
                Config(
                    node=NodeSection(name=self.name, index=0),
                    pair=PairSection(id=1),
                    peer=PeerSection(name=self.other.name),
                    links=(),
                    vrids=(),
                    keys=KeysSection(directory=str(self.directory), send=send),
                ),
                before=self.keys,
                after=keys,
                peer=peer_words(ffi.new("struct tb_peer *", words)),
                watch=Watch.ALIVE,
                findings=findings,
            )
        if findings.failed or self.broken:
            why = self.broken or "; ".join(map(str, findings.problems))
            return schema.Refusal(code="config", sentence=why)
        self.keys = keys
        self.seen.append(self.ids)
        assert other[0] in self.ids, "it would refuse what the other one sends"
        assert self.ids[0] in other, "the other one would refuse what it sends"
        return schema.Outcome(
            operation="", state=schema.OutcomeState.DONE, code="reloaded", sentence="reloaded"
        )


@contextlib.asynccontextmanager
async def agents(root: Path) -> AsyncIterator[tuple[tuple[Site, Agent], tuple[Site, Agent]]]:
    async with working(root) as sites:
        made = []
        with contextlib.ExitStack() as serving:
            for site in sites:
                directory = root / f"keys-{site.name}"
                agent = Agent(site.name, directory)
                served = Served(site.root / "run")
                served.agent = agent
                made.append((site, agent))
                site.settings = replace(site.settings, keys=str(directory))
                site.desk.tell()
                agent.served = served  # type: ignore[attr-defined]
            made[0][1].other, made[1][1].other = made[1][1], made[0][1]
            for _, agent in made:
                serving.enter_context(agent.served)  # type: ignore[attr-defined]
            yield made[0], made[1]


async def rotated(site: Site) -> Rotated:
    answer = await site.post("/v1/keys", {})
    said = msgspec.json.decode(answer.body, type=Rotated)
    assert answer.status == (409 if said.code else 200)
    return said


def on_disk(agent: Agent) -> dict[str, str]:
    return {file.stem: file.read_text().strip() for file in agent.directory.glob("*.key")}


@looped
async def test_both_nodes_have_another_key_and_other_certificates(tmp_path: Path) -> None:
    async with agents(tmp_path) as ((a, first), (b, second)):
        before = [site.folder.own() for site in (a, b)]
        said = await rotated(a)
        assert (said.code, said.key) == ("", 2)
        assert said.sentence.endswith("accept no other; both certificates are new")
        assert first.ids == second.ids == (2,)
        assert first.seen == second.seen == [(1, 2), (2, 1), (2,)]
        assert on_disk(first) == on_disk(second)
        assert on_disk(first).keys() == {"2"}
        assert FIRST not in on_disk(first).values()
        mode = (first.directory / "2.key").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
        assert chosen(str(first.directory)) == chosen(str(second.directory)) == 2
        await in_step(a, b)
        for site, old in zip((a, b), before, strict=True):
            own = site.folder.own()
            assert own is not None
            assert old is not None
            assert own.certificate != old.certificate
        assert (await rotated(b)).key == 3
        assert first.ids == second.ids == (3,)


@looped
async def test_what_broke_off_is_gone_on_with_from_either_node(tmp_path: Path) -> None:
    async with agents(tmp_path) as ((a, first), (b, second)):
        second.broken = "the file is being edited"
        said = await rotated(a)
        assert (said.code, said.sentence) == ("config", "the other node: the file is being edited")
        assert on_disk(second).keys() == {"1"}
        assert on_disk(first).keys() == {"1", "2"}
        second.broken = ""
        first.broken = "the disk is full"
        assert (await rotated(a)).code == "config"
        assert (first.ids, second.ids) == ((1,), (1, 2))
        first.broken = ""
        said = await rotated(b)
        assert (said.code, said.key) == ("", 2)
        assert first.ids == second.ids == (2,)


@looped
async def test_a_key_that_a_file_names_is_not_changed(tmp_path: Path) -> None:
    async with agents(tmp_path) as ((a, first), (_, second)):
        choose(second.directory, 2)
        said = await rotated(a)
        assert said.code == "fixed"
        assert "[keys] send of b names key 1: take the line out" in said.sentence
        assert second.ids == (1,)
        assert first.ids == (1,)


@looped
async def test_without_the_other_worker_nothing_changes(tmp_path: Path) -> None:
    async with agents(tmp_path) as ((a, first), (b, _)):
        await b.stop()
        said = await rotated(a)
        assert said.code == "away"
        assert first.ids == (1,)
        code = await asyncio.to_thread(
            run, ["keys", "rotate", "--socket", str(a.root / "run" / "control.sock")]
        )
        assert code == 1
