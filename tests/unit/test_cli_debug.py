# SPDX-License-Identifier: Apache-2.0
"""`twinbeat debug dump`: what is in the bundle, and above all what is not."""

import json
import os
import stat
import tarfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from twinbeat.cli import debug
from twinbeat.cli.main import run
from twinbeat.config.keys import generate_key
from unit.memory_agent import Served, hook, status

SECRET = "0123456789abcdef0123456789abcdef"
CONFIGURATION = """[node]
name = "a"
index = 0
[pair]
id = 1
[peer]
name = "b"
[fence]
agent = "/usr/sbin/fence_ipmilan"
options = ["ip=192.0.2.9", "ipport=623"]  # password=hunter2
[[link]]
interface = "ha0"
local = "169.254.10.1"
peer = "169.254.10.2"
[[link]]
interface = "lan0"
local = "10.0.0.1"
peer = "10.0.0.2"
"""


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    file = tmp_path / "twinbeat.toml"
    file.write_text(CONFIGURATION + f'[keys]\ndirectory = "{tmp_path / "keys"}"\n# {SECRET}\n')
    generate_key(tmp_path / "keys", 1)
    return file


def unpacked(bundle: Path) -> dict[str, bytes]:
    with tarfile.open(bundle) as opened:
        found = {}
        for entry in opened.getmembers():
            assert entry.isfile()
            assert entry.name.startswith("twinbeat/")
            file = opened.extractfile(entry)
            assert file is not None
            found[entry.name.removeprefix("twinbeat/")] = file.read()
    return found


def test_a_bundle_has_what_helps_and_no_secret(
    tmp_path: Path, configuration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle.tar.gz"
    key = (tmp_path / "keys" / "1.key").read_bytes().strip()
    with Served(tmp_path) as served:
        output = f"token: abc123 and {SECRET}"
        served.agent.state = replace(status(), hooks=[hook(last_output=output)])
        words = ["debug", "dump", "-o", str(bundle), "--config", str(configuration)]
        code = run([*words, "--socket", served.path])
    assert code == 1, "there is no worker, and perhaps no journal"
    out, err = capsys.readouterr()
    assert out == f"{bundle}\n"
    assert "peer-status.json is missing: no agent at" in err
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600

    found = unpacked(bundle)
    manifest = json.loads(found.pop("manifest.json"))
    assert set(found) == {part["name"] for part in manifest["parts"] if not part["missing"]}
    for name in ("status.json", "counters.json", "history.json", "events.jsonl", "metrics.txt"):
        assert name in found
    assert b'name = "a"' in found["twinbeat.toml"]
    assert b"refresh_s = 60" in found["effective.toml"]
    assert json.loads(found["doctor.json"])["checks"]
    assert b"LOOPBACK" in found["host/links.txt"]
    assert b"net/ipv4/conf/all/arp_ignore" in found["host/sysctl.txt"]
    everything = b"".join(found.values())
    for secret in (key, SECRET.encode(), b"hunter2", b"abc123"):
        assert secret not in everything, secret
    assert b"ipport=623" in found["twinbeat.toml"], "what is no secret stays"


def test_without_an_agent_there_is_still_a_bundle(
    tmp_path: Path, configuration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "b.tar.gz"
    words = ["debug", "dump", "-o", str(bundle), "--config", str(configuration), "--json"]
    assert run([*words, "--socket", str(tmp_path / "none.sock")]) == 1
    told = json.loads(capsys.readouterr().out)
    missing = {part["name"] for part in told["parts"] if part["missing"]}
    assert {"status.json", "peer-status.json", "sync.json"} <= missing
    assert "host/uname.txt" in unpacked(bundle)


def test_no_file_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept"
    kept.write_text("mine")
    os.symlink(kept, tmp_path / "link")
    for name in ("kept", "link", "nosuch/x"):
        assert run(["debug", "dump", "-o", str(tmp_path / name)]) == 1
        assert "Traceback" not in capsys.readouterr().err
    assert kept.read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (b"password=hunter2 x", b'password="(not shown)" x'),
        (b'"auth_pass": "a b\\" c", "z": 1', b'"auth_pass": "(not shown)", "z": 1'),
        (b"API_KEY: abc, next", b'API_KEY: "(not shown)", next'),
        (b"key " + SECRET.encode() + b" end", b"key (not shown) end"),
        (
            b"-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----\nx",
            b"(not shown)\nx",
        ),
        (b"keys: accepted 1", b"keys: accepted 1"),
        (b"0123456789abcdef", b"0123456789abcdef"),
        (b'twinbeat_heartbeats_rejected_total{reason="key"} 3', None),
    ],
)
def test_what_is_taken_out(text: bytes, left: bytes | None) -> None:
    assert debug.cleaned(text) == (text if left is None else left)


def test_a_part_that_hangs_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(debug.Unavailable, match="did not end"):
        debug._running(("sleep", "60"), 0.1)()
    with pytest.raises(debug.Unavailable, match="not installed"):
        debug._running(("no-such-program",))()
