# SPDX-License-Identifier: Apache-2.0
"""The witness against a real etcd, and against servers that lie, hang and drip."""

import asyncio
import base64
import functools
import http.server
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twinbeat.core.witness import TERMS_HONEST, Answer, Question, Verdict
from twinbeat.witness.base import WitnessError
from twinbeat.witness.etcd import Access, Etcd
from twinbeat.witness.keeping import Keeping
from unit.witness_servers import (
    LOOK,
    FaultyServer,
    claim,
    client,
    confirm,
    faulty_server,
    respond,
    running_etcd,
)
from unit.witness_servers import etcd as lab_etcd

Handler = http.server.BaseHTTPRequestHandler


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> lab_etcd.Papers:
    return lab_etcd.make_papers(tmp_path_factory.mktemp("papers"), ["127.0.0.1"])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, papers: lab_etcd.Papers) -> Iterator[str]:
    with running_etcd(tmp_path_factory.mktemp("etcd"), papers) as found:
        yield found


def ask(witness: Etcd, *questions: Question) -> list[Answer]:
    async def all_of_them() -> list[Answer]:
        try:
            return [await witness.ask(question) for question in questions]
        finally:
            await witness.close()

    return asyncio.run(all_of_them())


def verdicts(answers: list[Answer]) -> list[str]:
    return [answer.verdict.value for answer in answers]


# -- a real etcd -----------------------------------------------------------------------------------


def keeping(pair: int, node: str = "a") -> Keeping:
    return Keeping(prefix="/twinbeat/", pair=pair, node=node)


def at(papers: lab_etcd.Papers, url: str, pair: int, node: str = "a") -> Etcd:
    witness = client(papers, url)
    witness._keeping = keeping(pair, node)
    return witness


def test_the_higher_term_is_kept(papers: lab_etcd.Papers, url: str) -> None:
    answers = ask(
        at(papers, url, 1), LOOK, claim(4), confirm(4), claim(3), confirm(3), claim(11), confirm(4)
    )
    assert verdicts(answers) == [
        *("granted", "granted", "granted", "denied", "denied", "granted", "denied"),
    ]
    assert [answer.kept for answer in answers] == [0, 4, 4, 4, 4, 11, 11]
    for answer in answers:
        assert answer.sent_ns < answer.done_ns


def test_terms_are_compared_as_numbers(papers: lab_etcd.Papers, url: str) -> None:
    """9 against 10, and one with more digits than any other."""
    huge = (1 << 62) - 1
    far = [replace(claim(term), term_max=huge) for term in (huge, 10)]
    answers = ask(at(papers, url, 2), claim(9), claim(10), claim(9), *far)
    assert verdicts(answers) == ["granted", "granted", "denied", "granted", "denied"]
    assert answers[-1].kept == huge


def test_a_claim_whose_answer_was_lost_may_be_repeated(papers: lab_etcd.Papers, url: str) -> None:
    assert verdicts(ask(at(papers, url, 3), claim(8), claim(8))) == ["granted", "granted"]


def test_signs_of_life_are_seen_and_confirmations_write_nothing(
    papers: lab_etcd.Papers, url: str
) -> None:
    first, quiet, marked, seen = ask(
        at(papers, url, 4), claim(8), confirm(8), confirm(8, mark=True), LOOK
    )
    assert first.life == quiet.life < marked.life == seen.life


def test_a_mark_of_a_deposed_holder_writes_nothing(papers: lab_etcd.Papers, url: str) -> None:
    won, lost = ask(at(papers, url, 5), claim(9), confirm(8, mark=True))
    assert (lost.verdict, lost.life) == (Verdict.DENIED, won.life)


def test_a_claim_tells_what_it_took_the_place_of(papers: lab_etcd.Papers, url: str) -> None:
    answers = ask(at(papers, url, 10), claim(4), claim(8), claim(8), confirm(8), claim(6))
    assert [answer.before for answer in answers] == [0, 4, 0, 0, 0]


