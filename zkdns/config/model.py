"""What a server is told: one frozen `Config`, complete and checked, whatever its values came from."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from zkdns.address import HostPort, UpstreamAddress
from zkdns.names import Labels
from zkdns.namespace import Namespace

Order: TypeAlias = Literal["round-robin", "random", "fixed"]
Empty: TypeAlias = Literal["nodata", "nxdomain"]
Watches: TypeAlias = Literal["auto", "one-shot"]
LogFormat: TypeAlias = Literal["auto", "console", "json", "journald"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
Upstream: TypeAlias = tuple[UpstreamAddress, ...] | Literal["auto"]


class ServiceOverride(msgspec.Struct, frozen=True):
    """What one service does differently; None leaves the server's own value."""

    ttl: int | None = None
    order: Order | None = None
    max_answers: int | None = None


class GuardSettings(msgspec.Struct, frozen=True):
    """When the removal of members is suspicious, and for how long they are answered all the same."""

    share: float = 0.5
    """A set that loses more of its members than this, 0 to 1, has a suspicious loss."""
    minimum: int = 5
    """That holds for sets of so many members; smaller ones may lose all but one."""
    seconds: int = 600
    """How long suspicious losses are held; 0: nothing is.

    Who lost a session registers again within a minute (the longest back-off of go.serversets), once ZooKeeper
    is well; ten leave an operator time to look, while addresses that are dead stand last in an answer.
    """


class ForwardSettings(msgspec.Struct, frozen=True):
    """Where the names of one domain go."""

    upstreams: tuple[UpstreamAddress, ...]
    """Those that are asked; none: the domain is refused."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `zkdns serve` can be told."""

    zookeeper: str | None = None
    """`host:port,host:port/chroot`; None: no ZooKeeper."""
    watches: Watches = "auto"
    """How changes in ZooKeeper are heard of: by a recursive watch where possible, or by one-shot ones."""
    zookeeper_credentials: str | None = None
    """Path of a file with what ZooKeeper is to know us by; only the watcher reads it."""
    zookeeper_tls: bool = False
    zookeeper_ca: str | None = None
    """Path of the authorities' certificates; None: the system's."""
    zookeeper_certificate: str | None = None
    """Path of the client's own certificate; None: it shows none."""
    zookeeper_key: str | None = None
    """Path of its private key; None: in the certificate's file."""
    zookeeper_any_host: bool = False
    """Whether a server's certificate may be for another host name than the one that was connected to."""
    session_timeout: int = 10
    """Seconds that a ZooKeeper may be silent before it counts as lost; the server may grant another time."""
    fixed: str | None = None
    """Path of a file of services that need no ZooKeeper."""
    demo: bool = False
    """Serve the embedded example, and nothing else."""
    listen: tuple[HostPort, ...]
    allow: tuple[str, ...] = ()
    """Networks whose askers are answered, beside this machine itself; none: those of private addresses."""
    rate_limit: int = 2_000
    """Answers a second to one network over UDP, except this machine itself; 0: as many as it likes.

    More of them are truncated: who is real asks again over TCP, and who was named by somebody else is spared.
    A thousandth of what one core answers; a host that has no cache asks less.
    """
    cookies: bool = True
    """Whether askers who send a DNS cookie get one (RFC 7873); over UDP it exempts them from `rate_limit`."""
    cookie_secret: bytes | None = None
    """What server cookies are made of, in 16 bytes, where several servers share an address; None: random."""
    identity: str = ""
    """What NSID, `id.server` and `hostname.bind` tell (RFC 5001, RFC 4892); empty: nothing."""
    tell_version: bool = False
    """Whether `version.server` and `version.bind` tell which version this is."""
    namespaces: tuple[Namespace, ...]
    """Where sets lie, and which zone each has its names in; there is one at least."""
    ttl: int = 5
    """Seconds that an answer may be kept."""
    negative_ttl: int = 2
    """Seconds that the absence of a name or of a type may be kept (RFC 2308)."""
    order: Order = "round-robin"
    max_answers: int | None = None
    """Most members in one answer; None: all."""
    statuses: tuple[str, ...] = ("ALIVE",)
    """Statuses of members that are answered with."""
    empty: Empty = "nodata"
    """What a service without members is: a name without records, or no name."""
    dns_sd: bool = False
    """Whether services and members can be found out by browsing (RFC 6763)."""
    reverse: bool = False
    """Whether the names of members' addresses are answered, of which nobody else is asked then."""
    workers: int = 1
    upstream: Upstream = "auto"
    """Where names outside the zones go: to these, or as the machine itself is configured; none: refused."""
    forward: dict[str, ForwardSettings] = {}
    """The same for single domains and what lies below, by their names in lower case; the longest wins."""
    max_forwarded: int = 4_000
    """Most queries that wait for upstreams at a time, in each worker; others are SERVFAIL at once.

    Each may hold a socket: with those of TCP's clients it should fit the files that a process may open.
    """
    trust_ad: bool = False
    """Whether the upstreams' word that an answer was checked (AD) is passed on.

    Right only where they and the way to them can be trusted (RFC 4035 §4.9.3).
    """
    cache_entries: int = 10_000
    """Most answers of upstreams that are kept, in each worker."""
    cache_min_ttl: int = 0
    """Seconds that they are kept at least, whatever their owners say."""
    cache_max_ttl: int = 86_400
    """Seconds that they are kept at most; RFC 8767 §4 has a week as the most that is sensible."""
    cache_negative_ttl: int = 3_600
    """Seconds that the absence of a name or of a type is kept at most (RFC 2308 §5)."""
    cache_stale: int = 86_400
    """Seconds that answers may be over, and are given all the same when no upstream answers (RFC 8767)."""
    cache_prefetch: bool = True
    """Whether answers that are still asked for are asked anew before they are over."""
    admin: HostPort | None = None
    """Where status page, API, metrics and health are had over HTTP; None: nowhere."""
    admin_names: tuple[str, ...] = ()
    """What browsers may call that address, in lower case, beside addresses and this machine's own name."""
    admin_token: str | None = None
    """Path of a file with the token of those who may change something there; None: nobody may."""
    snapshot: str | None = None
    """Path of the file that keeps the table over restarts."""
    snapshot_max_age: int = 86_400
    """Seconds after which what the snapshot holds is not answered with; 0: never.

    A day: long enough for a night's and a morning's outage, short enough that most of what it names has not
    become somebody else's address. With `offline` the age is no question unless it was set.
    """
    offline: bool = False
    """Answer from the snapshot alone, and never write it."""
    guard: GuardSettings = GuardSettings()
    control: str | None = None
    """Path of the socket at which commands reach the running server; None: they do not."""
    log_format: LogFormat = "auto"
    """For people, for machines or for systemd's journal; auto: for the journal where logs go there."""
    log_level: LogLevel = "info"
    query_log: float = 0.0
    """The share of queries that are logged, from none (0) to all (1)."""
    service: dict[str, ServiceOverride] = {}
    """Overrides by the service's whole name, its zone included, in lower case."""

    @property
    def forwards(self) -> bool:
        """Whether anything is said of where names outside the zones go, but that they are refused."""
        return bool(self.upstream or self.forward)

    @property
    def namespace(self) -> Namespace:
        """The first namespace: the one of whoever names no zone, and of the library's commands."""
        return self.namespaces[0]

    @property
    def zone(self) -> Labels:
        """The first namespace's zone."""
        return self.namespace.zone

    @property
    def zones(self) -> tuple[Labels, ...]:
        """All zones, each once, in the order of their namespaces."""
        return tuple(dict.fromkeys(namespace.zone for namespace in self.namespaces))
