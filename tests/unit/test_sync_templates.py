# SPDX-License-Identifier: Apache-2.0
"""The gateway's own commands: what may be run, what becomes of arguments, bounds of a run."""

import asyncio
import os
import select
from pathlib import Path

import pytest

from twinbeat.sync import templates
from twinbeat.sync.document import Run
from twinbeat.sync.lists import FileList
from twinbeat.sync.operation import OUTPUT_MOST, Output
from twinbeat.sync.templates import CommandRefused, Template, argv, carry_out, problems

LOAD = Template(name="load", argv=("/usr/sbin/nft", "-f", "{file}"), undo=("/bin/undo", "{1}"))
RELOAD = Template(name="reload", argv=("/usr/bin/systemctl", "reload", "haproxy"))
SET = Template(name="set", argv=("/sbin/sysctl", "-w", "{1}={2}"))
LISTS = [FileList(name="nft", paths=("/etc/nftables.d",))]


def made(run: Run) -> tuple[str, ...]:
    return argv([LOAD, RELOAD, SET], LISTS, run)[1]


def run(command: str, *arguments: str, undo: bool = False) -> Run:
    return Run(command=command, arguments=arguments, undo=undo)


class TestArguments:
    def test_are_put_in_their_places_and_are_never_taken_apart(self) -> None:
        assert made(run("reload")) == ("/usr/bin/systemctl", "reload", "haproxy")
        path = "/etc/nftables.d/a b; $(reboot) {1}"
        assert made(run("load", path)) == ("/usr/sbin/nft", "-f", path)
        assert made(run("load", path, undo=True)) == ("/bin/undo", path)
        assert made(run("set", "a.b", "1 2")) == ("/sbin/sysctl", "-w", "a.b=1 2")

    @pytest.mark.parametrize(
        ("asked", "code"),
        [
            (run("reboot"), "unknown_command"),
            (run("/usr/sbin/nft"), "unknown_command"),
            (run("reload", "x"), "arguments"),
            (run("load"), "arguments"),
            (run("set", "a"), "arguments"),
            (run("set", "a", "b\0c"), "arguments"),
            (run("reload", undo=True), "no_undo"),
            (run("load", "/etc/shadow"), "not_listed"),
            (run("load", "/etc/nftables.d/../shadow"), "not_listed"),
            (run("load", "etc/nftables.d/x"), "not_listed"),
            (run("load", "/etc/nftables.dir/x"), "not_listed"),
            (run("set", "-w", "x"), "option"),
        ],
    )
    def test_that_do_not_belong_are_refused(self, asked: Run, code: str) -> None:
        with pytest.raises(CommandRefused) as refused:
            made(asked)
        assert refused.value.code == code
        assert refused.value.sentence.endswith(".")

    def test_may_begin_with_a_dash_where_they_can_be_no_option(self) -> None:
        assert made(run("set", "a", "-1")) == ("/sbin/sysctl", "-w", "a=-1")


class TestConfiguration:
    def test_that_is_right_has_no_problems(self) -> None:
        assert list(problems([LOAD, RELOAD, SET])) == []

    @pytest.mark.parametrize(
        ("template", "value"),
        [
            (Template(name="x", argv=("nft",)), ("argv", ["nft"])),
            (Template(name="x", argv=("/bin/{1}",)), ("argv", "/bin/{1}")),
            (Template(name="x", argv=("/bin/a", "{name}")), ("argv", "{name}")),
            (Template(name="x", argv=("/bin/a", "{0}")), ("argv", "{0}")),
            (Template(name="x", argv=("/bin/a", "{2}")), ("argv", "{2}")),
            (Template(name="x", argv=("/bin/a",), undo=("b",)), ("undo", ["b"])),
            (Template(name="x", argv=("/bin/a", "b\0")), ("argv", ["/bin/a", "b\0"])),
        ],
    )
    def test_that_is_wrong_is_named(self, template: Template, value: object) -> None:
        assert [(key, found) for _, key, found, _ in problems([template])] == [value]

    def test_names_are_unique(self) -> None:
        assert [value for _, _, value, _ in problems([LOAD, LOAD])] == ["load"]


def script(path: Path, text: str, *, takes: str = "") -> Template:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return Template(name="it", argv=(str(path), *takes.split()), timeout_s=1)


def ran(template: Template, *arguments: str, **environment: str) -> Output:
    asked = Run(command="it", arguments=arguments)
    made = argv([template], [], asked)[1]
    return asyncio.run(carry_out(template, made, node="a", environment=environment))[0]


class TestRun:
    def test_says_what_it_wrote_and_how_it_ended(self, tmp_path: Path) -> None:
        template = script(tmp_path / "s", 'echo "$1"; echo bad >&2; exit 3', takes="{1}")
        assert ran(template, "a  $b") == Output(node="a", status=3, text="a  $b\nbad\n")

    def test_gets_an_environment_made_for_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET", "x")
        found = ran(script(tmp_path / "s", "/usr/bin/env"), TWINBEAT_NODE="a")
        names = {line.partition("=")[0] for line in found.text.splitlines()}
        expected = {"PATH", "LC_ALL", "TWINBEAT_COMMAND", "TWINBEAT_NODE", "PWD"}
        assert names - {"_", "SHLVL", "OLDPWD"} == expected

    def test_that_writes_much_is_read_to_its_end_and_kept_in_part(self, tmp_path: Path) -> None:
        text = "/usr/bin/head -c 300000 /dev/zero | /usr/bin/tr '\\0' x; exit 5"
        found = ran(script(tmp_path / "s", text))
        assert (found.status, len(found.text)) == (5, OUTPUT_MOST)

    def test_that_takes_too_long_is_killed_with_its_children(self, tmp_path: Path) -> None:
        pids = tmp_path / "pids"
        text = f"trap '' TERM; (trap '' TERM; echo begun; sleep 60) & echo $! >{pids}; wait"
        found = ran(script(tmp_path / "s", text))
        assert found.status == -9
        assert found.text == "begun\n[it took too long and was killed]"
        assert ends(int(pids.read_text()))

    def test_that_obeys_when_its_time_is_over_was_not_good(self, tmp_path: Path) -> None:
        found = ran(script(tmp_path / "s", "trap 'exit 0' TERM; sleep 60 & wait"))
        assert found.status == -15

    def test_that_cannot_be_started_says_so(self, tmp_path: Path) -> None:
        found = ran(Template(name="it", argv=(str(tmp_path / "gone"),)))
        assert found.status == templates.NOT_STARTED
        assert "could not be started" in found.text


def ends(pid: int) -> bool:
    """Whether the process comes to its end: killed is not dead before the kernel comes to it."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 10)[0])
    finally:
        os.close(process)