def test_pairs_have_keys_of_their_own(papers: lab_etcd.Papers, url: str) -> None:
    ask(at(papers, url, 6), claim(50))
    assert ask(at(papers, url, 60), LOOK)[0].kept == 0
    assert ask(at(papers, url, 6), LOOK)[0].kept == 50


def test_of_two_claimants_at_once_the_higher_stays(papers: lab_etcd.Papers, url: str) -> None:
    async def race() -> tuple[Answer, Answer, Answer]:
        a, b = at(papers, url, 7), at(papers, url, 7, "b")
        try:
            low, high = await asyncio.gather(a.ask(claim(20)), b.ask(claim(21)))
            return low, high, await a.ask(confirm(20))
        finally:
            await a.close()
            await b.close()

    _, high, after = asyncio.run(race())
    assert high.verdict is Verdict.GRANTED
    assert (after.verdict, after.kept) == (Verdict.DENIED, 21)


def test_foreign_values_are_no_answer(papers: lab_etcd.Papers, url: str) -> None:
    """Somebody else's program wrote to the key."""
    witness = at(papers, url, 8)
    foreign = Keeping(prefix="/twinbeat/", pair=8, node="a")
    key = base64.b64encode(foreign.term_key.encode()).decode()
    value = base64.b64encode(b"twelve").decode()
    put = {"compare": [], "success": [{"requestPut": {"key": key, "value": value}}]}
    asyncio.run(witness._members[0].post(json.dumps(put).encode(), 2.0))
    for answer in ask(witness, LOOK, confirm(8)):
        assert answer.verdict is Verdict.SILENT
        assert "not an answer" in answer.why


def test_a_server_of_another_authority_is_not_believed(url: str, tmp_path: Path) -> None:
    strange = lab_etcd.make_papers(tmp_path, ["127.0.0.1"])
    (answer,) = ask(client(strange, url), claim(100))
    assert answer.verdict is Verdict.SILENT
    assert "certificate verify failed" in answer.why


def test_a_server_under_another_name_is_not_believed(papers: lab_etcd.Papers, url: str) -> None:
    (answer,) = ask(client(papers, url.replace("127.0.0.1", "localhost")), claim(100))
    assert answer.verdict is Verdict.SILENT
    assert "localhost" in answer.why


def test_without_a_certificate_of_its_own_a_node_is_not_served(
    papers: lab_etcd.Papers, url: str
) -> None:
    access = Access(endpoints=(url,), ca_file=str(papers.ca))
    witness = Etcd(access, keeping(9), now_ns=time.monotonic_ns, patience_ns=10**9, try_ns=10**9)
    assert verdicts(ask(witness, claim(2))) == ["silent"]


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    nonsense = tmp_path / "ca.crt"
    nonsense.write_text("no certificate\n")
    for ca in (nonsense, tmp_path / "missing.crt"):
        with pytest.raises(WitnessError, match=ca.name):
            Etcd(
                Access(endpoints=("https://127.0.0.1:1",), ca_file=str(ca)),
                keeping(1),
                now_ns=time.monotonic_ns,
                patience_ns=1,
                try_ns=1,
            )


def test_the_next_member_answers_for_one_that_is_gone(papers: lab_etcd.Papers, url: str) -> None:
    """And is asked first from then on."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gone = f"https://127.0.0.1:{closed.getsockname()[1]}"
        witness = client(papers, gone, url)
        assert verdicts(ask(witness, LOOK, LOOK)) == ["granted", "granted"]
    assert witness.tally.results["unanswered"] == 1
    assert witness.tally.results["looked"] == 2


# -- servers that fail -----------------------------------------------------------------------------


def hang(handler: Handler, body: bytes) -> None:
    """Take the question, and never say a word."""
    server = handler.server
    assert isinstance(server, FaultyServer)
    server.ended.wait(60)


def drip(handler: Handler, body: bytes) -> None:
    """A byte now and then: each read is answered in time, the whole never."""
    server = handler.server
    assert isinstance(server, FaultyServer)
    handler.send_response(200)
    handler.send_header("Content-Length", "60000")
    handler.end_headers()
    while not server.ended.wait(0.02):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def flood(handler: Handler, body: bytes) -> None:
    """Far more than any answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(1 << 30))
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 65536)


