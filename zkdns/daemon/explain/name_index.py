"""The zone of the watcher's table, for explanations: it follows the table, and never delays its changes.

    Publisher.after_change ──▶ the changed services are noted
    a request              ──▶ `update` brings the zone up to date, in pieces of at most a millisecond

The first request makes the zone, so a watcher that explains nothing does not have it. It takes some kilobytes
for each location of services, and the views of the services that were last explained.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from zkdns.config import Config
from zkdns.daemon.ipc.feed import Publisher, PublisherListener
from zkdns.dns.zone import Zone
from zkdns.names import Labels
from zkdns.table import ANY_SERVICE, Service, Table

_SERVICES_PER_PIECE = 100
_MAX_NOTED = 10_000  # changed services, in addition to the number of services; then the zone is made again


class NameIndex(PublisherListener):
    """Keeps a zone of a publisher's table.

    Args:
        publisher: has the table. This object listens to its changes.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._table = publisher.table
        self._changed: dict[Labels, None] = {}  # in the order of the changes
        self._config: Config | None = None
        self._included = _IncludedTable(publisher.table)
        self._zone: Zone | None = None
        publisher.add_listener(self)

    def after_change(self, keys: set[Labels]) -> None:
        """Note the services that have changed."""
        if self._zone is None:
            return
        self._changed |= dict.fromkeys(keys)
        if len(self._changed) > len(self._table.services) + _MAX_NOTED:
            self._zone = None
            self._changed.clear()

    async def update(self, config: Config) -> Zone:
        """Return the zone with all changes until now. It is valid until the next round of the event loop."""
        while True:
            if self._zone is None or (config is not self._config and config != self._config):
                self._included = _IncludedTable(self._table)
                self._zone = Zone(self._included, config)
                self._changed = dict.fromkeys(self._table.services)
            self._config = config
            if not self._changed:
                self._included.serial = self._table.serial
                return self._zone
            piece = [key for key, _ in zip(self._changed, range(_SERVICES_PER_PIECE), strict=False)]
            for key in piece:
                del self._changed[key]
            self.refresh(piece)
            await asyncio.sleep(0)

    def refresh(self, keys: Iterable[Labels]) -> None:
        """Update the zone after these services have changed."""
        wanted = [key for key in keys if key != ANY_SERVICE]
        self._included.include(wanted)
        if self._zone is not None:
            self._zone.refresh(wanted)


class _IncludedTable(Table):
    """The part of another table that a zone knows already."""

    def __init__(self, whole: Table) -> None:
        super().__init__(departed_seconds=0)
        self._whole = whole

    def include(self, keys: Iterable[Labels]) -> None:
        """Take the present state of these services from the whole table."""
        for key in keys:
            service: Service | None = self._whole.services.get(key)
            if service is None:
                self._services.pop(key, None)
            else:
                self._services[key] = service

    def addresses_of(self, host: str) -> tuple[str, ...]:
        """The IP addresses of a host name at its last lookup."""
        return self._whole.addresses_of(host)
