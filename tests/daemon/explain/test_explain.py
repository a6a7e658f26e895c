"""Explanations of names, verdicts on members, and that an explanation does not change the table."""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.daemon.ipc.feed_helpers import health_of, watcher_context
from tests.dns.helpers import member, put
from zkdns.admin.api_types import Explanation, MemberCount
from zkdns.config import Config, load_config
from zkdns.daemon.explain.explain import explain
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.ipc.request_messages import CountMembers, Explain, ReadHistory, Refused
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.daemon.watcher.host_resolver import Failure
from zkdns.daemon.watcher.request_handlers import count_members, list_services, read_history
from zkdns.dns.zone import Zone
from zkdns.forward.forward_zones import ForwardZones
from zkdns.forward.resolver import Resolver
from zkdns.names import to_text
from zkdns.serverset.changes import Change, HostResolved, MembersHeld, SetChanged, SetDropped, SetUnread

WEB = put(
    "web.staging",
    [
        member(1, "10.0.0.1:80", additional={"admin": "10.0.0.1:81", "debug": "10.9.9.9:82"}, shard=3),
        member(2, "10.0.0.2:80"),
        member(3, "10.0.0.3:80", status="STARTING"),
    ],
)
MORE = (put("api.v2.staging", ["10.0.1.1:80"]), put("web.prod", []), put("db.prod", ["10.0.0.1:90"]))
FIRST = (WEB, *MORE)


class Server:
    """The context of a watcher that has read these sets."""

    def __init__(self, *changes: Change, ready: bool = True, **flags: Any) -> None:
        self.config: Config = load_config(flags={"upstream": ("none",), **flags}, environment={}, file=None)
        self.publisher = Publisher()
        self.context: WatcherContext = watcher_context(self.config, self.publisher)
        self.publisher.publish(changes)
        self.publisher.set_health(health_of(ready=ready, stale=False))

    async def explain(self, name: str) -> Explanation:
        explained = await explain(Explain(name), self.context)
        assert isinstance(explained, Explanation)
        return explained


def explained(name: str, *changes: Change, **flags: Any) -> Explanation:
    """Explain one name."""

    async def run() -> Explanation:
        return await Server(*(changes or FIRST), **flags).explain(name)

    return asyncio.run(run())


def answers_of(found: Explanation) -> str:
    """Return the number of records by type, or the rcode."""
    return " ".join(
        f"{one.type}:{one.records if one.rcode == 'NOERROR' else one.rcode}" for one in found.answers
    )


