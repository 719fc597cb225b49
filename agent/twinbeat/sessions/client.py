# SPDX-License-Identifier: Apache-2.0
"""A client for proxies that keep their own persistence here: the standard library alone.

    from twinbeat.sessions.client import Sessions

    with Sessions("app") as sessions:
        server = sessions.get("cookie-4711")
        if server is None:
            sessions.put({"cookie-4711": "s1"})

Keys are bytes or text, which is taken as UTF-8. One connection is kept and made anew where the
worker hung up. Not for several threads at a time.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple

SOCKET: Final = "/run/twinbeat-sessions/sessions.sock"
BULK_MOST: Final = 1000
"""Entries of one request; more are asked for in several."""

Key = bytes | str


class SessionsError(Exception):
    """The worker refused, or could not be asked; `code` says which it was."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        """away, or that of the refusal: starting, not_primary, unknown_rule, not_opaque, …"""


class Bound(NamedTuple):
    """An entry."""

    key: bytes
    server: str
    remaining_s: float


class Sessions:
    """The entries of one persistence rule of kind `opaque`."""

    def __init__(self, rule: str, *, path: str = SOCKET, timeout_s: float = 2.0) -> None:
        self._rule = rule
        self._connection = _Connection(path, timeout_s)

    def __enter__(self) -> Sessions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the next question connects again."""
        self._connection.close()

    def put(self, entries: Mapping[Key, str], *, lifetime_s: float | None = None) -> None:
        """Bind keys to servers, for the rule's timeout or less. Raises SessionsError; what came
        before the refused thousand is done."""
        new = [
            {"key": _text(key), "server": server, **_lifetime(lifetime_s)}
            for key, server in entries.items()
        ]
        for part in _parts(new):
            self._ask("put", entries=part)

    def get(self, key: Key) -> str | None:
        """The server of a key, or None."""
        return self.get_many([key])[0]

    def get_many(self, keys: Iterable[Key]) -> list[str | None]:
        """The server of each key, in their order."""
        return [each and each["server"] for each in self._of_each("get", keys)]

    def touch(self, keys: Iterable[Key], *, lifetime_s: float | None = None) -> list[bool]:
        """Prolong entries; which of them there are."""
        return [bool(each) for each in self._of_each("touch", keys, **_lifetime(lifetime_s))]

    def delete(self, keys: Iterable[Key]) -> list[bool]:
        """Remove entries; which of them there were. One that was asked for twice, as the worker had
        hung up in between, may be gone by the first time."""
        parts = _parts([_text(key) for key in keys])
        return [each for part in parts for each in self._ask("delete", keys=part)["deleted"]]

    def list(self) -> Iterator[Bound]:
        """All entries in the order of their keys, a thousand at a time: those that come or go
        meanwhile may be among them."""
        after = ""
        while True:
            page = self._ask("list", after=after)
            for each in page["entries"]:
                key = base64.b64decode(each["key"])
                yield Bound(key, each["server"], each["remaining_ms"] / 1000)
            after = page["after"]
            if not after:
                return

    def _of_each(self, what: str, keys: Iterable[Key], **more: Any) -> Iterator[Any]:
        for part in _parts([_text(key) for key in keys]):
            yield from self._ask(what, keys=part, **more)["entries"]

    def _ask(self, what: str, **fields: Any) -> dict[str, Any]:
        body = json.dumps({"rule": self._rule, **fields}).encode()
        status, answer = self._connection.post(f"/v1/{what}", body)
        try:
            said = json.loads(answer)
        except ValueError as error:
            raise SessionsError("away", f"the worker's answer makes no sense: {error}") from error
        if status != http.HTTPStatus.OK:
            raise SessionsError(str(said.get("code", status)), str(said.get("sentence", answer)))
        return dict(said)


class _Connection:
    """One connection, made when it is needed."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._http: http.client.HTTPConnection | None = None

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def post(self, target: str, body: bytes) -> tuple[int, bytes]:
        """Status and body. A connection that was kept may have been hung up on: then once more;
        every question may be asked twice."""
        kept = self._http is not None
        try:
            return self._post(target, body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not kept:
                raise self._away(error) from error
        try:
            return self._post(target, body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._away(error) from error

    def _post(self, target: str, body: bytes) -> tuple[int, bytes]:
        if self._http is None:
            self._http = http.client.HTTPConnection("localhost", timeout=self._timeout_s)
            self._http.sock = socket.socket(socket.AF_UNIX)
            self._http.sock.settimeout(self._timeout_s)
            self._http.sock.connect(self._path)
        self._http.request("POST", target, body, {"Content-Type": "application/json"})
        answer = self._http.getresponse()
        said = answer.status, answer.read()
        if answer.will_close:
            self.close()
        return said

    def _away(self, error: Exception) -> SessionsError:
        why = str(error) or type(error).__name__
        return SessionsError("away", f"{self._path} can't be asked: {why}")


def _text(key: Key) -> str:
    return base64.b64encode(key.encode() if isinstance(key, str) else key).decode("ascii")


def _lifetime(seconds: float | None) -> dict[str, int]:
    return {} if seconds is None else {"lifetime_ms": max(1, round(seconds * 1000))}


def _parts(whole: list[Any]) -> Iterator[list[Any]]:
    for begin in range(0, len(whole), BULK_MOST):
        yield whole[begin : begin + BULK_MOST]
