"""A secondary's source with scripted primaries: no fault of theirs replaces a good table."""

from __future__ import annotations

import asyncio
import base64
import functools
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import dns.tsig
import pytest
from structlog.testing import capture_logs

from tests.daemon.watcher.scripted_primary import ScriptedPrimary, error
from tests.secondary.helpers import Line, lines, messages
from tests.support.tls import CertificateAuthority
from zkdns.config import Config, GuardSettings
from zkdns.config.model import PrimarySettings, TsigKey
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.daemon.watcher.primary_client import PrimaryClient, TransferLimits, check_transfer
from zkdns.daemon.watcher.primary_source import PrimarySource
from zkdns.daemon.watcher.zone_source import ZoneSource
from zkdns.dns.message import Type
from zkdns.namespace import STATIC_SOURCE, parse_namespace
from zkdns.secondary.access import PrimaryAccess

NAMESPACE = parse_namespace("/discovery/{environment}/{service}")
WEB = "/discovery/prod/web"
SHORT = TransferLimits(udp=0.3, connect=2.0, idle=1.0, total=5.0, max_bytes=1 << 17)
PATIENCE = 20.0
Members = dict[str, list[str]]


def soa(serial: int) -> Line:
    (line,) = lines(f"discovery.\t2\tIN\tSOA\tlocalhost. hostmaster.discovery. {serial} 60 10 86400 2")
    return line


def zone(serial: int, services: Members, held: Sequence[str] = ()) -> list[Line]:
    """A version: the addresses of each service's members."""
    found = [soa(serial)]
    for service, addresses in services.items():
        owner = f"{service}.prod.discovery."
        for number, address in enumerate(addresses):
            name = f"member_{number:010d}"
            attributes = f'"member={name}" "status=ALIVE"'
            if address in held:
                attributes += ' "held=1"'
            text = f'{attributes} "znode=/discovery/prod/{service}/{name}"'
            found += lines(
                f"{owner}\t5\tIN\tTXT\t{text}\n"
                f"m{number}.{owner}\t5\tIN\tTXT\t{text}\n"
                f"m{number}.{owner}\t5\tIN\tSRV\t{int(address in held)} 100 80 m{number}.{owner}\n"
                f"m{number}.{owner}\t5\tIN\tA\t{address}"
            )
    return found


def hosts(count: int, net: int = 0) -> list[str]:
    return [f"10.0.{net}.{number}" for number in range(1, count + 1)]


class Follower:
    """A source with its publisher and guards."""

    def __init__(self, *primaries: ScriptedPrimary, refresh: int = 1, **settings: object) -> None:
        servers = tuple(primary.address for primary in primaries)
        self.config = Config(
            listen=(),
            namespaces=(NAMESPACE,),
            primary=PrimarySettings(servers, refresh=refresh, **settings),  # type: ignore[arg-type]
            guard=GuardSettings(minimum=3),
        )
        self.publisher = Publisher((NAMESPACE.template, STATIC_SOURCE))
        self.guard = GuardedPublisher(self.config, NAMESPACE, self.publisher)
        self.source: PrimarySource | None = None

    def make(self) -> PrimarySource:
        self.source = PrimarySource(self.config, self.publisher, [self.guard], limits=SHORT)
        return self.source

    @property
    def zone(self) -> ZoneSource:
        assert self.source is not None
        return self.source.zones[0]

    def addresses(self, service: str = "web") -> set[str]:
        """The addresses of a service in the table, held ones too."""
        owner = self.publisher.table.set_of(f"/discovery/prod/{service}")
        return {one.addresses[0] for one in owner.members.values()} if owner is not None else set()

    def held(self, service: str = "web") -> set[str]:
        owner = self.publisher.table.set_of(f"/discovery/prod/{service}")
        return {owner.members[name].addresses[0] for name in owner.held} if owner is not None else set()

    @property
    def is_stale(self) -> bool:
        return self.publisher.health.stale


