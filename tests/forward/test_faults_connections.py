"""TCP and TLS upstreams that close connections, stall, refuse, or fail authentication."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forward.resolution_helpers import (
    answer,
    bad_messages,
    data_of,
    failure,
    now,
    question,
    resolving,
    run,
    running_resolver,
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
from tests.support.waiting import in_time
from zkdns.address import UpstreamAddress
from zkdns.dns.message import Type
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import FailureKind
from zkdns.forward.system_upstreams import parse_upstreams
from zkdns.forward.tcp_client import TcpTimes
from zkdns.forward.upstreams import MAX_DOUBTS, UDP_TIMES


class Tls:
    """Certificates and TLS contexts of server and client."""

    def __init__(self, directory: Path) -> None:
        self._authority = CertificateAuthority(directory)
        self.trust = ssl.create_default_context(cafile=self._authority.file)
        self.certificate = self.sign(TLS_NAME)

    def sign(self, name: str) -> Path:
        return self._authority.sign(name)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls(tmp_path_factory.mktemp("tls"))


def silent_over_tcp(received: ReceivedQuery) -> list[Send]:
    return list(truncates(received)) if received.transport == UDP else []


# -- TCP --------------------------------------------------------------------------------------------------


def test_dns_32_closed_tcp_connection_leads_to_the_next_upstream() -> None:
    async def scenario() -> None:
        with UpstreamServer(hangs_up, last_byte=1) as bad, UpstreamServer(truncates, last_byte=2) as good:
            async with running_resolver(bad.address, good.address) as resolver:
                started_at = now()
                assert await answer(resolver, "www.example") == ["192.0.2.2"]
                in_time(started_at, 0.25)
                resolver.replace_upstreams([bad.address])
                outcome = await failure(resolver, "www.example")
                assert outcome.text == f"{bad.address} closed the connection"
                assert outcome.reply is not None
                assert outcome.reply.truncated

    run(scenario)


def test_upstream_without_tcp_leads_to_the_next() -> None:
    async def scenario() -> None:
        udp, tcp = paired_sockets()
        tcp.close()
        with UpstreamServer(truncates, last_byte=2) as good, udp:
            udp.setblocking(False)
            only_udp = UpstreamAddress(*udp.getsockname())
            async with running_resolver(only_udp, good.address) as resolver:
                outcome = resolving(resolver, "www.example")
                loop = asyncio.get_running_loop()
                message, source = await loop.sock_recvfrom(udp, 4096)
                await loop.sock_sendto(udp, reply_to(ReceivedQuery(message, UDP, 0, 1), flags=0x0200), source)
                result = await outcome
                assert isinstance(result, Reply)
                assert data_of(result, question("www.example")) == ["192.0.2.2"]

    run(scenario)


def test_upstream_silent_over_tcp_leads_to_the_next_in_time() -> None:
    async def scenario() -> None:
        with (
            UpstreamServer(silent_over_tcp, last_byte=1) as bad,
            UpstreamServer(truncates, last_byte=2) as good,
        ):
            async with running_resolver(bad.address, good.address, udp_times=UDP_TIMES) as resolver:
                started_at = now()
                assert await answer(resolver, "www.example") == ["192.0.2.2"]
                in_time(started_at, 2.0)
                assert not resolver.upstreams.all[0].is_dead

    run(scenario)


def test_one_connection_serves_all_truncated_replies() -> None:
    async def scenario() -> None:
        with UpstreamServer(truncates) as upstream:
            async with running_resolver(upstream.address) as resolver:
                waiting = [resolving(resolver, f"n{number}.example") for number in range(50)]
                assert all(isinstance(outcome, Reply) for outcome in await asyncio.gather(*waiting))
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                assert upstream.connections == 1
                assert len({received.ident for received in upstream.queries_over(TCP)}) > 45

    run(scenario)


def test_idle_connection_is_closed() -> None:
    async def scenario() -> None:
        with UpstreamServer(truncates) as upstream:
            async with running_resolver(upstream.address, tcp_times=TcpTimes(idle=0.05)) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                await until(lambda: not resolver.open_connections)
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                assert upstream.connections == 2

    run(scenario)


def test_replies_in_another_order_are_matched_by_id() -> None:
    async def scenario() -> None:
        held: list[ReceivedQuery] = []

        def reversed_in_tens(received: ReceivedQuery) -> Iterator[Send]:
            if received.transport == UDP:
                yield from truncates(received)
                return
            held.append(received)
            if len(held) == 10:
                for earlier in reversed(held):
                    yield Send(reply_to(earlier, f"{earlier.name} 60 TXT {earlier.name}"))

        with UpstreamServer(reversed_in_tens) as upstream:
            async with running_resolver(upstream.address) as resolver:
                questions = [question(f"n{number}.example", Type.TXT) for number in range(10)]
                outcomes = await asyncio.gather(*(resolving(resolver, what) for what in questions))
                for number, (what, outcome) in enumerate(zip(questions, outcomes, strict=True)):
                    assert isinstance(outcome, Reply)
                    assert data_of(outcome, what) == [f'"n{number}.example."']

    run(scenario)


def test_malformed_reply_over_tcp_is_rejected() -> None:
    async def scenario() -> None:
        def act(received: ReceivedQuery) -> list[Send]:
            return list(truncates(received) if received.transport == UDP else sends_garbage(received))

        with UpstreamServer(act, last_byte=1) as bad, UpstreamServer(truncates, last_byte=2) as good:
            async with running_resolver(bad.address, good.address) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.2"]
                assert bad_messages(resolver) == 1

    run(scenario)


@pytest.mark.parametrize("prelude", [b"", b"\x01"], ids=["empty", "one byte"])
def test_tcp_messages_too_short_for_an_id_are_ignored(prelude: bytes) -> None:
    async def scenario() -> None:
        def act(received: ReceivedQuery) -> list[Send]:
            return (
                list(truncates(received))
                if received.transport == UDP
                else [Send(prelude), Send(correct_answer(received))]
            )

        with UpstreamServer(act) as upstream:
            async with running_resolver(upstream.address) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]

    run(scenario)


# -- TLS --------------------------------------------------------------------------------------------------


def test_tls_connection_is_reused(secured: Tls) -> None:
    async def scenario() -> None:
        with UpstreamServer(certificate=secured.certificate) as upstream:
            async with running_resolver(upstream.tls_address, tls=secured.trust) as resolver:
                waiting = [resolving(resolver, f"n{number}.example") for number in range(50)]
                assert all(isinstance(outcome, Reply) for outcome in await asyncio.gather(*waiting))
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                assert upstream.connections == 1
                assert {received.transport for received in upstream.queries} == {TLS}
                rtt = resolver.upstreams.all[0].rtt
                assert rtt is not None
                in_time(now() - rtt, 0.2)

    run(scenario)


def test_certificate_for_another_name_is_rejected(secured: Tls) -> None:
    async def scenario() -> None:
        with UpstreamServer(certificate=secured.sign("other.example")) as upstream:
            async with running_resolver(upstream.tls_address, tls=secured.trust) as resolver:
                outcome = await failure(resolver, "www.example")
                assert f"{upstream.tls_address} has no certificate for {TLS_NAME}" in outcome.text
                assert not upstream.queries

    run(scenario)


def test_certificate_of_an_unknown_authority_is_rejected(secured: Tls) -> None:
    async def scenario() -> None:
        with UpstreamServer(certificate=secured.certificate) as upstream:
            async with running_resolver(upstream.tls_address) as resolver:
                outcome = await failure(resolver, "www.example")
                assert f"{upstream.tls_address} has no certificate" in outcome.text
                assert not upstream.queries

    run(scenario)


def test_upstream_without_tls_fails_with_a_reason(secured: Tls) -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            address = UpstreamAddress("127.0.0.1", upstream.address.port, TLS_NAME)
            times = TcpTimes(connect=0.5)
            async with running_resolver(address, tls=secured.trust, tcp_times=times) as resolver:
                outcome = await failure(resolver, "www.example")
                assert outcome.kind is FailureKind.NETWORK
                assert outcome.text == f"{address} does not accept connections within 0.5 s"
                assert not upstream.queries_over(TCP, "www.example")

    run(scenario)


def test_query_on_a_closed_connection_is_sent_again(secured: Tls) -> None:
    async def scenario() -> None:
        with UpstreamServer(certificate=secured.certificate) as upstream:
            async with running_resolver(upstream.tls_address, tls=secured.trust) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                for number in range(5):
                    upstream.hang_up()
                    assert await answer(resolver, f"n{number}.example") == ["192.0.2.1"]
                assert resolver.failed == 0

    run(scenario)


def test_open_queries_of_a_closing_connection_move_to_another(secured: Tls) -> None:
    async def scenario() -> None:
        with UpstreamServer(certificate=secured.certificate) as upstream:
            async with running_resolver(upstream.tls_address, tls=secured.trust) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                upstream.set_behaviour(is_silent)
                started_at = now()
                waiting = [resolving(resolver, f"n{number}.example") for number in range(20)]
                await until(lambda: len(upstream.queries) == 21)
                upstream.set_behaviour(answers)
                upstream.hang_up()
                assert all(isinstance(outcome, Reply) for outcome in await asyncio.gather(*waiting))
                in_time(started_at, 0.3)
                assert upstream.connections == 2

    run(scenario)


def test_stalled_connection_is_replaced(secured: Tls) -> None:
    """As if a firewall had forgotten the connection: nothing arrives, and it is not closed."""

    async def scenario() -> None:
        with UpstreamServer(certificate=secured.certificate) as upstream:
            times = TcpTimes(stalled=0.2)
            async with running_resolver(
                upstream.tls_address, tls=secured.trust, tcp_times=times, udp_times=UDP_TIMES
            ) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                lost = {received.port for received in upstream.queries}
                upstream.set_behaviour(lambda received: [] if received.port in lost else answers(received))
                assert await answer(resolver, "mail.example") == ["192.0.2.1"]
                started_at = now()
                assert await answer(resolver, "news.example") == ["192.0.2.1"]
                in_time(started_at, 0.25)
                await until(lambda: resolver.open_connections == 1)

    run(scenario)


def test_stalled_tls_handshake_leads_to_the_next_upstream(secured: Tls) -> None:
    """The server listens, but never responds."""

    async def scenario() -> None:
        udp, tcp = paired_sockets()
        udp.close()
        tcp.listen()
        with UpstreamServer(last_byte=2, certificate=secured.certificate) as good, tcp:
            stuck = UpstreamAddress("127.0.0.1", tcp.getsockname()[1], TLS_NAME)
            async with running_resolver(
                stuck, good.tls_address, tls=secured.trust, udp_times=UDP_TIMES
            ) as resolver:
                started_at = now()
                assert await answer(resolver, "www.example") == ["192.0.2.2"]
                in_time(started_at, 1.7)

    run(scenario)


def test_stop_while_connecting_leaves_no_connection(secured: Tls) -> None:
    async def scenario() -> None:
        with UpstreamServer(certificate=secured.certificate) as upstream:
            async with running_resolver(upstream.tls_address, tls=secured.trust) as resolver:
                outcome = resolving(resolver, "www.example")
                await asyncio.sleep(0)
                resolver.stop()
                assert await outcome
                assert not resolver.open_connections

    run(scenario)


# -- UDP does not work ------------------------------------------------------------------------------------


def test_upstream_that_refuses_udp_is_queried_over_tcp() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                message = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
                response = correct_answer(ReceivedQuery(message, TCP, 0, 1))
                writer.write(len(response).to_bytes(2) + response)

    async def scenario() -> None:
        udp, tcp = paired_sockets()
        udp.close()
        address = UpstreamAddress("127.0.0.1", tcp.getsockname()[1])
        async with await asyncio.start_server(serve, sock=tcp), running_resolver(address) as resolver:
            for number in range(2 * MAX_DOUBTS):
                assert await answer(resolver, f"n{number}.example") == ["192.0.2.1"]
            upstream = resolver.upstreams.all[0]
            assert upstream.plan(now()).uses_tcp
            assert not upstream.is_dead
            assert resolver.sent - resolver.sent_over_tcp < 2 * MAX_DOUBTS

    run(scenario)


@pytest.mark.parametrize("scheme", ["tcp", "use-vc"])
def test_upstream_with_tcp_only_gets_no_query_over_udp(scheme: str) -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            address = UpstreamAddress(upstream.address.host, upstream.address.port, tcp=True)
            if scheme == "use-vc":
                (address,) = parse_upstreams(f"nameserver {address.host}\noptions use-vc\n")[0]
                address = UpstreamAddress(address.host, upstream.address.port, tcp=address.tcp)
            async with running_resolver(address) as resolver:
                for number in range(3):
                    assert await answer(resolver, f"n{number}.example") == ["192.0.2.1"]
            assert {received.transport for received in upstream.queries} == {TCP}
            assert upstream.connections == 1

    run(scenario)
