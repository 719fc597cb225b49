# SPDX-License-Identifier: Apache-2.0
"""Key files: finding, checking, reading and making them.

A key never appears in a message, a repr or an exception.
"""

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from twinbeat.config.model import Config
from twinbeat.config.nodes import KEYS_MAX
from twinbeat.config.problems import AboutFile, ConfigError, Findings
from twinbeat.durable import sync_directory

KEY_BYTES: Final = 16
CHOSEN: Final = "send"
"""File beside the keys: the id that a rotation chose to send under."""
_HEX: Final = re.compile(rb"[0-9a-fA-F]{32}")


class Key:
    """One key: its id and its sixteen bytes, which no repr shows."""

    __slots__ = ("id", "secret")

    def __init__(self, id: int, secret: bytes) -> None:  # noqa: A002 - it is what frames call it
        assert 1 <= id <= 255
        assert len(secret) == KEY_BYTES
        self.id = id
        self.secret = secret

    def __repr__(self) -> str:
        return f"Key(id={self.id})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and (self.id, self.secret) == (other.id, other.secret)

    def __hash__(self) -> int:
        return hash(self.id)


def load_keys(config: Config) -> tuple[Key, ...]:
    """The accepted keys, that to send under first.

    Raises ConfigError with everything that is wrong with the files.
    """
    findings = Findings(config.path)
    keys = check_keys(config.keys.directory, config.keys.send, findings)
    if findings.failed:
        raise ConfigError(findings.problems)
    return keys


def check_keys(directory: str, send: int, findings: Findings) -> tuple[Key, ...]:
    """Read every key file, noting what is wrong; those that can be used are returned."""
    where = Path(directory)
    try:
        files = sorted(where.glob("*.key")) if where.is_dir() else None
    except OSError:
        files = None
    if files is None:
        findings.add(
            "keys.directory",
            directory,
            f"there is no such directory. `twinbeat keys generate --id {send}` makes it and a key.",
        )
        return ()
    if not os.access(where, os.R_OK | os.X_OK):
        findings.warn(
            "keys.directory", directory, "this user can't read it, so the keys were not checked."
        )
        return ()
    found: dict[int, Key] = {}
    for file in files:
        about = findings.about("keys.directory", directory, str(file))
        key = _check_key(file, about)
        if key is not None and key.id in found:
            about.add(f"holds key {key.id} a second time. Remove one.")
        elif key is not None:
            found[key.id] = key
    present = {int(file.stem) for file in files if file.stem.isdecimal()}
    if send not in present:
        findings.add(
            "keys.send",
            send,
            f"there is no {where / f'{send}.key'}. `twinbeat keys generate --id {send}` makes it; "
            "copy it to the other node.",
        )
    if len(files) > KEYS_MAX:
        names = ", ".join(file.name for file in files)
        findings.add(
            "keys.directory",
            directory,
            f"holds {len(files)} keys ({names}), and {KEYS_MAX} can be accepted at once. "
            "Remove those that neither node sends under.",
        )
    if len({key.secret for key in found.values()}) < len(found):
        findings.add("keys.directory", directory, "two ids hold the same key. Make a new one.")
    return tuple(sorted(found.values(), key=lambda key: (key.id != send, key.id)))


def _check_key(file: Path, about: AboutFile) -> Key | None:
    """One file. Its name is its id; its mode keeps it private; its content is 32 hex digits."""
    id_ = int(file.stem) if file.stem.isdecimal() and len(file.stem) <= 3 else 0
    if not 1 <= id_ <= 255:
        about.add("is named wrong: a key's name is its id, 1.key to 255.key.")
        return None
    content, good = read_private(file, 1024, "make a new key", about)
    if content is None:
        return None
    if _HEX.fullmatch(content.strip()) is None:
        about.add(
            f"does not hold exactly 32 hexadecimal digits on one line ({len(content.strip())} "
            f"characters found). `twinbeat keys generate --id {id_}` shows how."
        )
        return None
    secret = bytes.fromhex(content.strip().decode("ascii"))
    if len(set(secret)) < 4:
        about.add("holds no random key. Make one from random bytes.")
        return None
    return Key(id_, secret) if good else None


