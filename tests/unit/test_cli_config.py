# SPDX-License-Identifier: Apache-2.0
"""`twinbeat config`, `keys` and `doctor`: files and the host, no agent."""

import json
from pathlib import Path

import pytest

from twinbeat.cli.main import run
from twinbeat.config.keys import generate_key
from twinbeat.config.problems import show


@pytest.fixture
def generated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run(["config", "generate"]) == 0
    file = tmp_path / "twinbeat.toml"
    file.write_text(capsys.readouterr().out)
    return file


def test_a_generated_file_passes_the_check(
    generated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["config", "check", str(generated), "--offline"]) == 0
    assert capsys.readouterr().out == f"{generated} can be used\n"


def test_a_broken_file_ends_with_two_and_all_that_is_wrong(
    generated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = generated.read_text().replace("index = 0", "index = 5").replace("id = 51", "idd = 51")
    generated.write_text(text)
    assert run(["config", "check", str(generated), "--offline"]) == 2
    out = capsys.readouterr().out
    assert f"error: {generated}: node.index = 5: should be an integer from 0 to 1." in out
    assert "vrid[0].idd = 51: is not a key. Did you mean `id`?" in out
    assert "vrid[0].id: is missing" in out
    assert run(["config", "check", str(generated), "--offline", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert (report["schema"], report["valid"]) == (1, False)
    assert {problem["key"] for problem in report["problems"]} == {
        "node.index",
        "vrid[0].idd",
        "vrid[0].id",
    }


def test_on_the_machine_it_asks_for_interfaces_and_keys(
    generated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generated.write_text(generated.read_text().replace('"ha0"', '"nosuch0"'))
    assert run(["config", "check", str(generated)]) == 2
    assert 'link[0].interface = "nosuch0": there is no such interface' in capsys.readouterr().out


def test_a_key_that_others_can_read_ends_with_two_and_says_what_led_to_it(
    generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    file = generate_key(keys, 1)
    file.chmod(0o644)
    text = generated.read_text()
    before = '# directory = "/etc/twinbeat/keys"'
    assert before in text
    generated.write_text(text.replace(before, f'directory = "{keys}"'))
    assert run(["config", "check", str(generated)]) == 2
    said = f"error: {generated}: keys.directory = {show(str(keys))}: {file} can be read or changed"
    assert said in capsys.readouterr().out


def test_a_missing_file_ends_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", str(tmp_path / "none")]) == 2
    assert "there is no such file" in capsys.readouterr().out


def test_show_as_it_stands_effective_and_as_json(
    generated: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["config", "show", str(generated)]) == 0
    assert capsys.readouterr().out == generated.read_text()
    assert run(["config", "show", str(generated), "--effective"]) == 0
    effective = tmp_path / "effective.toml"
    effective.write_text(capsys.readouterr().out)
    assert "ttl_min = 255" in effective.read_text()
    assert run(["config", "check", str(effective), "--offline"]) == 0
    capsys.readouterr()
    assert run(["config", "show", str(generated), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["schema"] == 1
    assert shown["timers"]["hello_us"] == 6600
    assert shown["configuration"]["pair"] == {"id": 1}


def test_show_of_a_broken_file_ends_with_two(
    generated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generated.write_text("x = 1")
    assert run(["config", "show", str(generated), "--effective"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "can't be used" in err


def test_a_key_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "keys"
    line = ["keys", "generate", "--id", "3", "--directory", str(where)]
    assert run(line) == 0
    out, err = capsys.readouterr()
    assert out == f"{where / '3.key'}\n"
    assert "other node" in err
    content = (where / "3.key").read_text()
    assert content.strip() not in out + err
    assert run(line) == 1
    assert "is there already and stays" in capsys.readouterr().err
    assert (where / "3.key").read_text() == content


def test_a_key_can_be_printed_instead(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "generate", "--print"]) == 0
    assert len(bytes.fromhex(capsys.readouterr().out)) == 16


@pytest.mark.parametrize("id_", ["0", "256", "x"])
def test_a_key_id_has_a_range(tmp_path: Path, id_: str) -> None:
    assert run(["keys", "generate", "--id", id_, "--directory", str(tmp_path)]) == 2


def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, *options: str) -> int:
    """Run `doctor` with a program of the test in the place of the checks."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    return run(["doctor", *options])


REPORT = (
    '{"schema":1,"checks":['
    '{"name":"xdp","level":"warning","finding":"generic on lan0","fix":"another driver"},'
    '{"name":"clock","level":"%s","finding":"boot time","fix":"a newer kernel"}]}'
)


@pytest.mark.parametrize(("level", "code"), [("ok", 0), ("warning", 0), ("error", 1)])
def test_doctor_prints_what_the_checks_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    level: str,
    code: int,
) -> None:
    report = REPORT % level
    assert doctor(tmp_path, monkeypatch, f"echo '{report}'") == code
    out = capsys.readouterr().out
    assert "warning xdp: generic on lan0\n        another driver\n" in out
    assert ("a newer kernel" in out) == (level != "ok")
    assert doctor(tmp_path, monkeypatch, f"echo '{report}'", "--json") == code
    assert json.loads(capsys.readouterr().out) == json.loads(report)


def test_doctor_hands_the_configuration_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = f"echo \"$@\" > {tmp_path}/args; echo '{REPORT % 'ok'}'"
    assert doctor(tmp_path, monkeypatch, program, "--config", "/x/y.toml") == 0
    capsys.readouterr()
    arguments = (tmp_path / "args").read_text()
    assert arguments == "-m twinbeat.runtime.doctor --json --config /x/y.toml\n"


def test_checks_that_cannot_run_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(tmp_path, monkeypatch, "echo 'no module' >&2; exit 1") == 1
    assert capsys.readouterr().err == "twinbeat: the checks could not run: no module\n"
