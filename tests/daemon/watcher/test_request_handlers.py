"""Control requests: their effect on the workers, their responses and their errors."""

import asyncio
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.daemon.ipc.feed_helpers import (
    contents,
    health_of,
    member,
    put,
    running_publisher,
    running_worker,
    until,
    watcher_context,
)
from zkdns.admin.api_types import (
    Flushed,
    MemberCount,
    MemberRow,
    Names,
    ServiceList,
    TableChanges,
    TableHead,
    TableLine,
)
from zkdns.config import Config, load_config
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.ipc.feed_messages import FRAMES, REPLIES, Barrier
from zkdns.daemon.ipc.request_messages import (
    AcceptLosses,
    CountMembers,
    FlushCaches,
    Lines,
    ListMembers,
    ListNames,
    ListServices,
    ReadTable,
    Refused,
)
from zkdns.daemon.watcher.request_handlers import accept_losses, respond, respond_when_applied
from zkdns.namespace import ServiceName, parse_namespace
from zkdns.serverset.changes import HostResolved, MembersHeld, SetDropped, SetPut
from zkdns.table import Table

NOT_CACHED = "lies in the zone discovery, which is never forwarded or cached"


def flush(name: str | None, **flags: Any) -> object:
    """Return the response to `FlushCaches` of a watcher without workers."""
    config = load_config(flags=flags, environment={}, file=None)
    return respond(FlushCaches(name), watcher_context(config, Publisher()))


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        (None, None),
        (".", None),
        ("WWW.Example.com.", b"\3www\7example\3com\0"),
        ("a\\.b.example", b"\3a.b\7example\0"),
        ("discovery.example", b"\x09discovery\7example\0"),
        ("192.0.2.2", b"\x012\x012\x010\x03192\x07in-addr\x04arpa\0"),
    ],
)
def test_flush_sends_the_name_in_wire_form_to_each_worker(
    short_path: Path, name: str | None, wire: bytes | None
) -> None:
    config = load_config(flags={"workers": "3"}, environment={}, file=None)
    feed = str(short_path / "feed")

    async def scenario() -> None:
        async with (
            running_publisher(feed) as publisher,
            running_worker(feed) as one,
            running_worker(feed) as other,
        ):
            await until(lambda: publisher.subscriber_count == 2)
            assert respond(FlushCaches(name), watcher_context(config, publisher)) == Flushed(2, 3)
            await until(lambda: one.flushed and other.flushed)
            assert one.flushed == other.flushed == [wire]

    asyncio.run(scenario())


def test_flush_without_workers_flushes_no_worker() -> None:
    assert flush(None) == Flushed(0, 1)


@pytest.mark.parametrize("name", ["discovery", "web.staging.DISCOVERY."])
def test_flush_of_a_name_in_a_zone_is_refused(name: str) -> None:
    assert flush(name) == Refused("not_found", f"{name} {NOT_CACHED}")


def test_flush_of_an_invalid_name_is_refused() -> None:
    for name, error in (
        ("a..b", "'a..b' is not a domain name: it has an empty label"),
        ("/a/b", "'/a/b' is the path of a znode; write a domain name or an address"),
    ):
        assert flush(name) == Refused("invalid", error)


def test_flush_is_refused_if_the_server_forwards_nothing(tmp_path: Path) -> None:
    refused = Refused("not_found", "this server forwards nothing, so nothing is cached")
    assert flush(None, upstream=("none",)) == refused
    file = tmp_path / "zkdns.toml"
    for upstreams, response in (("none", refused), ("192.0.2.1", Flushed(0, 1))):
        file.write_text(f'forward.upstreams = "none"\n[forward.zone.example]\nupstreams = "{upstreams}"')
        config = load_config(flags={}, environment={}, file=str(file))
        assert respond(FlushCaches(None), watcher_context(config, Publisher())) == response


def test_accept_is_refused_if_no_members_are_held() -> None:
    config = load_config(flags={}, environment={}, file=None)
    refused = Refused("not_found", "no members are held")
    assert asyncio.run(accept_losses(AcceptLosses(None), watcher_context(config, Publisher()))) == refused


@pytest.mark.parametrize(
    ("name", "is_found"),
    [
        ("web.staging", True),
        ("WEB.staging.discovery.", True),
        ("/discovery/staging/web", True),
        ("hello.prod.www", True),
        ("hello.prod.www.aurora", True),
        ("web.staging.aurora", False),
        ("hello.prod.www.discovery", False),
        ("/discovery/staging", False),
    ],
)
def test_accept_finds_a_service_by_name_with_or_without_zone_or_by_znode(name: str, is_found: bool) -> None:
    aurora = parse_namespace("/aurora/{role}/{environment}/{job}", (b"aurora",))
    config = load_config(flags={}, environment={}, file=None)
    config = replace(config, namespaces=(*config.namespaces, aurora))
    publisher = Publisher()
    publisher.table.apply(SetPut("/discovery/staging/web", ServiceName("web", "staging"), ()))
    publisher.table.apply(SetPut("/aurora/www/prod/hello", ServiceName("hello", "prod.www", aurora.zone), ()))
    refused = asyncio.run(accept_losses(AcceptLosses(name), watcher_context(config, publisher)))
    sentence = f"no members of {name} are held" if is_found else f"there is no service {name}"
    assert refused == Refused("not_found", sentence)


