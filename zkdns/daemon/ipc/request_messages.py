"""The requests that the supervisor sends to the watcher (`requests.py`).

Each request names the type of its responses, which are those of the HTTP API where nothing else is defined
here. `Refused` may answer any request.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from zkdns.admin.api_types import (
    Explanation,
    Flushed,
    HistoryPage,
    LossesAccepted,
    MemberCount,
    Names,
    ServiceDigests,
    ServiceList,
)
from zkdns.serverset.service_counts import Listing


class Explain(msgspec.Struct, frozen=True, tag="explain"):
    """Explain a name: its kind, its current responses, and the reasons. Response: `Explanation`."""

    name: str
    """A DNS name, with or without its zone, or the path of a service's or a member's znode."""


class ReadHistory(msgspec.Struct, frozen=True, tag="history"):
    """Read past changes of services and members. Response: `HistoryPage`."""

    service: str | None = None
    """A spelling of a service (`zkdns.spelling`). An address: changes of members at it. None: all."""
    after: int = 0
    """Only entries with a greater number. Numbers are Unix times in microseconds. 0: no limit."""
    limit: int = 1000
    """Maximum number of entries: the first ones after `after`, or the newest ones if that is 0."""


class ListServices(msgspec.Struct, frozen=True, tag="services"):
    """List services. Responses: `ServiceList` several times, sorted by name. The last one is empty."""

    after: int = 0
    """Only services that have changed after the history entry with this number. 0: all services."""


class CountMembers(msgspec.Struct, frozen=True, tag="count"):
    """Count the members in the current responses for a service. Response: `MemberCount`."""

    service: str
    """A spelling of it (`zkdns.spelling`)."""


class ListNames(msgspec.Struct, frozen=True, tag="list-names"):
    """List names of services, for shell completion. Response: `Names`."""

    beginning: str
    """Prefix of the names; case is ignored."""
    only_held: bool
    """Only services with held members."""


class ListSimilar(msgspec.Struct, frozen=True, tag="list-similar"):
    """List the names that are most similar to an unknown one. Response: `Names`."""

    text: str
    """A spelling of a service that does not exist (`zkdns.spelling`)."""


class ListSets(msgspec.Struct, frozen=True, tag="sets"):
    """List server sets. Responses: `Listing` several times. The last one has no services."""

    environment: str | None
    """Only sets of this environment. None: all sets."""


class ReadTable(msgspec.Struct, frozen=True, tag="table"):
    """Send a copy of the table. Responses: `Lines` of `TableLine`, several times."""


class ListMembers(msgspec.Struct, frozen=True, tag="members"):
    """List members. Responses: `Lines` of `MemberRow`, several times."""

    service: str | None = None
    """Only those of this service: a spelling of it (`zkdns.spelling`). None: all members."""


class ListDigests(msgspec.Struct, frozen=True, tag="digests"):
    """List the digests of all services. Responses: `ServiceDigests` several times. The last one is empty."""


class Lines(msgspec.Struct, frozen=True):
    """Lines of JSON, which the supervisor passes on as they are. An empty response ends them."""

    data: bytes


class AcceptLosses(msgspec.Struct, frozen=True, tag="accept"):
    """Drop held members. Response: `LossesAccepted`."""

    service: str | None
    """A spelling of a service (`zkdns.spelling`). None: all services."""


class FlushCaches(msgspec.Struct, frozen=True, tag="flush"):
    """Flush the forward caches. Response: `Flushed`."""

    name: str | None
    """Only entries of this name and of names below it; an address: its reverse name. None: all entries."""


class Refused(msgspec.Struct, frozen=True):
    """The request was not carried out."""

    reason: Literal["invalid", "not_found", "busy", "failed"]
    """`invalid`: wrong request; `not_found`: there is nothing that it applies to; `busy`: try again later;
    `failed`: internal error."""
    message: str
    """The reason in a sentence."""


Request: TypeAlias = (
    Explain
    | ReadHistory
    | ListServices
    | CountMembers
    | ListNames
    | ListSimilar
    | ListSets
    | ReadTable
    | ListMembers
    | ListDigests
    | AcceptLosses
    | FlushCaches
)
Response: TypeAlias = (
    Explanation
    | HistoryPage
    | ServiceList
    | Listing
    | MemberCount
    | Names
    | ServiceDigests
    | Lines
    | LossesAccepted
    | Flushed
    | Refused
)
