# SPDX-License-Identifier: Apache-2.0
"""`python -m twinbeat.engine.loader`: compile, load, pin, say so in JSON, exit.

A process of its own because bcc needs one: the agent never imports it. What is pinned under
/sys/fs/bpf/twinbeat/<pair> outlives loader and agent, so a running gate survives a restart.

What it does depends on what is there:
- everything, made from these very sources: nothing is done ("reused");
- everything, made from others: nothing either, unless --replace ("outdated"). The agent asks for a
  replacement only while its node is secondary (R16);
- less than everything: what is missing is made, with new programs ("loaded").

The map `gate` is reused whenever its size fits, whatever else is replaced: its words are the reign.
The other maps are reused as long as the ABI is the same. New pins are prepared under other names
and moved into place at the end; `layout` is removed before and written last, so that a loader that
dies in between leaves nothing that looks complete.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from twinbeat.engine import abi, bpf, maps
from twinbeat.engine import compile as compiler
from twinbeat.engine.bpf import BpfError
from twinbeat.engine.compile import CompileError

BPF_FILE_SYSTEM: Final = Path("/sys/fs/bpf")
_BPF_FS_MAGIC: Final = 0xCAFE4A11
_PREPARED: Final = "new_"
"""Prefix of pins that are not in place yet. (A BPF file system allows no dots in names.)"""
_DETAIL_MAX: Final = 4000
"""Characters of a tool's output that are passed on; its end says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What the loader reports."""

    ok: bool
    status: str = ""
    """loaded, reused, outdated or replaced; empty if it failed."""
    directory: str = ""
    layout: str = ""
    """Fingerprint of ABI and programs, in hexadecimal."""
    abi_fits: bool = True
    """False: the pins (of an outdated layout) are of no use to this agent."""
    gate: str = ""
    """kept or new."""
    programs: dict[str, dict[str, object]] = field(default_factory=dict)
    """Pin → id, tag and name."""
    compile_ms: float = 0.0
    code: str = ""
    sentence: str = ""
    fix: str = ""
    """What to do about a failure."""
    detail: str = ""


class LoadError(Exception):
    """The environment refused; carries what a person needs to know."""

    def __init__(self, code: str, sentence: str, *, fix: str = "", detail: str = "") -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.fix = fix
        self.detail = detail


# For the agent --------------------------------------------------------------------------------


def command(pair: int, *, replace: bool = False, root: Path = maps.PIN_ROOT) -> list[str]:
    """The command that loads for a pair, with this very interpreter."""
    line = [sys.executable, "-m", "twinbeat.engine.loader", "--pair", str(pair)]
    line += ["--root", str(root)]
    return [*line, "--replace"] if replace else line


def parse(output: bytes) -> Loaded:
    """The report from the loader's standard output."""
    try:
        return Loaded(**json.loads(output))
    except (ValueError, TypeError):
        text = output.decode(errors="replace")[-_DETAIL_MAX:]
        return Loaded(
            ok=False,
            code="loader-died",
            sentence="the loader of the kernel programs ended without a report",
            fix="run it by hand to see why: python -m twinbeat.engine.loader --pair N",
            detail=text,
        )


