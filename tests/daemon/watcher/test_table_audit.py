"""An audit finds a table that differs from ZooKeeper although every event has arrived."""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.daemon.ipc.feed_helpers import until
from tests.dns.helpers import member
from tests.serverset.sync_helpers import data, join, join_many
from tests.support.zookeeper import ZooKeeperServer
from zkdns.config import Config, ZooKeeperSettings
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.daemon.watcher.zookeeper_source import ZooKeeperSource, stats_of
from zkdns.namespace import ServiceName, parse_namespace
from zkdns.serverset.changes import Change, MembersHeld, SetChanged, SetDropped, SetPut
from zkdns.serverset.member import Member
from zkdns.serverset.sync import SyncState
from zkdns.table import MemberSet

pytestmark = pytest.mark.zookeeper

OFTEN = 0.05


class Followed:
    """A source that has read everything, and its table with complete digests."""

    def __init__(self, hosts: str, root: str, audit_seconds: float) -> None:
        namespace = parse_namespace(f"{root}/{{environment}}/{{service}}")
        self.config = Config(listen=(), namespaces=(namespace,), zookeeper=ZooKeeperSettings(hosts=hosts))
        self.publisher = Publisher([namespace.template])
        self.guarded = GuardedPublisher(self.config, namespace, self.publisher, piece_seconds=math.inf)
        self.source = ZooKeeperSource(
            self.config, self.guarded, audit_seconds=audit_seconds, check_seconds=audit_seconds
        )
        self.web = f"{root}/staging/web"

    @property
    def repairs(self) -> int:
        return stats_of([self.source]).repairs

    @property
    def found(self) -> MemberSet:
        """The set of the table."""
        found = self.publisher.table.set_of(self.web)
        assert found is not None
        return found

    def count_members(self) -> None:
        digests = self.publisher.table.need_digests(self.config)
        while not digests.is_complete:
            digests.count_some()


@asynccontextmanager
async def following(hosts: str, root: str, audit_seconds: float = OFTEN) -> AsyncIterator[Followed]:
    followed = Followed(hosts, root, audit_seconds)
    followed.source.start()
    await until(lambda: followed.source.sync.state is SyncState.LIVE)
    followed.count_members()
    yield followed
    await followed.source.stop()
    followed.guarded.close()


def lose(members: dict[str, Member], web: str) -> Iterable[Change]:
    yield SetChanged(web, (), (min(members),))


def invent(members: dict[str, Member], web: str) -> Iterable[Change]:
    yield SetChanged(web, (msgspec.structs.replace(members[min(members)], name="member_9"),), ())


def falsify(members: dict[str, Member], web: str) -> Iterable[Change]:
    yield SetChanged(web, (msgspec.structs.replace(members[min(members)], shard=99),), ())


def drop(_: dict[str, Member], web: str) -> Iterable[Change]:
    yield SetDropped(web)


@pytest.mark.parametrize("change", [lose, invent, falsify, drop])
def test_a_wrong_table_is_found_and_corrected(
    zookeeper: ZooKeeperServer,
    zk: Any,
    zk_root: str,
    change: Callable[[dict[str, Member], str], Iterable[Change]],
) -> None:
    join_many(zk, f"{zk_root}/staging/web", 3)

    async def scenario() -> None:
        async with following(zookeeper.address, zk_root) as followed:
            right = dict(followed.found.members)
            assert followed.repairs == 0
            followed.publisher.publish(list(change(right, followed.web)))
            await until(lambda: followed.repairs and followed.found.members == right)
            assert followed.repairs == 1

    with capture_logs() as logs:
        asyncio.run(scenario())
    [entry] = [entry for entry in logs if entry["event"] == "table_repaired"]
    assert (entry["path"], entry["difference"]) == (f"{zk_root}/staging/web", "members")


@pytest.mark.parametrize("has_environment", [True, False])
def test_sets_that_zookeeper_does_not_have_are_dropped(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, has_environment: bool
) -> None:
    join_many(zk, f"{zk_root}/staging/web", 3)

    async def scenario() -> None:
        async with following(zookeeper.address, zk_root) as followed:
            table, right = followed.publisher.table, dict(followed.found.members)
            parent = f"{zk_root}/staging" if has_environment else f"{zk_root}/prod"
            name = ServiceName("gone", parent.rpartition("/")[2])
            invented = [
                SetPut(f"{parent}/gone", name, (member(9, "10.0.0.9:80"),)),
                SetPut(f"{parent}/empty", msgspec.structs.replace(name, service="empty"), ()),
            ]
            other = SetPut("static:db.prod", ServiceName("db", "prod"), (member(1, "10.0.0.8:80"),))
            followed.publisher.publish([*invented, other])
            await until(lambda: followed.repairs == 2 and table.origins == {followed.web, other.origin})
            assert followed.found.members == right

    with capture_logs() as logs:
        asyncio.run(scenario())
    found = [entry["difference"] for entry in logs if entry["event"] == "table_repaired"]
    assert found == ["set", "set"]


