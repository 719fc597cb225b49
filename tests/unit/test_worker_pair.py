# SPDX-License-Identifier: Apache-2.0
"""Two workers over real TLS, sockets and stores: what an operator asks for is on both nodes."""

import asyncio
import time
from pathlib import Path

import msgspec

from twinbeat.api.http import HttpServer, Request, Response
from twinbeat.api.server import unix_socket
from twinbeat.api.sync import ForceSync, Said, Views
from twinbeat.sync.document import Document, Put, Run, Tables
from twinbeat.sync.identity import Certificate, Folder
from twinbeat.sync.operation import Edit, State
from twinbeat.sync.wire import ANSWER_MAX, TARGET_MAX
from twinbeat.worker.main import Worker
from unit.sync_pair import introduce
from unit.worker_pair import SEED, in_step, looped, pair, until, working

A, B, C = "10.77.0.11", "10.77.0.12", "10.77.0.13"


def certificate(folder: Folder) -> Certificate:
    own = folder.own()
    assert own is not None
    return own.certificate


@looped
async def test_what_the_file_said_becomes_the_first_document_of_both(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        assert a.document is not None
        assert b.document is not None
        assert a.document == b.document
        assert a.document.tables == SEED
        assert a.document.version.generation == 1


@looped
async def test_a_change_is_in_force_on_both_when_it_is_answered(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        for number, vips in enumerate(([A], [A, B], [C]), 2):
            said = await a.change(vips)
            assert (said.state, said.code) == (State.DONE, "done")
            assert said.version.generation == number
            assert a.vips == b.vips == vips


@looped
async def test_each_node_tells_how_long_its_changes_waited_for_what(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await a.change([A])
        await until(lambda: "all" in a.desk.took and "commit" in b.desk.took, "they told")
        counts = {what: sum(taken.counts) for what, taken in a.desk.took.items()}
        # What goes on beside something else is waited for only if it is the slower of the two: on
        # the primary the journal beside the check, and the agent beside the peer and the store; on
        # the secondary the check, which was begun when the change was foretold.
        for what in ("journal", "apply"):
            counts.pop(what, None)
        assert counts == dict.fromkeys(("check", "peer", "commit", "all"), 1)
        assert sorted({*b.desk.took} - {"check"}) == ["apply", "commit", "journal"]
        whole = a.desk.took.pop("all").sum_ns or 0
        parts = sum(taken.sum_ns or 0 for taken in a.desk.took.values())
        assert 0 < parts <= whole


@looped
async def test_one_given_on_the_secondary_is_done_by_the_primary(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        assert (await b.change([A])).state is State.DONE
        assert a.vips == b.vips == [A]
        said = await b.change([B], local=True)
        assert (said.state, said.code) == (State.REFUSED, "local")
        assert a.vips == b.vips == [A]


@looped
async def test_what_one_agent_refuses_is_on_neither(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        b.refuse = lambda tables: "no" if tables["vrid"]["51"]["vips"] == [A] else ""
        said = await a.change([A])
        assert (said.state, said.code) == (State.REFUSED, "peer_invalid")
        assert [problem.right for problem in said.problems] == ["no"]
        b.refuse, a.refuse = a.refuse, b.refuse
        said = await a.change([A])
        assert (said.state, said.code) == (State.REFUSED, "invalid")
        assert a.vips == b.vips == SEED["vrid"]["51"]["vips"]
        assert (await a.change([B])).state is State.DONE


@looped
async def test_without_the_peer_it_is_done_alone_and_repaired_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with working(tmp_path) as (a, b):
        await b.stop()
        said = await a.change([A], strict=True, timeout_ns=1_000_000_000)
        assert (said.state, said.code) == (State.REFUSED, "peer_unreachable")
        said = await a.change([A])
        assert said.state is State.ALONE
        assert (a.vips, b.vips) == ([A], SEED["vrid"]["51"]["vips"])
        assert not (await a.view()).report.in_step
        b.start()
        await in_step(a, b)
        assert b.vips == [A]


@looped
async def test_a_request_is_done_once_however_often_it_is_made(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        first = await a.change([A], request="mine")
        await a.change([B])
        assert (await a.change([A], request="mine")).version == first.version
        await a.stop()
        a.start()
        await in_step(a, b)
        for site in (a, b):
            assert (await site.change([A], request="mine")).version == first.version
        assert a.vips == b.vips == [B]


@looped
async def test_who_hangs_up_takes_no_change_with_them(tmp_path: Path) -> None:
    async with working(tmp_path) as sites:
        row = {"id": 51, "interface": "lan0", "vips": [A]}
        put = Put(section="vrid", identity="51", row=row)
        body = msgspec.json.encode({"request": "gone", "wish": Edit(changes=(put,))})
        head = f"POST /v1/change HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        socket = str(sites[0].root / "run" / "sync.sock")
        _, writer = await asyncio.open_unix_connection(socket)
        writer.write(head.encode() + body)
        writer.close()
        await until(lambda: all(site.vips == [A] for site in sites), "the change")


@looped
async def test_a_request_id_is_that_of_one_command(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        met = await asyncio.gather(a.change([A], request="met"), a.change([B], request="met"))
        assert sorted(said.code for said in met) == ["done", "id_used"]
        first = await a.change([C], request="mine")
        said = await b.change([B], request="mine")
        assert (said.state, said.code) == (State.REFUSED, "id_used")
        assert "mine" in said.sentence
        await a.stop()
        a.start()
        await in_step(a, b)
        assert (await a.change([B], request="mine")).code == "id_used"
        assert (await a.change([C], request="mine")).version == first.version
        assert a.vips == b.vips == [C]


@looped
async def test_an_agent_that_lost_its_copy_gets_it_again(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await a.change([A])
        await b.desk.close()
        b.document = None
        await until(lambda: not b.desk.alive, "it noticed")
        await b.desk.listen()
        await until(lambda: b.document is not None, "it has it again")
        assert b.vips == [A]


@looped
async def test_a_store_that_was_lost_goes_on_from_what_is_in_force(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await a.change([A])
        for site in (a, b):
            await site.stop()
            for file in (site.root / "state").glob("shared.db*"):
                file.unlink()
            site.tables = {}
        a.start()
        b.start()
        await in_step(a, b)
        assert a.vips == b.vips == [A]
        assert (await a.change([B])).state is State.DONE
        assert a.vips == b.vips == [B]


@looped
async def test_the_secondary_that_takes_over_rules(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await a.change([A])
        a.primary, b.primary, b.term, a.term = False, True, 7, 7
        a.desk.tell()
        b.desk.tell()
        await until(lambda: (b.desk.report or b.desk).state == "enabled", "b is primary")  # type: ignore[union-attr]
        said = await b.change([B])
        assert (said.state, said.version.term) == (State.DONE, 7)
        assert a.vips == b.vips == [B]


@looped
async def test_without_pairing_and_commands_the_file_says_everything(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, _):
        a.folder.distrust()
        a.start()
        await until(lambda: a.desk.report is not None, "the worker is there")
        view = await a.view()
        assert view.report.state == "idle"
        assert a.document is None
        first = msgspec.json.decode((await a.ask("/v1/document")).body, type=Document)
        assert (first.version.generation, first.tables) == (0, SEED)
        assert (await a.change([A])).state is State.ALONE
        assert a.vips == [A]


@looped
async def test_an_operator_reads_what_was_and_what_the_other_node_has(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await a.change([A], reason="first")
        await a.change([B])
        answer = await a.ask("/v1/document?generation=2")
        assert msgspec.json.decode(answer.body, type=Document).reason == "first"
        assert (await a.ask("/v1/document?generation=99")).status == 404
        for target in ("document?generation", "document?backup", "generations?limit"):
            for wrong in ("x", "-1", f"{1 << 32}", f"{1:09}{1 << 32}", f"{1:09}{0:05000}"):
                assert (await a.ask(f"/v1/{target}={wrong}")).status == 400, (target, wrong)
        there = await a.ask("/v1/peer?what=/v1/document&generation=2")
        assert msgspec.json.decode(there.body, type=Document).reason == "first"
        for target, seeds in (("/v1/generations", 1), ("/v1/peer?what=/v1/generations", 2)):
            views = msgspec.json.decode((await a.ask(target)).body, type=Views).documents
            assert [view.generation for view in views] == [3, 2] + [1] * seeds
            assert [view.current for view in views] == [True] + [False] * (1 + seeds)
        assert (await a.ask("/v1/peer?what=/v1/change")).status == 400
        # The agent of the other node listens nowhere.
        assert (await a.ask("/v1/peer?what=/v1/status")).status == 503
        await b.stop()
        assert (await a.ask("/v1/peer?what=/v1/sync")).status == 503


@looped
async def test_what_is_too_large_to_be_told_is_said_so_at_once(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        assert b.worker is not None

        async def huge(_: str) -> tuple[int, bytes]:
            return 200, bytes(ANSWER_MAX + 1)

        b.worker._line._read = huge
        answer = await a.ask("/v1/peer?what=/v1/files")
        assert (answer.status, b"too large" in answer.body) == (413, True)
        assert (await a.view()).report.in_step, "it ended no session"


@looped
async def test_a_question_too_long_for_the_peer_is_refused_here(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, _):
        asked = "/v1/document?generation="
        digits = "0" * (TARGET_MAX - len(asked))
        for number, why in ((digits, b"is a number"), (digits + "0", b"256 characters at most")):
            answer = await a.ask(f"/v1/peer?what=/v1/document&generation={number}")
            assert (answer.status, why in answer.body) == (400, True)
        assert (await a.view()).report.in_step, "it ended no session"


@looped
async def test_a_defect_in_an_answer_is_told_to_the_other_node(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        assert b.worker is not None

        async def broken(_: Request) -> Response:
            raise ZeroDivisionError

        b.worker._door._reads["/v1/files"] = broken
        answer = await a.ask("/v1/peer?what=/v1/files")
        assert (answer.status, b'"defect"' in answer.body) == (500, True)
        assert (await a.view()).report.in_step, "it ended no session"


@looped
async def test_the_other_node_can_read_and_not_command(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        assert a.worker is not None
        asked: list[Request] = []

        async def note(request: Request) -> Response:
            asked.append(request)
            return Response()

        routes = {("GET", "/v1/status"): note, ("POST", "/v1/pause"): note}
        daemon = HttpServer(routes)
        await daemon.listen(unix_socket(str(b.root / "run" / "control.sock")))
        try:
            assert await a.worker._line.read_peer("/v1/status?x=1") == (200, b"")
            smuggled = "/v1/status HTTP/1.1\r\n\r\nPOST /v1/pause"
            for wrong in (smuggled, smuggled.replace("status", "status?"), "/v1/status?\u00e9"):
                answer = await a.worker._line.read_peer(wrong)
                assert answer is not None
                assert answer[0] in {400, 404}, wrong
        finally:
            await daemon.close()
        assert [request.method for request in asked] == ["GET"]


@looped
async def test_two_pairs_do_not_touch_each_other_until_one_gives_up(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        await a.change([A])
        await b.stop()
        for file in (b.root / "state").glob("shared.db*"):
            file.unlink()
        b.document = None
        other = tmp_path / "other"
        other.mkdir()
        async with working(other) as (_, stranger):
            await stranger.stop()
            store = b.root / "state" / "shared.db"
            store.write_bytes((stranger.root / "state" / "shared.db").read_bytes())
        b.start()
        await until(
            lambda: b.desk.report is not None and b.desk.report.state == "lineage-conflict",
            "they see it",
        )
        assert a.vips == [A]
        refused = await a.change([B], strict=True, timeout_ns=1_000_000_000)
        assert refused.state is State.REFUSED
        said = await b.post("/v1/sync", ForceSync(adopt=True))
        assert msgspec.json.decode(said.body, type=Said).code == ""
        await in_step(a, b)
        assert b.vips == [A]
        kept = msgspec.json.decode((await b.ask("/v1/backups")).body, type=Views).documents
        assert kept[0].backup > 0
        assert kept[0].lineage != a.lineage
        said = await b.post("/v1/sync", ForceSync(adopt=True))
        assert msgspec.json.decode(said.body, type=Said).code == "nothing_to_adopt"


@looped
async def test_settings_of_a_node_take_effect_at_once(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        b.settings = msgspec.structs.replace(b.settings, enabled=False, propagation=False)
        b.desk.introduce()
        await until(
            lambda: a.desk.report is not None and a.desk.report.state == "disabled", "a knows"
        )
        assert (await a.change([A])).state is State.ALONE
        b.settings = msgspec.structs.replace(b.settings, enabled=True, propagation=True)
        b.desk.introduce()
        await in_step(a, b)
        assert b.vips == [A]


@looped
async def test_a_certificate_that_is_due_is_renewed_by_itself(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b):
        for site in (a, b):
            site.folder.distrust()
            site.folder.remove_own()
        a.folder.make_own("a", time.time() - 800 * 86400)
        b.folder.make_own("b", time.time())
        introduce(a.folder, b.folder)
        old, kept = certificate(a.folder), certificate(b.folder)
        a.start()
        b.start()
        await until(lambda: certificate(a.folder) != old, "it has another one")
        await in_step(a, b)
        now = certificate(a.folder)
        assert not now.is_due(time.time())
        assert now in b.folder.trusted()
        assert certificate(b.folder) == kept, "that one isn't due"


@looped
async def test_a_fault_of_the_agent_is_a_refusal_and_counted(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):

        def fault(_: Tables) -> str:
            raise TypeError("a fault of ours")

        a.refuse = fault
        said = await a.change([A])
        assert (said.state, said.code) == (State.REFUSED, "invalid")
        assert "failed unexpectedly (TypeError)" in said.problems[0].right
        assert a.desk.counts["failed"] == 1
        assert a.vips == b.vips == SEED["vrid"]["51"]["vips"]
        a.refuse = lambda _: ""
        assert (await a.change([A])).state is State.DONE
        assert a.desk.counts["hung_up"] == 0


@looped
async def test_a_worker_that_talks_nonsense_is_hung_up_on(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, _):
        path = str(a.root / "run" / "worker.sock")
        for nonsense in (b"{}\n", b'{"type":"beat"}\n', b'{"type":"check","id":-1,"tables":{}}\n'):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(nonsense)
            assert await reader.read() == b""
            writer.close()
        assert a.desk.counts["hung_up"] == 3
        a.start()
        await until(lambda: a.desk.alive, "a right one is welcome")


@looped
async def test_another_worker_takes_the_place_of_one_that_hangs(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, _):
        reader, writer = await asyncio.open_unix_connection(str(a.root / "run" / "worker.sock"))
        writer.write(b'{"type":"beat","pid":1,"version":"0"}\n')
        await until(lambda: a.desk.alive, "it is there")
        a.start()
        await until(lambda: a.desk.report is not None, "the new one reports")
        assert await asyncio.wait_for(reader.read(), 60) is not None
        writer.close()


@looped
async def test_what_is_no_request_is_refused(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, _):
        assert (await a.post("/v1/change", {"request": "x"})).status == 400
        assert (await a.post("/v1/sync", {"adopt": 5})).status == 400
        assert (await a.ask("/v1/nothing")).status == 404


@looped
async def test_a_disk_that_refuses_is_told_of(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, _):
        a.root.joinpath("state").write_text("in the way")
        a.start()
        await until(
            lambda: a.desk.report is not None and a.desk.report.refusals.get("store"),
            "it is counted",
        )
        said = await a.change([A])
        assert (said.state, said.code) == (State.REFUSED, "store")
        assert isinstance(a.worker, Worker)
        a.root.joinpath("state").unlink()
        await until(lambda: a.document is not None, "it begins when it can")


@looped
async def test_a_command_of_the_configuration_is_run_on_both(tmp_path: Path) -> None:
    async with working(tmp_path) as (a, b):
        row = {"name": "tell", "argv": ["/bin/sh", "-c", 'echo "$TWINBEAT_NODE $0"; exit {1}', "x"]}
        put = Put(section="command", identity="tell", row=row)
        assert (await a.ask_for(Edit(changes=(put,)))).state is State.DONE
        said = await b.ask_for(Run(command="tell", arguments=("0",)))
        assert (said.state, said.code) == (State.DONE, "done")
        assert {(one.node, one.status, one.text) for one in said.outputs} == {
            ("a", 0, "a x\n"),
            ("b", 0, "b x\n"),
        }
        said = await a.ask_for(Run(command="tell", arguments=("3",)))
        assert said.state in {State.REFUSED, State.PARTLY}
        assert [one.status for one in said.outputs] == [3]
        said = await a.ask_for(Run(command="none"))
        assert (said.state, said.code) == (State.REFUSED, "invalid")
        assert said.problems[0].where == "command none"
