# SPDX-License-Identifier: Apache-2.0
"""What a reload puts into force at once, and what it leaves for a restart."""

from msgspec.structs import replace

from twinbeat.config.model import Config
from twinbeat.config.nodes import LinkSection, NodeSection, PairSection, PeerSection
from twinbeat.config.service import VridSection
from twinbeat.config.timers import TimersSection
from twinbeat.runtime.host import Lateness, fit
from twinbeat.runtime.reload import plan

US = 1_000

CONFIG = Config(
    node=NodeSection(name="a", index=0),
    pair=PairSection(id=1),
    peer=PeerSection(name="b"),
    links=(
        LinkSection(
            interface="ha0", name="ha0", number=0, local="169.254.10.1", peer="169.254.10.2"
        ),
        LinkSection(interface="lan0", name="lan0", number=1, local="10.77.0.1", peer="10.77.0.2"),
    ),
    vrids=(
        VridSection(id=51, interface="lan0", vips=("10.77.0.10",)),
        VridSection(id=52, interface="wan0", vips=("10.88.0.10",)),
    ),
    timers_set=TimersSection(profile="fast"),
)


def with_vips(*vips: str) -> Config:
    return replace(CONFIG, vrids=(replace(CONFIG.vrids[0], vips=vips), CONFIG.vrids[1]))


def test_the_same_file_changes_nothing() -> None:
    intent = plan(CONFIG, CONFIG)
    assert (intent.changes, intent.needs_restart, intent.addresses) == ((), (), False)
    assert intent.config == CONFIG


def test_addresses_and_timers_take_effect_at_once() -> None:
    wanted = replace(with_vips("10.77.0.11"), timers_set=TimersSection(profile="balanced"))
    intent = plan(CONFIG, wanted)
    assert intent.addresses
    assert intent.config.vrids[0].vips == ("10.77.0.11",)
    assert intent.config.timers.profile == "balanced"
    assert intent.needs_restart == ()


def test_what_needs_a_restart_keeps_its_value_and_is_named() -> None:
    wanted = replace(with_vips("10.77.0.11"), peer=PeerSection(name="c"))
    intent = plan(CONFIG, wanted)
    assert intent.config.peer == CONFIG.peer
    assert intent.needs_restart == ("peer.name",)
    assert intent.config.vrids[0].vips == ("10.77.0.11",), "the rest takes effect all the same"


def test_links_change_at_once() -> None:
    links = (replace(CONFIG.links[0], peer="169.254.10.3"), CONFIG.links[1])
    intent = plan(CONFIG, replace(CONFIG, links=links))
    assert intent.links
    assert intent.config.links == links
    assert intent.needs_restart == ()


def test_a_vrid_comes_and_goes_at_once() -> None:
    fewer = replace(CONFIG, vrids=CONFIG.vrids[:1])
    for before, after in ((CONFIG, fewer), (fewer, CONFIG)):
        intent = plan(before, after)
        assert intent.addresses
        assert intent.config.vrids == after.vrids
        assert intent.needs_restart == ()


def test_a_vrid_that_stays_keeps_its_port_until_a_restart() -> None:
    moved = (replace(CONFIG.vrids[0], interface="wan0", vips=("10.77.0.11",)), *CONFIG.vrids[1:])
    intent = plan(CONFIG, replace(CONFIG, vrids=moved))
    assert intent.needs_restart == ("vrid[51].interface",)
    assert intent.config.vrids[0] == replace(CONFIG.vrids[0], vips=("10.77.0.11",))


class TestHost:
    """Timers that the host can't hold are raised together, or refused."""

    def late(self, p90_us: int) -> Lateness:
        return Lateness(
            median_ns=p90_us * US // 2,
            p90_ns=p90_us * US,
            p99_ns=p90_us * US * 2,
            max_ns=p90_us * US * 9,
            realtime=True,
        )

    def test_a_punctual_host_keeps_them(self) -> None:
        fitting = fit(CONFIG, self.late(150))
        assert fitting.config is CONFIG
        assert not fitting.raised
        assert not fitting.refused

    def test_a_late_one_has_them_raised_together(self) -> None:
        before, fitting = CONFIG.timers, fit(CONFIG, self.late(450))
        after = fitting.config.timers
        assert "450 µs" in fitting.raised
        for key in ("hello_us", "dead_us", "verify_us", "stall_us", "lease_us"):
            assert getattr(after, key) == 3 * getattr(before, key), key
        assert after.attest_ms == before.attest_ms

    def test_a_hopeless_one_is_refused_with_a_way_out(self) -> None:
        fitting = fit(CONFIG, self.late(5_000))
        assert "accept_host" in fitting.refused

    def test_an_operator_who_knows_is_obeyed(self) -> None:
        known = replace(CONFIG, timers_set=TimersSection(profile="fast", accept_host=True))
        assert fit(known, self.late(5_000)).config is known
