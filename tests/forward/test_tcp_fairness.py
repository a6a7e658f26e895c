"""Whatever upstreams send, the loop comes to others after a moment; and the ways in which it has sockets."""

from __future__ import annotations

import asyncio
import math
import socket

import pytest

from tests.forward.resolution_helpers import answer, asking, exchanging, question, run, until
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

pytestmark = pytest.mark.punctual

COUNT = 200  # as many datagrams as a socket holds whose owner is slow


def test_a_turn_has_an_end_however_many_answers_are_there() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with exchanging(resolver.address) as exchanges:
                waiting = [asking(exchanges, f"n{number}.example") for number in range(COUNT)]
                eventually(lambda: len(resolver.queries) == COUNT)  # this loop stands still meanwhile
                exchanges._turn()
                assert 0 < exchanges.answered < COUNT
                assert all(isinstance(outcome, Reply) for outcome in await asyncio.gather(*waiting))

    run(scenario)


def test_a_turn_has_an_end_however_many_questions_cannot_be_asked() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as resolver:
            async with exchanging(resolver.address, most_in_flight=1) as exchanges:
                waiting = [asking(exchanges, "www.example") for _ in range(10 * COUNT)]
                await asyncio.sleep(0)
                assert 0 < sum(outcome.done() for outcome in waiting) < 9 * COUNT
                await asyncio.gather(*waiting[1:])
                assert not waiting[0].done()
                exchanges.stop()
                await waiting[0]

    run(scenario)


def test_a_turn_has_an_end_however_many_answers_come_over_one_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        tcp_client, "STALLED_SECONDS", math.inf
    )  # however slow this machine is: one connection

    def silent_over_tcp(asked: ReceivedQuery) -> list[Send]:
        return list(truncates(asked)) if asked.transport == UDP else []

    async def scenario() -> None:
        with UpstreamServer(silent_over_tcp) as resolver:
            async with exchanging(resolver.address) as exchanges:
                # Nothing is due, or a slow machine would ask some questions again and give others up.
                monkeypatch.setattr(exchanges, "_set_timer", lambda _: None)
                waiting = [asking(exchanges, f"n{number}.example") for number in range(COUNT)]
                await until(lambda: len(resolver.queries_over(TCP)) == COUNT)
                assert resolver.connections == 1
                resolver.send_to_connections([correct_answer(asked) for asked in resolver.queries_over(TCP)])
                assert await most_in_a_round(exchanges) < COUNT // 2
                assert all(isinstance(outcome, Reply) for outcome in await asyncio.gather(*waiting))

    run(scenario)


async def most_in_a_round(exchanges: Resolver) -> int:
    """The most questions that were answered between two rounds of the loop, until all are."""
    most = before = 0
    while before < COUNT:
        await asyncio.sleep(0)
        most, before = max(most, exchanges.answered - before), exchanges.answered
    return most


def test_without_epoll_all_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_client, "_new_poll", udp_client._SelectorPoll)

    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with exchanging(resolver.address) as exchanges:
                for number in range(10):
                    assert await answer(exchanges, f"n{number}.example") == ["192.0.2.1"]

    run(scenario)


def test_over_ipv6_too() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as upstream:
        upstream.bind(("::1", 0))
        sent = UdpClient(1, lambda piece: piece())
        try:
            sent.send(UpstreamAddress("::1", upstream.getsockname()[1]), b"query", "who asks")
            message, source = upstream.recvfrom(512)
            assert message == b"query"
            upstream.sendto(b"answer", source)
            arrived: list[tuple[str, bytes | OSError]] = []
            eventually(lambda: sent.receive(lambda owner, got: arrived.append((owner, got))) or arrived)
            assert arrived == [("who asks", b"answer")]
        finally:
            sent.close()


def test_a_link_that_is_not_there_is_told_as_an_upstream_that_is_not() -> None:
    async def scenario() -> None:
        async with exchanging(UpstreamAddress("fe80::1%gone", 53)) as exchanges:
            outcome = await asking(exchanges, question("www.example"))
            assert not isinstance(outcome, Reply)
            assert "[fe80::1%gone]:53 cannot be reached (No such device)" in outcome.text

    run(scenario)
