# SPDX-License-Identifier: Apache-2.0
"""What Python says of the C headers is what they say."""

import importlib.util
import re
from dataclasses import replace
from enum import IntEnum, IntFlag
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType

import pytest

from twinbeat.engine import types
from twinbeat.engine._engine import ffi, lib
from twinbeat.engine.convert import (
    announcements_to_c,
    config_to_c,
    link_to_c,
    order_to_c,
    schedule_to_c,
    settings_to_c,
)
from twinbeat.engine.engine import HISTOGRAMS
from twinbeat.engine.step import Kernel
from unit.engine_bench import FAST, ORDER

ROOT = Path(__file__).parents[2]

ENUMS = [
    (types.FrameType, "enum tb_type", "TB_"),
    (types.Flag, "enum tb_flag", "TB_F_"),
    (types.Role, "enum tb_role", "TB_ROLE_"),
    (types.Admin, "enum tb_admin", "TB_ADMIN_"),
    (types.Permit, "enum tb_permit", "TB_"),
    (types.Phase, "enum tb_phase", "TB_"),
    (types.Watch, "enum tb_watch", "TB_"),
    (types.Cause, "enum tb_cause", "TB_C_"),
    (types.EventKind, "enum tb_event_kind", "TB_E_"),
    (types.LinkMode, "enum tb_mode", "TB_MODE_"),
]


@pytest.mark.parametrize(("ours", "theirs", "prefix"), ENUMS, ids=str)
def test_enumerations_are_complete(
    ours: type[IntEnum] | type[IntFlag], theirs: str, prefix: str
) -> None:
    header = {
        name.removeprefix(prefix): value for value, name in ffi.typeof(theirs).elements.items()
    }
    assert {member.name: member.value for member in ours} == header


def test_histograms_have_the_header_s_names_and_order() -> None:
    names = [name for _, name in sorted(ffi.typeof("enum tb_histograms").elements.items())]
    assert names == [f"TB_H_{name.upper()}" for name in HISTOGRAMS] + ["TB_HISTOGRAMS"]


def build_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_engine", ROOT / "csrc/build_engine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stub_is_the_headers_own() -> None:
    stub = (ROOT / "agent/twinbeat/engine/_engine.pyi").read_text()
    assert stub == build_script().stub(), "csrc/build_engine.py --stub writes it anew"


def test_stub_knows_every_name_of_the_module() -> None:
    stub = (ROOT / "agent/twinbeat/engine/_engine.pyi").read_text()
    known = set(re.findall(r"^    (?:def )?(\w+)", stub, flags=re.MULTILINE))
    assert set(dir(lib)) <= known


def test_key_of_sixteen_bytes_gives_the_mac_of_the_paper() -> None:
    # The paper's vectors end below a frame's 120 bytes: the reference below is checked by one of
    # them, and the engine by the reference.
    key = bytes(range(16))
    kernel = Kernel(types.WireConfig(pair=1, node=0, keys=((1, key),)))
    kernel.gate.counter = 1 << 32
    frame = kernel.frame(types.FrameType.HELLO, 0, 12345)
    assert int.from_bytes(frame[120:], "little") == siphash(key, frame[:120])
    assert siphash(key, bytes(range(15))) == 0xA129CA6149BE45E5, "the paper's own example"


def siphash(key: bytes, data: bytes) -> int:
    mask = (1 << 64) - 1
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [
        k0 ^ 0x736F6D6570736575,
        k1 ^ 0x646F72616E646F6D,
        k0 ^ 0x6C7967656E657261,
        k1 ^ 0x7465646279746573,
    ]

    def rotate(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) & mask

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = (v[0] + v[1]) & mask
            v[1] = rotate(v[1], 13) ^ v[0]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = rotate(v[1], 17) ^ v[2]
            v[2] = rotate(v[2], 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_values_arrive_where_they_belong() -> None:
    order = order_to_c(
        replace(
            ORDER,
            lease_ns=5,
            resign_of=6,
            heard=7,
            facts=types.Facts(
                flags=types.Flag.FIT,
                role=types.Role.PRIMARY,
                admin=types.Admin.STAY_PRIMARY,
                health=900,
                generation=3,
                digest=4,
            ),
        ),
        77,
    )
    assert (order.generation, order.attested_until_ns, order.lease_ns) == (1, 77, 5)
    assert (order.role, order.admin, order.health) == (3, 1, 900)
    assert (order.generation_shared, order.digest, order.resign_of) == (3, 4, 6)
    assert order.heard == 7
    settings = settings_to_c(FAST)
    assert settings.timers.hello == FAST.timers.hello_ns
    assert settings.timers.lease == FAST.timers.lease_ns
    config = config_to_c(
        types.WireConfig(pair=9, node=1, keys=((3, bytes(16)), (4, b"\1" + bytes(15))), send_key=1)
    )
    assert (config.pair, config.node, config.send_key, config.port) == (9, 1, 1, 3003)
    assert (config.keys[1].id, config.keys[1].k0) == (4, 1)


LINK = types.Link(
    number=0, ifindex=2, local=ip_address("fd77::1"), peer=ip_address("fd77::2"), vlan=5
)


def test_link_and_announcements_arrive_where_they_belong() -> None:
    c = ffi.new("struct tb_link_setup *")
    link_to_c(LINK, 3003, c)
    assert (c.ifindex, c.path.family, c.path.vlan, c.path.ttl) == (2, 6, 5, 255)
    assert bytes(c.path.peer) == ip_address("fd77::2").packed
    many = announcements_to_c(
        [types.Announcement(ifindex=4, mac=b"abcdef", address=ip_address("10.0.0.1"), reply=True)]
    )
    assert (many[0].ifindex, many[0].family, many[0].reply) == (4, 4, 1)
    assert bytes(many[0].mac) == b"abcdef"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: config_to_c(types.WireConfig(pair=1, node=0, keys=())),
        lambda: config_to_c(types.WireConfig(pair=1, node=0, keys=((1, b"short"),))),
        lambda: config_to_c(types.WireConfig(pair=1, node=0, keys=((256, bytes(16)),))),
        lambda: config_to_c(types.WireConfig(pair=1, node=0, keys=((1, bytes(16)),), send_key=1)),
        lambda: order_to_c(replace(ORDER, generation=-1), 0),
        lambda: order_to_c(replace(ORDER, facts=types.Facts(health=65536)), 0),
        lambda: schedule_to_c(types.AnnounceSchedule(repeats_ns=(2, 1))),
        lambda: schedule_to_c(types.AnnounceSchedule(repeats_ns=tuple(range(17)))),
        lambda: link_to_c(
            replace(LINK, peer=ip_address("10.0.0.1")), 3003, ffi.new("struct tb_link_setup *")
        ),
        lambda: link_to_c(replace(LINK, peer_mac=b"x"), 3003, ffi.new("struct tb_link_setup *")),
    ],
)
def test_values_that_do_not_fit_are_refused(wrong: object) -> None:
    with pytest.raises((ValueError, OverflowError)):
        wrong()  # type: ignore[operator]
