# SPDX-License-Identifier: Apache-2.0
"""`twinbeat import`: keepalived.conf as people write it, and what becomes of each line of it."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from twinbeat.cli.main import run
from twinbeat.config.keepalived.grammar import DEPTH_MAX, FILES_MAX

SAMPLES = Path("/usr/share/doc/keepalived/samples")
LINK = "eth0,10.0.0.1,10.0.0.2"

UNICAST = """! Configuration File for keepalived
global_defs {
   notification_email {
     admin@example.com
   }
   router_id LVS_DEVEL
   vrrp_strict
   vrrp_garp_master_refresh 30
   enable_script_security
}

vrrp_script chk_haproxy {
    script "killall -0 haproxy"   # cheaper than pidof
    interval 2
    weight -20
}
vrrp_script chk_http
{
    script "/usr/bin/curl -fsS http://127.0.0.1/"
    interval 0.5
    timeout 3
    fall 2
    rise 4
}

vrrp_instance VI_1 {
    state MASTER
    interface eth0
    virtual_router_id 51
    priority 101
    advert_int 1
    preempt_delay 300
    authentication {
        auth_type PASS
        auth_pass s3cr3t
    }
    unicast_src_ip 10.0.0.1
    unicast_peer {
        10.0.0.2
    }
    virtual_ipaddress {
        10.0.0.10/24 dev eth0 label eth0:1
        10.9.0.10/24 dev eth1
    }
    track_script {
        chk_haproxy
        chk_http weight 100
    }
    notify_master "/usr/local/bin/role.sh master"
    notify_backup "/usr/local/bin/role.sh backup"
    notify /usr/local/bin/told.sh
}
"""

GATEWAYS = """
$LAN=eth1
vrrp_sync_group GATEWAY {
    group {
        LAN
        WAN
        LAN6
    }
    notify_fault "/usr/local/bin/fault.sh"
}
vrrp_instance LAN {
    state BACKUP
    nopreempt
    interface $LAN
    use_vmac vrrp10
    vmac_xmit_base
    virtual_router_id 10
    priority 0x64
    virtual_ipaddress { 192.168.1.1/24 }
    virtual_routes {
        default via 203.0.113.1 dev eth0 table 100 metric 5
        10.0.0.0/8 via 192.168.1.254
        blackhole 172.16.0.0/12
        src 192.168.1.1 to 198.51.100.0/24 gw 203.0.113.2
    }
    virtual_rules {
        from 192.168.1.0/24 table 100 priority 2000
        to 198.51.100.0/24 lookup main
        from 10.0.0.0/8 table upstream
    }
    track_interface {
        eth1
        eth2 weight -50
    }
}
vrrp_instance WAN {
    state BACKUP
    interface eth0
    use_vmac
    virtual_router_id 10
    dont_track_primary
    virtual_ipaddress {
        203.0.113.10
    }
}
vrrp_instance LAN6 { state BACKUP
    interface ${LAN}
    use_vmac
    virtual_router_id 10
    virtual_ipaddress { fe80::10
      fd00::1/64 }
    virtual_ipaddress_excluded {
      fd00::2/64
    }
}
"""


def imported(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Exit code, tables and notes by verdict; what is printed as TOML is the same, and passes."""
    file = tmp_path / "keepalived.conf"
    file.write_text(text)
    code = run(["import", str(file), "--json", *options])
    told = json.loads(capsys.readouterr().out)
    assert told["complete"] == (code == 0)
    made = tmp_path / "twinbeat.toml"
    assert run(["import", str(file), *options]) == code
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == len(told["notes"])
    made.write_text(out)
    assert run(["config", "check", "--offline", str(made)]) == 0, capsys.readouterr().out
    capsys.readouterr()
    tables = tomllib.loads(out)
    assert tomllib.loads(told["toml"]) == tables
    notes: dict[str, list[dict[str, Any]]] = {"left": [], "changed": [], "needless": []}
    for note in told["notes"]:
        notes[note["verdict"]].append(note)
    return code, tables, notes


