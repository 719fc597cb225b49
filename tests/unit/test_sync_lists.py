# SPDX-License-Identifier: Apache-2.0
"""Which paths belong to a list of files, and which never do."""

import pytest

from twinbeat.sync.lists import FileList, problems

LIST = FileList(
    name="l",
    paths=("/etc/haproxy", "/etc/nft.conf", "/srv/*/cert*.pem", "/srv/conf.d"),
    exclude=("*.bak", "cache", "/etc/haproxy/local/*.cfg"),
)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/haproxy",
        "/etc/haproxy/haproxy.cfg",
        "/etc/haproxy/a/b/c",
        "/etc/haproxy/local",
        "/etc/haproxy/local/x",
        "/etc/nft.conf",
        "/srv/a/cert1.pem",
        "/srv/a/cert1.pem/below",
        "/srv/conf.d/it",
        "/etc/haproxy/..a",
    ],
)
def test_what_is_listed_or_lies_below_it_belongs_to_it(path: str) -> None:
    assert LIST.covers(path)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/etc",
        "/etc/haproxy2",
        "/etc/nft.conf2",
        "/etc/passwd",
        "/srv",
        "/srv/a",
        "/srv/a/b/cert1.pem",
        "/srv/a/key.pem",
        # Left out, or below what is.
        "/etc/haproxy/x.bak",
        "/etc/haproxy/x.bak/y",
        "/etc/haproxy/cache/y",
        "/etc/haproxy/local/x.cfg",
        "/srv/cache/cert1.pem",
        # Not plain.
        "",
        "etc/haproxy/x",
        "/etc/haproxy/../passwd",
        "/etc/haproxy/./x",
        "/etc/haproxy//x",
        "/etc/haproxy/",
        "//etc/haproxy/x",
        "/etc/haproxy/x\0y",
        "/etc/haproxy/\udc80",
        "/etc/haproxy/" + "x" * 256,
        "/etc/haproxy" + "/x" * 63,
        "/etc/haproxy" + ("/" + "x" * 250) * 20,
        # What the synchronization itself writes.
        "/etc/haproxy/.twinbeat-new-0123",
        "/etc/haproxy/a.twinbeat-conflict-20260101T000000.000Z",
        "/etc/haproxy/a.twinbeat-conflict-20260101T000000.000Z/x",
    ],
)
def test_nothing_else_does(path: str) -> None:
    assert not LIST.covers(path)


@pytest.mark.parametrize("inner", ["/etc/twinbeat/twinbeat.toml", "/etc/twinbeat"])
def test_a_node_s_own_never_belongs_to_a_list_that_it_lies_in(inner: str) -> None:
    wide = FileList(name="l", paths=("/etc", "/var/lib"))
    assert wide.covers("/etc/hosts")
    assert not wide.covers(inner)
    assert not wide.covers("/var/lib/twinbeat/worker/shared.db")
    assert wide.covers("/etc/twinbeat2")


def test_lists_that_are_right_have_no_problems() -> None:
    assert list(problems([LIST, FileList(name="m", paths=("/etc/other",))])) == []


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ({"paths": ("etc/x",)}, "etc/x"),
        ({"paths": ("/etc/x/",)}, "/etc/x/"),
        ({"paths": ("/etc/../x",)}, "/etc/../x"),
        ({"paths": ("/",)}, "/"),
        ({"paths": ("/*/x",)}, "/*/x"),
        ({"paths": ("/etc/**",)}, "/etc/**"),
        ({"paths": ("/etc/twinbeat",)}, "/etc/twinbeat"),
        ({"paths": ("/proc/sys",)}, "/proc/sys"),
        ({"paths": ("/etc/x",), "exclude": ("a/b",)}, "a/b"),
        ({"paths": ("/etc/x",), "exclude": ("**",)}, "**"),
        ({"paths": ("/etc/x",), "command": ("reload",)}, ["reload"]),
        ({"paths": ()}, None),
    ],
)
def test_what_is_wrong_is_named(row: dict[str, tuple[str, ...]], value: object) -> None:
    found = list(problems([FileList(name="l", **row)]))  # type: ignore[arg-type]
    assert [wrong for _, _, wrong, _ in found] == [value]


def test_lists_that_overlap_are_refused() -> None:
    one = FileList(name="a", paths=("/etc/x",))
    for path in ("/etc/x", "/etc/x/y", "/etc"):
        other = FileList(name="b", paths=(path,))
        assert [value for _, _, value, _ in problems([one, other])] == [path]
    assert [value for _, _, value, _ in problems([one, one])] == ["a"]


def test_whoever_means_something_else_is_told_by_the_digest() -> None:
    from msgspec.structs import replace

    same = replace(LIST, name="other", command=("/bin/true",), timeout_s=5)
    assert same.digest == LIST.digest
    for change in ({"paths": ("/etc/x",)}, {"exclude": ()}, {"delete": False}, {"owner": False}):
        assert replace(LIST, **change).digest != LIST.digest
