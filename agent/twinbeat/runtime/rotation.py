# SPDX-License-Identifier: Apache-2.0
"""R14: in which order keys may change on two nodes that hear each other.

Frames name the keys that their sender accepts, and the one that they are sealed with. What would
make either node refuse the other's frames is refused before anything is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from twinbeat.config.problems import Findings
from twinbeat.engine.types import Watch

if TYPE_CHECKING:
    from twinbeat.config.keys import Key
    from twinbeat.config.model import Config
    from twinbeat.engine.types import PeerWords


def check_rotation(
    config: Config,
    *,
    before: Sequence[Key],
    after: Sequence[Key],
    peer: PeerWords,
    watch: Watch,
    findings: Findings,
) -> None:
    """Note what of the new keys would cut the pair; nothing, if there is nothing to cut.

    A peer whose agent hangs counts as well: it is told from a dead one by what its kernel answers.
    """
    if watch in (Watch.UNKNOWN, Watch.DEAD):
        return
    name, directory = config.peer.name, config.keys.directory
    accepted = {number for number in peer.keys if number}
    old = {key.id: key for key in before}
    kept = {key.id for key in after if old.get(key.id) == key}
    other = {key.id for key in after if key.id in old} - kept
    for number in sorted(other & (accepted | {peer.key_id})):
        findings.add(
            "",
            None,
            f"key {number} isn't the one that {name} knows under this id. Put it back, and give "
            "the new key an id that was never used.",
            file=f"{directory}/{number}.key",
        )
    send = config.keys.send
    if send not in accepted:
        findings.add(
            "keys.send",
            send,
            f"{name} doesn't accept key {send} yet. Copy {send}.key to {name}, reload there, and "
            "then here again.",
        )
    if peer.key_id and peer.key_id not in kept | other:
        findings.add(
            "keys.directory",
            directory,
            f"{name} sends under key {peer.key_id}, so {peer.key_id}.key has to stay. Set "
            f"`keys.send` to another key on {name}, reload there, and then remove it.",
        )
    if not peer.key_id and old.keys() - kept:
        findings.add(
            "keys.directory",
            directory,
            f"it isn't known under which key the agent of {name} sends, as only its kernel "
            "answers. Keep all keys until it speaks.",
        )
