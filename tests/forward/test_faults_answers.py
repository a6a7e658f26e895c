"""Upstreams that answer badly: late, wrongly, or not what was asked."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import dns.message
import dns.rcode
import pytest
from zkdns.dns.message import Type

from tests.forward.resolution_helpers import answer, asking, exchanging, failure, question, run, until
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
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import MAX_BAD_REPLIES, Kind

pytestmark = pytest.mark.punctual


def now() -> float:
    return asyncio.get_running_loop().time()


# -- silent, slow -------------------------------------------------------------------------------------------


def test_dns_32_when_one_is_silent_the_next_has_answered_within_a_second() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent, last_byte=1) as silent, UpstreamServer(last_byte=2) as good:
            async with exchanging(silent.address, good.address) as exchanges:
                begun = now()
                assert await answer(exchanges, "www.example") == ["192.0.2.2"]
                assert now() - begun < 1.0

    run(scenario)


def test_a_silent_one_is_soon_asked_no_more_and_is_asked_again_when_it_answers() -> None:
    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as first, UpstreamServer(is_slow(0.05), last_byte=2) as second:
            async with exchanging(first.address, second.address) as exchanges:
                for number in range(3):
                    assert await answer(exchanges, f"n{number}.example") == ["192.0.2.1"]
                first.set_behaviour(is_silent)
                waiting = [asking(exchanges, f"m{number}.example") for number in range(10)]
                assert all(isinstance(outcome, Reply) for outcome in await asyncio.gather(*waiting))
                dead = exchanges.upstreams.all[0]
                assert dead.is_dead
                begun, before = now(), len(first.queries_over(UDP, "later.example"))
                assert await answer(exchanges, "later.example") == ["192.0.2.2"]
                assert now() - begun < 0.25
                assert len(first.queries_over(UDP, "later.example")) == before
                first.set_behaviour(answers)  # the next probe finds out
                await until(lambda: not dead.is_dead)
                assert any(asked.name == "." for asked in first.queries)
                assert await answer(exchanges, "again.example") == ["192.0.2.1"]

    run(scenario)


def test_a_name_that_is_slow_to_find_is_waited_for() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_slow(1.5)) as slow:
            async with exchanging(slow.address) as exchanges:
                begun = now()
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                assert now() - begun < 1.9  # the answer to the first query counted

    run(scenario)


def test_dns_32_when_all_are_silent_it_fails_before_a_stub_gives_up() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as one, UpstreamServer(is_silent) as other:
            async with exchanging(one.address, other.address) as exchanges:
                begun = now()
                outcome = await failure(exchanges, "www.example")
                assert 3.5 < now() - begun < 4.0
                assert outcome.kind is Kind.TIMED_OUT
                assert f"no answer from {one.address} and {other.address} within" in outcome.text
                assert exchanges.timed_out == exchanges.failed == 1
                assert len(exchanges._datagrams or ()) <= 2  # probes of the dead, no more

    run(scenario)


# -- truncated ----------------------------------------------------------------------------------------------


def test_dns_32_what_is_truncated_is_asked_over_tcp() -> None:
    async def scenario() -> None:
        with UpstreamServer(truncates) as resolver:
            async with exchanging(resolver.address) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                assert [asked.transport for asked in resolver.queries] == [UDP, TCP]
                assert exchanges.by_stream == 1

    run(scenario)


def test_an_answer_of_64_kilobytes_comes_whole() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_long) as resolver:
            async with exchanging(resolver.address) as exchanges:
                what = question("www.example", Type.TXT)
                data = await answer(exchanges, what)
                assert len(data) == 248
                assert sum(map(len, data)) > 60_000
                assert data[0].startswith('"00000')
                assert data[-1].startswith('"00247')

    run(scenario)


# -- wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, MAX_BAD_REPLIES - 1])
def test_dns_31_answers_with_another_id_do_not_count(count: int) -> None:
    async def scenario() -> None:
        with UpstreamServer(forges_ids(count)) as resolver:
            async with exchanging(resolver.address) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                assert exchanges.bad == count
                assert [asked.transport for asked in resolver.queries] == [UDP]

    run(scenario)


def test_dns_31_of_20000_forged_answers_none_is_taken() -> None:
    forged = 20_000

    async def scenario() -> None:
        with UpstreamServer(only_over_udp(forges_ids(forged))) as resolver:
            async with exchanging(resolver.address) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                assert exchanges.bad == MAX_BAD_REPLIES
                assert [asked.transport for asked in resolver.queries] == [UDP, TCP]

    run(scenario)


def test_dns_31_forged_answers_from_elsewhere_do_not_even_arrive() -> None:
    """Who does not send from the upstream's address and port may guess as often as he likes."""

    async def scenario() -> None:
        with UpstreamServer(is_silent) as resolver:
            async with exchanging(resolver.address) as exchanges:
                outcome = asking(exchanges, "www.example")
                await until(lambda: resolver.queries)
                asked = resolver.queries[0]
                with flooding(asked, 20_000) as flood:
                    resolver.set_behaviour(answers)
                    assert isinstance(await outcome, Reply)
                    await until(lambda: not flood.is_alive())
                assert exchanges.bad == 0
                assert exchanges.by_stream == 0

    run(scenario)