def test_one_instance_by_unicast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, tables, notes = imported(UNICAST, tmp_path, capsys)
    assert code == 1
    assert tables == {
        "node": {"name": "LVS_DEVEL", "index": 0},
        "pair": {"id": 51},
        "peer": {"name": "node1"},
        "timers": {"profile": "balanced"},
        "link": [{"interface": "eth0", "local": "10.0.0.1", "peer": "10.0.0.2"}],
        "vrid": [
            {"id": 51, "interface": "eth0", "vmac": False, "vips": ["10.0.0.10"]},
            {"id": 52, "interface": "eth1", "vmac": False, "vips": ["10.9.0.10"]},
        ],
        "policy": {"preferred": True, "preempt_hold_s": 300, "accept_single_link": True},
        "announce": {"refresh_s": 30},
        "monitor": [
            {
                "name": "chk_haproxy",
                "kind": "process",
                "process": "haproxy",
                "interval_ms": 2000,
                "weight": 78,
            },
            {
                "name": "chk_http",
                "kind": "script",
                "command": ["/usr/bin/curl", "-fsS", "http://127.0.0.1/"],
                "interval_ms": 500,
                "timeout_ms": 3000,
                "fall": 2,
                "rise": 4,
                "weight": 393,
            },
        ],
        "hook": [
            {
                "name": "role.sh",
                "exec": "/usr/local/bin/role.sh",
                "arguments": ["master"],
                "events": ["primary"],
            },
            {
                "name": "role.sh-2",
                "exec": "/usr/local/bin/role.sh",
                "arguments": ["backup"],
                "events": ["secondary"],
            },
            {
                "name": "told.sh",
                "exec": "/usr/local/bin/told.sh",
                "arguments": [],
                "events": ["primary", "secondary", "fault"],
            },
        ],
    }
    assert [(note["line"], note["what"]) for note in notes["left"]] == [(3, "notification_email")]
    assert {note["line"] for note in notes["changed"]} == {26, 30, 31, 43, 51}
    assert {note["line"] for note in notes["needless"]} == {7, 9, 33, 42}


def test_gateways_in_a_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ("--link", "eth1,192.168.1.2,192.168.1.3", "--link", "eth0,203.0.113.2,203.0.113.3")
    code, tables, notes = imported(
        GATEWAYS, tmp_path, capsys, *wanted, "--index", "0", "--peer", "gw-b"
    )
    assert code == 1
    assert tables["node"] == {"name": "node0", "index": 0}
    assert tables["peer"] == {"name": "gw-b"}
    assert [link["interface"] for link in tables["link"]] == ["eth1", "eth0"]
    lan, wan = tables["vrid"]
    assert lan == {
        "id": 10,
        "interface": "eth1",
        "vmac": True,
        "vips": ["192.168.1.1", "fe80::10", "fd00::1", "fd00::2"],
    }
    assert wan == {
        "id": 11,
        "interface": "eth0",
        "vmac": True,
        "vips": ["203.0.113.10"],
        "monitor": False,
    }
    assert tables["route"] == [
        {
            "destination": "default",
            "gateway": "203.0.113.1",
            "interface": "eth0",
            "table": 100,
            "metric": 5,
        },
        {"destination": "10.0.0.0/8", "gateway": "192.168.1.254"},
        {"destination": "172.16.0.0/12", "type": "blackhole"},
        {"destination": "198.51.100.0/24", "gateway": "203.0.113.2", "source": "192.168.1.1"},
    ]
    assert tables["rule"] == [
        {"source": "192.168.1.0/24", "table": 100, "priority": 2000},
        {"destination": "198.51.100.0/24", "table": 254, "priority": 1001},
    ]
    assert tables["monitor"] == [
        {"name": "eth2", "kind": "interface", "interface": "eth2", "weight": 196}
    ]
    assert tables["hook"][0]["events"] == ["fault"]
    assert "preferred" not in tables.get("policy", {})
    (table,) = notes["left"]
    assert table["what"] == "from 10.0.0.0/8 table upstream"
    assert "takes its number" in table["sentence"] or "take its number" in table["sentence"]