async def run(pair: int, *, replace: bool = False, root: Path = maps.PIN_ROOT) -> Loaded:
    """Run the loader in a process of its own and wait for its report.

    Where all is in place already no process is needed: a Python takes longer to start than to look.
    """
    if not replace:
        found = await asyncio.to_thread(look, root / str(pair))
        if found is not None:
            return found
    process = await asyncio.create_subprocess_exec(
        *command(pair, replace=replace, root=root), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return parse(output)


def look(directory: Path) -> Loaded | None:
    """The pins in `directory`, if they are all there and made from these very sources.

    None is no verdict: the loader does what is to be done, and says what can't be.
    """
    try:
        wanted = (abi.fingerprint(), compiler.fingerprint(compiler.source_directory()))
        with _locked(directory):
            if _complete(directory) and _layout(directory) == wanted:
                return _report(directory, wanted, status="reused", gate="kept")
    except (LoadError, CompileError, BpfError, OSError):
        pass
    return None


# The work -------------------------------------------------------------------------------------


def load(directory: Path, *, replace: bool = False) -> Loaded:
    """Bring the pins in `directory`, on a BPF file system, into order.

    Raises LoadError, CompileError or BpfError; what was pinned before is still in use then.
    """
    sources = compiler.source_directory()
    wanted = (abi.fingerprint(), compiler.fingerprint(sources))
    _make_directory(directory)
    with _locked(directory):
        found = _layout(directory)
        complete = found is not None and _complete(directory)
        if found is not None and complete and (found == wanted or not replace):
            return _report(
                directory,
                found,
                status="reused" if found == wanted else "outdated",
                gate="kept",
                abi_fits=found[0] == wanted[0],
            )
        compiled = compiler.compile_programs(sources)
        _check_maps(compiled)
        _allow_locked_memory()
        gate = _install(
            directory, compiled, wanted, reuse=found is not None and found[0] == wanted[0]
        )
        return _report(
            directory,
            wanted,
            status="replaced" if complete else "loaded",
            gate=gate,
            compile_ms=round(compiled.took_ns / 1e6, 1),
        )


def _pins() -> list[str]:
    """Names of everything that is pinned, in the order in which it is put into place."""
    return [*(spec.name for spec in maps.SPECS if spec.pinned), *maps.PROGRAMS, maps.LAYOUT.name]


def _complete(directory: Path) -> bool:
    return all((directory / name).exists() for name in _pins())


def _layout(directory: Path) -> tuple[bytes, bytes] | None:
    """The fingerprints that were pinned last, None if there are none to be trusted."""
    try:
        fd = bpf.open_pin(directory / maps.LAYOUT.name)
    except BpfError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    with _closing([fd]):
        if not maps.LAYOUT.fits(bpf.map_info(fd)):
            return None
        raw = bpf.lookup(fd, bytes(4), maps.LAYOUT_SIZE)
        assert raw is not None
        return raw[:32], raw[32:]


def _check_maps(compiled: compiler.Compiled) -> None:
    """What bcc made of maps_kern.h must be what maps.py creates: a wrong size corrupts memory."""
    for spec in maps.SPECS:
        info = compiled.maps.get(spec.name)
        if info is None or not spec.fits(info):
            raise LoadError(
                "map-mismatch",
                f"map {spec.name} is declared differently in ebpf/maps_kern.h and in maps.py",
                fix="the package is inconsistent: install it again",
                detail=str(info),
            )
    if unknown := compiled.maps.keys() - {spec.name for spec in maps.SPECS}:
        raise LoadError("map-mismatch", f"maps unknown to maps.py: {', '.join(sorted(unknown))}")


def _install(
    directory: Path, compiled: compiler.Compiled, wanted: tuple[bytes, bytes], *, reuse: bool
) -> str:
    """Make maps and programs, pin them under new names, then move all into place."""
    prepared: list[str] = []
    fds: dict[str, int] = {}
    gate = "new"
    _discard(directory, [_PREPARED + name for name in _pins()])
    try:
        for spec in maps.SPECS:
            kept = None
            if spec.pinned and (reuse or spec.name == "gate"):
                kept = _open_if_fits(directory / spec.name, spec)
            fds[spec.name] = spec.create() if kept is None else kept
            if kept is None and spec.pinned:
                prepared.append(spec.name)
            elif spec.name == "gate":
                gate = "kept"
        for name, program in compiled.programs.items():
            fds[name] = program.load(fds)
            prepared.append(name)
        fds[maps.LAYOUT.name] = maps.LAYOUT.create()
        bpf.update(fds[maps.LAYOUT.name], bytes(4), b"".join(wanted))
        prepared.append(maps.LAYOUT.name)
        for name in prepared:
            bpf.pin(fds[name], directory / (_PREPARED + name))
        _discard(directory, [maps.LAYOUT.name])
        for name in maps.PROGRAMS:
            with contextlib.suppress(FileNotFoundError):
                (directory / name).replace(directory / (maps.REPLACED + name))
        for name in prepared:
            (directory / (_PREPARED + name)).replace(directory / name)
    except BaseException:
        _discard(directory, [_PREPARED + name for name in prepared])
        raise
    finally:
        for fd in fds.values():
            os.close(fd)
    return gate


def _open_if_fits(path: Path, spec: maps.Spec) -> int | None:
    try:
        fd = bpf.open_pin(path)
    except BpfError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    if spec.fits(bpf.map_info(fd)):
        return fd
    os.close(fd)
    return None


def _discard(directory: Path, names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            (directory / name).unlink()


def _report(
    directory: Path,
    layout: tuple[bytes, bytes],
    *,
    status: str,
    gate: str,
    abi_fits: bool = True,
    compile_ms: float = 0.0,
) -> Loaded:
    programs: dict[str, dict[str, object]] = {}
    for name in maps.PROGRAMS:
        fd = bpf.open_pin(directory / name)
        with _closing([fd]):
            info = bpf.program_info(fd)
        programs[name] = {"id": info.id, "tag": info.tag, "name": info.name}
    return Loaded(
        ok=True,
        status=status,
        directory=str(directory),
        layout=b"".join(layout).hex(),
        abi_fits=abi_fits,
        gate=gate,
        programs=programs,
        compile_ms=compile_ms,
    )


# The ground it stands on ----------------------------------------------------------------------


class _StatFs(ctypes.Structure):
    """The beginning of struct statfs on 64-bit machines; its end is not looked at."""

    _fields_ = [("type", ctypes.c_long), ("rest", ctypes.c_long * 31)]


_libc: Final = ctypes.CDLL(None, use_errno=True)


def is_bpf_file_system(path: Path) -> bool:
    """Is `path` on a BPF file system?"""
    found = _StatFs()
    if _libc.statfs(os.fsencode(path), ctypes.byref(found)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return int(found.type) == _BPF_FS_MAGIC


def mount_bpf_file_system(path: Path) -> None:
    """Mount one at `path`, for root only. Raises OSError."""
    if _libc.mount(b"bpf", os.fsencode(path), b"bpf", ctypes.c_ulong(0), b"mode=0700"):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))


def _make_directory(directory: Path) -> None:
    """The pins' directory, mode 0700, on a BPF file system that is mounted if need be."""
    if directory.is_relative_to(BPF_FILE_SYSTEM):
        try:
            if not is_bpf_file_system(BPF_FILE_SYSTEM):
                mount_bpf_file_system(BPF_FILE_SYSTEM)
        except OSError as error:
            raise LoadError(
                "no-bpf-file-system",
                f"no BPF file system could be mounted at {BPF_FILE_SYSTEM}: {error.strerror}",
                fix=f"mount it by hand: mount -t bpf bpf {BPF_FILE_SYSTEM} (needs root, and a "
                "kernel with CONFIG_BPF_SYSCALL)",
            ) from error
    try:
        for path in (directory.parent, directory):
            path.mkdir(mode=0o700, exist_ok=True)
            if path.stat().st_mode & 0o777 != 0o700:
                path.chmod(0o700)
        if not is_bpf_file_system(directory):
            raise LoadError(
                "no-bpf-file-system",
                f"{directory} is not on a BPF file system",
                fix=f"choose a directory below {BPF_FILE_SYSTEM}",
            )
    except OSError as error:
        raise LoadError(
            "no-directory",
            f"the directory for the pins, {directory}, cannot be made: {error.strerror}",
            fix="the loader runs as root",
        ) from error


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One loader at a time."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _closing(descriptors: Sequence[int]) -> Iterator[None]:
    try:
        yield
    finally:
        for fd in descriptors:
            os.close(fd)


def _allow_locked_memory() -> None:
    """Kernels before 5.11 count maps as locked memory of the process that makes them."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(
            resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )


# The command ----------------------------------------------------------------------------------


def failure(error: LoadError | CompileError | BpfError) -> Loaded:
    """An error as a report, with what to do about it."""
    if isinstance(error, BpfError):
        detail = error.log[-_DETAIL_MAX:]
        if error.log:
            return Loaded(
                ok=False,
                code="verifier-refused",
                sentence=f"the kernel's verifier refused a program ({error.strerror})",
                fix="the kernel must be 5.18 or newer; if it is, the sources were changed, and the "
                "detail says at which instruction it stopped",
                detail=detail,
            )
        fixes = {
            errno.EPERM: compiler.NOT_PERMITTED,
            errno.EINVAL: "the kernel must be 5.18 or newer",
            errno.ENOSYS: "this kernel or machine has no bpf(2): x86_64 and aarch64 are supported",
            errno.ENOMEM: "memory for the maps ran out: raise LimitMEMLOCK or the cgroup's limit",
        }
        return Loaded(
            ok=False,
            code=errno.errorcode.get(error.errno or 0, "unknown").lower(),
            sentence=f"{error.strerror}",
            fix=fixes.get(error.errno or 0, ""),
        )
    return Loaded(
        ok=False,
        code=error.code,
        sentence=error.sentence,
        fix=error.fix,
        detail=error.detail[-_DETAIL_MAX:],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 1 with a report that says why."""
    parser = argparse.ArgumentParser(
        prog="python -m twinbeat.engine.loader",
        description="Compile, load and pin the kernel programs of a pair, and report in JSON.",
    )
    parser.add_argument("--pair", type=int, required=True, help="id of the pair")
    parser.add_argument("--root", type=Path, default=maps.PIN_ROOT, help="default: %(default)s")
    parser.add_argument(
        "--replace", action="store_true", help="replace programs made from other sources"
    )
    options = parser.parse_args(arguments)
    try:
        report = load(options.root / str(options.pair), replace=options.replace)
    except (LoadError, CompileError, BpfError) as error:
        report = failure(error)
    sys.stdout.write(json.dumps(asdict(report)) + "\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
