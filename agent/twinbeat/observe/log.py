# SPDX-License-Identifier: Apache-2.0
"""Where log records go: journald by its native protocol, JSON lines or plain lines.

Code logs through the standard `logging`, sentences for people, with `extra={"fields": {...}}` for
machines; `fields["event"]` names the kind. In the journal they are TWINBEAT_EVENT=transition,
TWINBEAT_REASON=peer_dead and so on, with a MESSAGE_ID per kind. Only edges are logged; what repeats
all the same is counted and told with the next record of its kind.

Nothing here ever blocks the caller: the journal gets datagrams on a non-blocking socket, standard
error is written by a thread of its own behind a bounded queue. What finds no room is counted.
"""

import hashlib
import json
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import IO, Any, Final

from twinbeat.api.text import moment

JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"
MESSAGE_MAX: Final = 8192
QUEUE_MAX: Final = 1000
REPEAT_BURST: Final = 5
REPEAT_WINDOW_S: Final = 10.0
_KINDS_MAX: Final = 512

_PRIORITY: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
_LEVEL_NAMES: Final = {7: "debug", 6: "info", 4: "warning", 3: "error", 2: "critical"}


def set_up(
    form: str,
    *,
    name: str,
    level: int = logging.INFO,
    environment: Mapping[str, str] = os.environ,
) -> "Sink":
    """Send the records of `twinbeat.*` where `form` (log.format) says; returns what to close.

    `name` is the program's, by which the journal knows its records.
    """
    sink: Sink
    under_systemd = "JOURNAL_STREAM" in environment or "INVOCATION_ID" in environment
    journal = form == "journald" or (form == "auto" and "JOURNAL_STREAM" in environment)
    if journal and os.path.exists(JOURNAL_SOCKET):
        sink = JournalSink(JOURNAL_SOCKET, name)
    else:
        shape = _as_json if form == "json" else _as_prefixed if under_systemd else _as_plain
        sink = StreamSink(sys.stderr, shape)
    sink.addFilter(RepeatFilter())
    logger = logging.getLogger("twinbeat")
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.addHandler(sink)
    logger.setLevel(level)
    logger.propagate = False
    # What asyncio complains about belongs to the same place.
    root = logging.getLogger()
    root.handlers = [sink]
    return sink


def message_id(event: str) -> str:
    """The MESSAGE_ID of a kind of event: fixed for ever, for `journalctl MESSAGE_ID=`."""
    return hashlib.blake2s(f"twinbeat {event}".encode(), digest_size=16).hexdigest()


class Sink(logging.Handler):
    """Common to all: a count of what was lost."""

    lost = 0
    """Records that found no room, or could not be put into words."""


def lost() -> int:
    """Records that the sinks in use could not place."""
    sinks = logging.getLogger("twinbeat").handlers
    return sum(sink.lost for sink in sinks if isinstance(sink, Sink))


# --------------------------------------------------------------------------------- repeats -------


class RepeatFilter(logging.Filter):
    """Lets the first few records of a kind through and counts the rest of the window.

    A kind is the logger, the template of its sentence, the event and the reason. The count goes
    out with the next record of the kind that passes.
    """

    def __init__(self, burst: int = REPEAT_BURST, window_s: float = REPEAT_WINDOW_S) -> None:
        super().__init__()
        self._burst = burst
        self._window_s = window_s
        self._kinds: dict[tuple[str, str, str], list[float]] = {}  # began, passed, held back

    def filter(self, record: logging.LogRecord) -> bool:
        now = record.created
        fields = _fields(record)
        event = f"{fields.get('event', '')} {fields.get('reason', '')}"
        kind = (record.name, str(record.msg), event)
        if kind not in self._kinds and len(self._kinds) >= _KINDS_MAX:
            self._kinds.clear()  # forgetting only lets more through
        entry = self._kinds.setdefault(kind, [now, 0, 0])
        if now - entry[0] >= self._window_s or now < entry[0]:
            held = int(entry[2])
            entry[:] = [now, 0, 0]
            if held:
                record.repeated = held
        if record.levelno < logging.ERROR and entry[1] >= self._burst:
            entry[2] += 1
            return False
        entry[1] += 1
        return True


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, Mapping) else {}


