# SPDX-License-Identifier: Apache-2.0
"""Logs: fields for machines, sentences for people, repeats counted, nobody ever held up."""

import io
import json
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from twinbeat.observe import log
from twinbeat.observe.log import JournalSink, RepeatFilter, StreamSink, message_id


def record(
    text: str = "a took over", level: int = logging.INFO, at: float = 1000.0, **fields: Any
) -> logging.LogRecord:
    made = logging.LogRecord("twinbeat.core", level, "f", 1, text, (), None)
    made.created = at
    made.fields = fields
    return made


def datagram(made: logging.LogRecord) -> bytes:
    return log.datagram(made, "twinbeatd")


def fields_of(data: bytes) -> dict[str, str]:
    """What journald reads out of a datagram of its native protocol."""
    fields = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(data[:8], "little")
            value = data[8 : 8 + length]
            assert data[8 + length : 9 + length] == b"\n"
            data = data[9 + length :]
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]{0,63}", name)
        fields[name.decode()] = value.decode()
    return fields


def test_the_journal_gets_fields_beside_the_sentence() -> None:
    fields = fields_of(datagram(record(event="transition", reason="peer_dead", term=4, to=None)))
    assert fields == {
        "MESSAGE": "a took over",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "twinbeatd",
        "LOGGER": "twinbeat.core",
        "MESSAGE_ID": message_id("transition"),
        "TWINBEAT_EVENT": "transition",
        "TWINBEAT_REASON": "peer_dead",
        "TWINBEAT_TERM": "4",
        "TWINBEAT_TO": "",
    }


def test_values_with_line_breaks_and_odd_names_stay_whole() -> None:
    fields = fields_of(datagram(record(**{"odd-näme": "two\nlines", "event": "x=y"})))
    assert fields["TWINBEAT_ODD_N_ME"] == "two\nlines"
    assert fields["TWINBEAT_EVENT"] == "x=y"


def test_a_message_id_is_fixed_for_ever() -> None:
    assert message_id("transition") == "003b979604cf1d49bc6d5093284745aa"
    assert message_id("claim") != message_id("transition")


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, "7"), (logging.INFO, "6"), (logging.WARNING, "4"), (logging.ERROR, "3")],
)
def test_levels_are_priorities(level: int, priority: str) -> None:
    assert fields_of(datagram(record(level=level)))["PRIORITY"] == priority


def test_the_journal_that_does_not_listen_holds_nobody_up(tmp_path: Path) -> None:
    sink = JournalSink(str(tmp_path / "none"), "twinbeatd")
    sink.handle(record())
    assert sink.lost == 1
    sink.close()


def test_a_full_journal_is_counted_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        sink = JournalSink(str(tmp_path / "journal"), "twinbeatd")
        sent = 0
        while not sink.lost:
            sink.handle(record())
            sent += 1
            assert sent < 100_000
        assert fields_of(journal.recv(1 << 16))["MESSAGE"] == "a took over"
        sink.close()


def wrong() -> logging.LogRecord:
    """One whose arguments don't fit its sentence."""
    return logging.LogRecord("twinbeat.core", logging.INFO, "f", 1, "term %d", ("four",), None)


def test_a_record_that_cannot_be_put_into_words_is_counted_and_fails_nobody(
    tmp_path: Path,
) -> None:
    stream = io.StringIO()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        sinks = [
            JournalSink(str(tmp_path / "journal"), "twinbeatd"),
            StreamSink(stream, log._as_plain),
        ]
        try:
            for sink in sinks:
                sink.handle(wrong())
                sink.handle(record())
                assert sink.lost == 1
        finally:
            for sink in sinks:
                sink.close()
        assert fields_of(journal.recv(1 << 16))["MESSAGE"] == "a took over"
    assert stream.getvalue().endswith("info: a took over\n")


# --------------------------------------------------------------------------------- repeats -------


def test_repeats_are_held_back_and_counted() -> None:
    repeats = RepeatFilter(burst=3, window_s=10)
    passed = [repeats.filter(record(at=1000 + number / 10)) for number in range(50)]
    assert passed == [True] * 3 + [False] * 47
    later = record(at=1011)
    assert repeats.filter(later)
    assert fields_of(datagram(later))["MESSAGE"] == "a took over (and 47 more like it before)"
    after = record(at=1012)
    assert repeats.filter(after)
    assert "more like it" not in fields_of(datagram(after))["MESSAGE"]


