"""The configuration as the program uses it: one frozen `Config` with a frozen struct for each section.

The defaults of all settings are here. `schema.py` has one row for each field, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from zkdns.address import HostPort, UpstreamAddress
from zkdns.names import Labels
from zkdns.namespace import Namespace

Order: TypeAlias = Literal["round-robin", "random", "fixed"]
Empty: TypeAlias = Literal["nodata", "nxdomain"]
LogFormat: TypeAlias = Literal["auto", "console", "json", "journald"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
UpstreamsSetting: TypeAlias = tuple[UpstreamAddress, ...] | Literal["auto"]


class ServiceOverride(msgspec.Struct, frozen=True):
    """The settings of one service, `[service."…"]`; None means the server's own value."""

    ttl: int | None = None
    order: Order | None = None
    max_answers: int | None = None


class ZooKeeperSettings(msgspec.Struct, frozen=True):
    """`[zookeeper]`: the ensemble, and how to connect to it."""

    hosts: str | None = None
    """`host:port,host:port/chroot`; None: no ZooKeeper."""
    observers: tuple[HostPort, ...] = ()
    """Servers that are used instead of `hosts` while one of them can be reached, with the same chroot."""
    session_timeout: int = 10
    """Requested session timeout in seconds; ZooKeeper may grant another one."""
    credentials: str | None = None
    """Path of the credentials file. Only the watcher reads it."""
    tls: bool = False
    ca: str | None = None
    """Path of the trusted CA certificates; None: the system's."""
    certificate: str | None = None
    """Path of the client certificate; None: no client certificate."""
    key: str | None = None
    """Path of its private key; None: the key is in the certificate file."""
    verify_hostname: bool = True
    """Require that a server's certificate matches the host name of the connection."""

    @property
    def servers(self) -> str:
        """The connect string of all servers, the observers first."""
        hosts, slash, chroot = (self.hosts or "").partition("/")
        others = [host for host in hosts.split(",") if host not in map(str, self.observers)]
        return ",".join([*map(str, self.observers), *others]) + slash + chroot

    @property
    def observers_only(self) -> str:
        """The connect string of the observers."""
        _, slash, chroot = (self.hosts or "").partition("/")
        return ",".join(map(str, self.observers)) + slash + chroot


class TsigKey(msgspec.Struct, frozen=True):
    """`[[transfer.keys]]`, `[primary.key]`: a TSIG key. It has either `secret` or `secret_file`."""

    name: str
    """In lower case."""
    algorithm: str = "hmac-sha256"
    secret: bytes | None = None
    secret_file: str | None = None
    """Path of the file with the secret. Only the transfer process or the watcher reads it."""

    def __repr__(self) -> str:
        """Without the secret, for logs and errors."""
        return f"TsigKey({self.name!r}, {self.algorithm!r})"


class PrimarySettings(msgspec.Struct, frozen=True):
    """`[primary]`: the servers from which a secondary transfers its zones."""

    servers: tuple[UpstreamAddress, ...] = ()
    """In the order in which they are tried. Empty: this server is no secondary."""
    refresh: int = 5
    """Seconds between two queries for the serial, at most; a shorter refresh time of the zone is used.

    One UDP query every 5 seconds costs a primary next to nothing, and bounds the delay if a NOTIFY is lost,
    or none is sent.
    """
    key: TsigKey | None = None
    ca: str | None = None
    """Path of the trusted CA certificates for servers with TLS; None: the system's."""
    allow_notify: tuple[str, ...] = ()
    """Networks that may send NOTIFY, in addition to the addresses of `servers`."""


class ForwardZoneSettings(msgspec.Struct, frozen=True):
    """`[forward.zone."…"]`: the upstreams of one forward zone."""

    upstreams: tuple[UpstreamAddress, ...]
    """Empty: queries for the zone are refused."""


class ForwardSettings(msgspec.Struct, frozen=True):
    """`[forward]`: the upstreams for names outside the server's zones."""

    upstreams: UpstreamsSetting = "auto"
    """`auto`: the resolvers that the machine is configured with; empty: queries are refused."""
    trust_ad: bool = False
    """Pass on the upstreams' AD bit.

    Safe only if the upstreams and the path to them are trusted (RFC 4035 §4.9.3).
    """
    rebind_protection: bool = False
    """Leave private addresses out of the answers of `upstreams`, but not of those of forward zones."""
    rebind_exempt: tuple[str, ...] = ()
    """Domains in lower case whose names may have private addresses in spite of it."""
    zones: dict[str, ForwardZoneSettings] = {}
    """Forward zones by name in lower case; the longest matching zone is used."""


