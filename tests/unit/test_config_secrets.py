# SPDX-License-Identifier: Apache-2.0
"""What a fence agent is told: nothing secret where everybody may read it, nothing else refused."""

from pathlib import Path

import pytest

from twinbeat.config.arbiters import FenceSection
from twinbeat.config.problems import ConfigError, Findings
from twinbeat.config.secrets import Options, check_written, load_options

SECRET = "Tr0ub4dor"


def fence(file: Path, *options: str) -> FenceSection:
    return FenceSection(agent="/bin/true", options=options, secrets_file=str(file))


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def wrong(section: FenceSection) -> str:
    with pytest.raises(ConfigError) as caught:
        load_options(section, "twinbeat.toml")
    told = "\n".join(map(str, caught.value.problems))
    assert SECRET not in told
    return told


def test_options_and_secrets_come_together_and_show_nothing(tmp_path: Path) -> None:
    file = private(tmp_path / "f", f"# of the BMC\n\nusername=fence\npasswd={SECRET} x=y\n")
    options = load_options(fence(file, "ip=192.0.2.1", "lanplus=1"), "twinbeat.toml")
    assert options.open == ("ip=192.0.2.1", "lanplus=1")
    assert options.secret == ("username=fence", f"passwd={SECRET} x=y")
    assert SECRET not in repr(options)
    assert options == Options(options.open, options.secret)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    file = private(tmp_path / "f", f"passwd={SECRET}")
    file.chmod(mode)
    assert f"chmod 0600 {file}" in wrong(fence(file))


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "can't be read" in wrong(fence(tmp_path / "none"))
    assert "not a regular file" in wrong(fence(tmp_path / "pipe"))
    assert "larger than" in wrong(fence(private(tmp_path / "f", "a=b\n" * 9000)))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (SECRET, "should be key=value"),
        (f"={SECRET}", "should be key=value"),
        (f"pass wd={SECRET}", "should be key=value"),
        ("action=on", "given by the agent"),
        ("ip=192.0.2.2", "given twice"),
    ],
)
def test_a_line_that_is_no_option_is_refused(tmp_path: Path, line: str, told: str) -> None:
    file = private(tmp_path / "f", line + "\n")
    assert told in wrong(fence(file, "ip=192.0.2.1"))


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("ip=192.0.2.1", None),
        ("passwd_script=/etc/x", None),
        ("identity_file=/etc/twinbeat/id", None),
        (f"passwd={SECRET}", "secrets_file"),
        (f"snmp_priv_password={SECRET}", "secrets_file"),
        (f"api_token={SECRET}", "secrets_file"),
        ("action=off", "fence.action"),
        (SECRET, "key=value"),
        (f"ip=1\npasswd={SECRET}", "key=value"),
    ],
)
def test_what_may_stand_in_the_configuration(option: str, told: str | None) -> None:
    findings = Findings("twinbeat.toml")
    check_written((option,), findings)
    text = "\n".join(map(str, findings.problems))
    assert SECRET not in text
    assert (told is None and text == "") or (told is not None and told in text)
