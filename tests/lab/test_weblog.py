# SPDX-License-Identifier: Apache-2.0
"""Web logs of a real nginx across failovers: what was replicated is written once, the rest later.

One failover of each kind here; the bench does twenty, and measures what it costs.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from twinlab import logwatch, plan, processes, weblog
from twinlab.shell import wait_for

from lab import watching

LAB_OPTIONS = plan.Options(profile="balanced", settings=(*watching.STEADY, "keys.send=0"))
STOPPED_S = 1.5


@pytest.fixture(scope="module")
def ground(pair: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[weblog.Ground]:
    with weblog.ground(tmp_path_factory.mktemp("weblog")) as made:
        yield made


def judged(ground: weblog.Ground, watch: logwatch.Watch) -> logwatch.Judged:
    """When all has come to rest."""
    wait_for(lambda: weblog.settled(ground.third), "all records to be written", timeout_s=40)
    held, logs = logwatch.held(), weblog.logs()
    return logwatch.judge(ground.third.lines(), watch.replicated, held, logs)


@pytest.mark.parametrize("kind", weblog.KINDS)
def test_no_record_is_lost_or_written_twice(ground: weblog.Ground, kind: str) -> None:
    before = len(ground.third.lines())
    with logwatch.watched() as watch, weblog.asking():
        wait_for(
            lambda: len(ground.third.lines()) > before + logwatch.RATE // 4, "records", timeout_s=20
        )
        ground.fail(kind, watch=watch, for_s=0.3)
    found = judged(ground, watch)
    assert found.faults == []
    said = weblog.asked()
    assert said["connections"] > 1
    assert found.records > before + logwatch.RATE // 2
    assert sum(watch.replicated.values()) > 0


def test_a_client_that_stands_still_catches_up(ground: weblog.Ground) -> None:
    pid = processes.pid_of(weblog.CLIENT)
    assert pid is not None
    before = len(ground.third.lines())
    with logwatch.watched() as watch, weblog.asking():
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        os.kill(pid, signal.SIGCONT)
        wait_for(
            lambda: len(ground.third.lines()) > before + logwatch.RATE * STOPPED_S / 2,
            "the client to catch up",
            timeout_s=20,
        )
    assert judged(ground, watch).faults == []


def test_the_judge_sees_what_is_wrong() -> None:
    line = b'a 1 %d 10.0.0.1 - - [x] "GET /n/%d HTTP/1.1" 200 2'
    fine = [line % (number, number) for number in range(10)]
    key = ("a", 1)
    assert logwatch.judge(fine, {key: 10}, {key: 10}).faults == []
    assert logwatch.judge(fine[:9], {key: 10}, {}).lost
    assert logwatch.judge(fine[:9], {}, {key: 10}).missing
    twice = logwatch.judge([*fine, fine[3]], {}, {})
    assert len(twice.twice) == 2
    assert twice.disorder
    assert logwatch.judge([fine[1], fine[0]], {}, {}).disorder
    log = [each.split(b" ", 3)[3] for each in fine]
    assert logwatch.judge(fine, {}, {}, {"a": log}).faults == []
    assert logwatch.judge(fine[1:], {}, {}, {"a": log}).unwritten
