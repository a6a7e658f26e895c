"""What commands ask of a running server: `zkdns flush` as it reaches the workers, and what is refused."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.ipc.feed_helpers import (
    contents,
    member,
    put,
    running_publisher,
    running_worker,
    until,
    watcher_context,
)
from zkdns.config import load_config
from zkdns.daemon.ipc import feed as feed_module
from zkdns.daemon.ipc.control_messages import (
    AcceptLosses,
    Contents,
    CountMembers,
    Dump,
    Dumped,
    FlushCaches,
    Flushed,
    ListNames,
    MemberCount,
    Names,
    Refused,
)
from zkdns.daemon.ipc.feed import BARRIERS, FRAMES, Barrier, Publisher
from zkdns.daemon.watcher.control_handlers import respond, respond_when_applied
from zkdns.serverset.changes import HostResolved, MembersHeld, SetDropped
from zkdns.table import Table

NOT_CACHED = "lies in the zone discovery, which is never forwarded or cached"


def respond_to(name: str | None, **flags: Any) -> object:
    """What a server without workers responds."""
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
    ],
)
def test_a_name_reaches_each_worker_as_the_wire_has_it(
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


def test_where_nobody_answers_nobody_is_told() -> None:
    assert respond_to(None) == Flushed(0, 1)


@pytest.mark.parametrize("name", ["discovery", "web.staging.DISCOVERY."])
def test_our_own_names_are_not_cached(name: str) -> None:
    assert respond_to(name) == Refused("not_found", f"{name} {NOT_CACHED}")


def test_what_is_no_name_is_a_mistake() -> None:
    response = respond_to("a..b")
    assert isinstance(response, Refused)
    assert (response.reason, response.message) == (
        "invalid",
        "'a..b' is not a domain name: it has an empty label",
    )


def test_who_forwards_nothing_has_nothing_to_forget(tmp_path: Path) -> None:
    refused = Refused("not_found", "this server forwards nothing, so nothing is cached")
    assert respond_to(None, upstream=("none",)) == refused
    file = tmp_path / "zkdns.toml"
    for upstreams, response in (("none", refused), ("192.0.2.1", Flushed(0, 1))):
        file.write_text(f'forward.upstreams = "none"\n[forward.zone.example]\nupstreams = "{upstreams}"')
        config = load_config(flags={}, environment={}, file=str(file))
        assert respond(FlushCaches(None), watcher_context(config, Publisher())) == response


def test_losses_are_accepted_too() -> None:
    config = load_config(flags={}, environment={}, file=None)
    assert respond(AcceptLosses(None), watcher_context(config, Publisher())) == Refused(
        "not_found", "nothing is held"
    )


def test_services_are_listed_by_how_their_names_begin(short_path: Path) -> None:
    config = load_config(flags={}, environment={}, file=None)

    async def scenario() -> None:
        async with running_publisher(str(short_path / "feed")) as publisher:

            def listed(beginning: str, *, only_held: bool = False) -> tuple[str, ...]:
                response = respond(
                    ListNames(beginning, only_held=only_held), watcher_context(config, publisher)
                )
                assert isinstance(response, Names)
                return response.names

            publisher.publish([put("web", member(1)), put("worker", member(1)), put("db", member(1))])
            assert listed("W") == ("web.staging.discovery", "worker.staging.discovery")
            assert listed("web.staging.d") == ("web.staging.discovery",)
            assert listed("x") == listed("", only_held=True) == ()
            publisher.publish([put(f"s{number:04}", member(1)) for number in range(1200)])
            assert listed("s") == tuple(f"s{number:04}.staging.discovery" for number in range(1000))

    asyncio.run(scenario())


def test_a_table_that_has_not_been_read_is_not_handed_out() -> None:
    config = load_config(flags={}, environment={}, file=None)
    refused = Refused("not_found", "the table has not been read yet; try again when it has")
    assert respond(Dump(), watcher_context(config, Publisher())) == refused


def test_the_table_is_handed_out_as_it_was_when_it_was_asked_for(short_path: Path) -> None:
    config = load_config(flags={"ttl": "9"}, environment={}, file=None)

    async def scenario() -> None:
        async with running_publisher(str(short_path / "feed")) as publisher:
            publisher.publish([put("large", *map(member, range(2500))), put("web", member(1))])
            publisher.publish([MembersHeld("/discovery/staging/web", (member(1).name,))])
            publisher.publish([put("small"), put("last", member(1, "db.example"))])
            publisher.publish([HostResolved("db.example", ("192.0.2.1",))])
            publisher.set_health(ready=True, stale=True)
            publisher.publish([put("web", member(2))])  # no word of it has gone out yet
            parts = respond(Dump(), watcher_context(config, publisher))
            assert isinstance(parts, Iterator)
            serial, expected = contents(publisher.table)
            head = next(parts)
            assert head == Dumped(config, serial, is_stale=True)
            publisher.publish([SetDropped("/discovery/staging/last"), put("web")])
            table = Table(departed_seconds=0)
            *some, last = parts
            for part in some:
                assert isinstance(part, Contents)
                for change in part.changes:
                    table.apply(change)
            assert (last, len(some)) == (Contents(()), 2)
            assert contents(table)[1] == expected

    asyncio.run(scenario())


def test_a_copy_has_the_serial_of_its_last_change(short_path: Path) -> None:
    async def scenario() -> None:
        async with running_publisher(str(short_path / "feed")) as publisher:
            publisher.publish([put("web", member(1))])
            assert publisher.copy() == [put("web", member(1))]
            first = publisher.table.serial
            publisher.publish([put("web", member(2))])
            assert publisher.copy() == [put("web", member(2))]
            assert publisher.table.serial > first > 0

    asyncio.run(scenario())


# -- what is done when it is responded -----------------------------------------------------------------------


async def mark_in(reader: asyncio.StreamReader) -> Barrier:
    """The next mark that a subscriber is sent."""
    while (message := await FRAMES.read(reader)) is not None:
        if isinstance(message, Barrier):
            return message
    raise AssertionError


def test_each_worker_has_what_was_told_it_before_it_is_said_to_be_done(short_path: Path) -> None:
    config = load_config(flags={}, environment={}, file=None)
    feed = str(short_path / "feed")

    async def scenario() -> None:
        async with running_publisher(feed) as publisher, running_worker(feed) as worker:
            publisher.set_health(ready=True, stale=False)
            await until(lambda: worker.health.ready)
            known = watcher_context(config, publisher)
            for count in range(1, 100):
                publisher.publish([put("web", *(member(n, f"10.0.0.{n}") for n in range(count)))])
                counted = await respond_when_applied(CountMembers("web.staging"), known)
                assert counted == MemberCount(count, 0, exists=True, ready=True)
                assert contents(worker.table) == contents(publisher.table)
                await respond_when_applied(FlushCaches(None), known)
                assert len(worker.flushed) == count

    asyncio.run(scenario())


def test_who_is_slow_is_waited_for_and_who_goes_or_hangs_is_not(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(flags={"workers": "2"}, environment={}, file=None)
    feed = str(short_path / "feed")

    async def scenario() -> None:
        async with running_publisher(feed) as publisher, running_worker(feed) as prompt:
            known = watcher_context(config, publisher)
            monkeypatch.setattr(feed_module, "_BARRIER_SECONDS", 20.0)
            for turn, how in enumerate(("slow", "goes", "hangs"), 1):
                reader, writer = await asyncio.open_unix_connection(feed)
                await until(lambda: publisher.subscriber_count == 2)
                if how == "hangs":
                    monkeypatch.setattr(feed_module, "_BARRIER_SECONDS", 0.05)
                flushing = asyncio.create_task(respond_when_applied(FlushCaches(None), known))
                mark = await asyncio.wait_for(mark_in(reader), 10.0)
                await until(lambda: len(prompt.flushed) == turn)  # noqa: B023 - used at once
                if how == "slow":
                    await asyncio.sleep(0.05)
                    assert not flushing.done()
                    writer.write(BARRIERS.encode(mark))
                elif how == "goes":
                    writer.close()
                assert await asyncio.wait_for(flushing, 10.0) == Flushed(2, 2)
                writer.close()
                await until(lambda: publisher.subscriber_count == 1)

    asyncio.run(scenario())
