"""`ZoneSource`: follows one zone of the primaries, and publishes its services.

    timer or NOTIFY ──▶ SOA query ──▶ newer serial? ──▶ IXFR ──▶ otherwise AXFR ──▶ ZoneCopy ──▶ ZonePublisher

The primaries are queried in order. One that fails is left out for a while, which doubles with each failure.
One with an older serial than ours lags behind, and is passed over: a table never goes back to an older one.
If no primary can be used, the services stay, and the zone is stale.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from zkdns.clock import elapsed_seconds
from zkdns.daemon.watcher.primary_client import PrimaryClient, failure_of
from zkdns.daemon.watcher.zone_publisher import ZonePublisher
from zkdns.dns.serial import is_newer
from zkdns.names import Labels, to_text
from zkdns.namespace import Namespace
from zkdns.secondary.inbound import Inbound, Kind
from zkdns.secondary.records import BadTransferError, Soa
from zkdns.secondary.zone_copy import ZoneCopy
from zkdns.telemetry.stats import SecondaryZoneStats

log = structlog.get_logger("zkdns.watcher")

FIRST_PAUSE: Final = 0.5
"""Seconds for which a primary is left out after its first failure."""
RESTORED_SECONDS: Final = 60.0
"""How long a restored table is protected from primaries with older serials. After that, the first one of
them is followed: the primaries may have been set up again."""
_LAG_PAUSE = 1.0
_MIN_PAUSE = 0.1  # seconds from one attempt to the next one
_JITTER = 0.2  # share by which pauses vary, so that the secondaries of a primary do not query it together


class _Primary:
    """A primary, and when it may be queried next."""

    def __init__(self, client: PrimaryClient) -> None:
        self.client = client
        self.retry_at = 0.0
        self.pause = 0.0
        self.problem = ""

    def __str__(self) -> str:
        return str(self.client.address)


class ZoneSource:
    """One zone.

    Attributes:
        apex: its apex.
        is_ready: whether it was transferred.
        is_away: whether no primary could be used at the last attempt.
        problem: why the services are missing or may be out of date. Empty: no problem is known.

    Args:
        apex: as above.
        clients: the primaries, in order.
        namespaces: the namespaces of the server.
        publisher: gets the services.
        on_state: called after `is_ready` or `is_away` has changed.
        refresh: maximum seconds between two SOA queries.
        restored_serial: the serial of a restored table. None: the server starts without one.
        clock: returns seconds that never decrease.
    """

    def __init__(
        self,
        apex: Labels,
        clients: Sequence[PrimaryClient],
        namespaces: Sequence[Namespace],
        publisher: ZonePublisher,
        on_state: Callable[[], object],
        *,
        refresh: float,
        restored_serial: int | None = None,
        clock: Callable[[], float] = elapsed_seconds,
    ) -> None:
        self.apex = apex
        self.is_ready = self.is_away = False
        self.problem = ""
        self._name = to_text(apex)
        self._primaries = [_Primary(client) for client in clients]
        self._publisher = publisher
        self._on_state = on_state
        self._refresh = refresh
        self._clock = clock
        self._copy = ZoneCopy(apex, namespaces)
        self._restored_serial = restored_serial
        self._restored_until = clock() + RESTORED_SECONDS
        self._wake = asyncio.Event()
        self._notifier = ""
        self._current = ""  # the primary that was used last
        self._counts = dict.fromkeys(("full", "incremental", "failed"), 0)
        self._notifies = 0

    @property
    def stats(self) -> SecondaryZoneStats:
        """Its state and counters."""
        return SecondaryZoneStats(
            zone=self._name,
            state="unreachable" if self.is_away else "live" if self.is_ready else "reading",
            serial=self._copy.serial,
            primary=self._current,
            problem=self.problem,
            transfers=self._counts.copy(),
            notifies=self._notifies,
        )

    def notify(self, address: str, serial: int | None = None) -> None:
        """Query the serial now, because a primary has sent a NOTIFY.

        Args:
            address: the primary's address; it is queried first.
            serial: the new serial, if it is known.
        """
        self._notifies += 1
        if serial is not None and serial == self._copy.serial and not self.is_away:
            return
        self._notifier = address
        self._wake.set()

    async def run(self) -> None:
        """Follow the zone, without end."""
        while True:
            self._wake.clear()
            started = self._clock()
            soa = await self._update()
            # Many NOTIFY messages must not become as many queries.
            await asyncio.sleep(started + _MIN_PAUSE - self._clock())
            pause = self._pause_after(soa)
            try:
                async with asyncio.timeout(pause * random.uniform(1 - _JITTER, 1)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _pause_after(self, soa: Soa | None) -> float:
        """Seconds until the next attempt."""
        if soa is not None:
            return max(1.0, min(self._refresh, soa.refresh))
        due = min(primary.retry_at for primary in self._primaries) - self._clock()
        return max(FIRST_PAUSE / 2, min(due, self._refresh))

    async def _update(self) -> Soa | None:
        """Query the primaries until one is current, and transfer the zone if it is newer. None: none is."""
        notifier, self._notifier = self._notifier, ""
        order = sorted(self._primaries, key=lambda one: one.client.address.host != notifier)
        lagging: list[str] = []
        for primary in order:
            if primary.retry_at > self._clock() and primary.client.address.host != notifier:
                continue
            try:
                soa = await primary.client.find_soa(self.apex)
                if self._is_older(soa.serial):
                    lagging.append(f"{primary}: it has the older serial {soa.serial}")
                    primary.retry_at = self._clock() + _LAG_PAUSE
                    continue
                if self._copy.serial != soa.serial:
                    await self._transfer(primary)
            except (OSError, BadTransferError) as error:
                self._note_failure(primary, failure_of(error))
                continue
            except Exception:  # an internal error must not end the watcher: it would happen again
                log.exception("zone_update_failed", zone=self._name, primary=str(primary))
                self._note_failure(primary, "internal error, see the log")
                continue
            self._note_success(primary)
            return soa
        self._note_unusable(lagging)
        return None

    def _is_older(self, serial: int) -> bool:
        """Whether a serial is older than that of the table."""
        own = self._copy.serial
        if own is None and self._clock() < self._restored_until:
            own = self._restored_serial
        return own is not None and serial != own and not is_newer(serial, own)

    async def _transfer(self, primary: _Primary) -> None:
        """Transfer the differences, or the whole zone, and publish them."""
        if self._copy.serial is not None:
            try:
                inbound = await primary.client.transfer(self.apex, self._copy.serial)
                if inbound.kind is Kind.CURRENT:
                    return
                await self._apply(inbound, primary)
            except BadTransferError as error:
                log.info(
                    "incremental_transfer_failed", zone=self._name, primary=str(primary), reason=str(error)
                )
            else:
                return
        await self._apply(await primary.client.transfer(self.apex), primary)

    async def _apply(self, inbound: Inbound, primary: _Primary) -> None:
        """Publish the services of a complete transfer."""
        if self._is_older(inbound.soa.serial):
            raise BadTransferError(f"it has the older serial {inbound.soa.serial}")
        started = self._clock()
        kind, records = inbound.kind, inbound.count
        is_full = kind is Kind.FULL
        steps = self._copy.next_version(inbound)
        update = self._publisher.begin(self.apex, inbound.soa.serial, is_full=is_full)
        while True:
            try:
                services = next(steps)
            except StopIteration as end:
                copy: ZoneCopy = end.value
                break
            await update.add(services)
            await asyncio.sleep(0)
        if not copy.has_digest:
            self._note_digest(inbound, primary)
        changes = await update.finish()
        self._copy = copy
        self._counts["full" if is_full else "incremental"] += 1
        log.log(
            logging.INFO if is_full else logging.DEBUG,
            "zone_transferred",
            zone=self._name,
            primary=str(primary),
            kind=kind.value,
            serial=inbound.soa.serial,
            records=records,
            changes=changes,
            seconds=round(self._clock() - started, 3),
        )

    def _note_digest(self, inbound: Inbound, primary: _Primary) -> None:
        """Handle members that do not have the digest of the primary's members.

        Differences are then discarded. The whole zone is used: it may have members that it cannot express.

        Raises:
            BadTransferError: the transfer is to be discarded.
        """
        if inbound.kind is not Kind.FULL:
            raise BadTransferError("the members do not have the digest of the primary's")
        log.warning("zone_digest_differs", zone=self._name, primary=str(primary), serial=inbound.soa.serial)

    # -- the state -----------------------------------------------------------------------------------------

    def _note_success(self, primary: _Primary) -> None:
        if primary.problem:
            log.info("primary_recovered", zone=self._name, primary=str(primary))
        primary.retry_at, primary.pause, primary.problem = 0.0, 0.0, ""
        self._current = str(primary)
        self._set_state(is_away=False, problem="")

    def _note_failure(self, primary: _Primary, reason: str) -> None:
        """Leave a primary out for a while. A reason is logged once."""
        self._counts["failed"] += 1
        if reason != primary.problem:
            log.warning("primary_failed", zone=self._name, primary=str(primary), reason=reason)
        primary.problem = reason
        primary.pause = min(max(FIRST_PAUSE, 2 * primary.pause), max(FIRST_PAUSE, self._refresh))
        primary.retry_at = self._clock() + primary.pause * random.uniform(1 - _JITTER, 1)

    def _note_unusable(self, lagging: Sequence[str]) -> None:
        reasons = [f"{primary}: {primary.problem}" for primary in self._primaries if primary.problem]
        self._set_state(is_away=True, problem="; ".join((*reasons, *lagging)))

    def _set_state(self, *, is_away: bool, problem: str) -> None:
        before = self.is_ready, self.is_away
        if is_away and not self.is_away:
            log.warning(
                "zone_stale", zone=self._name, reason=problem, effect="the last services are answered"
            )
        elif self.is_away and not is_away:
            log.info("zone_current", zone=self._name, primary=self._current, serial=self._copy.serial)
        self.is_away, self.problem = is_away, problem
        self.is_ready |= not is_away
        if (self.is_ready, self.is_away) != before:
            self._on_state()
