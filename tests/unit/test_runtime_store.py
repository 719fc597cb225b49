# SPDX-License-Identifier: Apache-2.0
"""The disk: what a power cut at any step leaves behind, and what a run makes of it."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twinbeat.core.types import FOREVER, SECOND, Admin, Durable, Intervals, TermBlock, Wish
from twinbeat.runtime.store import PeerFile, Store, StoreError, refused, write_whole


class PowerCut(BaseException):
    """Ends a write in the middle, as a cut does: nothing after it runs."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return at(tmp_path)


def at(directory: Path, *, wall_s: int = 1_000, boot: str = "first") -> Store:
    store = Store(directory, wall_s=lambda: wall_s, boot=lambda: boot)
    store.prepare()
    return store


class TestPowerCut:
    """A cut before the rename leaves the old content, one after it the new."""

    @pytest.mark.parametrize(
        ("call", "survives"), [("write", "old"), ("fsync", "old"), ("replace", "old")]
    )
    def test_at_each_step(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, survives: str
    ) -> None:
        path = tmp_path / "file"
        write_whole(path, b"old")

        def cut(*_args: Any, **_kwargs: Any) -> None:
            raise PowerCut

        with monkeypatch.context() as patch:
            patch.setattr(*((Path, "replace") if call == "replace" else (os, call)), cut)
            with pytest.raises(PowerCut):
                write_whole(path, b"new")
        assert path.read_bytes().decode() == survives

    def test_leftovers_are_removed_and_never_read(self, tmp_path: Path) -> None:
        at(tmp_path).reserve_terms(1, 100)
        (tmp_path / "terms.json.new").write_text('{"reserved_to": 7')
        store = at(tmp_path)
        assert store.terms_reserved_to() == 100
        assert [file.name for file in tmp_path.iterdir()] == ["terms.json"]

    def test_the_content_is_synced_before_it_gets_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done: list[str] = []
        fsync, replace = os.fsync, Path.replace
        monkeypatch.setattr(os, "fsync", lambda fd: (done.append("fsync"), fsync(fd))[1])
        monkeypatch.setattr(
            Path, "replace", lambda self, to: (done.append("rename"), replace(self, to))[1]
        )
        write_whole(tmp_path / "file", b"new")
        assert done == ["fsync", "rename", "fsync"], "content, name, directory"


class TestBrokenFiles:
    @pytest.mark.parametrize(
        "content", [b"", b"{", b'{"reserved_to": "many"}', b"\0" * 4096, b'{"schema": 1}']
    )
    def test_are_set_aside_and_count_as_absent(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "terms.json").write_bytes(content)
        store = at(tmp_path)
        assert store.terms_reserved_to() == 0
        assert (tmp_path / "terms.json.broken-1000").read_bytes() == content
        assert len(store.complaints) == 1
        assert "set aside" in store.complaints[0]
        assert store.reserve_terms(1, 8) == TermBlock(first=1, last=8)

    def test_a_disk_that_refuses_is_an_error_with_the_file_in_it(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "gone")
        with pytest.raises(StoreError, match=r"terms\.json"):
            store.reserve_terms(1, 8)

    def test_what_can_be_done_about_it_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="something else has the place of a directory"):
            Store(tmp_path / "file" / "below").prepare()
        read_only = refused("writing x", OSError(errno.EROFS, "Read-only file system"))
        assert read_only == "writing x: Read-only file system; mount the file system writable"
        assert refused("writing x", OSError(errno.EFBIG, "too big")) == "writing x: too big"


class TestTerms:
    def test_a_reservation_only_grows(self, store: Store) -> None:
        store.reserve_terms(1, 100)
        store.reserve_terms(1, 50)
        assert store.terms_reserved_to() == 100

    def test_survives_a_restart(self, tmp_path: Path) -> None:
        at(tmp_path).reserve_terms(1, 1024)
        assert at(tmp_path).terms_reserved_to() == 1024


class TestEpoch:
    def test_grows_with_the_clock(self, tmp_path: Path) -> None:
        assert at(tmp_path, wall_s=1_000).raise_epoch() == 1_000
        assert at(tmp_path, wall_s=2_000).raise_epoch() == 2_000

    def test_grows_though_the_clock_was_set_back(self, tmp_path: Path) -> None:
        assert at(tmp_path, wall_s=1_000).raise_epoch() == 1_000
        assert at(tmp_path, wall_s=10).raise_epoch() == 1_001

    def test_grows_though_the_disk_was_lost(self, tmp_path: Path) -> None:
        before = at(tmp_path / "old", wall_s=1_000).raise_epoch()
        assert at(tmp_path / "new", wall_s=1_060).raise_epoch() > before

    def test_lies_above_what_the_gate_map_holds(self, store: Store) -> None:
        assert store.raise_epoch(at_least=5_000) == 5_000

    def test_is_on_disk_before_it_is_used(self, tmp_path: Path) -> None:
        epoch = at(tmp_path).raise_epoch()
        assert f'"epoch":{epoch}' in (tmp_path / "epoch.json").read_text()


