# SPDX-License-Identifier: Apache-2.0
"""The dissector, by a real tshark, on frames that the real engine and the kernel's rules made."""

import ctypes
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from twinbeat.engine import abi
from twinbeat.engine._engine import ffi, lib
from twinbeat.engine.step import Kernel
from twinbeat.engine.types import Admin, FrameType, Role, WireConfig

HERE = Path(__file__).parents[2] / "deploy" / "wireshark"
US = 1000
NOW = 5_000_000 * US
SECRET = bytes.fromhex("00112233445566778899aabbccddeeff")
OTHER = bytes.fromhex("ffeeddccbbaa99887766554433221100")
PAIR = 4_000_000_001
PROPOSED = {"number": 9, "hello_us": 201, "dead_us": 602, "verify_us": 303, "stall_us": 2004}
MOVED = {
    "lease_full_us": "proposal_lease_us",
    "hello_us": "proposal_hello_us",
    "verify_us": "proposal_verify_us",
    "hold_us": "proposal_dead_us",
    "generation": "proposal_number",
    "digest": "proposal_stall_us",
}
"""What fields of a HELLO with a proposal hold instead (struct tb_proposal)."""


def kernel(node: int, secret: bytes = SECRET) -> Kernel:
    """A node's maps, every word of which is one that no other word has."""
    made = Kernel(WireConfig(pair=PAIR, node=node, keys=((7, secret), (9, OTHER))))
    made.gate.counter = 0xA1B2C3D4_00000010 + node
    made.maps.peer.epoch = 0xA1B2C3D4
    words = made.maps.self
    words.fresh_from = 1
    words.highest = 0xFEDC_BA98_7654_3210
    words.health = 951
    words.dead_us, words.lease_full_us, words.hello_us, words.verify_us = 601, 10_007, 211, 307
    words.generation, words.digest = 41, 0x8899AABB
    return made


def serve(node: Kernel, term: int) -> None:
    node.gate.term = term
    node.gate.open_until = NOW + 9_999 * US
    node.maps.self.role = Role.PRIMARY


def packet(frame: bytes, node: int, at_us: int, *, keep: int | None = None) -> bytes:
    """A record of a capture file: Ethernet, IPv4, UDP; `keep` bytes of the frame were captured."""
    udp = struct.pack("!HHHH", 49664, abi.PORT, 8 + len(frame), 0)
    addresses = bytes((169, 254, 10, 1 + node, 169, 254, 10, 2 - node))
    ip = struct.pack("!BBHHHBBH", 0x45, 0xC0, 28 + len(frame), 0, 0x4000, 255, 17, 0) + addresses
    whole = bytes(12) + b"\x08\x00" + ip + udp + frame
    kept = whole if keep is None else whole[: 42 + keep]
    return struct.pack("<IIII", 1, at_us, len(kept), len(whole)) + kept


def capture(path: Path, *packets: bytes) -> Path:
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + b"".join(packets))
    return path


def keys(directory: Path, secret: bytes = SECRET) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "7.key").write_text(secret.hex() + "\n")
    return directory


def tshark(file: Path, *arguments: str, secrets: Path | None = None) -> str:
    """What tshark prints; it has to end well and to complain of nothing."""
    home = file.parent / "home"
    shutil.copytree(HERE, home / "wireshark", dirs_exist_ok=True)
    command = ["tshark", "-2", "-X", f"lua_script:{HERE / 'twinbeat.lua'}", "-r", str(file)]
    if secrets is not None:
        command += ["-o", f"twinbeat.keys_directory:{secrets}"]
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"XDG_CONFIG_HOME": str(home), "HOME": str(home)},
    )
    said = [line for line in done.stderr.splitlines() if "could be dangerous" not in line]
    assert (done.returncode, said) == (0, []), done.stderr
    return done.stdout


def dissected(file: Path, secrets: Path | None = None) -> list[dict[str, list[str]]]:
    """Every field of the protocol in every packet, by its name."""
    packets = json.loads(tshark(file, "-T", "json", "--no-duplicate-keys", secrets=secrets))
    return [fields_of(each["_source"]["layers"].get("twinbeat", {})) for each in packets]


def fields_of(tree: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}

    def visit(name: str, value: Any) -> None:
        match value:
            case dict():
                for inner, each in value.items():
                    visit(inner, each)
            case list():
                for each in value:
                    visit(name, each)
            case _:
                found.setdefault(name.removeprefix("twinbeat."), []).append(str(value))

    visit("", tree)
    return found


def number(text: str) -> int:
    return {"True": 1, "False": 0}[text] if text in {"True", "False"} else int(text, 0)


