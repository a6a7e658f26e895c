"""Asks a server 200 times a second over UDP, a few times over TCP, and keeps every answer with its time."""

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
"""Queries a second over UDP."""
_TCP_RATE = 10.0
_SOCKETS = 16
_PATIENCE = 5.0  # seconds; what has not come then never does
_TICK = 0.002


class _Query(NamedTuple):
    service: str
    qtype: str
    has_edns: bool
    body: bytes
    """All behind the id."""


class Asker:
    """Asks for services, by turns for A and SRV, with EDNS and without.

    As a context manager it asks from the begin to the end of the block, or until `stop`.

    Args:
        address: of the server.
        services: as `web`, in `staging.discovery`.
        tcp_rate: connections a second.
    """

    def __init__(
        self, address: tuple[str, int], services: Sequence[str], *, tcp_rate: float = _TCP_RATE
    ) -> None:
        self.answers: list[Answer] = []
        self.begun = 0.0
        self.ended = 0.0
        self._address = address
        self._queries = [
            _query(service, qtype, has_edns)
            for service in services
            for qtype in ("A", "SRV")
            for has_edns in (False, True)
        ]
        self._tcp_pause = 1 / tcp_rate
        self._is_over = threading.Event()
        self._sockets = [_connected(socket.SOCK_DGRAM, address) for _ in range(_SOCKETS)]
        self._pending: dict[tuple[int, int], tuple[_Query, float]] = {}
        self._threads = [
            threading.Thread(target=work, name="asker", daemon=True)
            for work in (self._ask_over_udp, self._ask_over_tcp)
        ]

    def __enter__(self) -> Self:
        self.begun = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> list[Answer]:
        """Ask no more; all answers, those that never came as well."""
        if not self._is_over.is_set():
            self.ended = time.monotonic()
            self._is_over.set()
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()
        return self.answers

    def sockets_answered(self) -> set[str]:
        """Ask once from each of the sockets; those that are answered within 0.5 s, as `Answer.via` has them.

        Before it asks by itself: so one learns which sockets lead to a worker that has been stopped.
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
        """Take what is answered late to `sockets_answered`."""
        for sock in self._sockets:
            sock.setblocking(True)
            sock.settimeout(0.2)
            with contextlib.suppress(OSError):
                sock.recv(65_535)
            sock.setblocking(False)

    # -- UDP -----------------------------------------------------------------------------------------------

    def _ask_over_udp(self) -> None:
        turns = zip(itertools.cycle(self._queries), itertools.count(), strict=False)
        with selectors.DefaultSelector() as selector:
            for number, sock in enumerate(self._sockets):
                selector.register(sock, selectors.EVENT_READ, number)
            asked = 0
            while not self._is_over.is_set():
                # What a busy machine made us miss is caught up with: the rate is what was promised.
                due = min(int((time.monotonic() - self.begun) * RATE) - asked, 20)
                for query, turn in itertools.islice(turns, max(due, 0)):
                    self._send(query, turn)
                    asked += 1
                self._receive(selector)
            deadline = time.monotonic() + _PATIENCE
            while self._pending and time.monotonic() < deadline:
                self._receive(selector)
        for (number, _), (query, sent) in self._pending.items():
            self._note(query, sent, None, b"", f"udp {number}")

    def _send(self, query: _Query, turn: int) -> None:
        # Each query comes from each socket in its time.
        number = (turn + turn // len(self._queries)) % _SOCKETS
        message_id = turn & 0xFFFF
        sent = time.monotonic()
        self._pending[number, message_id] = query, sent
        with contextlib.suppress(OSError):  # then there is no answer, which is what will be told
            self._sockets[number].send(struct.pack("!H", message_id) + query.body)

    def _receive(self, selector: selectors.BaseSelector) -> None:
        for key, _ in selector.select(_TICK):
            with contextlib.suppress(OSError):
                while True:
                    wire = self._sockets[key.data].recv(65_535)
                    received = time.monotonic()
                    found = self._pending.pop((key.data, struct.unpack_from("!H", wire)[0]), None)
                    if found is not None:
                        self._note(*found, received, wire, f"udp {key.data}")

    # -- TCP -----------------------------------------------------------------------------------------------

    def _ask_over_tcp(self) -> None:
        for query in itertools.cycle(self._queries):
            if self._is_over.wait(self._tcp_pause):
                return
            sent = time.monotonic()
            try:
                wire = self._exchange(query)
            except OSError:
                self._note(query, sent, None, b"", "tcp")
            else:
                self._note(query, sent, time.monotonic(), wire, "tcp")

    def _exchange(self, query: _Query) -> bytes:
        with _connected(socket.SOCK_STREAM, self._address) as sock:
            message = b"\0\1" + query.body
            sock.sendall(struct.pack("!H", len(message)) + message)
            with sock.makefile("rb") as stream:
                prefix = stream.read(2)
                if len(prefix) < 2:
                    raise ConnectionResetError
                return stream.read(*struct.unpack("!H", prefix))

    def _note(self, query: _Query, sent: float, received: float | None, wire: bytes, via: str) -> None:
        self.answers.append(
            Answer(query.service, query.qtype, sent, received, wire, has_edns=query.has_edns, via=via)
        )


def _query(service: str, qtype: str, has_edns: bool) -> _Query:
    message = dns.message.make_query(
        f"{service}.staging.discovery", qtype, use_edns=0 if has_edns else -1, payload=1232
    )
    return _Query(service, qtype, has_edns, message.to_wire()[2:])


def _connected(kind: socket.SocketKind, address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.settimeout(_PATIENCE)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(kind == socket.SOCK_STREAM)
    if kind == socket.SOCK_STREAM:
        sock.settimeout(_PATIENCE)
    return sock
