# SPDX-License-Identifier: Apache-2.0
"""What can't be used gets a sentence, the documented exit code, and never a traceback.

No agent is asked here: what one refuses is in the tests of its interface and of the lab.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from repo import project
from twinbeat.cli import main as tool
from twinbeat.weblog.client import cli as logs

README = (project.ROOT / "README.md").read_text()
FOUND = re.search(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
assert FOUND is not None
GOOD = FOUND[1]
KEEPALIVED = """vrrp_instance A {
    interface eth0
    virtual_router_id 9
    unicast_src_ip 10.0.0.2
    unicast_peer {
        10.0.0.3
    }
    virtual_ipaddress {
        10.0.0.9
    }
}
"""

CONFIGURATIONS = {
    "empty": ("", "node.name: is missing"),
    "zeros": ("\0\0", "is not TOML"),
    "no end of a table": ("[node\n", "is not TOML"),
    "another encoding": (b'[node]\nname = "\xff"\n', "is not UTF-8 (byte 15)"),
    "a byte order mark": ("\ufeff" + GOOD, "save it as UTF-8 without one"),
    "nested too deep": ("a = " + "[" * 5000, "is not TOML"),
    "larger than any": ("#" * (2 << 20), "larger than a mebibyte"),
    "twice the same": (GOOD + '[node]\nname = "a"\n', "is not TOML"),
    "an unknown section": (GOOD + "[nod]\n", "Did you mean `node`?"),
    "an unknown key": (GOOD.replace("index = 0 ", "indx = 0 "), "Did you mean `index`?"),
    "out of range": (GOOD.replace("index = 0 ", "index = 7 "), "an integer from 0 to 1"),
    "another type": (GOOD.replace("id = 1\n", 'id = "one"\n'), "an integer from 1 to 4294967295"),
    "a huge number": (GOOD.replace("id = 1\n", "id = 9" + "9" * 40 + "\n"), "an integer from 1"),
    "no number": (GOOD.replace("id = 1\n", "id = nan\n"), "an integer from 1"),
    "a date": (GOOD.replace("id = 1\n", "id = 2026-01-01\n"), "an integer from 1"),
    "a table for a list": (GOOD.replace("[[vrid]]", "[vrid]"), "write [[vrid]]"),
    "a list for a table": (GOOD.replace("[node]", "[[node]]"), "write [node]"),
    "no such profile": (GOOD.replace("balanced", "fastt"), '"fast", "balanced"'),
    "no address": (GOOD.replace('"10.77.0.1"', '"10.77.0.999"'), "an IPv4 or IPv6 address"),
    "a network": (GOOD.replace('"10.77.0.10"', '"10.77.0.10/24"'), "without a prefix length"),
    "a group": (GOOD.replace('"10.77.0.10"', '"224.0.0.1"'), "is a multicast address"),
    "a node's own": (GOOD.replace('"10.77.0.10"', '"10.77.0.1"'), "is a node's own address"),
    "no interface": (GOOD.replace('"ha0"', '"../etc"'), "the name of a network interface"),
    "no letters": (GOOD.replace('"b"', '"b\\u0000\\u001b[2J"'), "1 to 63 letters"),
    "its own peer": (GOOD.replace('"10.77.0.2"', '"10.77.0.1"'), "own local address"),
    "too quick": (
        GOOD.replace('profile = "balanced"', "hello_us = 10000\ndead_us = 10000"),
        "at least three times hello_us",
    ),
    "an endless list": (GOOD + 'vips_file = "/dev/zero"\n', "larger than any list"),
    "no list": (GOOD + 'vips_file = "/"\n', "Is a directory"),
    "no file": (GOOD + 'vips_file = "/gone"\n', "No such file"),
}

IMPORTED = {
    "empty": ("", "nothing to import"),
    "no end": ("vrrp_instance A {\n", "opens a block that is not closed"),
    "no begin": ("}\n", "closes a block that was not opened"),
    "another encoding": (b"\xff", "is not UTF-8 (byte 0)"),
    "zeros": ("\0", "holds NUL bytes"),
    "too deep": ("a {\n" * 99, "more than 16 blocks deep"),
    "endless": ("include /dev/zero\n", "larger than a mebibyte"),
    "itself": ("include keepalived.conf\n", "does one include itself?"),
    "no such number": (
        KEEPALIVED.replace("router_id 9", "router_id 999"),
        "needs `interface` and a `virtual_router_id`, 1 to 255",
    ),
    "no address": (KEEPALIVED.replace("10.0.0.9\n", "10.0.0.999\n"), "10.0.0.999 is no address"),
    "multicast": (re.sub(r"(?s)    unicast.*?}\n", "", KEEPALIVED), "--link eth0,OWN-ADDRESS"),
}

LOG_CONFS = {
    "empty": ("", "write `Filter default` at least"),
    "zeros": ("\0\x1b[2J\n", "\\x00\\x1b[2J: unknown"),
    "another encoding": (b"\xff\n", "is not UTF-8"),
    "endless": ("#" * (2 << 20), "has more than 1048576 bytes"),
    "an unknown word": ("Filtre default\n", "Did you mean `Filter`?"),
    "no end": ("Filter default\nbegin default\n", "write `end default`"),
    "no begin": ("end default\n", "without a `begin` before it"),
    "no address": ("NODE 999.1.1.1 FINGERPRINT zz\n", "is no address"),
    "no fingerprint": ("NODE 10.0.0.1 FINGERPRINT abcd\n", "has 64 hexadecimal digits"),
    "no port": ("metrics 127.0.0.1:99999\n", "from 1 to 65535"),
    "no network": ("Filter a IP 10.0.0.1 NETMASK 255.0.255.0\n", "a network (192.0.2.0/24)"),
    "no condition": ("Filter a ON\n", "says of no record that it is meant"),
    "twice": ("Filter default\nFilter default\n", "is there already"),
    "no specifier": ('begin default\nlogFormat CUSTOM "%!"\n', "`%!` is no specifier"),
    "elsewhere": ("begin default\nlogFilenameFormat ../x\n", "is no name of a file"),
    "no interval": ("begin default\nlogInterval Daly\n", "Did you mean `Daily`?"),
}

ARGUMENTS = {
    ("shwo",): (2, "Did you mean 'show'?"),
    ("show", "--loud"): (2, "No such option"),
    ("show", "everything"): (2, "is not one of"),
    ("show", "--timeout", "nan"): (2, "is not a number"),
    ("show", "--timeout", "0"): (2, "is not in the range"),
    ("show", "--timeout", "inf"): (2, "is not in the range"),
    ("show", "--socket", "/gone"): (3, "Is twinbeatd running?"),
    ("show", "--socket", "/etc/passwd"): (3, "Connection refused"),
    ("show", "--socket", "/" + "x" * 200): (3, "path too long"),
    ("show", "--node", "other"): (2, "is not 'peer'"),
    ("history", "-n", "0"): (2, "is not in the range"),
    ("stat", "--watch", "-1"): (2, "is not in the range"),
    ("pause", "--for", "soon"): (2, "is no length such as"),
    ("pause", "--for", "999999999999d"): (2, "is no length such as"),
    ("set", "timers", "hello"): (2, "is no KEY=VALUE"),
    ("set", "timers", "hello=soon"): (2, "is no length such as"),
    ("set", "timers", "hello=-5ms"): (2, "is no length such as"),
    ("set", "timers", "hello=9" + "9" * 40 + "s"): (2, "is no length such as"),
    ("add",): (2, "Missing argument"),
    ("add", "vird", "51"): (2, "is not one of"),
    ("rollback", "yesterday"): (2, "is not a valid integer"),
    ("rollback", "0"): (2, "is not in the range"),
    ("keys", "generate", "--id", "256"): (2, "is not in the range"),
    ("apply", "/gone"): (2, "there is no such file"),
    ("apply", "/"): (2, "is a directory"),
    ("completion", "tcsh"): (2, "is not one of"),
    ("config", "generate", "more"): (2, "unexpected extra argument"),
    ("config", "check", "/dev/zero"): (2, "larger than a mebibyte"),
    ("debug", "dump", "--output", "/gone/dump"): (1, "No such file or directory"),
    ("import", "/dev/zero"): (2, "larger than a mebibyte"),
    ("import", "/gone", "--link", "eth0"): (2, "an interface and two addresses"),
    ("weblog", "allow", "logs", "1234"): (2, "64 hexadecimal digits"),
}

LOG_ARGUMENTS = {
    ("stat",): (2, "Did you mean 'start'?"),
    ("add-node", "gateway-a"): (2, "names are not asked for"),
    ("add-node", "192.0.2.1", "--port", "0"): (2, "is not in the range"),
    ("--control", "/gone", "show"): (3, "Is twinbeat-weblog start running?"),
    ("--file", "/gone", "verify"): (2, "`twinbeat-weblog add-node` makes one"),
    ("--file", "/dev/zero", "verify"): (2, "has more than 1048576 bytes"),
    ("--file", "/", "verify"): (2, "is a directory"),
}


def judge(code: int, wanted: int, said: str, words: str) -> None:
    assert (code, words in said, "Traceback" in said, "defect" in said) == (
        wanted,
        True,
        False,
        False,
    ), said


def written(file: Path, content: str | bytes) -> Path:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, words = CONFIGURATIONS[name]
    file = written(tmp_path / "twinbeat.toml", content)
    judge(tool.run(["config", "check", str(file)]), 2, "".join(capsys.readouterr()), words)


@pytest.mark.parametrize("name", IMPORTED)
def test_files_to_import(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, words = IMPORTED[name]
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path / "keepalived.conf", content)
    judge(tool.run(["import", str(file)]), 2, "".join(capsys.readouterr()), words)


@pytest.mark.parametrize("name", LOG_CONFS)
def test_log_confs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, words = LOG_CONFS[name]
    file = written(tmp_path / "log.conf", content)
    code = tool.run(["--file", str(file), "verify"], logs.cli, logs.NAME)
    judge(code, 2, "".join(capsys.readouterr()), words)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=" ".join)
def test_arguments(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, words = ARGUMENTS[arguments]
    judge(tool.run(list(arguments)), code, "".join(capsys.readouterr()), words)


@pytest.mark.parametrize("arguments", LOG_ARGUMENTS, ids=" ".join)
def test_arguments_of_the_log_client(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, words = LOG_ARGUMENTS[arguments]
    state = ["--state", str(tmp_path)]
    found = tool.run([*state, *arguments], logs.cli, logs.NAME)
    judge(found, code, "".join(capsys.readouterr()), words)
