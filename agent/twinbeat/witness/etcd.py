# SPDX-License-Identifier: Apache-2.0
"""An etcd cluster as the witness, through the JSON gateway of its members.

Theory of operation
-------------------
One question is one transaction, asked of one member after the other until one answers or the time
is over. Each member has a connection that is kept, and a thread that does nothing else: what hangs
in it, a name that isn't resolved or a server that sends a byte now and then, holds up neither the
loop that decides nor the other members. A member whose thread still hangs is passed over.

Whatever can't be true is no answer: a transaction that contradicts what it read, another cluster
than before, a store that went backwards. So is everything that comes too late. A question may be
asked twice and a request may arrive long after its time: terms only grow, so it changes nothing.

The HTTP library is loaded by the first instance: an agent without a witness doesn't pay for it.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from twinbeat.core.witness import Answer, Question, Verdict
from twinbeat.witness.base import Tally, WitnessError, result_of
from twinbeat.witness.keeping import PATH, Keeping, Kept, NonsenseError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, HTTPSConnectionPool

ANSWER_MAX: Final = 64 * 1024
"""Bytes of an answer; a true one has less than one thousand."""
CHUNK: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the members are reached and known."""

    endpoints: tuple[str, ...]
    """https://HOST:PORT"""
    ca_file: str
    """The only authority that is trusted."""
    cert_file: str = ""
    """Own certificate, where the members ask for one."""
    key_file: str = ""


class UnansweredError(Exception):
    """A member gave no answer. `result` is what it counts as."""

    def __init__(self, result: str, why: str) -> None:
        super().__init__(why)
        self.result = result


class Etcd:
    """Implements `twinbeat.witness.base.Witness`."""

    def __init__(
        self,
        access: Access,
        keeping: Keeping,
        *,
        now_ns: Callable[[], int],
        patience_ns: int,
        try_ns: int,
    ) -> None:
        """A question is answered within `patience_ns`, a member within `try_ns` of it.

        Raises WitnessError for certificates that can't be used.
        """
        self._keeping = keeping
        self._now_ns = now_ns
        self._patience_ns = patience_ns
        self._try_ns = try_ns
        context = _tls(access)
        self._members = [_Member(url, context) for url in access.endpoints]
        self._first = 0
        """The member that is asked first: the one that answered last."""
        self.cluster = ""
        self._revision = 0
        self.tally = Tally()

    async def ask(self, question: Question) -> Answer:
        body = self._keeping.request(question)
        begun = self._now_ns()
        sent, why = begun, "no member is free"
        for member in self._in_turn():
            sent = self._now_ns()
            left = begun + self._patience_ns - sent
            if left <= 0:
                break
            if member.busy:
                why = f"{member.url} still hangs from an earlier request"
                continue
            try:
                answer = await self._ask_one(member, question, body, sent, min(left, self._try_ns))
            except UnansweredError as error:
                self.tally.count(error.result)
                why = f"{member.url}: {error}"
                continue
            self._first = self._members.index(member)
            self.tally.count(result_of(answer))
            self.tally.took(answer.done_ns - answer.sent_ns)
            return answer
        return Answer(
            question=question,
            verdict=Verdict.SILENT,
            sent_ns=sent,
            done_ns=self._now_ns(),
            why=why,
        )

    async def close(self) -> None:
        for member in self._members:
            member.close()

    def _in_turn(self) -> Sequence[_Member]:
        return self._members[self._first :] + self._members[: self._first]

    async def _ask_one(
        self, member: _Member, question: Question, body: bytes, sent_ns: int, within_ns: int
    ) -> Answer:
        raw = await member.post(body, within_ns / 1e9)
        done_ns = self._now_ns()
        try:
            kept = self._keeping.read(question, raw)
            self._check(kept)
        except NonsenseError as error:
            raise UnansweredError("nonsense", str(error)) from error
        return Answer(
            question=question,
            verdict=kept.verdict,
            sent_ns=sent_ns,
            done_ns=done_ns,
            kept=kept.term,
            before=kept.before,
            life=kept.life,
        )

    def _check(self, kept: Kept) -> None:
        """Two arbiters are none: all members belong to one cluster, and it forgets nothing."""
        if self.cluster and kept.cluster != self.cluster:
            raise NonsenseError(f"it belongs to cluster {kept.cluster}, others to {self.cluster}")
        if kept.revision < self._revision:
            raise NonsenseError(
                f"its store went back from revision {self._revision} to {kept.revision}"
            )
        self.cluster, self._revision = kept.cluster, kept.revision