def test_the_peers_position(store: Store) -> None:
    assert store.peer() is None
    store.keep_peer(epoch=7, counter=7 << 32 | 9)
    assert store.peer() == PeerFile(epoch=7, counter=7 << 32 | 9)


class TestDurable:
    NOW = 50 * SECOND
    WILL = Durable(
        admin=Admin.STAY_SECONDARY,
        last_primary=True,
        peer_known=True,
        peer_paused_until_ns=FOREVER,
        peer_pause_over=True,
        paused_until_ns=NOW + 100 * SECOND,
        pause_reason="new switch",
        pause_since_ns=NOW - SECOND,
    )

    def test_survives_a_restart_of_the_agent(self, tmp_path: Path) -> None:
        at(tmp_path).save(self.WILL, now_ns=self.NOW)
        assert at(tmp_path).durable(now_ns=self.NOW + 1) == self.WILL

    def test_what_is_left_of_a_pause_survives_a_reboot(self, tmp_path: Path) -> None:
        at(tmp_path, wall_s=1_000).save(self.WILL, now_ns=self.NOW)
        after = at(tmp_path, boot="second", wall_s=1_040).durable(now_ns=7 * SECOND)
        assert after == replace(self.WILL, paused_until_ns=(7 + 60) * SECOND, pause_since_ns=0)

    def test_a_pause_that_ran_out_while_rebooting_is_over(self, tmp_path: Path) -> None:
        at(tmp_path, wall_s=1_000).save(self.WILL, now_ns=self.NOW)
        after = at(tmp_path, boot="second", wall_s=1_101).durable(now_ns=7 * SECOND)
        assert after == replace(self.WILL, paused_until_ns=0, pause_reason="", pause_since_ns=0)

    def test_the_peer_s_pause_ends_over_a_reboot_as_well(self, tmp_path: Path) -> None:
        will = replace(self.WILL, peer_paused_until_ns=self.NOW + 50 * SECOND)
        at(tmp_path, wall_s=1_000).save(will, now_ns=self.NOW)
        assert at(tmp_path, wall_s=1_000).durable(now_ns=self.NOW) == will
        after = at(tmp_path, boot="second", wall_s=1_040).durable(now_ns=7 * SECOND)
        assert after.peer_paused_until_ns == (7 + 10) * SECOND
        assert not at(tmp_path, boot="third", wall_s=1_051).durable(now_ns=SECOND).peer_paused

    def test_an_older_version_knew_of_no_end(self, tmp_path: Path) -> None:
        (tmp_path / "operator.json").write_text('{"peer_paused": true, "boot": "first"}')
        assert at(tmp_path).durable(now_ns=0).peer_paused_until_ns == FOREVER

    def test_a_pause_without_end_has_none(self, tmp_path: Path) -> None:
        will = replace(self.WILL, paused_until_ns=FOREVER)
        at(tmp_path).save(will, now_ns=self.NOW)
        assert at(tmp_path, boot="second").durable(now_ns=self.NOW) == replace(
            will, pause_since_ns=0
        )

    @pytest.mark.parametrize(
        "wish",
        [
            Wish(),
            Wish(number=7),
            Wish(
                number=3,
                intervals=Intervals(
                    hello_us=200, dead_us=600, verify_us=300, stall_us=2_000, lease_us=10_000
                ),
                even_so=True,
            ),
        ],
    )
    def test_intervals_that_were_set_are_kept(self, tmp_path: Path, wish: Wish) -> None:
        at(tmp_path).save(Durable(wish=wish), now_ns=0)
        assert at(tmp_path).durable(now_ns=0).wish == wish

    def test_nothing_known_is_the_default(self, store: Store) -> None:
        assert store.durable(now_ns=1) == Durable()

    def test_is_private(self, tmp_path: Path) -> None:
        at(tmp_path).save(self.WILL, now_ns=self.NOW)
        assert (tmp_path / "operator.json").stat().st_mode & 0o077 == 0