@pytest.mark.parametrize(
    ("asked", "kind", "name", "answers", "rule"),
    [
        ("web.staging", "service", "web.staging.discovery", "A:2 AAAA:0 SRV:2", "the service web.staging"),
        ("WEB.Staging.Discovery.", "service", "web.staging.discovery", "A:2 AAAA:0 SRV:2", "the service"),
        ("web.prod", "service", "web.prod.discovery", "A:0 AAAA:0 SRV:0", "the service web.prod"),
        ("api.v2.staging", "service", "api.v2.staging.discovery", "A:1 AAAA:0 SRV:1", "api.v2.staging"),
        ("discovery", "apex", "discovery", "SOA:1 NS:1 A:0 AAAA:0 SRV:0", "zone"),
        ("_digest", "digest", "_digest.discovery", "TXT:1", "the digest of the zone discovery"),
        ("staging", "environment", "staging.discovery", "A:0 AAAA:0 SRV:0", "2 services are below"),
        ("v2.staging", "environment", "v2.staging.discovery", "A:0 AAAA:0 SRV:0", "1 service is below"),
        ("m1.web.staging", "member", "m1.web.staging.discovery", "A:1 AAAA:0 SRV:1", "member_0000000001"),
        ("s3.web.staging", "shard", "s3.web.staging.discovery", "A:1 AAAA:0 SRV:1", "shard 3"),
        ("m1-debug.web.staging", "host", "m1-debug.web.staging.discovery", "A:1 AAAA:0 SRV:1", "host"),
        (
            "_admin._tcp.web.staging",
            "endpoint",
            "_admin._tcp.web.staging.discovery",
            "A:0 AAAA:0 SRV:1",
            "admin",
        ),
        ("_tcp.web.staging", "environment", "_tcp.web.staging.discovery", "A:0 AAAA:0 SRV:0", "endpoints"),
        ("_web._tcp.staging", "rfc2782", "_web._tcp.staging.discovery", "A:0 AAAA:0 SRV:2", "RFC 2782"),
        ("/discovery/staging/web", "service", "web.staging.discovery", "A:2 AAAA:0 SRV:2", "the service"),
        ("/discovery/staging/web/", "service", "web.staging.discovery", "A:2 AAAA:0 SRV:2", "the service"),
        (
            "/discovery/staging/web/member_0000000002",
            *("member", "m2.web.staging.discovery", "A:1 AAAA:0 SRV:1", "the member member_0000000002"),
        ),
        (
            "web.stagin",
            "absent",
            "web.stagin.discovery",
            "A:NXDOMAIN AAAA:NXDOMAIN SRV:NXDOMAIN",
            "no service",
        ),
        (
            "nix.staging",
            "absent",
            "nix.staging.discovery",
            "A:NXDOMAIN AAAA:NXDOMAIN SRV:NXDOMAIN",
            "no service",
        ),
        (
            "m9.web.staging",
            "absent",
            "m9.web.staging.discovery",
            "A:NXDOMAIN AAAA:NXDOMAIN SRV:NXDOMAIN",
            "m9",
        ),
        (
            "m3.web.staging",
            "absent",
            "m3.web.staging.discovery",
            "A:NXDOMAIN AAAA:NXDOMAIN SRV:NXDOMAIN",
            "not answ",
        ),
        (
            "_x._tcp.web.staging",
            "absent",
            "_x._tcp.web.staging.discovery",
            "A:NXDOMAIN AAAA:NXDOMAIN SRV:NXDOMAIN",
            "x",
        ),
        ("/discovery/staging/nix", "absent", "/discovery/staging/nix", "", "no service's znode"),
        ("/discovery/staging/a..b", "absent", "/discovery/staging/a..b", "", "DNS cannot carry"),
        (
            "www.example.com",
            "refused",
            "www.example.com",
            "A:REFUSED AAAA:REFUSED SRV:REFUSED",
            "no service has this name; it is outside the zones (discovery), and refused: ",
        ),
        ("web.staging.", "refused", "web.staging", "A:REFUSED AAAA:REFUSED SRV:REFUSED", "outside the zones"),
        ("10.0.0.1", "refused", "1.0.0.10.in-addr.arpa", "A:REFUSED AAAA:REFUSED SRV:REFUSED", "outside"),
    ],
)
def test_each_name_is_explained_by_the_rule_that_answers_it(
    asked: str, kind: str, name: str, answers: str, rule: str
) -> None:
    found = explained(asked)
    assert (found.kind, found.name, answers_of(found)) == (kind, name, answers)
    assert rule in found.rule
    assert found.is_answered == any(one.records for one in found.answers)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("web.stagin", ("web.staging",)),
        ("wbe.staging", ("web.staging",)),
        ("nix.staging", ("web.staging", "api.v2.staging")),  # not similar, but existing
        ("web.prd", ("web.prod", "db.prod")),
        ("_admi._tcp.web.staging", ("_admin._tcp.web.staging",)),
        ("/discovery/stagin/web", ("/discovery/staging/web",)),
    ],
)
def test_similar_names_are_suggested_for_an_absent_name(asked: str, nearest: tuple[str, ...]) -> None:
    assert set(nearest) <= set(explained(asked).nearest)


@pytest.mark.parametrize("asked", ["api.staging", "m1.api.staging", "web.test", "/discovery/staging/api"])
def test_a_name_that_is_not_followed_is_explained_by_the_setting(asked: str) -> None:
    found = explained(asked, only=("web.staging", "*.prod"))
    assert (found.kind, found.rule) == ("absent", 'it is not followed (only = ["web.staging", "*.prod"])')
    for followed in ("web.staging", "api.prod"):
        assert "only" not in explained(followed, only=("web.staging", "*.prod")).rule


def test_browsing_and_reverse_names_are_explained_if_switched_on() -> None:
    flags = {"dns_sd": True, "reverse": True}
    instance = explained("m1._web._tcp.staging", **flags)
    assert (instance.kind, answers_of(instance)) == ("dns-sd", "PTR:0 SRV:1 TXT:1")
    assert [row.member for row in instance.members] == ["member_0000000001"]
    types = explained("_services._dns-sd._udp.staging", **flags)
    assert (types.kind, answers_of(types)) == ("dns-sd", "PTR:1 SRV:0 TXT:0")
    address = explained("10.0.0.1", **flags)
    assert (address.kind, answers_of(address)) == ("address", "PTR:2")
    assert explained("10.0.0.77", **flags).kind == "refused"


