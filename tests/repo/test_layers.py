# SPDX-License-Identifier: Apache-2.0
"""Who may import whom (deploy/docs/architecture.md, "Layers").

The core decides without touching anything, the parts that touch things never know each other, and
the command line starts fast because it knows only the schema. A new package needs a line in LAYERS;
without one its first module fails here.
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from repo import project
from repo.project import Import


@dataclass(frozen=True, slots=True)
class Layer:
    """What a package may import, beside the standard library and itself."""

    ours: frozenset[str] = frozenset()
    """Names below `twinbeat`."""
    others: frozenset[str] = frozenset()
    """Packages from elsewhere."""
    deferred: frozenset[str] = frozenset()
    """Names below `twinbeat` that only a function may import, when it is called."""


def layer(ours: str = "", others: str = "", deferred: str = "") -> Layer:
    return Layer(*(frozenset(names.split()) for names in (ours, others, deferred)))


# The longest name that a module lies below decides.
LAYERS = {
    "twinbeat": layer(),
    "twinbeat.__main__": layer("cli.main"),
    "twinbeat.core": layer(),
    "twinbeat.config": layer(
        "core durable sessions.rules sync.document sync.lists sync.templates weblog.sources",
        "msgspec",
    ),
    # Whoever runs a program of the operator's runs it through this one.
    "twinbeat.programs": layer(),
    # The two languages that nodes speak with others have their frames in common.
    "twinbeat.framing": layer("", "msgspec"),
    # Whoever replaces a file does so in one way.
    "twinbeat.durable": layer(),
    # What nothing may carry elsewhere.
    "twinbeat.places": layer(),
    # What blocks is kept off both loops in one way.
    "twinbeat.aside": layer(),
    # Bytes, for whoever speaks netlink.
    "twinbeat.nlmsg": layer(),
    "twinbeat.engine": layer("core", "bcc cffi"),
    "twinbeat.net": layer("core nlmsg", "pyroute2"),
    "twinbeat.health": layer("core"),
    "twinbeat.witness": layer("core", "urllib3"),
    "twinbeat.sync": layer("core durable framing places programs", "cffi cryptography msgspec"),
    "twinbeat.weblog": layer("core durable framing places", "msgspec"),
    # A program of its own, on another machine.
    "twinbeat.weblog.client": layer(
        "api cli.base cli.main durable framing observe.exposition observe.log runtime.notify "
        "sync.identity sync.shown sync.sockets weblog",
        "click msgspec prometheus_client",
    ),
    "twinbeat.worker": layer(
        "api aside framing health observe.histogram observe.log sessions sync weblog", "msgspec"
    ),
    # Persistence: neither how packets come here nor how anything gets to the other node.
    "twinbeat.sessions": layer("core nlmsg programs", "msgspec"),
    "twinbeat.worker.keys": layer("api config.keys sync worker", "msgspec"),
    "twinbeat.api": layer("core", "msgspec"),
    # What the workers say to each other is what they say to their daemons.
    "twinbeat.api.worker": layer(
        "api.schema sessions.connections sessions.shown sync.document sync.operation sync.shown "
        "weblog.shown",
        "msgspec",
    ),
    "twinbeat.api.sync": layer("api.worker sessions.shown sync.shown", "msgspec"),
    # What the command line knows of the interface, so it stays as light as the command line.
    "twinbeat.api.schema": layer("api.parts"),
    "twinbeat.api.parts": layer("", "msgspec"),
    # What tools outside the agent share: they load no HTTP library and no loop.
    "twinbeat.api.client": layer("api.schema", "msgspec"),
    "twinbeat.api.brief": layer("api.schema", "msgspec"),
    "twinbeat.api.text": layer(),
    "twinbeat.api.figures": layer(),
    "twinbeat.observe": layer("api.schema api.agent api.text", "msgspec prometheus_client"),
    "twinbeat.runtime": layer(
        "api aside config core durable engine health net observe programs sessions.connections "
        "sessions.conntrackd sessions.shown sync.document sync.operation weblog.shown witness",
        "msgspec prometheus_client pyroute2",
    ),
    "twinbeat.cli": layer(
        "api.brief api.schema api.client api.figures api.sync api.text sessions.shown "
        "sync.document sync.operation sync.shown weblog.shown",
        "click msgspec",
        "config",
    ),
    # Loaded when somebody looks at a live screen, and by nothing else.
    "twinbeat.cli.topscreen": layer("api.brief api.text cli", "rich"),
    # Loaded when somebody pairs, and by nothing else.
    "twinbeat.cli.pair": layer(
        "api.schema cli config sync.identity sync.pairing sync.parties", "click msgspec"
    ),
}

HEAVY = (
    "asyncio",
    "bcc",
    "cffi",
    "prometheus_client",
    "pyroute2",
    "rich",
    "twinbeat.config",
    "twinbeat.core",
    "twinbeat.engine",
    "twinbeat.net",
    "twinbeat.runtime",
    "twinbeat.sync",
)
"""What a command line that is only asked for help has no business loading."""


def owner(module: str) -> str:
    """The entry of LAYERS that rules a module."""
    while module not in LAYERS:
        module = module.rpartition(".")[0]
    return module


def violation(found: Import) -> str | None:
    """Why an import is not allowed, or None."""
    name = owner(found.module)
    if name == "twinbeat" and found.module != "twinbeat":
        return f"{found.module} lies in a package that LAYERS does not name"
    rule = LAYERS[name]
    if found.top in sys.stdlib_module_names:
        return None
    where = f"{found.module}:{found.line} imports {found.target}"
    if found.top != "twinbeat":
        allowed = found.top in rule.others
        return None if allowed else f"{where}; {name} may use {sorted(rule.others) or 'nothing'}"
    if found.target == "twinbeat.__version__" or found.is_of(name):
        return None
    permitted = rule.ours | rule.deferred if found.deferred else rule.ours
    if any(found.is_of(f"twinbeat.{target}") for target in permitted):
        return None
    return f"{where}; {name} may know {sorted(permitted) or 'nothing'} of ours"


def violations(found: Iterator[Import]) -> list[str]:
    return [sentence for one in found if (sentence := violation(one)) is not None]


def test_every_import_keeps_to_its_layer() -> None:
    assert violations(project.all_imports()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("twinbeat.core.machine", "import msgspec"),
        ("twinbeat.core.machine", "from twinbeat.net import vmac"),
        ("twinbeat.core.machine", "def f():\n    from ..engine import engine"),
        ("twinbeat.core.machine", "if TYPE_CHECKING:\n    from twinbeat.config import Config"),
        ("twinbeat.net.vmac", "from twinbeat.worker import main"),
        ("twinbeat.net.vmac", "from twinbeat import engine"),
        ("twinbeat.worker.main", "import twinbeat.net.vmac"),
        ("twinbeat.witness.etcd", "from twinbeat.net import vmac"),
        ("twinbeat.api.schema", "from twinbeat.core.types import Role"),
        ("twinbeat.api.parts.pair", "from twinbeat.core.types import Role"),
        ("twinbeat.cli.main", "from twinbeat.api.parts.pair import Node"),
        ("twinbeat.cli.main", "from twinbeat.config import Config"),
        ("twinbeat.cli.main", "def f():\n    from twinbeat.runtime import app"),
        ("twinbeat.cli.main", "from twinbeat.api import server"),
        ("twinbeat.runtime.app", "from twinbeat.cli.main import main"),
        ("twinbeat.novel.thing", "import os"),
    ],
)
def test_an_import_across_layers_is_found(module: str, source: str) -> None:
    assert len(violations(project.imports(module, source))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("twinbeat.core.machine", "import enum\nfrom .types import Role"),
        ("twinbeat.net.vmac", "from pyroute2 import AsyncIPRoute\nfrom twinbeat.core import types"),
        ("twinbeat.cli.main", "def f():\n    from twinbeat.config import Config"),
        ("twinbeat.cli.main", "import click\nfrom twinbeat import __version__"),
        ("twinbeat.runtime.app", "from twinbeat.net import vmac"),
    ],
)
def test_an_import_within_the_rules_is_not(module: str, source: str) -> None:
    assert violations(project.imports(module, source)) == []


def test_third_party_packages_are_declared() -> None:
    table = project.pyproject()["project"]
    declared = {
        dependency.partition(">")[0].replace("-", "_")
        for dependency in [*table["dependencies"], *table["optional-dependencies"]["top"]]
    }
    used = {name for rule in LAYERS.values() for name in rule.others}
    # Debian's, by way of the system site packages; see pyproject.toml.
    assert used - {"bcc"} <= declared


def loaded(module: str, names: tuple[str, ...]) -> list[str]:
    """Which of the names a fresh interpreter has loaded after it imported the module."""
    program = f"import sys, {module}\nprint(*[name for name in {names!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return result.stdout.split()


def test_only_the_one_shot_loader_uses_the_compiler() -> None:
    users = {
        (found.module, found.deferred) for found in project.all_imports() if found.top == "bcc"
    }
    assert users == {("twinbeat.engine.compile", True)}


def test_the_agent_never_loads_the_compiler() -> None:
    # LLVM would stay in the agent's memory: the loader compiles in a process of its own and exits.
    assert loaded("twinbeat.runtime.main", ("bcc",)) == []


def test_an_agent_without_a_witness_loads_no_http_library() -> None:
    assert loaded("twinbeat.runtime.main", ("urllib3",)) == []
    assert loaded("twinbeat.witness.etcd", ("urllib3",)) == []


def test_only_identities_use_the_library_of_certificates() -> None:
    users = {found.module for found in project.all_imports() if found.top == "cryptography"}
    assert users == {"twinbeat.sync.identity"}


def test_the_agent_loads_no_library_of_certificates() -> None:
    assert loaded("twinbeat.runtime.main", ("cryptography",)) == []


def test_the_command_line_loads_nothing_heavy() -> None:
    assert loaded("twinbeat.cli.main", HEAVY) == []


def test_a_proxy_s_client_needs_nothing_but_the_standard_library() -> None:
    assert loaded("twinbeat.sessions.client", ("msgspec", "asyncio", "twinbeat.sync")) == []


def test_what_is_loaded_is_seen() -> None:
    assert loaded("bcc", ("bcc", "asyncio")) == ["bcc"]