def _sentence(record: logging.LogRecord) -> str:
    """What the record says, on one line, with what was held back and the name of an exception."""
    text = record.getMessage()
    repeated = getattr(record, "repeated", 0)
    if repeated:
        text += f" (and {repeated} more like it before)"
    if record.exc_info and record.exc_info[0] is not None:
        text += f": {record.exc_info[0].__name__}: {record.exc_info[1]}"
    return text[:MESSAGE_MAX]


def _priority(record: logging.LogRecord) -> int:
    return _PRIORITY.get(record.levelno, 6)


# --------------------------------------------------------------------------------- journald ------


class JournalSink(Sink):
    """journald's native protocol: one datagram per record, one line per field."""

    def __init__(self, path: str, program: str) -> None:
        super().__init__()
        self._path = path
        self._program = program
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Send, or count what could not be sent."""
        try:
            self._socket.sendto(datagram(record, self._program), self._path)
        except Exception:  # noqa: BLE001 - a record that says nothing must not fail its caller
            self.lost += 1

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
        super().close()


def datagram(record: logging.LogRecord, program: str) -> bytes:
    """One record of a program as journald's native protocol has it."""
    fields = _fields(record)
    lines: dict[str, str] = {
        "MESSAGE": _sentence(record),
        "PRIORITY": str(_priority(record)),
        "SYSLOG_IDENTIFIER": program,
        "LOGGER": record.name,
    }
    if "event" in fields:
        lines["MESSAGE_ID"] = message_id(str(fields["event"]))
    for key, value in fields.items():
        name = "TWINBEAT_" + "".join(
            letter if letter.isascii() and letter.isalnum() else "_" for letter in key.upper()
        )
        lines[name[:64]] = "" if value is None else str(value)
    if record.exc_info:
        lines["TWINBEAT_TRACEBACK"] = logging.Formatter().formatException(record.exc_info)
    return b"".join(_field(name, value) for name, value in lines.items())


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", errors="replace")[:MESSAGE_MAX]
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    # A value with line breaks is sent with its length before it.
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


# ----------------------------------------------------------------------------------- lines -------


def _as_json(record: logging.LogRecord) -> str:
    line: dict[str, Any] = {
        "time": moment(int(record.created * 1e9)),
        "level": _LEVEL_NAMES[_priority(record)],
        "logger": record.name,
        "message": _sentence(record),
        **_fields(record),
    }
    if record.exc_info:
        line["traceback"] = logging.Formatter().formatException(record.exc_info)
    return json.dumps(line, ensure_ascii=False, default=str)


def _as_plain(record: logging.LogRecord) -> str:
    level = _LEVEL_NAMES[_priority(record)]
    text = f"{moment(int(record.created * 1e9))} {level}: {_sentence(record)}"
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return text


def _as_prefixed(record: logging.LogRecord) -> str:
    """For a service manager that reads standard error: <N> is the priority."""
    prefix = f"<{_priority(record)}>"
    text = _sentence(record)
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return "\n".join(prefix + line for line in text.splitlines())


class StreamSink(Sink):
    """Lines to a stream, written by a thread of its own: a full pipe holds nobody up."""

    def __init__(self, stream: IO[str], shape: Any) -> None:
        super().__init__()
        self._stream = stream
        self._shape = shape
        self._queue: queue.Queue[str | None] = queue.Queue(QUEUE_MAX)
        self._thread = threading.Thread(target=self._write, name="twinbeat-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it."""
        try:
            self._queue.put_nowait(self._shape(record))
        except Exception:  # noqa: BLE001 - a record that says nothing must not fail its caller
            self.lost += 1

    def close(self) -> None:
        """Write what waits, for half a second at most."""
        try:
            self._queue.put(None, timeout=0.1)
            self._thread.join(timeout=0.5)
        except queue.Full:
            pass
        super().close()

    def _write(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                self.lost += 1  # the stream is gone; keep draining, so that nobody notices
                time.sleep(0.01)
