"""Requests for a service by each of its spellings, similar names, and the list of server sets."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.daemon.explain.test_explain import FIRST, WEB, Server
from tests.dns.helpers import member, put
from zkdns.admin.api_types import Explanation, HistoryPage, MemberCount, Names
from zkdns.daemon.explain.explain import explain
from zkdns.daemon.ipc.request_messages import (
    AcceptLosses,
    CountMembers,
    Explain,
    ListSets,
    ListSimilar,
    ReadHistory,
    Refused,
)
from zkdns.daemon.watcher.request_handlers import read_history, respond_when_applied
from zkdns.serverset.changes import Change, SetDropped
from zkdns.serverset.service_counts import Listing, ServiceCount

DISCOVERY = put("discovery.staging", ["10.0.2.1:80"])
"""A service that is named like the zone."""
EVERYTHING: tuple[Change, ...] = (*FIRST, DISCOVERY, put("web.discovery", [member(1, "[2001:db8::1]:80")]))


def ask(request: object, *changes: Change) -> object:
    async def run() -> object:
        return await respond_when_applied(request, Server(*(changes or EVERYTHING)).context)  # type: ignore[arg-type]

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("web.staging", "web.staging.discovery"),
        ("WEB.staging.discovery", "web.staging.discovery"),
        ("web.staging.discovery.", "web.staging.discovery"),
        ("/discovery/staging/web/", "web.staging.discovery"),
        ("discovery.staging", "discovery.staging.discovery"),
        ("web.discovery", "web.discovery.discovery"),
        ("10.0.0.2", "web.staging.discovery"),
        ("10.0.0.2:80", "web.staging.discovery"),
        ("10.0.0.1:81", "web.staging.discovery"),
        ("[2001:DB8::1]:80", "web.discovery.discovery"),
        ("2001:db8::1", "web.discovery.discovery"),
        ("10.0.0.2:81", ""),
        ("10.9.9.9", ""),
        ("web", ""),
        ("web.staging.", ""),
        ("/discovery/staging", ""),
        ("/discovery/staging/WEB", ""),
    ],
)
def test_a_service_is_found_by_each_spelling(text: str, found: str) -> None:
    counted = ask(CountMembers(text))
    assert isinstance(counted, MemberCount)
    assert (counted.service, counted.exists) == (found, bool(found))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "10.0.0.1",
            "10.0.0.1 belongs to 2 services; write one: db.prod.discovery, web.staging.discovery",
        ),
        ("10.0.0.1:99999", "'10.0.0.1:99999' has the port '99999'; ports are 0 to 65535"),
        (
            "/discovery/staging/web/member_0000000001",
            f"'{WEB.origin}/member_0000000001' is below the znode of a service; write {WEB.origin}",
        ),
        ("a..b", "'a..b' is not a domain name: it has an empty label"),
    ],
)
def test_what_stands_for_no_or_several_services_is_refused(text: str, error: str) -> None:
    assert ask(CountMembers(text)) == ask(AcceptLosses(text)) == Refused("invalid", error)


def test_the_history_of_an_address_has_the_changes_of_its_members() -> None:
    async def run() -> None:
        server = Server(*EVERYTHING)
        server.publisher.publish([SetDropped(WEB.origin), SetDropped(FIRST[3].origin)])
        for text, services in (
            ("10.0.0.1", ["web.staging", "db.prod"]),
            ("10.0.0.1:90", ["db.prod"]),
            ("10.0.0.9", []),
            ("/discovery/prod/db", ["db.prod", "db.prod"]),
        ):
            page = read_history(ReadHistory(text), server.context)
            assert isinstance(page, HistoryPage)
            assert [entry.service for entry in page.entries] == services

    asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("web.stagin", ("web.staging",)),
        ("wbe.staging.discovery", ("web.staging",)),
        ("web", ("web.discovery", "web.prod", "web.staging")),
        ("api", ("api.v2.staging",)),
        ("/discovery/staging/wbe", ("/discovery/staging/web",)),
        ("wbe.staging", ("web.staging",)),
        ("no.staging", ()),
        ("nothing.like.this", ()),
        ("10.0.0.77", ()),
    ],
)
def test_similar_names_are_found(text: str, names: tuple[str, ...]) -> None:
    found = ask(ListSimilar(text))
    assert isinstance(found, Names)
    assert found.names == names


def test_the_right_name_is_found_among_ten_thousand() -> None:
    many = [put(f"s{number:05}.staging", []) for number in range(10_000)]
    found = ask(ListSimilar("checkuot.staging"), *many, put("checkout.staging", []))
    assert isinstance(found, Names)
    assert found.names[0] == "checkout.staging"


@pytest.mark.parametrize(
    ("address", "note"),
    [
        ("10.0.0.2", "members at 10.0.0.2: web.staging (member_0000000002)"),
        ("10.0.0.1:90", "members at 10.0.0.1:90: db.prod (member_0000000000)"),
        ("10.0.0.9", "no member has the address 10.0.0.9"),
    ],
)
def test_an_explained_address_names_its_members(address: str, note: str) -> None:
    async def run() -> None:
        explained = await explain(Explain(address), Server(*EVERYTHING).context)
        assert isinstance(explained, Explanation)
        assert explained.notes[0] == note
        assert explained.name.endswith(".10.in-addr.arpa")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("environment", "rows"),
    [
        ("prod", [("prod", "db", 1), ("prod", "web", 0)]),
        ("discovery", [("discovery", "web", 1)]),
        ("nothing", []),
    ],
)
def test_sets_are_listed_by_environment(environment: str, rows: list[tuple[str, str, int]]) -> None:
    parts = ask(ListSets(environment))
    assert isinstance(parts, Iterator)
    *listed, last = parts
    assert isinstance(last, Listing)
    assert (last.services, last.empty, last.denied) == ((), (), ())
    expected = [ServiceCount(scope, name, count, f"/discovery/{scope}/{name}") for scope, name, count in rows]
    assert [row for part in listed for row in part.services] == expected


def test_a_table_that_was_not_read_has_no_list_of_sets() -> None:
    async def run() -> object:
        return await respond_when_applied(ListSets(None), Server(ready=False).context)

    refused = asyncio.run(run())
    assert isinstance(refused, Refused)
    assert refused.reason == "not_found"
