# SPDX-License-Identifier: Apache-2.0
"""What a witness is asked and what it may answer.

With two nodes and every link cut nobody can tell death from partition. A witness is a third party
that both may ask: it keeps the highest term that was ever claimed before it, and whoever claims
takes it away from whoever had it. This module is the vocabulary; it knows no clock and no network.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.Enum):
    """What is asked."""

    CLAIM = "claim"
    """Keep this term if no higher one is kept."""
    CONFIRM = "confirm"
    """Is this term still the one that is kept?"""
    LOOK = "look"
    """Are you there, and what is kept?"""


class Verdict(enum.Enum):
    """What came of it."""

    GRANTED = "granted"
    DENIED = "denied"
    """Another term is kept."""
    SILENT = "silent"
    """No answer, or none that can be one. It is never a yes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request to the witness."""

    kind: Kind
    term: int = 0
    mark: bool = False
    """Leave a sign of life with the confirmation, that the peer can see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a question."""

    question: Question
    verdict: Verdict
    sent_ns: int
    """Before the request was sent."""
    done_ns: int
    """After the answer had arrived, or when waiting for it ended."""
    kept: int = 0
    """The term that the witness keeps, 0 = none, or no answer."""
    life: int = 0
    """Grows whenever a claim or a sign of life is written."""
    why: str = ""
    """Why there is no answer."""
