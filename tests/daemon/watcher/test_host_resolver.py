"""Host names of members, looked up: of upstreams where they can tell, or else as the machine itself does.

`localhost` is in every hosts file, and `invalid` in no DNS (RFC 6761 §6.4).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import dns.rcode
import pytest
from structlog.testing import capture_logs

from tests.daemon.ipc.feed_helpers import until
from tests.forward.resolution_helpers import run
from tests.forward.test_host_lookup import HOST, by_type, looking_up
from tests.support.upstream import Behaviour, ReceivedQuery, Send, UpstreamServer, returns_rcode
from zkdns.daemon.watcher import host_resolver
from zkdns.daemon.watcher.host_resolver import HostResolver
from zkdns.forward import host_lookup
from zkdns.forward.found import HostAddresses
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import HostResolved, SetDropped, SetPut
from zkdns.serverset.member import Endpoint, Member
from zkdns.table import Table

ABSENT = "nothing.invalid"
NOT_RESOLVED = "host_resolution_failed"
LOOPBACK = {"127.0.0.1", "::1"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again soon, and let the machine's resolver give up soon."""
    monkeypatch.setenv("RES_OPTIONS", "timeout:1 attempts:1")
    monkeypatch.setattr(host_resolver, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(host_resolver, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(host_resolver, "_ROUND_SECONDS", 0.001)


class Resolving:
    """A resolver at work on a table."""

    def __init__(self, find: Callable[[str], Awaitable[HostAddresses | None]] | None = None) -> None:
        self.table = Table(departed_seconds=0)
        self.found: list[HostResolved] = []
        self.resolver = HostResolver(self.table, self._publish, find)

    def _publish(self, changes: list[HostResolved]) -> None:
        self.found += changes
        for change in changes:
            self.table.apply(change)

    def want(self, *names: str) -> None:
        """Put members with these hosts into the table, and those before out of it."""
        members = tuple(Member(f"m{n}", Endpoint(name, 80)) for n, name in enumerate(names))
        self.table.apply(SetPut("fixed:web", ServiceName("web"), members))
        self.resolver.wake()

    async def rounds(self, host: str, count: int) -> None:
        """Wait until a name was looked up so many times."""
        due = self.resolver._due
        for _ in range(count):
            before = due.get(host) or 0.0  # which is at once
            self.resolver.wake()
            await until(lambda: due.get(host, 0.0) > before)  # noqa: B023 - used at once

    async def look_ups(self, asked: Sequence[ReceivedQuery], count: int) -> None:
        """Wait until an upstream was asked for both types so many times more."""
        before = len(asked)

        def is_done() -> bool:
            self.resolver.wake()
            return len(asked) >= before + 2 * count

        await until(is_done)


@asynccontextmanager
async def resolving(
    find: Callable[[str], Awaitable[HostAddresses | None]] | None = None,
) -> AsyncIterator[Resolving]:
    made = Resolving(find)
    task = asyncio.create_task(made.resolver.run())
    try:
        yield made
    finally:
        task.cancel()
        for running in [*made.resolver._running.values()]:
            running.cancel()


def test_a_name_that_members_have_is_looked_up_again_and_again() -> None:
    async def scenario() -> None:
        async with resolving() as made:
            made.want("localhost", "10.0.0.1")
            await until(lambda: made.table.addresses_of("localhost"))
            addresses = made.table.addresses_of("localhost")
            assert set(addresses) <= LOOPBACK
            assert list(addresses) == sorted(set(addresses))
            await made.rounds("localhost", 2)
            assert {change.host for change in made.found} == {"localhost"}

    asyncio.run(scenario())


def test_while_look_ups_fail_the_last_addresses_stand_and_it_is_told_once() -> None:
    async def scenario() -> None:
        async with resolving() as made:
            made.want(ABSENT, "localhost")
            made.table.apply(HostResolved(ABSENT, ("192.0.2.1",)))
            await made.rounds(ABSENT, 4)
            await until(lambda: made.table.addresses_of("localhost"))
            assert made.table.addresses_of(ABSENT) == ("192.0.2.1",)
            assert {change.host for change in made.found} == {"localhost"}

    assert failures(scenario) == [ABSENT]


def test_names_that_nobody_has_any_more_are_forgotten() -> None:
    async def scenario() -> None:
        async with resolving() as made:
            made.want(ABSENT, "localhost")
            await made.rounds(ABSENT, 2)
            await until(lambda: made.table.addresses_of("localhost"))
            made.table.apply(SetDropped("fixed:web"))
            made.resolver.wake()
            resolver = made.resolver
            await until(lambda: not resolver._due and not resolver._running and not resolver.failures)
            assert made.table.addresses_of("localhost") == ()
            made.want("localhost")
            await until(lambda: made.table.addresses_of("localhost"))

    assert failures(scenario) == [ABSENT]


def test_a_name_that_comes_back_is_told_of_again_when_it_fails() -> None:
    async def scenario() -> None:
        async with resolving() as made:
            for _ in range(2):
                made.want(ABSENT)
                await made.rounds(ABSENT, 2)
                made.want()
                await until(lambda: not made.resolver._due and not made.resolver._running)

    assert failures(scenario) == [ABSENT, ABSENT]


def test_addresses_that_went_with_the_last_user_are_looked_up_at_once_when_there_is_one_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_resolver, "REFRESH_SECONDS", 3600.0)

    async def scenario() -> None:
        async with resolving() as made:
            made.want("localhost")
            await until(lambda: made.table.addresses_of("localhost"))
            made.want()
            made.want("localhost")  # before the resolver has looked
            assert not made.table.addresses_of("localhost")
            await until(lambda: made.table.addresses_of("localhost"))

    asyncio.run(scenario())


def test_more_names_than_are_looked_up_at_once_are_all_looked_up() -> None:
    dice = random.Random(1)
    names = {"".join(map(dice.choice, zip("localhost", "LOCALHOST", strict=True))) for _ in range(20)}

    async def scenario() -> None:
        async with resolving() as made:
            made.want(*names)
            await until(lambda: all(map(made.table.addresses_of, names)))

    assert failures(scenario) == []


# -- of upstreams -------------------------------------------------------------------------------------------


class Upstreams:
    """What looks names up before the machine does.

    Attributes:
        known: what it finds, or the error that it meets; of other names it knows nothing.
        asked: the names that were looked up, each time.
    """

    def __init__(self, **known: HostAddresses | OSError) -> None:
        self.known = known
        self.asked: list[str] = []

    async def find(self, host: str) -> HostAddresses | None:
        self.asked.append(host)
        await asyncio.sleep(0)
        found = self.known.get(host)
        if isinstance(found, OSError):
            raise found
        return found


def test_what_upstreams_find_stands_as_long_as_they_say() -> None:
    async def scenario() -> None:
        upstreams = Upstreams(database=HostAddresses(("192.0.2.1", "192.0.2.2"), 100))
        async with resolving(upstreams.find) as made:
            begun = asyncio.get_running_loop().time()
            made.want("database")
            await until(lambda: made.resolver._due.get("database"))
            assert made.table.addresses_of("database") == ("192.0.2.1", "192.0.2.2")
            ended = asyncio.get_running_loop().time()
            assert begun + 100 <= made.resolver._due["database"] <= ended + 100
            made.resolver.wake()
            await asyncio.sleep(0.05)  # some rounds
            assert upstreams.asked == ["database"]

    assert failures(scenario) == []


def test_what_upstreams_find_is_looked_up_again_when_that_is_over() -> None:
    async def scenario() -> None:
        upstreams = Upstreams(database=HostAddresses(("192.0.2.1",), 0))
        async with resolving(upstreams.find) as made:
            made.want("database")
            await until(lambda: made.table.addresses_of("database"))
            upstreams.known["database"] = HostAddresses(("192.0.2.2",), 0)
            made.resolver.wake()
            await until(lambda: made.table.addresses_of("database") == ("192.0.2.2",))

    assert failures(scenario) == []


def test_what_upstreams_do_not_know_the_machine_is_asked_for() -> None:
    async def scenario() -> None:
        upstreams = Upstreams()
        async with resolving(upstreams.find) as made:
            made.want("localhost", ABSENT)
            await until(lambda: made.table.addresses_of("localhost"))
            assert set(made.table.addresses_of("localhost")) <= LOOPBACK
            await made.rounds(ABSENT, 2)
            assert {"localhost", ABSENT} == set(upstreams.asked)

    assert failures(scenario) == [ABSENT]


def test_while_upstreams_do_not_answer_the_last_addresses_stand_and_nobody_else_is_asked() -> None:
    """What the machine's resolver says then may be of yesterday, or of another world."""

    async def scenario() -> None:
        upstreams = Upstreams(localhost=HostAddresses(("192.0.2.1",), 0))
        async with resolving(upstreams.find) as made:
            made.want("localhost")
            await until(lambda: made.table.addresses_of("localhost"))
            upstreams.known["localhost"] = OSError("no answer from 192.0.2.53:53 within 3.8 s")
            before = len(upstreams.asked)
            for _ in range(4):
                made.resolver.wake()
                await until(lambda: len(upstreams.asked) > before)  # noqa: B023 - used at once
                before = len(upstreams.asked)
            assert made.table.addresses_of("localhost") == ("192.0.2.1",)
            upstreams.known["localhost"] = HostAddresses(("192.0.2.2",), 0)
            made.resolver.wake()
            await until(lambda: made.table.addresses_of("localhost") == ("192.0.2.2",))

    assert failures(scenario) == ["localhost"]


def test_while_one_family_fails_what_was_known_of_it_stands_beside_what_the_other_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is told once; an answer that there is none ends it, as every answer does."""
    monkeypatch.setattr(host_lookup, "LEAST_SECONDS", 0)
    monkeypatch.setattr(host_lookup, "MOST_SECONDS", 0)
    old = {"A": "60 10.0.0.1", "AAAA": "60 2001:db8::1"}

    def but_fails(failing: str, **records: str) -> Behaviour:
        def act(asked: ReceivedQuery) -> Iterable[Send]:
            if asked.query.question[0].rdtype.name == failing:
                return returns_rcode(dns.rcode.SERVFAIL)(asked)
            return by_type(**records)(asked)

        return act

    async def scenario() -> None:
        with UpstreamServer(by_type(**old)) as upstream:
            async with looking_up(upstream) as looking, resolving(looking.find) as made:
                made.want(HOST)
                for act, known in (
                    (by_type(**old), ("10.0.0.1", "2001:db8::1")),
                    (but_fails("AAAA", A="60 10.0.0.2"), ("10.0.0.2", "2001:db8::1")),
                    (but_fails("AAAA", A="60 10.0.0.3"), ("10.0.0.3", "2001:db8::1")),
                    (by_type(A="60 10.0.0.3"), ("10.0.0.3",)),
                    (by_type(**old), ("10.0.0.1", "2001:db8::1")),
                    (but_fails("A", AAAA="60 2001:db8::2"), ("10.0.0.1", "2001:db8::2")),
                    (returns_rcode(dns.rcode.SERVFAIL), ("10.0.0.1", "2001:db8::2")),
                ):
                    upstream.set_behaviour(act)
                    await made.look_ups(upstream.queries, 2)
                    await until(lambda: made.table.addresses_of(HOST) == known)  # noqa: B023 - used at once

    with capture_logs() as logs:
        run(scenario)
    told = [(entry["host"], entry["types"]) for entry in logs if entry["event"] == NOT_RESOLVED]
    assert told == [(HOST, "AAAA"), (HOST, "A"), (HOST, "A, AAAA")]


def failures(scenario: Callable[[], Any]) -> list[str]:
    """Run it; the names of which it was told that they cannot be resolved."""
    with capture_logs() as logs:
        asyncio.run(scenario())
    return [entry["host"] for entry in logs if entry["event"] == NOT_RESOLVED]
