# SPDX-License-Identifier: Apache-2.0
"""The command line against two real workers: what is typed on one node is in force on both."""

import asyncio
import inspect
import json
import os
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from twinbeat.api import schema, sync
from twinbeat.cli import base
from twinbeat.cli.main import run
from twinbeat.cli.sync import progress
from twinbeat.config import document
from twinbeat.config.shared import split
from unit.memory_agent import Served, status
from unit.worker_pair import PATIENCE_S, SEED, Site, until, working

OTHER = "10.77.0.11"


class Shell:
    """Runs `twinbeat` on one node; nobody is at its standard input."""

    def __init__(self, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
        self.site = site
        self._capsys = capsys
        self.out = ""
        self.err = ""

    async def __call__(self, line: str, *more: str) -> int:
        own = str(self.site.root / "run" / "control.sock")
        self._capsys.readouterr()
        code = await asyncio.to_thread(run, ["--socket", own, *line.split(), *more])
        self.out, self.err = self._capsys.readouterr()
        assert "Traceback" not in self.err
        assert "defect" not in self.err
        return code

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def row(self) -> dict[str, Any]:
        """VRID 51, in force."""
        assert self.site.document is not None
        return self.site.document.tables["vrid"]["51"]


Test = Callable[[Shell, Shell, Path], Coroutine[Any, Any, None]]


def at_a_pair(test: Test) -> Callable[[Path, pytest.CaptureFixture[str]], None]:
    """A test at the primary's and the secondary's command line, and in a directory."""

    def run_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        async def work() -> None:
            async with working(tmp_path) as (a, b):
                await test(Shell(a, capsys), Shell(b, capsys), tmp_path)

        asyncio.run(work())

    run_it.__name__, run_it.__doc__ = test.__name__, inspect.getdoc(test)
    return run_it


def test_the_worker_is_looked_for_where_it_listens() -> None:
    assert Path(sync.SOCKET) == Path(base.SOCKET).with_name(base.WORKER_SOCKET)


# ------------------------------------------------------------------------------- changing --------


@at_a_pair
async def test_what_is_typed_is_in_force_on_both(a: Shell, b: Shell, directory: Path) -> None:
    assert await a(f"add vip {OTHER} vrid 51") == 0
    assert (a.out, a.err) == ("generation 2: done on both nodes\n", "")
    assert a.row == b.row
    assert a.row["vips"] == ["10.77.0.10", OTHER]
    for line in (
        "add vrid 52 interface=lan1",
        f"bind vip {OTHER} vrid 52",
        "set vrid 52 monitor=false",
        "add route 10.0.0.0/8 gateway=10.77.0.1",
        "rm route 10.0.0.0/8",
        "unset vrid 52 monitor",
    ):
        assert await b(line) == 0, b.err
    assert a.site.document is not None
    assert a.site.document.tables == {
        "vrid": {
            "51": {"id": 51, "interface": "lan0", "vips": ["10.77.0.10"]},
            "52": {"id": 52, "interface": "lan1", "vips": [OTHER]},
        },
    }
    assert b.site.document == a.site.document


@at_a_pair
async def test_what_came_of_it_is_a_code_and_json(a: Shell, b: Shell, directory: Path) -> None:
    assert await b(f"add vip {OTHER} --json --reason new") == 0
    assert (b.json["schema"], b.json["state"], b.json["code"]) == (1, "done", "done")
    assert b.json["version"]["generation"] == 2
    assert a.site.document is not None
    assert a.site.document.reason == "new"
    assert f"(uid {os.getuid()})" in a.site.document.by
    assert await b("bind vip 10.77.0.12 vrid 51 --local") == 4
    assert "refused (local)" in b.err
    assert await a("add vrid 51 interface=lan0") == 1
    assert "refused (exists): vrid 51 is there already" in a.err
    assert await a("add vip 10.77.0.10 vrid 51") == 2
    assert await a("add vrip 10.77.0.10") == 2
    b.site.refuse = lambda _: "no such interface"
    assert await a("set vrid 51 interface=lan9") == 2
    assert "vrid 51: no such interface" in a.err
    assert a.row["interface"] == "lan0"


@at_a_pair
async def test_timers_are_those_of_both_nodes(a: Shell, b: Shell, directory: Path) -> None:
    with Served(b.site.root / "run") as served:
        served.agent.state = status(timers=replace(served.agent.state.timers, override=3))
        assert await b("set timers hello=1ms dead_us=5000") == 0
        assert a.site.document is not None
        assert a.site.document.tables["timers"] == {"": {"hello_us": 1000, "dead_us": 5000}}
        (ended, _), served.agent.commands = *served.agent.commands, []  # type: ignore[misc]
        assert isinstance(ended, schema.SetTimers)
        assert ended.unset
        served.agent.state = status()
        assert await b("set timers hello=1ms --even-so") == 2
        assert await b("set timers accept_host=true") == 2
        assert await b("unset timers dead") == 0
        assert a.site.document.tables["timers"] == {"": {"hello_us": 1000}}
        assert await b("unset timers") == 0
        assert "timers" not in a.site.document.tables
        assert served.agent.commands == []


@at_a_pair
async def test_policies(a: Shell, b: Shell, directory: Path) -> None:
    await b.site.stop()
    assert await a(f"add vip {OTHER} --strict --timeout 0.5") == 4
    assert "refused (peer_unreachable)" in a.err
    assert await a(f"add vip {OTHER} --available --timeout 0.5") == 0
    assert "done on this node only" in a.out
    assert a.row["vips"] == ["10.77.0.10", OTHER]
    await a.site.stop()
    assert await a(f"add vip {OTHER}") == 3
    assert "Is twinbeat-worker running?" in a.err


@at_a_pair
async def test_a_request_is_carried_out_once(a: Shell, b: Shell, directory: Path) -> None:
    for shell in (a, b, a):
        assert await shell(f"add vip {OTHER} --request once") == 0
        assert "both" in shell.out
    assert a.row["vips"] == ["10.77.0.10", OTHER]
    assert a.site.document is not None
    assert a.site.document.version.generation == 2
    assert await a(f"rm vip {OTHER} --request twice") == 0
    assert await a(f"rm vip {OTHER} --request twice") == 0
    assert await a(f"rm vip {OTHER} --request other") == 2
    # An id is that of one command, on both nodes.
    for shell in (a, b):
        assert await shell(f"add vip {OTHER} --request twice") == 2
        assert "the request id twice was given to another command" in shell.err
        assert await shell(f"rm vip {OTHER} --request once") == 2
    assert a.row["vips"] == ["10.77.0.10"]
    assert await a(f"add vip {OTHER} --request once") == 0
    assert a.row["vips"] == ["10.77.0.10"]


@at_a_pair
async def test_changes_that_meet_are_all_made(a: Shell, b: Shell, directory: Path) -> None:
    """Each is made of the row that the one before left, so none takes back another."""
    socket = [str(shell.site.root / "run" / "control.sock") for shell in (a, b)]

    def one(number: int) -> int:
        # As many attempts as there are others: somebody always gets on.
        return run(["--socket", socket[number % 2], "add", "vip", f"10.77.1.{number}"])

    codes = await asyncio.gather(*(asyncio.to_thread(one, number) for number in range(4)))
    assert codes == [0, 0, 0, 0]
    assert set(a.row["vips"]) == {"10.77.0.10", *(f"10.77.1.{number}" for number in range(4))}
    assert b.row == a.row


@at_a_pair
async def test_a_command_of_ones_own_is_run_on_both(a: Shell, b: Shell, directory: Path) -> None:
    script = "echo $TWINBEAT_NODE is $TWINBEAT_ROLE; exit {1}"
    assert await a("add command tell", f'argv=["/bin/sh", "-c", "{script}", "x"]') == 0
    assert await b("run tell 0") == 0
    assert a.site.primary
    assert b.out.startswith("b: exit 0\n  b is secondary\na: exit 0\n  a is primary\n")
    assert await a("run --json tell 0") == 0
    assert [(said["node"], said["status"]) for said in a.json["outputs"]] == [("b", 0), ("a", 0)]
    assert await a("run tell 3") != 0
    assert a.out == "b: exit 3\n  b is secondary\n", "it isn't run where it would fail as well"
    assert "(run_failed): the command failed: status 3 on b\n" in a.err
    assert await b("run nothing") == 2
    assert "command nothing" in b.err


# ------------------------------------------------------------------------------- as a whole ------


@at_a_pair
async def test_a_file_becomes_what_is_shared(a: Shell, b: Shell, directory: Path) -> None:
    file = directory / "wanted.toml"
    file.write_text('[node]\nname = "a"\n[timers]\nprofile = "fast"\n')
    assert await a("apply", str(file)) == 2
    assert "- vrid 51" in a.err
    assert "add --yes" in a.err
    assert a.row
    assert await a("apply --yes", str(file)) == 0
    assert "each node's own, and left alone: node" in a.err
    assert a.site.document is not None
    assert b.site.document == a.site.document
    assert a.site.document.tables == {"timers": {"": {"profile": "fast"}}}
    assert await a("apply --yes", str(file)) == 0
    assert "it is so already" in a.out
    file.write_text("[timers]\nprofil = 1\n")
    assert await a("apply", str(file)) == 2
    assert "Did you mean `profile`?" in a.err
    assert await a("apply", str(directory / "none.toml")) == 2
    assert await b("rollback 1 --yes") == 0
    assert "rollback to generation 1" in a.site.document.reason
    assert a.row == b.row == SEED["vrid"]["51"]
    assert await a("rollback 99") == 1
    assert "there is no generation 99" in a.err


@at_a_pair
async def test_a_trial_changes_nothing(a: Shell, b: Shell, directory: Path) -> None:
    with Served(a.site.root / "run") as served:
        own = directory / "twinbeat.toml"
        own.write_text(document.toml())
        path = replace(served.agent.state.configuration, path=str(own))
        served.agent.state = status(configuration=path)
        file = directory / "wanted.toml"
        file.write_text('[[vrid]]\nid = 51\ninterface = "lan0"\nvips = ["300.0.0.1"]\n')
        assert await a("apply --dry-run", str(file)) == 2
        assert a.out == '~ vrid 51: vips + "300.0.0.1" - "10.77.0.10"\n'
        assert "300.0.0.1" in a.err
        assert await a("rm vrid 51 --dry-run --json") in {0, 2}
        assert a.json["changes"] == [{"type": "remove", "section": "vrid", "identity": "51"}]
        assert await a("bind vip 10.77.0.10 --dry-run") in {0, 2}
        assert a.out == "nothing would change\n"
    assert a.row == SEED["vrid"]["51"]
    assert a.site.document is not None
    assert a.site.document.version.generation == 1


# ----------------------------------------------------------------------------------- seeing ------


@at_a_pair
async def test_what_is_shown_can_be_applied(a: Shell, b: Shell, directory: Path) -> None:
    assert await a("add hook mail exec=/bin/true", 'arguments=["a b", "\\"c,"]') == 0
    assert a.site.document is not None
    for shell, more in ((a, ""), (b, ""), (a, " --node peer"), (a, " --generation 2")):
        assert await shell("show config" + more) == 0
        assert shell.out.startswith("# generation 2 of term 4, made ")
        assert split(tomllib.loads(shell.out))[1] == a.site.document.tables
    assert await a("show config --json") == 0
    assert a.json["document"]["version"] == [4, 2]
    assert await a("show config --generations") == 0
    first, second = a.out.splitlines()
    assert first.endswith("*")
    assert "generation 2 of term 4" in first
    assert "generation 1 of term 0" in second
    assert await a("show config --backups") == 0
    assert "there are no backups" in a.out
    assert await a("show config --generation 1 --backups") == 2
    assert await a("show links --generation 1") == 2


@at_a_pair
async def test_how_both_stand_and_every_setting(a: Shell, b: Shell, directory: Path) -> None:
    assert await a("show sync") == 0
    assert a.out.startswith("IN STEP: ")
    for part in (
        "node       a, generation 1 of term 0",
        "peer       b (",
        "connection connected, round trip ",
        "synchronization on, propagation on, strict status off",
        "own certificate until ",
    ):
        assert part in a.out
    assert await a("show sync --node peer --json") == 0
    assert a.json["node"] == "b"
    await b.site.stop()
    assert await a("show config --node peer") == 3
    assert "the peer can't be asked" in a.err


@at_a_pair
async def test_how_each_list_of_files_stands(a: Shell, b: Shell, directory: Path) -> None:
    assert await a("show files") == 0
    assert a.out.startswith("no list of files is kept alike")
    listed = directory / "listed"
    listed.mkdir()
    (listed / "one").write_text("12345")
    assert await a(f"add file certs paths={listed}") == 0

    async def shown(shell: Shell, line: str, part: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while await shell(line) or part not in shell.out:
            assert time.monotonic() < deadline, shell.out
            await asyncio.sleep(0.01)

    for shell, line in ((a, "show files"), (b, "show files"), (a, "show files --node peer")):
        await shown(shell, line, "certs: SAME: Both nodes have it alike.\n")
        assert "  entries 2, bytes 5\n" in shell.out
    os.mkfifo(listed / "pipe\x1b[31m")
    for shell in (a, b):
        await shown(shell, "show files", "certs: PARTLY: ")
        assert "\x1b" not in shell.out
        named = f"  ! {listed}/pipe?[31m: it is no file, directory or symbolic link (kind)\n"
        assert named in shell.out
        desk = shell.site.desk
        await until(
            lambda desk=desk: (
                [(each.state, each.failed > 0) for each in desk.report.files] == [("partly", True)]
            ),
            "the agent hears of it",
        )
    assert await b("show files --node peer --json") == 0
    assert (b.json["schema"], b.json["node"]) == (1, "a")
    assert [each["failures"][0]["code"] for each in b.json["lists"]] == ["kind"]
    assert b.json["counts"]["kind"] >= 1


@at_a_pair
async def test_the_other_node_is_asked_by_its_worker(a: Shell, b: Shell, directory: Path) -> None:
    with Served(b.site.root / "run") as served:
        assert await a("show --node peer") == 0
        assert a.out.startswith("PRIMARY since ")
        assert await a("show links --node peer") == 0
        assert await a("history -n 1 --node peer") == 0
        assert await a("stat --node peer") == 0
        assert served.agent.commands == []


@pytest.mark.parametrize(
    "line",
    ["show sync", "show --node peer", "config diff --peer", "history --node peer", "rm vip ::1"],
)
def test_a_worker_that_hangs_is_nobody_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    """A read has no outcome that could be unknown, nor has a change that was not asked for yet."""
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(tmp_path / base.WORKER_SOCKET))
        hanging.listen()
        own = str(tmp_path / "control.sock")
        assert run(["--socket", own, "--timeout", "0.3", *line.split()]) == base.Exit.UNREACHABLE
    out, err = capsys.readouterr()
    assert "Is twinbeat-worker running?" in err
    assert "outcome" not in out + err


@at_a_pair
async def test_differences(a: Shell, b: Shell, directory: Path) -> None:
    assert await a("config diff --peer") == 0
    assert "are the same" in a.out
    file = directory / "other.toml"
    file.write_text('[[vrid]]\nid = 51\ninterface = "lan1"\nvips = ["10.77.0.10"]\n')
    assert await b("config diff", str(file)) == 1
    assert '~ vrid 51: interface = "lan0" -> "lan1"' in b.out
    assert await b("config diff --json", str(file)) == 1
    assert len(b.json["changes"]) == 1
    assert await b("config diff --peer", str(file)) == 2


@at_a_pair
async def test_synchronization_by_command(a: Shell, b: Shell, directory: Path) -> None:
    assert await b("force sync") == 0
    assert b.out == "both nodes have generation 1\n"
    assert await b("force sync --adopt") == 2
    assert "add --yes" in b.err
    assert await b("force sync --adopt --yes") == 1
    assert "refused (nothing_to_adopt)" in b.err
    await a.site.stop()
    await until(
        lambda: b.site.desk.report is not None and b.site.desk.report.connection != "connected"
    )
    assert await b("force sync") == 1
    assert "refused (sync_unreachable)" in b.err


def test_a_bar_grows() -> None:
    assert progress(0, 0) == ""
    assert progress(0, 4000).count("#") == 0
    assert progress(1000, 4000) == f"[{'#' * 10}{'.' * 30}] 1,000 of 4,000 bytes"
    assert progress(4000, 4000).count("#") == 40


# ------------------------------------------------------------------------------ completion -------


def completed(line: str, cwd: Path) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", "from twinbeat.cli.main import main; main()"],
        env=os.environ | {"_TWINBEAT_COMPLETE": "bash_complete", "TWINBEAT_LINE": line},
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
    )
    return [item.removeprefix("plain,") for item in result.stdout.split()]