def test_files_are_included_and_definitions_put_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tmp_path / "conf.d"
    parts.mkdir()
    (parts / "1.conf").write_text("$VIP=10.0.0.10\n")
    (parts / "2.conf").write_text(
        "vrrp_instance V {\n interface eth0\n virtual_router_id 7\n state BACKUP\n"
        " include ../vips\n}\n"
    )
    (tmp_path / "vips").write_text("virtual_ipaddress {\n $VIP\n 10.0.0.11 dev eth0\n}\n")
    _, tables, notes = imported("include conf.d/*.conf\n", tmp_path, capsys, "--link", LINK)
    assert tables["vrid"][0]["vips"] == ["10.0.0.10", "10.0.0.11"]
    assert tables["node"]["index"] == 1
    assert {Path(note["file"]).name for note in notes["changed"]} == {"2.conf"}


SCRIPTS = [
    ("pidof nginx", {"kind": "process", "process": "nginx"}),
    ("/usr/bin/pgrep -x named", {"kind": "process", "process": "named"}),
    ("pgrep -f 'a b'", {"kind": "script", "command": ["/bin/sh", "-c", "pgrep -f 'a b'"]}),
    ("</dev/tcp/127.0.0.1/80", {"command": ["/bin/sh", "-c", "</dev/tcp/127.0.0.1/80"]}),
    ("/bin/check 'a b' c", {"command": ["/bin/check", "a b", "c"]}),
    ("/bin/a | /bin/b", {"command": ["/bin/sh", "-c", "/bin/a | /bin/b"]}),
]


