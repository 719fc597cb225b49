# SPDX-License-Identifier: Apache-2.0
"""The configuration: every key with its type, range, default and meaning.

The file's reference, `twinbeat config generate`, the error messages and the manual page are all
made from the types that this module puts together, so none of them can tell another story. It must
not read files, look at this machine or know who uses a value.

A key whose description says `restart` takes effect only when the agent is started again.
"""

from typing import Final

from msgspec import Struct

from twinbeat.config.alike import CommandSection, FileSection, SyncSection
from twinbeat.config.arbiters import FenceSection, IsolationSection, WatchdogSection, WitnessSection
from twinbeat.config.connections import ConnectionsSection, Ends, ends
from twinbeat.config.logs import LogClientSection, LogSourceSection, WeblogSection
from twinbeat.config.nodes import (
    EngineSection,
    InterfacesSection,
    KeysSection,
    LinkSection,
    LogSection,
    MetricsSection,
    NodeSection,
    PairSection,
    PeerSection,
    link_number,
)
from twinbeat.config.service import (
    AnnounceSection,
    HookSection,
    InjectSection,
    RouteSection,
    RuleSection,
    VridSection,
)
from twinbeat.config.sessions import PersistenceSection, PoolSection
from twinbeat.config.timers import Timers, TimersSection, resolve_timers
from twinbeat.config.watching import LinksetSection, MonitorSection, PolicySection

CONFIG_PATH: Final = "/etc/twinbeat/twinbeat.toml"


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole configuration that was checked. It holds no secret: keys stay in their files."""

    node: NodeSection
    pair: PairSection
    peer: PeerSection
    links: tuple[LinkSection, ...]
    """In the file's order. `name`, `number` and `ttl_min` are always filled."""
    vrids: tuple[VridSection, ...]
    """`vips` holds the addresses of `vips_file` as well, in canonical form."""
    keys: KeysSection = KeysSection()
    timers_set: TimersSection = TimersSection()
    """As written; `timers` is what is in force."""
    routes: tuple[RouteSection, ...] = ()
    rules: tuple[RuleSection, ...] = ()
    inject: InjectSection = InjectSection()
    hooks: tuple[HookSection, ...] = ()
    engine: EngineSection = EngineSection()
    policy: PolicySection = PolicySection()
    watchdog: WatchdogSection = WatchdogSection()
    fence: FenceSection = FenceSection()
    witness: WitnessSection = WitnessSection()
    isolation: IsolationSection = IsolationSection()
    announce: AnnounceSection = AnnounceSection()
    monitors: tuple[MonitorSection, ...] = ()
    linksets: tuple[LinksetSection, ...] = ()
    interfaces: InterfacesSection = InterfacesSection()
    """In force already: every other section holds names of devices."""
    sync: SyncSection = SyncSection()
    files: tuple[FileSection, ...] = ()
    commands: tuple[CommandSection, ...] = ()
    pools: tuple[PoolSection, ...] = ()
    persistences: tuple[PersistenceSection, ...] = ()
    connections: ConnectionsSection = ConnectionsSection()
    weblog: WeblogSection = WeblogSection()
    logsources: tuple[LogSourceSection, ...] = ()
    logclients: tuple[LogClientSection, ...] = ()
    metrics: MetricsSection = MetricsSection()
    log: LogSection = LogSection()
    path: str = CONFIG_PATH
    """Where it was read from."""

    @property
    def heartbeat_links(self) -> tuple[LinkSection, ...]:
        """The links that carry heartbeats, by number."""
        return tuple(sorted((link for link in self.links if link.heartbeat), key=link_number))

    @property
    def sync_peer(self) -> str:
        """Where the peer's worker is: as set, else at the peer's address on the first link; where
        an interface is named for it, on the first link over that."""
        links = self.heartbeat_links or self.links
        over = [link for link in self.links if link.interface == self.sync.interface]
        return self.sync.peer or next((link.peer for link in (*over, *links)), "")

    @property
    def connection_ends(self) -> Ends | None:
        """Between which addresses the nodes tell each other of connections, if anything says so."""
        return ends(self.connections, self.links, self.sync)

    @property
    def timers(self) -> Timers:
        """The timers in force."""
        return resolve_timers(self.timers_set)

    @property
    def idle_latency_us(self) -> int | None:
        """What is asked of the host's processors; None: nothing."""
        asked = self.engine.idle_latency_us
        if asked is None:
            return 0 if self.timers_set.profile == "fast" else None
        return None if asked < 0 else asked


SECTIONS: Final[dict[str, tuple[str, type[Struct], bool]]] = {
    "node": ("node", NodeSection, False),
    "pair": ("pair", PairSection, False),
    "peer": ("peer", PeerSection, False),
    "keys": ("keys", KeysSection, False),
    "interfaces": ("interfaces", InterfacesSection, False),
    "sync": ("sync", SyncSection, False),
    "timers": ("timers_set", TimersSection, False),
    "link": ("links", LinkSection, True),
    "vrid": ("vrids", VridSection, True),
    "route": ("routes", RouteSection, True),
    "rule": ("rules", RuleSection, True),
    "inject": ("inject", InjectSection, False),
    "hook": ("hooks", HookSection, True),
    "engine": ("engine", EngineSection, False),
    "policy": ("policy", PolicySection, False),
    "watchdog": ("watchdog", WatchdogSection, False),
    "fence": ("fence", FenceSection, False),
    "witness": ("witness", WitnessSection, False),
    "isolation": ("isolation", IsolationSection, False),
    "announce": ("announce", AnnounceSection, False),
    "monitor": ("monitors", MonitorSection, True),
    "linkset": ("linksets", LinksetSection, True),
    "file": ("files", FileSection, True),
    "command": ("commands", CommandSection, True),
    "pool": ("pools", PoolSection, True),
    "persistence": ("persistences", PersistenceSection, True),
    "connections": ("connections", ConnectionsSection, False),
    "weblog": ("weblog", WeblogSection, False),
    "logsource": ("logsources", LogSourceSection, True),
    "logclient": ("logclients", LogClientSection, True),
    "metrics": ("metrics", MetricsSection, False),
    "log": ("log", LogSection, False),
}
"""Table of the file -> (attribute of Config, its struct, whether it is an array of tables)."""
