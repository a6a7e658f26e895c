"""The zone for explanations: it follows the table, and explanations are those of a new index."""

import asyncio
import re
from collections.abc import Awaitable, Callable

import msgspec

from tests.daemon.explain.test_explain import FIRST, MORE, WEB, Server
from tests.dns.helpers import member, put
from zkdns.admin.api_types import Explanation
from zkdns.daemon.explain.explain import MAX_WAITING, Explainer, explain
from zkdns.daemon.explain.name_index import NameIndex
from zkdns.daemon.ipc.request_messages import Explain, Refused
from zkdns.dns.zone import Zone
from zkdns.serverset.changes import Change, HostResolved, SetChanged, SetDropped

NAMES = (
    *("web.staging", "m1.web.staging", "m9.web.staging", "new.staging", "staging", "v2.staging", "prod"),
    *(
        "_web._tcp.staging",
        "_admin._tcp.web.staging",
        "a.b.c.staging",
        "c.staging",
        "webb.staging",
        "10.0.0.1",
    ),
    *("/discovery/staging/web", "/discovery/staging/wep", "web", "api", "discovery", "host.staging"),
    *("_services._dns-sd._udp.staging", "m1._web._tcp.staging", "1.0.0.10.in-addr.arpa."),
)
CHANGES: tuple[Change, ...] = (
    put("new.staging", ["10.0.9.1:80"]),
    put("a.b.c.staging", ["10.0.9.2:80"]),
    SetChanged(WEB.origin, (member(9, "10.0.0.9:80"),), ("member_0000000001",)),
    put("host.staging", ["db.example.com:80"]),
    HostResolved("db.example.com", ("192.0.2.7",)),
    SetDropped(MORE[0].origin),
    SetDropped(put("a.b.c.staging", []).origin),
    SetDropped(WEB.origin),
    put("web.staging", ["10.0.0.7:80"]),
)


def same(one: Explanation, other: Explanation) -> bool:
    """Whether two explanations differ in times only."""

    def timeless(found: Explanation) -> Explanation:
        notes = tuple(re.sub(r"it left .*", "it left", note) for note in found.notes)
        return msgspec.structs.replace(found, now=0.0, notes=notes)

    return timeless(one) == timeless(other)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60.0):
            await scenario()

    asyncio.run(limited())


def test_after_each_change_explanations_are_those_of_a_new_index() -> None:
    async def scenario() -> None:
        for settings in ({}, {"dns_sd": True, "reverse": True}, {"empty": "nxdomain"}):
            server = Server(*FIRST)
            server.context.config = msgspec.structs.replace(server.config, **settings)
            await server.explain("web.staging")
            for change in CHANGES:
                server.publisher.publish([change])
                new = Explainer(server.context)
                for name in NAMES:
                    found, expected = await server.explain(name), await new.explain(name)
                    assert isinstance(expected, Explanation)
                    assert same(found, expected), (settings, change, name)

    run(scenario)


def test_the_index_follows_a_change_of_the_configuration() -> None:
    async def scenario() -> None:
        server = Server(*FIRST)
        assert (await server.explain("web.prod")).kind == "service"
        server.context.config = msgspec.structs.replace(server.config, empty="nxdomain")
        assert (await server.explain("web.prod")).kind == "absent"

    run(scenario)


def test_after_many_changes_without_requests_the_index_is_made_again() -> None:
    async def scenario() -> None:
        server = Server(*FIRST)
        await server.explain("web.staging")
        for start in range(0, 12_000, 1000):
            names = [f"s{number}.staging" for number in range(start, start + 1000)]
            server.publisher.publish([put(name, []) for name in names])
            server.publisher.publish([SetDropped(put(name, []).origin) for name in names])
        server.publisher.publish([put("last.staging", ["10.0.0.1:80"])])
        assert (await server.explain("last.staging")).kind == "service"
        assert (await server.explain("s7.staging")).kind == "absent"

    run(scenario)


def test_the_index_is_made_in_short_pieces_while_the_table_changes() -> None:
    async def scenario() -> None:
        server = Server(*(put(f"s{number}.staging", ["10.0.0.1:80"]) for number in range(3000)))
        index = NameIndex(server.publisher)
        updating = asyncio.create_task(index.update(server.config))
        rounds = 0
        while not updating.done():
            await asyncio.sleep(0)
            rounds += 1
            if rounds <= 5:
                server.publisher.publish(
                    [put(f"new{rounds}.staging", []), SetDropped(put(f"s{rounds}.staging", []).origin)]
                )
        assert rounds > 20
        zone, whole = updating.result(), Zone(server.publisher.table, server.config)
        assert zone.services == whole.services
        for name in ((b"new5", b"staging", b"discovery"), (b"s5", b"staging", b"discovery")):
            assert (zone.find(name).node is None) == (whole.find(name).node is None)

    run(scenario)


def test_searches_yield_to_other_work_and_requests_wait_for_their_turn() -> None:
    async def scenario() -> None:
        server = Server(*(put(f"service{number}.staging", ["10.0.0.1:80"]) for number in range(3000)))
        await server.explain("service1.staging")
        rounds = 0

        async def count_rounds() -> None:
            nonlocal rounds
            while True:
                rounds += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count_rounds())
        found = await asyncio.gather(*(server.explain(f"servce{number}.staging") for number in range(3)))
        counting.cancel()
        assert all("service" in one.nearest[0] for one in found)
        assert rounds > 20

    run(scenario)


def test_more_requests_than_may_wait_are_refused() -> None:
    async def scenario() -> None:
        server = Server(*FIRST)
        requests = [explain(Explain("web.staging"), server.context) for _ in range(MAX_WAITING + 5)]
        found = await asyncio.gather(*requests)
        assert [isinstance(one, Explanation) for one in found].count(True) == MAX_WAITING
        refused = [one for one in found if isinstance(one, Refused)]
        assert [one.reason for one in refused] == ["busy"] * 5
        assert isinstance(await explain(Explain("web.staging"), server.context), Explanation)

    run(scenario)
