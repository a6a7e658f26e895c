"""Transport servers in an event loop of their own thread, so that tests are plain blocking clients."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from zkdns.address import HostPort
from zkdns.transport import Respond
from zkdns.transport.sockets import bind, bound_address
from zkdns.transport.tcp import TcpServer
from zkdns.transport.udp import UdpServer

_T = TypeVar("_T")


class Running:
    """A UDP and a TCP server on one port, and the loop that they run in."""

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
        """Call in the loop's thread, and return what it returns."""
        result: Future[_T] = Future()

        def work() -> None:
            try:
                result.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                result.set_exception(error)

        self.loop.call_soon_threadsafe(work)
        return result.result(10.0)


@contextlib.contextmanager
def serving(respond: Respond, address: HostPort | None = None, **limits: Any) -> Iterator[Running]:
    """Serve until the end; nothing may have escaped into the event loop meanwhile."""
    pair = bind(address or HostPort("127.0.0.1", 0), 1)[0]
    udp, tcp = UdpServer(pair.udp, respond), TcpServer(pair.tcp, respond, **limits)
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
    """Let closed connections tell that they are."""
    for _ in range(3):
        await asyncio.sleep(0)


def echo(message: bytes, *, stream: bool) -> bytes:
    """Answer with what was asked, and how it came."""
    return (b"tcp:" if stream else b"udp:") + message
