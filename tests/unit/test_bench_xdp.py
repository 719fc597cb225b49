# SPDX-License-Identifier: Apache-2.0
"""What a packet costs is judged by the dearest kind that has nothing to do with us."""

import pytest

from unit.bench_material import measures_xdp


@pytest.mark.parametrize(
    ("dearest", "said"),
    [("unrelated", "TCP"), ("unrelated_ipv6", "IPv6"), ("unrelated_arp", "ARP")],
)
def test_the_dearest_kind_of_unrelated_packet_is_judged(dearest: str, said: str) -> None:
    costs = {kind: [20.0, 21.0, 99.0] for kind in measures_xdp.KINDS}
    costs[dearest] = [30.0, 31.0, 32.0]
    costs |= {"hello": [378.0], "probe": [585.0], "forged": [252.0], "egress": [40.0]}
    figures = {one.spec.name: one for one in measures_xdp.judged(costs)}
    assert set(figures) == {"xdp_hello", "xdp_probe", "xdp_unrelated"}
    assert figures["xdp_unrelated"].values == (30.0, 31.0, 32.0)
    assert said in figures["xdp_unrelated"].note
