# SPDX-License-Identifier: Apache-2.0
"""The configuration of a run: as the file says it, and as it is in force.

The two differ where timers were raised to what the host holds and where a key needs a restart. What
both nodes share is the document's, where there is one. What others need to know of it is worked out
by `twinbeat.runtime.wiring`; here is only what it is now.
"""

from __future__ import annotations

from twinbeat.config.compare import Said, digest
from twinbeat.config.inforce import InForce
from twinbeat.config.keys import Key
from twinbeat.config.model import Config
from twinbeat.config.secrets import Options
from twinbeat.core.types import Policy
from twinbeat.net.interfaces import Address
from twinbeat.runtime import wiring


class Current:
    """What a reload replaces whole."""

    def __init__(self, found: InForce) -> None:
        self.config = found.config
        """In force."""
        self.keys: tuple[Key, ...] = ()
        """Those that are accepted."""
        self.fence_options: Options
        self._said: Said = {}
        self.wake_late_ns = 0
        """One wake-up in ten comes so late on this host, or later."""
        self.read(found.config, found)

    def read(self, file: Config, found: InForce) -> None:
        """Note what file and document say together."""
        self.file = file
        self.document = found.document
        """None: the file says everything."""
        self.tables = found.tables
        """What the file says of shared tables, where there is no document."""
        self.ignored = found.ignored
        """What the file says otherwise than the document."""
        self._digest: int | None = None

    @property
    def digest(self) -> int:
        """What the peer compares: raised timers are this host's affair."""
        if self._digest is None:
            whole = self.document is not None
            self._digest = digest(self.file, whole=whole, said=self._said)
        return self._digest

    @property
    def generation(self) -> int:
        """Of the document; 0 = there is none."""
        return 0 if self.document is None else self.document.version.generation

    @property
    def policy(self) -> Policy:
        """What the core decides by."""
        return wiring.policy(
            self.config,
            digest=self.digest,
            generation=self.generation,
            wake_late_ns=self.wake_late_ns,
        )

    @property
    def vips(self) -> list[Address]:
        """All shared addresses."""
        return [vip for section in self.config.vrids for vip in wiring.vips(section)]

    @property
    def key_ids(self) -> list[int]:
        """Names of the keys that are accepted."""
        return sorted(key.id for key in self.keys)