class _Member:
    """One member: its connection, and the thread in which it is waited for."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        self.url = url
        self._context = context
        self._pool: HTTPSConnectionPool | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._running: Future[bytes] | None = None

    @property
    def busy(self) -> bool:
        return self._running is not None and not self._running.done()

    async def post(self, body: bytes, within_s: float) -> bytes:
        """The body of its answer. Raises UnansweredError, in time."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="witness")
        self._running = self._thread.submit(self._post, body, within_s)
        answer = asyncio.wrap_future(self._running)
        # What comes too late is not looked at; the thread goes on until its read ends.
        done, _ = await asyncio.wait({answer}, timeout=within_s)
        if not done:
            answer.cancel()
            raise UnansweredError("unanswered", f"no answer within {within_s * 1000:.0f} ms")
        return answer.result()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
        if self._pool is not None:
            self._pool.close()

    def _post(self, body: bytes, within_s: float) -> bytes:
        """In the thread. The library's timeout is that of single reads; the whole has one, too."""
        from urllib3.exceptions import HTTPError

        until = time.monotonic() + within_s
        try:
            if self._pool is None:
                self._pool = self._open()
            response = self._pool.urlopen(
                "POST",
                PATH,
                body=body,
                headers={"Content-Type": "application/json"},
                retries=False,
                redirect=False,
                timeout=within_s,
                preload_content=False,
                decode_content=False,
            )
            return _read(response, until)
        except (HTTPError, OSError) as error:
            raise UnansweredError("unanswered", _said(error)) from error

    def _open(self) -> HTTPSConnectionPool:
        from urllib3 import HTTPSConnectionPool

        parts = urlsplit(self.url)
        return HTTPSConnectionPool(
            parts.hostname or "", parts.port or 443, maxsize=1, ssl_context=self._context
        )


def _read(response: BaseHTTPResponse, until: float) -> bytes:
    """The whole of an answer that is short and comes in time; any other loses its connection."""
    whole = False
    found = b""
    try:
        while chunk := response.read1(CHUNK):
            found += chunk
            if len(found) > ANSWER_MAX:
                raise UnansweredError("nonsense", "an answer without end")
            if time.monotonic() > until:
                raise UnansweredError("unanswered", "an answer that takes for ever")
        whole = True
    finally:
        if not whole:
            response.close()
        response.release_conn()
    if response.status != 200:
        raise UnansweredError("refused", f"HTTP {response.status}: {_excerpt(found)}")
    return found


def _excerpt(body: bytes) -> str:
    """The beginning of an error's text, as far as it can be printed."""
    text = body[:120].decode(errors="replace")
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _said(error: Exception) -> str:
    """The library wraps what happened; the innermost says it best."""
    reason: object = getattr(error, "reason", None) or error
    return " ".join(str(reason).split())[:200] or type(error).__name__


def _tls(access: Access) -> ssl.SSLContext:
    """Raises WitnessError."""
    if not access.ca_file:
        raise WitnessError("no CA of the witness is named, and the host's are not trusted for it")
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise WitnessError(f"the witness' CA {access.ca_file} can't be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if access.cert_file:
        try:
            context.load_cert_chain(access.cert_file, access.key_file or None)
        except (OSError, ssl.SSLError) as error:
            raise WitnessError(
                f"the certificate {access.cert_file} can't be used with its key: {error}"
            ) from error
    return context
