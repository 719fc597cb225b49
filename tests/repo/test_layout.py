# SPDX-License-Identifier: Apache-2.0
"""What lies where, and what every file has in common."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

import twinbeat
from repo import project

TOP = {
    "LICENSE",
    "Makefile",
    "README.md",
    "agent",
    "csrc",
    "deploy",
    "ebpf",
    "pyproject.toml",
    "tests",
}

SPDX = "SPDX-License-Identifier: "
WITHOUT_SPDX = {".md", ".json", ".txt", ".pyi", ".typed", ".svg"}
"""Prose and data; stubs follow their module."""

BANNED = {
    r"\bslave\b": "say secondary",
    r"\bstandby\b": "say secondary",
    r"\b(white|black)list": "say what is allowed or refused",
    r"\b(TODO|FIXME|XXX)\b": "do it or describe it",
    r"\bbreakpoint\(\)|\bpdb\b": "left over from debugging",
    r"//(pypi|files\.pythonhosted|(deb|security)\.debian)\.org": "name no registry's host",
    r"^(<<<<<<<|>>>>>>>) ": "an unfinished merge",
}

THIS = Path(__file__)


def banned_words(source: str) -> list[str]:
    """What of BANNED a text contains, with what to do instead."""
    return [
        f"{match.group()}: {instead}"
        for pattern, instead in BANNED.items()
        for match in re.finditer(pattern, source, re.MULTILINE)
    ]


def untidy_lines(source: str) -> list[int]:
    """Numbers of the lines that end in blanks or are longer than a hundred columns."""
    return [
        number
        for number, line in enumerate(source.split("\n"), 1)
        if line != line.rstrip() or len(line.expandtabs(8)) > 100
    ]


def has_licence(source: str) -> bool:
    return any(SPDX in line for line in source.split("\n")[:4])


def texts(*suffixes: str) -> list[tuple[str, str]]:
    return [
        (project.name_of(path), content)
        for path in project.files()
        if (not suffixes or path.suffix in suffixes) and (content := project.text(path)) is not None
    ]


def test_only_the_agreed_names_stand_at_the_top() -> None:
    top = {path.relative_to(project.ROOT).parts[0] for path in project.files()}
    assert {name for name in top if not name.startswith(".")} == TOP


def test_every_source_names_its_licence() -> None:
    missing = [
        name
        for name, content in texts()
        if content.strip()
        and Path(name).suffix not in WITHOUT_SPDX
        and not Path(name).name.startswith(".")
        and Path(name).name != "LICENSE"
        and not has_licence(content)
    ]
    assert missing == []


def test_no_file_has_a_banned_word() -> None:
    found = {
        name: words
        for name, content in texts()
        if name != project.name_of(THIS) and (words := banned_words(content))
    }
    assert found == {}


def test_lines_are_tidy() -> None:
    # Python and C have formatters that say so; prose and tables are wrapped by eye.
    suffixes = (".toml", ".service", ".conf", ".nft", ".cmake", "")
    untidy = {
        name: lines
        for name, content in texts(*suffixes)
        if Path(name).name != "LICENSE" and (lines := untidy_lines(content))
    }
    assert untidy == {}


def test_every_text_ends_with_one_line_end() -> None:
    assert [
        name
        for name, content in texts()
        if content and (not content.endswith("\n") or content.endswith("\n\n"))
    ] == []


def test_checks_of_this_file_see_what_they_look_for() -> None:
    assert len(banned_words("a slave\n# TODO later\n    breakpoint()\n")) == 3
    assert banned_words("the enslaved standbys of a pair") == []
    assert untidy_lines("fine\ntrailing \n" + "x" * 101 + "\n\t" + "x" * 93) == [2, 3, 4]
    assert not has_licence("#!/bin/sh\n\n\n\n# " + SPDX)


def test_the_compiler_of_bpf_is_no_dependency() -> None:
    project_table = project.pyproject()["project"]
    extras = project_table["optional-dependencies"].values()
    named = [*project_table["dependencies"], *(name for extra in extras for name in extra)]
    named += (project.ROOT / "deploy" / "constraints.txt").read_text().split()
    assert [name for name in named if re.match(r"(python3-)?(bcc|bpfcc)\b", name)] == []


def test_the_version_is_the_same_everywhere() -> None:
    assert project.pyproject()["project"]["version"] == twinbeat.__version__


def test_every_dependency_is_pinned() -> None:
    pins = (project.ROOT / "deploy" / "constraints.txt").read_text()
    pinned = set(re.findall(r"^([a-z0-9-]+)==", pins, re.MULTILINE))
    project_table = project.pyproject()["project"]
    extras = project_table["optional-dependencies"].values()
    declared = {
        re.split(r"[<>=~ ]", name)[0].lower()
        for names in [project_table["dependencies"], *extras]
        for name in names
    }
    assert declared <= pinned


def test_the_interpreter_is_debian_s_own() -> None:
    base = Path(sys.base_prefix)
    assert (base, sys.version_info[:2]) == (Path("/usr"), (3, 11))


@pytest.mark.parametrize("path", [".editorconfig", ".clang-format", ".gitignore", ".ci/run"])
def test_tools_find_their_settings(path: str) -> None:
    assert (project.ROOT / path).is_file()


def test_markers_and_filters_of_pytest_are_strict() -> None:
    settings = tomllib.loads((project.ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
    options = settings["ini_options"]
    assert {"--strict-markers", "--strict-config"} <= set(options["addopts"])
    assert options["filterwarnings"][0] == "error"
    assert options["xfail_strict"] is True
