"""The requests and responses of the control socket (`control.py`).

Each request type is followed by the types of its response. `Refused` may answer any request.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from zkdns.config import Config
from zkdns.serverset.changes import Change

# -- zkdns explain -------------------------------------------------------------------------------------------

Kind: TypeAlias = Literal[
    "apex",
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


class Explain(msgspec.Struct, frozen=True, tag="explain"):
    """Explain a name: its kind, its current responses, and the reasons. Response: `Explanation`."""

    name: str
    """A DNS name, with or without its zone, or the path of a service's or a member's znode."""


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


class Explanation(msgspec.Struct, frozen=True, kw_only=True, tag="explained"):
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
    """State of ZooKeeper: `reading`, `live`, `away` or `readonly`. None: ZooKeeper is not in use."""
    ready: bool
    stale: bool
    """True if the source is disconnected, so that all of this is its last known state."""
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


class ReadHistory(msgspec.Struct, frozen=True, tag="history"):
    """Read past changes of services and members. Response: `HistoryPage`."""

    service: str | None = None
    """Name of a service, with or without the zone, or path of its znode. None: all services."""
    after: int = 0
    """Only entries with a greater number. Numbers are Unix times in microseconds. 0: no limit."""
    limit: int = 1000
    """Maximum number of entries: the first ones after `after`, or the newest ones if that is 0."""


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


class HistoryPage(msgspec.Struct, frozen=True, tag="history"):
    """Entries, oldest first."""

    entries: tuple[HistoryEntry, ...]
    last: int
    """The value of `after` for the next page. 0: there are no entries.

    If the page is full, it is the number of its last entry. Otherwise it is that of the newest entry of all
    services.
    """


# -- zkdns services, wait, and shell completion --------------------------------------------------------------


class ListServices(msgspec.Struct, frozen=True, tag="services"):
    """List all services. Responses: `ServiceList` several times."""


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


class ServiceList(msgspec.Struct, frozen=True, tag="services"):
    """A part of the list of services, sorted by name. An empty part ends the list."""

    services: tuple[ServiceLine, ...]
    state: str | None
    """State of ZooKeeper, as in `Explanation`."""
    stale_seconds: float | None
    ready: bool


class CountMembers(msgspec.Struct, frozen=True, tag="count"):
    """Count the members in the current responses for a service. Response: `MemberCount`."""

    service: str
    """Its name, with or without the zone, or path of its znode."""


class MemberCount(msgspec.Struct, frozen=True, tag="count"):
    """Number of members in the responses for a service's name."""

    answered: int
    """Number of different endpoints, including held members, without the limit of `max_answers`."""
    held: int
    exists: bool
    ready: bool


class ListNames(msgspec.Struct, frozen=True, tag="list-names"):
    """List names of services, for shell completion. Response: `Names`."""

    beginning: str
    """Prefix of the names; case is ignored."""
    only_held: bool
    """Only services with held members."""


class Names(msgspec.Struct, frozen=True, tag="names"):
    """DNS names of services, sorted. Only the first ones if there are very many."""

    names: tuple[str, ...]


# -- zkdns dump ----------------------------------------------------------------------------------------------


class Dump(msgspec.Struct, frozen=True, tag="dump"):
    """Send a copy of the table. Responses: `Dumped`, then `Contents` several times."""


class Dumped(msgspec.Struct, frozen=True, tag="dumped"):
    """Start of a copy of the table, as of this moment, with the configuration that responses depend on."""

    config: Config
    serial: int
    is_stale: bool
    """True if the source of the table is disconnected, so that the table is its last known state."""


class Contents(msgspec.Struct, frozen=True, tag="contents"):
    """A part of the changes that build the table. An empty part ends the copy."""

    changes: tuple[Change, ...]


# -- zkdns accept, flush, reload -----------------------------------------------------------------------------


class AcceptLosses(msgspec.Struct, frozen=True, tag="accept"):
    """Drop held members. Response: `LossesAccepted`."""

    service: str | None
    """Name of a service, with or without the zone, or path of its znode. None: all services."""


class ReleasedMember(msgspec.Struct, frozen=True):
    """A member that was held until now."""

    service: str
    znode: str
    endpoint: str | None
    held_seconds: float


class LossesAccepted(msgspec.Struct, frozen=True, tag="accepted"):
    """These members are no longer held."""

    members: tuple[ReleasedMember, ...]


class FlushCaches(msgspec.Struct, frozen=True, tag="flush"):
    """Flush the forward caches. Response: `Flushed`."""

    name: str | None
    """Only entries of this name and of names below it. None: all entries."""


class Flushed(msgspec.Struct, frozen=True, tag="flushed"):
    """The flush was sent to the workers."""

    flushed_workers: int
    """Number of workers that received it."""
    workers: int
    """Configured number of workers. A worker that is being replaced has an empty cache."""


class Reload(msgspec.Struct, frozen=True, tag="reload"):
    """Read the configuration again and apply it. Response of the supervisor: `Reloaded` or `NotReloaded`."""

    all: bool
    """Replace also processes that use no changed setting."""


class Reloaded(msgspec.Struct, frozen=True, tag="reloaded"):
    """The new configuration is in force."""

    changed: tuple[str, ...]
    """The changed settings."""
    replaced: tuple[str, ...]
    """Roles of the replaced processes, one for each process."""
    seconds: float


class NotReloaded(msgspec.Struct, frozen=True, tag="not reloaded"):
    """The old configuration stays in force."""

    errors: tuple[str, ...]


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The request was not carried out."""

    reason: Literal["invalid", "not_found"]
    """`invalid`: the request is wrong; `not_found`: there is nothing that it applies to."""
    message: str
    """The reason in a sentence."""


Request: TypeAlias = (
    Explain
    | ReadHistory
    | ListServices
    | CountMembers
    | ListNames
    | Dump
    | AcceptLosses
    | FlushCaches
    | Reload
)
Response: TypeAlias = (
    Explanation
    | HistoryPage
    | ServiceList
    | MemberCount
    | Names
    | Dumped
    | Contents
    | LossesAccepted
    | Flushed
    | Reloaded
    | NotReloaded
    | Refused
)
