# SPDX-License-Identifier: Apache-2.0
"""What a status means: its sentence and its warnings follow from its facts."""

import pytest

from twinbeat.api import schema
from twinbeat.api.text import age, length, moment
from twinbeat.observe.status import _IN_SENTENCE, finish
from unit.memory_agent import (
    SECOND,
    connections,
    fence,
    fencing,
    gate_of,
    isolation,
    link,
    node,
    peer,
    status,
    transition,
    watchdog,
)


def test_the_sentence_of_a_good_day() -> None:
    now = 1_000_000 * SECOND
    last = transition(at_ns=now - 3600 * SECOND)
    assert finish(status(last_failover=last)).sentence == (
        "PRIMARY since 12d 3h, peer SECONDARY healthy, 2/2 links, last failover 1h ago: peer_dead"
    )
    assert finish(status()).warnings == []


def test_a_failover_of_an_earlier_boot_is_dated_by_the_wall_clock() -> None:
    last = transition(at_ns=5 * SECOND, realtime_offset_ns=1_700_999_000 * SECOND)
    # Wall clock now: 1,701,000,000 s; then: 1,700,999,005 s.
    assert "last failover 16m 35s ago" in finish(status(last_failover=last)).sentence


CASES = [
    (status(node=node(role=schema.Role.SECONDARY)), "SECONDARY since 12d 3h", None),
    (status(gate=gate_of(open=False)), "with its gate SHUT", "no_primary"),
    (status(gate=gate_of(open=False, contested=True)), "CONTESTED", "contested"),
    (status(node=node(admin=schema.Admin.STAY_PRIMARY)), "(stay-primary)", None),
    (status(peer=peer(fit=False)), "peer SECONDARY UNFIT", "peer_unfit"),
    (status(peer=peer(fit=False, starting=True)), "peer SECONDARY starting", None),
    (
        status(peer=peer(watch=schema.Watch.DEAD, age_ns=65 * SECOND)),
        "silent for 1m 5s",
        "peer_lost",
    ),
    (status(peer=peer(watch=schema.Watch.STALLED)), "peer STALLED", "peer_stalled"),
    (status(peer=peer(watch=schema.Watch.UNKNOWN, role=None)), "peer never heard", "peer_lost"),
    (
        status(peer=peer(watch=schema.Watch.UNKNOWN, role=None, mismatch=True)),
        "under another key",
        "key_mismatch",
    ),
    (status(peer=peer(watch=schema.Watch.SUSPECT)), "peer suspected", None),
    (status(peer=peer(gate_open=True, term=7)), "DUAL PRIMARY", "dual_primary"),
    (status(peer=peer(hears_us=False)), "peer SECONDARY", "peer_deaf"),
    (status(connections=connections(state="failed")), "PRIMARY", "connections_failed"),
    (status(connections=connections(state="unheard")), "PRIMARY", "connections_unheard"),
    (status(connections=connections(state="filling")), "PRIMARY", None),
    (status(connections=connections(strays_error="no nft")), "PRIMARY", "connections_strays"),
    (status(peer=peer(flags=["stranded"])), "peer SECONDARY", "peer_stranded"),
    (status(links=[link("x", 0), link("y", 1, up=False)]), "1/2 links", "link_y"),
    (status(node=node(isolated=True)), "ISOLATED", "isolated"),
    (status(gate=gate_of(attached=False)), "GATE MISSING", "gate_missing"),
    (status(node=node(terms_left=3)), "PRIMARY", "terms_low"),
    (
        status(node=node(fit=False, unfit=[schema.Reason(code="no_terms", sentence="x")])),
        "unfit: no_terms",
        "unfit_no_terms",
    ),
    (
        status(node=node(components=[schema.Component(name="lan0", healthy=False)])),
        "PRIMARY",
        "unhealthy_lan0",
    ),
    (
        status(pause=schema.Pause(reason="x", since_ns=0, until_ns=1_000_060 * SECOND)),
        "PAUSED for another 1m",
        "paused",
    ),
    (status(peer=peer(paused=True)), "PAUSED by b", "peer_paused"),
    (
        status(peer=peer(paused=True), pause=schema.Pause(reason="x", since_ns=0)),
        "links, PAUSED, ",
        "paused",
    ),
    (
        status(configuration=schema.Configuration(path="p", loaded="l", mismatch=True)),
        "PRIMARY",
        "config_mismatch",
    ),
    (
        status(configuration=schema.Configuration(path="p", loaded="l", needs_restart=["pair.id"])),
        "PRIMARY",
        "needs_restart",
    ),
    (
        status(vrids=[schema.Vrid(id=9, interface="x", vips_total=1)]),
        "PRIMARY",
        "ungated_9",
    ),
]


@pytest.mark.parametrize(("state", "said", "warning"), CASES)
def test_what_is_special_is_said_and_warned_of(
    state: schema.Status, said: str, warning: str | None
) -> None:
    finished = finish(state)
    assert said in finished.sentence
    codes = [one.code for one in finished.warnings]
    assert len(codes) == len(set(codes))
    assert codes == [] if warning is None else warning in codes


