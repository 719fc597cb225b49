# SPDX-License-Identifier: Apache-2.0
"""What is refused in the sections [witness] and [isolation], and what both nodes must share."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from twinbeat.config.arbiters import WitnessSection
from twinbeat.config.compare import digest
from twinbeat.config.load import examine
from unit.test_config_compare import A

BASE = """
[node]
name = "a"
index = 0
[pair]
id = 7
[peer]
name = "b"
[[link]]
interface = "ha0"
local = "10.1.0.1"
peer = "10.1.0.2"
[[link]]
interface = "lan0"
local = "10.77.0.1"
peer = "10.77.0.2"
[[vrid]]
id = 51
interface = "lan0"
vips = ["10.77.0.10"]
"""
WITNESS = {
    "kind": '"etcd"',
    "endpoints": '["https://10.77.0.31:2379", "https://[fd77::32]:2379"]',
    "ca_file": '"/etc/twinbeat/witness-ca.crt"',
}


def found(tmp_path: Path, table: str, **keys: str) -> list[str]:
    """What is wrong, as KEY: sentence."""
    path = tmp_path / "twinbeat.toml"
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    path.write_text(f"{BASE}[{table}]\n{lines}")
    _, problems = examine(path, offline=True)
    return [f"{problem.key}: {problem.sentence}" for problem in problems]


def test_a_good_witness_is_taken(tmp_path: Path) -> None:
    assert found(tmp_path, "witness", **WITNESS) == []


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("endpoints", "[]", "is empty"),
        ("endpoints", '["http://10.77.0.31:2379"]', "should be https://HOST:PORT"),
        ("endpoints", '["https://10.77.0.31"]', "should be https://HOST:PORT"),
        ("endpoints", '["https://10.77.0.31:99999"]', "should be https://HOST:PORT"),
        ("endpoints", '["https://user@10.77.0.31:2379"]', "should be https://HOST:PORT"),
        ("endpoints", '["https://10.77.0.31:2379/v3"]', "should be https://HOST:PORT"),
        ("endpoints", '["https://10.77.0.10:2379"]', "shared address"),
        ("endpoints", '["https://10.77.0.2:2379"]', "on a node of this pair"),
        ("endpoints", '["https://h1:1", "https://h1:1"]', "twice"),
        ("ca_file", '""', "absolute path"),
        ("cert_file", '"/etc/x.crt"', "belong together"),
        ("key_file", '"/etc/x.key"', "belong together"),
        ("prefix", '"twinbeat"', "between slashes"),
        ("lease_ms", "99", "100 to 60000"),
        ("without", '"guess"', '"stay", "serve"'),
        ("kind", '"consul"', '"none", "etcd"'),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, key: str, value: str, complaint: str) -> None:
    problems = found(tmp_path, "witness", **{**WITNESS, key: value})
    assert any(complaint in problem for problem in problems), problems


def test_the_lease_outlasts_the_peer_s_own_word(tmp_path: Path) -> None:
    """Four heartbeats and the dead interval of the profile balanced."""
    path = tmp_path / "twinbeat.toml"
    lines = "".join(f"{key} = {value}\n" for key, value in WITNESS.items())
    text = f'{BASE}[timers]\nprofile = "classic"\n[witness]\n{lines}'
    path.write_text(text)
    _, problems = examine(path, offline=True)
    assert any("3800 ms here" in problem.sentence for problem in problems)
    path.write_text(text + "lease_ms = 3800\n")
    assert examine(path, offline=True)[1] == []


def test_certificates_have_to_be_there_and_the_key_is_private(tmp_path: Path) -> None:
    """The agent wouldn't start otherwise."""
    files = {key: tmp_path / key for key in ("ca_file", "cert_file", "key_file")}
    path = tmp_path / "twinbeat.toml"
    keys = WITNESS | {key: f'"{file}"' for key, file in files.items()}
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    path.write_text(f"{BASE}[witness]\n{lines}")

    def said() -> dict[str, str]:
        _, problems = examine(path, offline=False)
        return {
            problem.key: problem.sentence
            for problem in problems
            if problem.key.startswith("witness")
        }

    assert said() == {f"witness.{key}": "there is no such file." for key in files}
    for file in files.values():
        file.touch(mode=0o644)
    assert said() == {"witness.key_file": "has mode 0644: others may use this node's key."}
    files["key_file"].chmod(0o600)
    assert said() == {}


def test_a_single_member_is_warned_of(tmp_path: Path) -> None:
    keys = {**WITNESS, "endpoints": '["https://10.77.0.31:2379"]'}
    (problem,) = found(tmp_path, "witness", **keys)
    assert "only member" in problem


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        ("router", "should be an IPv4 or IPv6 address"),
        ("10.77.0.10", "shared address"),
        ("10.77.0.1", "own"),
        ("10.1.0.2", "the peer's"),
        ("224.0.0.1", "multicast"),
    ],
)
def test_references_are_others(tmp_path: Path, reference: str, complaint: str) -> None:
    problems = found(tmp_path, "isolation", references=f'["10.77.0.254", "{reference}"]')
    assert len(problems) == 1
    assert complaint in problems[0]


@pytest.mark.parametrize(
    "other",
    [
        {"kind": "etcd"},
        {"endpoints": ("https://h1:1",)},
        {"prefix": "/elsewhere/"},
        {"lease_ms": 600},
        {"without": "serve"},
    ],
)
def test_both_nodes_must_agree_on_the_witness(other: dict[str, str]) -> None:
    assert digest(replace(A, witness=WitnessSection(**other))) != digest(A)


def test_each_node_has_certificates_of_its_own() -> None:
    own = WitnessSection(ca_file="/etc/ca.crt", cert_file="/etc/a.crt", key_file="/etc/a.key")
    assert digest(replace(A, witness=own)) == digest(A)
