"""Limits on the work done at once for upstreams, and variants of the UDP client."""

from __future__ import annotations

import asyncio
import math
import select
import socket
import sys
import time
from collections.abc import Callable

import pytest

from tests.forward.resolution_helpers import question, resolving, run, running_resolver, until
from tests.support.upstream import (
    TCP,
    UpstreamServer,
    correct_answer,
    is_silent,
)
from tests.support.waiting import eventually
from zkdns.address import UpstreamAddress
from zkdns.forward.message import build_query
from zkdns.forward.reply import Reply
from zkdns.forward.tcp_client import TcpClient, TcpTimes
from zkdns.forward.udp_client import SelectorPoll, UdpClient

COUNT = 200  # datagrams; fits into the receive buffer of a socket


def test_udp_replies_are_passed_on_in_several_steps() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with running_resolver(upstream.address) as resolver:
                waiting = [resolving(resolver, f"n{number}.example") for number in range(COUNT)]
                eventually(lambda: len(upstream.queries) == COUNT)  # blocks this event loop
                assert await max_growth_per_round(lambda: resolver.answered) < COUNT // 2
                assert all(isinstance(outcome, Reply) for outcome in await asyncio.gather(*waiting))

    run(scenario)


def test_failures_over_the_limit_are_reported_in_several_steps() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as upstream:
            async with running_resolver(upstream.address, max_in_flight=1) as resolver:
                waiting = [resolving(resolver, "www.example") for _ in range(10 * COUNT)]
                await asyncio.sleep(0)
                assert 0 < sum(outcome.done() for outcome in waiting) < 9 * COUNT
                await asyncio.gather(*waiting[1:])
                assert not waiting[0].done()
                resolver.stop()
                await waiting[0]

    run(scenario)


async def max_growth_per_round(count: Callable[[], int]) -> int:
    """Return by how much a number grows at most in one round of the event loop, until it is `COUNT`."""
    most = before = 0
    while before < COUNT:
        await asyncio.sleep(0)
        after = count()
        most, before = max(most, after - before), after
    return most


def test_tcp_responses_are_passed_on_in_several_steps() -> None:
    """Each message may take some time; other work is done between them."""
    received: list[bytes | OSError] = []

    def receive_slowly(_owner: None, message: bytes | OSError, _sent_at: float) -> None:
        time.sleep(0.0001)
        received.append(message)

    async def scenario() -> None:
        with UpstreamServer(is_silent) as upstream:
            times = TcpTimes(stalled=math.inf)  # one connection, even on a slow machine
            client = TcpClient[None](receive_slowly, times=times)
            for number in range(COUNT):
                query = build_query(question(f"n{number}.example"), 0)
                client.send(upstream.address, query, None)
            await until(lambda: len(upstream.queries_over(TCP)) == COUNT)
            assert upstream.connections == 1
            responses = [correct_answer(query) for query in upstream.queries_over(TCP)]
            upstream.send_to_connections(responses)
            assert await max_growth_per_round(lambda: len(received)) < COUNT // 10
            assert sorted(response[:2] for response in responses) == sorted(
                message[:2] for message in received if isinstance(message, bytes)
            )
            client.close()

    run(scenario)


@pytest.mark.parametrize("make_poll", [SelectorPoll, None], ids=["selector", "default"])
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_udp_client(family: socket.AddressFamily, host: str, make_poll: type[SelectorPoll] | None) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as upstream:
        upstream.bind((host, 0))
        upstream.settimeout(10.0)
        client = UdpClient[str](10, make_poll() if make_poll is not None else None)
        address = UpstreamAddress(host, upstream.getsockname()[1])
        try:
            sent = [
                client.send(address, f"query {number}".encode(), f"owner {number}") for number in range(10)
            ]
            assert len(client) == 10
            for _ in sent:
                message, source = upstream.recvfrom(512)
                upstream.sendto(message.replace(b"query", b"reply"), source)
            received: dict[str, bytes | OSError] = {}
            eventually(lambda: not client.receive(received.__setitem__) and len(received) == 10)
            assert received == {f"owner {number}": f"reply {number}".encode() for number in range(10)}
            for file in sent:
                client.release(file)
            assert len(client) == 0
        finally:
            client.close()