def test_a_starting_node_does_not_cry_for_its_peer() -> None:
    state = status(
        node=node(role=schema.Role.INIT, starting=True, fit=True),
        gate=gate_of(open=False),
        peer=peer(watch=schema.Watch.UNKNOWN, role=None, age_ns=None),
        waiting=schema.Waiting(
            code="boot_wait", sentence="claims alone", until_ns=0, left_ns=1_500_000_000
        ),
    )
    assert finish(state).warnings == []
    assert "claims alone (in 1.5 s)" in finish(state).sentence


@pytest.mark.parametrize(("core", "desk"), [(True, True), (True, False), (False, True)])
def test_a_node_that_is_cut_off_is_told_of_once(core: bool, desk: bool) -> None:
    finished = finish(status(node=node(isolated=core), isolation=isolation(isolated=desk)))
    assert finished.sentence.count("ISOLATED") == 1
    (told,) = [one.sentence for one in finished.warnings if one.code == "isolated"]
    assert ("reference addresses" in told) is desk


def test_each_code_in_the_sentence_is_one_of_a_warning() -> None:
    codes = {one.code for state, _, _ in CASES for one in finish(state).warnings}
    assert codes >= _IN_SENTENCE


def test_warnings_of_the_runtime_stay_and_are_not_doubled() -> None:
    mine = schema.Warn(code="isolated", sentence="mine")
    finished = finish(status(node=node(isolated=True), warnings=[mine]))
    assert [one for one in finished.warnings if one.code == "isolated"] == [mine]
    assert [one.code for one in finish(finished).warnings] == [
        one.code for one in finished.warnings
    ]


def test_the_end_of_a_lost_peer_s_pause_is_named() -> None:
    lost = peer(paused=True, watch=schema.Watch.DEAD, paused_until_ns=1_000_060 * SECOND)
    told = finish(status(peer=lost))
    assert told.peer.pause_expires == moment(1_701_000_060 * SECOND)
    assert "PAUSED by b for another 1m" in told.sentence
    (warning,) = [each for each in told.warnings if each.code == "peer_paused"]
    assert f"until {told.peer.pause_expires} at the latest" in warning.sentence
    endless = finish(status(peer=peer(paused=True, watch=schema.Watch.DEAD)))
    assert any("until it is back" in each.sentence for each in endless.warnings)


def test_the_end_of_a_pause_has_a_date() -> None:
    paused = finish(status(pause=schema.Pause(reason="x", since_ns=0, until_ns=1_000_060 * SECOND)))
    assert paused.pause is not None
    assert paused.pause.expires == moment(1_701_000_060 * SECOND)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (-5, "0s"),
        (59 * SECOND, "59s"),
        (61 * SECOND, "1m 1s"),
        (3600 * SECOND, "1h"),
        ((86400 * 12 + 3 * 3600 + 59) * SECOND, "12d 3h"),
    ],
)
def test_ages(ns: int, text: str) -> None:
    assert age(ns) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1_000, "1 µs"),
        (12_345, "12.3 µs"),
        (999_900, "1 ms"),
        (1_250_000, "1.25 ms"),
        (3_040_000_000, "3.04 s"),
        (2_000 * SECOND, "33m 20s"),
    ],
)
def test_lengths(ns: int, text: str) -> None:
    assert length(ns) == text


def test_moments_are_utc_with_a_zone() -> None:
    assert moment(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456Z"


GONE = peer(watch=schema.Watch.DEAD, age_ns=SECOND)


@pytest.mark.parametrize(
    ("state", "code", "severity"),
    [
        (status(watchdog=watchdog()), None, None),
        (status(watchdog=watchdog(armed=False)), "watchdog", "critical"),
        (status(watchdog=watchdog(armed=False, mode="auto")), "watchdog", "warning"),
        (status(watchdog=watchdog(armed=False, mode="off")), None, None),
        (status(watchdog=watchdog(armed=False, resting=True)), "watchdog", "critical"),
        (
            status(
                watchdog=watchdog(armed=False, resting=True),
                pause=schema.Pause(reason="x", since_ns=0),
            ),
            None,
            None,
        ),
        (status(watchdog=watchdog(sentence="EIO")), "watchdog", "critical"),
        (status(fence=fence()), None, None),
        (status(fence=fence(check=fencing(outcome="failed"))), "fence_check", "warning"),
        (
            status(fence=fence(last=fencing(outcome="failed")), peer=GONE),
            "fencing_failed",
            "critical",
        ),
        (status(fence=fence(last=fencing(outcome="failed"))), None, None),
        (status(fence=fence(last=fencing()), peer=GONE), None, None),
        (
            status(fence=fence(policy="before"), peer=GONE, gate=gate_of(open=False)),
            "not_fenced",
            "critical",
        ),
        (
            status(fence=fence(policy="before", fenced=True), peer=GONE, gate=gate_of(open=False)),
            None,
            None,
        ),
    ],
)
def test_the_last_resorts_are_warned_of_when_they_fail(
    state: schema.Status, code: str | None, severity: str | None
) -> None:
    codes = {"watchdog", "fence_check", "fencing_failed", "not_fenced"}
    found = [warning for warning in finish(state).warnings if warning.code in codes]
    assert [(one.code, one.severity.value) for one in found] == ([(code, severity)] if code else [])
