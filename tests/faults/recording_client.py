"""A client that sends 200 queries per second over UDP and a few over TCP, and records the responses."""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import struct
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple, Self

import dns.message

from tests.faults.checker import Answer

RATE = 200.0
"""UDP queries per second."""
_TCP_RATE = 10.0
DOMAIN = "staging.discovery"
_SOCKETS = 16
_TIMEOUT = 5.0  # seconds without a response, after which the response counts as lost
_TICK = 0.005


class _Query(NamedTuple):
    service: str
    qtype: str
    has_edns: bool
    body: bytes
    """The message after the ID."""


class RecordingClient:
    """Queries services for A and SRV records in turn, with and without EDNS.

    It sends queries while the context is open, or until `stop`.

    Args:
        address: the address of the server.
        services: the labels of services in `domain`, such as `web`.
        tcp_rate: TCP connections per second.
        domain: the domain of the services.
    """

    def __init__(
        self,
        address: tuple[str, int],
        services: Sequence[str],
        *,
        tcp_rate: float = _TCP_RATE,
        domain: str = DOMAIN,
    ) -> None:
        self.answers: list[Answer] = []
        self.started_at = 0.0
        self.ended = 0.0
        self._address = address
        self._queries = [
            _query(f"{service}.{domain}", qtype, has_edns, service)
            for service in services
            for qtype in ("A", "SRV")
            for has_edns in (False, True)
        ]
        self._tcp_pause = 1 / tcp_rate
        self._stopped = threading.Event()
        self._sockets = [_connected(socket.SOCK_DGRAM, address) for _ in range(_SOCKETS)]
        self._pending: dict[tuple[int, int], tuple[_Query, float]] = {}
        self._threads = [
            threading.Thread(target=work, name="client", daemon=True)
            for work in (self._query_over_udp, self._query_over_tcp)
        ]

    def __enter__(self) -> Self:
        self.started_at = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> list[Answer]:
        """Stop, and return all answers, including queries without a response."""
        if not self._stopped.is_set():
            self.ended = time.monotonic()
            self._stopped.set()
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()
        return self.answers

    def probe_sockets(self) -> set[str]:
        """Send one query from each socket; return the sockets with a response in 0.5 s, as in `Answer.via`.

        If one of two workers is stopped, these are the sockets that the kernel assigns to the other worker.
        Call this before the context is entered.
        """
        body = self._queries[0].body
        for number, sock in enumerate(self._sockets):
            sock.send(struct.pack("!H", number) + body)
        deadline, answered = time.monotonic() + 0.5, set()
        while time.monotonic() < deadline:
            for number, sock in enumerate(self._sockets):
                with contextlib.suppress(OSError):
                    sock.recv(65_535)
                    answered.add(f"udp {number}")
            time.sleep(_TICK)
        return answered

    def drain(self) -> None:
        """Discard late responses to `probe_sockets`."""
        for sock in self._sockets:
            sock.setblocking(True)
            sock.settimeout(0.2)
            with contextlib.suppress(OSError):
                sock.recv(65_535)
            sock.setblocking(False)

    # -- UDP -----------------------------------------------------------------------------------------------

    def _query_over_udp(self) -> None:
        numbered = zip(itertools.cycle(self._queries), itertools.count(), strict=False)
        with selectors.DefaultSelector() as selector:
            for number, sock in enumerate(self._sockets):
                selector.register(sock, selectors.EVENT_READ, number)
            count = 0
            while not self._stopped.is_set():
                # After a delay on a busy machine, more queries are sent at once to keep the rate.
                due = min(int((time.monotonic() - self.started_at) * RATE) - count, 20)
                for query, number in itertools.islice(numbered, max(due, 0)):
                    self._send(query, number)
                    count += 1
                self._receive(selector)
            deadline = time.monotonic() + _TIMEOUT
            while self._pending and time.monotonic() < deadline:
                self._receive(selector)
        for (number, _), (query, sent) in self._pending.items():
            self._record(query, sent, None, b"", f"udp {number}")

    def _send(self, query: _Query, count: int) -> None:
        # Each query is sent from each socket in turn.
        number = (count + count // len(self._queries)) % _SOCKETS
        message_id = count & 0xFFFF
        sent = time.monotonic()
        self._pending[number, message_id] = query, sent
        with contextlib.suppress(OSError):  # the query is recorded as unanswered
            self._sockets[number].send(struct.pack("!H", message_id) + query.body)

    def _receive(self, selector: selectors.BaseSelector) -> None:
        for key, _ in selector.select(_TICK):
            with contextlib.suppress(OSError):
                while True:
                    wire = self._sockets[key.data].recv(65_535)
                    received = time.monotonic()
                    found = self._pending.pop((key.data, struct.unpack_from("!H", wire)[0]), None)
                    if found is not None:
                        self._record(*found, received, wire, f"udp {key.data}")

    # -- TCP -----------------------------------------------------------------------------------------------

    def _query_over_tcp(self) -> None:
        for query in itertools.cycle(self._queries):
            if self._stopped.wait(self._tcp_pause):
                return
            sent = time.monotonic()
            try:
                wire = self._exchange(query)
            except OSError:
                self._record(query, sent, None, b"", "tcp")
            else:
                self._record(query, sent, time.monotonic(), wire, "tcp")

    def _exchange(self, query: _Query) -> bytes:
        with _connected(socket.SOCK_STREAM, self._address) as sock:
            message = b"\0\1" + query.body
            sock.sendall(struct.pack("!H", len(message)) + message)
            with sock.makefile("rb") as stream:
                prefix = stream.read(2)
                if len(prefix) < 2:
                    raise ConnectionResetError
                return stream.read(*struct.unpack("!H", prefix))

    def _record(self, query: _Query, sent: float, received: float | None, wire: bytes, via: str) -> None:
        self.answers.append(
            Answer(query.service, query.qtype, sent, received, wire, has_edns=query.has_edns, via=via)
        )


def _query(name: str, qtype: str, has_edns: bool, service: str) -> _Query:
    message = dns.message.make_query(name, qtype, use_edns=0 if has_edns else -1, payload=1232)
    return _Query(service, qtype, has_edns, message.to_wire()[2:])


def _connected(kind: socket.SocketKind, address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.settimeout(_TIMEOUT)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(kind == socket.SOCK_STREAM)
    if kind == socket.SOCK_STREAM:
        sock.settimeout(_TIMEOUT)
    return sock
