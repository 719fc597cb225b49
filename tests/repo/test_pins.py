# SPDX-License-Identifier: Apache-2.0
"""deploy/constraints.txt holds what .venv needs, all of it and nothing else, at its releases."""

from importlib.metadata import requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from repo import project


def pins() -> dict[str, str]:
    lines = (project.ROOT / "deploy" / "constraints.txt").read_text().splitlines()
    names = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): release for name, release in names}


def needed() -> set[str]:
    """What `deploy/setup` installs, with all that this needs in turn."""
    table = project.pyproject()
    declared = [*table["project"]["dependencies"], *table["build-system"]["requires"]]
    for extra in table["project"]["optional-dependencies"].values():
        declared += extra
    found: set[str] = set()
    left = [Requirement(text) for text in declared]
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        if name in found:
            continue
        found.add(name)
        for text in requires(name) or []:
            wanted = Requirement(text)
            asked = one.extras or {""}
            if wanted.marker is None or any(
                wanted.marker.evaluate({"extra": extra}) for extra in asked
            ):
                left.append(wanted)
    return found


def test_what_is_pinned_is_what_is_needed() -> None:
    # setuptools comes with Python's own venv.
    assert set(pins()) == needed() - {"setuptools"}


def test_the_pinned_releases_are_installed() -> None:
    assert {name: version(name) for name in pins()} == pins()
