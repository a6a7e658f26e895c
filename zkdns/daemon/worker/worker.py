"""The worker process: follows the watcher's feed, and answers queries over UDP and TCP.

A worker does not connect to ZooKeeper, and has no credentials for it.

    watcher ══ feed ══▶ Subscriber ──▶ Table ──▶ Authority ◀──▶ Forwarder ◀──▶ upstreams
                                                     ▲
                                                     ▼ response caches
    clients ◀──▶ UdpServer, TcpServer, each with the access control of its socket

    component            file                  task
    Subscriber           daemon/ipc/feed.py    applies the watcher's changes to the table
    Table                table.py              has all services and members
    Authority            dns/authority.py      has zone, responder and response caches of the table
    Forwarder            forward/forwarder.py  resolves names outside the zones, with a cache of its own
    UdpServer            transport/udp.py      reads queries and sends responses, in batches
    TcpServer            transport/tcp.py      accepts connections, and answers the queries on them
    access control       transport/access_control.py     checks the allowed networks and the rate limit
    WorkerStatsReporter  worker_stats.py       reports readiness and stats to the supervisor
    Relay                daemon/ipc/relay.py   relays zone transfers, signed queries and NOTIFY
    TrafficReporter      worker_stats.py       reports queries by service, and frequent names and clients
    DeferredAnswers      deferred_answers.py   finishes the names of large services in pieces
    drain                drain.py              finishes the open queries after the order `Retire`

A worker opens the inherited sockets, waits for the first message of the feed, and serves. After `Retire` it
drains and exits.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog

from zkdns.daemon.gc_tuning import collect_all, collect_young, collect_young_generations_only
from zkdns.daemon.ipc.child import Follow, Orders, RelayTransfers, Retire, SendReport, Task
from zkdns.daemon.ipc.feed import Subscriber
from zkdns.daemon.ipc.feed_messages import SourceHealth
from zkdns.daemon.ipc.relay import Relay
from zkdns.daemon.ipc.table_copies import CopyServer
from zkdns.daemon.table_digests import count_members
from zkdns.daemon.worker.deferred_answers import DeferredAnswers
from zkdns.daemon.worker.drain import drain
from zkdns.daemon.worker.padded_responses import PaddedResponses
from zkdns.daemon.worker.worker_stats import TrafficReporter, WorkerStatsReporter
from zkdns.dns.authority import Authority
from zkdns.dns.cookies import Cookies
from zkdns.dns.edns_options import EdnsOptions
from zkdns.dns.refusals import ErrorResponder, refused_response, truncated_response
from zkdns.dns.response_class import classify
from zkdns.table import Table
from zkdns.telemetry.query_log import QueryLog
from zkdns.telemetry.traffic import TopQueries
from zkdns.transport.access_control import PRIVATE, AccessControl, AccessCounters, Allowlist, RateLimit
from zkdns.transport.codecs import TcpCodec, UdpCodec
from zkdns.transport.contract import ResponseLookup, for_client
from zkdns.transport.event_loop import deferrer, set_housekeeping
from zkdns.transport.local_addresses import LocalAddresses
from zkdns.transport.log_once import LogOnce
from zkdns.transport.rate_counters import RateCounters
from zkdns.transport.sockets import connections_per_listener
from zkdns.transport.tcp import IDLE_SECONDS, HeldConnections, TcpServer
from zkdns.transport.udp import UdpServer

if TYPE_CHECKING:
    from zkdns.forward.cache import Entry
    from zkdns.forward.forwarder import Forwarder
    from zkdns.transport.tls import Tls

log = structlog.get_logger("zkdns.worker")

_TICK_SECONDS = 1.0
_EXPIRED_AT_ONCE = 50  # departed members, at up to 40 µs each if they belong to different services (measured)
# Maximum time that queries wait for the table, which usually arrives at once. After it they get SERVFAIL, so
# that they do not wait for a watcher that hangs.
_FIRST_MESSAGE_SECONDS = 2.0
# Number of new upstream connections before a full collection. They leave 1 MB of garbage.
_CONNECTIONS_PER_COLLECTION = 256
# Approximate sizes of the response caches.
_MAX_UDP_CACHE_BYTES, _MAX_TCP_CACHE_BYTES = 72 << 20, 16 << 20


async def run_worker(task: Task, send_report: SendReport, orders: Orders) -> None:
    """Run the worker until it is cancelled or retired."""
    _tune_garbage_collection()
    table = Table(with_addresses=task.config.reverse)
    log_once = LogOnce(log, "query_failed")
    authority = _make_authority(task, table, log_once)
    sockets = [socket.socket(fileno=number) for number in task.sockets]
    may_serve = asyncio.Event()

    def on_health(health: SourceHealth) -> None:
        authority.set_health(ready=health.ready, stale=health.is_stale, source=health.source)
        if authority.freshness.is_ready or not task.waits_for_table:
            may_serve.set()
        reporter.report()

    access = SharedAccess(task)
    tls = _make_tls(task)
    udp, tcp = servers = _make_servers(task, authority, sockets, access, tls)
    # After the servers, because it uses the remaining file descriptors.
    forwarder = _make_forwarder(task, authority)
    deferred = DeferredAnswers(authority.zone.steps, deferrer(), log_once.error)
    reporter = WorkerStatsReporter(
        authority, forwarder, deferred, servers, access.counters, transfer=task.transfer, send=send_report
    )
    traffic = _make_traffic_reporter(task, authority, (*udp, *tcp), send_report)
    flush = forwarder.flush if forwarder is not None else lambda _: None
    subscriber = Subscriber(
        task.feed, table, authority.refresh, on_health, flush, namespaces=task.config.namespaces
    )
    subscription = asyncio.create_task(subscriber.run())
    copies = CopyServer(subscriber, task.copy)
    try:
        await copies.start()
        if forwarder is not None:
            forwarder.start()
        await _wait_briefly(may_serve, None if task.waits_for_table else _FIRST_MESSAGE_SECONDS)
        for server in udp:
            server.start()
        for listener in tcp:
            await listener.start()
        async with asyncio.TaskGroup() as tasks:
            ticks = tasks.create_task(_tick(table, authority, forwarder, (reporter, traffic), access))
            renewals = tasks.create_task(tls.renew()) if tls is not None else None
            retire = await _execute_orders(orders, subscriber, authority, reporter)
            await drain(retire.exclusive_sockets, udp, tcp, (forwarder, deferred), reporter.report_left)
            ticks.cancel()
            if renewals is not None:
                renewals.cancel()
    finally:
        subscription.cancel()
        copies.close()
        if forwarder is not None:
            forwarder.stop()
        for server in udp:
            server.stop()
        for listener in tcp:
            listener.stop()
        await asyncio.sleep(0)  # TCP transports send their last responses before the process exits


async def _wait_briefly(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for an event, at most for this time. None: without limit."""
    with contextlib.suppress(TimeoutError):
        # Before Python 3.12, wait_for loses a cancellation that comes together with the event.
        async with asyncio.timeout(seconds):
            await event.wait()