def test_names_are_listed_by_prefix_and_at_most_1000(short_path: Path) -> None:
    config = load_config(flags={}, environment={}, file=None)

    async def scenario() -> None:
        async with running_publisher(str(short_path / "feed")) as publisher:

            async def listed(prefix: str, *, only_held: bool = False) -> tuple[str, ...]:
                response = respond(ListNames(prefix, only_held=only_held), watcher_context(config, publisher))
                assert isinstance(response, Awaitable)
                response = await response
                assert isinstance(response, Names)
                return response.names

            publisher.publish([put("web", member(1)), put("worker", member(1)), put("db", member(1))])
            assert await listed("W") == ("web.staging.discovery", "worker.staging.discovery")
            assert await listed("web.staging.d") == ("web.staging.discovery",)
            assert await listed("x") == await listed("", only_held=True) == ()
            publisher.publish([put(f"s{number:04}", member(1)) for number in range(1200)])
            assert await listed("s") == tuple(f"s{number:04}.staging.discovery" for number in range(1000))

    asyncio.run(scenario())


def test_dump_is_refused_until_the_table_has_been_read() -> None:
    config = load_config(flags={}, environment={}, file=None)
    refused = Refused("not_found", "the table has not been read yet; try again when it has")
    for request in (ReadTable(), ListMembers()):
        assert respond(request, watcher_context(config, Publisher())) == refused


def decoded(part: object) -> list[TableLine]:
    assert isinstance(part, Lines)
    return msgspec.json.Decoder(TableLine).decode_lines(part.data)


def test_all_members_are_listed_in_parts(short_path: Path) -> None:
    """Held members too, with the resolved addresses of their hosts."""
    config = load_config(flags={}, environment={}, file=None)

    async def scenario() -> None:
        async with running_publisher(str(short_path / "feed")) as publisher:
            publisher.publish([put("large", *map(member, range(1500))), put("web", member(1, "db.example"))])
            publisher.publish([MembersHeld("/discovery/staging/web", (member(1).name,), since=7.0)])
            publisher.publish([HostResolved("db.example", ("192.0.2.1",))])
            publisher.set_health(health_of(ready=True, stale=False))
            parts = respond(ListMembers(), watcher_context(config, publisher))
            assert isinstance(parts, Iterator)
            *full_parts, last = parts
            assert (last, len(full_parts)) == (Lines(b""), 7)  # 250 members in each
            rows = [
                row
                for part in full_parts
                if isinstance(part, Lines)
                for row in msgspec.json.Decoder(MemberRow).decode_lines(part.data)
            ]
            assert [row.service for row in rows] == ["large.staging.discovery"] * 1500 + [
                "web.staging.discovery"
            ]
            assert (rows[-1].addresses, rows[-1].held_since) == (("192.0.2.1",), 7.0)

    asyncio.run(scenario())


def test_a_dump_has_the_table_at_the_time_of_the_request(short_path: Path) -> None:
    secret = {"ZKDNS_ACCESS_COOKIE_SECRET": "0123456789abcdef0123456789abcdef"}
    config = load_config(flags={"ttl": "9"}, environment=secret, file=None)
    for_responses = Config(listen=(), namespaces=config.namespaces, ttl=9)

    async def scenario() -> None:
        async with running_publisher(str(short_path / "feed")) as publisher:
            publisher.publish([put("large", *map(member, range(2500))), put("web", member(1))])
            publisher.publish([MembersHeld("/discovery/staging/web", (member(1).name,))])
            publisher.publish([put("small"), put("last", member(1, "db.example"))])
            publisher.publish([HostResolved("db.example", ("192.0.2.1",))])
            publisher.set_health(health_of(ready=True, stale=True))
            publisher.publish([put("web", member(2))])  # not yet sent to the subscribers
            parts = respond(ReadTable(), watcher_context(config, publisher))
            assert isinstance(parts, Iterator)
            serial, expected = contents(publisher.table)
            (head,) = decoded(next(parts))
            assert head == TableHead(for_responses, serial, is_stale=True)
            publisher.publish([SetDropped("/discovery/staging/last"), put("web")])
            table = Table(departed_seconds=0)
            *full_parts, last = parts
            for part in full_parts:
                (line,) = decoded(part)
                assert isinstance(line, TableChanges)
                for change in line.changes:
                    table.apply(change)
            assert (last, len(full_parts)) == (Lines(b""), 2)
            assert contents(table)[1] == expected

    asyncio.run(scenario())


