"""The worker process: follows the feed, answers over UDP and TCP.

It knows nothing of ZooKeeper, and holds no secret of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from zkdns.daemon.gc_tuning import collect_all, collect_young_generations_only
from zkdns.daemon.ipc.child import Follow, Orders, Retire, SendReport, Task
from zkdns.daemon.ipc.feed import SourceHealth, Subscriber
from zkdns.daemon.worker.doors import Doors
from zkdns.daemon.worker.drain import drain
from zkdns.daemon.worker.worker_stats import WorkerStatsReporter
from zkdns.dns.authority import Authority
from zkdns.dns.cookies import Cookies
from zkdns.dns.edns_options import EdnsOptions
from zkdns.dns.response_class import classify
from zkdns.table import Table
from zkdns.telemetry.query_log import QueryLog
from zkdns.transport import PerClientResponse
from zkdns.transport.codecs import TcpCodec, UdpCodec
from zkdns.transport.files import connections_per_listener
from zkdns.transport.log_once import LogOnce
from zkdns.transport.tcp import IDLE_SECONDS, TcpServer
from zkdns.transport.udp import UdpServer

if TYPE_CHECKING:
    from zkdns.forward.forwarder import Forwarder

log = structlog.get_logger("zkdns.worker")

_TICK_SECONDS = 1.0
# How long questions wait at most for the watcher's first word. It comes at once, and what is asked while this
# process is a lost one's successor deserves the table; a mute watcher must not keep anybody waiting.
_FIRST_WORD_SECONDS = 2.0
# So many connections to upstreams leave a megabyte.
_CONNECTIONS = 256
# What may be remembered of answers, more or less.
_MOST_UDP_BYTES, _MOST_TCP_BYTES = 72 << 20, 16 << 20


async def run_worker(task: Task, tell: SendReport, orders: Orders) -> None:
    """Answer until cancelled or retired; readiness is told to the supervisor."""
    collect_young_generations_only()
    table = Table(with_addresses=task.config.reverse)
    mistakes = LogOnce(log, "query_failed")
    authority = Authority(
        table, task.config, lambda query, error: mistakes.tell(error, query=query[:512].hex())
    )
    if task.config.offline:
        authority.responder.stale_reason = "answered from a snapshot"
    authority.responder.extras = _extras_of(task)

    opened = [socket.socket(fileno=number) for number in task.sockets]
    may_begin = asyncio.Event()

    def heard(health: SourceHealth) -> None:
        authority.set_health(ready=health.ready, stale=health.stale)
        if health.ready or not task.waits:
            may_begin.set()
        reporter.report()

    doors = Doors(task.config, authority.responder.extras, authority.sources)
    udp, tcp = _servers_of(task, authority, doors, opened)
    forwarder = _forwarder_of(task, authority)  # which takes what files are left
    reporter = WorkerStatsReporter(authority, forwarder, (udp, tcp), doors.counts, tell)
    flush = forwarder.flush if forwarder is not None else lambda _: None
    subscriber = Subscriber(task.feed, table, authority.refresh, heard, flush)
    follower = asyncio.create_task(subscriber.run())
    try:
        if forwarder is not None:
            forwarder.start()
        with contextlib.suppress(TimeoutError):
            # Not wait_for, which before Python 3.12 loses a cancellation that comes with what it waits for.
            async with asyncio.timeout(None if task.waits else _FIRST_WORD_SECONDS):
                await may_begin.wait()
        for server in udp:
            server.start()
        for listener in tcp:
            await listener.start()
        async with asyncio.TaskGroup() as tasks:
            ticking = tasks.create_task(_tick(table, authority, forwarder, reporter))
            last = await _obey(orders, subscriber)
            await drain(last.alone, udp, tcp, forwarder, reporter.report_left)
            ticking.cancel()
    finally:
        follower.cancel()
        if forwarder is not None:
            forwarder.stop()
        for server in udp:
            server.stop()
        for listener in tcp:
            listener.stop()
        await asyncio.sleep(0)  # what was answered over TCP leaves before the process does


def _servers_of(
    task: Task, authority: Authority, doors: Doors, opened: Sequence[socket.socket]
) -> tuple[list[UdpServer], list[TcpServer]]:
    """What answers at these sockets."""
    query_log = QueryLog(task.config.log.queries, authority.sources) if task.config.log.queries else None
    datagrams = authority.answers(UdpCodec, stream=False, most_bytes=_MOST_UDP_BYTES)
    udp = [
        UdpServer(sock, datagrams, door=doors.of(sock), observer=query_log)
        for sock in opened
        if sock.type == socket.SOCK_DGRAM
    ]
    streams = authority.answers(TcpCodec, stream=True, most_bytes=_MOST_TCP_BYTES)
    listening = [sock for sock in opened if sock.type == socket.SOCK_STREAM]
    most = connections_per_listener(len(listening))
    tcp = [
        TcpServer(
            sock,
            streams,
            door=doors.of(sock),
            classify=classify,
            observer=query_log,
            most_connections=most,
        )
        for sock in listening
    ]
    return udp, tcp


async def _obey(orders: Orders, subscriber: Subscriber) -> Retire:
    """Do what the supervisor says, until it says that this is to end."""
    while True:
        match await orders.get():
            case Retire() as last:
                return last
            case Follow(feed):
                subscriber.follow(feed)


def _extras_of(task: Task) -> EdnsOptions:
    """What is said by EDNS options."""
    config, cookies = task.config, None
    if config.access.cookies:
        secret = config.access.cookie_secret or task.secret
        cookies = Cookies(secret, time.time, is_shared=config.access.cookie_secret is not None)
    return EdnsOptions(config.identity.encode(), IDLE_SECONDS, cookies, PerClientResponse)


def _forwarder_of(task: Task, authority: Authority) -> Forwarder | None:
    """What answers for names outside the zones, at work for the authority; None: nobody shall."""
    config = task.config
    if not config.forwards:
        return None
    # OpenSSL takes its time to be loaded, so it is where something is forwarded, and not before.
    from zkdns.forward.forwarder import Forwarder, group_of_question  # noqa: PLC0415

    forwarder = Forwarder(config, task.listening, task.secret)
    forwarder.sources = authority.sources
    forwarder.cache.on_gone = lambda question: authority.forget_elsewhere(group_of_question(question))
    forwarder.on_change = authority.forget_all
    authority.responder.elsewhere = forwarder
    return forwarder


async def _tick(
    table: Table, authority: Authority, forwarder: Forwarder | None, reporter: WorkerStatsReporter
) -> None:
    """What time brings: departed members' names end, and what was counted is told."""
    collected = 0
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        authority.refresh(table.expire(time.monotonic()))
        reporter.report()
        # asyncio's transports are cycles of some kilobytes, and live longer than what is collected by itself.
        if forwarder is not None and forwarder.connections - collected >= _CONNECTIONS:
            collected = forwarder.connections
            collect_all()
