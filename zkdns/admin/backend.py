"""The interface of the server behind the HTTP API, which the supervisor implements."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Protocol

from zkdns.admin.api_types import (
    Flushed,
    LossesAccepted,
    MemberCount,
    Names,
    Reloaded,
    ServiceDigests,
    ServiceListing,
)
from zkdns.admin.status import Backend as StatusBackend
from zkdns.admin.status import RequestError
from zkdns.serverset.service_counts import Listing


class NotReloadedError(RequestError):
    """The configuration has errors, so that the old one stays in force."""

    def __init__(self, errors: tuple[str, ...]) -> None:
        self.errors = errors
        super().__init__(HTTPStatus.CONFLICT, f"the old configuration stays in force: {'; '.join(errors)}")


class Backend(StatusBackend, Protocol):
    """The server. Methods that query its processes raise `RequestError`."""

    async def services(self, after: int) -> ServiceListing:
        """Return services with their numbers of members.

        Args:
            after: only services that have changed after the history entry with this number. 0: all services.
        """

    async def count(self, service: str) -> MemberCount:
        """Count the members in the responses for a service."""

    async def service_names(self, beginning: str, *, only_held: bool) -> Names:
        """Return names of services with this beginning, all of them or those with held members."""

    async def similar_names(self, text: str) -> Names:
        """Return the names of services that are similar to an unknown one, the most similar one first."""

    async def sets(self, environment: str | None) -> Listing:
        """Return a row for each server set.

        Args:
            environment: only sets of this environment. None: all sets.
        """

    def table_lines(self) -> AsyncGenerator[bytes]:
        """Yield the lines of a copy of the table (`TableLine`), several in each piece."""

    async def digests(self) -> ServiceDigests:
        """Return the digest of each service."""

    def member_lines(self, service: str | None = None) -> AsyncGenerator[bytes]:
        """Yield a line for each member (`MemberRow`), several in each piece.

        Args:
            service: only members of this service. None: all members.
        """

    async def accept(self, service: str | None) -> LossesAccepted:
        """Drop held members of one service or of all."""

    async def flush(self, name: str | None) -> Flushed:
        """Flush the forward cache for a name and the names below it, or completely."""

    async def reload(self, *, replace_all: bool = False) -> Reloaded:
        """Read the configuration again and apply it.

        Args:
            replace_all: replace processes that use no changed setting too.

        Raises:
            NotReloadedError: it has errors or cannot be applied.
        """
