# SPDX-License-Identifier: Apache-2.0
"""What an outage is and what an overlap is, on made-up records: no lab needed."""

from array import array

import pytest
from twinlab import plan, probe
from twinlab.capture import Frame, Recording

pytestmark = pytest.mark.unprivileged

INTERVAL = 200_000


def record(fate: str, *, finished: bool = True, round_trip: int = 50_000) -> probe.Record:
    """One probe per character: `.` answered, `x` lost."""
    sent = [1_000_000_000 + number * INTERVAL for number in range(len(fate))]
    answered = [at + round_trip if mark == "." else 0 for at, mark in zip(sent, fate, strict=True)]
    return probe.Record(
        interval_ns=INTERVAL,
        vips=1,
        sent_ns=array("q", sent),
        answered_ns=array("q", answered),
        duplicates=0,
        strays=0,
        send_errors=0,
        lateness_max_ns=0,
        finished=finished,
    )


def test_nothing_lost_is_no_outage() -> None:
    assert record("......").outages() == []
    assert record("......").lost() == 0


def test_outage_lasts_from_answer_to_answer() -> None:
    (outage,) = record("...xxxx...").outages()
    assert outage.lost == 4
    # Five intervals lie between the arrival of answer 2 and that of answer 7.
    assert outage.duration_ns == 5 * INTERVAL


def test_outage_without_end_has_no_duration_and_is_the_longest() -> None:
    both = record("..xxxxx..xx")
    assert [outage.duration_ns for outage in both.outages()] == [6 * INTERVAL, None]
    longest = both.longest_outage()
    assert longest is not None
    assert longest.duration_ns is None


def test_outages_close_together_join() -> None:
    apart = record("..xx.xx..")
    assert [outage.lost for outage in apart.outages()] == [2, 2]
    (joined,) = apart.outages(join_ns=2 * INTERVAL)
    assert joined.lost == 4
    assert joined.duration_ns == 6 * INTERVAL


def test_newest_probes_are_not_judged_while_the_run_goes_on() -> None:
    running = record("." * 200 + "x" * 50, finished=False)
    assert running.lost() == 0
    assert record("." * 200 + "x" * 50).lost() == 50


def test_a_client_that_slept_is_told_apart() -> None:
    slept = record("...xx...")
    slept.sent_ns[4] += 100 * INTERVAL
    slept.sent_ns[5] += 100 * INTERVAL
    slept.answered_ns[5] += 100 * INTERVAL
    (outage,) = slept.outages()
    assert outage.sender_gap_ns == 101 * INTERVAL


def frame(at_ns: int, port: str, sender: str) -> Frame:
    """An ARP announcement of `sender` that came into a port."""
    address = bytes(int(part) for part in sender.split("."))
    header = b"\xff" * 6 + bytes(6) + b"\x08\x06"
    body = bytes.fromhex("0001080006040001") + bytes(6) + address + bytes(6) + address
    return Frame(at_ns, "lan0", port, header + body)


def test_overlap_counts_the_old_owner_after_the_new_ones_first() -> None:
    recording = Recording(
        [
            frame(1, "a", plan.LAN_VIP),
            frame(2, "b", plan.LAN_VIP),
            frame(3, "a", "10.77.0.1"),
            frame(4, "a", plan.LAN_VIP),
            frame(5, "b", plan.LAN_VIP),
        ],
        lost=0,
    )
    overlap = recording.overlap("a", "b", vips=[plan.LAN_VIP])
    assert [found.at_ns for found in overlap] == [4]
    assert overlap[0].is_announcement()
    assert recording.overlap("a", "b", vips=[plan.LAN_VIP], since_ns=5) == []
    assert recording.overlap("b", "a", vips=[plan.LAN_VIP], since_ns=3) != []
