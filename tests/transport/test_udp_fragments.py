"""UDP over IPv4: a response is not fragmented, unless it exceeds the interface's MTU."""

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.support.network import ip
from tests.support.waiting import eventually
from tests.transport.helpers import datagram
from tests.transport.udp_client import SECONDS, Serve, ask
from zkdns.transport.batch import MAX_RESPONSE
from zkdns.transport.contract import DeferredResponse, Deliver

_DO_NOT_FRAGMENT = 0x40
_LONG = b"x" * 1000


def long(message: bytes, *, stream: bool) -> bytes:
    """A long response to anything."""
    assert not stream
    return message[:2] + _LONG


class Waiting(dict[bytes, Iterator[bytes]]):
    """Delivers its responses on request."""

    def __init__(self) -> None:
        super().__init__()
        self.deliver: list[Deliver] = []

    def __missing__(self, key: bytes) -> Iterator[bytes]:
        return iter((DeferredResponse(lambda deliver, _: self.deliver.append(deliver)),))


def sniffed(act: Callable[[], object], port: int) -> list[int]:
    """The flags of the IPv4 headers of datagrams from this port."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as sniffer:
        sniffer.settimeout(SECONDS)
        act()
        flags: list[int] = []
        while not flags:
            packet = sniffer.recv(2000)
            if packet[20:22] == port.to_bytes(2):
                flags.append(packet[6])
        return flags


@pytest.mark.usefixtures("own_network")
def test_responses_must_not_be_fragmented_by_routers(serve: Serve) -> None:
    with serve(long) as server:
        for _ in range(2):
            assert sniffed(lambda: ask(*server.at, b"id"), server.address.port) == [_DO_NOT_FRAGMENT]
            ip("link set lo mtu 600")
            ask(*server.at, b"id")  # and the next one must not be fragmented either
            ip("link set lo mtu 65536")


@pytest.mark.usefixtures("own_network")
def test_responses_larger_than_the_mtu_arrive(serve: Serve) -> None:
    ip("link set lo mtu 600")
    with serve(long) as server:
        for _ in range(3):
            assert ask(*server.at, b"id")[0][-len(_LONG) :] == _LONG
        assert server.udp.lost == 0


@pytest.mark.usefixtures("own_network")
def test_deferred_responses_larger_than_the_mtu_arrive(serve: Serve) -> None:
    ip("link set lo mtu 600")
    answers = Waiting()
    with serve(long, datagrams=answers) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(SECONDS)
        client.sendto(b"id", server.at)
        eventually(lambda: answers.deliver)
        server.call(lambda: answers.deliver[0](lambda: datagram(_LONG)))
        assert client.recv(MAX_RESPONSE).endswith(_LONG)
        assert server.udp.lost == 0
