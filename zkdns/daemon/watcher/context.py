"""State of the watcher process that the handlers of requests read."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import msgspec

from zkdns.admin.api_types import ReleasedMember
from zkdns.clock import elapsed_seconds
from zkdns.config import Config
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.ipc.feed_messages import SourceHealth
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.daemon.watcher.history import History
from zkdns.daemon.watcher.host_resolver import HostResolver
from zkdns.daemon.watcher.znode_cache import ZnodeStatCache
from zkdns.guard import HeldMember

if TYPE_CHECKING:
    from zkdns.daemon.explain.explain import Explainer
    from zkdns.daemon.watcher.primary_source import PrimarySource
    from zkdns.daemon.watcher.zookeeper_source import ZooKeeperSource
    from zkdns.forward.forward_zones import ForwardZones

_PUBLISHED_SECONDS = 1.0  # less than the time-out of a request
_POLL_SECONDS = 0.01
_WORST_STATE_FIRST = ("reading", "unreachable", "readonly", "live")


class WatcherContext(msgspec.Struct):
    """The parts of the watcher. `namespaces` and `zookeeper_sources` are set during start-up."""

    config: Config
    """The current configuration. A reload replaces it."""
    publisher: Publisher
    history: History
    resolver: HostResolver
    forward_zones: ForwardZones | None = None
    """None: this server forwards nothing."""
    namespaces: Sequence[GuardedPublisher] = ()
    """The publisher of each namespace, with its guard. Empty without ZooKeeper and primaries, so no member is
    ever held."""
    zookeeper_sources: Sequence[ZooKeeperSource] = ()
    """The source of each namespace in ZooKeeper."""
    primary_source: PrimarySource | None = None
    """The source of a secondary."""
    znode_stats: ZnodeStatCache = msgspec.field(default_factory=ZnodeStatCache)
    explainer: Explainer | None = None
    """Made by the first request that needs it."""

    def source_healths(self) -> list[SourceHealth]:
        """Return the present state of each namespace."""
        return [guarded.health for guarded in self.namespaces]

    def held_members(self, origin: str) -> list[HeldMember]:
        """Return the held members of a set. Their times are those of `zkdns.clock`."""
        return [held for guarded in self.namespaces for held in guarded.guard.held_of(origin)]

    @property
    def held_origins(self) -> set[str]:
        """The origins of all sets with held members."""
        return {held.origin for guarded in self.namespaces for held in guarded.guard.held}

    async def release(self, origins: Collection[str]) -> tuple[ReleasedMember, ...]:
        """Remove the held members of these sets, and return them in order."""
        released = [await guarded.release(origins) for guarded in self.namespaces]
        return tuple(itertools.chain.from_iterable(released))

    async def wait_until_published(self) -> None:
        """Wait until the changes that ZooKeeper has reported are in the table, at most `_PUBLISHED_SECONDS`.

        A sync that has just received an event still has to read what it was about.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PUBLISHED_SECONDS):
                for guarded in self.namespaces:
                    await guarded.wait_until_published()
                while not all(source.is_settled for source in self.zookeeper_sources):  # noqa: ASYNC110 - rare
                    await asyncio.sleep(_POLL_SECONDS)

    def stale_seconds(self, origins: Collection[str] | None = None) -> float | None:
        """Seconds since the sets of these origins were last known to be current. None: they are.

        Args:
            origins: the origins. None: all sets.
        """
        times = [guarded.stale_since for guarded in self._namespaces_of(origins)]
        known = [since for since in times if since is not None]
        return elapsed_seconds() - min(known) if known else None

    def source_state(self, origins: Collection[str] | None = None) -> str | None:
        """The worst `SyncState` of the namespaces of these origins. None: no ZooKeeper and no primary.

        Args:
            origins: the origins. None: all namespaces.
        """
        wanted = [guarded.namespace for guarded in self._namespaces_of(origins)]
        if self.primary_source is not None:
            return self.primary_source.state([namespace.template for namespace in wanted])
        states = {source.sync.state.value for source in self.zookeeper_sources if source.namespace in wanted}
        return next((state for state in _WORST_STATE_FIRST if state in states), None)

    def _namespaces_of(self, origins: Collection[str] | None) -> Sequence[GuardedPublisher]:
        if origins is None:
            return self.namespaces
        found = [guarded for guarded in self.namespaces if any(map(guarded.namespace.matches_path, origins))]
        return found or self.namespaces

    @property
    def source_problem(self) -> str:
        """The problems of all namespaces or zones, each once. Empty: there are none."""
        if self.primary_source is not None:
            return self.primary_source.problem
        return "; ".join(dict.fromkeys(one.problem for one in self.zookeeper_sources if one.problem))
