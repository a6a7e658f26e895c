"""Upstreams with late, wrong or malformed responses."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import dns.message
import dns.rcode
import pytest

from tests.forward.resolution_helpers import (
    answer,
    bad_messages,
    failure,
    now,
    question,
    resolving,
    run,
    running_resolver,
    until,
)
from tests.support.upstream import (
    TCP,
    UDP,
    Behaviour,
    ReceivedQuery,
    Send,
    UpstreamServer,
    answers,
    answers_another_question,
    answers_from_another_port,
    correct_answer,
    forges_ids,
    is_long,
    is_silent,
    is_slow,
    only_over_udp,
    rejects_edns,
    reply_to,
    returns_bare_rcode,
    returns_rcode,
    sends_garbage,
    truncates,
)
from tests.support.waiting import TooLateError, in_time
from zkdns.dns.message import Type
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import MAX_BAD_MESSAGES, FailureKind
from zkdns.forward.upstreams import UDP_TIMES

# -- silence, delay ---------------------------------------------------------------------------------------


def test_dns_32_next_upstream_replaces_a_silent_one_within_a_second() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent, last_byte=1) as silent, UpstreamServer(last_byte=2) as good:
            async with running_resolver(silent.address, good.address, udp_times=UDP_TIMES) as resolver:
                started_at = now()
                assert await answer(resolver, "www.example") == ["192.0.2.2"]
                in_time(started_at, 1.0)

    run(scenario)


def test_silent_upstream_gets_no_queries_until_it_responds_again() -> None:
    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as first, UpstreamServer(is_slow(0.05), last_byte=2) as second:
            async with running_resolver(
                first.address, second.address, probe_seconds=0.3, udp_times=UDP_TIMES
            ) as resolver:
                for number in range(3):
                    assert await answer(resolver, f"n{number}.example") == ["192.0.2.1"]
                first.set_behaviour(is_silent)
                waiting = [resolving(resolver, f"m{number}.example") for number in range(10)]
                assert all(isinstance(outcome, Reply) for outcome in await asyncio.gather(*waiting))
                dead = resolver.upstreams.all[0]
                assert dead.is_dead
                started_at, before = now(), len(first.queries_over(UDP, "later.example"))
                assert await answer(resolver, "later.example") == ["192.0.2.2"]
                in_time(started_at, 0.25)
                assert len(first.queries_over(UDP, "later.example")) == before
                first.set_behaviour(answers)  # the next probe detects it
                await until(lambda: not dead.is_dead)
                assert any(received.name == "." for received in first.queries)
                started_at = now()
                addresses = await answer(resolver, "again.example")
                in_time(started_at, 0.25)
                assert addresses == ["192.0.2.1"]

    run(scenario)


def test_late_response_is_accepted() -> None:
    """The upstream replies only to the first query, and after its time-out."""
    answered: list[ReceivedQuery] = []

    def act(received: ReceivedQuery) -> list[Send]:
        answered.append(received)
        return [Send(correct_answer(received), after=0.8)] if len(answered) == 1 else []

    async def scenario() -> None:
        with UpstreamServer(act) as slow:
            async with running_resolver(slow.address, udp_times=UDP_TIMES) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                assert resolver.upstreams.all[0].timed_out
                assert len(slow.queries) > 1

    run(scenario)


def test_dns_32_silence_of_all_fails_at_the_time_limit() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as one, UpstreamServer(is_silent) as other:
            async with running_resolver(
                one.address, other.address, limit_seconds=1.0, udp_times=UDP_TIMES
            ) as resolver:
                started_at = now()
                outcome = await failure(resolver, "www.example")
                assert now() - started_at > 0.9
                in_time(started_at, 1.4)
                if not other.queries:
                    raise TooLateError("there was no time for the second upstream")
                assert outcome.kind is FailureKind.TIMED_OUT
                assert f"no response from {one.address} and {other.address} within" in outcome.text
                assert resolver.timed_out == resolver.failed == 1
                assert resolver.open_sockets <= 2  # only probes of dead upstreams

    run(scenario)


# -- truncation -------------------------------------------------------------------------------------------


def test_dns_32_truncated_replies_are_retried_over_tcp() -> None:
    async def scenario() -> None:
        with UpstreamServer(truncates) as upstream:
            async with running_resolver(upstream.address) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                assert [received.transport for received in upstream.queries] == [UDP, TCP]
                assert resolver.sent_over_tcp == 1

    run(scenario)


def test_reply_of_64_kib_is_complete() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_long) as upstream:
            async with running_resolver(upstream.address) as resolver:
                what = question("www.example", Type.TXT)
                data = await answer(resolver, what)
                assert len(data) == 248
                assert sum(map(len, data)) > 60_000
                assert data[0].startswith('"00000')
                assert data[-1].startswith('"00247')

    run(scenario)


# -- wrong replies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, MAX_BAD_MESSAGES - 1])
def test_dns_31_replies_with_another_id_are_ignored(count: int) -> None:
    async def scenario() -> None:
        with UpstreamServer(forges_ids(count)) as upstream:
            async with running_resolver(upstream.address) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                assert bad_messages(resolver) == count
                assert [received.transport for received in upstream.queries] == [UDP]

    run(scenario)


def test_dns_31_none_of_many_forged_replies_is_accepted() -> None:
    async def scenario() -> None:
        with UpstreamServer(only_over_udp(forges_ids(1000))) as upstream:
            async with running_resolver(upstream.address) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                assert bad_messages(resolver) == MAX_BAD_MESSAGES
                first, *others = [received.transport for received in upstream.queries]
                # The upstream is in this process and may be slow; then the query over TCP is repeated.
                assert (first, set(others)) == (UDP, {TCP})

    run(scenario)


def test_dns_31_replies_from_another_port_are_not_received() -> None:
    """An attacker without the upstream's address and port cannot guess, however many messages he sends."""

    async def scenario() -> None:
        with UpstreamServer(is_silent) as upstream:
            async with running_resolver(upstream.address, udp_times=UDP_TIMES) as resolver:
                outcome = resolving(resolver, "www.example")
                await until(lambda: upstream.queries)
                first_query = upstream.queries[0]
                with Flood(first_query, 20_000) as flood:
                    upstream.set_behaviour(answers)
                    assert isinstance(await outcome, Reply)
                    await until(lambda: not flood.is_alive())
                assert bad_messages(resolver) == 0
                assert resolver.sent_over_tcp == 0

    run(scenario)