class CacheSettings(msgspec.Struct, frozen=True):
    """`[cache]`: the forward cache of each worker."""

    entries: int = 10_000
    """Maximum number of responses."""
    max_ttl: int = 86_400
    """Seconds; longer TTLs are lowered to this (RFC 8767 §4: a week at most)."""
    stale: int = 86_400
    """Seconds after expiry for which a response is used if no upstream answers (RFC 8767)."""


class AdminSettings(msgspec.Struct, frozen=True):
    """`[admin]`: the HTTP server for the status page, API, metrics and health checks."""

    listen: HostPort | None = None
    """None: no TCP address."""
    socket: str | None = None
    """Path of the Unix socket, at which only the server's user and root may connect; None: no socket."""
    certificate: str | None = None
    """Path of the TLS certificate of `listen`; None: HTTP without TLS."""
    key: str | None = None
    """Path of its private key; None: the key is in the certificate file."""
    service_metrics: int = 1000
    """Maximum number of services with metrics of their own; the others are added up."""
    names: tuple[str, ...] = ()
    """Host names in lower case that browsers may use; IP addresses and this machine's name always work."""
    token: str | None = None
    """Path of the file with the bearer token for changes; None: changes are disabled."""


class TlsSettings(msgspec.Struct, frozen=True):
    """`[tls]`: DNS over TLS (RFC 7858), also for zone transfers (RFC 9103)."""

    listen: tuple[HostPort, ...] = ()
    certificate: str | None = None
    """Path of the certificate; with `listen` there is one."""
    key: str | None = None
    """Path of its private key; None: the key is in the certificate file."""


class SnapshotSettings(msgspec.Struct, frozen=True):
    """`[snapshot]`: the file that keeps the table over restarts."""

    path: str | None = None
    max_age: int = 86_400
    """Seconds; an older snapshot is ignored. 0: no limit.

    A day covers an outage of a night and a morning, and is short enough that most addresses in the snapshot
    still belong to the same hosts. `offline` changes the default to 0.
    """


class GuardSettings(msgspec.Struct, frozen=True):
    """`[guard]`: when the removal of members is suspicious, and for how long they are held."""

    share: float = 0.5
    """A service that loses a larger share of its members than this has a suspicious loss; 0 to 1."""
    minimum: int = 5
    """Number of members from which that holds. In a smaller service only losing all, or all but one, does."""
    seconds: int = 600
    """How long members are held after a suspicious loss; 0: never.

    After an outage of ZooKeeper a member registers again within a minute (the longest backoff of
    go.serversets). Ten minutes leave an operator time to react, and held members are last in a response.
    """


class NotifyTarget(msgspec.Struct, frozen=True):
    """A secondary that gets a NOTIFY after each change."""

    address: HostPort
    key: str | None = None
    """The name of the TSIG key of the NOTIFY. None: it is not signed."""

    def __str__(self) -> str:
        return str(self.address) if self.key is None else f"{self.address}#{self.key}"


class TransferSettings(msgspec.Struct, frozen=True):
    """`[transfer]`: secondaries that copy the zones (AXFR, IXFR, NOTIFY)."""

    allow: tuple[str, ...] = ()
    """Networks of secondaries that need no key."""
    keys: tuple[TsigKey, ...] = ()
    """Keys of secondaries. A signed query needs no permitted network."""
    require_tls: bool = False
    """Refuse transfers that are not over TLS."""
    notify: tuple[NotifyTarget, ...] = ()
    journal: int = 16
    """Maximum memory of each zone's journal for IXFR, in MiB.

    A change of one member of a service takes some 1 KiB, so that a secondary that was away for some thousand
    changes still gets differences.
    """
    directory: str | None = None
    """Directory that keeps the zones and their journals over restarts. None: they are in memory only."""
    max_transfers: int = 8
    """Full transfers at the same time. Each holds at most some 500 KiB, and takes the time of one core."""

    @property
    def is_enabled(self) -> bool:
        """Whether any secondary may copy the zones."""
        return bool(self.allow or self.keys)


