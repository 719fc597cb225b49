# SPDX-License-Identifier: Apache-2.0
"""Entries of proxies: what may be asked, within which bounds; and the client."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from twinbeat.sessions import proxy
from twinbeat.sessions.client import BULK_MOST, Sessions, SessionsError
from twinbeat.sessions.entries import Refused, Store
from twinbeat.sessions.rules import KEY_MOST, Persistence
from twinbeat.worker.proxies import Proxies

S = 1_000_000_000
APP = Persistence(name="app", kind="opaque", timeout_s=100, limit=5000)
WEB = Persistence(name="web", kind="source", vips=("10.77.0.10",), pool="servers")


def store() -> Store:
    made = Store()
    made.configure([APP, WEB])
    return made


def ask(held: Store, what: str, now_s: int = 0, *, primary: bool = True, **fields: Any) -> Any:
    """As a proxy does it, in JSON."""
    body = json.dumps({"rule": "app", **fields}).encode()
    return proxy.answer(held, proxy.read(what, body), now_s * S, primary=primary)


def text(key: bytes | str) -> str:
    return base64.b64encode(key.encode() if isinstance(key, str) else key).decode()


def new(key: str, server: str = "s1", **more: int) -> dict[str, Any]:
    return {"key": text(key), "server": server, **more}


# -- what may be asked ---------------------------------------------------------------------------


def test_entries_are_put_found_prolonged_and_removed() -> None:
    held = store()
    put = ask(held, "put", entries=[new("a"), new("b", "s2", lifetime_ms=5000)])
    assert [(each.server, each.remaining_ms) for each in put.entries] == [
        ("s1", 100_000),
        ("s2", 5000),
    ]
    keys = [text("a"), text("b"), text("c")]
    found = ask(held, "get", 4, keys=keys).entries
    assert [each and (each.server, each.remaining_ms) for each in found] == [
        ("s1", 96_000),
        ("s2", 1000),
        None,
    ]
    touched = ask(held, "touch", 4, keys=keys).entries
    assert [each and each.remaining_ms for each in touched] == [100_000, 100_000, None]
    assert ask(held, "touch", 4, keys=[text("b")], lifetime_ms=1000).entries[0].remaining_ms == 1000
    assert ask(held, "get", 6, keys=keys).entries[1:] == (None, None)
    assert ask(held, "delete", 6, keys=keys).deleted == (True, False, False)
    assert ask(held, "list", 6).entries == ()


def test_a_list_comes_in_pages() -> None:
    held = store()
    ask(held, "put", entries=[new(f"k{number}") for number in range(7)])
    first = ask(held, "list", limit=4)
    assert [each.key for each in first.entries] == [b"k0", b"k1", b"k2", b"k3"]
    second = ask(held, "list", limit=4, after=text(first.after))
    assert [each.key for each in second.entries] == [b"k4", b"k5", b"k6"]
    assert second.after == b""


@pytest.mark.parametrize(
    ("what", "fields", "code"),
    [
        ("put", {"entries": []}, "bad_request"),
        ("put", {"entries": [new("")]}, "bad_request"),
        ("put", {"entries": [new("k" * (KEY_MOST + 1))]}, "bad_request"),
        ("put", {"entries": [new("k", "")]}, "bad_request"),
        ("put", {"entries": [new("k", "s" * (KEY_MOST + 1))]}, "bad_request"),
        ("put", {"entries": [new("good"), new("k", "é" * KEY_MOST)]}, "bad_server"),
        ("put", {"entries": [new("k", lifetime_ms=0)]}, "bad_request"),
        ("put", {"entries": [new("k")] * (proxy.BULK_MOST + 1)}, "bad_request"),
        ("put", {"entries": [{"key": "not base64!", "server": "s1"}]}, "bad_request"),
        ("put", {"entries": [new("k") | {"sever": "s1"}]}, "bad_request"),
        ("put", {"entries": [new("k")], "rule": "gone"}, "unknown_rule"),
        ("put", {"entries": [new("k")], "rule": "web"}, "not_opaque"),
        ("get", {"keys": []}, "bad_request"),
        ("get", {"keys": [text("k")] * (proxy.BULK_MOST + 1)}, "bad_request"),
        ("get", {"keys": text("k")}, "bad_request"),
        ("list", {"limit": 0}, "bad_request"),
        ("list", {"limit": proxy.BULK_MOST + 1}, "bad_request"),
        ("touch", {"keys": [text("k")], "rule": "web"}, "not_opaque"),
        ("delete", {"keys": [text("k")], "rule": "web"}, "not_opaque"),
    ],
)
def test_what_is_wrong_is_refused_as_a_whole(what: str, fields: dict[str, Any], code: str) -> None:
    held = store()
    ask(held, "put", entries=[new("before")])
    with pytest.raises(Refused) as refused:
        ask(held, what, **fields)
    assert refused.value.code == code
    assert str(refused.value)
    assert [each.key for each in ask(held, "list").entries] == [b"before"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"rule": 5}'])
def test_nonsense_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        proxy.read("put", body)
    assert refused.value.code == "bad_request"


def test_only_the_primary_s_entries_change() -> None:
    held = store()
    ask(held, "put", entries=[new("a")])
    keys: dict[str, Any] = {"keys": [text("a")]}
    for what, fields in (("put", {"entries": [new("b")]}), ("touch", keys), ("delete", keys)):
        with pytest.raises(Refused) as refused:
            ask(held, what, primary=False, **fields)
        assert refused.value.code == "not_primary"
    assert ask(held, "get", primary=False, keys=[text("a")]).entries[0].server == "s1"
    assert len(ask(held, "list", primary=False).entries) == 1


# -- over the socket, by the client --------------------------------------------------------------


@asynccontextmanager
async def served(tmp_path: Path, *, primary: bool = True) -> AsyncIterator[tuple[Proxies, str]]:
    path = tmp_path / "sessions.sock"
    proxies = Proxies(store(), lambda: primary)
    await proxies.listen(path)
    try:
        yield proxies, str(path)
    finally:
        await proxies.close()


def within(tmp_path: Path, use: Callable[[str], None], *, primary: bool = True) -> Proxies:
    """Run a proxy's code, which waits, against the socket; what was counted meanwhile."""

    async def both() -> Proxies:
        async with served(tmp_path, primary=primary) as (proxies, path):
            await asyncio.to_thread(use, path)
            return proxies

    return asyncio.run(both())


