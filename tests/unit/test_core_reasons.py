# SPDX-License-Identifier: Apache-2.0
"""One registry of reasons: complete, readable, and without dead entries."""

import pathlib
import re
import string

import pytest

from twinbeat.core import types
from twinbeat.core.reasons import CAUSES, OVERRIDES, SENTENCES, Code, because, duration
from twinbeat.core.types import Cause

CORE = pathlib.Path(types.__file__).parent


@pytest.mark.parametrize("code", Code, ids=lambda code: code.name)
def test_every_code_has_a_sentence(code: Code) -> None:
    sentence = SENTENCES[code]
    assert sentence
    assert not sentence.endswith(".")
    fields = {field for _, field, _, _ in string.Formatter().parse(sentence) if field}
    assert all(field.isidentifier() for field in fields)
    assert re.fullmatch(r"[a-z_]+", code.value), "a code is a metric's label"


def test_every_cause_of_the_engine_has_a_code() -> None:
    assert set(CAUSES) == set(Cause)


def test_no_code_is_dead() -> None:
    users = [*CORE.glob("*.py"), *(CORE.parent / "health").glob("*.py")]
    sources = "".join(path.read_text() for path in users if path.name != "reasons.py")
    used = set(re.findall(r"\bCode\.([A-Z_]+)", sources))
    used |= {code.name for code in CAUSES.values()}
    assert {code.name for code in Code} == used


def test_overrides_are_of_known_codes() -> None:
    assert set(OVERRIDES) <= set(Code)


def test_a_missing_fact_shows_and_hides_nothing() -> None:
    assert because(Code.FENCED, node="a").sentence == "? took over: its claim ended the reign of a"


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (7, "7 ns"),
        (1_500, "1.5 µs"),
        (999_000, "999 µs"),
        (1_020_000, "1.02 ms"),
        (5 * 10**9, "5 s"),
    ],
)
def test_durations_read_well(ns: int, text: str) -> None:
    assert duration(ns) == text
