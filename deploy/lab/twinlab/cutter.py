# SPDX-License-Identifier: Apache-2.0
"""Cutting cables: one word per node, read by the programs on all of its switch ports.

Each of a node's three switch ports carries two programs of a dozen instructions: XDP on what the
node sends, tc egress on what is sent to the node.  Both test their own bit of *one* 64-bit word
that the ports of a node share.  One store into that word therefore cuts every link of the node in
both directions between two packets: a death by power failure, seen from the network, without any
carrier falling.  The XDP program has a second purpose: the kernel delivers a node's XDP_TX frames
over a veth only if the other end has an XDP program too.

The programs are assembled here rather than compiled: at this size the instructions are the plainest
form, and the lab needs neither compiler nor loader for them.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import struct
from collections.abc import Iterator
from pathlib import Path

from twinlab import plan
from twinlab.shell import LabError, run

SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}.get(platform.machine(), 321)
BPF_MAP_CREATE, BPF_MAP_LOOKUP, BPF_MAP_UPDATE = 0, 1, 2
BPF_PROG_LOAD, BPF_OBJ_PIN, BPF_OBJ_GET = 5, 6, 7
BPF_MAP_TYPE_ARRAY = 2
BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_XDP = 3, 6
XDP_DROP, XDP_PASS = 1, 2
TC_ACT_OK, TC_ACT_SHOT = 0, 2

OUT, IN = "out", "in"
"""Seen from the node: `out` is what it sends, `in` what is sent to it."""
DIRECTIONS = (OUT, IN)

COUNTERS = len(plan.LINKS) * len(DIRECTIONS)
CUT_WORD = struct.Struct(f"=Q{COUNTERS}Q")
"""The shared map value: the drop bits, then one counter of dropped frames per bit."""

_libc = ctypes.CDLL(None, use_errno=True)


def bit_of(link: str, direction: str) -> int:
    """Which bit (and counter) belongs to a direction of a link."""
    return 2 * plan.LINKS.index(link) + DIRECTIONS.index(direction)


ALL_BITS = (1 << COUNTERS) - 1


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, 128)
    result: int = _libc.syscall(SYS_BPF, command, buffer, len(buffer))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return struct.pack("=BBhi", code, dst | src << 4, offset, imm)


def _program(map_fd: int, bit: int, *, passed: int, dropped: int) -> bytes:
    """`return word & 1 << bit ? (counter[bit]++, dropped) : passed`."""
    return b"".join(
        (
            # r1 = address of the map value: a constant, so there is no lookup and no null check.
            _instruction(0x18, dst=1, src=2, imm=map_fd),
            _instruction(0x00, imm=0),
            _instruction(0x79, dst=2, src=1, offset=0),  # r2 = *(u64 *)r1
            _instruction(0x45, dst=2, offset=2, imm=1 << bit),  # if r2 & bit: skip two
            _instruction(0xB7, dst=0, imm=passed),  # r0 = passed
            _instruction(0x95),  # exit
            _instruction(0xB7, dst=3, imm=1),  # r3 = 1
            _instruction(0xDB, dst=1, src=3, offset=8 + 8 * bit),  # lock *(u64 *)(r1 + …) += r3
            _instruction(0xB7, dst=0, imm=dropped),  # r0 = dropped
            _instruction(0x95),  # exit
        )
    )


def _load(program_type: int, name: str, instructions: bytes) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    # GPL is the one licence string the kernel knows that also fits these programs.
    licence = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(4096)
    attributes = struct.pack(
        "=IIQQIIQII16s",
        program_type,
        len(instructions) // 8,
        _address(code),
        _address(licence),
        1,
        len(log),
        _address(log),
        0,
        0,
        name.encode()[:15],
    )
    try:
        return _bpf(BPF_PROG_LOAD, attributes)
    except OSError as error:
        words = log.value.decode(errors="replace").strip() or error.strerror
        raise LabError(f"loading the cut program {name}: {words}") from error


def _pin(fd: int, path: Path) -> None:
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(BPF_OBJ_PIN, struct.pack("=QII", _address(name), fd, 0))


def _open_pin(path: Path) -> int:
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(BPF_OBJ_GET, struct.pack("=QII", _address(name), 0, 0))


class CutWord:
    """The open cut word of one node.  Reading and storing it cost one system call each."""

    def __init__(self, node: str) -> None:
        try:
            self._fd = _open_pin(plan.BPF_DIR / f"cut-{node}")
        except OSError as error:
            raise LabError("the lab is not up (start it with `lab up`)") from error
        self._key = ctypes.create_string_buffer(4)
        self._value = ctypes.create_string_buffer(CUT_WORD.size)
        self._lookup = struct.pack(
            "=IIQQQ", self._fd, 0, _address(self._key), _address(self._value), 0
        )

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> CutWord:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> tuple[int, ...]:
        _bpf(BPF_MAP_LOOKUP, self._lookup)
        return CUT_WORD.unpack(self._value.raw[: CUT_WORD.size])

    @property
    def bits(self) -> int:
        return self._read()[0]

    def store(self, bits: int) -> None:
        """Make `bits` the word.  Counters restart: they count since the last cut or heal."""
        new = ctypes.create_string_buffer(CUT_WORD.pack(bits, *[0] * COUNTERS), CUT_WORD.size)
        _bpf(
            BPF_MAP_UPDATE,
            struct.pack("=IIQQQ", self._fd, 0, _address(self._key), _address(new), 0),
        )

    def dropped(self) -> dict[str, dict[str, int]]:
        """Frames dropped since the word was last stored, by link and direction."""
        counters = self._read()[1:]
        return {
            link: {direction: counters[bit_of(link, direction)] for direction in DIRECTIONS}
            for link in plan.LINKS
        }


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """The value of a pinned, mmapable one-entry array as 64-bit words, shared with the kernel.

    For tests that have to do to an agent's map what its kernel programs do, one word at a time.
    """
    fd = _open_pin(path)
    try:
        memory = mmap.mmap(fd, mmap.PAGESIZE)
    finally:
        os.close(fd)
    words = memoryview(memory).cast("Q")
    try:
        yield words
    finally:
        words.release()
        memory.close()


def install(node: str) -> None:
    """Make the node's cut word and put its programs on the node's three switch ports."""
    name = ctypes.create_string_buffer(b"cut_word", 16)
    map_fd = _bpf(
        BPF_MAP_CREATE,
        struct.pack("=IIIIIII16s", BPF_MAP_TYPE_ARRAY, 4, CUT_WORD.size, 1, 0, 0, 0, name.raw),
    )
    try:
        _pin(map_fd, plan.BPF_DIR / f"cut-{node}")
        for link, switch in plan.SWITCHES.items():
            _install_port(map_fd, node, link, switch)
    finally:
        os.close(map_fd)


def _install_port(map_fd: int, node: str, link: str, switch: str) -> None:
    programs = (
        (OUT, BPF_PROG_TYPE_XDP, XDP_PASS, XDP_DROP),
        (IN, BPF_PROG_TYPE_SCHED_CLS, TC_ACT_OK, TC_ACT_SHOT),
    )
    paths: dict[str, Path] = {}
    for direction, program_type, passed, dropped in programs:
        code = _program(map_fd, bit_of(link, direction), passed=passed, dropped=dropped)
        fd = _load(program_type, f"cut_{link}_{direction}", code)
        paths[direction] = plan.BPF_DIR / f"{node}-{link}-{direction}"
        try:
            _pin(fd, paths[direction])
        finally:
            os.close(fd)
    enter = ("nsenter", f"--net={plan.NETNS_DIR / switch}")
    # Native mode or nothing: only native XDP at this end brings the node's XDP_TX frames back.
    run([*enter, "ip", "link", "set", "dev", node, "xdpdrv", "pinned", str(paths[OUT])])
    run([*enter, "tc", "qdisc", "add", "dev", node, "clsact"])
    run(
        [
            *[*enter, "tc", "filter", "add", "dev", node, "egress"],
            *["bpf", "direct-action", "object-pinned", str(paths[IN])],
        ]
    )
    for path in paths.values():
        # The ports hold the programs from here on; the pins were only the way there.
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def set_bits(node: str, bits: int, *, value: bool) -> int:
    """Set or clear bits of a node's word in one store; returns the new word."""
    with CutWord(node) as word:
        new = word.bits | bits if value else word.bits & ~bits
        word.store(new)
        return new
