# SPDX-License-Identifier: Apache-2.0
"""Changes `log.conf` for `add-node` and `remove-node`: one line, and nothing else of the file."""

from __future__ import annotations

from typing import Final

from twinbeat.weblog.client.model import PORT, Node

HEAD: Final = """\
# twinbeat-weblog: which nodes to pull web logs from, and how to write them (twinbeat-weblog(8)).
# Both nodes of a pair have a NODE line; `twinbeat-weblog add-node ADDRESS` writes it.

Filter default ON
begin default
    logFormat          RAW
    logInterval        Daily
    logFilenameFormat  access-%{%Y%m%d}t.log
end default

"""


def with_node(text: str, node: Node) -> str:
    """The text of a file with one more node, or with another fingerprint of one it has."""
    line = f"NODE {node.address}"
    line += f" PORT {node.port}" if node.port != PORT else ""
    line += f" PAIR {node.pair}" if node.pair else ""
    line += f" FINGERPRINT {node.fingerprint}"
    kept = without_node(text, node.address, node.port)[0]
    return f"{kept}{'' if not kept or kept.endswith(chr(10)) else chr(10)}{line}\n"


def without_node(text: str, address: str, port: int) -> tuple[str, bool]:
    """The text without the line of a node, and whether there was one. Nothing else changes."""
    kept, found = [], False
    for line in text.splitlines(keepends=True):
        words = line.split()
        if len(words) > 1 and words[0].lower() == "node" and words[1] == address:
            keys = [word.lower() for word in words[2:]]
            at = keys.index("port") + 1 if "port" in keys else len(keys)
            if str(port) == (keys[at] if at < len(keys) else str(PORT)):
                found = True
                continue
        kept.append(line)
    return "".join(kept), found