def test_kinds_are_told_apart_and_errors_always_pass() -> None:
    repeats = RepeatFilter(burst=1, window_s=10)
    assert repeats.filter(record("x"))
    assert not repeats.filter(record("x"))
    assert repeats.filter(record("y"))
    assert repeats.filter(record("x", event="other"))
    assert repeats.filter(record("x", event="other", reason="why"))
    assert not repeats.filter(record("x", event="other", reason="why"))
    assert all(repeats.filter(record("z", level=logging.ERROR)) for _ in range(5))


def test_a_template_is_one_kind_whatever_it_is_filled_with() -> None:
    repeats = RepeatFilter(burst=1, window_s=10)
    made = [logging.LogRecord("n", 20, "f", 1, "link %s", (name,), None) for name in "abc"]
    assert [repeats.filter(one) for one in made] == [True, False, False]


def test_memory_for_kinds_is_bounded() -> None:
    repeats = RepeatFilter()
    for number in range(5000):
        repeats.filter(record(f"kind {number}"))
    assert len(repeats._kinds) <= 512


# ---------------------------------------------------------------------------------- lines --------


@pytest.fixture
def restored() -> Iterator[None]:
    """Give the loggers back as they were."""
    ours, root = logging.getLogger("twinbeat"), logging.getLogger()
    before = (ours.handlers[:], ours.level, ours.propagate, root.handlers[:])
    yield
    ours.handlers[:], ours.propagate, root.handlers[:] = before[0], before[2], before[3]
    ours.setLevel(before[1])


def lines(form: str, monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    sink = log.set_up(form, name="twinbeatd", environment=environment)
    logging.getLogger("twinbeat.x").warning("link %s", "ha0", extra={"fields": {"event": "link"}})
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("asyncio").exception("it broke")
    sink.close()
    return stream.getvalue().splitlines()


@pytest.mark.usefixtures("restored")
def test_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (json.loads(line) for line in lines("json", monkeypatch))
    assert first["message"] == "link ha0"
    assert first["event"] == "link"
    assert first["level"] == "warning"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first["time"])
    assert second["message"] == "it broke: ValueError: why"
    assert "Traceback" in second["traceback"]


@pytest.mark.usefixtures("restored")
def test_plain_lines_have_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.match(r"\d{4}-.*Z warning: link ha0$", lines("auto", monkeypatch)[0])


@pytest.mark.usefixtures("restored")
def test_under_systemd_lines_have_a_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "JOURNAL_SOCKET", "/none")
    told = lines("journald", monkeypatch, JOURNAL_STREAM="8:1")
    assert told[0] == "<4>link ha0"
    assert all(line.startswith("<3>") for line in told[1:])


@pytest.mark.usefixtures("restored")
def test_auto_finds_the_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.settimeout(5)
        monkeypatch.setattr(log, "JOURNAL_SOCKET", str(tmp_path / "journal"))
        sink = log.set_up("auto", name="twinbeat-worker", environment={"JOURNAL_STREAM": "8:1"})
        logging.getLogger("twinbeat.core").info("hello", extra={"fields": {"event": "claim"}})
        fields = fields_of(journal.recv(1 << 16))
        assert fields["TWINBEAT_EVENT"] == "claim"
        assert fields["SYSLOG_IDENTIFIER"] == "twinbeat-worker", "each program by its own name"
        sink.close()


@pytest.mark.usefixtures("restored")
def test_set_up_again_replaces_what_was(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    log.set_up("json", name="twinbeatd", environment={})
    sink = log.set_up("json", name="twinbeatd", environment={})
    logging.getLogger("twinbeat").info("once")
    sink.close()
    assert len(stream.getvalue().splitlines()) == 1


def test_what_the_sinks_in_use_lost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = io.StringIO()
    monkeypatch.setattr("sys.stderr", gone)
    sink = log.set_up("json", name="twinbeatd", environment={})
    gone.close()
    before = log.lost()
    logging.getLogger("twinbeat").info("nobody reads this")
    sink.close()
    assert (before, log.lost()) == (0, 1)


def drain(descriptor: int) -> None:
    while os.read(descriptor, 1 << 20):
        pass


def test_a_full_pipe_holds_nobody_up() -> None:
    reading, writing = os.pipe()
    stuck = open(writing, "w")  # noqa: SIM115 - closed below, after the reader
    sink = StreamSink(stuck, lambda one: one.getMessage() * 1000)
    emitting = threading.Thread(target=lambda: [sink.handle(record()) for _ in range(3000)])
    emitting.start()
    emitting.join(timeout=10)
    assert not emitting.is_alive()
    assert sink.lost > 0
    draining = threading.Thread(target=drain, args=(reading,))
    draining.start()
    sink.close()
    stuck.close()
    draining.join(timeout=10)
    os.close(reading)
