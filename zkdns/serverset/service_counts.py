"""Server sets with their numbers of registered members, as `zkdns services` prints them."""

from __future__ import annotations

from typing import Final

import msgspec

from zkdns.plurals import counted
from zkdns.serverset.formats import describe_format, describe_names

MAX_RECOGNIZED: Final = 20
"""Services whose children are read to recognize their format."""


class ServiceCount(msgspec.Struct, frozen=True):
    """A service and the number of its members."""

    environment: str
    """The scope of the service's name: the values of all placeholders except its own.

    Empty: there are none.
    """
    service: str
    members: int | None
    """The number of registered members, including invalid ones. None: the ACL denies listing them."""
    path: str
    held: int = 0
    """The number of members that have left and are still answered. Only a server knows them."""
    passed_over: int = 0
    """The number of other children, without weights (`vector_…`)."""
    examples: tuple[str, ...] = ()
    """The names of a few of the other children."""
    format: str | None = None
    """The registration format of the other children. None: unknown, or not determined.

    It is determined for the first services without members.
    """

    @property
    def name(self) -> str:
        """The name of the service, without its zone."""
        return f"{self.service}.{self.environment}" if self.environment else self.service

    @property
    def is_foreign(self) -> bool:
        """Whether it has children, and none of them is a member."""
        return self.members == 0 and self.passed_over > 0

    @property
    def others(self) -> str:
        """The other children as text: `4 other children: a, b, c and 1 more (nerve)`."""
        names = describe_names(self.examples, self.passed_over)
        found = describe_format(self.format, self.examples)
        text = f"{counted(self.passed_over, 'other child', 'other children')}: {names}"
        return f"{text} ({found})" if found else text


class Listing(msgspec.Struct, frozen=True):
    """The services of a namespace at one moment."""

    services: tuple[ServiceCount, ...]
    """Sorted by environment and service."""
    empty: tuple[str, ...]
    """Paths of environments without a service."""
    denied: tuple[str, ...]
    """Paths that may not be listed because of their ACL."""
    exists: bool
    """Whether the namespace's root exists."""
    is_read_only: bool = False
    """Whether the server had no quorum, so that the listing may be out of date."""