def test_the_client_does_it_all(tmp_path: Path) -> None:
    many = {f"cookie-{number:05}": f"s{number % 3}" for number in range(2 * BULK_MOST + 1)}

    def use(path: str) -> None:
        with Sessions("app", path=path) as sessions:
            assert sessions.get("cookie") is None
            sessions.put({"cookie": "s1", b"\x00\xff": "s2"}, lifetime_s=10)
            assert sessions.get_many(["cookie", b"\x00\xff", "none"]) == ["s1", "s2", None]
            assert sessions.touch(["cookie", "none"]) == [True, False]
            remaining = {bound.key: bound.remaining_s for bound in sessions.list()}
            assert 90 < remaining[b"cookie"] <= 100
            assert 5 < remaining[b"\x00\xff"] <= 10
            assert sessions.delete(["cookie", b"\x00\xff", "none"]) == [True, True, False]
            sessions.put(many)
            assert {each.key.decode(): each.server for each in sessions.list()} == many
            assert sessions.get_many(many) == list(many.values())

    counts = within(tmp_path, use).counts
    assert counts["proxy_put"] == len(many) + 2
    assert counts["proxy_refused"] == 0
    assert not (tmp_path / "sessions.sock").stat().st_mode & 0o007


def test_the_client_says_why_it_was_refused(tmp_path: Path) -> None:
    def use(path: str) -> None:
        with Sessions("gone", path=path) as sessions:
            with pytest.raises(SessionsError, match="there is no persistence 'gone'") as refused:
                sessions.get("a")
            assert refused.value.code == "unknown_rule"
        with Sessions("app", path=path) as sessions:
            with pytest.raises(SessionsError) as refused:
                sessions.put({"a": "s1"})
            assert refused.value.code == "not_primary"

    assert within(tmp_path, use, primary=False).counts["proxy_refused"] == 2


def test_nobody_there_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(SessionsError, match="can't be asked") as refused:
        Sessions("app", path=str(tmp_path / "none.sock")).get("a")
    assert refused.value.code == "away"


def test_a_client_goes_on_when_the_worker_comes_again(tmp_path: Path) -> None:
    async def use() -> None:
        sessions = Sessions("app", path=str(tmp_path / "sessions.sock"))
        async with served(tmp_path):
            await asyncio.to_thread(sessions.put, {"a": "s1"})
        with pytest.raises(SessionsError):
            await asyncio.to_thread(sessions.get, "a")
        async with served(tmp_path):
            assert await asyncio.to_thread(sessions.get, "a") is None
            kept = sessions
        async with served(tmp_path):
            assert await asyncio.to_thread(kept.get, "a") is None
        sessions.close()

    asyncio.run(use())


def test_what_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    def use(path: str) -> None:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(path)
        connection.putrequest("POST", "/v1/put")
        connection.putheader("Content-Length", str(proxy.BODY_MAX + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()

    within(tmp_path, use)