def test_names_outside_the_zones_are_explained_with_their_upstreams() -> None:
    async def run() -> list[Explanation]:
        server = Server(*FIRST, upstream=("192.0.2.53", "192.0.2.54:5353"))
        server.context.forward_zones = ForwardZones(server.config, (), None, Resolver)
        return [await server.explain(name) for name in ("www.example.com", "x.onion", "localhost", ".")]

    example, onion, local, root = asyncio.run(run())
    assert (example.kind, example.is_answered, example.answers) == ("forwarded", True, ())
    assert example.rule.endswith("forwarded to 192.0.2.53:53, 192.0.2.54:5353 (forward.upstreams)")
    assert (onion.kind, answers_of(onion)) == ("special", "A:NXDOMAIN AAAA:NXDOMAIN SRV:NXDOMAIN")
    assert (local.kind, answers_of(local), local.is_answered) == ("special", "A:1 AAAA:1 SRV:0", True)
    assert (root.kind, root.name) == ("forwarded", ".")


def test_names_of_a_table_or_service_that_was_not_read_are_unread() -> None:
    for asked in ("web.staging", "web.staging.discovery"):
        found = explained(asked, ready=False)
        assert (found.kind, found.is_answered, answers_of(found)) == (
            *("unread", False),
            "A:SERVFAIL AAAA:SERVFAIL SRV:SERVFAIL",
        )
        dropped = explained(asked, SetDropped(WEB.origin), ready=False)
        assert (dropped.kind, dropped.name) == ("unread", "web.staging.discovery")
    unread = explained("web.staging", SetUnread(WEB.origin, WEB.name))
    assert (unread.kind, answers_of(unread)) == ("unread", "A:SERVFAIL AAAA:SERVFAIL SRV:SERVFAIL")
    assert "ACL" in unread.rule


def test_an_invalid_name_is_refused() -> None:
    async def run() -> object:
        return await explain(Explain("a..b"), Server(*FIRST).context)

    assert asyncio.run(run()) == Refused("invalid", "'a..b' is not a domain name: it has an empty label")


def verdicts(found: Explanation) -> list[tuple[str, str]]:
    """Return number and verdict of each member."""
    return [(row.member.removeprefix("member_").lstrip("0"), row.verdict) for row in found.members]


MEMBERS = [
    member(1, "10.0.0.1:80"),
    member(2, "10.0.0.2:80", status="STARTING"),
    member(3, "10.0.0.3:80", weight=0.0),
    member(4, "10.0.0.4:80", weight=-1.0),
    member(5, "10.0.0.1:80"),
    member(6, "nowhere.example:80"),
    member(7, "10.0.0.7:80"),
    member(8, None, additional={"admin": "10.0.0.8:81"}),
]


def test_each_member_has_a_verdict_with_a_reason() -> None:
    async def run() -> None:
        server = Server(put("web.staging", MEMBERS))
        server.publisher.publish([MembersHeld("/discovery/staging/web", ("member_0000000007",))])
        since = time.time() - 90
        server.context.resolver.failures["nowhere.example"] = Failure("A, AAAA", since, "SERVFAIL")
        found = await server.explain("web.staging")
        assert verdicts(found) == [
            *[("1", "duplicate"), ("2", "hidden"), ("3", "drained"), ("4", "dropped"), ("5", "answered")],
            *[("6", "unresolved"), ("7", "held"), ("8", "answered")],
        ]
        why = {row.member[-1]: row.why for row in found.members}
        assert why["1"] == "member_0000000005 has the same endpoint"
        assert why["2"] == "its status is STARTING; answered are ALIVE"
        assert why["6"] == "no A, AAAA of nowhere.example for 1m 30s (SERVFAIL)"
        assert why["7"] == "it has left"
        assert found.members[3].name is None
        server.publisher.publish([HostResolved("nowhere.example", ("10.0.0.6",))])
        server.context.resolver.resolved["nowhere.example"] = since
        row = (await server.explain("web.staging")).members[5]
        assert (row.verdict, row.addresses) == ("answered", ("10.0.0.6",))
        assert row.why.endswith("; its addresses are 1m 30s old")

    asyncio.run(run())


def test_a_member_of_weight_0_is_answered_if_there_is_no_other() -> None:
    found = explained("web.staging", put("web.staging", MEMBERS[1:4]))
    assert verdicts(found) == [("2", "hidden"), ("3", "answered"), ("4", "dropped")]
    assert answers_of(found) == "A:1 AAAA:0 SRV:1"


@pytest.mark.parametrize(
    ("order", "expected"), [("fixed", ["answered"] * 2 + ["beyond"] * 3), ("random", ["answered"] * 5)]
)
def test_members_beyond_max_answers_are_marked_if_the_order_is_fixed(
    order: str, expected: Sequence[str]
) -> None:
    members = [member(number, f"10.0.0.{number}:80") for number in range(1, 6)]
    found = explained("web.staging", put("web.staging", members), order=order, max_answers="2")
    assert [row.verdict for row in found.members] == expected
    assert answers_of(found) == "A:2 AAAA:0 SRV:2"
    assert found.notes == ("an answer has 2 of 5 members (max_answers)",)