class Flood:
    """Forged replies to a query from another port, with every other id."""

    def __init__(self, received: ReceivedQuery, count: int) -> None:
        forged = reply_to(received, f"{received.name} 60 A 203.0.113.1")
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

        def send() -> None:
            with sock:
                for number in range(count):
                    sock.sendto(number.to_bytes(2) + forged[2:], ("127.0.0.1", received.port))

        self._thread = threading.Thread(target=send)

    def __enter__(self) -> threading.Thread:
        self._thread.start()
        return self._thread

    def __exit__(self, *_: object) -> None:
        self._thread.join(10.0)


@pytest.mark.parametrize("does_tcp", [True, False], ids=["with TCP", "without TCP"])
def test_dns_31_replies_to_another_question_are_ignored(does_tcp: bool) -> None:
    async def scenario() -> None:
        act: Behaviour = only_over_udp(answers_another_question) if does_tcp else wrong_then_late_reply
        with UpstreamServer(act) as upstream:
            async with running_resolver(upstream.address) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                assert bad_messages(resolver) == 1

    run(scenario)


def wrong_then_late_reply(received: ReceivedQuery) -> Iterator[Send]:
    """Over UDP a wrong reply, later the right one; over TCP none."""
    if received.transport == UDP:
        wrong, _ = answers_another_question(received)
        yield from (wrong, Send(correct_answer(received), after=0.1))