@at_a_pair
async def test_what_may_come_next(a: Shell, b: Shell, directory: Path) -> None:
    tool = f"twinbeat --socket {a.site.root}/run/control.sock "

    async def after(line: str) -> list[str]:
        return await asyncio.to_thread(completed, tool + line, directory)

    assert "neighbour" in await after("bind ")
    assert await after("set vrid ") == ["51"]
    assert await after("set vrid 51 mon") == ["monitor="]
    assert await after("set vrid 51 monitor=") == ["true", "false"]
    assert await after("set timers profile=cl") == ["classic"]
    assert await after("unset vrid 51 mon") == ["monitor"]
    assert await after("rm vip 10.") == ["10.77.0.10"]
    assert await after("bind vip 10.77.0.12 ") == ["vrid"]
    assert await after("bind vip 10.77.0.12 vrid ") == ["51"]
    assert "destination=" not in await after("set vrid 51 ")
    assert await after("run ") == []


def test_nobody_waits_for_a_suggestion(tmp_path: Path) -> None:
    assert completed(f"twinbeat --socket {tmp_path}/none set vrid ", tmp_path) == []


def test_bash_takes_what_is_suggested(tmp_path: Path) -> None:
    """To it `profile=cl` is three words, of which the last is being typed."""
    tool = tmp_path / "twinbeat"
    tool.write_text(f"#!{sys.executable}\nfrom twinbeat.cli.main import main\nmain()\n")
    tool.chmod(0o755)
    script = (
        'eval "$(twinbeat completion bash)"\n'
        'for COMP_LINE in "twinbeat set timers profile=cl" "twinbeat set timers pro"; do\n'
        "  COMP_POINT=${#COMP_LINE}; _twinbeat_completion twinbeat 2>/dev/null\n"
        '  echo "${COMPREPLY[@]}"\n'
        "done\n"
        "complete -p twinbeat\n"
    )
    result = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines() == [
        "classic",
        "profile=",
        "complete -o nosort -F _twinbeat_completion twinbeat",
    ]
