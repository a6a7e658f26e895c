"""Host names resolved by upstreams: addresses, TTLs, failures and the hosts file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import dns.message
import dns.rcode
import dns.rrset
import pytest

from tests.forward.forwarder_helpers import NAMESPACE
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
from zkdns.config import Config, ForwardSettings, ForwardZoneSettings
from zkdns.dns.message import Type
from zkdns.forward.forward_zones import ForwardZones
from zkdns.forward.host_lookup import MAX_SECONDS, MIN_SECONDS, HostAddresses, HostLookup, addresses_in
from zkdns.forward.resolver import Resolver

HOST = "db.example"
OWN_ZONES = [(b"discovery",)]
NO_FILE = Path("/nowhere")
LIMIT_SECONDS = 1.0


def by_type(**records: str) -> Behaviour:
    """Reply with these records, by type, each as `ttl data`; deny other types for 900 s."""

    def act(received: ReceivedQuery) -> list[Send]:
        qtype = received.query.question[0].rdtype.name
        if qtype not in records:
            return denied(received)
        ttl, data = records[qtype].split()
        return [Send(reply_to(received, f"{received.name} {ttl} {qtype} {data}"))]

    return act


def denied(received: ReceivedQuery, rcode: int = dns.rcode.NOERROR) -> list[Send]:
    """Reply without records, for 900 s."""
    reply = dns.message.make_response(received.query, recursion_available=True)
    reply.set_rcode(dns.rcode.Rcode(rcode))
    reply.authority.append(
        dns.rrset.from_text("example.", 900, "IN", "SOA", "ns.example. host.example. 1 2 3 4 900")
    )
    return [Send(reply.to_wire())]


def zones_of(
    *upstreams: UpstreamServer, domains: Mapping[str, UpstreamServer | None] | None = None
) -> ForwardZones:
    """Return forward zones with these upstreams; a question fails after a short time."""
    config = Config(
        listen=(),
        namespaces=(NAMESPACE,),
        forward=ForwardSettings(
            upstreams=tuple(upstream.address for upstream in upstreams),
            zones={
                name: ForwardZoneSettings((upstream.address,) if upstream else ())
                for name, upstream in (domains or {}).items()
            },
        ),
    )
    return ForwardZones(config, [], None, partial(Resolver, limit_seconds=LIMIT_SECONDS))


@asynccontextmanager
async def looking_up(
    *upstreams: UpstreamServer,
    domains: Mapping[str, UpstreamServer | None] | None = None,
    hosts: Path = NO_FILE,
) -> AsyncIterator[HostLookup]:
    """Run a lookup with these upstreams, the zone `discovery` and this hosts file."""
    zones = zones_of(*upstreams, domains=domains)
    zones.start()
    try:
        yield HostLookup(zones, OWN_ZONES, hosts)
    finally:
        zones.stop()


# -- addresses --------------------------------------------------------------------------------------------


def test_addresses_of_both_families_are_sorted_and_unique() -> None:
    def act(received: ReceivedQuery) -> list[Send]:
        if received.query.question[0].rdtype.name == "AAAA":
            return [Send(reply_to(received, f"{received.name} 60 AAAA 2001:DB8:0:0::1"))]
        return [Send(reply_to(received, *(f"{received.name} 60 A 10.0.0.{number}" for number in (9, 2, 10))))]

    async def scenario() -> None:
        with UpstreamServer(act) as upstream:
            async with looking_up(upstream) as lookup:
                assert await lookup.find("DB.example") == HostAddresses(
                    ("10.0.0.10", "10.0.0.2", "10.0.0.9", "2001:db8::1"), 60
                )

    run(scenario)


def test_cname_records_are_skipped() -> None:
    def act(received: ReceivedQuery) -> list[Send]:
        alias = f"{received.name} 300 CNAME real.example."
        if received.query.question[0].rdtype.name == "AAAA":
            return [Send(reply_to(received, alias))]
        return [Send(reply_to(received, alias, "real.example. 40 A 10.0.0.1"))]

    async def scenario() -> None:
        with UpstreamServer(act) as upstream:
            async with looking_up(upstream) as lookup:
                found = await lookup.find(HOST)
                assert found is not None
                assert found.addresses == ("10.0.0.1",)

    run(scenario)


@pytest.mark.parametrize(
    ("records", "seconds"),
    [
        ({"A": "60 10.0.0.1"}, 60),
        ({"A": "60 10.0.0.1", "AAAA": "20 2001:db8::1"}, 20),
        ({"A": "0 10.0.0.1"}, MIN_SECONDS),
        ({"A": "1 10.0.0.1"}, MIN_SECONDS),
        ({"A": "86400 10.0.0.1"}, MAX_SECONDS),
        ({"AAAA": "7 2001:db8::1"}, 7),
    ],
)
def test_seconds_are_the_shortest_ttl_within_limits(records: dict[str, str], seconds: int) -> None:
    async def scenario() -> None:
        with UpstreamServer(by_type(**records)) as upstream:
            async with looking_up(upstream) as lookup:
                found = await lookup.find(HOST)
                assert found is not None
                assert found.seconds == seconds

    run(scenario)


@pytest.mark.parametrize(("failing", "record"), [("AAAA", "A 10.0.0.1"), ("A", "AAAA 2001:db8::1")])
@pytest.mark.parametrize("fault", [returns_rcode(dns.rcode.SERVFAIL), is_silent], ids=["servfail", "silence"])
def test_result_with_one_failed_family_is_valid_for_a_short_time(
    failing: str, record: str, fault: Behaviour
) -> None:
    """The result has the failed type and the reason, and is valid for less than the TTL."""

    def act(received: ReceivedQuery) -> list[Send]:
        if received.query.question[0].rdtype.name == failing:
            return list(fault(received))
        return [Send(reply_to(received, f"{received.name} 60 {record}"))]

    async def scenario() -> None:
        with UpstreamServer(act) as upstream:
            async with looking_up(upstream) as lookup:
                found = await lookup.find(HOST)
                assert found is not None
                assert (found.addresses, found.seconds) == ((record.split()[1],), MIN_SECONDS)
                assert [qtype.name for qtype in found.failed] == [failing]
                assert str(upstream.address) in found.reason

    run(scenario)


def test_merge_keeps_previous_addresses_of_failed_types() -> None:
    previous = ("10.0.0.9", "2001:db8::9")
    assert HostAddresses(("10.0.0.1",), 5, (Type.AAAA,)).merge(previous) == ("10.0.0.1", "2001:db8::9")
    assert HostAddresses(("2001:db8::1",), 5, (Type.A,)).merge(previous) == ("10.0.0.9", "2001:db8::1")
    assert HostAddresses(("10.0.0.1",), 5).merge(previous) == ("10.0.0.1",)


def test_upstreams_of_the_forward_zone_are_used() -> None:
    async def scenario() -> None:
        with (
            UpstreamServer(by_type(A="60 10.0.0.1")) as default,
            UpstreamServer(by_type(A="60 10.0.0.2")) as corp,
        ):
            domains = {"corp.example": corp, "none.example": None}
            async with looking_up(default, domains=domains) as lookup:
                assert await lookup.find("db.corp.example") == HostAddresses(("10.0.0.2",), 60)
                assert await lookup.find("db.example") == HostAddresses(("10.0.0.1",), 60)
                assert await lookup.find("db.none.example") is None

    run(scenario)


# -- no addresses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rcode", [dns.rcode.NXDOMAIN, dns.rcode.NOERROR])
def test_negative_replies_leave_the_name_to_the_system_resolver(rcode: int) -> None:
    async def scenario() -> None:
        with UpstreamServer(lambda received: denied(received, rcode)) as upstream:
            async with looking_up(upstream) as lookup:
                assert await lookup.find(HOST) is None

    run(scenario)


@pytest.mark.parametrize("act", [returns_rcode(dns.rcode.SERVFAIL), returns_rcode(dns.rcode.REFUSED)])
def test_failure_of_upstreams_is_an_error_with_a_reason(act: Behaviour) -> None:
    async def scenario() -> None:
        with UpstreamServer(act) as upstream:
            async with looking_up(upstream) as lookup:
                with pytest.raises(OSError, match=str(upstream.address)):
                    await lookup.find(HOST)

    run(scenario)


@pytest.mark.parametrize(
    "host",
    [
        "database",  # search lists apply
        "web.staging.discovery",
        "Discovery",
        "printer.local",  # mDNS applies
        "x.localhost",
        "x.invalid",
        "nas.home.arpa",
        "a..b",
        "a" * 64 + ".example",
        "",
    ],
)
def test_local_and_special_use_names_are_not_sent_to_upstreams(host: str) -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with looking_up(upstream) as lookup:
                assert await lookup.find(host) is None
                assert upstream.queries == []

    run(scenario)


def test_without_upstreams_the_result_is_none() -> None:
    async def scenario() -> None:
        async with looking_up() as lookup:
            assert await lookup.find(HOST) is None

    run(scenario)


def test_lookups_fail_when_the_resolver_stops_and_afterwards() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as upstream:
            zones = zones_of(upstream)
            zones.start()
            lookup = asyncio.create_task(HostLookup(zones, OWN_ZONES, NO_FILE).find(HOST))
            await until(lambda: upstream.queries)
            zones.stop()
            with pytest.raises(OSError, match="is being stopped"):
                await lookup
            with pytest.raises(OSError, match="is being stopped"):
                await HostLookup(zones, OWN_ZONES, NO_FILE).find(HOST)

    run(scenario)


# -- the hosts file ---------------------------------------------------------------------------------------

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
def test_hosts_file_is_parsed(host: str, addresses: tuple[str, ...]) -> None:
    assert addresses_in(HOSTS, host) == addresses


def test_hosts_file_has_precedence_and_is_read_each_time(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"

    async def scenario() -> None:
        with UpstreamServer(by_type(A="60 192.0.2.1")) as upstream:
            async with looking_up(upstream, hosts=hosts) as lookup:
                assert await lookup.find(HOST) == HostAddresses(("192.0.2.1",), 60)
                before = len(upstream.queries)
                hosts.write_text(HOSTS)
                found = await lookup.find(HOST)
                assert found is not None
                assert found.addresses == ("10.0.0.1", "10.0.0.2", "2001:db8::1")
                assert 0 < found.seconds <= 60
                assert len(upstream.queries) == before
                hosts.write_bytes(b"\xff\xfe 10.0.0.1 db.example\n10.0.0.7 db.example\n")
                found = await lookup.find(HOST)
                assert found is not None
                assert found.addresses == ("10.0.0.7",)

    run(scenario)
