"""The types of the responses of the HTTP API, except those of `status.py` and of the last hour.

The watcher makes most of them, and the supervisor encodes them as JSON.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from zkdns.config import Config
from zkdns.serverset.changes import Change

# -- zkdns explain -------------------------------------------------------------------------------------------

Kind: TypeAlias = Literal[
    "apex",
    "digest",
    "environment",
    "service",
    "member",
    "shard",
    "host",
    "endpoint",
    "rfc2782",
    "dns-sd",
    "address",
    "absent",
    "unread",
    "forwarded",
    "special",
    "refused",
]
"""Kind of a name: the rule of the page names.md that applies to it.

`environment`: an empty non-terminal; `host`: an additional endpoint at another host than its member;
`address`: the reverse name of a member's address; `absent`: a name in a zone that does not exist; `unread`: a
name in a zone while the table has not been read. `forwarded`, `special` and `refused` are outside the zones.
"""

Verdict: TypeAlias = Literal[
    "answered", "drained", "dropped", "hidden", "held", "bad", "duplicate", "unresolved", "unread", "beyond"
]
"""Whether responses for the service's name contain a member, and the reason if they do not.

`drained`: weight 0, contained only if all other members are drained too; `dropped`: weight below 0; `hidden`:
excluded by its status; `held`: removed from ZooKeeper, and placed after all other members; `bad`: its znode
has invalid data; `unread`: its znode could not be read; `duplicate`: another member has the same endpoint;
`unresolved`: its host name has no address yet; `beyond`: after the first `max_answers` members of a fixed
order.
"""


class TypeAnswer(msgspec.Struct, frozen=True):
    """The response to a query for one type."""

    type: str
    rcode: str
    records: int
    """Records in the answer section. If `max_answers` limits them, they rotate between responses."""


class Session(msgspec.Struct, frozen=True):
    """Fields of the Stat of a member's znode."""

    owner: str
    """The owning session, in hexadecimal as zkCli prints it. `0x0`: the znode is not ephemeral."""
    created: float
    """Unix time, by ZooKeeper's clock."""
    modified: float


class ExplainedMember(msgspec.Struct, frozen=True, kw_only=True):
    """One member of a service, whether or not responses contain it."""

    member: str
    """Name of its znode; for a static file, a name that is derived from its position."""
    znode: str | None
    """None: the member comes from a static file."""
    name: str | None
    """Its own DNS name; None: it has none."""
    verdict: Verdict
    why: str
    """A sentence that explains the verdict; empty if the verdict needs no explanation."""
    endpoint: str | None = None
    additional: dict[str, str] = {}
    status: str | None = None
    shard: int | None = None
    weight: float = 1.0
    addresses: tuple[str, ...] = ()
    """Addresses of its host name."""
    held_since: float | None = None
    """Unix time."""
    held_until: float | None = None
    session: Session | None = None
    """None: the Stat was not requested, or ZooKeeper did not return it in time."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The kind of a name, its current responses, and the reasons."""

    asked: str
    """The name as the request has it."""
    name: str
    """The fully qualified name, without the final dot."""
    kind: Kind
    rule: str
    """A sentence that describes the kind of name."""
    notes: tuple[str, ...] = ()
    """Further remarks, a sentence each."""
    nearest: tuple[str, ...] = ()
    """Similar names, if the name does not exist."""
    answers: tuple[TypeAnswer, ...] = ()
    """Empty for forwarded names."""
    is_answered: bool
    """True if there are records, or the name is forwarded."""
    service: str | None = None
    """The service that the name belongs to."""
    origins: tuple[str, ...] = ()
    """The znodes of that service, or its places in static files."""
    members: tuple[ExplainedMember, ...] = ()
    """All members of the service; for a member's own name, only that member."""
    ttl: int | None = None
    order: str | None = None
    max_answers: int | None = None
    state: str | None = None
    """State of ZooKeeper or the primaries: `reading`, `live`, `unreachable` or `readonly`. None: neither is
    in use."""
    source: Literal["zookeeper", "primary"] = "zookeeper"
    """Which of them `state` is about."""
    problem: str = ""
    """Why services are missing or may be out of date. Empty: no problem of the source is known."""
    ready: bool
    stale: bool
    """True if the source is unreachable, so that all of this is its last known state."""
    stale_seconds: float | None = None
    """Duration of the disconnection. None: the source is connected, or a snapshot without a source."""
    heard_seconds: float | None = None
    """Seconds since ZooKeeper last sent anything about the tree; None: never."""
    audited_seconds: float | None = None
    """Seconds since the last audit, which lists and compares everything; None: there was none."""
    changed: float | None = None
    """Unix time of the service's last change since the start; None: there was none."""
    now: float
    """Unix time of this explanation."""


# -- zkdns history -------------------------------------------------------------------------------------------

HistoryKind: TypeAlias = Literal[
    "joined",
    "left",
    "held",
    "back",
    "released",
    "status",
    "changed",
    "service added",
    "service gone",
]


class HistoryEntry(msgspec.Struct, frozen=True):
    """One change of a service or a member."""

    number: int
    """Unix time in microseconds, made unique and ascending."""
    at: float
    """Unix time."""
    service: str
    """Without the zone if that is the zone of the first namespace."""
    member: str
    """Name of the znode; empty for a change of the service as a whole."""
    kind: HistoryKind
    endpoint: str | None
    znode: str
    """Path of the member's or the service's znode, or its place in a static file."""


class HistoryPage(msgspec.Struct, frozen=True):
    """Entries, oldest first."""

    entries: tuple[HistoryEntry, ...]
    last: int
    """The value of `after` for the next page. 0: there are no entries.

    If the page is full, it is the number of its last entry. Otherwise it is that of the newest entry of all
    services.
    """


