"""Observers are preferred, and used again when they are back, without a disturbance."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import pytest
from kazoo.protocol.states import KeeperState
from structlog.testing import capture_logs

from tests.daemon.ipc.feed_helpers import until
from tests.serverset.sync_helpers import join, join_many
from tests.support.zookeeper import Ensemble, ZooKeeperServer
from tests.support.zookeeper_clients import client_of
from zkdns.address import HostPort
from zkdns.config import Config, ZooKeeperSettings
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.daemon.watcher.observer_moves import ObserverMoves
from zkdns.daemon.watcher.zookeeper_source import ZooKeeperSource
from zkdns.namespace import parse_namespace
from zkdns.serverset.client import make_client
from zkdns.serverset.sync import SyncState

pytestmark = pytest.mark.zookeeper

NAMESPACE = parse_namespace("/discovery/{environment}/{service}")
WEB = "/discovery/staging/web"


@pytest.fixture
def observed() -> Iterator[tuple[ZooKeeperServer, ZooKeeperServer]]:
    """A voting server and an observer."""
    with Ensemble(1, observers=1) as ensemble:
        voter, observer = ensemble.members
        assert observer.mode() == "observer"
        with client_of(voter.address) as client:
            join_many(client, WEB, 10)
        yield voter, observer


@asynccontextmanager
async def following(
    voter: ZooKeeperServer, observer: ZooKeeperServer, publisher: Publisher
) -> AsyncIterator[ZooKeeperSource]:
    """A source that has read everything, and returns to an observer at once."""
    settings = ZooKeeperSettings(
        hosts=f"{voter.address},{observer.address}", observers=(HostPort("127.0.0.1", observer.port),)
    )
    config = Config(listen=(), namespaces=(NAMESPACE,), zookeeper=settings)
    guarded = GuardedPublisher(config, NAMESPACE, publisher, piece_seconds=math.inf)
    source = ZooKeeperSource(config, guarded, check_seconds=0.05, move_seconds=0.05)
    source.start()
    await until(lambda: source.sync.state is SyncState.LIVE, 30)
    yield source
    await source.stop()
    guarded.close()


def connections(server: ZooKeeperServer) -> int:
    """The number of clients of a server, without the one that asks."""
    return server.four_letter("cons").count("sid=")


def members(publisher: Publisher) -> int:
    return sum(len(owner.members) for one in publisher.table.services.values() for owner in one.sets.values())


def test_an_observer_is_used_and_used_again_when_it_is_back(
    observed: tuple[ZooKeeperServer, ZooKeeperServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    voter, observer = observed

    async def scenario() -> None:
        publisher = Publisher([NAMESPACE.template])
        async with following(voter, observer, publisher) as source:
            assert connections(observer) == 1
            assert members(publisher) == 10
            observer.kill()
            await until(lambda: connections(voter) == 1, 30)
            await until(lambda: source.sync.state is SyncState.LIVE, 30)
            await asyncio.to_thread(observer.start)
            await asyncio.sleep(0.5)
            assert connections(observer) == 0  # the guard is in a window after the loss of the observer

            monkeypatch.setattr(GuardedPublisher, "is_in_window", False)
            await until(lambda: connections(observer) == 1 and connections(voter) == 0, 30)
            with client_of(voter.address) as client:
                await asyncio.to_thread(partial(join, client, WEB, "10.0.0.99"))
                await until(lambda: members(publisher) == 11, 30)

    with capture_logs() as logs:
        asyncio.run(scenario())
    events = [entry["event"] for entry in logs]
    assert (events.count("zookeeper_disconnected"), events.count("zookeeper_moved")) == (1, 1)
    assert events.index("zookeeper_disconnected") < events.index("zookeeper_moved")


def test_changes_during_moves_are_not_lost_and_members_are_not_held(
    observed: tuple[ZooKeeperServer, ZooKeeperServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moves to and fro, while a service loses its members one after the other, the last one too."""
    voter, observer = observed
    monkeypatch.setattr("zkdns.daemon.watcher.observer_moves.server_of", lambda _: None)

    def leave(client: Any) -> None:
        for name in sorted(client.get_children(WEB)):
            client.delete(f"{WEB}/{name}")

    async def scenario() -> None:
        publisher = Publisher([NAMESPACE.template])
        async with following(voter, observer, publisher) as source:
            with client_of(voter.address) as client:
                for _ in range(3):
                    before = moves()
                    await until(lambda: moves() > before, 30)  # noqa: B023 - used at once
                    await asyncio.to_thread(leave, client)
                    await until(lambda: members(publisher) == 0, 30)
                    await asyncio.to_thread(join_many, client, WEB, 10)
                    await until(lambda: members(publisher) == 10, 30)
            assert source.stats.holds == 0
            assert source.sync.state is SyncState.LIVE

    def moves() -> int:
        return sum(entry["event"] == "zookeeper_moved" for entry in logs)

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert "zookeeper_disconnected" not in [entry["event"] for entry in logs]


class Connected:
    """A client that is connected to a voting server."""

    connected = True
    handler = None
    client_state = KeeperState.CONNECTED


def test_a_second_client_that_cannot_connect_is_given_up_for_a_while() -> None:
    made: list[bool] = []

    def make(on_observer: bool) -> Any:
        made.append(on_observer)
        return make_client("127.0.0.1:1")

    moves = ObserverMoves([HostPort("zk4", 2181)], make, move_seconds=1.0)

    def check(now: float, *, is_quiet: bool = True) -> int:
        assert moves.next_client(cast("Any", Connected()), now, is_quiet=is_quiet) is None
        return len(made)

    assert check(0.0) == 0
    assert check(2.1, is_quiet=False) == 0
    assert check(2.2) == 1
    assert check(8.1) == 1
    assert check(8.3) == check(8.4) == 1  # it was given up
    assert check(10.5) == 2
    assert made == [True, True]
    moves.close()


def test_without_observers_nothing_moves() -> None:
    moves = ObserverMoves((), lambda _: pytest.fail("made a client"), move_seconds=0.0)
    for now in (0.0, 1.0, 2.0):
        assert moves.next_client(cast("Any", Connected()), now, is_quiet=True) is None