def test_sets_whose_names_differ_in_case_only_are_explained_as_one_service() -> None:
    other = put("web.staging", [member(1, "10.0.0.9:80")], origin="/discovery/staging/Web")
    found = explained("web.staging", WEB, other)
    assert found.origins == ("/discovery/staging/Web", "/discovery/staging/web")
    assert "several sets are one service" in found.notes[0]
    assert len({row.name for row in found.members if row.name}) == 3


def test_the_name_of_a_departed_member_is_answered_and_the_table_is_not_changed() -> None:
    async def run() -> None:
        server = Server(*FIRST)
        removal = SetChanged(WEB.origin, (), ("member_0000000002",))
        server.publisher.publish([removal])
        found = await server.explain("m2.web.staging")
        assert (found.kind, answers_of(found), found.members) == ("member", "A:1 AAAA:0 SRV:1", ())
        note = r"it left [0-9.]+(?:µs|ms|s) ago; its own name is answered for 1m more"
        assert re.fullmatch(note, found.notes[0])
        assert answers_of(await server.explain("web.staging")) == "A:1 AAAA:0 SRV:1"
        assert server.publisher.table.services[WEB.name.key].departed == {}
        server.publisher.publish([SetChanged(WEB.origin, WEB.members[1:2], ())])
        assert (await server.explain("m2.web.staging")).notes == ()

    asyncio.run(run())


def test_every_name_with_records_is_classified_as_existing() -> None:
    async def run() -> None:
        server = Server(*FIRST, put("deep.er.staging", ["db.example:80", "[2001:db8::1]:80"]), dns_sd=True)
        zone = Zone(server.publisher.table, server.config)
        names = [name for key in zone.services for name in zone.names_of_service(key)] + [
            *zone.dns_sd_names()
        ]
        assert len(names) > 30
        for name in names:
            found = await server.explain(to_text(name) + ".")
            assert found.kind not in {"absent", "refused", "environment", "unread"}, name
            assert found.name == to_text(name)

    asyncio.run(run())


def test_counted_members_agree_with_their_verdicts() -> None:
    async def run() -> None:
        server = Server(put("web.staging", MEMBERS), put("drained.staging", MEMBERS[1:4]))
        server.publisher.publish([MembersHeld("/discovery/staging/web", ("member_0000000007",))])
        for name in ("web.staging", "web.staging.discovery", "/discovery/staging/web"):
            # 1 and 5 have one endpoint; 3 is drained; 8 has no service endpoint; 6 counts without addresses.
            assert count_members(CountMembers(name), server.context) == MemberCount(
                3, 1, exists=True, ready=True, service="web.staging.discovery"
            )
        drained = count_members(CountMembers("drained.staging"), server.context)
        assert drained == MemberCount(1, 0, exists=True, ready=True, service="drained.staging.discovery")
        none = MemberCount(0, 0, exists=False, ready=True)
        assert count_members(CountMembers("nix.staging"), server.context) == none
        assert isinstance(count_members(CountMembers("a..b"), server.context), Refused)

    asyncio.run(run())


def test_services_are_listed_with_member_counts_in_parts() -> None:
    async def run() -> None:
        many = [put(f"s{number:04}.prod", ["10.0.0.1:80"]) for number in range(1200)]
        server = Server(put("web.staging", MEMBERS), *many)
        server.publisher.publish([MembersHeld("/discovery/staging/web", ("member_0000000007",))])
        *parts, last = list_services(server.context)
        assert (last.services, len(parts)) == ((), 5)
        lines = {line.name: line for part in parts for line in part.services}
        assert len(lines) == 1201
        web = lines["web.staging"]
        assert (web.alive, web.hidden, web.held, web.bad, web.drained) == (5, 2, 1, 0, 1)
        assert abs((web.changed or 0.0) - time.time()) < 5
        assert lines["s0007.prod"].changed is None

    asyncio.run(run())


def test_the_history_of_a_removed_service_is_found_by_each_of_its_names() -> None:
    async def run() -> None:
        server = Server(*FIRST)
        server.publisher.publish([SetDropped(WEB.origin), SetDropped(MORE[2].origin)])
        for name in ("web.staging", "WEB.staging.discovery.", WEB.origin):
            page = read_history(ReadHistory(name), server.context)
            assert not isinstance(page, Refused)
            assert [entry.kind for entry in page.entries] == ["left"] * 3 + ["service gone"]
        everything = read_history(ReadHistory(), server.context)
        assert not isinstance(everything, Refused)
        assert len(everything.entries) == 6
        assert isinstance(read_history(ReadHistory("a..b"), server.context), Refused)

    asyncio.run(run())