@asynccontextmanager
async def following(follower: Follower) -> AsyncIterator[Follower]:
    task = asyncio.create_task(follower.make().run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.wait([task])
        follower.guard.close()


def in_event_loop(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """Run an asynchronous test."""

    @functools.wraps(test)
    def run(*arguments: object, **options: object) -> None:
        asyncio.run(test(*arguments, **options))

    return run


@asynccontextmanager
async def followed_zone(services: Members | None = None) -> AsyncIterator[tuple[ScriptedPrimary, Follower]]:
    """A primary, and a source that has transferred version 5 of its zone. Default: `web` with two members."""
    primary = ScriptedPrimary(zone(5, services or {"web": hosts(2)}))
    async with primary, following(Follower(primary)) as follower:
        await until(lambda: follower.addresses() and follower.publisher.health.ready)
        yield primary, follower


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - of another component
            await asyncio.sleep(0.01)


@in_event_loop
async def test_a_zone_and_its_changes() -> None:
    async with followed_zone() as (primary, follower):
        assert (follower.addresses(), follower.publisher.table.serial) == (set(hosts(2)), 5)
        primary.versions.append(zone(9, {"web": hosts(3), "api": hosts(1, 1)}))
        follower.zone.notify("127.0.0.1")
        await until(lambda: follower.publisher.table.serial == 9)
        assert follower.addresses() == set(hosts(3))
        assert (primary.queries["AXFR"], primary.queries["IXFR"]) == (1, 1)


@in_event_loop
async def test_without_notify_the_serial_is_queried() -> None:
    async with followed_zone() as (primary, follower):
        primary.versions.append(zone(6, {"web": hosts(3)}))
        await until(lambda: len(follower.addresses()) == 3)


@in_event_loop
async def test_a_changed_serial_alone_is_followed() -> None:
    async with followed_zone() as (primary, follower):
        primary.versions.append(zone(6, {"web": hosts(2)}))
        await until(lambda: follower.publisher.table.serial == 6)


@in_event_loop
async def test_a_primary_without_ixfr() -> None:
    async with followed_zone() as (primary, follower):
        primary.answers_ixfr = False
        primary.versions.append(zone(6, {"web": hosts(3)}))
        await until(lambda: len(follower.addresses()) == 3)
        assert primary.queries["AXFR"] == 2


@in_event_loop
async def test_a_difference_that_does_not_fit_leads_to_a_full_transfer() -> None:
    async with followed_zone() as (primary, follower):
        # The difference from 5 to 7 deletes records that version 5 did not have.
        primary.versions[0] = zone(5, {"web": hosts(2, 9)})
        primary.versions.append(zone(7, {"web": hosts(1)}))
        await until(lambda: follower.addresses() == set(hosts(1)))
        assert primary.queries["AXFR"] == 2


SOA_WIRE = dns.rdatatype.SOA


def cut(query: dns.message.Message) -> Iterator[bytes]:
    """All messages but the last ones, then something that is no message."""
    yield from list(messages([*zone(6, {"web": hosts(9)})], Type(int(query.question[0].rdtype)), query.id))[
        :1
    ]


def endless(query: dns.message.Message) -> Iterator[bytes]:
    (first, *_) = messages([soa(6)], Type(int(query.question[0].rdtype)), query.id)
    yield first
    more = list(messages(zone(6, {"web": hosts(9)})[1:], Type(int(query.question[0].rdtype)), query.id))
    while True:
        yield from more


def outside(query: dns.message.Message) -> Iterable[bytes]:
    stray = lines("evil.example.\t5\tIN\tA\t10.9.9.9")
    return messages([soa(6), *stray, soa(6)], Type(int(query.question[0].rdtype)), query.id)


def no_soa(query: dns.message.Message) -> Iterable[bytes]:
    return messages(zone(6, {"web": hosts(1)})[1:], Type(int(query.question[0].rdtype)), query.id)


def older(query: dns.message.Message) -> Iterable[bytes]:
    return messages([*zone(3, {"web": hosts(1)}), soa(3)], Type(int(query.question[0].rdtype)), query.id)


def garbage(_query: dns.message.Message) -> Iterable[bytes]:
    return [b"\xff" * 40]


def refused(query: dns.message.Message) -> Iterable[bytes]:
    return [error(query, dns.rcode.REFUSED)]


def servfail(query: dns.message.Message) -> Iterable[bytes]:
    return [error(query, dns.rcode.SERVFAIL)]


def nothing(_query: dns.message.Message) -> Iterable[bytes]:
    return []


BAD = [cut, endless, outside, no_soa, older, garbage, refused, servfail, nothing]


@pytest.mark.parametrize("bad", BAD)
@in_event_loop
async def test_a_bad_transfer_never_replaces_the_table(
    bad: Callable[[dns.message.Message], Iterable[bytes]],
) -> None:
    """The SOA query shows a newer serial, and every transfer fails. Afterwards the primary is repaired."""
    async with followed_zone() as (primary, follower):
        primary.versions.append(zone(6, {"web": hosts(3)}))
        primary.override = lambda query: None if query.question[0].rdtype == SOA_WIRE else bad(query)
        await until(lambda: follower.is_stale)
        assert (follower.addresses(), follower.publisher.table.serial) == (set(hosts(2)), 5)
        assert follower.zone.stats.problem
        primary.override = None
        await until(lambda: follower.addresses() == set(hosts(3)))
        await until(lambda: not follower.is_stale)
        assert not follower.zone.stats.problem


@pytest.mark.parametrize("bad", [garbage, refused, servfail, nothing])
@in_event_loop
async def test_a_primary_that_does_not_answer_soa_queries(
    bad: Callable[[dns.message.Message], Iterable[bytes]],
) -> None:
    async with followed_zone() as (primary, follower):
        primary.override = bad
        await until(lambda: follower.is_stale)
        assert follower.addresses() == set(hosts(2))
        primary.override = None
        await until(lambda: not follower.is_stale)


@in_event_loop
async def test_a_secondary_that_is_cut_off_keeps_its_answers_and_tries_again() -> None:
    with capture_logs() as logs:
        async with followed_zone() as (primary, follower):
            primary.versions.append(zone(6, {"web": hosts(3)}))
            primary.has_too_many_connections = True
            await until(lambda: follower.zone.stats.transfers["failed"] >= 3)
            assert follower.addresses() == set(hosts(2))
            assert follower.guard.stale_since is not None
            primary.has_too_many_connections = False
            await until(lambda: follower.addresses() == set(hosts(3)))
            await until(lambda: follower.guard.stale_since is None)
    failures = [entry for entry in logs if entry["event"] == "primary_failed"]
    assert [entry["primary"] for entry in failures] == [str(primary.address)]  # once until it succeeds


@in_event_loop
async def test_a_secondary_that_is_cut_off_uses_the_next_primary() -> None:
    first, second = ScriptedPrimary(zone(5, {"web": hosts(2)})), ScriptedPrimary(zone(5, {"web": hosts(2)}))
    async with first, second, following(Follower(first, second)) as follower:
        await until(follower.addresses)
        for primary in (first, second):
            primary.versions.append(zone(6, {"web": hosts(3)}))
        first.has_too_many_connections = True
        await until(lambda: follower.addresses() == set(hosts(3)))
        assert follower.zone.stats.transfers["failed"]
        assert follower.guard.stale_since is None


@in_event_loop
async def test_too_many_bytes() -> None:
    async with ScriptedPrimary(zone(5, {"web": hosts(200)})) as primary:
        client = PrimaryClient(primary.address, PrimaryAccess(), TransferLimits(max_bytes=1000))
        assert "more than 1000 bytes" in str(await check_axfr(client))


async def check_axfr(client: PrimaryClient) -> Exception | None:
    try:
        await client.transfer((b"discovery",))
    except Exception as failure:  # noqa: BLE001 - the test checks it
        return failure
    return None


@in_event_loop
async def test_a_second_primary_takes_over() -> None:
    first, second = ScriptedPrimary(zone(5, {"web": hosts(2)})), ScriptedPrimary(zone(5, {"web": hosts(2)}))
    async with first, second, following(Follower(first, second)) as follower:
        await until(follower.addresses)
        assert second.queries.total() == 0
        first.is_silent = True
        second.versions.append(zone(6, {"web": hosts(3)}))
        await until(lambda: follower.addresses() == set(hosts(3)))
        assert not follower.is_stale
        first.is_silent = False
        first.versions = list(second.versions)
        await until(lambda: follower.zone.stats.primary == str(first.address))


@in_event_loop
async def test_a_primary_that_lags_behind_is_passed_over() -> None:
    first, second = ScriptedPrimary(zone(5, {"web": hosts(3)})), ScriptedPrimary(zone(4, {"web": hosts(1)}))
    async with first, second, following(Follower(first, second)) as follower:
        await until(follower.addresses)
        first.is_silent = True
        await until(lambda: follower.is_stale)
        assert "older serial 4" in follower.zone.stats.problem
        assert (follower.addresses(), second.queries["AXFR"]) == (set(hosts(3)), 0)
        second.versions.append(zone(5, {"web": hosts(3)}))
        await until(lambda: not follower.is_stale)


@in_event_loop
async def test_an_empty_zone_is_held_until_it_is_accepted() -> None:
    async with followed_zone() as (primary, follower):
        primary.versions.append(zone(6, {}))
        await until(follower.held)
        assert (follower.addresses(), follower.publisher.table.serial) == (set(hosts(2)), 6)
        await follower.guard.release([WEB])
        assert follower.addresses() == set()


@in_event_loop
async def test_most_of_a_zone_is_held() -> None:
    many = {"web": hosts(9), "api": hosts(3, 1)}
    async with followed_zone(many) as (primary, follower):
        primary.versions.append(zone(6, {"web": hosts(1), "api": hosts(3, 1)}))
        await until(follower.held)
        assert follower.held() == set(hosts(9)) - set(hosts(1))
        primary.versions.append(zone(7, many))
        await until(lambda: not follower.held())
        assert follower.addresses() == set(hosts(9))


@in_event_loop
async def test_a_service_that_ends_in_good_order_is_not_held() -> None:
    services = {"web": hosts(9), "api": hosts(2, 1)}
    async with followed_zone(services) as (primary, follower):
        primary.versions.append(zone(6, {"web": hosts(9)}))
        await until(lambda: not follower.addresses("api"))
        assert not follower.held("api")


@in_event_loop
async def test_members_that_the_primary_holds_stay_until_it_releases_them() -> None:
    services = {"web": hosts(3)}
    async with followed_zone(services) as (primary, follower):
        primary.versions.append(zone(6, services, held=hosts(3)))
        await until(lambda: follower.held() == set(hosts(3)))
        assert not follower.guard.guard.held  # the primary counts their time
        primary.versions.append(zone(7, services, held=hosts(3)[:1]))
        await until(lambda: follower.held() == set(hosts(3)[:1]))
        primary.versions.append(zone(8, {"web": hosts(3)[1:], "other": hosts(1, 5)}))
        await until(lambda: follower.addresses("other"))
        assert not follower.held()


@in_event_loop
async def test_all_held_members_may_be_released_at_once() -> None:
    """Their removal is no suspicious loss: the primary has decided it."""
    services = {"web": hosts(5), "api": hosts(5, 1)}
    held = hosts(5) + hosts(5, 1)
    async with followed_zone(services) as (primary, follower):
        primary.versions.append(zone(6, services, held=held))
        await until(lambda: follower.held("api"))
        primary.versions.append(zone(7, {}))
        await until(lambda: not follower.addresses())
        assert not follower.guard.guard.held


KEY = dns.tsig.Key("xfr.example.", base64.b64encode(b"k" * 32).decode(), "hmac-sha256.")
WRONG = dns.tsig.Key("xfr.example.", base64.b64encode(b"w" * 32).decode(), "hmac-sha256.")


TSIG_KEY = TsigKey("xfr.example", secret=b"k" * 32)


@in_event_loop
async def test_tsig() -> None:
    async with ScriptedPrimary(zone(5, {"web": hosts(30)})) as primary:
        primary.key = KEY
        async with following(Follower(primary, key=TSIG_KEY)) as follower:
            await until(follower.addresses)
            assert follower.addresses() == set(hosts(30))
            primary.key = None  # its messages are not signed any more
            primary.versions.append(zone(6, {"web": hosts(1)}))
            await until(lambda: follower.is_stale)
            assert "not signed" in follower.zone.stats.problem
            assert follower.addresses() == set(hosts(30))


@in_event_loop
async def test_a_wrong_tsig_key() -> None:
    async with ScriptedPrimary(zone(5, {"web": hosts(3)})) as primary:
        primary.override = lambda query: signed_with(WRONG, query)
        async with following(Follower(primary, key=TSIG_KEY)) as follower:
            await until(lambda: follower.zone.problem)
            assert "a signature is wrong" in follower.zone.problem
            assert not follower.publisher.health.ready


def signed_with(key: dns.tsig.Key, query: dns.message.Message) -> Iterable[bytes]:
    for message in messages([soa(5)], Type(int(query.question[0].rdtype)), query.id):
        signed = dns.message.from_wire(message)
        signed.use_tsig(key)
        signed.request_mac = query.mac or b""
        wire = signed.to_wire()
        assert wire is not None
        yield wire


def server_context(directory: Path, name: str) -> tuple[ssl.SSLContext, str]:
    """The TLS context of a primary with this name, and the file of its authority."""
    authority = CertificateAuthority(directory)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.sign(name))
    return context, str(authority.file)


@in_event_loop
async def test_transfers_over_tls(tmp_path: Path) -> None:
    context, authority = server_context(tmp_path, "ns1.example.com")
    primary = ScriptedPrimary(zone(5, {"web": hosts(2)}), tls=context)
    async with primary, following(Follower(primary, ca=authority)) as follower:
        await until(follower.addresses)
        primary.versions.append(zone(6, {"web": hosts(3)}))
        await until(lambda: follower.addresses() == set(hosts(3)))


@in_event_loop
async def test_a_primary_with_another_certificate_is_not_used(tmp_path: Path) -> None:
    context, authority = server_context(tmp_path, "ns2.example.com")
    primary = ScriptedPrimary(zone(5, {"web": hosts(2)}), tls=context)
    async with primary, following(Follower(primary, ca=authority)) as follower:
        await until(lambda: follower.zone.problem)
        assert "certificate" in follower.zone.problem
        assert not follower.publisher.health.ready


@in_event_loop
async def test_a_check_needs_no_full_transfer() -> None:
    async with ScriptedPrimary(zone(5, {"web": hosts(2)})) as primary:
        client = PrimaryClient(primary.address, PrimaryAccess(), SHORT)
        assert await check_transfer(client, (b"discovery",)) == 5
        primary.override = lambda query: refused(query) if query.question[0].rdtype != SOA_WIRE else None
        assert await check_transfer(client, (b"discovery",)) == "it responds with REFUSED"
        assert primary.queries["AXFR"] == 0
