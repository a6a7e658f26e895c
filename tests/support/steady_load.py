"""Askers that go on whatever happens to the server: over UDP at a steady rate, over TCP one after another."""

import selectors
import socket
import threading
import time
from contextlib import ExitStack
from typing import Any, Self

import dns.message

PATIENCE = 5.0
"""Seconds that an answer may take before it counts as lost."""
_SOCKETS = 60  # with ports of their own, by which the kernel chooses among workers


class SteadyLoad:
    """Asks one question again and again, as a context manager; what came of it is there afterwards.

    Attributes:
        responses: whole messages, with how long each took.
        sent: queries so far.
        failures: what went wrong with connections.
        lost: queries over UDP without an answer; there when it has ended.
    """

    def __init__(self, address: tuple[str, int], name: str, rate: int = 500) -> None:
        self.responses: list[tuple[bytes, float]] = []
        self.sent = self.lost = self.connections = 0
        self.failures: list[str] = []
        self._address, self._rate = address, rate
        self._query = dns.message.make_query(name, "A").to_wire()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._ask, self._connect)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def messages(self) -> list[dns.message.Message]:
        """What was answered."""
        return [dns.message.from_wire(response) for response, _ in self.responses]

    @property
    def slowest(self) -> float:
        """Seconds of the slowest answer."""
        return max(seconds for _, seconds in self.responses)

    def _ask(self) -> None:
        due: dict[tuple[int, bytes], float] = {}
        with ExitStack() as stack, selectors.DefaultSelector() as selector:
            socks = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(_SOCKETS)]
            for number, sock in enumerate(socks):
                sock.setblocking(False)
                sock.connect(self._address)
                selector.register(sock, selectors.EVENT_READ, number)
            begun = time.monotonic()
            while not self._ended.is_set():
                number = self.sent % _SOCKETS
                ident = (self.sent % 65536).to_bytes(2)
                due[number, ident] = time.monotonic()
                socks[number].send(ident + self._query[2:])
                self.sent += 1
                self._hear(selector, due, until=begun + self.sent / self._rate)
            end = time.monotonic() + PATIENCE
            while due and time.monotonic() < end:
                self._hear(selector, due, until=min(end, time.monotonic() + 0.1))
        self.lost = len(due)

    def _hear(self, selector: Any, due: dict[tuple[int, bytes], float], until: float) -> None:
        while True:
            for key, _ in selector.select(max(0.0, until - time.monotonic())):
                response = key.fileobj.recv(4096)
                now = time.monotonic()
                self.responses.append((response, now - due.pop((key.data, response[:2]))))
            if time.monotonic() >= until:
                return

    def _connect(self) -> None:
        framed = len(self._query).to_bytes(2) + self._query
        while not self._ended.is_set():
            begun = time.monotonic()
            try:
                with socket.create_connection(self._address, PATIENCE) as sock:
                    sock.sendall(framed)
                    response = _read_message(sock)
            except OSError as error:
                self.failures.append(repr(error))
                continue
            self.responses.append((response, time.monotonic() - begun))
            self.connections += 1
            self._ended.wait(0.005)  # the ports of closed connections are not to run out


def _read_message(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as stream:
        length = int.from_bytes(stream.read(2))
        message = stream.read(length) if length else b""
    if not length or len(message) < length:
        raise ConnectionError("closed before it was answered")
    return message
