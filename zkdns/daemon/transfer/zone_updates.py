"""Makes a version of each zone after changes of the table.

    feed ──▶ changed services ──▶ (coalesced) ──▶ records of these services ──▶ next version ──▶ on_version

A version has the content of the table at its serial, and nothing else:

- Changes with one serial may arrive in several frames, changes before their serial, and a copy of the table
  source by source. There is no version until all of it has arrived (`Subscriber.is_whole`).
- The records are made in steps, while the table goes on changing. Services that change meanwhile are made
  again, and the version gets the serial of the table at the end.
- The first version is not older than the stored one, unless it is the newest after some time.
- Names of departed members are left out, since they end by time and not by a change.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Mapping

import structlog

from zkdns.daemon.gc_tuning import gc_paused_for_loading
from zkdns.daemon.ipc.feed import Subscriber
from zkdns.daemon.transfer.zone_store import Parts, StoredZone
from zkdns.dns.authority import Authority
from zkdns.dns.transfer.versions import ZoneVersions
from zkdns.dns.transfer.zone_records import ZoneRecords
from zkdns.names import Labels, to_text
from zkdns.table import ANY_SERVICE, Table

log = structlog.get_logger("zkdns.transfer")

TICK_SECONDS = 0.2
"""Changes within this time make one version."""
PIECE_SECONDS = 0.005
"""Time after which work is interrupted to answer queries."""
WAIT_SECONDS = 30.0
"""Time for a new table after a start. A snapshot may be older than what secondaries have."""
_MAX_ROUNDS = 5
"""After this many rounds, in each of which services have changed, the rest is made without a pause."""


class ZoneUpdates:
    """Makes the versions of all zones.

    Args:
        table: follows the feed.
        authority: the zones of the table.
        versions: by the apex of each zone.
        on_version: called with the apex of each zone that has a new version.
        tick_seconds: as `TICK_SECONDS`.
        wait_seconds: as `WAIT_SECONDS`.
    """

    def __init__(
        self,
        table: Table,
        authority: Authority,
        versions: Mapping[Labels, ZoneVersions],
        on_version: Callable[[Labels], None],
        *,
        tick_seconds: float = TICK_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._table, self._authority, self._versions = table, authority, versions
        self._on_version, self._tick_seconds = on_version, tick_seconds
        self._wait_until = time.monotonic() + wait_seconds
        self._subscriber: Subscriber | None = None
        self._records = ZoneRecords(authority, versions)
        self._has_changed = asyncio.Event()
        self._lock = asyncio.Lock()
        self._has_warned = False

    @property
    def is_ready(self) -> bool:
        """Whether every zone has a version."""
        return all(versions.serial is not None for versions in self._versions.values())

    def follow(self, subscriber: Subscriber) -> None:
        """Set the subscriber that changes the table."""
        self._subscriber = subscriber

    def on_change(self, keys: Iterable[Labels]) -> None:
        """Note that these services have changed, or with () the health of a source."""
        self._records.refresh(keys)
        self._has_changed.set()

    def restore(self, apex: Labels, zone: StoredZone) -> None:
        """Restore the version of a zone that an earlier process has stored, before `run`."""
        restore_zone(self._versions[apex], self._records, zone)

    def parts(self, apex: Labels) -> Parts:
        """The records of a zone's present version, in the calls of `on_version` only."""
        return self._records.parts(apex)

    async def run(self) -> None:
        """Make versions, without end."""
        left = self._wait_until - time.monotonic()
        asyncio.get_running_loop().call_later(max(left, 0.0), self._has_changed.set)
        while True:
            await self._has_changed.wait()
            await asyncio.sleep(self._tick_seconds)
            await self.update()

    async def update(self) -> None:
        """Make a version of each zone with all changes so far, if they are complete."""
        async with self._lock:
            self._has_changed.clear()
            rounds = 0
            with contextlib.nullcontext() if self.is_ready else gc_paused_for_loading():
                while self._records.has_changed:
                    rounds += 1
                    await _run(self._records.stage(), may_pause=rounds < _MAX_ROUNDS)
            self._publish()  # without a pause since the last look at the changed services

    def _publish(self) -> None:
        serial = self._table.serial
        for apex, versions in self._versions.items():
            if not self._is_whole(apex):
                continue
            if versions.is_outdated(serial) and time.monotonic() < self._wait_until:
                continue
            if self._records.publish(apex, serial):
                self._on_version(apex)
            elif versions.has_unpublished and not self._has_warned:
                self._has_warned = True
                effect = "the changes are transferred with the next serial"
                log.warning("zone_serial_unchanged", zone=to_text(apex), serial=serial, effect=effect)

    def _is_whole(self, apex: Labels) -> bool:
        freshness = self._authority.freshness
        if self._subscriber is None or freshness.is_unknown(apex, apex, ANY_SERVICE, exists=True):
            return False
        return all(map(self._subscriber.is_whole, freshness.sources_in(apex)))


def restore_zone(versions: ZoneVersions, records: ZoneRecords, zone: StoredZone) -> None:
    """Restore the version of a zone in both."""
    blocks = [block for _, buckets in zone.parts for part in buckets for block in part]
    versions.restore(zone.serial, blocks, zone.past, zone.following)
    records.restore(versions.apex, zone.parts)


async def _run(steps: Generator[None, None, None], *, may_pause: bool) -> None:
    """Run steps. With pauses, queries are answered meanwhile."""
    pause_at = time.monotonic() + PIECE_SECONDS
    for _ in steps:
        if may_pause and time.monotonic() > pause_at:
            await asyncio.sleep(0)
            pause_at = time.monotonic() + PIECE_SECONDS
