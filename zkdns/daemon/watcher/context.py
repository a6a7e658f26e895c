"""What the watcher process knows, for those who explain it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from zkdns.config import Config
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.daemon.watcher.history import History
from zkdns.daemon.watcher.host_resolver import HostResolver
from zkdns.daemon.watcher.watcher_stats import StaleTimer
from zkdns.daemon.watcher.znode_cache import ZnodeStatCache
from zkdns.guard import HeldMember

if TYPE_CHECKING:
    from zkdns.daemon.watcher.zookeeper_source import ZooKeeperSource
    from zkdns.forward.forward_zones import ForwardZones


class WatcherContext(msgspec.Struct):
    """All of it; `guarding` and `zookeeper` come a little later than the rest."""

    config: Config
    publisher: Publisher
    history: History
    resolver: HostResolver
    stale: StaleTimer
    routes: ForwardZones | None = None
    """Who is asked for other names; None: nobody."""
    guarding: GuardedPublisher | None = None
    """Who holds members; None: nobody."""
    zookeeper: Sequence[ZooKeeperSource] = ()
    """What follows ZooKeeper; none: nothing is read from there."""
    looks: ZnodeStatCache = msgspec.field(default_factory=ZnodeStatCache)
    """Asks ZooKeeper for those who ask here."""

    def held_of(self, origin: str) -> list[HeldMember]:
        """A set's members in limbo, in times of the event loop's clock."""
        return self.guarding.guard.held_of(origin) if self.guarding is not None else []

    @property
    def stale_seconds(self) -> float | None:
        """For how long the source has been out of reach; None: it is not."""
        return asyncio.get_running_loop().time() - self.stale.since if self.stale.since is not None else None