class LogSettings(msgspec.Struct, frozen=True):
    """`[log]`."""

    level: LogLevel = "info"
    format: LogFormat = "auto"
    """`auto`: `journald` if the log goes to systemd's journal, otherwise `console`."""
    queries: float = 0.0
    """Share of queries that are logged, 0 to 1."""


class AccessSettings(msgspec.Struct, frozen=True):
    """`[access]`: which clients get responses, and how many."""

    allow: tuple[str, ...] = ()
    """Networks of permitted clients; this machine is always permitted. Empty: all private networks."""
    rate_limit: int = 2_000
    """Maximum UDP responses per second to one client network, this machine excepted; 0: no limit.

    Responses above the limit are truncated: a real client retries over TCP, and a victim of address spoofing
    gets no amplified traffic. One core gives a thousand times as many responses, and a host without a DNS
    cache needs fewer.
    """
    cookies: bool = True
    """Use DNS cookies (RFC 7873). A valid cookie over UDP exempts a client from `rate_limit`."""
    cookie_secret: bytes | None = None
    """16 bytes; servers that share an address need the same secret. None: random."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of `zkdns serve`."""

    zookeeper: ZooKeeperSettings = ZooKeeperSettings()
    primary: PrimarySettings = PrimarySettings()
    static: str | None = None
    """Path of the static file: services that are not in ZooKeeper."""
    demo: bool = False
    """Serve only the built-in example."""
    offline: bool = False
    """Serve only the snapshot, and never write it."""
    has_default_source: bool = False
    """Whether no source is configured, so that the ZooKeeper of this machine is used. It is no setting."""
    listen: tuple[HostPort, ...]
    workers: int = 1
    namespaces: tuple[Namespace, ...]
    """Where services are in ZooKeeper, with the zone of each namespace; at least one."""
    ttl: int = 5
    """Seconds."""
    negative_ttl: int = 2
    """Seconds; the TTL of negative responses (RFC 2308)."""
    order: Order = "round-robin"
    max_answers: int | None = None
    """Maximum number of members in a response; None: no limit."""
    statuses: tuple[str, ...] = ("ALIVE",)
    """Members with one of these statuses are in responses."""
    empty: Empty = "nodata"
    """The response for a service without members."""
    dns_sd: bool = False
    """Answer DNS-SD browsing queries (RFC 6763)."""
    reverse: bool = False
    """Answer PTR queries for the addresses of members instead of forwarding them."""
    identity: str = ""
    """Server name for NSID, `id.server` and `hostname.bind` (RFC 5001, RFC 4892); empty: none."""
    show_version: bool = False
    """Answer `version.server` and `version.bind` with the version."""
    top_names: bool = False
    """Count the most frequent names and clients."""
    forward: ForwardSettings = ForwardSettings()
    cache: CacheSettings = CacheSettings()
    access: AccessSettings = AccessSettings()
    admin: AdminSettings = AdminSettings()
    snapshot: SnapshotSettings = SnapshotSettings()
    tls: TlsSettings = TlsSettings()
    transfer: TransferSettings = TransferSettings()
    guard: GuardSettings = GuardSettings()
    log: LogSettings = LogSettings()
    service: dict[str, ServiceOverride] = {}
    """Overrides by the service's absolute name (with its zone) in lower case."""

    @property
    def is_secondary(self) -> bool:
        """Whether the services come from zone transfers."""
        return bool(self.primary.servers)

    @property
    def forwards(self) -> bool:
        """Whether any names are forwarded or are in a forward zone."""
        return bool(self.forward.upstreams or self.forward.zones)

    @property
    def namespace(self) -> Namespace:
        """The first namespace: the default for names without a zone, and for the library's commands."""
        return self.namespaces[0]

    @property
    def zone(self) -> Labels:
        """The first namespace's zone."""
        return self.namespace.zone

    @property
    def zones(self) -> tuple[Labels, ...]:
        """All zones without duplicates, in the order of their namespaces."""
        return tuple(dict.fromkeys(namespace.zone for namespace in self.namespaces))


def build_config(values: Mapping[str, Any]) -> Config:
    """Build a configuration.

    Args:
        values: by the path of the field, such as `ttl` and `cache.entries`; other fields get their defaults.
    """
    fields: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        (sections.setdefault(section, {}) if section else fields)[name] = value
    for field in msgspec.structs.fields(Config):
        if field.name in sections:
            fields[field.name] = field.type(**sections[field.name])
    return Config(**fields)