def _make_authority(task: Task, table: Table, log_once: LogOnce) -> Authority:
    authority = Authority(
        table, task.config, lambda query, error: log_once.error(error, query=query[:512].hex())
    )
    authority.responder.edns_options = _make_edns_options(task)
    if task.config.offline:
        authority.responder.stale_reason = "answered from a snapshot"
    elif task.config.is_secondary:
        authority.responder.stale_reason = "the primary is unreachable"
    _relay_transfers(authority, task.transfer)
    authority.responder.notifies = Relay(task.notify) if task.notify else None
    return authority


def _tune_garbage_collection() -> None:
    collect_young_generations_only()
    set_housekeeping(collect_young)


async def _execute_orders(
    orders: Orders, subscriber: Subscriber, authority: Authority, reporter: WorkerStatsReporter
) -> Retire:
    """Execute the supervisor's orders until `Retire`, and return that one."""
    while True:
        match await orders.get():
            case Retire() as retire:
                return retire
            case Follow(feed):
                subscriber.follow(feed)
            case RelayTransfers(transfer):
                _relay_transfers(authority, transfer)
                reporter.report_relaying(transfer)  # the reload waits for it


def _relay_transfers(authority: Authority, transfer: str) -> None:
    """Relay zone transfers and signed queries to the socket at this path; empty: refuse transfers."""
    authority.responder.transfers = Relay(transfer) if transfer else None


async def _tick(
    table: Table,
    authority: Authority,
    forwarder: Forwarder | None,
    reporters: tuple[WorkerStatsReporter, TrafficReporter],
    access: SharedAccess,
) -> None:
    """Every second, expire names of departed members, read own addresses, report, and collect garbage.

    Meanwhile, count the members for the digests.
    """
    reporter, traffic = reporters
    collected = 0
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(count_members(table, authority.config, lambda: authority.freshness.is_ready))
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            # Queries are answered at each `sleep(0)`.
            while table.has_expired(now := time.monotonic()):
                authority.refresh(table.expire(now, _EXPIRED_AT_ONCE))
                await asyncio.sleep(0)
            authority.refresh(())
            access.refresh()
            await asyncio.sleep(0)
            reporter.report()
            await asyncio.sleep(0)
            await traffic.report(time.monotonic())
            # asyncio's transports are reference cycles of some kilobytes, and live too long for a young
            # collection.
            if forwarder is not None and forwarder.connections - collected >= _CONNECTIONS_PER_COLLECTION:
                collected = forwarder.connections
                collect_all()


# -- servers -------------------------------------------------------------------------------------------------


