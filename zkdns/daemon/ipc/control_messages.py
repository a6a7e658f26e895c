"""What people ask a running server about what it answers, and why; and what it tells them."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

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
"""What a name is: which rule of the page names.md answers it.

`environment` is any name that only exists because others lie below it; `host` that of an additional endpoint
which lies elsewhere than its member; `address` the reverse name of a member's address. `absent` is a name of
our zones that there is not, `unread` one of which nobody can know yet. The last three are outside the zones.
"""

Verdict: TypeAlias = Literal[
    "answered", "drained", "dropped", "hidden", "held", "bad", "duplicate", "unresolved", "unread", "beyond"
]
"""What becomes of a member in the answers that its service's name gets.

`drained`: its weight is 0, so it is answered only where there is no other; `dropped`: that is below 0;
`hidden`: by its status; `held`: it has left, and is answered behind all others; `bad`: its znode cannot be
understood, `unread`: nor be read; `duplicate`: another one stands for it; `unresolved`: its host name has no
address yet; `beyond`: an answer holds no more than `max_answers`, and their order is fixed.
"""

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


class Explain(msgspec.Struct, frozen=True, tag="explain"):
    """Say what a name is, how it is answered now, and why."""

    name: str
    """A DNS name, with the zone or without; or the path of a service's or a member's znode."""


class ReadHistory(msgspec.Struct, frozen=True, tag="history"):
    """Say who came and went."""

    service: str | None = None
    """A service's name, with or without the zone, or its znode's path; None: all of them."""
    after: int = 0
    """Only entries with a greater number; 0: any. A number is a time (Unix, microseconds) as well."""
    most: int = 1000
    """At most so many: the newest of all, and those that follow next where `after` is given."""


class ListServices(msgspec.Struct, frozen=True, tag="services"):
    """List all services."""


class CountMembers(msgspec.Struct, frozen=True, tag="count"):
    """Say how many members of a service are answered now."""

    service: str
    """Its name, with or without the zone, or its znode's path."""


class TypeAnswer(msgspec.Struct, frozen=True):
    """What a question for one type is answered with."""

    type: str
    rcode: str
    records: int
    """In the answer section of one response; all of them take turns where that is limited."""


class Session(msgspec.Struct, frozen=True):
    """What ZooKeeper tells of a member's znode beside its data."""

    owner: str
    """The session that it is bound to, in hex as zkCli prints it; `0x0`: none, so it never goes by itself."""
    created: float
    """Unix time, by ZooKeeper's clock."""
    modified: float


class ExplainedMember(msgspec.Struct, frozen=True, kw_only=True):
    """One member of a service, answered or not."""

    member: str
    """Its znode's name; of a fixed file the name that it has by its order."""
    znode: str | None
    """None: it comes from a fixed file."""
    name: str | None
    """Its own DNS name; None: it has none."""
    verdict: Verdict
    why: str
    """A sentence; empty where the verdict says all."""
    endpoint: str | None = None
    additional: dict[str, str] = {}
    status: str | None = None
    shard: int | None = None
    weight: float = 1.0
    addresses: tuple[str, ...] = ()
    """Those that its host name was resolved to."""
    held_since: float | None = None
    """Unix time."""
    held_until: float | None = None
    session: Session | None = None
    """None: not known, since ZooKeeper did not tell in time, or was not asked."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True, tag="explained"):
    """What a name is, and why it is answered as it is."""

    asked: str
    name: str
    """The whole name that is meant, with its zone and without a dot at its end."""
    kind: Kind
    rule: str
    """What the name is, in a sentence."""
    notes: tuple[str, ...] = ()
    """What else is worth knowing, a sentence each."""
    nearest: tuple[str, ...] = ()
    """Names that may have been meant, where there is no such name."""
    answers: tuple[TypeAnswer, ...] = ()
    """None where others are asked."""
    is_answered: bool
    """Whether there are records; or others are asked, who may have some."""
    service: str | None = None
    """The service whose name it is, or below whose name it lies."""
    origins: tuple[str, ...] = ()
    """The znodes of that service, or where else its members stand."""
    members: tuple[ExplainedMember, ...] = ()
    """All of the service's; of a member's own name that one alone."""
    ttl: int | None = None
    order: str | None = None
    max_answers: int | None = None
    state: str | None = None
    """ZooKeeper's: `reading`, `live`, `away` or `readonly`; None: nothing is read from ZooKeeper."""
    ready: bool
    stale: bool
    """Whether the source is out of reach, so that all of it is the last that was known."""
    stale_seconds: float | None = None
    """For how long; None: it is in reach, or a snapshot that nothing is told of."""
    heard_seconds: float | None = None
    """How long ago ZooKeeper last told anything of the tree; None: never."""
    audited_seconds: float | None = None
    """How long ago everything was last listed and compared; None: not yet."""
    changed: float | None = None
    """Unix time of the service's last change since the start; None: there was none."""
    now: float
    """Unix time of this explanation."""


class HistoryEntry(msgspec.Struct, frozen=True):
    """Something that happened to a service."""

    number: int
    """Greater than that of all that happened before; Unix time in microseconds."""
    at: float
    """Unix time."""
    service: str
    """Without the zone where that is the first namespace's."""
    member: str
    """The znode's name; empty where it is about the service as a whole."""
    kind: HistoryKind
    endpoint: str | None
    znode: str
    """The member's, or the service's; of a fixed file what stands in its place."""


class HistoryPage(msgspec.Struct, frozen=True, tag="history"):
    """Entries, the oldest first."""

    entries: tuple[HistoryEntry, ...]
    last: int
    """The number of the newest entry that there is of any service, after which is to be asked next; 0: none.

    Where `entries` are as many as were wanted, there may be more: then it is that of the last one of them.
    """


class ServiceLine(msgspec.Struct, frozen=True):
    """One service in numbers."""

    name: str
    """As in a `HistoryEntry`."""
    alive: int
    """Members that are answered with, or would be if they were not drained."""
    hidden: int
    """Members whose status is not one that is answered with, or whose weight is below 0."""
    held: int
    bad: int
    drained: int
    """Those of `alive` whose weight is 0."""
    changed: float | None
    """Unix time of its last change since the start; None: there was none."""


class ServiceList(msgspec.Struct, frozen=True, tag="services"):
    """Some of the services, by name; the last part is an empty one."""

    services: tuple[ServiceLine, ...]
    state: str | None
    """ZooKeeper's, as in `Explanation`."""
    stale_seconds: float | None
    ready: bool


class MemberCount(msgspec.Struct, frozen=True, tag="count"):
    """How many members a service's name is answered with."""

    answered: int
    """Different endpoints; those that are held are among them, whatever `max_answers` says."""
    held: int
    exists: bool
    ready: bool
