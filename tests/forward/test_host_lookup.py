"""Host names of members, asked of upstreams: what is found, for how long, and what is left to the machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import dns.message
import dns.rcode
import dns.rrset
import pytest
from zkdns.dns.message import Type

from tests.forward.forwarder_helpers import NAMESPACE
from tests.forward.resolution_helpers import run
from tests.support.upstream import (
    Behaviour,
    ReceivedQuery,
    Send,
    UpstreamServer,
    is_silent,
    reply_to,
    returns_rcode,
)
from zkdns.config import Config, ForwardSettings, ForwardZoneSettings
from zkdns.forward.forward_zones import ForwardZones
from zkdns.forward.found import HostAddresses
from zkdns.forward.host_lookup import LEAST_SECONDS, MOST_SECONDS, HostLookup, addresses_in
from zkdns.forward.resolver import Resolver

HOST = "db.example"


def by_type(**records: str) -> Behaviour:
    """What is answered of each type, each as `ttl data`; of others that there is none, for 900 s."""

    def act(asked: ReceivedQuery) -> list[Send]:
        qtype = asked.query.question[0].rdtype.name
        if qtype not in records:
            return denied(asked)
        ttl, data = records[qtype].split()
        return [Send(reply_to(asked, f"{asked.name} {ttl} {qtype} {data}"))]

    return act


def denied(asked: ReceivedQuery, rcode: int = dns.rcode.NOERROR) -> list[Send]:
    """No records, for 900 s."""
    reply = dns.message.make_response(asked.query, recursion_available=True)
    reply.set_rcode(dns.rcode.Rcode(rcode))
    reply.authority.append(
        dns.rrset.from_text("example.", 900, "IN", "SOA", "ns.example. host.example. 1 2 3 4 900")
    )
    return [Send(reply.to_wire())]


@asynccontextmanager
async def looking_up(
    *upstreams: UpstreamServer,
    domains: Mapping[str, UpstreamServer | None] | None = None,
    hosts: Path = Path("/nowhere"),
) -> AsyncIterator[HostLookup]:
    """What asks these, in the zone `discovery`; its hosts file is this one."""
    config = Config(
        listen=(),
        namespaces=(NAMESPACE,),
        forward=ForwardSettings(
            upstreams=tuple(resolver.address for resolver in upstreams),
            zones={
                name: ForwardZoneSettings((resolver.address,) if resolver else ())
                for name, resolver in (domains or {}).items()
            },
        ),
    )
    routes = ForwardZones(config, [], None, Resolver)
    routes.start()
    try:
        yield HostLookup(routes, config.zones, hosts)
    finally:
        routes.stop()


# -- what is found ------------------------------------------------------------------------------------------


def test_addresses_of_both_families_are_found_in_order_each_once() -> None:
    def act(asked: ReceivedQuery) -> list[Send]:
        if asked.query.question[0].rdtype.name == "AAAA":
            return [Send(reply_to(asked, f"{asked.name} 60 AAAA 2001:DB8:0:0::1"))]
        return [Send(reply_to(asked, *(f"{asked.name} 60 A 10.0.0.{number}" for number in (9, 2, 10))))]

    async def scenario() -> None:
        with UpstreamServer(act) as resolver:
            async with looking_up(resolver) as lookup:
                assert await lookup.find("DB.example") == HostAddresses(
                    ("10.0.0.10", "10.0.0.2", "10.0.0.9", "2001:db8::1"), 60
                )

    run(scenario)


def test_aliases_are_followed_to_their_addresses_and_are_none() -> None:
    def act(asked: ReceivedQuery) -> list[Send]:
        alias = f"{asked.name} 300 CNAME real.example."
        if asked.query.question[0].rdtype.name == "AAAA":
            return [Send(reply_to(asked, alias))]
        return [Send(reply_to(asked, alias, "real.example. 40 A 10.0.0.1"))]

    async def scenario() -> None:
        with UpstreamServer(act) as resolver:
            async with looking_up(resolver) as lookup:
                found = await lookup.find(HOST)
                assert found is not None
                assert found.addresses == ("10.0.0.1",)

    run(scenario)


@pytest.mark.parametrize(
    ("records", "seconds"),
    [
        ({"A": "60 10.0.0.1"}, 60),
        ({"A": "60 10.0.0.1", "AAAA": "20 2001:db8::1"}, 20),
        ({"A": "0 10.0.0.1"}, LEAST_SECONDS),
        ({"A": "1 10.0.0.1"}, LEAST_SECONDS),
        ({"A": "86400 10.0.0.1"}, MOST_SECONDS),
        ({"AAAA": "7 2001:db8::1"}, 7),
    ],
)
def test_it_is_looked_up_again_when_its_least_ttl_is_over(records: dict[str, str], seconds: int) -> None:
    async def scenario() -> None:
        with UpstreamServer(by_type(**records)) as resolver:
            async with looking_up(resolver) as lookup:
                found = await lookup.find(HOST)
                assert found is not None
                assert found.seconds == seconds

    run(scenario)


@pytest.mark.parametrize(("failing", "record"), [("AAAA", "A 10.0.0.1"), ("A", "AAAA 2001:db8::1")])
@pytest.mark.parametrize("fault", [returns_rcode(dns.rcode.SERVFAIL), is_silent], ids=["servfail", "silence"])
def test_one_family_is_enough_where_the_other_has_no_answer(
    failing: str, record: str, fault: Behaviour
) -> None:
    """Of the other it is told that nothing is known, and why; it is asked for again before a TTL is over."""

    def act(asked: ReceivedQuery) -> list[Send]:
        if asked.query.question[0].rdtype.name == failing:
            return list(fault(asked))
        return [Send(reply_to(asked, f"{asked.name} 60 {record}"))]

    async def scenario() -> None:
        with UpstreamServer(act) as resolver:
            async with looking_up(resolver) as lookup:
                found = await lookup.find(HOST)
                assert found is not None
                assert (found.addresses, found.seconds) == ((record.split()[1],), LEAST_SECONDS)
                assert [qtype.name for qtype in found.failed] == [failing]
                assert str(resolver.address) in found.reason

    run(scenario)


def test_of_what_was_known_that_stands_which_no_answer_was_about() -> None:
    known = ("10.0.0.9", "2001:db8::9")
    assert HostAddresses(("10.0.0.1",), 5, (Type.AAAA,)).beside(known) == ("10.0.0.1", "2001:db8::9")
    assert HostAddresses(("2001:db8::1",), 5, (Type.A,)).beside(known) == ("10.0.0.9", "2001:db8::1")
    assert HostAddresses(("10.0.0.1",), 5).beside(known) == ("10.0.0.1",)


def test_a_domains_own_upstreams_are_asked_for_its_names() -> None:
    async def scenario() -> None:
        with (
            UpstreamServer(by_type(A="60 10.0.0.1")) as everybodys,
            UpstreamServer(by_type(A="60 10.0.0.2")) as corps,
        ):
            domains = {"corp.example": corps, "none.example": None}
            async with looking_up(everybodys, domains=domains) as lookup:
                assert await lookup.find("db.corp.example") == HostAddresses(("10.0.0.2",), 60)
                assert await lookup.find("db.example") == HostAddresses(("10.0.0.1",), 60)
                assert await lookup.find("db.none.example") is None

    run(scenario)


# -- what is not --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rcode", [dns.rcode.NXDOMAIN, dns.rcode.NOERROR])
def test_what_upstreams_deny_the_machine_itself_may_know(rcode: int) -> None:
    async def scenario() -> None:
        with UpstreamServer(lambda asked: denied(asked, rcode)) as resolver:
            async with looking_up(resolver) as lookup:
                assert await lookup.find(HOST) is None

    run(scenario)


@pytest.mark.parametrize("act", [returns_rcode(dns.rcode.SERVFAIL), returns_rcode(dns.rcode.REFUSED)])
def test_that_upstreams_do_not_answer_is_an_error_that_says_why(act: Behaviour) -> None:
    async def scenario() -> None:
        with UpstreamServer(act) as resolver:
            async with looking_up(resolver) as lookup:
                with pytest.raises(OSError, match=str(resolver.address)):
                    await lookup.find(HOST)

    run(scenario)


@pytest.mark.parametrize(
    "host",
    [
        "database",  # for which there are search lists
        "web.staging.discovery",
        "Discovery",
        "printer.local",  # which mDNS may know
        "x.localhost",
        "x.invalid",
        "nas.home.arpa",
        "a..b",
        "a" * 64 + ".example",
        "",
    ],
)
def test_names_that_upstreams_cannot_know_they_are_not_asked_for(host: str) -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with looking_up(resolver) as lookup:
                assert await lookup.find(host) is None
                assert resolver.queries == []

    run(scenario)


def test_without_upstreams_nothing_is_known() -> None:
    async def scenario() -> None:
        async with looking_up() as lookup:
            assert await lookup.find(HOST) is None

    run(scenario)


def test_who_waits_at_the_end_is_told() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as resolver:
            async with looking_up(resolver) as lookup:
                waiting = lookup.find(HOST)
                lookup._routes.find(()).exchanges.stop()
                with pytest.raises(OSError, match="are on their way"):
                    await waiting

    run(scenario)


# -- the hosts file -----------------------------------------------------------------------------------------

HOSTS = """\
# 10.9.9.9 db.example
127.0.0.1\tlocalhost
  10.0.0.2   db.example DB2   # db3.example
