"""TCP clients that send many queries and do not read: what their connections keep in memory is limited."""

import contextlib
import itertools
import socket
from collections.abc import Iterator

import pytest

from tests.support.waiting import eventually
from tests.transport.helpers import Running, echo, serving
from tests.transport.tcp_client import SECONDS, TcpClient, framed
from zkdns.transport.contract import DeferredResponse, Deliver
from zkdns.transport.held_bytes import HeldBytes
from zkdns.transport.tcp import HeldConnections

LONG_ANSWER = 60_000
MAX_AWAITED = 20


class WaitingLookup(dict[bytes, Iterator[bytes]]):
    """Defers all responses until `deliver`, and counts those that were rendered."""

    def __init__(self, size: int = LONG_ANSWER) -> None:
        self.waiting: list[tuple[bytes, Deliver]] = []
        self.received = self.rendered = 0
        self._size = size

    def __missing__(self, key: bytes) -> Iterator[bytes]:
        def begin(deliver: Deliver, _client: bytes) -> None:
            self.received += 1
            self.waiting.append((key, deliver))

        return itertools.repeat(DeferredResponse(begin))

    def deliver(self, server: Running) -> int:
        """Deliver the responses to all waiting queries, and return their number."""

        def deliver() -> int:
            waiting, self.waiting = self.waiting, []
            for key, take in waiting:
                take(lambda key=key: self._render(key), self._size)  # type: ignore[misc]  # a default argument
            return len(waiting)

        return server.call(deliver)

    def _render(self, key: bytes) -> bytes:
        self.rendered += 1
        return key[: self._size].ljust(self._size, b".")


def settled(server: Running, lookup: WaitingLookup) -> int:
    """The number of received queries, after all that have arrived were served."""
    before = -1
    while before != lookup.received:
        before = lookup.received
        for _ in range(20):
            server.call(lambda: None)
    return before


def queries(count: int, length: int = 4) -> list[bytes]:
    return [b"id" + b"%0*d" % (length, number) for number in range(count)]


@pytest.mark.parametrize("is_half_closed", [False, True])
def test_a_connection_is_not_read_while_it_awaits_many_responses(*, is_half_closed: bool) -> None:
    lookup, sent = WaitingLookup(30), queries(500)
    with serving(echo, streams=lookup, max_awaited=MAX_AWAITED) as server, TcpClient(server) as client:
        client.send(*sent)
        if is_half_closed:
            client.socket.shutdown(socket.SHUT_WR)
        received: list[bytes | None] = []
        while len(received) < len(sent):
            eventually(lambda: lookup.waiting)
            assert settled(server, lookup) - len(received) <= MAX_AWAITED
            received += [client.answer() for _ in range(lookup.deliver(server))]
        assert received == [query.ljust(32, b".") for query in sent]
        if is_half_closed:
            assert client.answer() is None


def test_long_queries_count_by_their_length() -> None:
    lookup = WaitingLookup(30)
    with serving(echo, streams=lookup, max_awaited=1000) as server, TcpClient(server) as client:
        client.send(*queries(100, 15_000))
        eventually(lambda: lookup.waiting)
        assert settled(server, lookup) <= 20
        while lookup.received < 100:
            lookup.deliver(server)
            eventually(lambda: lookup.waiting or lookup.received == 100)


def test_deferred_responses_are_rendered_when_the_client_reads() -> None:
    lookup, sent = WaitingLookup(), queries(100)
    with serving(echo, streams=lookup) as server, TcpClient(server, receive_buffer=4096) as client:
        client.send(*sent)
        eventually(lambda: lookup.received == len(sent))
        lookup.deliver(server)
        settled(server, lookup)
        assert lookup.rendered <= 20
        for query in sent:
            assert client.answer() == b"id" + query[2:].ljust(LONG_ANSWER, b".")
        assert lookup.rendered == len(sent)
        assert server.call(lambda: server.tcp.held.total) == 0


def test_a_client_over_its_bound_loses_the_connection_that_holds_the_most() -> None:
    lookup = WaitingLookup()
    held: HeldConnections = HeldBytes(max_per_client=1 << 20, max_total=1 << 30)
    with (
        serving(echo, streams=lookup, held=held) as server,
        TcpClient(server, source="127.0.0.2", receive_buffer=4096) as other,
        TcpClient(server, receive_buffer=4096) as small,
        TcpClient(server, receive_buffer=4096) as large,
    ):
        for client, count in ((other, 10), (small, 4), (large, 30)):
            client.send(*queries(count))
            eventually(lambda: settled(server, lookup) and lookup.waiting)
            lookup.deliver(server)
        with pytest.raises(ConnectionResetError):
            large.read(30 * LONG_ANSWER)
        assert server.tcp.dropped == 1
        for client, count in ((other, 10), (small, 4)):
            assert [client.answer() for _ in range(count)] == [
                b"id" + query[2:].ljust(LONG_ANSWER, b".") for query in queries(count)
            ]


def test_all_clients_together_have_a_bound() -> None:
    """Connections that do not read close the greediest client's, and a new client is answered."""
    held: HeldConnections = HeldBytes(max_per_client=1 << 30, max_total=1 << 20)

    def long_answers(message: bytes, *, stream: bool) -> bytes:  # noqa: ARG001 - the protocol's signature
        return message.ljust(LONG_ANSWER, b".")

    with serving(long_answers, held=held) as server, contextlib.ExitStack() as stack:
        for number in range(40):
            source = f"127.0.0.{2 + number % 4}"
            client = stack.enter_context(TcpClient(server, source=source, receive_buffer=4096))
            client.socket.setblocking(False)
            client.socket.send(framed(*[b"question"] * 30))
        eventually(lambda: server.tcp.dropped)
        assert server.call(lambda: server.tcp.held.total) <= 1 << 20
        with TcpClient(server) as polite:
            polite.send(b"question")
            assert polite.answer() == b"question".ljust(LONG_ANSWER, b".")


def test_an_internal_error_while_a_response_is_rendered_closes_its_connection_only() -> None:
    class FailingLookup(WaitingLookup):
        def _render(self, key: bytes) -> bytes:
            raise ZeroDivisionError(key)

    lookup = FailingLookup()
    with serving(echo, streams=lookup) as server, TcpClient(server) as client, TcpClient(server) as other:
        for each in (client, other):
            each.socket.settimeout(SECONDS)
        client.send(*queries(1))
        eventually(lambda: lookup.waiting)
        lookup.deliver(server)
        assert client.answer() is None
        assert other.is_open
