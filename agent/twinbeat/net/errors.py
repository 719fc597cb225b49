# SPDX-License-Identifier: Apache-2.0
"""The one error of this package: what was tried, what the kernel said, and what to do about it."""

from __future__ import annotations

import errno
import os


class NetError(Exception):
    """The environment refused something; becomes an event, never crosses the executor."""

    def __init__(self, what: str, *, code: int = 0, fix: str = "") -> None:
        self.what = what
        """What was tried, as a noun phrase: `adding 10.0.0.1 to lan0`."""
        self.code = code
        """errno, 0 if the kernel was not asked."""
        self.fix = fix or HINTS.get(code, "")
        """What a person can do about it; empty when nothing is known beyond the error itself."""
        super().__init__(self.sentence())

    def sentence(self) -> str:
        reason = f" failed: {os.strerror(self.code)}" if self.code else ""
        return f"{self.what}{reason}" + (f"; {self.fix}" if self.fix else "")


HINTS = {
    errno.EPERM: "the agent needs CAP_NET_ADMIN",
    errno.EACCES: "IPv6 may be disabled on the interface (net.ipv6.conf.<interface>.disable_ipv6)",
    errno.ENODEV: "the interface does not exist; is its name in the configuration right?",
    errno.EOPNOTSUPP: "this kernel was built without it; `twinbeat doctor` names the option",
    errno.EBUSY: "something else holds it",
}
"""errno → what usually lies behind it in this package."""
