# SPDX-License-Identifier: Apache-2.0
"""The bpf(2) system call, as far as Twinbeat needs it: pins, maps, programs, test runs.

Knows the kernel's interface and nothing of Twinbeat: no map is named here. Pure ctypes, so that the
agent can open and read pinned maps without bcc, whose LLVM would cost it 130 MB.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Final

_SYSCALL: Final = {"x86_64": 321, "aarch64": 280}
"""Number of bpf(2) by machine; the others that Debian knows are big-endian or have 32 bits."""

OBJECT_NAME_MAX: Final = 15
BATCH_MAX: Final = 4096
"""Elements in one batch call: bounds the memory, and the time for which the kernel is busy."""


class _Command(IntEnum):
    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    PROG_GET_FD_BY_ID = 13
    OBJ_GET_INFO_BY_FD = 15
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27


class MapType(IntEnum):
    """enum bpf_map_type, those we use."""

    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6


class MapFlag(IntFlag):
    """Flags of a map."""

    NONE = 0
    MMAPABLE = 1 << 10


class ProgramType(IntEnum):
    """enum bpf_prog_type, those we use."""

    SCHED_CLS = 3
    XDP = 6


class BpfError(OSError):
    """The kernel refused a BPF operation; `what` says which, as a noun phrase."""

    def __init__(self, what: str, code: int, log: str = "") -> None:
        super().__init__(code, f"{what}: {os.strerror(code)}")
        self.what = what
        self.log = log
        """The verifier's words, where there are any."""

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapInfo:
    """What the kernel knows of a map."""

    id: int
    type: int
    key_size: int
    value_size: int
    entries: int
    flags: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramInfo:
    """What the kernel knows of a program."""

    id: int
    type: int
    tag: str
    name: str
    loaded_ns: int
    """CLOCK_BOOTTIME."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestRun:
    """What a program did with a packet."""

    __test__ = False  # not a test case, whatever pytest makes of its name

    verdict: int
    packet: bytes
    duration_ns: int
    """Of one repetition, on average."""


class _Create(ctypes.Structure):
    _fields_ = [
        ("map_type", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("numa_node", ctypes.c_uint32),
        ("map_name", ctypes.c_char * (OBJECT_NAME_MAX + 1)),
    ]


class _Element(ctypes.Structure):
    _fields_ = [
        ("map_fd", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("in_batch", ctypes.c_uint64),
        ("out_batch", ctypes.c_uint64),
        ("keys", ctypes.c_uint64),
        ("values", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("map_fd", ctypes.c_uint32),
        ("elem_flags", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    ]


class _Load(ctypes.Structure):
    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * (OBJECT_NAME_MAX + 1)),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
    ]


class _Object(ctypes.Structure):
    _fields_ = [
        ("pathname", ctypes.c_uint64),
        ("bpf_fd", ctypes.c_uint32),
        ("file_flags", ctypes.c_uint32),
    ]


class _Id(ctypes.Structure):
    _fields_ = [
        ("id", ctypes.c_uint32),
        ("next_id", ctypes.c_uint32),
        ("open_flags", ctypes.c_uint32),
    ]


class _Info(ctypes.Structure):
    _fields_ = [
        ("bpf_fd", ctypes.c_uint32),
        ("info_len", ctypes.c_uint32),
        ("info", ctypes.c_uint64),
    ]


class _MapInfo(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * (OBJECT_NAME_MAX + 1)),
    ]


class _ProgramInfo(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * (OBJECT_NAME_MAX + 1)),
    ]


class _Run(ctypes.Structure):
    _fields_ = [
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_uint64),
        ("ctx_out", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
    ]


_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _bpf(command: _Command, attributes: ctypes.Structure) -> int:
    """The system call; negative errno on failure."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        return -errno.ENOSYS
    result = int(
        _libc.syscall(
            ctypes.c_long(number),
            ctypes.c_int(command),
            ctypes.byref(attributes),
            ctypes.c_uint(ctypes.sizeof(attributes)),
        )
    )
    return -ctypes.get_errno() if result < 0 else result


def _checked(what: str, command: _Command, attributes: ctypes.Structure) -> int:
    result = _bpf(command, attributes)
    if result < 0:
        raise BpfError(what, -result)
    return result


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    # from_buffer_copy adds no terminating zero, and keys may hold zeroes anywhere.
    return (ctypes.c_char * max(len(data), 1)).from_buffer_copy(data or b"\0")