@pytest.mark.parametrize(("script", "expected"), SCRIPTS)
def test_scripts_become_monitors(
    script: str, expected: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f'vrrp_script s {{\n script "{script}"\n}}\n' + INSTANCE.format(
        more="track_script { s }"
    )
    _, tables, _ = imported(text, tmp_path, capsys, "--link", LINK)
    (monitor,) = tables["monitor"]
    assert monitor.items() >= expected.items()


INSTANCE = """vrrp_instance V {{
  interface eth0
  virtual_router_id 7
  virtual_ipaddress {{ 10.0.0.10 }}
  {more}
}}
"""

LEFT = [
    ("track_script { nosuch }", "no vrrp_script is called nosuch"),
    ("track_process { nosuch }", "no vrrp_track_process is called nosuch"),
    ("track_file { f }", "no monitor reads a file"),
    ("track_bfd { b }", "than BFD"),
    ("virtual_ipaddress { 10.0.0 }", "10.0.0 is no address"),
    ("virtual_routes { 1.2.3.0/24 via 10.0.0.1 or 10.0.0.2 }", "`or` of a route"),
    ("virtual_routes { default via 10.0.0.300 }", "10.0.0.300 is no address"),
    ("virtual_rules { from 10.0.0./8 table 3 }", "10.0.0./8 is no network"),
    ("virtual_rules { from 10.0.0.0/8 }", "without a table"),
    ("unicast_peer { 10.0.0.2\n 10.0.0.3 }", "10.0.0.3 has to go"),
    ("@up priority 50", "for some hosts only"),
    ("notify_stop /bin/true", "ExecStopPost"),
    ("smtp_alert", "sends no mail"),
    ("a_new_keyword of tomorrow", "nothing is known here of `a_new_keyword`"),
]


@pytest.mark.parametrize(("more", "why"), LEFT)
def test_what_cannot_be_translated_is_named_with_its_line(
    more: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, notes = imported(INSTANCE.format(more=more), tmp_path, capsys, "--link", LINK)
    assert code == 1
    found = [note for note in notes["left"] if why in note["sentence"]]
    assert len(found) == 1
    assert found[0]["line"] == 5


def test_a_pair_that_shares_its_load_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = INSTANCE.format(more="state MASTER") + INSTANCE.format(more="state BACKUP").replace(
        "id 7", "id 8"
    ).replace("0.10", "0.11")
    code, _, notes = imported(two, tmp_path, capsys, "--link", LINK)
    assert code == 1
    assert "one role for all" in notes["left"][0]["sentence"]


def test_nothing_left_ends_with_zero_and_secrets_are_never_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "authentication {\n auth_type PASS\n auth_pass hunter2\n }"
    file = tmp_path / "keepalived.conf"
    file.write_text(INSTANCE.format(more=more))
    for options in ([], ["--json"]):
        assert run(["import", str(file), "--link", LINK, *options]) == 0
        assert "hunter2" not in "".join(capsys.readouterr())


def test_what_is_shared_can_be_applied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keepalived.conf"
    file.write_text(UNICAST)
    assert run(["import", str(file), "--shared"]) == 1
    shared = tomllib.loads(capsys.readouterr().out)
    assert set(shared) == {"timers", "vrid", "hook", "policy", "announce", "monitor"}


def test_more_vrids_than_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = "".join(f" virtual_ipaddress {{\n 10.1.0.{n} dev e{n}\n }}\n" for n in range(255))
    file = tmp_path / "keepalived.conf"
    file.write_text(INSTANCE.format(more=more))
    assert run(["import", str(file), "--link", LINK]) == 1
    out, err = capsys.readouterr()
    assert len(tomllib.loads(out)["vrid"]) == 255
    assert "a node has 255 VRIDs, and they are all given" in err


BAD = [
    ("", "has no vrrp_instance"),
    ("virtual_server 10.0.0.1 80 {\n}\n", "has no vrrp_instance"),
    ("vrrp_instance V {\n interface eth0\n", "line 1: opens a block that is not closed"),
    ("}\n", "line 1: closes a block that was not opened"),
    ("a\n{ }\n{ }\n", "line 3: a block begins without a keyword"),
    ('script "x\n', "line 1: a quote is not closed"),
    ("include nosuch/*.conf\n", "includes nosuch/*.conf, and there is no such file"),
    ("include **x\n", "includes **x, which is no pattern of files"),
    ("include keepalived.conf\n", f"more than {FILES_MAX} files"),
    ("a {\n" * (DEPTH_MAX + 2), f"more than {DEPTH_MAX} blocks deep"),
    ("$A=" + "x" * 5000 + "\n", "more than 4096 characters"),
    ("vrrp_instance V {\n interface eth0\n}\n", "has no vrrp_instance that can be used"),
    (INSTANCE.format(more=""), "Say by which links"),
    ("\\", "can't stand here"),
    ("a\0b", "NUL"),
]


@pytest.mark.parametrize(("text", "why"), BAD)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_bad_input_ends_with_a_sentence(
    text: str, why: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keepalived.conf"
    file.write_text(text)
    assert run(["import", str(file), *options]) == 2
    out, err = capsys.readouterr()
    assert (out, why in err, "Traceback" in err) == ("", True, False), err


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "binary").write_bytes(b"\x7fELF\xff\xfe")
    (tmp_path / "huge").write_bytes(b"\n" * ((1 << 20) + 1))
    for name, why in [
        ("gone", "No such file"),
        ("binary", "is not UTF-8"),
        ("huge", "mebibyte"),
    ]:
        assert run(["import", str(tmp_path / name)]) == 2
        assert why in capsys.readouterr().err


@pytest.mark.parametrize("given", ["eth0", "eth0,1.2.3.4", "eth0,a,b", ",1.2.3.4,1.2.3.5"])
def test_a_link_that_is_none(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["import", "keepalived.conf", "--link", given]) == 2
    assert "should be an interface and two addresses" in capsys.readouterr().err


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="Debian's samples are not installed")
def test_samples_of_keepalived_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    used = 0
    for sample in sorted(SAMPLES.glob("keepalived.conf.*")):
        if run(["import", str(sample), "--link", LINK]) == 2:
            assert "has no vrrp_instance" in capsys.readouterr().err, sample
            continue
        used += 1
        made = tmp_path / "twinbeat.toml"
        made.write_text(capsys.readouterr().out)
        assert run(["config", "check", "--offline", str(made)]) == 0, sample
        capsys.readouterr()
    assert used >= 10