@pytest.mark.parametrize("behaviour", [hang, drip, flood])
def test_no_answer_comes_in_time(papers: lab_etcd.Papers, behaviour: Any) -> None:
    with faulty_server(papers, behaviour) as server:
        begun = time.monotonic()
        (answer,) = ask(client(papers, server.url, patience_ms=300, try_ms=300), claim(4))
        assert time.monotonic() - begun < 20
        assert len(server.asked) <= 1
    assert answer.verdict is Verdict.SILENT
    assert answer.done_ns - answer.sent_ns < 20_000_000_000


def test_a_member_that_hangs_holds_up_no_other(papers: lab_etcd.Papers, url: str) -> None:
    with faulty_server(papers, hang) as server:
        witness = client(papers, server.url, url, patience_ms=10_000, try_ms=1000)
        # The server that answers names the cluster; a second question finds the first one hanging
        # or asks the member that answered: either way it is answered.
        answers = ask(witness, LOOK, LOOK)
    assert verdicts(answers) == ["granted", "granted"]
    assert witness.tally.results["unanswered"] == 1


def test_while_it_hangs_it_is_not_asked_again(papers: lab_etcd.Papers) -> None:
    def drip_head(handler: Handler, body: bytes) -> None:
        """Not even the head comes to an end, so the thread in which it is waited for stays."""
        server = handler.server
        assert isinstance(server, FaultyServer)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not server.ended.wait(0.02):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    with faulty_server(papers, drip_head) as server:
        answers = ask(client(papers, server.url, patience_ms=2000, try_ms=2000), LOOK, LOOK)
        assert len(server.asked) == 1
    assert verdicts(answers) == ["silent", "silent"]
    assert "still hangs" in answers[1].why


def header(revision: int = 5, cluster: str = "77") -> dict[str, Any]:
    return {"cluster_id": cluster, "member_id": "1", "revision": str(revision), "raft_term": "2"}


def kvs(term: int, life: int = 5) -> dict[str, Any]:
    key = base64.b64encode(keeping(1).term_key.encode()).decode()
    value = base64.b64encode(f"{term:020d}".encode()).decode()
    return {"response_range": {"kvs": [{"key": key, "value": value, "mod_revision": str(life)}]}}


def answer_of(term: int, *, succeeded: bool, **head: Any) -> bytes:
    body = {"header": header(**head), "succeeded": succeeded, "responses": [kvs(term)]}
    return json.dumps(body).encode()


def claimed_of(term: int, *, succeeded: bool) -> bytes:
    puts = [{"response_put": {}}] * 2 if succeeded else []
    inner = {"succeeded": succeeded, "responses": [*puts, kvs(term)]}
    body = {"header": header(), "responses": [{"response_txn": inner}]}
    return json.dumps(body).encode()


