# SPDX-License-Identifier: Apache-2.0
"""Who takes part in a pairing and what comes of it; and how it is written down, or taken back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from twinbeat.sync.claims import SECRET_BYTES
from twinbeat.sync.identity import Certificate, Folder, Identity, IdentityError


class PairingError(Exception):
    """The nodes were not paired, and nothing was changed. The message is a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatKey:
    """A key for the heartbeats, in the form of a key file."""

    id: int
    digits: str = field(repr=False)
    """32 hexadecimal digits, as `config.keys.new_key` makes them."""

    def __post_init__(self) -> None:
        assert 1 <= self.id <= 255
        assert len(bytes.fromhex(self.digits)) == SECRET_BYTES


class Keyring(Protocol):
    """Where heartbeat keys are kept. Both calls may raise OSError."""

    def store(self, key: HeartbeatKey) -> None:
        """Write it down, private and for good. Raises FileExistsError if its id is taken."""

    def remove(self, key: HeartbeatKey) -> None:
        """Take back what `store` has written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """This node, as it goes into a pairing."""

    name: str
    node: int
    """Its index."""
    pair: int
    key: HeartbeatKey | None = None
    """To be given to the peer. If both sides bring one, the listener's counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What an operator is to look at."""

    code: str
    """Two groups of four digits: 1234 5678."""
    peer_name: str
    peer_node: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """What came of it."""

    name: str
    """Of the peer."""
    certificate: Certificate
    """Which is believed from now on."""
    key: HeartbeatKey | None
    """That both nodes have now; None if neither brought one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long what is waited for."""

    meet_s: float = 600.0
    """The other node."""
    step_s: float = 10.0
    """Anything that needs no person."""
    confirm_s: float = 180.0
    """The operators."""


Ask = Callable[[Comparison], Awaitable[bool]]
"""Shows the code and returns whether the operator finds it alike. It is cancelled when the other
side gives up first."""


class Writing:
    """All that a pairing changes on this node, and how it is taken back."""

    def __init__(self, folder: Folder, party: Party, keyring: Keyring) -> None:
        self.folder = folder
        self.party = party
        self._keyring = keyring
        self._made = False
        self._kept: Paired | None = None
        self._before: tuple[Certificate, ...] = ()
        self._done = False
        self.identity: Identity

    def __enter__(self) -> Writing:
        try:
            own = self.folder.own()
            if own is None:
                own = self.folder.make_own(self.party.name, time.time())
                self._made = True
            self._before = self.folder.trusted()
        except IdentityError as error:
            self.__exit__()
            raise PairingError(error.code, error.sentence) from None
        self.identity = own
        return self

    def __exit__(self, *_: object) -> None:
        if self._done:
            return
        # There is nothing more to be done about a disk that refuses even this.
        with contextlib.suppress(IdentityError):
            self.take_back()
        with contextlib.suppress(IdentityError):
            if self._made:
                self.folder.remove_own()

    def keep(self, paired: Paired) -> None:
        """Write all of it, or nothing. Raises PairingError."""
        key = paired.key
        try:
            if key is not None:
                self._keyring.store(key)
        except FileExistsError:
            assert key is not None
            sentence = f"There is a key {key.id} already; choose another id for the new one."
            raise PairingError("key_exists", sentence) from None
        except OSError as error:
            sentence = f"The key could not be written down: {error.strerror}."
            raise PairingError("disk", sentence) from None
        try:
            self.folder.trust(paired.certificate)
        except IdentityError as error:
            if key is not None:
                with contextlib.suppress(OSError):
                    self._keyring.remove(key)
            raise PairingError("disk", error.sentence) from None
        self._kept = paired

    def take_back(self) -> None:
        """As it was before `keep`."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        if kept.key is not None:
            with contextlib.suppress(OSError):
                self._keyring.remove(kept.key)
        if not self._before:
            self.folder.distrust()
            return
        self.folder.trust(self._before[0])
        for successor in self._before[1:]:
            self.folder.expect(successor)

    def finish(self) -> None:
        """It stays."""
        self._done = True
