"""`PrimarySource`: the zones of a secondary. Each is transferred and stale by itself.

A namespace is ready once all zones that may have its services were transferred. Services of the primary's
static file are in no namespace; together they are a source of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from zkdns.config import Config
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.ipc.feed_messages import SourceHealth
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.daemon.watcher.primary_client import LIMITS, PrimaryClient, TransferLimits
from zkdns.daemon.watcher.zone_publisher import ZonePublisher
from zkdns.daemon.watcher.zone_source import ZoneSource
from zkdns.names import Labels
from zkdns.namespace import STATIC_SOURCE, Namespace
from zkdns.secondary.access import load_primary_access
from zkdns.telemetry.stats import NamespaceStats, WatcherStats


class PrimarySource:
    """All zones of the primaries.

    Attributes:
        zones: the source of each zone.

    Args:
        config: primaries, zones and namespaces.
        publisher: gets the changes, and the health of services in no namespace.
        guards: the publishers of the namespaces.
        limits: as `TransferLimits`.

    Raises:
        ConfigError: the key file cannot be used.
    """

    def __init__(
        self,
        config: Config,
        publisher: Publisher,
        guards: Sequence[GuardedPublisher],
        *,
        limits: TransferLimits = LIMITS,
    ) -> None:
        access = load_primary_access(config.primary)
        self._publisher = publisher
        self._guards = guards
        self._states: dict[str, tuple[bool, bool]] = {}
        self._zone_publisher = ZonePublisher(config, publisher, guards)
        clients = [PrimaryClient(server, access, limits) for server in config.primary.servers]
        restored = publisher.table.serial if publisher.table.services else None
        self.zones = [
            ZoneSource(
                apex,
                clients,
                config.namespaces,
                self._zone_publisher,
                self._zone_changed,
                refresh=config.primary.refresh,
                restored_serial=restored,
            )
            for apex in config.zones
        ]
        self._set_static_health()

    async def run(self) -> None:
        """Follow all zones, without end."""
        async with asyncio.TaskGroup() as tasks:
            for zone in self.zones:
                tasks.create_task(zone.run())

    def zone_at(self, apex: Labels) -> ZoneSource | None:
        """The source of the zone with this apex."""
        return next((zone for zone in self.zones if zone.apex == apex), None)

    def state(self, templates: Collection[str] | None = None) -> str:
        """The worst state of the zones of these namespaces: `reading`, `unreachable` or `live`.

        Args:
            templates: the namespaces. None: all zones.
        """
        zones = [
            zone
            for zone in self.zones
            if templates is None
            or any(
                _has(guarded.namespace, zone)
                for guarded in self._guards
                if guarded.namespace.template in templates
            )
        ]
        if any(not zone.is_ready for zone in zones):
            return "reading"
        return "unreachable" if any(zone.is_away for zone in zones) else "live"

    @property
    def problem(self) -> str:
        """The problems of all zones, each once. Empty: there are none."""
        return "; ".join(dict.fromkeys(zone.problem for zone in self.zones if zone.problem))

    @property
    def stats(self) -> WatcherStats:
        """The stats of all zones and namespaces, without those of the table."""
        namespaces = tuple(
            NamespaceStats(
                guarded.namespace.template,
                self.state([guarded.namespace.template]),
                guarded.stale_since,
                len(guarded.guard.held),
                guarded.guard.holds_total,
            )
            for guarded in self._guards
        )
        stale = [one.stale_since for one in namespaces if one.stale_since is not None]
        return WatcherStats(
            state=self.state(),
            problem=self.problem,
            stale_since=min(stale, default=None),
            namespaces=namespaces,
            is_secondary=True,
            zones=tuple(zone.stats for zone in self.zones),
            bad=self._zone_publisher.skipped,
        )

    def _zone_changed(self) -> None:
        """Report the changed states of namespaces."""
        for guarded in self._guards:
            zones = [zone for zone in self.zones if _has(guarded.namespace, zone)]
            state = all(zone.is_ready for zone in zones), any(zone.is_away for zone in zones)
            if self._states.get(guarded.namespace.template) != state:
                self._states[guarded.namespace.template] = state
                guarded.set_health(state[0], state[1])
                guarded.call_in_order(self._set_static_health)

    def _set_static_health(self) -> None:
        healths = [guarded.health for guarded in self._guards]
        stale = [one.stale_since for one in healths if one.stale_since is not None]
        is_ready = all(one.ready for one in healths)
        self._publisher.set_health(SourceHealth(is_ready, min(stale, default=None), STATIC_SOURCE))


def _has(namespace: Namespace, zone: ZoneSource) -> bool:
    """Whether a zone may have services of a namespace."""
    return zone.apex[-len(namespace.zone) :] == namespace.zone
