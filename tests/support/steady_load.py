"""A steady load of queries: over UDP at a fixed rate, over TCP one after another."""

import selectors
import socket
import threading
import time
from contextlib import ExitStack
from typing import Any, Self

import dns.message

from tests.support.waiting import PATIENCE, TooLateError

TIMEOUT = PATIENCE
"""Seconds after which a response counts as lost."""
_SOCKETS = 60  # the kernel selects the worker by the source port
_MAX_PENDING = 200  # on a busy machine, more could fill the buffer of a worker that does not run


class SteadyLoad:
    """Sends one query repeatedly while the context is open. Read the results afterwards.

    Attributes:
        responses: the responses, with their latencies in seconds.
        sent: the number of UDP queries.
        connections: the number of TCP connections.
        failures: errors of TCP connections.
        lost: the number of UDP queries without a response; set at the end.
    """

    def __init__(self, address: tuple[str, int], name: str, rate: int = 500) -> None:
        self.responses: list[tuple[bytes, float]] = []
        self.sent = self.lost = self.connections = 0
        self.failures: list[str] = []
        self._address, self._rate = address, rate
        self._query = dns.message.make_query(name, "A").to_wire()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._send_over_udp, self._send_over_tcp)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def received(self) -> int:
        """The number of responses over UDP so far."""
        return len(self.responses) - self.connections

    def check_latency(self, seconds: float) -> None:
        """Check that each response took less than this time. The test needs `repeated_if_late`."""
        slowest = max(latency for _, latency in self.responses)
        if slowest >= seconds:
            raise TooLateError(f"the slowest response took {slowest:.2f} s")

    def _send_over_udp(self) -> None:
        pending: dict[tuple[int, bytes], float] = {}
        with ExitStack() as stack, selectors.DefaultSelector() as selector:
            socks = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(_SOCKETS)]
            for number, sock in enumerate(socks):
                sock.setblocking(False)
                sock.connect(self._address)
                selector.register(sock, selectors.EVENT_READ, number)
            due = time.monotonic()
            while not self._ended.is_set():
                if len(pending) < _MAX_PENDING:
                    number = self.sent % _SOCKETS
                    ident = (self.sent % 65536).to_bytes(2)
                    pending[number, ident] = time.monotonic()
                    socks[number].send(ident + self._query[2:])
                    self.sent += 1
                due += 1 / self._rate
                self._receive(selector, pending, until=due)
            end = time.monotonic() + TIMEOUT
            while pending and time.monotonic() < end:
                self._receive(selector, pending, until=min(end, time.monotonic() + 0.1))
        self.lost = len(pending)

    def _receive(self, selector: Any, pending: dict[tuple[int, bytes], float], until: float) -> None:
        while True:
            for key, _ in selector.select(max(0.0, until - time.monotonic())):
                response = key.fileobj.recv(4096)
                now = time.monotonic()
                self.responses.append((response, now - pending.pop((key.data, response[:2]))))
            if time.monotonic() >= until:
                return

    def _send_over_tcp(self) -> None:
        framed = len(self._query).to_bytes(2) + self._query
        while not self._ended.is_set():
            started = time.monotonic()
            try:
                with socket.create_connection(self._address, TIMEOUT) as sock:
                    sock.sendall(framed)
                    response = _read_message(sock)
            except OSError as error:
                self.failures.append(repr(error))
                continue
            self.responses.append((response, time.monotonic() - started))
            self.connections += 1
            self._ended.wait(0.005)  # otherwise the ephemeral ports would run out


def _read_message(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as stream:
        length = int.from_bytes(stream.read(2))
        message = stream.read(length) if length else b""
    if not length or len(message) < length:
        raise ConnectionError("closed before the response")
    return message
