"""What a forwarder tells beside SERVFAIL, REFUSED and NXDOMAIN (RFC 8914), and cookies on its answers."""

from __future__ import annotations

import asyncio

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from zkdns.dns.edns_options import EdnsOptions

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
from zkdns.transport import PerClientResponse

BOGUS, NO_REACHABLE_AUTHORITY, NOT_READY, NOT_AUTHORITATIVE, BLOCKED = 6, 22, 14, 20, 15
NOW = 1_559_731_985.0
CLIENT = bytes.fromhex("2464c4abcf10c957")
COOKIE = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, CLIENT)
ANSWERED = CLIENT + Cookies(bytes(16), lambda: NOW, is_shared=True).make(CLIENT, b"\x7f\0\0\1")


def fails_since(code: int, text: str) -> Behaviour:
    """SERVFAIL with an extended error."""

    def acts(asked: ReceivedQuery) -> list[Send]:
        reply = dns.message.from_wire(reply_to(asked, rcode=dns.rcode.SERVFAIL))
        reply.use_edns(0, 0, 1232, options=[dns.edns.EDEOption(dns.edns.EDECode(code), text)])
        return [Send(reply.to_wire())]

    return acts


def test_dns_26_what_an_upstream_tells_of_its_failure_is_passed_on() -> None:
    async def scenario() -> None:
        with UpstreamServer(fails_since(BOGUS, "no valid signature")) as resolver:
            async with forwarding(resolver) as scene:
                for _ in range(3):  # the second time the failure is known
                    response = await scene.query(size=1232)
                    assert rcode_of(response) == "SERVFAIL"
                    assert extended_errors(response) == [BOGUS]
                    assert "no valid signature" in str(response.options[0])
                assert scene.exchanges_asked == 1
                assert (await scene.query()).edns == -1
                # Of another one nothing is left, and a text that is too long is none of ours to keep.
                for acts in (returns_rcode(dns.rcode.SERVFAIL), fails_since(BOGUS, "x" * 600)):
                    resolver.set_behaviour(acts)
                    scene.pass_time(300)
                    assert extended_errors(await scene.query(size=1232)) == [NO_REACHABLE_AUTHORITY]

    run(scenario)


def test_dns_26_who_waits_at_the_end_is_told_that_it_is_the_end() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as resolver:
            async with forwarding(resolver) as scene:
                waiting = [scene.asking(size=size) for size in (None, 1232)]
                await until(lambda: scene.forwarder.waiting == len(waiting))
                scene.forwarder.stop()
                plain, told = await asyncio.gather(*waiting)
                assert (rcode_of(plain), plain.edns) == ("SERVFAIL", -1)
                assert (rcode_of(told), extended_errors(told)) == ("SERVFAIL", [NOT_READY])

    run(scenario)


def test_dns_26_when_too_many_wait_that_is_told() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as resolver:
            async with forwarding(resolver, max_waiting=1) as scene:
                waiting = scene.asking("first.example")
                await until(lambda: scene.forwarder.waiting == 1)
                response = await scene.query("second.example", size=1232)
                assert (rcode_of(response), extended_errors(response)) == (
                    "SERVFAIL",
                    [NO_REACHABLE_AUTHORITY],
                )
                scene.forwarder.stop()
                await waiting

    run(scenario)


def test_dns_26_who_wants_nobody_else_to_be_asked_is_told_why_there_is_no_answer() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver) as scene:
                response = await scene.query(flags=0, size=1232)
                assert (rcode_of(response), extended_errors(response)) == ("REFUSED", [NOT_AUTHORITATIVE])
                await scene.query()
                known = await scene.query(flags=0, size=1232)
                assert (data_of(known), extended_errors(known)) == (["192.0.2.1"], [])

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
def test_dns_26_of_names_that_are_never_forwarded_that_is_told(
    name: str, code: str, errors: list[int]
) -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver) as scene:
                response = await scene.query(name, size=1232)
                assert (rcode_of(response), extended_errors(response)) == (code, errors)
                assert (await scene.query(name)).edns == -1

    run(scenario)


def give_cookies(scene: Scene) -> None:
    cookies = Cookies(bytes(16), lambda: NOW, is_shared=True)
    scene.authority.responder.extras = EdnsOptions(b"ns1", 10.0, cookies, PerClientResponse)


def cookies_of(response: dns.message.Message) -> list[bytes]:
    return [
        option.to_wire() or b"" for option in response.options if option.otype == dns.edns.OptionType.COOKIE
    ]


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_dns_23_forwarded_answers_have_cookies_whether_they_come_late_or_from_the_cache(tcp: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver) as scene:
                give_cookies(scene)
                resolver.set_behaviour(returns_rcode(dns.rcode.SERVFAIL), "fails.example")
                for _ in range(3):
                    response = await scene.query(size=1232, options=[COOKIE], tcp=tcp)
                    assert data_of(response) == ["192.0.2.1"]
                    assert cookies_of(response) == [ANSWERED]
                    failed = await scene.query("fails.example", size=1232, options=[COOKIE], tcp=tcp)
                    assert (rcode_of(failed), cookies_of(failed)) == ("SERVFAIL", [ANSWERED])
                    special = await scene.query("x.local", size=1232, options=[COOKIE], tcp=tcp)
                    assert (rcode_of(special), cookies_of(special)) == ("NXDOMAIN", [ANSWERED])
                    assert cookies_of(await scene.query(size=1232, tcp=tcp)) == []
                assert not any(asked.query.options for asked in resolver.queries)

    run(scenario)


@pytest.mark.parametrize("size", [512, 1232])
def test_dns_21_forwarded_answers_with_cookies_are_no_longer_than_they_may_be(size: int) -> None:
    def many(asked: ReceivedQuery) -> list[Send]:
        records = [f"{asked.name} 60 A 192.0.2.{number}" for number in range(200)]
        return [Send(reply_to(asked, *records))]

    async def scenario() -> None:
        with UpstreamServer(many) as resolver:
            async with forwarding(resolver) as scene:
                give_cookies(scene)
                for _ in range(2):
                    options = [COOKIE, dns.edns.GenericOption(dns.edns.OptionType.NSID, b"")]
                    response = await scene.query(size=size, options=options)
                    assert response.flags & dns.flags.TC
                    assert cookies_of(response) == [ANSWERED]
                    assert size - 16 < len(response.to_wire()) <= size  # a record more would not have fitted

    run(scenario)
