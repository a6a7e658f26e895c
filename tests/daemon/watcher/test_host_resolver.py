"""Lookups of members' host names, with upstreams and with the system resolver.

`localhost` is in every hosts file. Names below `invalid` do not exist (RFC 6761 §6.4).
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import dns.rcode
import pytest
from structlog.testing import capture_logs

from tests.daemon.ipc.feed_helpers import until
from tests.forward.resolution_helpers import run
from tests.forward.test_host_lookup import HOST, by_type, looking_up
from tests.support.upstream import Behaviour, ReceivedQuery, Send, UpstreamServer, returns_rcode
from zkdns.daemon.watcher.host_resolver import HostResolver
from zkdns.forward.host_lookup import HostAddresses
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import HostResolved, SetDropped, SetPut
from zkdns.serverset.member import Endpoint, Member
from zkdns.table import Table

ABSENT = "nothing.invalid"
NOT_RESOLVED = "host_resolution_failed"
LOOPBACK = {"127.0.0.1", "::1"}
Find: TypeAlias = Callable[[str], Awaitable[HostAddresses | None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the system resolver fast."""
    monkeypatch.setenv("RES_OPTIONS", "timeout:1 attempts:1")


class ResolverHarness:
    """A host resolver without pauses between the lookups of a name, and its table.

    Attributes:
        lookups: number of started lookups by name.
    """

    def __init__(
        self,
        find: Find | None = None,
        *,
        refresh_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.table = Table(departed_seconds=0)
        self.found: list[HostResolved] = []
        self.lookups: Counter[str] = Counter()
        self._inner_find = find
        self.resolver = HostResolver(
            self.table,
            self._publish,
            self._find,
            refresh_seconds=refresh_seconds,
            retry_seconds=0.0,
            round_seconds=0.001,
            clock=clock,
        )

    async def _find(self, host: str) -> HostAddresses | None:
        self.lookups[host] += 1
        return await self._inner_find(host) if self._inner_find is not None else None

    def _publish(self, changes: list[HostResolved]) -> None:
        self.found += changes
        for change in changes:
            self.table.apply(change)

    def set_hosts(self, *names: str) -> None:
        """Replace the members of the table by ones with these hosts."""
        members = tuple(Member(f"m{n}", Endpoint(name, 80)) for n, name in enumerate(names))
        self.table.apply(SetPut("static:web", ServiceName("web"), members))
        self.resolver.after_batch()

    async def rounds(self, host: str, count: int) -> None:
        """Wait until `count` lookups of a name have ended. The next one starts when the previous one has."""
        before = self.lookups[host]

        def is_done() -> bool:
            self.resolver.after_batch()
            return self.lookups[host] > before + count

        await until(is_done)

    async def look_ups(self, asked: Sequence[ReceivedQuery], count: int) -> None:
        """Wait for `count` more lookups that query an upstream for both types."""
        before = len(asked)

        def is_done() -> bool:
            self.resolver.after_batch()
            return len(asked) >= before + 2 * count

        await until(is_done)


@asynccontextmanager
async def resolving(
    find: Find | None = None,
    *,
    refresh_seconds: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[ResolverHarness]:
    harness = ResolverHarness(find, refresh_seconds=refresh_seconds, clock=clock)
    task = asyncio.create_task(harness.resolver.run())
    try:
        yield harness
    finally:
        task.cancel()
        await asyncio.wait([task])


def test_a_host_name_of_a_member_is_looked_up_repeatedly() -> None:
    async def scenario() -> None:
        async with resolving() as harness:
            harness.set_hosts("localhost", "10.0.0.1")
            await until(lambda: harness.table.addresses_of("localhost"))
            addresses = harness.table.addresses_of("localhost")
            assert set(addresses) <= LOOPBACK
            assert list(addresses) == sorted(set(addresses))
            await harness.rounds("localhost", 2)
            assert {change.host for change in harness.found} == {"localhost"}

    asyncio.run(scenario())


def test_failed_lookups_keep_the_addresses_and_are_logged_once() -> None:
    async def scenario() -> None:
        async with resolving() as harness:
            harness.set_hosts(ABSENT, "localhost")
            harness.table.apply(HostResolved(ABSENT, ("192.0.2.1",)))
            await harness.rounds(ABSENT, 4)
            await until(lambda: harness.table.addresses_of("localhost"))
            assert harness.table.addresses_of(ABSENT) == ("192.0.2.1",)
            assert {change.host for change in harness.found} == {"localhost"}

    assert failures(scenario) == [ABSENT]


def test_host_names_that_no_member_has_are_dropped() -> None:
    async def scenario() -> None:
        async with resolving() as harness:
            harness.set_hosts(ABSENT, "localhost")
            await harness.rounds(ABSENT, 2)
            await until(lambda: harness.table.addresses_of("localhost"))
            harness.table.apply(SetDropped("static:web"))
            harness.resolver.after_batch()
            await until(lambda: not harness.resolver.failures and not harness.resolver.resolved)
            assert harness.table.addresses_of("localhost") == ()
            before = harness.lookups.copy()
            for _ in range(10):
                harness.resolver.after_batch()
                await asyncio.sleep(0.002)  # a round
            assert harness.lookups == before
            harness.set_hosts("localhost")
            await until(lambda: harness.table.addresses_of("localhost"))

    assert failures(scenario) == [ABSENT]


def test_a_failure_is_logged_again_after_the_host_name_was_dropped() -> None:
    async def scenario() -> None:
        async with resolving() as harness:
            for _ in range(2):
                harness.set_hosts(ABSENT)
                await harness.rounds(ABSENT, 2)
                harness.set_hosts()
                await until(lambda: not harness.resolver.failures)

    assert failures(scenario) == [ABSENT, ABSENT]


def test_a_host_name_that_returns_after_its_last_member_left_is_looked_up_at_once() -> None:
    async def scenario() -> None:
        async with resolving(refresh_seconds=3600.0) as harness:
            harness.set_hosts("localhost")
            await until(lambda: harness.table.addresses_of("localhost"))
            harness.set_hosts()
            harness.set_hosts("localhost")  # before the resolver has checked the table
            assert not harness.table.addresses_of("localhost")
            await until(lambda: harness.table.addresses_of("localhost"))

    asyncio.run(scenario())


def test_more_host_names_than_concurrent_lookups_are_all_looked_up() -> None:
    rng = random.Random(1)
    names = {"".join(map(rng.choice, zip("localhost", "LOCALHOST", strict=True))) for _ in range(20)}

    async def scenario() -> None:
        async with resolving() as harness:
            harness.set_hosts(*names)
            await until(lambda: all(map(harness.table.addresses_of, names)))

    assert failures(scenario) == []


@pytest.mark.parametrize(
    ("found", "expected", "types"),
    [
        (("0.0.0.0", "10.0.0.1"), ("10.0.0.1",), None),
        (("10.0.0.1", "fe80::1"), ("10.0.0.1",), "AAAA"),
        (("0.0.0.0", "::"), (), "A, AAAA"),
        (("239.1.1.1",), (), "A"),
    ],
)
def test_addresses_that_cannot_be_connected_to_are_left_out(
    found: tuple[str, ...], expected: tuple[str, ...], types: str | None
) -> None:
    async def find(_: str) -> HostAddresses:
        return HostAddresses(found, 0.0)

    async def scenario() -> None:
        async with resolving(find) as harness:
            harness.set_hosts("db.example")
            await harness.rounds("db.example", 2)
            assert harness.table.addresses_of("db.example") == expected
            failure = harness.resolver.failures.get("db.example")
            assert (failure.types if failure else None) == types
            assert failure is None or found[-1] in failure.reason

    asyncio.run(scenario())


# -- with upstreams -----------------------------------------------------------------------------------------


def without_ttl(find: Find) -> Find:
    """Return a `find` function whose results are valid for no time, so that the next lookup follows."""

    async def find_without_ttl(host: str) -> HostAddresses | None:
        found = await find(host)
        return found._replace(seconds=0.0) if found is not None else None

    return find_without_ttl


class FakeUpstreams:
    """A `find` function with given results.

    Attributes:
        results: result or error by name. All other names are left to the system resolver.
        lookups: the names of all calls.
    """

    def __init__(self, **results: HostAddresses | OSError) -> None:
        self.results = results
        self.lookups: list[str] = []

    async def find(self, host: str) -> HostAddresses | None:
        self.lookups.append(host)
        await asyncio.sleep(0)
        result = self.results.get(host)
        if isinstance(result, OSError):
            raise result
        return result


def test_addresses_from_upstreams_are_kept_for_their_ttl() -> None:
    async def scenario() -> None:
        upstreams = FakeUpstreams(database=HostAddresses(("192.0.2.1", "192.0.2.2"), 100))
        now = 7.0
        async with resolving(upstreams.find, clock=lambda: now) as harness:
            harness.set_hosts("database")
            await until(lambda: harness.table.addresses_of("database") == ("192.0.2.1", "192.0.2.2"))
            now += 99.9
            for _ in range(10):
                harness.resolver.after_batch()
                await asyncio.sleep(0.002)  # a round
            assert upstreams.lookups == ["database"]
            now += 0.2
            harness.resolver.after_batch()
            await until(lambda: upstreams.lookups == ["database"] * 2)

    assert failures(scenario) == []


def test_addresses_from_upstreams_are_looked_up_again_after_their_ttl() -> None:
    async def scenario() -> None:
        upstreams = FakeUpstreams(database=HostAddresses(("192.0.2.1",), 0))
        async with resolving(upstreams.find) as harness:
            harness.set_hosts("database")
            await until(lambda: harness.table.addresses_of("database"))
            upstreams.results["database"] = HostAddresses(("192.0.2.2",), 0)
            harness.resolver.after_batch()
            await until(lambda: harness.table.addresses_of("database") == ("192.0.2.2",))

    assert failures(scenario) == []


def test_the_system_resolver_is_used_if_upstreams_do_not_have_the_name() -> None:
    async def scenario() -> None:
        upstreams = FakeUpstreams()
        async with resolving(upstreams.find) as harness:
            harness.set_hosts("localhost", ABSENT)
            await until(lambda: harness.table.addresses_of("localhost"))
            assert set(harness.table.addresses_of("localhost")) <= LOOPBACK
            await harness.rounds(ABSENT, 2)
            assert {"localhost", ABSENT} == set(upstreams.lookups)

    assert failures(scenario) == [ABSENT]


def test_the_system_resolver_is_not_used_if_upstreams_do_not_answer() -> None:
    """The previous addresses stay: the system resolver's may be old, or from another view of the DNS."""

    async def scenario() -> None:
        upstreams = FakeUpstreams(localhost=HostAddresses(("192.0.2.1",), 0))
        async with resolving(upstreams.find) as harness:
            harness.set_hosts("localhost")
            await until(lambda: harness.table.addresses_of("localhost"))
            upstreams.results["localhost"] = OSError("no answer from 192.0.2.53:53 within 3.8 s")
            before = len(upstreams.lookups)
            for _ in range(4):
                harness.resolver.after_batch()
                await until(lambda: len(upstreams.lookups) > before)  # noqa: B023 - used at once
                before = len(upstreams.lookups)
            assert harness.table.addresses_of("localhost") == ("192.0.2.1",)
            upstreams.results["localhost"] = HostAddresses(("192.0.2.2",), 0)
            harness.resolver.after_batch()
            await until(lambda: harness.table.addresses_of("localhost") == ("192.0.2.2",))

    assert failures(scenario) == ["localhost"]


def test_if_one_type_fails_its_previous_addresses_stay_and_the_other_is_updated() -> None:
    """Each failure is logged once. Any response ends it, even one without addresses."""
    old = {"A": "60 10.0.0.1", "AAAA": "60 2001:db8::1"}

    def all_but(failing: str, **records: str) -> Behaviour:
        def act(asked: ReceivedQuery) -> Iterable[Send]:
            if asked.query.question[0].rdtype.name == failing:
                return returns_rcode(dns.rcode.SERVFAIL)(asked)
            return by_type(**records)(asked)

        return act

    async def scenario() -> None:
        with UpstreamServer(by_type(**old)) as upstream:
            async with looking_up(upstream) as lookup, resolving(without_ttl(lookup.find)) as harness:
                harness.set_hosts(HOST)
                for act, expected in (
                    (by_type(**old), ("10.0.0.1", "2001:db8::1")),
                    (all_but("AAAA", A="60 10.0.0.2"), ("10.0.0.2", "2001:db8::1")),
                    (all_but("AAAA", A="60 10.0.0.3"), ("10.0.0.3", "2001:db8::1")),
                    (by_type(A="60 10.0.0.3"), ("10.0.0.3",)),
                    (by_type(**old), ("10.0.0.1", "2001:db8::1")),
                    (all_but("A", AAAA="60 2001:db8::2"), ("10.0.0.1", "2001:db8::2")),
                    (returns_rcode(dns.rcode.SERVFAIL), ("10.0.0.1", "2001:db8::2")),
                ):
                    upstream.set_behaviour(act)
                    await harness.look_ups(upstream.queries, 2)
                    await until(lambda: harness.table.addresses_of(HOST) == expected)  # noqa: B023 - used at once

    with capture_logs() as logs:
        run(scenario)
    logged = [(entry["host"], entry["types"]) for entry in logs if entry["event"] == NOT_RESOLVED]
    assert logged == [(HOST, "AAAA"), (HOST, "A"), (HOST, "A, AAAA")]


def failures(scenario: Callable[[], Any]) -> list[str]:
    """Run a scenario, and return the host names of the logged failures."""
    with capture_logs() as logs:
        asyncio.run(scenario())
    return [entry["host"] for entry in logs if entry["event"] == NOT_RESOLVED]