class flooding:  # noqa: N801 - used as a function
    """Forged answers to a query, from another port, with every other id."""

    def __init__(self, asked: ReceivedQuery, count: int) -> None:
        forged = reply_to(asked, f"{asked.name} 60 A 203.0.113.1")
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

        def send() -> None:
            with sock:
                for number in range(count):
                    sock.sendto(number.to_bytes(2) + forged[2:], ("127.0.0.1", asked.port))

        self._thread = threading.Thread(target=send)

    def __enter__(self) -> threading.Thread:
        self._thread.start()
        return self._thread

    def __exit__(self, *_: object) -> None:
        self._thread.join(10.0)


@pytest.mark.parametrize("does_tcp", [True, False], ids=["with TCP", "without TCP"])
def test_dns_31_an_answer_to_another_question_does_not_count(does_tcp: bool) -> None:
    async def scenario() -> None:
        act: Behaviour = only_over_udp(answers_another_question) if does_tcp else wrong_then_slowly_right
        with UpstreamServer(act) as resolver:
            async with exchanging(resolver.address) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                assert exchanges.bad == 1

    run(scenario)


def wrong_then_slowly_right(asked: ReceivedQuery) -> Iterator[Send]:
    """Over UDP the right answer comes in the end; over TCP nothing does."""
    if asked.transport == UDP:
        wrong, _ = answers_another_question(asked)
        yield from (wrong, Send(correct_answer(asked), after=0.1))


def test_dns_31_an_answer_from_another_port_does_not_count() -> None:
    async def scenario() -> None:
        with (
            UpstreamServer(answers_from_another_port, last_byte=1) as wrong,
            UpstreamServer(last_byte=2) as good,
        ):
            async with exchanging(wrong.address, good.address) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.2"]
                assert exchanges.bad == 0

    run(scenario)


def test_garbage_is_taken_to_the_next() -> None:
    async def scenario() -> None:
        with UpstreamServer(sends_garbage, last_byte=1) as wrong, UpstreamServer(last_byte=2) as good:
            async with exchanging(wrong.address, good.address) as exchanges:
                begun = now()
                assert await answer(exchanges, "www.example") == ["192.0.2.2"]
                assert now() - begun < 0.25  # without waiting for anything
                assert exchanges.bad == 2
                exchanges.change([wrong.address])
                outcome = await failure(exchanges, "www.example")
                assert outcome.kind is Kind.NETWORK
                assert f"{wrong.address} sends no usable answer" in outcome.text

    run(scenario)


@pytest.mark.parametrize("length", [1, 2, 11, 12, 40])
def test_an_answer_that_is_cut_off_anywhere_does_no_harm(length: int) -> None:
    async def scenario() -> None:
        with UpstreamServer(only_over_udp(lambda asked: [Send(correct_answer(asked)[:length])])) as resolver:
            resolver.set_behaviour(answers, "good.example")
            async with exchanging(resolver.address) as exchanges:
                assert await answer(exchanges, "good.example") == ["192.0.2.1"]
                outcome = asking(exchanges, "www.example")
                if length < 2:  # there is no id that could be right
                    await until(lambda: exchanges.bad == 1)
                    resolver.set_behaviour(answers)
                assert isinstance(await outcome, Reply)

    run(scenario)


# -- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED], ids=dns.rcode.to_text)
def test_dns_32_an_error_of_one_is_taken_to_the_next_and_of_all_to_who_asked(rcode: dns.rcode.Rcode) -> None:
    async def scenario() -> None:
        with UpstreamServer(returns_rcode(rcode), last_byte=1) as bad, UpstreamServer(last_byte=2) as good:
            async with exchanging(bad.address, good.address) as exchanges:
                begun = now()
                assert await answer(exchanges, "www.example") == ["192.0.2.2"]
                good.set_behaviour(returns_rcode(rcode))
                outcome = await failure(exchanges, "www.example")
                assert now() - begun < 0.25
                assert outcome.kind is (Kind.SERVFAIL if rcode == dns.rcode.SERVFAIL else Kind.REFUSED)
                assert outcome.reply is not None
                assert outcome.reply.rcode == rcode

    run(scenario)


@pytest.mark.parametrize(
    "refuses",
    [returns_rcode(dns.rcode.FORMERR), returns_bare_rcode(dns.rcode.FORMERR)],
    ids=["whole", "bare"],
)
def test_one_that_knows_no_edns_is_asked_without(refuses: Behaviour) -> None:
    def without_opt(asked: ReceivedQuery) -> list[Send]:
        (sent,) = refuses(asked)
        assert sent.message is not None
        reply = dns.message.from_wire(sent.message)
        reply.use_edns(False)
        return [Send(reply.to_wire())]

    async def scenario() -> None:
        with UpstreamServer(rejects_edns(without_opt)) as resolver:
            async with exchanging(resolver.address) as exchanges:
                for number in range(3):
                    assert await answer(exchanges, f"n{number}.example") == ["192.0.2.1"]
                assert [asked.has_edns for asked in resolver.queries] == [True, False, False, False]
                assert {asked.transport for asked in resolver.queries} == {UDP}

    run(scenario)


def test_one_that_is_not_there_is_left_at_once() -> None:
    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as gone, UpstreamServer(last_byte=2) as good:
            gone.go_down()
            async with exchanging(gone.address, good.address) as exchanges:
                begun = now()
                assert await answer(exchanges, "www.example") == ["192.0.2.2"]
                assert now() - begun < 0.25
                exchanges.change([gone.address])
                outcome = await failure(exchanges, "www.example")
                assert outcome.text == f"{gone.address} cannot be reached (Connection refused)"
                assert outcome.ede == 23

    run(scenario)
