# SPDX-License-Identifier: Apache-2.0
"""What a node remembers over a restart: as it is, as the disk has it, and what is on its way there.

At most one state is being written, always whole, and always the newest; a disk that refused is
asked again after a while. Who wants to know whether something is safe asks for `settled`.
"""

from __future__ import annotations

from twinbeat.core.types import Durable


class Memory:
    """The durable state of one node."""

    def __init__(self, durable: Durable) -> None:
        self.state = durable
        """As it is now. Values are replaced, never changed."""
        self.saved = durable
        """As the disk has it."""
        self.refused = ""
        """Why the disk refused; empty = it didn't."""
        self.retry_ns = 0
        """When it is asked again, 0 = nothing waits for that."""
        self._saving: Durable | None = None

    @property
    def settled(self) -> bool:
        """The disk has the state as it is."""
        return self.state is self.saved or self.state == self.saved

    def wanted(self, now_ns: int) -> Durable | None:
        """What to save now, if anything; it counts as on its way."""
        if self.settled or self._saving is not None or now_ns < self.retry_ns:
            return None
        self.retry_ns = 0
        self._saving = self.state
        return self._saving

    def written(self) -> None:
        """What was on its way is on disk."""
        if self._saving is not None:
            self.saved, self._saving = self._saving, None
        self.refused = ""

    def failed(self, why: str, retry_ns: int) -> None:
        """The disk refused it; ask again at ``retry_ns``."""
        self._saving = None
        self.refused = why or "unknown"
        self.retry_ns = retry_ns
