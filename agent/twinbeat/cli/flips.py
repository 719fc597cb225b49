# SPDX-License-Identifier: Apache-2.0
"""How often the role moved for the sake of health, and when that is forgotten: for two commands."""

from collections.abc import Iterator

from twinbeat.api.schema import FlipsReset, Node
from twinbeat.api.text import age
from twinbeat.cli.base import paint


def times(count: int, what: str) -> str:
    """`1 time`, `2 times`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def flips(node: Node, now_ns: int) -> Iterator[str]:
    """Nothing if the role didn't move, or it is forgotten."""
    if not node.flips:
        return
    sticky = paint(" (sticky)", "red") if node.sticky else ""
    first = f", first {age(now_ns - node.flips_since_ns)} ago" if node.flips_since_ns else ""
    yield f"the role moved {times(node.flips, 'time')} for the sake of health{sticky}{first}"
    ends = []
    if node.flips_window_left_ns is not None:
        ends.append(f"the first counts for another {age(node.flips_window_left_ns)}")
    if node.flips_reset is FlipsReset.NEXT_FAILURE:
        ends.append("the next failure begins a new count")
    elif node.flips_reset is FlipsReset.RECOVERY:
        ends.append("a new count begins with the first failure after all of both nodes held")
    if ends:
        yield f"  {'; '.join(ends)}"
