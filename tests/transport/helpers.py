"""Transport servers in an event loop of their own thread, so that tests are plain blocking clients."""

import asyncio
import contextlib
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from zkdns.address import HostPort
from zkdns.transport.access_control import AccessControl
from zkdns.transport.batch import LENGTH
from zkdns.transport.codecs import TcpCodec, UdpCodec
from zkdns.transport.contract import CachedResponseLookup, ResponseLookup
from zkdns.transport.sockets import bind, bound_address
from zkdns.transport.tcp import TcpServer
from zkdns.transport.udp import UdpServer

_T = TypeVar("_T")


class Respond(Protocol):
    """Turns a message with the id 0 into a response; None for no response."""

    def __call__(self, message: bytes, *, stream: bool) -> bytes | None: ...


class Running:
    """A UDP and a TCP server on one port, and their event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, address: HostPort, udp: UdpServer, tcp: TcpServer
    ) -> None:
        self.loop = loop
        self.address = address
        self.udp = udp
        self.tcp = tcp
        self.strays: list[dict[str, Any]] = []

    @property
    def at(self) -> tuple[str, int]:
        return self.address.host, self.address.port

    def call(self, function: Callable[[], _T]) -> _T:
        """Call the function in the loop's thread, and return its result."""
        result: Future[_T] = Future()

        def work() -> None:
            try:
                result.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                result.set_exception(error)

        self.loop.call_soon_threadsafe(work)
        return result.result(10.0)

    @contextlib.contextmanager
    def udp_stopped(self) -> Iterator[None]:
        """Datagrams that are sent within the block wait in the kernel until UDP is served again."""
        self.call(self.udp.stop)
        try:
            yield
        finally:
            self.call(self.udp.start)


@contextlib.contextmanager
def serving(
    respond: Respond,
    address: HostPort | None = None,
    *,
    datagrams: CachedResponseLookup | None = None,
    streams: ResponseLookup | None = None,
    access: AccessControl | None = None,
    batched: bool | None = None,
    **limits: Any,
) -> Iterator[Running]:
    """Serve until the end of the block; check that no exception reached the event loop.

    Args:
        respond: makes the responses.
        address: the address; a free port of 127.0.0.1 by default.
        datagrams: the responses over UDP, if not from `respond`.
        streams: the responses over TCP, if not from `respond`.
        access: which clients are answered.
        batched: whether UDP uses batch calls.
        limits: of `TcpServer`.
    """
    pair = bind(address or HostPort("127.0.0.1", 0), 1)[0]
    udp = UdpServer(
        pair.udp, DatagramAnswers(respond) if datagrams is None else datagrams, access=access, batched=batched
    )
    tcp = TcpServer(pair.tcp, StreamAnswers(respond) if streams is None else streams, access=access, **limits)
    loop = asyncio.new_event_loop()
    running = Running(loop, bound_address(pair), udp, tcp)
    loop.set_exception_handler(lambda _, context: running.strays.append(context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(tcp.start(), loop).result(10.0)
        running.call(udp.start)
        yield running
    finally:
        running.call(udp.stop)
        running.call(tcp.stop)
        asyncio.run_coroutine_threadsafe(_drain(), loop).result(10.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10.0)
        loop.close()
        pair.close()
    assert running.strays == []


async def _drain() -> None:
    """Let closed connections notice that they are closed."""
    for _ in range(3):
        await asyncio.sleep(0)


FILLER = b"ten bytes."
"""Bytes after the id of every response over UDP, in place of the DNS header."""


def datagram(body: bytes) -> bytes:
    """A response after its id and the filler, as UDP sends it; empty stays empty."""
    return UdpCodec.response(FILLER + body, 0) if body else body


class StreamAnswers:
    """A lookup for TCP, from a function of whole messages."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    def __getitem__(self, key: bytes) -> Iterator[bytes]:
        response = self._respond(bytes(2) + TcpCodec.query(key), stream=True) or b""
        return itertools.repeat(TcpCodec.response(response[2:], 0))


class DatagramAnswers(dict[bytes, Iterator[bytes]]):
    """A lookup for UDP, from a function of whole messages."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    def __missing__(self, key: bytes) -> Iterator[bytes]:
        if is_cut_off(key):
            return itertools.repeat(b"")
        response = self._respond(bytes(2) + UdpCodec.query(key), stream=False) or b""
        return itertools.repeat(datagram(response[2:]))


def is_cut_off(key: bytes) -> bool:
    """Whether a query is longer than its slot; after an empty response, it is looked up as a whole."""
    return int.from_bytes(key[-LENGTH:], sys.byteorder) > len(key)


def echo(message: bytes, *, stream: bool) -> bytes:
    """Respond with the message and its transport."""
    return message + (b":tcp" if stream else b":udp")