LIES = {
    "yes, but another term is kept": (confirm(4), answer_of(6, succeeded=True)),
    "no, but it is kept": (confirm(4), answer_of(4, succeeded=False)),
    "claimed, but a lower one is kept": (claim(4), claimed_of(2, succeeded=True)),
    "claimed, but a higher one is kept": (claim(4), claimed_of(8, succeeded=True)),
    "not claimed, though a lower one was kept": (claim(4), claimed_of(2, succeeded=False)),
    "yes, and nothing else": (confirm(4), b'{"succeeded": true}'),
    "yes as a text": (confirm(4), answer_of(4, succeeded=True).replace(b"true", b'"true"')),
    "a term no pair gets to": (LOOK, answer_of(1 << 63, succeeded=True)),
    "a term that no history explains": (LOOK, answer_of(TERMS_HONEST + 1, succeeded=True)),
    "denied for such a term": (confirm(4), answer_of((1 << 62) - 1, succeeded=False)),
    "claimed after such a term": (
        claim(TERMS_HONEST + 1),
        claimed_of(TERMS_HONEST + 1, succeeded=True),
    ),
    "no JSON": (confirm(4), b"<html>maintenance</html>"),
    "a list": (confirm(4), b"[]"),
    "null": (claim(4), b"null"),
    "not UTF-8": (claim(4), b"\xff\xfe"),
    "deep": (claim(4), b"[" * 50_000),
    "a revision without end": (
        confirm(4),
        answer_of(4, succeeded=True).replace(b'"revision": "5"', b'"revision": 1e999'),
    ),
    "a life without end": (
        LOOK,
        answer_of(4, succeeded=True).replace(b'"mod_revision": "5"', b'"mod_revision": 1e999'),
    ),
    "a revision of more than 64 bits": (confirm(4), answer_of(4, succeeded=True, revision=1 << 63)),
    "a name for a cluster": (confirm(4), answer_of(4, succeeded=True, cluster="c" * 60_000)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_no_answer(papers: lab_etcd.Papers, lie: str) -> None:
    question, body = LIES[lie]
    with faulty_server(papers, lambda handler, _: respond(handler, body)) as server:
        witness = client(papers, server.url)
        (answer,) = ask(witness, question)
    assert answer.verdict is Verdict.SILENT
    assert witness.tally.results["nonsense"] == 1


def test_the_same_truthfully_is_one(papers: lab_etcd.Papers) -> None:
    """What the lies are made of would be believed if it agreed with itself."""
    truths = iter([answer_of(4, succeeded=True), claimed_of(6, succeeded=True)])
    with faulty_server(papers, lambda handler, _: respond(handler, next(truths))) as server:
        assert verdicts(ask(client(papers, server.url), confirm(4), claim(6))) == ["granted"] * 2


def test_a_term_that_no_history_explains_is_named_and_one_that_does_is_believed(
    papers: lab_etcd.Papers,
) -> None:
    far = TERMS_HONEST + 5
    body = answer_of(far, succeeded=True)
    with faulty_server(papers, lambda handler, _: respond(handler, body)) as server:
        asked = client(papers, server.url)
        knowing = replace(LOOK, term_max=far)
        refused, believed = ask(asked, LOOK, knowing)
    assert f"it keeps term {far}, and this pair can't have got beyond {TERMS_HONEST}" in refused.why
    assert f"see who writes to {keeping(1).term_key}" in refused.why
    assert believed.kept == far


@pytest.mark.parametrize(
    ("second", "what"),
    [
        ({"cluster": "78"}, "cluster 78"),
        ({"revision": 4}, "went back from revision 5 to 4"),
    ],
)
def test_another_store_than_before_is_no_answer(
    papers: lab_etcd.Papers, second: dict[str, Any], what: str
) -> None:
    said = iter([answer_of(4, succeeded=True), answer_of(4, succeeded=True, **second)])
    with faulty_server(papers, lambda handler, _: respond(handler, next(said))) as server:
        first, later = ask(client(papers, server.url), confirm(4), confirm(4))
    assert first.verdict is Verdict.GRANTED
    assert later.verdict is Verdict.SILENT
    assert what in later.why


@pytest.mark.parametrize("status", [302, 400, 401, 404, 500, 503])
def test_an_error_is_no_answer(papers: lab_etcd.Papers, status: int) -> None:
    """Though its body would be a yes."""
    body = answer_of(4, succeeded=True)
    with faulty_server(
        papers, functools.partial(_respond_with, body=body, status=status)
    ) as server:
        witness = client(papers, server.url)
        (answer,) = ask(witness, confirm(4))
    assert answer.verdict is Verdict.SILENT
    assert f"HTTP {status}" in answer.why
    assert witness.tally.results["refused"] == 1


def _respond_with(handler: Handler, _: bytes, *, body: bytes, status: int) -> None:
    respond(handler, body, status)