def test_dns_31_a_socket_that_is_used_again_has_another_port() -> None:
    """Messages to its earlier ports do not reach it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream:
        upstream.bind(("127.0.0.1", 0))
        upstream.settimeout(10.0)
        client = UdpClient[int](10)
        address = UpstreamAddress("127.0.0.1", upstream.getsockname()[1])
        received: list[tuple[int, bytes | OSError]] = []

        def receive(owner: int, message: bytes | OSError) -> None:
            received.append((owner, message))

        files: list[int] = []
        ports: list[tuple[str, int]] = []
        try:
            for number in range(50):
                files.append(client.send(address, b"query", number))
                _, source = upstream.recvfrom(512)
                for port in {*ports} - {source}:  # late duplicates; by chance, it may have an earlier port
                    upstream.sendto(b"late", port)
                ports.append(source)
                upstream.sendto(b"reply", source)
                eventually(lambda: client.receive(receive) or len(received) == len(ports))
                client.release(files[-1], is_answered=True)
            assert received == [(number, b"reply") for number in range(50)]
            if sys.platform == "linux":
                assert len(set(files)) == 1
            assert len(set(ports)) > 45
        finally:
            client.close()


def test_second_copies_of_replies_are_dropped() -> None:
    """Otherwise the socket would stay readable, and the event loop busy with it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream:
        upstream.bind(("127.0.0.1", 0))
        upstream.settimeout(10.0)
        client = UdpClient[str](10)
        received: list[bytes | OSError] = []

        def is_readable() -> bool:
            return bool(select.select([client.fileno()], [], [], 0.0)[0])

        def receive(_owner: str, message: bytes | OSError) -> None:
            received.append(message)
            client.release(file, is_answered=True)

        try:
            file = client.send(UpstreamAddress("127.0.0.1", upstream.getsockname()[1]), b"query", "owner")
            _, source = upstream.recvfrom(512)
            for _ in range(3):
                upstream.sendto(b"reply", source)
            eventually(lambda: not client.receive(receive) and received and not is_readable())
            assert received == [b"reply"]
        finally:
            client.close()


class CountingPoll(SelectorPoll):
    """Counts the sockets that were made."""

    def __init__(self) -> None:
        super().__init__()
        self.registered = 0

    def register(self, fd: int, eventmask: int) -> None:
        self.registered += 1
        super().register(fd, eventmask)


def test_dns_31_a_socket_without_a_reply_is_used_again_unless_it_has_a_message() -> None:
    """Late messages reach no later query."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream:
        upstream.bind(("127.0.0.1", 0))
        upstream.settimeout(10.0)
        poll = CountingPoll()
        client = UdpClient[str](10, poll)
        address = UpstreamAddress("127.0.0.1", upstream.getsockname()[1])
        received: dict[str, bytes | OSError] = {}

        def send_and_release(*, is_early: bool) -> int:
            """Send a query, release its port after or before a message arrives, and count the sockets."""
            file = client.send(address, b"query", "silent")
            _, source = upstream.recvfrom(512)
            if is_early:
                upstream.sendto(b"late", source)
                eventually(lambda: poll.poll(0, 1))
            client.release(file)
            upstream.sendto(b"late", source)
            return poll.registered

        try:
            made = [send_and_release(is_early=number == 2) for number in range(6)]
            if sys.platform == "linux":
                assert made == [1, 1, 1, 2, 2, 2]
            client.send(address, b"query", "answered")
            _, source = upstream.recvfrom(512)
            upstream.sendto(b"reply", source)
            eventually(lambda: client.receive(received.__setitem__) or received)
            assert received == {"answered": b"reply"}
        finally:
            client.close()


def test_missing_network_interface_is_reported_like_an_unreachable_upstream() -> None:
    async def scenario() -> None:
        async with running_resolver(UpstreamAddress("fe80::1%gone", 53)) as resolver:
            outcome = await resolving(resolver, question("www.example"))
            assert not isinstance(outcome, Reply)
            assert "[fe80::1%gone]:53 cannot be reached (No such device)" in outcome.text

    run(scenario)
