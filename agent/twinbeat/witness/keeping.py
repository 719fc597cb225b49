# SPDX-License-Identifier: Apache-2.0
"""What a pair keeps in etcd, as transactions of its JSON gateway and back.

Two keys below the pair's prefix: `term`, the highest term claimed, in decimal and padded with zeros
so that etcd's comparison of bytes is one of numbers; and `holder`, who claimed it, written again as
a sign of life. Every transaction reads both in the same breath: an answer that doesn't agree with
itself is told from a true one, and a transaction that reads is never served from a stale member.

It knows no network.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Final

from twinbeat.core.witness import Kind, Question, Verdict

PATH: Final = "/v3/kv/txn"
DIGITS: Final = 20
"""Of a 64-bit number."""
TERM_MAX: Final = 1 << 62
"""A kept term above it is nonsense: no pair gets there."""


class NonsenseError(Exception):
    """The answer can't be true; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What an answer says."""

    verdict: Verdict
    term: int
    before: int
    """The term that a claim took the place of; 0 = none, or it changed nothing."""
    life: int
    """Revision of the newest write to either key."""
    cluster: str
    revision: int
    """Of the whole store: it never goes backwards."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """The keys of one pair, and who asks."""

    prefix: str
    pair: int
    node: str

    @property
    def term_key(self) -> str:
        return f"{self.prefix}{self.pair}/term"

    @property
    def holder_key(self) -> str:
        return f"{self.prefix}{self.pair}/holder"

    def request(self, question: Question) -> bytes:
        """The body of the request."""
        term = _digits(question.term)
        reading = self._range()
        keeping = [
            _put(self.holder_key, self.node),
            _put(self.term_key, term, before=True),
            reading,
        ]
        match question.kind:
            case Kind.CLAIM:
                # Where no term is kept yet there is no value to compare with.
                lower = {
                    "compare": [_compare(self.term_key, "VALUE", "LESS", value=_b64(term))],
                    "success": keeping,
                    "failure": [reading],
                }
                txn = {
                    "compare": [_compare(self.term_key, "VERSION", "EQUAL", version="0")],
                    "success": keeping,
                    "failure": [{"requestTxn": lower}],
                }
            case Kind.CONFIRM:
                mark = [_put(self.holder_key, self.node)] if question.mark else []
                txn = {
                    "compare": [_compare(self.term_key, "VALUE", "EQUAL", value=_b64(term))],
                    "success": [*mark, reading],
                    "failure": [reading],
                }
            case Kind.LOOK:
                txn = {"compare": [], "success": [reading], "failure": []}
        return json.dumps(txn).encode()

    def read(self, question: Question, body: bytes) -> Kept:
        """What the answer says. Raises NonsenseError."""
        try:
            answer = json.loads(body)
            header = answer["header"]
            cluster = str(_below(1 << 64, header["cluster_id"]))
            revision = _below(1 << 63, header["revision"])
            inner = answer
            if question.kind is Kind.CLAIM and not _succeeded(answer):
                inner = _one(answer["responses"], "response_txn")
            found = _one(inner["responses"], "response_range")
            term, life = self._found(found.get("kvs", []))
            succeeded = _succeeded(inner)
            before = self._before(inner) if question.kind is Kind.CLAIM and succeeded else 0
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise NonsenseError(f"not an answer of etcd ({type(error).__name__})") from error
        if (most := max(term, before)) > question.term_max:
            raise NonsenseError(
                f"it keeps term {most}, and this pair can't have got beyond {question.term_max}: "
                f"see who writes to {self.term_key}, and delete it while the nodes hear each other"
            )
        return Kept(
            verdict=_verdict(question, succeeded=succeeded, kept=term),
            term=term,
            before=before,
            life=life,
            cluster=cluster,
            revision=revision,
        )

    def _range(self) -> dict[str, Any]:
        first = f"{self.prefix}{self.pair}/"
        # The end of a range is its first key's successor: "/" + 1 is "0".
        end = f"{first[:-1]}0"
        return {"requestRange": {"key": _b64(first), "rangeEnd": _b64(end)}}

    @staticmethod
    def _before(claimed: dict[str, Any]) -> int:
        """The term is written last, and read after that."""
        put = claimed["responses"][-2]["response_put"]
        return _number(put["prev_kv"]["value"]) if "prev_kv" in put else 0

    def _found(self, kvs: list[dict[str, Any]]) -> tuple[int, int]:
        term = life = 0
        for kv in kvs:
            key = _text(kv["key"])
            if key == self.term_key:
                term = _number(kv["value"])
            if key in {self.term_key, self.holder_key}:
                life = max(life, _below(1 << 63, kv["mod_revision"]))
        return term, life


def _verdict(question: Question, *, succeeded: bool, kept: int) -> Verdict:
    """Granted and denied have to agree with what was read in the same transaction."""
    match question.kind:
        case Kind.LOOK:
            return Verdict.GRANTED
        case Kind.CONFIRM:
            if succeeded is not (kept == question.term):
                raise NonsenseError(
                    f"it says {'yes' if succeeded else 'no'} to term {question.term} and keeps "
                    f"{kept}"
                )
        case Kind.CLAIM:
            if kept < question.term or (succeeded and kept != question.term):
                raise NonsenseError(f"after a claim of term {question.term} it keeps {kept}")
    # A claim whose first answer was lost finds its own term: no other node has that number.
    return Verdict.GRANTED if kept == question.term else Verdict.DENIED


def _succeeded(answer: dict[str, Any]) -> bool:
    found = answer.get("succeeded", False)
    if not isinstance(found, bool):
        raise TypeError("succeeded")
    return found


def _one(responses: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The response of a kind; it stands last, after those of writes."""
    found = responses[-1][name]
    if not isinstance(found, dict):
        raise TypeError(name)
    return found


def _number(encoded: str) -> int:
    value = _text(encoded)
    if len(value) != DIGITS or not (value.isascii() and value.isdecimal()):
        raise ValueError("not a term")
    if (term := int(value)) >= TERM_MAX:
        raise ValueError("no term is that high")
    return term


def _below(limit: int, number: Any) -> int:
    """A number of 64 bits, which JSON has as text. What none can be would be kept and shown."""
    if not isinstance(number, str | int):
        raise TypeError("number")
    if not 0 <= (found := int(number)) < limit:
        raise ValueError("no number of etcd")
    return found


def _digits(term: int) -> str:
    return f"{term:0{DIGITS}d}"


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except binascii.Error as error:
        raise ValueError("not base64") from error


def _put(key: str, value: str, *, before: bool = False) -> dict[str, Any]:
    """With `before` the response tells the value that it took the place of."""
    asked = {"prevKv": True} if before else {}
    return {"requestPut": {"key": _b64(key), "value": _b64(value), **asked}}


def _compare(key: str, target: str, result: str, **value: str) -> dict[str, Any]:
    return {"key": _b64(key), "target": target, "result": result, **value}