def test_dns_31_reply_from_another_port_is_ignored() -> None:
    async def scenario() -> None:
        with (
            UpstreamServer(answers_from_another_port, last_byte=1) as wrong,
            UpstreamServer(last_byte=2) as good,
        ):
            async with running_resolver(wrong.address, good.address, udp_times=UDP_TIMES) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.2"]
                assert bad_messages(resolver) == 0

    run(scenario)


def test_malformed_reply_leads_to_the_next_upstream() -> None:
    async def scenario() -> None:
        with UpstreamServer(sends_garbage, last_byte=1) as wrong, UpstreamServer(last_byte=2) as good:
            async with running_resolver(wrong.address, good.address) as resolver:
                started_at = now()
                assert await answer(resolver, "www.example") == ["192.0.2.2"]
                in_time(started_at, 0.25)  # no time-out
                assert bad_messages(resolver) == 2
                resolver.replace_upstreams([wrong.address])
                outcome = await failure(resolver, "www.example")
                assert outcome.kind is FailureKind.NETWORK
                assert f"{wrong.address} sends no usable response" in outcome.text

    run(scenario)


@pytest.mark.parametrize("length", [1, 2, 11, 12, 40])
def test_reply_cut_off_at_any_byte_does_no_harm(length: int) -> None:
    async def scenario() -> None:
        with UpstreamServer(
            only_over_udp(lambda received: [Send(correct_answer(received)[:length])])
        ) as upstream:
            upstream.set_behaviour(answers, "good.example")
            async with running_resolver(upstream.address, udp_times=UDP_TIMES) as resolver:
                assert await answer(resolver, "good.example") == ["192.0.2.1"]
                outcome = resolving(resolver, "www.example")
                if length < 2:  # too short for an id
                    await until(lambda: bad_messages(resolver) == 1)
                    upstream.set_behaviour(answers)
                assert isinstance(await outcome, Reply)

    run(scenario)


# -- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED], ids=dns.rcode.to_text)
def test_dns_32_error_leads_to_the_next_upstream_and_finally_to_failure(rcode: dns.rcode.Rcode) -> None:
    async def scenario() -> None:
        with UpstreamServer(returns_rcode(rcode), last_byte=1) as bad, UpstreamServer(last_byte=2) as good:
            async with running_resolver(bad.address, good.address) as resolver:
                started_at = now()
                assert await answer(resolver, "www.example") == ["192.0.2.2"]
                good.set_behaviour(returns_rcode(rcode))
                outcome = await failure(resolver, "www.example")
                in_time(started_at, 0.25)
                assert outcome.kind is (
                    FailureKind.SERVFAIL if rcode == dns.rcode.SERVFAIL else FailureKind.REFUSED
                )
                assert outcome.reply is not None
                assert outcome.reply.rcode == rcode

    run(scenario)


@pytest.mark.parametrize(
    "rejection",
    [returns_rcode(dns.rcode.FORMERR), returns_bare_rcode(dns.rcode.FORMERR)],
    ids=["whole", "bare"],
)
def test_upstream_without_edns_is_queried_without_edns(rejection: Behaviour) -> None:
    async def scenario() -> None:
        with UpstreamServer(rejects_edns(rejection)) as upstream:
            async with running_resolver(upstream.address) as resolver:
                for number in range(3):
                    assert await answer(resolver, f"n{number}.example") == ["192.0.2.1"]
                assert [received.has_edns for received in upstream.queries] == [True, False, False, False]
                assert {received.transport for received in upstream.queries} == {UDP}

    run(scenario)


def test_unreachable_upstream_is_skipped_at_once() -> None:
    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as down, UpstreamServer(last_byte=2) as good:
            down.go_down()
            async with running_resolver(down.address, good.address) as resolver:
                started_at = now()
                assert await answer(resolver, "www.example") == ["192.0.2.2"]
                in_time(started_at, 0.25)
                resolver.replace_upstreams([down.address])
                outcome = await failure(resolver, "www.example")
                assert outcome.text == f"{down.address} cannot be reached (Connection refused)"
                assert outcome.ede == 23

    run(scenario)