def read_private(
    file: Path, size_max: int, if_seen: str, about: AboutFile
) -> tuple[bytes | None, bool]:
    """What a file with a secret holds, and whether nobody else could have read or changed it.

    None: it can't be read, or is no file. `if_seen` says what to do if somebody has seen it.
    """
    try:
        # Should it be a pipe, nobody is waited for.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            state = os.fstat(descriptor)
            content = stream.read(size_max) if stat.S_ISREG(state.st_mode) else None
    except PermissionError:
        about.warn("can't be read by this user, so it was not checked.")
        return None, False
    except OSError as error:
        about.add(f"can't be read: {error.strerror}.")
        return None, False
    if content is None:
        about.add("is not a regular file.")
        return None, False
    good = True
    if state.st_mode & 0o077:
        about.add(
            f"can be read or changed by others (mode {stat.S_IMODE(state.st_mode):04o}). "
            f"Make it private (chmod 0600 {file}), and if anybody else could log in here, "
            f"{if_seen}."
        )
        good = False
    # The agent need not be root: whoever owns the directory holds the secrets anyway.
    keeper = file.parent.stat().st_uid
    if state.st_uid not in {0, os.geteuid(), keeper}:
        about.add(
            f"belongs to user {state.st_uid}. It should belong to root or to the owner of its "
            f"directory (chown --reference={file.parent} {file})."
        )
        good = False
    return content, good


def generate_key(directory: Path, id_: int) -> Path:
    """Make a new key file, private from its first instant. Never overwrites.

    It belongs to the owner of the directory, so that the agent can read what root made.

    Raises FileExistsError, or OSError when the directory can't be written.
    """
    return store_key(directory, id_, new_key())


def store_key(directory: Path, id_: int, digits: str) -> Path:
    """Make a key file of a key that was made elsewhere, as `new_key` does. Like `generate_key`."""
    assert 1 <= id_ <= 255
    assert _HEX.fullmatch(digits.encode())
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = directory / f"{id_}.key"
    with _written(directory, file.name, digits, mode=0o600) as fresh:
        os.link(fresh, file, follow_symlinks=False)
    return file


def read_key(directory: Path, id_: int) -> Key | None:
    """The key of that id, if there is one that can be used."""
    file = directory / f"{id_}.key"
    about = Findings("").about("keys.directory", str(directory), str(file))
    return _check_key(file, about) if file.exists() else None


def chosen(directory: str) -> int:
    """Id of the key to send under where the configuration names none: a rotation's choice, or 1."""
    try:
        text = (Path(directory) / CHOSEN).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return 1
    return int(text) if re.fullmatch("[1-9][0-9]{0,2}", text) and int(text) <= 255 else 1


def choose(directory: Path, id_: int) -> None:
    """Choose it for good, and at once or not at all. Raises OSError."""
    assert 1 <= id_ <= 255
    with _written(directory, CHOSEN, f"{id_}", mode=0o644) as fresh:
        fresh.rename(directory / CHOSEN)


@contextlib.contextmanager
def _written(directory: Path, name: str, line: str, *, mode: int) -> Iterator[Path]:
    """A file with all of it safely on disk, which the block gives its name: whole or not at all.

    Of two at a time the name goes to one, and what a crash left behind goes with the next.
    """
    for left in directory.glob(f".{name}.*.new"):
        left.unlink(missing_ok=True)
    fresh = directory / f".{name}.{secrets.token_hex(4)}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(fresh, flags, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            keeper = directory.stat()
            if os.geteuid() == 0 and keeper.st_uid != 0:
                os.fchown(descriptor, keeper.st_uid, keeper.st_gid)
            stream.write(line + "\n")
            stream.flush()
            os.fsync(descriptor)
        yield fresh
    finally:
        fresh.unlink(missing_ok=True)
    sync_directory(directory)


def new_key() -> str:
    """Sixteen bytes of os.urandom in hexadecimal, as a key file holds them."""
    return secrets.token_hex(KEY_BYTES)
