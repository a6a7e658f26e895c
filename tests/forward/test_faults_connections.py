"""TCP and TLS to upstreams that hang up, stall, refuse, or are not who they should be."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from zkdns.dns.message import Type

from tests.forward.resolution_helpers import (
    answer,
    asking,
    data_of,
    exchanging,
    failure,
    question,
    run,
    until,
)
from tests.support.loopback import paired_sockets
from tests.support.tls import CertificateAuthority
from tests.support.upstream import (
    TCP,
    TLS,
    TLS_NAME,
    UDP,
    ReceivedQuery,
    Send,
    UpstreamServer,
    answers,
    correct_answer,
    hangs_up,
    is_silent,
    reply_to,
    sends_garbage,
    truncates,
)
from zkdns.address import UpstreamAddress
from zkdns.forward import tcp_client
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import Kind

pytestmark = pytest.mark.punctual


class Secured:
    """What TLS needs on both sides."""

    def __init__(self, directory: Path) -> None:
        self._authority = CertificateAuthority(directory)
        self.trust = ssl.create_default_context(cafile=self._authority.file)
        self.certificate = self.sign(TLS_NAME)

    def sign(self, name: str) -> Path:
        return self._authority.sign(name)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Secured:
    return Secured(tmp_path_factory.mktemp("tls"))


def silent_over_tcp(asked: ReceivedQuery) -> list[Send]:
    return list(truncates(asked)) if asked.transport == UDP else []


def now() -> float:
    return asyncio.get_running_loop().time()


# -- TCP ----------------------------------------------------------------------------------------------------


def test_dns_32_one_that_hangs_up_is_left_for_the_next_over_tcp() -> None:
    async def scenario() -> None:
        with UpstreamServer(hangs_up, last_byte=1) as bad, UpstreamServer(truncates, last_byte=2) as good:
            async with exchanging(bad.address, good.address) as exchanges:
                begun = now()
                assert await answer(exchanges, "www.example") == ["192.0.2.2"]
                assert now() - begun < 0.25
                exchanges.change([bad.address])
                outcome = await failure(exchanges, "www.example")
                assert outcome.text == f"{bad.address} closed the connection"
                assert outcome.reply is not None
                assert outcome.reply.truncated

    run(scenario)


def test_one_that_has_no_tcp_is_left_for_the_next() -> None:
    async def scenario() -> None:
        udp, tcp = paired_sockets()
        tcp.close()
        with UpstreamServer(truncates, last_byte=2) as good, udp:
            udp.setblocking(False)
            only_udp = UpstreamAddress(*udp.getsockname())
            async with exchanging(only_udp, good.address) as exchanges:
                outcome = asking(exchanges, "www.example")
                loop = asyncio.get_running_loop()
                message, source = await loop.sock_recvfrom(udp, 4096)
                await loop.sock_sendto(udp, reply_to(ReceivedQuery(message, UDP, 0, 1), flags=0x0200), source)
                result = await outcome
                assert isinstance(result, Reply)
                assert data_of(result, question("www.example")) == ["192.0.2.2"]

    run(scenario)


def test_one_that_is_silent_over_tcp_is_left_for_the_next_in_time() -> None:
    async def scenario() -> None:
        with (
            UpstreamServer(silent_over_tcp, last_byte=1) as bad,
            UpstreamServer(truncates, last_byte=2) as good,
        ):
            async with exchanging(bad.address, good.address) as exchanges:
                begun = now()
                assert await answer(exchanges, "www.example") == ["192.0.2.2"]
                assert now() - begun < 2.0
                assert not exchanges.upstreams.all[0].is_dead

    run(scenario)


def test_a_connection_is_used_for_all_that_is_truncated() -> None:
    async def scenario() -> None:
        with UpstreamServer(truncates) as resolver:
            async with exchanging(resolver.address) as exchanges:
                waiting = [asking(exchanges, f"n{number}.example") for number in range(50)]
                assert all(isinstance(outcome, Reply) for outcome in await asyncio.gather(*waiting))
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                assert resolver.connections == 1
                assert len({asked.ident for asked in resolver.queries_over(TCP)}) > 45

    run(scenario)


def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_client, "IDLE_SECONDS", 0.05)

    async def scenario() -> None:
        with UpstreamServer(truncates) as resolver:
            async with exchanging(resolver.address) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                await until(lambda: not exchanges._streams._all)
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                assert resolver.connections == 2

    run(scenario)


def test_answers_in_another_order_find_their_questions() -> None:
    async def scenario() -> None:
        held: list[ReceivedQuery] = []

        def reversed_in_tens(asked: ReceivedQuery) -> Iterator[Send]:
            if asked.transport == UDP:
                yield from truncates(asked)
                return
            held.append(asked)
            if len(held) == 10:
                for earlier in reversed(held):
                    yield Send(reply_to(earlier, f"{earlier.name} 60 TXT {earlier.name}"))

        with UpstreamServer(reversed_in_tens) as resolver:
            async with exchanging(resolver.address) as exchanges:
                questions = [question(f"n{number}.example", Type.TXT) for number in range(10)]
                outcomes = await asyncio.gather(*(asking(exchanges, what) for what in questions))
                for number, (what, outcome) in enumerate(zip(questions, outcomes, strict=True)):
                    assert isinstance(outcome, Reply)
                    assert data_of(outcome, what) == [f'"n{number}.example."']

    run(scenario)


def test_garbage_over_tcp_is_no_answer() -> None:
    async def scenario() -> None:
        def act(asked: ReceivedQuery) -> list[Send]:
            return list(truncates(asked) if asked.transport == UDP else sends_garbage(asked))

        with UpstreamServer(act, last_byte=1) as bad, UpstreamServer(truncates, last_byte=2) as good:
            async with exchanging(bad.address, good.address) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.2"]
                assert exchanges.bad == 1

    run(scenario)


@pytest.mark.parametrize("prelude", [b"", b"\x01"], ids=["empty", "one byte"])
def test_messages_without_an_id_on_a_stream_do_no_harm(prelude: bytes) -> None:
    async def scenario() -> None:
        def act(asked: ReceivedQuery) -> list[Send]:
            return (
                list(truncates(asked))
                if asked.transport == UDP
                else [Send(prelude), Send(correct_answer(asked))]
            )

        with UpstreamServer(act) as resolver:
            async with exchanging(resolver.address) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]

    run(scenario)


# -- TLS ----------------------------------------------------------------------------------------------------


def test_over_tls_one_connection_is_used_again_and_again(secured: Secured) -> None:
    async def scenario() -> None:
        with UpstreamServer(certificate=secured.certificate) as resolver:
            async with exchanging(resolver.tls_address, tls=secured.trust) as exchanges:
                waiting = [asking(exchanges, f"n{number}.example") for number in range(50)]
                assert all(isinstance(outcome, Reply) for outcome in await asyncio.gather(*waiting))
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                assert resolver.connections == 1
                assert {asked.transport for asked in resolver.queries} == {TLS}
                rtt = exchanges.upstreams.all[0].rtt
                assert rtt is not None
                assert rtt < 0.2

    run(scenario)


def test_a_certificate_for_another_name_is_refused(secured: Secured) -> None:
    async def scenario() -> None:
        with UpstreamServer(certificate=secured.sign("other.example")) as resolver:
            async with exchanging(resolver.tls_address, tls=secured.trust) as exchanges:
                outcome = await failure(exchanges, "www.example")
                assert f"{resolver.tls_address} has no certificate for {TLS_NAME}" in outcome.text
                assert not resolver.queries

    run(scenario)


def test_a_certificate_of_nobody_that_is_trusted_is_refused(secured: Secured) -> None:
    async def scenario() -> None:
        with UpstreamServer(certificate=secured.certificate) as resolver:
            async with exchanging(resolver.tls_address) as exchanges:
                outcome = await failure(exchanges, "www.example")
                assert f"{resolver.tls_address} has no certificate" in outcome.text
                assert not resolver.queries

    run(scenario)


def test_one_that_speaks_no_tls_is_told_so(secured: Secured) -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            address = UpstreamAddress("127.0.0.1", resolver.address.port, TLS_NAME)
            async with exchanging(address, tls=secured.trust) as exchanges:
                outcome = await failure(exchanges, "www.example")
                assert outcome.kind in {Kind.NETWORK, Kind.TIMED_OUT}
                assert not resolver.queries_over(TCP, "www.example")

    run(scenario)


def test_a_connection_that_was_closed_meanwhile_costs_no_question(secured: Secured) -> None:
    async def scenario() -> None:
        with UpstreamServer(certificate=secured.certificate) as resolver:
            async with exchanging(resolver.tls_address, tls=secured.trust) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                for number in range(5):
                    resolver.hang_up()
                    assert await answer(exchanges, f"n{number}.example") == ["192.0.2.1"]
                assert exchanges.failed == 0

    run(scenario)


def test_questions_on_a_connection_that_closes_are_asked_on_another(secured: Secured) -> None:
    async def scenario() -> None:
        with UpstreamServer(certificate=secured.certificate) as resolver:
            async with exchanging(resolver.tls_address, tls=secured.trust) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                resolver.set_behaviour(is_silent)
                begun = now()
                waiting = [asking(exchanges, f"n{number}.example") for number in range(20)]
                await until(lambda: len(resolver.queries) == 21)
                resolver.set_behaviour(answers)
                resolver.hang_up()
                assert all(isinstance(outcome, Reply) for outcome in await asyncio.gather(*waiting))
                assert now() - begun < 0.3
                assert resolver.connections == 2

    run(scenario)


def test_a_connection_that_leads_nowhere_any_more_is_replaced(secured: Secured) -> None:
    """As when a firewall on the way has forgotten it: nothing comes, and nothing is closed."""

    async def scenario() -> None:
        with UpstreamServer(certificate=secured.certificate) as resolver:
            async with exchanging(resolver.tls_address, tls=secured.trust) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                lost = {asked.port for asked in resolver.queries}
                resolver.set_behaviour(lambda asked: [] if asked.port in lost else answers(asked))
                assert await answer(exchanges, "mail.example") == ["192.0.2.1"]
                begun = now()
                assert await answer(exchanges, "news.example") == ["192.0.2.1"]
                assert now() - begun < 0.25
                await until(lambda: len(exchanges._streams._all) == 1)

    run(scenario)


def test_tls_that_cannot_be_begun_is_left_for_the_next(secured: Secured) -> None:
    """It listens, and says nothing."""

    async def scenario() -> None:
        udp, tcp = paired_sockets()
        udp.close()
        tcp.listen()
        with UpstreamServer(last_byte=2, certificate=secured.certificate) as good, tcp:
            stuck = UpstreamAddress("127.0.0.1", tcp.getsockname()[1], TLS_NAME)
            async with exchanging(stuck, good.tls_address, tls=secured.trust) as exchanges:
                begun = now()
                assert await answer(exchanges, "www.example") == ["192.0.2.2"]
                assert now() - begun < 1.7

    run(scenario)


def test_stopping_while_connections_are_made_leaves_nothing(secured: Secured) -> None:
    async def scenario() -> None:
        with UpstreamServer(certificate=secured.certificate) as resolver:
            async with exchanging(resolver.tls_address, tls=secured.trust) as exchanges:
                outcome = asking(exchanges, "www.example")
                await asyncio.sleep(0)
                exchanges.stop()
                assert await outcome
                assert not exchanges._streams._all

    run(scenario)