class SharedAccess:
    """The parts of access control that all sockets of a worker share.

    Attributes:
        allowed: the allowed networks.
        rate_limit: None: there is no limit.
        counters: of refused and rate-limited queries.
    """

    def __init__(self, task: Task) -> None:
        config = task.config.access
        self._local = LocalAddresses()
        self.allowed = Allowlist(config.allow or PRIVATE, self._local)
        self.counters = AccessCounters()
        self.rate_limit: RateLimit | None = None
        if config.rate_limit:
            self.rate_limit = RateLimit(config.rate_limit, RateCounters(task.secret, task.rates), self._local)
        elif task.rates is not None:
            os.close(task.rates)
        self.refresh()

    def refresh(self) -> None:
        """Read the addresses of this machine again."""
        if self._local.refresh():
            self.allowed.clear()
            if self.rate_limit is not None:
                self.rate_limit.clear()


def _make_servers(
    task: Task,
    authority: Authority,
    sockets: Sequence[socket.socket],
    access: SharedAccess,
    tls: Tls | None,
) -> tuple[list[UdpServer], list[TcpServer]]:
    """Return a server for each socket."""
    access_control = partial(_make_access_control, authority=authority, access=access)
    query_log = QueryLog(task.config.log.queries, authority.sources) if task.config.log.queries else None
    datagrams = authority.make_cache(UdpCodec, stream=False, max_bytes=_MAX_UDP_CACHE_BYTES)
    udp = [
        UdpServer(sock, datagrams, access=access_control(sock), observer=query_log)
        for sock in sockets
        if sock.type == socket.SOCK_DGRAM
    ]
    streams = authority.make_cache(TcpCodec, stream=True, max_bytes=_MAX_TCP_CACHE_BYTES)
    listening = [sock for sock in sockets if sock.type == socket.SOCK_STREAM]
    max_connections = connections_per_listener(len(listening))
    held = HeldConnections()
    padded = PaddedResponses(streams)
    tcp = [
        TcpServer(
            sock,
            padded if sock.fileno() in task.tls_sockets else streams,
            access=access_control(sock),
            classify=classify,
            observer=query_log,
            max_connections=max_connections,
            held=held,
            tls=tls if sock.fileno() in task.tls_sockets else None,
        )
        for sock in listening
    ]
    return udp, tcp


def _make_tls(task: Task) -> Tls | None:
    """Return the certificate for DNS over TLS, or None if there is none.

    An unusable one does not keep this process from serving other queries.
    """
    config = task.config.tls
    if config.certificate is None:
        return None
    from zkdns.transport.tls import Tls  # noqa: PLC0415 - OpenSSL takes some megabytes

    return Tls(config.certificate, config.key, for_dns=True, must_be_usable=False)


def _make_traffic_reporter(
    task: Task, authority: Authority, servers: Sequence[UdpServer | TcpServer], send: SendReport
) -> TrafficReporter:
    """Return a reporter of the traffic of these servers."""
    top = TopQueries(time.monotonic()) if task.config.top_names else None
    for server in servers:
        server.query_counter = top
    return TrafficReporter(authority.service_counts, top, send)


def _make_access_control(
    sock: socket.socket, authority: Authority, access: SharedAccess
) -> AccessControl | None:
    """Return the access control of a socket, or None for one on a loopback address.

    Only this host can send to a loopback address, and a client's address cannot be forged there.

    Args:
        sock: a bound socket.
        authority: its EDNS options check server cookies; a client with a valid one bypasses the rate limit.
        access: shared by all sockets.
    """
    if ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback:
        return None
    is_udp = sock.type == socket.SOCK_DGRAM
    codec = UdpCodec if is_udp else TcpCodec
    edns_options = authority.responder.edns_options
    refused: ResponseLookup = ErrorResponder(codec, refused_response, edns_options, authority.sources)
    rate_limited = ErrorResponder(codec, truncated_response, edns_options, authority.sources)
    rate_limit = access.rate_limit if is_udp else None
    has_valid_cookie = rate_limited.has_valid_cookie
    return AccessControl(access.allowed, refused, rate_limited, has_valid_cookie, rate_limit, access.counters)


def _make_edns_options(task: Task) -> EdnsOptions:
    """Return the EDNS options of this server's responses."""
    config, cookies = task.config, None
    if config.access.cookies:
        secret = config.access.cookie_secret or task.secret
        cookies = Cookies(secret, time.time, is_shared=config.access.cookie_secret is not None)
    return EdnsOptions(config.identity.encode(), IDLE_SECONDS, cookies, for_client)


def _make_forwarder(task: Task, authority: Authority) -> Forwarder | None:
    """Return a forwarder that is connected to the authority, or None if the server forwards nothing."""
    config = task.config
    if not config.forwards:
        return None
    # Imported here, because a worker that forwards nothing starts faster without these modules.
    from zkdns.forward.forwarder import Forwarder, group_of_question  # noqa: PLC0415
    from zkdns.forward.own_names import make_own_names  # noqa: PLC0415

    def forget(entry: Entry) -> None:
        if entry.hits:  # most names are never asked again
            authority.forget_forwarded(group_of_question(entry.question))

    forwarder = Forwarder(config, task.listening, task.secret)
    forwarder.sources = authority.sources
    forwarder.own_names = make_own_names(authority)
    forwarder.cache.on_removed = forget
    forwarder.on_change = authority.forget_all
    authority.responder.fallback = forwarder
    return forwarder
