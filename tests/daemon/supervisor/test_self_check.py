"""Self-checks: a server passes with any response to the check's query."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.support.web import closed_udp_port
from zkdns.address import HostPort
from zkdns.daemon.supervisor.self_check import answers_query
from zkdns.names import parse_name

ZONE = parse_name("discovery")
BRIEF = 0.2
LONG = 10.0


@contextlib.contextmanager
def answering(respond: Callable[[bytes, int], bytes | None], host: str = "127.0.0.1") -> Iterator[HostPort]:
    """A server that responds with a function of each query's bytes and number."""
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


def passes(address: HostPort, seconds: float) -> bool:
    return asyncio.run(answers_query(address, ZONE, seconds))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_any_response_passes(host: str) -> None:
    with answering(servfail, host) as address:
        assert passes(address, LONG)


def test_it_queries_the_soa_of_the_zone_once() -> None:
    queries = []

    def respond(query: bytes, _number: int) -> bytes:
        queries.append(query)
        return servfail(query)

    with answering(respond) as address:
        assert passes(address, LONG)
    (query,) = queries
    assert query[2:] == b"\0\0\0\1\0\0\0\0\0\0\x09discovery\0\0\6\0\1"


@pytest.mark.parametrize(
    "respond",
    [
        lambda _query, _number: None,
        lambda query, _number: query,
        lambda query, _number: bytes((query[0], query[1] ^ 1)) + servfail(query)[2:],
        lambda query, _number: query[:2],
        lambda query, _number: servfail(query).replace(b"discovery", b"elsewhere"),
    ],
    ids=["silence", "an echo", "another id", "an id alone", "another question"],
)
def test_other_messages_do_not_pass(respond: Callable[[bytes, int], bytes | None]) -> None:
    with answering(respond) as address:
        assert not passes(address, BRIEF)


def test_a_lost_datagram_is_sent_again() -> None:
    with answering(lambda query, number: servfail(query) if number else None) as address:
        assert passes(address, LONG)


def test_a_closed_port_fails_at_once() -> None:
    with closed_udp_port() as port:
        assert not passes(HostPort("127.0.0.1", port), LONG)
    assert not passes(HostPort("fe80::1%nowhere", 53), LONG)
