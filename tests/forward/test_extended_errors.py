"""Extended errors (RFC 8914) in forwarded SERVFAIL, REFUSED and NXDOMAIN responses, and cookies."""

from __future__ import annotations

import asyncio

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from tests.forward.forwarder_helpers import (
    Scene,
    data_of,
    extended_errors,
    forwarding,
    rcode_of,
)
from tests.forward.resolution_helpers import run, until
from tests.support.upstream import (
    Behaviour,
    ReceivedQuery,
    Send,
    UpstreamServer,
    is_silent,
    reply_to,
    returns_rcode,
)
from zkdns.dns.cookies import Cookies
from zkdns.dns.edns_options import EdnsOptions
from zkdns.transport.contract import for_client

BOGUS, NO_REACHABLE_AUTHORITY, NOT_READY, NOT_AUTHORITATIVE, BLOCKED = 6, 22, 14, 20, 15
NOW = 1_559_731_985.0
CLIENT = bytes.fromhex("2464c4abcf10c957")
COOKIE = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, CLIENT)
ANSWERED = CLIENT + Cookies(bytes(16), lambda: NOW, is_shared=True).make(CLIENT, b"\x7f\0\0\1")


def fails_since(code: int, text: str) -> Behaviour:
    """Reply with SERVFAIL and an extended error."""

    def acts(received: ReceivedQuery) -> list[Send]:
        reply = dns.message.from_wire(reply_to(received, rcode=dns.rcode.SERVFAIL))
        reply.use_edns(0, 0, 1232, options=[dns.edns.EDEOption(dns.edns.EDECode(code), text)])
        return [Send(reply.to_wire())]

    return acts


def test_dns_26_extended_errors_of_an_upstream_are_passed_on() -> None:
    async def scenario() -> None:
        with UpstreamServer(fails_since(BOGUS, "no valid signature")) as upstream:
            async with forwarding(upstream) as scene:
                for _ in range(3):  # the second response comes from the cached failure
                    response = await scene.query(size=1232)
                    assert rcode_of(response) == "SERVFAIL"
                    assert extended_errors(response) == [BOGUS]
                    assert "no valid signature" in str(response.options[0])
                assert scene.questions_sent == 1
                assert (await scene.query()).edns == -1
                # Our own one if the upstream sends none, or a very long one.
                for acts in (returns_rcode(dns.rcode.SERVFAIL), fails_since(BOGUS, "x" * 600)):
                    upstream.set_behaviour(acts)
                    scene.pass_time(300)
                    assert extended_errors(await scene.query(size=1232)) == [NO_REACHABLE_AUTHORITY]

    run(scenario)


def test_dns_26_waiting_queries_get_not_ready_at_shutdown() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as upstream:
            async with forwarding(upstream) as scene:
                waiting = [scene.querying(size=size) for size in (None, 1232)]
                await until(lambda: scene.forwarder.waiting == len(waiting))
                scene.forwarder.stop()
                without_edns, with_edns = await asyncio.gather(*waiting)
                assert (rcode_of(without_edns), without_edns.edns) == ("SERVFAIL", -1)
                assert (rcode_of(with_edns), extended_errors(with_edns)) == ("SERVFAIL", [NOT_READY])

    run(scenario)


def test_dns_26_queries_over_the_limit_get_an_extended_error() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as upstream:
            async with forwarding(upstream, max_waiting=1) as scene:
                waiting = scene.querying("first.example")
                await until(lambda: scene.forwarder.waiting == 1)
                response = await scene.query("second.example", size=1232)
                assert (rcode_of(response), extended_errors(response)) == (
                    "SERVFAIL",
                    [NO_REACHABLE_AUTHORITY],
                )
                scene.forwarder.stop()
                await waiting

    run(scenario)


def test_dns_26_queries_without_rd_get_not_authoritative() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                response = await scene.query(flags=0, size=1232)
                assert (rcode_of(response), extended_errors(response)) == ("REFUSED", [NOT_AUTHORITATIVE])
                await scene.query()
                cached = await scene.query(flags=0, size=1232)
                assert (data_of(cached), extended_errors(cached)) == (["192.0.2.1"], [])

    run(scenario)


@pytest.mark.parametrize(
    ("name", "code", "errors"),
    [
        ("printer.local", "NXDOMAIN", [BLOCKED]),
        ("x.onion", "NXDOMAIN", [BLOCKED]),
        ("1.0.168.192.in-addr.arpa", "NXDOMAIN", [BLOCKED]),
        ("a.home.arpa", "NXDOMAIN", [BLOCKED]),
        ("home.arpa", "NOERROR", []),
        ("localhost", "NOERROR", []),
        ("_dns.resolver.arpa", "NOERROR", []),
    ],
)
def test_dns_26_special_use_names_get_blocked(name: str, code: str, errors: list[int]) -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                response = await scene.query(name, size=1232)
                assert (rcode_of(response), extended_errors(response)) == (code, errors)
                assert (await scene.query(name)).edns == -1

    run(scenario)


def give_cookies(scene: Scene) -> None:
    cookies = Cookies(bytes(16), lambda: NOW, is_shared=True)
    scene.authority.responder.edns_options = EdnsOptions(b"ns1", 10.0, cookies, for_client)


def cookies_of(response: dns.message.Message) -> list[bytes]:
    return [
        option.to_wire() or b"" for option in response.options if option.otype == dns.edns.OptionType.COOKIE
    ]


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_dns_23_deferred_and_cached_forwarded_responses_have_cookies(tcp: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                give_cookies(scene)
                upstream.set_behaviour(returns_rcode(dns.rcode.SERVFAIL), "fails.example")
                for _ in range(3):
                    response = await scene.query(size=1232, options=[COOKIE], tcp=tcp)
                    assert data_of(response) == ["192.0.2.1"]
                    assert cookies_of(response) == [ANSWERED]
                    failed = await scene.query("fails.example", size=1232, options=[COOKIE], tcp=tcp)
                    assert (rcode_of(failed), cookies_of(failed)) == ("SERVFAIL", [ANSWERED])
                    special = await scene.query("x.local", size=1232, options=[COOKIE], tcp=tcp)
                    assert (rcode_of(special), cookies_of(special)) == ("NXDOMAIN", [ANSWERED])
                    assert cookies_of(await scene.query(size=1232, tcp=tcp)) == []
                assert not any(received.query.options for received in upstream.queries)

    run(scenario)


@pytest.mark.parametrize("size", [512, 1232])
def test_dns_21_forwarded_responses_with_cookies_respect_the_size_limit(size: int) -> None:
    def many(received: ReceivedQuery) -> list[Send]:
        records = [f"{received.name} 60 A 192.0.2.{number}" for number in range(200)]
        return [Send(reply_to(received, *records))]

    async def scenario() -> None:
        with UpstreamServer(many) as upstream:
            async with forwarding(upstream) as scene:
                give_cookies(scene)
                for _ in range(2):
                    options = [COOKIE, dns.edns.GenericOption(dns.edns.OptionType.NSID, b"")]
                    response = await scene.query(size=size, options=options)
                    assert response.flags & dns.flags.TC
                    assert cookies_of(response) == [ANSWERED]
                    assert size - 16 < len(response.to_wire()) <= size  # one more record would not have fit

    run(scenario)