# -- zkdns services, wait, and shell completion --------------------------------------------------------------


class ServiceLine(msgspec.Struct, frozen=True):
    """Member counts of one service."""

    name: str
    """As in a `HistoryEntry`."""
    alive: int
    """Members that belong in responses, including drained ones."""
    hidden: int
    """Members excluded by their status, or by a weight below 0."""
    held: int
    bad: int
    drained: int
    """Members among `alive` whose weight is 0."""
    changed: float | None
    """Unix time of its last change since the start; None: there was none."""
    environment: str = ""
    """The part of the name between the service and the zone, such as `staging`; empty if there is none."""


class UnreadZnode(msgspec.Struct, frozen=True):
    """A znode that could not be listed or read, so that services or members may be missing."""

    path: str
    reason: str


class ServiceListing(msgspec.Struct, frozen=True):
    """Services with their numbers of members, and the znodes that could not be read."""

    services: tuple[ServiceLine, ...]
    """Sorted by name."""
    gone: tuple[str, ...] = ()
    """Names of services that have changed and do not exist. Empty if all services are listed."""
    last: int = 0
    """The value of `after` that lists the changes since this list."""
    unread: tuple[UnreadZnode, ...] = ()
    """Path and reason of the first znodes that could not be listed or read."""
    unread_count: int = 0
    """The number of all of them."""


class ServiceList(msgspec.Struct, frozen=True):
    """A part of the list of services, as the watcher sends it, sorted by name. An empty part ends it."""

    services: tuple[ServiceLine, ...]
    state: str | None
    """State of ZooKeeper, as in `Explanation`."""
    stale_seconds: float | None
    ready: bool
    gone: tuple[str, ...] = ()
    """In the last part: names of services that have changed after `ListServices.after` and do not exist."""
    last: int = 0
    """The value of `after` that lists the changes since this list. 0: nothing has changed since the start."""
    unread: tuple[UnreadZnode, ...] = ()
    """In the last part: the first znodes that could not be read, sorted by path."""
    unread_count: int = 0
    """In the last part: the number of all of them."""


class MemberCount(msgspec.Struct, frozen=True):
    """Number of members in the responses for a service's name."""

    answered: int
    """Number of different endpoints, including held members, without the limit of `max_answers`."""
    held: int
    exists: bool
    ready: bool
    service: str = ""
    """The service's name with its zone. Empty: it does not exist."""
    problem: str = ""
    """As in `Explanation`."""


class Names(msgspec.Struct, frozen=True):
    """DNS names of services, sorted. Only the first ones if there are very many."""

    names: tuple[str, ...]


# -- zkdns diff ----------------------------------------------------------------------------------------------


class ServiceDigest(msgspec.Struct, frozen=True):
    """The digest of one service."""

    service: str
    """Its DNS name, without the final dot."""
    members: int
    """Members in responses, including held ones."""
    digest: str
    """16 hexadecimal digits, which are equal on all servers whose responses have the same content."""


class ServiceDigests(msgspec.Struct, frozen=True):
    """The digests of services, sorted by name. The watcher sends them in parts; an empty one ends them."""

    services: tuple[ServiceDigest, ...]


# -- zkdns dump ----------------------------------------------------------------------------------------------


class MemberRow(msgspec.Struct, frozen=True, kw_only=True):
    """One member with all its fields, whether or not responses contain it."""

    service: str
    """The DNS name of its service, without the final dot."""
    member: str
    """Name of its znode; for a static file, a name that is derived from its position."""
    origin: str
    """Path of its service's znode, or `static:NAME`."""
    endpoint: str | None
    """Service endpoint as `host:port`."""
    additional: dict[str, str]
    """Additional endpoints by name."""
    status: str
    shard: int | None
    weight: float
    metadata: dict[str, str]
    addresses: tuple[str, ...]
    """IP addresses of its host; empty if its host name has not been resolved."""
    held_since: float | None
    """Unix time at which it left, if it is held. None: it is not."""


class TargetGroup(msgspec.Struct, frozen=True):
    """A target for Prometheus with its labels."""

    targets: tuple[str, ...]
    """`host:port`."""
    labels: dict[str, str]


class TableHead(msgspec.Struct, frozen=True, tag="head"):
    """First line of a copy of the table, with the settings that responses depend on."""

    config: Config
    """Other settings have their defaults."""
    serial: int
    is_stale: bool
    """True if the source of the table is unreachable, so that the table is its last known state."""


class TableChanges(msgspec.Struct, frozen=True, tag="changes"):
    """A further line of the copy: a part of the changes that build the table."""

    changes: tuple[Change, ...]


TableLine: TypeAlias = TableHead | TableChanges


# -- zkdns accept, flush, reload -----------------------------------------------------------------------------


class ReleasedMember(msgspec.Struct, frozen=True):
    """A member that was held until now."""

    service: str
    znode: str
    endpoint: str | None
    held_seconds: float


class LossesAccepted(msgspec.Struct, frozen=True):
    """These members are no longer held."""

    members: tuple[ReleasedMember, ...]


class Flushed(msgspec.Struct, frozen=True):
    """The flush was sent to the workers."""

    flushed_workers: int
    """Number of workers that received it."""
    workers: int
    """Configured number of workers. A worker that is being replaced has an empty cache."""


class Reloaded(msgspec.Struct, frozen=True):
    """The new configuration is in force."""

    changed: tuple[str, ...]
    """The changed settings."""
    replaced: tuple[str, ...]
    """Roles of the replaced processes, one for each process."""
    seconds: float


# -- errors --------------------------------------------------------------------------------------------------


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """The response to a request that failed."""

    error: str
    """The reason in a sentence."""
    errors: tuple[str, ...] = ()
    """The errors of a configuration that was not loaded."""
