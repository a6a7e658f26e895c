"""Limits on the work done at once for upstreams, and variants of the UDP client."""

from __future__ import annotations

import asyncio
import math
import socket

import pytest

from tests.forward.resolution_helpers import answer, question, resolving, run, running_resolver, until
from tests.support.upstream import (
    TCP,
    UDP,
    ReceivedQuery,
    Send,
    UpstreamServer,
    correct_answer,
    is_silent,
    truncates,
)
from tests.support.waiting import eventually
from zkdns.address import UpstreamAddress
from zkdns.forward import tcp_client, udp_client
from zkdns.forward.reply import Reply
from zkdns.forward.resolver import Resolver
from zkdns.forward.udp_client import UdpClient

COUNT = 200  # datagrams; fits into the receive buffer of a socket


def test_receive_stops_after_a_limited_number_of_replies() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with running_resolver(upstream.address) as resolver:
                waiting = [resolving(resolver, f"n{number}.example") for number in range(COUNT)]
                eventually(lambda: len(upstream.queries) == COUNT)  # blocks this event loop
                resolver._receive()
                assert 0 < resolver.answered < COUNT
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


def test_tcp_connection_passes_on_a_limited_number_of_replies_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tcp_client, "STALLED_SECONDS", math.inf)  # one connection, even on a slow machine

    def silent_over_tcp(received: ReceivedQuery) -> list[Send]:
        return list(truncates(received)) if received.transport == UDP else []

    async def scenario() -> None:
        with UpstreamServer(silent_over_tcp) as upstream:
            async with running_resolver(upstream.address) as resolver:
                # No time-outs: a slow machine would repeat some queries and give others up.
                monkeypatch.setattr(resolver, "_set_timer", lambda _: None)
                waiting = [resolving(resolver, f"n{number}.example") for number in range(COUNT)]
                await until(lambda: len(upstream.queries_over(TCP)) == COUNT)
                assert upstream.connections == 1
                upstream.send_to_connections(
                    [correct_answer(received) for received in upstream.queries_over(TCP)]
                )
                assert await max_answers_per_round(resolver) < COUNT // 2
                assert all(isinstance(outcome, Reply) for outcome in await asyncio.gather(*waiting))

    run(scenario)


async def max_answers_per_round(resolver: Resolver) -> int:
    """Return the maximum number of questions answered in one round of the event loop."""
    most = before = 0
    while before < COUNT:
        await asyncio.sleep(0)
        most, before = max(most, resolver.answered - before), resolver.answered
    return most


def test_udp_client_without_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_client, "_new_poll", udp_client._SelectorPoll)

    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with running_resolver(upstream.address) as resolver:
                for number in range(10):
                    assert await answer(resolver, f"n{number}.example") == ["192.0.2.1"]

    run(scenario)


def test_udp_client_over_ipv6() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as upstream:
        upstream.bind(("::1", 0))
        sent = UdpClient[str](1, lambda piece: piece())
        try:
            sent.send(UpstreamAddress("::1", upstream.getsockname()[1]), b"query", "owner")
            message, source = upstream.recvfrom(512)
            assert message == b"query"
            upstream.sendto(b"answer", source)
            arrived: list[tuple[str, bytes | OSError]] = []
            eventually(lambda: sent.receive(lambda owner, got: arrived.append((owner, got))) or arrived)
            assert arrived == [("owner", b"answer")]
        finally:
            sent.close()


def test_missing_network_interface_is_reported_like_an_unreachable_upstream() -> None:
    async def scenario() -> None:
        async with running_resolver(UpstreamAddress("fe80::1%gone", 53)) as resolver:
            outcome = await resolving(resolver, question("www.example"))
            assert not isinstance(outcome, Reply)
            assert "[fe80::1%gone]:53 cannot be reached (No such device)" in outcome.text

    run(scenario)
