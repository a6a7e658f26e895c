"""A server asks itself: any response of its own counts, and nothing else does."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.support.web import deaf_port
from zkdns.address import HostPort
from zkdns.daemon.self_asking import asks_itself
from zkdns.names import parse_name

ZONE = parse_name("discovery")
BRIEF = 0.2
LONG = 10.0


@contextlib.contextmanager
def answering(respond: Callable[[bytes, int], bytes | None], host: str = "127.0.0.1") -> Iterator[HostPort]:
    """Who answers each query as told, by its bytes and its number, at an address."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        port = sock.getsockname()[1]

        def work() -> None:
            number = 0
            while (query := sock.recvfrom(2000))[0]:
                if (response := respond(query[0], number)) is not None:
                    sock.sendto(response, query[1])
                number += 1

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield HostPort(host, port)
        finally:
            with socket.socket(sock.family, socket.SOCK_DGRAM) as ender:
                ender.sendto(b"", ("::1" if ":" in host else "127.0.0.1", port))
            thread.join()


def servfail(query: bytes, _number: int = 0) -> bytes:
    return query[:2] + b"\x80\x02" + query[4:]


def asks(address: HostPort, seconds: float) -> bool:
    return asyncio.run(asks_itself(address, ZONE, seconds))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_any_response_is_an_answer(host: str) -> None:
    with answering(servfail, host) as address:
        assert asks(address, LONG)


def test_it_asks_for_the_zones_soa_once() -> None:
    queries = []

    def respond(query: bytes, _number: int) -> bytes:
        queries.append(query)
        return servfail(query)

    with answering(respond) as address:
        assert asks(address, LONG)
    (query,) = queries
    assert query[2:] == b"\0\0\0\1\0\0\0\0\0\0\x09discovery\0\0\6\0\1"


@pytest.mark.parametrize(
    "respond",
    [
        lambda _query, _number: None,
        lambda query, _number: query,
        lambda query, _number: bytes((query[0], query[1] ^ 1)) + servfail(query)[2:],
        lambda query, _number: query[:2],
    ],
    ids=["silence", "an echo", "another id", "an id alone"],
)
def test_what_is_no_response_of_its_own_is_none(respond: Callable[[bytes, int], bytes | None]) -> None:
    with answering(respond) as address:
        assert not asks(address, BRIEF)


def test_a_lost_datagram_is_not_silence() -> None:
    with answering(lambda query, number: servfail(query) if number else None) as address:
        assert asks(address, LONG)


def test_where_nobody_listens_there_is_no_answer_at_once() -> None:
    with deaf_port() as port:
        assert not asks(HostPort("127.0.0.1", port), LONG)
    assert not asks(HostPort("fe80::1%nowhere", 53), LONG)
