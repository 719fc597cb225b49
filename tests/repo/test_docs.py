# SPDX-License-Identifier: Apache-2.0
"""The documentation says what the code does: links lead somewhere, tables are the code's own."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from repo import project, typed

SAFETY = (
    "ONE-OWNER",
    "LEASE",
    "GATE-FIRST",
    "TERM",
    "NO-SURPRISE",
    "SOMEONE",
    "FAIL-SAFE",
    "REASON",
    "NO-LOSS",
    "FORGE",
    "INERT",
)

PAGES = sorted(path for path in project.files() if path.suffix == ".md")
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
RULE = re.compile(r"\bR([1-9][0-9]?)\b")


def prose(markdown: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)


def anchors(markdown: str) -> set[str]:
    """The anchors that a page's headings make."""
    headings = re.findall(r"^#+ (.+)$", prose(markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path, markdown: str) -> list[str]:
    dead = []
    for target in LINK.findall(prose(markdown)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            dead.append(target)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=project.name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page, page.read_text()) == []


def test_a_dead_link_would_be_seen() -> None:
    page = project.DOCS / "protocol.md"
    text = "[a](limits.md) [b](gone.md) [c](limits.md#gone) [d](limits.md#limits)\n"
    text += "```\n[e](not-a-link.md)\n```\n"
    assert dead_links(page, text) == ["gone.md", "limits.md#gone"]


def test_tables_are_the_code_s_own() -> None:
    result = subprocess.run(
        [sys.executable, project.DOCS / "reference", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_every_key_is_documented() -> None:
    from twinbeat.config import model

    page = (project.DOCS / "configuration.md").read_text()
    for section, (_, struct, _) in model.SECTIONS.items():
        found = re.search(rf"^### `\[\[?{section}\]\]?`$(.*?)(?=^### |^<!--)", page, re.M | re.S)
        assert found is not None, section
        documented = set(re.findall(r"^\| `(\w+)` \|", found.group(1), re.MULTILINE))
        assert documented == set(struct.__struct_encode_fields__), section


def test_rules_and_safety_properties_have_their_sections() -> None:
    page = (project.DOCS / "protocol.md").read_text()
    headings = re.findall(r"^### (\S+)", page, re.MULTILINE)
    assert headings == [*(f"R{number}" for number in range(1, 23)), *SAFETY]


def test_where_each_safety_rule_is_checked_is_said_truly() -> None:
    page = (project.DOCS / "protocol.md").read_text()
    _, _, table = page.partition("## Where each is checked")
    rows = re.findall(r"^\| ([A-Z-]+) \| (.*?) \| (.*?) \|$", table, re.MULTILINE)
    assert [rule for rule, _, _ in rows] == list(SAFETY)
    invariants = (project.ROOT / "tests/sim/invariants.py").read_text()
    raised = set(re.findall(r'Violation\(\s*"(\w+)"', invariants))
    named = {name for _, names, _ in rows for name in re.findall(r"`(\w+)`", names)}
    assert named == raised
    tests = [name for _, _, names in rows for name in re.findall(r"`([^`]+)`", names)]
    assert tests
    assert [name for name in tests if not (project.ROOT / name).is_file()] == []


def test_rules_that_the_code_refers_to_exist() -> None:
    unknown = {
        (project.name_of(path), f"R{number}")
        for path in project.files()
        if path.suffix in {".c", ".h", ".py"} and path.is_relative_to(project.ROOT)
        for number in RULE.findall(project.text(path) or "")
        if int(number) > 22
    }
    assert unknown == set()


@pytest.mark.parametrize("name", ["README.md", "deploy/docs/configuration.md"])
def test_example_configurations_can_be_used(name: str, tmp_path: Path) -> None:
    from twinbeat.config.load import examine

    examples = re.findall(r"^```toml\n(.*?)^```", (project.ROOT / name).read_text(), re.M | re.S)
    assert examples
    for example in examples:
        file = tmp_path / "twinbeat.toml"
        file.write_text(example)
        config, problems = examine(file, offline=True)
        assert problems == []
        assert config is not None


def test_verbs_that_the_documentation_names_exist() -> None:
    makefile = (project.ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {verb for page in PAGES for verb in re.findall(r"`make ([a-z-]+)`", page.read_text())}
    assert named
    assert named <= targets


def invocations(markdown: str) -> set[str]:
    """What a page tells people to type: `twinbeat …` in spans and at the beginning of lines."""
    lines = [re.sub(r" > .*", "", line) for line in typed.typed(markdown)]
    spans = re.findall(r"`(twinbeat [^`]+)`", prose(markdown))
    in_blocks = {line for line in lines if line.startswith("twinbeat ")}
    return in_blocks | {span.partition(" | ")[0] for span in spans}


def misunderstood(invocation: str) -> str | None:
    """Why the command line would not take an invocation, or None. Nothing is carried out."""
    from twinbeat.cli.main import cli

    command: click.Command = cli
    name, *arguments = shlex.split(invocation)
    context = None
    try:
        while True:
            context = command.make_context(name, arguments, parent=context)
            if not isinstance(command, click.Group):
                return None
            rest = [*context._protected_args, *context.args]
            if not rest and command.invoke_without_command:
                return None
            found, chosen, arguments = command.resolve_command(context, rest)
            assert found is not None
            assert chosen is not None
            name, command = found, chosen
    except click.exceptions.Exit:
        return None  # `--help`
    except click.UsageError as error:
        return f"{invocation}: {error.message}"


@pytest.mark.parametrize("page", PAGES, ids=project.name_of)
def test_commands_that_the_documentation_names_are_taken(page: Path) -> None:
    found = [misunderstood(invocation) for invocation in sorted(invocations(page.read_text()))]
    assert [sentence for sentence in found if sentence is not None] == []


def test_a_command_that_does_not_exist_would_be_seen() -> None:
    page = "`twinbeat shwo`\n```sh\ntwinbeat show     # fine\ntwinbeat show --loud\n```\n"
    taken = {typed: misunderstood(typed) is None for typed in invocations(page)}
    assert taken == {"twinbeat shwo": False, "twinbeat show": True, "twinbeat show --loud": False}


@pytest.mark.parametrize("page", PAGES, ids=project.name_of)
def test_what_is_typed_is_marked_so(page: Path) -> None:
    how = "begin the block with ```sh, or ```console where output stands in it"
    assert list(typed.unmarked(page.read_text())) == [], how


def test_commands_are_found_in_blocks() -> None:
    page = "```sh\nmake it \\\n    so   # quick\n```\n"
    page += "```console\n# ls x\nx\n$ ls\n```\n```\nmake it\n```\n"
    assert list(typed.typed(page)) == ["make it so", "ls x", "ls"]
    assert list(typed.unmarked(page)) == ["make it"]


@pytest.mark.parametrize("page", PAGES, ids=project.name_of)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"`((?:tests|deploy|agent|csrc|ebpf)/[^` ]+)`", prose(page.read_text()))
    assert [name for name in named if not list(project.ROOT.glob(name.rstrip("/")))] == []