10.0.0.1 other.example Db.Example
2001:DB8::0:1 db.example
10.0.0.300 db.example
fe80::1%eth0 db.example

db.example
"""


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("db.example", ("10.0.0.1", "10.0.0.2", "2001:db8::1")),
        ("DB.EXAMPLE", ("10.0.0.1", "10.0.0.2", "2001:db8::1")),
        ("db.example.", ("10.0.0.1", "10.0.0.2", "2001:db8::1")),
        ("db2", ("10.0.0.2",)),
        ("db3.example", ()),
        ("example", ()),
        ("10.0.0.1", ()),
    ],
)
def test_names_are_found_in_a_hosts_file(host: str, addresses: tuple[str, ...]) -> None:
    assert addresses_in(HOSTS, host) == addresses


def test_the_hosts_file_goes_before_upstreams_and_is_read_each_time(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"

    async def scenario() -> None:
        with UpstreamServer(by_type(A="60 192.0.2.1")) as resolver:
            async with looking_up(resolver, hosts=hosts) as lookup:
                assert await lookup.find(HOST) == HostAddresses(("192.0.2.1",), 60)
                asked = len(resolver.queries)
                hosts.write_text(HOSTS)
                found = await lookup.find(HOST)
                assert found is not None
                assert found.addresses == ("10.0.0.1", "10.0.0.2", "2001:db8::1")
                assert 0 < found.seconds <= 60
                assert len(resolver.queries) == asked
                hosts.write_bytes(b"\xff\xfe 10.0.0.1 db.example\n10.0.0.7 db.example\n")
                found = await lookup.find(HOST)
                assert found is not None
                assert found.addresses == ("10.0.0.7",)

    run(scenario)