def test_a_copy_of_the_table_has_the_serial_of_its_last_change(short_path: Path) -> None:
    async def scenario() -> None:
        async with running_publisher(str(short_path / "feed")) as publisher:
            publisher.publish([put("web", member(1))])
            assert publisher.copy() == [put("web", member(1))]
            first = publisher.table.serial
            publisher.publish([put("web", member(2))])
            assert publisher.copy() == [put("web", member(2))]
            assert publisher.table.serial > first > 0

    asyncio.run(scenario())


# -- waiting for the workers ---------------------------------------------------------------------------------


async def read_barrier(reader: asyncio.StreamReader) -> Barrier:
    """Read messages from the feed up to the next barrier."""
    while (message := await FRAMES.read(reader)) is not None:
        if isinstance(message, Barrier):
            return message
    raise AssertionError


def test_a_response_is_sent_after_the_workers_have_applied_the_changes(short_path: Path) -> None:
    config = load_config(flags={}, environment={}, file=None)
    feed = str(short_path / "feed")

    async def scenario() -> None:
        async with running_publisher(feed) as publisher, running_worker(feed) as worker:
            publisher.set_health(health_of(ready=True, stale=False))
            await until(lambda: worker.health.ready)
            context = watcher_context(config, publisher)
            for count in range(1, 100):
                publisher.publish([put("web", *(member(n, f"10.0.0.{n}") for n in range(count)))])
                counted = await respond_when_applied(CountMembers("web.staging"), context)
                assert counted == MemberCount(
                    count, 0, exists=True, ready=True, service="web.staging.discovery"
                )
                assert contents(worker.table) == contents(publisher.table)
                await respond_when_applied(FlushCaches(None), context)
                assert len(worker.flushed) == count

    asyncio.run(scenario())


@pytest.mark.parametrize(("behaviour", "barrier_seconds"), [("slow", 20.0), ("exits", 20.0), ("hangs", 0.05)])
def test_a_response_waits_for_a_slow_worker_but_not_for_one_that_exits_or_hangs(
    short_path: Path, behaviour: str, barrier_seconds: float
) -> None:
    config = load_config(flags={"workers": "2"}, environment={}, file=None)
    feed = str(short_path / "feed")

    async def scenario() -> None:
        async with (
            running_publisher(feed, Publisher(barrier_seconds=barrier_seconds)) as publisher,
            running_worker(feed) as prompt,
        ):
            reader, writer = await asyncio.open_unix_connection(feed)
            await until(lambda: publisher.subscriber_count == 2)
            context = watcher_context(config, publisher)
            flushing = asyncio.create_task(respond_when_applied(FlushCaches(None), context))
            barrier = await asyncio.wait_for(read_barrier(reader), 10.0)
            await until(lambda: prompt.flushed)
            if behaviour == "slow":
                await asyncio.sleep(0.05)
                assert not flushing.done()
                writer.write(REPLIES.encode(barrier))
            elif behaviour == "exits":
                writer.close()
            assert await asyncio.wait_for(flushing, 10.0) == Flushed(2, 2)
            writer.close()
            await until(lambda: publisher.subscriber_count == 1)

    asyncio.run(scenario())


def test_services_are_listed_completely_or_as_the_changes_since_a_list() -> None:
    async def scenario() -> None:
        publisher = Publisher()
        context = watcher_context(load_config(flags={}, environment={}, file=None), publisher)
        publisher.publish([put("web", member(1)), put("api", member(1))])

        def listed(after: int) -> tuple[list[str], ServiceList]:
            response = respond(ListServices(after), context)
            assert isinstance(response, Iterator)
            *parts, end = response
            assert isinstance(end, ServiceList)
            assert not end.services
            lines = [line for part in parts if isinstance(part, ServiceList) for line in part.services]
            assert {line.environment for line in lines} <= {"staging"}
            return [line.name for line in lines], end

        names, first = listed(0)
        assert names == ["api.staging", "web.staging"]
        publisher.set_health(health_of(ready=True, stale=False))
        for change in (put("web", member(2)), put("new", member(1))):
            publisher.publish([change])
        publisher.publish([SetDropped("/discovery/staging/api")])
        names, second = listed(1)
        assert (names, second.gone) == (["new.staging", "web.staging"], ("api.staging",))
        assert second.last > first.last
        assert listed(second.last) == ([], ServiceList((), None, None, ready=True, last=second.last))
        assert listed(0)[0] == ["new.staging", "web.staging"]

    asyncio.run(scenario())
