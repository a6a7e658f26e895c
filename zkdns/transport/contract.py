"""Sockets: bound, read, and written to. What the bytes mean is somebody else's business.

`answers[query]` is all that this room knows of DNS: bytes in, bytes or silence out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, Self

Deliver = Callable[[bytes], None]
"""Takes a response without its id when there is one; empty: there will be none."""


class DeferredResponse(bytes):
    """A response that there will be later: silence as long as nobody begins to wait for it.

    Attributes:
        begin: begins to look for it; called once, when whoever was to be answered at once has been. It must
            take no longer than an answer does.
    """

    begin: Callable[[Deliver], None]

    def __new__(cls, begin: Callable[[Deliver], None]) -> Self:
        """An answer that is begun like that."""
        made = super().__new__(cls)
        made.begin = begin
        return made


class PerClientResponse(bytes):
    """A response that depends on who gets it: silence until that is known.

    Attributes:
        to: makes the response for an address in 4 or 16 bytes.
    """

    to: Callable[[bytes], bytes]

    def __new__(cls, to: Callable[[bytes], bytes]) -> Self:
        """A response that is made like that."""
        made = super().__new__(cls)
        made.to = to
        return made


class ResponseObserver(Protocol):
    """What is told of responses one by one, where somebody wants to know; it costs what it costs."""

    def take_source(self) -> str:
        """What the response that was made at last was made from; to be asked for after each."""

    def is_sampled(self) -> bool:
        """Whether this response is to be told of; not all of them need be."""

    def on_response(self, transport: str, host: str, message: bytes, source: str, seconds: float, /) -> None:
        """A response has been sent over that transport to that host, so long after its query came.

        Args:
            transport: `udp` or `tcp`.
            host: its address.
            message: the response, with any id.
            source: as it was told.
            seconds: how long it took.
        """


class ResponseLookup(Protocol):
    """What answers messages: looked up by a query without its id."""

    def __getitem__(self, query: bytes, /) -> Iterator[bytes]:
        """Responses without their ids, for ever, each time the one whose turn it is; an empty one is silence.

        One that is `Later` comes when it is there, and may be `Personal` then, as any other.

        Never raises, whatever the bytes are, and however few.
        """


class CachedResponseLookup(ResponseLookup, Protocol):
    """Answers of which some are known already."""

    def get(self, query: bytes, /) -> Iterator[bytes] | None:
        """The responses to a query if they are known; else None, and nothing has changed."""
