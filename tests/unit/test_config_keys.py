# SPDX-License-Identifier: Apache-2.0
"""Key files: private, well formed, two at most, and never shown."""

import os
import resource
from pathlib import Path

import pytest

from twinbeat.config.keys import Key, check_keys, choose, chosen, generate_key, new_key, store_key
from twinbeat.config.problems import Findings, show

SECRET = "00112233445566778899aabbccddeeff"


def written(directory: Path, name: str = "1.key", content: str = SECRET, mode: int = 0o600) -> Path:
    file = directory / name
    file.write_text(content + "\n")
    file.chmod(mode)
    return file


def said(directory: Path, send: int = 1) -> list[str]:
    findings = Findings("twinbeat.toml")
    check_keys(str(directory), send, findings)
    return [str(problem) for problem in findings.problems]


def test_good_keys_are_read_that_to_send_under_first(tmp_path: Path) -> None:
    written(tmp_path, "1.key")
    written(tmp_path, "7.key", SECRET[::-1])
    findings = Findings("f")
    keys = check_keys(str(tmp_path), 7, findings)
    assert findings.problems == []
    assert [key.id for key in keys] == [7, 1]
    assert keys[1].secret == bytes.fromhex(SECRET)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o666, 0o610])
def test_a_key_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    file = written(tmp_path, mode=mode)
    (problem,) = said(tmp_path)
    assert problem.startswith(
        f"twinbeat.toml: keys.directory = {show(str(tmp_path))}: {file} can be read or changed by "
        f"others (mode {mode:04o})"
    )
    assert f"chmod 0600 {file}" in problem
    assert check_keys(str(tmp_path), 1, Findings("f")) == ()


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_private_modes_are_accepted(tmp_path: Path, mode: int) -> None:
    written(tmp_path, mode=mode)
    assert said(tmp_path) == []


@pytest.mark.parametrize(
    "content", ["", SECRET[:-1], SECRET + "0", "g" * 32, SECRET + "\n" + SECRET, "0x" + SECRET]
)
def test_a_malformed_key_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    written(tmp_path, content=content)
    (problem,) = said(tmp_path)
    assert "exactly 32 hexadecimal digits" in problem
    assert not content or content not in problem


@pytest.mark.parametrize("content", ["0" * 32, "ab" * 16])
def test_a_key_that_is_no_random_one_is_refused(tmp_path: Path, content: str) -> None:
    written(tmp_path, content=content)
    (problem,) = said(tmp_path)
    assert "no random key" in problem
    assert content not in problem


@pytest.mark.parametrize("name", ["0.key", "256.key", "x.key", "1000.key", "-1.key"])
def test_a_name_that_is_no_id_is_refused(tmp_path: Path, name: str) -> None:
    written(tmp_path)
    written(tmp_path, name, SECRET[::-1])
    assert any("name is its id" in problem for problem in said(tmp_path))


def test_the_key_to_send_under_must_be_there(tmp_path: Path) -> None:
    written(tmp_path, "2.key")
    (problem,) = said(tmp_path, send=3)
    assert problem.startswith("twinbeat.toml: keys.send = 3: there is no")
    assert "twinbeat keys generate --id 3" in problem


def test_more_than_two_keys_are_refused(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        written(tmp_path, f"{number}.key", f"{SECRET[:-1]}{number}")
    (problem,) = said(tmp_path)
    assert "holds 3 keys (1.key, 2.key, 3.key)" in problem


def test_one_key_under_two_ids_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "1.key")
    written(tmp_path, "2.key")
    (problem,) = said(tmp_path)
    assert "same key" in problem


def test_a_missing_directory_says_how_to_make_it(tmp_path: Path) -> None:
    (problem,) = said(tmp_path / "none", send=5)
    assert "twinbeat keys generate --id 5" in problem


@pytest.mark.parametrize(
    ("name", "content"), [("1.key", SECRET[:-1]), ("x.key", SECRET), ("1.key", "0" * 32)]
)
def test_whatever_is_wrong_with_a_file_the_key_of_the_configuration_is_named(
    tmp_path: Path, name: str, content: str
) -> None:
    file = written(tmp_path, name, content)
    problem = said(tmp_path)[0]
    assert problem.startswith(f"twinbeat.toml: keys.directory = {show(str(tmp_path))}: {file} ")


def test_no_repr_shows_a_key() -> None:
    key = Key(3, bytes.fromhex(SECRET))
    assert repr(key) == "Key(id=3)"
    assert SECRET not in f"{key} {[key]}"


def test_a_generated_key_is_private_good_and_never_overwritten(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        file = generate_key(tmp_path / "keys", 9)
    finally:
        os.umask(before)
    assert file == tmp_path / "keys" / "9.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert said(tmp_path / "keys", send=9) == []
    content = file.read_text()
    with pytest.raises(FileExistsError):
        generate_key(tmp_path / "keys", 9)
    assert file.read_text() == content
    assert new_key() != new_key()


def test_a_key_from_elsewhere_is_kept_like_one_s_own(tmp_path: Path) -> None:
    digits = new_key()
    file = store_key(tmp_path / "keys", 3, digits)
    assert file.stat().st_mode & 0o777 == 0o600
    assert said(tmp_path / "keys", send=3) == []
    assert file.read_text() == f"{digits}\n"
    with pytest.raises(FileExistsError):
        store_key(tmp_path / "keys", 3, new_key())


@pytest.mark.privileged
def test_the_owner_of_the_directory_keeps_the_keys(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 4711, 4711)
    file = generate_key(tmp_path, 1)
    assert file.stat().st_uid == 4711
    assert said(tmp_path) == []
    os.chown(file, 4712, 4712)
    (problem,) = said(tmp_path)
    assert "belongs to user 4712" in problem
    assert f"chown --reference={tmp_path} {file}" in problem


def test_a_key_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "1.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="exists"):
        generate_key(tmp_path, 1)
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_that_cannot_be_written_whole_is_not_there(tmp_path: Path) -> None:
    (tmp_path / ".1.key.0123abcd.new").write_text("of a crash")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            store_key(tmp_path, 1, SECRET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    store_key(tmp_path, 1, SECRET)
    choose(tmp_path, 1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["1.key", "send"]


def test_a_key_and_the_choice_of_one_outlast_the_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, list[str]]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        names = sorted(file.name for file in tmp_path.iterdir() if not file.name.startswith("."))
        synced.append((os.fstat(descriptor).st_ino, names))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    key, directory = store_key(tmp_path, 1, SECRET), tmp_path.stat().st_ino
    assert synced == [(key.stat().st_ino, []), (directory, ["1.key"])]
    choose(tmp_path, 1)
    choice = (tmp_path / "send").stat().st_ino
    assert synced[2:] == [(choice, ["1.key"]), (directory, ["1.key", "send"])]


def test_a_choice_is_not_written_through_a_link(tmp_path: Path) -> None:
    for name in (".send.new", "send"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    choose(tmp_path, 1)
    assert not (tmp_path / "elsewhere").exists()
    assert chosen(str(tmp_path)) == 1
