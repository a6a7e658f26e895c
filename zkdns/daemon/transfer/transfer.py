"""The transfer process: copies the zones to secondaries (AXFR, IXFR), notifies them, and handles TSIG.

    watcher ══ feed ══▶ Table ──▶ Authority ──▶ ZoneUpdates ──▶ ZoneVersions ──▶ Notifier ──▶ secondaries
                                      ▲                              ▲
    clients ◀──▶ workers ◀── relay ───┴──▶ TransferResponder ────────┘

    component          file                          task
    ZoneUpdates        zone_updates.py               makes a version of each zone after changes
    ZoneVersions       dns/transfer/versions.py      has the records of a zone, and the journal for IXFR
    RelayServer        daemon/ipc/relay.py           receives queries from the workers
    TransferResponder  dns/transfer/responder.py     decides who gets which response
    Notifier           notifier.py                   sends NOTIFY
    ZoneStore          zone_store.py                 keeps the versions on disk over restarts

It runs only if zone transfers are configured. The secrets of TSIG keys are in this process alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable
from functools import partial
from pathlib import Path

import dns.name
import dns.tsig
import structlog

from zkdns.config.model import TsigKey
from zkdns.config.tsig_key import load_secret
from zkdns.daemon.gc_tuning import collect_young_generations_only
from zkdns.daemon.ipc.child import RETIRE_SECONDS, Follow, Orders, Report, Retire, SendReport, Task
from zkdns.daemon.ipc.feed import Subscriber
from zkdns.daemon.ipc.feed_messages import SourceHealth
from zkdns.daemon.ipc.relay import RelayedQuery, RelayServer
from zkdns.daemon.transfer.notifier import Notifier
from zkdns.daemon.transfer.zone_store import ZoneStore
from zkdns.daemon.transfer.zone_updates import ZoneUpdates
from zkdns.dns.authority import Authority
from zkdns.dns.transfer.contents import soa_template
from zkdns.dns.transfer.responder import Refusal, TransferResponder
from zkdns.dns.transfer.versions import ZoneVersions
from zkdns.dns.tsig import make_key
from zkdns.errors import BadValueError, ConfigError
from zkdns.names import Labels, to_text
from zkdns.table import Table
from zkdns.telemetry.stats import TransferCount, TransferStats, ZoneStats
from zkdns.transport.local_addresses import unmapped

log = structlog.get_logger("zkdns.transfer")

MAX_VERSIONS = 10_000
"""Differences in a journal, whatever their size."""
MAX_TRANSFER_SECONDS = 600.0
"""Time for one response. A secondary that reads so slowly cannot follow changes."""
MAX_WORKER_SECONDS = 5.0
"""How long a NOTIFY waits for workers that have not applied a change. One that takes longer hangs."""
MAX_LOGGED_CLIENTS = 1000
_REPORT_SECONDS = 1.0
_MIB = 1 << 20


async def run_transfer(task: Task, send_report: SendReport, orders: Orders) -> None:
    """Run the process until it is cancelled or retired.

    Raises:
        ConfigError: the file with a secret cannot be used.
    """
    collect_young_generations_only()
    transfers = _Transfers(task)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(work) for work in transfers.work(send_report)]
        await transfers.server.start()
        await transfers.follow_until_retired(orders)
        transfers.server.stop_accepting()
        await transfers.finish()
        for each in running:
            each.cancel()


class _Transfers:
    """The parts of the process."""

    def __init__(self, task: Task) -> None:
        config = task.config
        table = Table(departed_seconds=0)
        self._authority = Authority(table, config, _log_error)
        keys = {key.name: key for key in map(_load_key, config.transfer.keys)}
        soas = {apex: soa_template(self._authority.zone, apex) for apex in config.zones}
        self._versions = {
            apex: ZoneVersions(
                apex,
                soa,
                max_versions=MAX_VERSIONS if config.transfer.journal else 0,
                max_bytes=config.transfer.journal * _MIB,
            )
            for apex, soa in soas.items()
        }
        self._notifier = Notifier(config.transfer.notify, keys, task.listening, self._until_answered)
        self._updates = ZoneUpdates(table, self._authority, self._versions, self._on_version)
        self._subscriber = Subscriber(
            task.feed, table, self._updates.on_change, self._on_health, namespaces=config.namespaces
        )
        self._updates.follow(self._subscriber)
        directory = config.transfer.directory if config.transfer.journal else None
        self._stores = (
            {apex: ZoneStore(Path(directory), apex, soa) for apex, soa in soas.items()}
            if directory is not None
            else {}
        )
        for apex, store in self._stores.items():
            if (stored := store.load()) is not None:
                self._updates.restore(apex, stored)
        self._responder = TransferResponder(
            self._versions,
            keys,
            config.transfer.allow,
            self._answer,
            self._on_refused,
            max_running=config.transfer.max_transfers,
            require_tls=config.transfer.require_tls,
        )
        self._refused: set[str] = set()
        self._transferable: set[Labels] = set()
        self.server = RelayServer(task.transfer, self._respond, max_seconds=MAX_TRANSFER_SECONDS)

    def work(self, send_report: SendReport) -> Iterable[Coroutine[None, None, None]]:
        """The tasks of the process."""
        return (
            self._subscriber.run(),
            self._updates.run(),
            self._notifier.run(),
            *(store.run() for store in self._stores.values()),
            self._report(send_report),
        )

    async def follow_until_retired(self, orders: Orders) -> None:
        """Execute the supervisor's orders until `Retire`."""
        while True:
            match await orders.get():
                case Retire():
                    return
                case Follow(feed):
                    self._subscriber.follow(feed)

    async def finish(self) -> None:
        """Wait until the responses that have begun are sent, for a limited time."""
        for store in self._stores.values():
            await store.stop()
        try:
            async with asyncio.timeout(RETIRE_SECONDS):
                await self.server.wait_until_idle()
        except TimeoutError:
            log.info("transfers_interrupted", running=self._responder.running)

    def _on_version(self, apex: Labels) -> None:
        """Notify the secondaries. Their first version may differ from what they have, so it counts too."""
        if apex not in self._transferable:
            self._transferable.add(apex)
            versions = self._versions[apex]
            log.info(
                "zone_transferable", zone=to_text(apex), serial=versions.serial, zone_bytes=versions.size
            )
        self._notifier.notify(apex)
        if apex in self._stores:
            self._stores[apex].note(self._versions[apex], partial(self._updates.parts, apex))

    async def _until_answered(self) -> None:
        """Wait until the workers have all changes of the newest versions."""
        await self._subscriber.wait_until_applied_by_all(MAX_WORKER_SECONDS)

    def _on_health(self, health: SourceHealth) -> None:
        self._authority.set_health(ready=health.ready, stale=health.is_stale, source=health.source)
        self._updates.on_change(())

    async def _respond(self, query: RelayedQuery) -> AsyncGenerator[bytes, None]:
        """Answer a relayed query from the newest versions."""
        await self._updates.update()
        address = unmapped(query.address)
        responses = self._responder.respond(
            query.message, address, int(time.time()), stream=query.is_stream, is_tls=query.is_tls
        )
        try:
            for message in responses:
                yield message
        finally:
            responses.close()

    def _answer(self, message: bytes, stream: bool) -> bytes:
        """The answer to a query of another type."""
        answer = self._authority.responder.answer(message[2:], stream=stream, encode=lambda body, _: body)
        return message[:2] + next(answer.responses)

    def _on_refused(self, refusal: Refusal) -> None:
        """Log the first refusal of each client."""
        if refusal.client not in self._refused and len(self._refused) < MAX_LOGGED_CLIENTS:
            self._refused.add(refusal.client)
            log.warning("transfer_refused", client=refusal.client, zone=refusal.zone, reason=refusal.reason)

    async def _report(self, send_report: SendReport) -> None:
        """Send a report whenever the stats have changed, without end."""
        last: Report | None = None
        while True:
            report = Report(self._updates.is_ready, self._stats())
            if report != last:
                send_report(report)
            last = report
            await asyncio.sleep(_REPORT_SECONDS if report.ready else _REPORT_SECONDS / 10)

    def _stats(self) -> TransferStats:
        counts = sorted(self._responder.results.items())
        return TransferStats(
            requests=tuple(TransferCount(kind, result, count) for (kind, result), count in counts),
            running=self._responder.running,
            sent_bytes=self._responder.sent_bytes,
            notifies=dict(self._notifier.results),
            zones=tuple(
                ZoneStats(
                    zone=to_text(apex),
                    serial=versions.serial,
                    zone_bytes=versions.size,
                    journal_versions=versions.journal_length,
                    journal_bytes=versions.journal_bytes,
                )
                for apex, versions in self._versions.items()
            ),
        )


def _load_key(key: TsigKey) -> dns.tsig.Key:
    """Make a TSIG key.

    Raises:
        ConfigError: the file with its secret cannot be used.
    """
    try:
        return make_key(key.name, key.algorithm, load_secret(key))
    except BadValueError as error:
        raise ConfigError([str(error)]) from None


def _log_error(query: bytes, error: Exception) -> None:
    log.error("query_failed", query=query[:512].hex(), exc_info=error)
