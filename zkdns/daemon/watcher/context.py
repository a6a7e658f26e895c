"""State of the watcher process that the handlers of control requests read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from zkdns.clock import elapsed_seconds
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

_WORST_STATE_FIRST = ("reading", "away", "readonly", "live")


class WatcherContext(msgspec.Struct):
    """The parts of the watcher. `guarded_publisher` and `zookeeper_sources` are set during start-up."""

    config: Config
    """The current configuration. A reload replaces it."""
    publisher: Publisher
    history: History
    resolver: HostResolver
    stale_timer: StaleTimer
    forward_zones: ForwardZones | None = None
    """None: this server forwards nothing."""
    guarded_publisher: GuardedPublisher | None = None
    """None: there is no ZooKeeper, so no member is ever held."""
    zookeeper_sources: Sequence[ZooKeeperSource] = ()
    """One source for each namespace. Empty without ZooKeeper."""
    znode_stats: ZnodeStatCache = msgspec.field(default_factory=ZnodeStatCache)

    def held_members(self, origin: str) -> list[HeldMember]:
        """Return the held members of a set. Their times are those of `zkdns.clock`."""
        if self.guarded_publisher is None:
            return []
        return self.guarded_publisher.guard.held_of(origin)

    @property
    def stale_seconds(self) -> float | None:
        """Seconds since the connection to ZooKeeper was lost. None: it is not lost."""
        since = self.stale_timer.since
        return elapsed_seconds() - since if since is not None else None

    @property
    def zookeeper_state(self) -> str | None:
        """The worst `SyncState` of all namespaces. None: there is no ZooKeeper."""
        states = {source.sync.state.value for source in self.zookeeper_sources}
        return next((state for state in _WORST_STATE_FIRST if state in states), None)