def written(frame: bytes) -> dict[str, list[int]]:
    """What a frame holds, as `engine.abi` reads it: compared with the header by tests/bpf."""
    value = abi.Frame.from_buffer_copy(frame)
    names = [name for name, *_ in abi.Frame._fields_ if name != "mac"]
    words = {name: getattr(value, name) for name in names}
    lists = {n: list(w) if isinstance(w, ctypes.Array) else [w] for n, w in words.items()}
    return lists | {"mac": [int.from_bytes(bytes(value.mac), "little")]}


def test_every_field_is_what_was_written(tmp_path: Path) -> None:
    primary = kernel(1)
    serve(primary, 0x1122_3344_5566_7788)
    primary.maps.self.claim = 0x1122_3344_5566_7789
    primary.maps.self.admin = Admin.STAY_PRIMARY
    primary.gate.fence_below = 0x1122_3344_5566_0000
    proposal = ffi.new("struct tb_proposal *", {**PROPOSED, "lease_us": 10_005})
    proposal.flags = abi.Flag.PROPOSAL
    told = {"echo": 0x99887766_55443322, "echo_ns": 1234567890123, "hold_ns": 77 * US}
    frames = [primary.frame(kind, 5, NOW, **told) for kind in FrameType]
    frames.append(primary.frame(FrameType.HELLO, 6, NOW, proposal=proposal))
    packets = [packet(frame, 1, at) for at, frame in enumerate(frames)]
    file = capture(tmp_path / "all.pcap", *packets)

    for frame, shown in zip(frames, dissected(file, keys(tmp_path / "keys")), strict=True):
        expected = written(frame)
        if expected["flags"][0] & abi.Flag.PROPOSAL:
            expected = {MOVED.get(name, name): value for name, value in expected.items()}
        found = {name: [number(value) for value in shown[name]] for name in expected}
        assert found == expected
        assert shown["mac_status"] == ["good"]
        counter = expected["counter"][0]
        assert number(shown["counter_epoch"][0]) == counter >> 32
        assert number(shown["counter_sequence"][0]) == counter & 0xFFFFFFFF
    assert expected["proposal_number"] == [9]
    assert expected["proposal_dead_us"] == [602]


def test_every_flag_has_its_name(tmp_path: Path) -> None:
    node = kernel(0)
    kernel_s_own = abi.Flag.OPEN | abi.Flag.CONTESTED  # those it takes from the gate's words
    frames = []
    for flag in abi.Flag:
        node.maps.self.flags = flag & ~kernel_s_own
        if flag & kernel_s_own:
            serve(node, 3)
            node.gate.contested = 3 * (flag == abi.Flag.CONTESTED)
        frames.append(node.frame(FrameType.PROBE, 0, NOW))
        node.gate.term = 0
    file = capture(tmp_path / "flags.pcap", *(packet(frame, 0, 0) for frame in frames))
    for flag, shown in zip(abi.Flag, dissected(file), strict=True):
        set_ = {name for name, value in shown.items() if name[:6] == "flags_" and number(value[0])}
        assert set_ == {f"flags_{str(flag.name).lower()}"}


def test_what_is_left_of_a_pause_is_shown(tmp_path: Path) -> None:
    node = kernel(0)
    said = []
    for left_ns in (0, 20 * 10**6, 30 * 60 * 10**9):
        code = lib.tb_pause_said(left_ns) if left_ns else 0
        node.maps.self.flags = abi.Flag.PAUSED | code
        said.append(node.frame(FrameType.HELLO, 0, NOW))
    file = capture(tmp_path / "pause.pcap", *(packet(frame, 0, 0) for frame in said))
    endless, short, long = dissected(file)
    assert "pause_left_ms" not in endless
    assert float(short["pause_left_ms"][0]) == 20
    assert 1_800_000 <= float(long["pause_left_ms"][0]) <= 1_800_000 * 33 / 32
    assert "unknown" not in long


