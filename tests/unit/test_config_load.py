# SPDX-License-Identifier: Apache-2.0
"""Reading and checking: every problem is found, and names file, key, value and what is right."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinbeat.config import document
from twinbeat.config.fields import ANY_NAME
from twinbeat.config.load import ConfigError, examine, load
from twinbeat.config.model import SECTIONS, Config
from twinbeat.config.nodes import KeysSection, LinkSection, NodeSection, PairSection, PeerSection
from twinbeat.config.problems import Problem
from twinbeat.config.service import AnnounceSection, RouteSection, VridSection
from twinbeat.config.system import Address, Device, Host
from twinbeat.config.timers import PROFILES, TIMER_KEYS, TimersSection
from twinbeat.config.watching import PolicySection

GOOD = """
[node]
name = "a"
index = 0
[pair]
id = 7
[peer]
name = "b"
[keys]
directory = "{keys}"
[timers]
profile = "fast"
[[link]]
interface = "ha0"
direct = true
local = "169.254.10.1"
peer = "169.254.10.2"
[[link]]
interface = "lan0"
local = "10.77.0.1"
peer = "10.77.0.2"
[[vrid]]
id = 51
interface = "lan0"
vips = ["10.77.0.10", "FD77:0::10"]
[policy]
strict = false
"""


class Machine:
    """A machine with the interfaces and addresses it is told."""

    def __init__(self) -> None:
        self.macs = {"lo": "", "ha0": "02:00:00:00:00:01", "lan0": "02:00:00:00:00:02"}
        self.assigned = [
            Address(interface="ha0", address="169.254.10.1", prefix=30),
            Address(interface="lan0", address="10.77.0.1", prefix=24),
        ]
        self.devices: dict[str, Device] = {}

    def interfaces(self) -> dict[str, str]:
        return self.macs

    def device(self, name: str) -> Device:
        return self.devices.get(name, Device())

    def addresses(self) -> list[Address]:
        return self.assigned


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    directory.mkdir()
    key = directory / "1.key"
    key.write_text("00112233445566778899aabbccddeeff\n")
    key.chmod(0o600)
    return directory


@pytest.fixture
def good(tmp_path: Path, keys: Path) -> Path:
    file = tmp_path / "twinbeat.toml"
    file.write_text(GOOD.format(keys=keys))
    return file


def edited(file: Path, old: str, new: str) -> Path:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return file


def problems_of(file: Path, *, offline: bool = True) -> list[Problem]:
    return examine(file, offline=offline, system=Machine())[1]


def test_a_good_file_is_a_configuration_without_a_word(good: Path) -> None:
    config, problems = examine(good, system=Machine())
    assert problems == []
    assert config is not None
    assert config.timers == PROFILES["fast"]
    assert [link.name for link in config.links] == ["ha0", "lan0"]
    assert [link.ttl_min for link in config.links] == [255, 255]
    assert config.vrids[0].vips == ("10.77.0.10", "fd77::10")
    assert config.path == str(good)


WRONG = [
    # edit, key, what is said
    ("index = 0", "index = 2", "node.index", "from 0 to 1"),
    ("index = 0", "index = true", "node.index", "an integer"),
    ("index = 0", "", "node.index", "is missing"),
    ('name = "a"', 'name = "a b"', "node.name", "letters, digits"),
    ('name = "b"', 'name = "a"', "peer.name", "this node's own name"),
    ("id = 7", "id = 0", "pair.id", "from 1 to 4294967295"),
    ("id = 7", "id = 4294967296", "pair.id", "from 1 to 4294967295"),
    ("[pair]\nid = 7", "", "pair.id", "is missing"),
    ("[pair]\nid = 7", "[[pair]]\nid = 7", "pair", "write [pair]"),
    ("[policy]", "[polcy]", "polcy", "Did you mean `policy`?"),
    ("strict = false", "stirct = false", "policy.stirct", "Did you mean `strict`?"),
    ("strict = false", "hello_us = 200", "policy.hello_us", "belongs to [timers]"),
    ("strict = false", 'strict = "no"', "policy.strict", "true or false"),
    ("[policy]", "[watchdog]\nmode = 'on'\n[policy]", "watchdog.mode", '"auto", "required"'),
    ("[policy]", "[watchdog]\ndevice = 'wd'\n[policy]", "watchdog.device", "below /dev"),
    (
        'profile = "fast"',
        "profile = 'fast'\nattest_ms = 30000\n[watchdog]\nmode = 'auto'\ntimeout_s = 20",
        "watchdog.timeout_s",
        "longer than attest_ms + lease_us (30010 ms)",
    ),
    ("[policy]", "[fence]\nagent = 'x'\n[policy]", "fence.agent", "an absolute path"),
    ("[policy]", "[fence]\noptions = ['a=b']\n[policy]", "fence.agent", "is missing"),
    (
        "[policy]",
        "[fence]\nagent = '/bin/true'\noptions = ['passwd=x']\n[policy]",
        "fence.options[0]",
        "belongs into secrets_file",
    ),
    (
        "[policy]",
        "[fence]\nagent = '/bin/true'\naction = 'status'\npolicy = 'before'\n[policy]",
        "fence.policy",
        "fences nobody",
    ),
    ("strict = false", 'stall = "never"', "policy.stall", '"wait-stall", "wait-lease"'),
    ('profile = "fast"', 'profile = "quick"', "timers.profile", '"fast", "balanced"'),
    ('profile = "fast"', "hello_us = 99", "timers.hello_us", "from 100 to 10000000"),
    ('profile = "fast"', "hello_us = 200.5", "timers.hello_us", "an integer"),
    ('[[link]]\ninterface = "ha0"', '[link]\ninterface = "ha0"', "", "is not TOML"),
    ('local = "10.77.0.1"', 'local = "10.77.0"', "link[1].local", "IPv4 or IPv6 address"),
    ('local = "10.77.0.1"', 'local = "10.77.0.1/24"', "link[1].local", "without a prefix"),
    ('local = "10.77.0.1"', 'local = "fe80::1%lan0"', "link[1].local", "IPv4 or IPv6"),
    ('local = "10.77.0.1"', 'local = "fd77::1"', "link[1].peer", "same family"),
    ('local = "10.77.0.1"', 'local = "10.77.0.2"', "link[1].peer", "own local address"),
    ('local = "10.77.0.1"', 'local = "224.0.0.1"', "link[1].local", "a multicast address"),
    ('local = "10.77.0.1"', 'local = "169.254.10.1"', "link[1].local", "link[0] already"),
    ('interface = "ha0"', 'interface = "lan0"', "link[1].interface", "link[0] already"),
    ('interface = "ha0"', 'interface = "ha0"\nttl_min = 64', "link[0].ttl_min", "must be 255"),
    ('interface = "ha0"', 'interface = "ha0"\nmode = "udp"', "link[0].direct", "ethernet"),
    ('interface = "ha0"', 'interface = "ha0"\nvlan = 4095', "link[0].vlan", "0 to 4094"),
    ('interface = "ha0"', 'interface = "ha0"\nnumber = 8', "link[0].number", "0 to 7"),
    ('interface = "ha0"', 'interface = "ha0"\nnumber = 1', "link[1].number", "link[0] already"),
    ('interface = "ha0"', 'interface = "ha0"\nheartbeat = false', "link", "only lan0 carries"),
    ("id = 51", "id = 256", "vrid[0].id", "from 1 to 255"),
    ('"10.77.0.10"', '"10.77.0.300"', "vrid[0].vips[0]", "IPv4 or IPv6 address"),
    ('"10.77.0.10"', '"10.77.0.10/32"', "vrid[0].vips[0]", "without a prefix length"),
    ('"10.77.0.10"', '"127.0.0.1"', "vrid[0].vips[0]", "a loopback address"),
    ('"10.77.0.10"', '"fd77::10"', "vrid[0].vips", "vrid[0] already"),
    ('"10.77.0.10"', '"10.77.0.1"', "vrid[0].vips", "link[1].local"),
    ('"10.77.0.10"', '"10.77.0.2"', "vrid[0].vips", "link[1].peer"),
    ('vips = ["10.77.0.10", "FD77:0::10"]', "", "vrid[0].vips", "holds no address"),
    ("[policy]", '[metrics]\nlisten = "9703"\n[policy]', "metrics.listen", "127.0.0.1:9703"),
    ("[policy]", '[metrics]\nlisten = "::1:97"\n[policy]', "metrics.listen", "[::1]:9703"),
    ("[policy]", '[metrics]\nlisten = "127.0.0.1:0"\n[policy]', "metrics.listen", "PORT"),
    ("[policy]", "[announce]\nrepeats_ms = [5, 2]\n[policy]", "announce.repeats_ms", "grow"),
    ("[policy]", '[announce]\nrepeats_ms = [5, "x"]\n[policy]', "announce.repeats_ms", "list"),
    (
        "[policy]",
        '[[route]]\ndestination = "x"\ngateway = "10.0.0.1"\n[policy]',
        "route[0].destination",
        "default",
    ),
    ("[policy]", '[[route]]\ndestination = "default"\n[policy]', "route[0]", "gateway or an"),
    (
        "[policy]",
        '[[route]]\ndestination = "10.0.0.0/8"\ngateway = "fd00::1"\n[policy]',
        "route[0].gateway",
        "not of the family",
    ),
]


@pytest.mark.parametrize(("old", "new", "key", "said"), WRONG)
def test_a_wrong_value_is_named_with_its_key_and_what_is_right(
    good: Path, old: str, new: str, key: str, said: str
) -> None:
    config, problems = examine(edited(good, old, new), offline=True)
    assert config is None
    errors = [problem for problem in problems if not problem.warning]
    assert [problem.key for problem in errors] == [key]
    assert said in errors[0].sentence
    assert errors[0].file == str(good)
    assert str(errors[0]).startswith(f"{good}: ")


def test_all_problems_are_found_at_once(good: Path) -> None:
    edited(good, 'name = "a"', 'nmae = "a"')
    edited(good, "id = 51", "id = 0")
    edited(good, '"169.254.10.2"', '"169.254.10.2.3"')
    edited(good, 'profile = "fast"', "hello_us = 5000\ndead_us = 6000")
    assert {problem.key for problem in problems_of(good)} == {
        "node.nmae",
        "node.name",
        "vrid[0].id",
        "link[0].peer",
        "timers.dead_us",
    }


@pytest.mark.parametrize(
    ("timers", "key", "said"),
    [
        ("dead_us = 500", "dead_us", "three times hello_us"),
        ("hello_us = 201", "hello_us", "three times hello_us"),
        ("verify_us = 400\nlease_us = 1000", "lease_us", "longer than dead_us + verify_us"),
        ("stall_us = 10001", "stall_us", "not be longer than lease_us"),
        ("lease_us = 400000", "lease_us", "one and a half times lease_us"),
        ("boot_wait_ms = 100\nlease_us = 99101", "boot_wait_ms", "lease_us + dead_us"),
        ('profile = "classic"\nattest_ms = 14999', "attest_ms", "one and a half times"),
        ('profile = "classic"\nverify_us = 24999', "verify_us", "an eighth of hello_us"),
    ],
)
def test_contradictory_timers_name_the_one_that_was_set(
    good: Path, timers: str, key: str, said: str
) -> None:
    replaced = timers if "profile" in timers else f'profile = "fast"\n{timers}'
    problems = problems_of(edited(good, 'profile = "fast"', replaced))
    assert f"timers.{key}" in {problem.key for problem in problems}
    assert any(said in problem.sentence for problem in problems)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profiles_contradict_nothing(good: Path, profile: str) -> None:
    config = load(edited(good, '"fast"', f'"{profile}"'), offline=True)
    assert config.timers == PROFILES[profile]
    assert config.timers.ns.hello_ns == PROFILES[profile].hello_us * 1000
    assert config.timers.ns.attest_ns == PROFILES[profile].attest_ms * 1_000_000


def test_a_single_value_is_set_over_the_profile(good: Path) -> None:
    config = load(edited(good, '"fast"', '"fast"\ndead_us = 800'), offline=True)
    assert config.timers.dead_us == 800
    assert config.timers.hello_us == PROFILES["fast"].hello_us


def test_one_link_needs_consent(good: Path) -> None:
    before, _, after = good.read_text().partition('[[link]]\ninterface = "lan0"')
    good.write_text(before + after.partition("\n[[vrid]]")[1] + after.partition("\n[[vrid]]")[2])
    assert [problem.key for problem in problems_of(good)] == ["link", "link"]
    config = load(edited(good, "strict = false", "accept_single_link = true"), offline=True)
    assert len(config.links) == 1


def test_nine_links_are_too_many(good: Path) -> None:
    more = "".join(
        f'[[link]]\ninterface = "x{i}"\nlocal = "10.9.{i}.1"\npeer = "10.9.{i}.2"\n'
        for i in range(7)
    )
    edited(good, "[[vrid]]", f"{more}[[vrid]]")
    (problem,) = problems_of(good)
    assert (problem.key, problem.sentence) == ("link", "a pair has 8 links at most.")


def test_links_are_numbered_by_their_place_unless_told_otherwise(good: Path) -> None:
    config = load(edited(good, 'interface = "ha0"', 'interface = "ha0"\nnumber = 5'), offline=True)
    assert [(link.name, link.number) for link in config.links] == [("ha0", 5), ("lan0", 1)]
    assert [link.name for link in config.heartbeat_links] == ["lan0", "ha0"]


def test_a_pair_without_any_heartbeat_is_refused(good: Path) -> None:
    text = good.read_text().replace('peer = "1', 'heartbeat = false\npeer = "1')
    good.write_text(text.replace("strict = false", "accept_single_link = true"))
    (problem,) = problems_of(good)
    assert "never hear of each other" in problem.sentence


def test_no_link_is_an_error(good: Path) -> None:
    text = good.read_text()
    good.write_text(text[: text.index("[[link]]")] + text[text.index("[[vrid]]") :])
    assert "no link is configured" in problems_of(good)[0].sentence


def test_a_secret_in_the_wrong_place_is_not_repeated(good: Path) -> None:
    secret = "00112233445566778899aabbccddeeff"
    edited(good, "[timers]", f'secret = "{secret}"\nsend = "{secret}"\n[timers]')
    problems = problems_of(good)
    assert {problem.key for problem in problems} == {"keys.secret", "keys.send"}
    assert all(secret not in str(problem) for problem in problems)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = ", b"x" * (1 << 20) + b"yz", b"[" * 5000])
def test_what_is_no_file_of_ours_is_explained(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    config, problems = examine(file, offline=True)
    assert config is None
    assert problems[0].key == ""


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none.toml")


# ---------------------------------------------------------------------------- the machine --------


def test_a_missing_interface_is_named_with_those_there_are(good: Path) -> None:
    edited(good, 'interface = "lan0"\nvips', 'interface = "lan1"\nvips')
    (problem,) = problems_of(good, offline=False)
    assert problem.key == "vrid[0].interface"
    assert "Did you mean `lan0`?" in problem.sentence
    assert problems_of(good, offline=True) == []


def test_a_vip_that_is_the_nodes_own_address_is_refused(good: Path) -> None:
    machine = Machine()
    machine.assigned.append(Address(interface="lan0", address="10.77.0.10", prefix=24))
    (problem,) = examine(good, system=machine)[1]
    assert problem.key == "vrid[0].vips"
    assert "own address on lan0" in problem.sentence


@pytest.mark.parametrize(("interface", "prefix"), [("tbv51", 24), ("lan0", 32)])
def test_a_vip_that_the_agent_itself_assigned_is_not(
    good: Path, interface: str, prefix: int
) -> None:
    machine = Machine()
    machine.assigned.append(Address(interface=interface, address="10.77.0.10", prefix=prefix))
    assert examine(good, system=machine)[1] == []


def test_a_port_of_a_bridge_has_no_addresses(good: Path) -> None:
    machine = Machine()
    machine.devices["lan0"] = Device(master="br0")
    said = {problem.key: problem for problem in examine(good, system=machine)[1]}
    assert (
        "is a port of br0, which gets its frames: name br0." in said["vrid[0].interface"].sentence
    )
    assert said["link[1].interface"].warning


def test_a_virtual_mac_on_a_macvlan_would_be_past_the_gate(good: Path) -> None:
    machine = Machine()
    machine.devices["lan0"] = Device(kind="macvlan")
    (problem,) = examine(good, system=machine)[1]
    assert problem.key == "vrid[0].interface"
    assert "past the gate" in problem.sentence
    edited(good, 'vips = ["10.77.0.10"', 'vmac = false\nvips = ["10.77.0.10"')
    assert examine(good, system=machine)[1] == []


def test_a_link_on_a_vlan_device_works_and_could_be_better(good: Path) -> None:
    machine = Machine()
    machine.devices["lan0"] = Device(kind="vlan")
    config, (problem,) = examine(good, system=machine)
    assert config is not None
    assert problem.warning
    assert "set vlan" in problem.sentence


def test_two_links_on_one_card_are_warned_of(good: Path) -> None:
    machine = Machine()
    machine.macs["lan0"] = machine.macs["ha0"]
    config, problems = examine(good, system=machine)
    assert config is not None
    assert [problem.warning for problem in problems] == [True]
    assert "fail together" in problems[0].sentence


def test_the_real_machine_can_be_asked() -> None:
    assert "lo" in Host().interfaces()
    assert Address(interface="lo", address="127.0.0.1", prefix=8) in Host().addresses()


# -------------------------------------------------------------------------------- VIP files ------


def test_more_vips_come_from_a_file_beside(good: Path) -> None:
    (good.parent / "more").write_text("# many\n10.78.0.1\n\n10.78.0.2  # second\n")
    config = load(edited(good, "id = 51", 'id = 51\nvips_file = "more"'), offline=True)
    assert config.vrids[0].vips[-2:] == ("10.78.0.1", "10.78.0.2")


def test_a_wrong_line_of_it_is_named(good: Path) -> None:
    (good.parent / "more").write_text("10.78.0.1\n10.78.0.x\n")
    (problem,) = problems_of(edited(good, "id = 51", 'id = 51\nvips_file = "more"'))
    assert (problem.file, problem.key, problem.value) == (
        str(good.parent / "more"),
        "line 2",
        '"10.78.0.x"',
    )


def test_a_missing_one_is_named(good: Path) -> None:
    (problem,) = problems_of(edited(good, "id = 51", 'id = 51\nvips_file = "none"'))
    assert problem.key == "vrid[0].vips_file"
    assert "No such file" in problem.sentence


# ------------------------------------------------------------------------------ round trips ------


def test_the_generated_file_is_valid_and_names_every_key(tmp_path: Path) -> None:
    file = tmp_path / "twinbeat.toml"
    file.write_text(document.toml())
    load(file, offline=True)
    for section, (_, model, many) in SECTIONS.items():
        assert (f"[[{section}]]" if many else f"[{section}]") in document.toml()
        for name in model.__struct_encode_fields__:
            assert name == ANY_NAME or f"{name} = " in document.toml()


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", fullmatch=True)
timers = st.sampled_from(sorted(PROFILES)).flatmap(
    lambda profile: st.builds(
        TimersSection,
        profile=st.just(profile),
        **{key: st.sampled_from([None, getattr(PROFILES[profile], key)]) for key in TIMER_KEYS},
    )
)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    own, other = draw(st.lists(names, min_size=2, max_size=2, unique=True))
    count = draw(st.integers(2, 8))
    links = tuple(
        LinkSection(
            interface=f"eth{number}",
            name=f"l{number}",
            number=number,
            local=f"10.0.{number}.1",
            peer=f"10.0.{number}.2",
            vlan=draw(st.integers(0, 4094)),
            direct=draw(st.booleans()),
            ttl_min=255,
        )
        for number in range(count)
    )
    ids = draw(st.lists(st.integers(1, 255), max_size=4, unique=True))
    vrids = tuple(
        VridSection(
            id=number,
            interface="eth0",
            vmac=draw(st.booleans()),
            vips=(f"192.0.2.{number}", f"2001:db8::{number:x}"),
        )
        for number in ids
    )
    route = RouteSection(destination="default", gateway="10.0.0.9", table=draw(st.integers(1, 9)))
    repeats = draw(st.sets(st.integers(1, 60000), max_size=16))
    return Config(
        node=NodeSection(name=own, index=draw(st.integers(0, 1))),
        pair=PairSection(id=draw(st.integers(1, 0xFFFFFFFF))),
        keys=KeysSection(send=draw(st.integers(1, 255))),
        peer=PeerSection(name=other),
        timers_set=draw(timers),
        links=links,
        vrids=vrids,
        routes=tuple([route] if draw(st.booleans()) else []),
        policy=draw(st.builds(PolicySection)),
        announce=AnnounceSection(repeats_ms=tuple(sorted(repeats))),
    )


@given(configs())
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, config: Config
) -> None:
    file = tmp_path_factory.mktemp("round") / "twinbeat.toml"
    file.write_text(document.toml(config))
    again = load(file, offline=True)
    for attribute, _, _ in SECTIONS.values():
        assert getattr(again, attribute) == getattr(config, attribute)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*SECTIONS, "name", "id", "x"]), inner, max_size=4)
        ),
        max_leaves=20,
    )
)
def test_no_content_makes_the_checks_themselves_fail(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    table = content if isinstance(content, dict) else {"node": content}
    lines = []
    for key, value in table.items():
        if value is not None:
            lines.append(f"{key} = {_toml(value)}")
    file = tmp_path_factory.mktemp("odd") / "twinbeat.toml"
    file.write_text("\n".join(lines))
    config, problems = examine(file, offline=True)
    assert config is None
    assert problems


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case list():
            return "[" + ", ".join(_toml(item) for item in value if item is not None) + "]"
        case dict():
            pairs = [f"{key} = {_toml(item)}" for key, item in value.items() if item is not None]
            return "{" + ", ".join(pairs) + "}"
        case _:
            return '"' + "".join(f"\\U{ord(letter):08x}" for letter in str(value)) + '"'


@pytest.mark.parametrize(
    ("agent", "said"),
    [("/nowhere/fence_x", "no such program"), ("/etc/passwd", "can't run it")],
)
def test_a_fence_agent_has_to_be_a_program(good: Path, agent: str, said: str) -> None:
    edited(good, "[policy]", f'[fence]\nagent = "{agent}"\n[policy]')
    assert problems_of(good) == []
    (problem,) = problems_of(good, offline=False)
    assert problem.key == "fence.agent"
    assert said in str(problem)


def test_no_section_takes_a_key_that_it_does_not_have() -> None:
    """A table that is sound is converted whole: whatever is too much has to be refused by that."""
    assert all(model.__struct_config__.forbid_unknown_fields for _, model, _ in SECTIONS.values())