def test_a_held_set_without_a_znode_is_no_difference(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    join_many(zk, f"{zk_root}/staging/web", 3)

    async def scenario() -> None:
        async with following(zookeeper.address, zk_root) as followed:
            followed.guarded.disturb("test")
            zk.delete(followed.web, recursive=True)
            await until(lambda: len(followed.found.held) == 3)
            for _ in range(3):
                audits = followed.source.sync.last_audit_at
                await until(lambda: followed.source.sync.last_audit_at != audits)  # noqa: B023 - used at once
            assert len(followed.found.held) == 3
            assert followed.repairs == 0

    asyncio.run(scenario())


def test_a_set_without_members_is_checked_too(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> None:
    zk.ensure_path(f"{zk_root}/staging/web")

    async def scenario() -> None:
        async with following(zookeeper.address, zk_root) as followed:
            invented = SetPut(followed.web, ServiceName("web", "staging"), (member(9, "10.0.0.9:80"),))
            followed.publisher.publish([invented])
            await until(lambda: followed.repairs and not followed.found.members)

    asyncio.run(scenario())


def test_a_wrong_digest_is_found_and_computed_again(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    join_many(zk, f"{zk_root}/staging/web", 3)

    async def scenario() -> None:
        async with following(zookeeper.address, zk_root) as followed:
            digests = followed.publisher.table.need_digests(followed.config)
            [(_, right)] = digests.of_zones.items()
            # A member is counted that the table does not have: set and zone are wrong by the same number.
            assert followed.found.digest is not None
            followed.found.digest.count(member(9, "10.0.0.9:80"), +1, is_held=False)
            await until(lambda: followed.repairs)
            followed.count_members()
            assert list(digests.of_zones.values()) == [right]
            assert followed.repairs == 1

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert [entry["difference"] for entry in logs if entry["event"] == "table_repaired"] == ["digest"]


def test_held_members_are_no_difference(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> None:
    join_many(zk, f"{zk_root}/staging/web", 3)

    async def scenario() -> None:
        async with following(zookeeper.address, zk_root) as followed:
            held = min(followed.found.members)
            followed.publisher.publish([MembersHeld(followed.web, (held,), 1.0)])
            zk.delete(f"{followed.web}/{held}")  # the guard removes it, as it knows of no held member
            await until(lambda: held not in followed.found.members)
            gone = msgspec.structs.replace(next(iter(followed.found.members.values())), name=held)
            followed.publisher.publish([SetChanged(followed.web, (gone,), ())])
            followed.publisher.publish([MembersHeld(followed.web, (held,), 1.0)])
            audits = followed.source.sync.last_audit_at
            for _ in range(3):
                await until(lambda: followed.source.sync.last_audit_at != audits)  # noqa: B023 - used at once
                audits = followed.source.sync.last_audit_at
            assert held in followed.found.held
            assert followed.repairs == 0

    asyncio.run(scenario())


def test_changes_of_zookeeper_are_no_difference(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> None:
    web = f"{zk_root}/staging/web"
    dice = random.Random(7)

    def act() -> None:
        names = zk.get_children(web)
        kind = dice.choice(("join", "join", "leave", "change", "replace"))
        if kind == "join" or not names:
            join(zk, web, f"10.0.0.{dice.randrange(250)}")
            return
        path = f"{web}/{dice.choice(names)}"
        if kind == "change":
            zk.set(path, data(f"10.0.1.{dice.randrange(250)}"))
            return
        zk.delete(path)
        if kind == "replace":
            zk.create(path, data(f"10.0.2.{dice.randrange(250)}"))

    join_many(zk, web, 5)

    async def scenario() -> None:
        async with following(zookeeper.address, zk_root, 0.01) as followed:
            for _ in range(300):
                await asyncio.to_thread(act)
            await until(
                lambda: (
                    followed.found.members.keys() - followed.found.held.keys() == set(zk.get_children(web))
                )
            )
            assert followed.repairs == 0

    asyncio.run(scenario())
