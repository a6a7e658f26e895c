"""The contract between the transports and the component that makes responses (the hot path).

A transport looks responses up by the bytes of a query without its id and takes the next one:

    responses = lookup[query]       an endless iterator; `get(query)` returns only cached ones
    response = next(responses)      bytes without the id, in the form of the transport's codec

    response          meaning                                action of the transport
    non-empty bytes   the response                           sends it
    b""               no response                            sends nothing
    DeferredResponse  an upstream must answer first, or      calls `start` with the client, and sends the
                      the names of a service are not ready   response that it renders after the delivery
    PerClientResponse the response has a server cookie       makes it for the client's address, and sends it
    StreamedResponse  another process makes the response     calls `start`, and sends messages as they arrive

The last three are empty, and therefore false, subclasses of `bytes`. A batch of
64 responses is checked for exceptions by one call into C, `all(responses)`. An `isinstance` check of every
response takes twelve times as long (measured), and nearly all responses are plain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, Self, TypeAlias

_new_bytes = bytes.__new__

Render: TypeAlias = Callable[[], bytes]
"""Makes a deferred response without its id; empty bytes mean that there is none."""

Finish: TypeAlias = Callable[[bytes, bytes, bytes], bytes]
"""Makes the response for a client from a response, a cookie, and an address of 4 or 16 bytes."""


class Deliver(Protocol):
    """Takes a deferred response when it is available, once."""

    def __call__(self, render: Render, size: int = 0, /) -> None:
        """Send the response, at once or when the client's connection can take it.

        Args:
            render: makes the response. The transport calls it at most once, when it can send the response.
            size: bytes that `render` keeps in memory until then.
        """


class DeferredResponse(bytes):
    """A response that is sent later, when an upstream has answered or the names of a service are ready.

    Attributes:
        start: starts to resolve the query of a client, given by its address in 4 or 16 bytes. The transport
            calls it once, after it has sent the responses of the same batch that are available. It must not
            block, and must be as quick as computing a response.
    """

    start: Callable[[Deliver, bytes], None]

    def __new__(cls, start: Callable[[Deliver, bytes], None]) -> Self:
        """Create an empty `bytes` object with this attribute."""
        made = super().__new__(cls)
        made.start = start
        return made


def deferred(start: Callable[[Deliver, bytes], None]) -> DeferredResponse:
    """Make a deferred response in half the time of its constructor."""
    made = _new_bytes(DeferredResponse)
    made.start = start
    return made


class MessageSink(Protocol):
    """Takes the messages of a `StreamedResponse`, each after its length in two bytes, in any pieces."""

    @property
    def is_tls(self) -> bool:
        """Whether the client uses DNS over TLS as RFC 9103 requires it for zone transfers."""

    def write(self, data: bytes, /) -> bool:
        """Take messages, or parts of them. Returns whether it takes more now; otherwise it calls `resume`."""

    def end(self, *, is_whole: bool) -> None:
        """All messages have been written, or (`is_whole` is False) the rest will not come."""


class MessageStream(Protocol):
    """The source of the messages of a `StreamedResponse`."""

    def resume(self) -> None:
        """Write more messages; the sink can take them."""

    def cancel(self) -> None:
        """Write nothing more; the client has gone."""


class StreamedResponse(bytes):
    """One or several messages that another process makes from the whole query, such as a zone transfer.

    Attributes:
        start: starts to make them for a query with this id, from a client with this address in 4 or 16 bytes.
            It calls the sink later, never before it has returned.
    """

    start: Callable[[bytes, bytes, MessageSink], MessageStream]

    def __new__(cls, start: Callable[[bytes, bytes, MessageSink], MessageStream]) -> Self:
        """Create an empty `bytes` object with this attribute."""
        made = super().__new__(cls)
        made.start = start
        return made


class PerClientResponse(bytes):
    """A response that depends on the client's address, such as one with a server cookie.

    Attributes:
        parts: the function `finish`, the response and the cookie, as for `for_client`.
    """

    parts: tuple[Finish, bytes, bytes]

    def for_address(self, address: bytes) -> bytes:
        """The response for an address of 4 or 16 bytes. `UdpServer` does the same, to save the call."""
        finish, response, cookie = self.parts
        return finish(response, cookie, address)


def for_client(finish: Finish, response: bytes, cookie: bytes) -> bytes:
    """The form of a response that depends on the client's address.

    Args:
        finish: makes the response for a client.
        response: a response, ready to send or deferred. Others are returned unchanged.
        cookie: the client's cookie.
    """
    if response:
        made = _new_bytes(PerClientResponse)  # half the time of its constructor
        made.parts = finish, response, cookie
        return made
    if isinstance(response, DeferredResponse):
        return _changed_when_rendered(response, lambda rendered: for_client(finish, rendered, cookie))
    return response


def with_change(response: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A response whose bytes are changed when it is sent. A streamed one is returned unchanged."""
    if response:
        return change(response)
    if isinstance(response, PerClientResponse):
        finish, unfinished, cookie = response.parts
        return for_client(lambda *parts: change(finish(*parts)), unfinished, cookie)
    if isinstance(response, DeferredResponse):
        return _changed_when_rendered(response, lambda rendered: with_change(rendered, change))
    return response


def _changed_when_rendered(response: DeferredResponse, change: Callable[[bytes], bytes]) -> DeferredResponse:
    """A deferred response that is changed after it is rendered."""
    start = response.start

    def start_with_change(deliver: Deliver, address: bytes) -> None:
        def deliver_with_change(render: Render, size: int = 0, /) -> None:
            deliver(lambda: change(render()), size)

        start(deliver_with_change, address)

    return DeferredResponse(start_with_change)


class ResponseLookup(Protocol):
    """Responses by query. Never raises, for any bytes of any length."""

    def __getitem__(self, query: bytes, /) -> Iterator[bytes]:
        """Endless responses to a query without its id, each in the order of the rotation.

        A `DeferredResponse` may later deliver a `PerClientResponse`.
        """


class CachedResponseLookup(ResponseLookup, Protocol):
    """Responses by query, of which some are cached."""

    def get(self, query: bytes, /) -> Iterator[bytes] | None:
        """The cached responses to a query, or None. Computes nothing and changes nothing."""


class QueryCounter(Protocol):
    """Receives all queries of a batch or a burst, for the most frequent names and clients."""

    def add(self, queries: Sequence[bytes], addresses: Iterable[bytes], /) -> None:
        """Queries have arrived.

        Args:
            queries: each without its id; bytes may follow its end.
            addresses: the client of each, in 4 or 16 bytes.
        """


class ResponseObserver(Protocol):
    """Receives each response that is sent, for the query log. With it, responses are made one by one."""

    def take_source(self) -> str:
        """The source of the last response; the transport must call this after every response."""

    def is_sampled(self) -> bool:
        """Decide whether the transport calls `on_response` for this response."""

    def on_response(self, transport: str, host: str, message: bytes, source: str, seconds: float, /) -> None:
        """A response was sent.

        Args:
            transport: `udp`, `tcp` or `tls`.
            host: the client's address.
            message: the response, with any id.
            source: the value that `take_source` returned.
            seconds: the time since the query arrived.
        """