# Pins -----------------------------------------------------------------------------------------


def pin(fd: int, path: Path) -> None:
    """Give the object behind `fd` a name on a BPF file system; it lives as long as the name."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _checked(f"pinning {path}", _Command.OBJ_PIN, _Object(pathname=_address(name), bpf_fd=fd))


def open_pin(path: Path) -> int:
    """A new file descriptor (close-on-exec) of the object pinned at `path`."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _checked(f"opening {path}", _Command.OBJ_GET, _Object(pathname=_address(name)))


# Maps -----------------------------------------------------------------------------------------


def create_map(
    name: str, *, kind: MapType, key_size: int, value_size: int, entries: int, flags: MapFlag
) -> int:
    """A new map; returns its file descriptor."""
    return _checked(
        f"creating map {name}",
        _Command.MAP_CREATE,
        _Create(
            map_type=kind,
            key_size=key_size,
            value_size=value_size,
            max_entries=entries,
            map_flags=flags,
            map_name=name.encode(),
        ),
    )


def map_info(fd: int) -> MapInfo:
    """Type, sizes and name of a map."""
    info = _MapInfo()
    _checked(
        "looking at a map",
        _Command.OBJ_GET_INFO_BY_FD,
        _Info(bpf_fd=fd, info_len=ctypes.sizeof(info), info=ctypes.addressof(info)),
    )
    return MapInfo(
        id=info.id,
        type=info.type,
        key_size=info.key_size,
        value_size=info.value_size,
        entries=info.max_entries,
        flags=info.map_flags,
        name=info.name.decode(),
    )


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value under `key`, None if there is none. Per-CPU counters: see `Totals`."""
    key_buffer, value = _buffer(key), ctypes.create_string_buffer(value_size)
    result = _bpf(
        _Command.MAP_LOOKUP_ELEM,
        _Element(map_fd=fd, key=_address(key_buffer), value=_address(value)),
    )
    if result == -errno.ENOENT:
        return None
    if result < 0:
        raise BpfError("reading from a map", -result)
    return value.raw


class Totals:
    """Sums of an array of 64-bit counters that each processor has its own of.

    Its buffers are made once: the loop that decides reads some counters each second.
    """

    def __init__(self, fd: int) -> None:
        self._index = ctypes.c_uint32()
        self._values = (ctypes.c_uint64 * possible_cpus())()
        self._element = _Element(
            map_fd=fd, key=ctypes.addressof(self._index), value=ctypes.addressof(self._values)
        )

    def at(self, index: int) -> int:
        """What all processors have counted under `index`."""
        self._index.value = index
        _checked("reading a counter", _Command.MAP_LOOKUP_ELEM, self._element)
        return sum(self._values)


def update(fd: int, key: bytes, value: bytes) -> None:
    """Set the value under `key`; of a per-CPU map, the values of all processors in a row."""
    key_buffer, value_buffer = _buffer(key), _buffer(value)
    _checked(
        "writing to a map",
        _Command.MAP_UPDATE_ELEM,
        _Element(map_fd=fd, key=_address(key_buffer), value=_address(value_buffer)),
    )


def delete(fd: int, key: bytes) -> bool:
    """Remove `key`; False if it was not there."""
    key_buffer = _buffer(key)
    result = _bpf(_Command.MAP_DELETE_ELEM, _Element(map_fd=fd, key=_address(key_buffer)))
    if result == -errno.ENOENT:
        return False
    if result < 0:
        raise BpfError("deleting from a map", -result)
    return True


def keys(fd: int, key_size: int) -> Iterator[bytes]:
    """All keys of a map that nobody else changes meanwhile."""
    key, following = None, ctypes.create_string_buffer(key_size)
    while True:
        result = _bpf(
            _Command.MAP_GET_NEXT_KEY,
            _Element(map_fd=fd, key=_address(key) if key else 0, value=_address(following)),
        )
        if result == -errno.ENOENT:
            return
        if result < 0:
            raise BpfError("listing a map", -result)
        yield following.raw
        key = ctypes.create_string_buffer(following.raw, key_size)


def update_batch(fd: int, elements: Sequence[tuple[bytes, bytes]]) -> None:
    """Set many elements of a hash map, thousands in one call."""
    for at in range(0, len(elements), BATCH_MAX):
        chunk = elements[at : at + BATCH_MAX]
        key_buffer = _buffer(b"".join(key for key, _ in chunk))
        value_buffer = _buffer(b"".join(value for _, value in chunk))
        batch = _Batch(
            keys=_address(key_buffer),
            values=_address(value_buffer),
            count=len(chunk),
            map_fd=fd,
        )
        _checked("writing to a map", _Command.MAP_UPDATE_BATCH, batch)


def delete_batch(fd: int, names: Sequence[bytes]) -> None:
    """Remove many elements of a hash map, all of which must exist."""
    for at in range(0, len(names), BATCH_MAX):
        chunk = names[at : at + BATCH_MAX]
        key_buffer = _buffer(b"".join(chunk))
        batch = _Batch(keys=_address(key_buffer), count=len(chunk), map_fd=fd)
        _checked("deleting from a map", _Command.MAP_DELETE_BATCH, batch)


@functools.cache
def possible_cpus() -> int:
    """Number of processors that per-CPU maps have room for; not those online."""
    text = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii")
    return int(text.strip().rpartition(",")[2].rpartition("-")[2]) + 1


# Programs -------------------------------------------------------------------------------------

_LOG_SIZE: Final = 1 << 20


def load_program(
    name: str,
    instructions: bytes,
    *,
    kind: ProgramType,
    license_name: str,
    flags: int = 0,
    attach_type: int = 0,
) -> int:
    """Hand a program to the verifier; returns its file descriptor.

    Raises BpfError with the verifier's log: the program is loaded a second time to get it, since
    a log that nobody reads costs the first load dearly.
    """
    code = _buffer(instructions)
    licensed = ctypes.create_string_buffer(license_name.encode())
    attributes = _Load(
        prog_type=kind,
        insn_cnt=len(instructions) // 8,
        insns=_address(code),
        license=_address(licensed),
        prog_flags=flags,
        prog_name=name.encode(),
        expected_attach_type=attach_type,
    )
    result = _bpf(_Command.PROG_LOAD, attributes)
    if result >= 0:
        return result
    log = ctypes.create_string_buffer(_LOG_SIZE)
    attributes.log_level = 1
    attributes.log_size = _LOG_SIZE
    attributes.log_buf = _address(log)
    again = _bpf(_Command.PROG_LOAD, attributes)
    if again >= 0:
        return again
    raise BpfError(f"loading program {name}", -result, log.value.decode(errors="replace"))


def program_info(fd: int) -> ProgramInfo:
    """Id, tag (a hash of the instructions) and name of a program."""
    info = _ProgramInfo()
    _checked(
        "looking at a program",
        _Command.OBJ_GET_INFO_BY_FD,
        _Info(bpf_fd=fd, info_len=ctypes.sizeof(info), info=ctypes.addressof(info)),
    )
    return ProgramInfo(
        id=info.id,
        type=info.type,
        tag=bytes(info.tag).hex(),
        name=info.name.decode(),
        loaded_ns=info.load_time,
    )


def program_by_id(number: int) -> ProgramInfo | None:
    """What is known of the program with this id.

    None if there is no such program any more, or if it may not be seen: the kernel shows programs
    by id to CAP_SYS_ADMIN alone.
    """
    fd = _bpf(_Command.PROG_GET_FD_BY_ID, _Id(id=number))
    if fd in {-errno.ENOENT, -errno.EPERM}:
        return None
    if fd < 0:
        raise BpfError(f"opening program {number}", -fd)
    try:
        return program_info(fd)
    finally:
        os.close(fd)


def run_program(
    fd: int, packet: bytes, *, repeat: int = 1, context: bytes = b"", room: int = 256
) -> TestRun:
    """Run a program on a packet (BPF_PROG_TEST_RUN): no interface, the real verdict.

    `context` is struct xdp_md or struct __sk_buff as the kernel accepts it from outside. A packet
    may grow by `room` bytes.
    """
    data_in, data_out = _buffer(packet), ctypes.create_string_buffer(len(packet) + room)
    context_in = _buffer(context)
    run = _Run(
        prog_fd=fd,
        data_size_in=len(packet),
        data_size_out=len(packet) + room,
        data_in=_address(data_in),
        data_out=_address(data_out),
        repeat=repeat,
        ctx_size_in=len(context),
        ctx_in=_address(context_in) if context else 0,
    )
    _checked("running a program on a packet", _Command.PROG_TEST_RUN, run)
    return TestRun(
        verdict=run.retval, packet=data_out.raw[: run.data_size_out], duration_ns=run.duration
    )