def test_claims_receipts_probes_and_answers(tmp_path: Path) -> None:
    old, new = kernel(0), kernel(1)
    serve(old, 500)
    new.maps.self.role = Role.CLAIMING
    new.maps.self.claim = 503
    new.maps.self.flags = abi.Flag.CLAIMING
    hello = old.frame(FrameType.HELLO, 2, NOW)
    probe = new.frame(FrameType.PROBE, 2, NOW + 10 * US)
    answer = old.receive(2, probe, NOW + 13 * US).answer
    assert answer is not None, "the real rules answer it, fenced"
    records = [packet(hello, 0, 0), packet(probe, 1, 10), packet(answer, 0, 13)]
    file = capture(tmp_path / "claim.pcap", *records)
    secrets = keys(tmp_path / "keys")

    first, second, third = dissected(file, secrets)
    assert "receipt" not in first
    assert (second["answer_in"], third["answer_to"]) == (["3"], ["2"])
    assert float(third["answer_us"][0]) == pytest.approx(3, abs=0.01)
    assert third["receipt"] == ["503"]
    infos = tshark(file, "-T", "fields", "-e", "_ws.col.Info", secrets=secrets).splitlines()
    assert infos == [
        "HELLO, node 0, link 2, primary, OPEN term 500",
        "PROBE, node 1, link 2, claiming, CLAIM 503",
        "ANSWER, node 0, link 2, primary, RECEIPT 503",
    ]
    colours = ("-T", "fields", "-e", "frame.coloring_rule.name", "--color")
    painted = tshark(file, *colours, secrets=secrets).splitlines()
    assert [line.rsplit(": ")[-1] for line in painted] == ["primary", "claim", "receipt"]
    notes = {name for shown in (second, third) for name in shown if name in NOTES}
    assert notes == {"claims", "receipts", "probes", "answers"}


NOTES = {"claims", "receipts", "probes", "answers", "two_open", "bad_mac", "bad_size", "no_key"}


def test_two_open_gates_are_shown(tmp_path: Path) -> None:
    one, other = kernel(0), kernel(1)
    serve(one, 500)
    serve(other, 503)
    frames = [packet(one.frame(FrameType.HELLO, 0, NOW), 0, 0)]
    frames.append(packet(other.frame(FrameType.HELLO, 0, NOW), 1, 50))
    # Long after the lease of the first: that one may well be shut by then.
    frames.append(packet(other.frame(FrameType.HELLO, 0, NOW), 1, 90_000))
    shown = dissected(capture(tmp_path / "two.pcap", *frames))
    assert ["two_open" in each for each in shown] == [False, True, False]


def test_a_bad_seal_is_shown_and_believed_in_nothing(tmp_path: Path) -> None:
    old, forger = kernel(0), kernel(1, OTHER)
    forger.maps.self.claim = 777
    old.gate.fence_below = 777
    frames = [forger.frame(FrameType.HELLO, 0, NOW), old.frame(FrameType.HELLO, 0, NOW)]
    file = capture(tmp_path / "bad.pcap", packet(frames[0], 1, 0), packet(frames[1], 0, 5))
    forged, true = dissected(file, keys(tmp_path / "keys"))
    assert (forged["mac_status"], true["mac_status"]) == (["bad"], ["good"])
    assert "bad_mac" in forged
    assert "receipt" not in true
    # One bit of any byte before the seal is enough.
    spoilt = [bytes(b ^ (at == i) for i, b in enumerate(frames[1])) for at in range(13, 120)]
    damaged = capture(tmp_path / "spoilt.pcap", *(packet(frame, 0, 0) for frame in spoilt))
    assert {each["mac_status"][0] for each in dissected(damaged, tmp_path / "keys")} == {"bad"}


@pytest.mark.parametrize("content", [None, "", "zz" * 16, "00" * 15, "00" * 17])
def test_without_a_key_seals_are_not_judged(content: str | None, tmp_path: Path) -> None:
    secrets = tmp_path / "keys"
    secrets.mkdir()
    if content is not None:
        (secrets / "7.key").write_text(content)
    frame = kernel(0).frame(FrameType.HELLO, 0, NOW)
    file = capture(tmp_path / "key.pcap", packet(frame, 0, 0))
    (shown,) = dissected(file, secrets)
    assert shown["mac_status"] == ["unverified"]
    assert "no_key" in shown


def test_truncated_and_foreign_frames_end_nothing(tmp_path: Path) -> None:
    frame = kernel(0).frame(FrameType.HELLO, 0, NOW)
    cut = [packet(frame, 0, 0, keep=size) for size in range(128)]
    short = [packet(frame[:size], 0, 0) for size in range(128)]
    longer = packet(frame + b"x", 0, 0)
    foreign = packet(b"not a heartbeat at all".ljust(128), 0, 0)
    future = packet(frame[:4] + b"\x09" + frame[5:], 0, 0)
    strange = packet(frame[:5] + b"\x63\x07" + frame[7:84] + b"\xff" * 6 + frame[90:], 0, 0)
    file = capture(tmp_path / "cut.pcap", *cut, *short, longer, foreign, future, strange)
    shown = dissected(file, keys(tmp_path / "keys"))
    assert len(shown) == 128 + 128 + 4
    assert all("cut" in each for each in shown[4:128])
    assert all("bad_size" in each for each in shown[128 + 4 : 257])
    assert shown[257] == {}
    assert "bad_version" in shown[258]
    assert "bad_value" in shown[259]
    assert "Lua" not in json.dumps(shown), "no script error was put into a tree"
