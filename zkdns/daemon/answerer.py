"""The answerer process: follows the feed, answers over UDP and TCP.

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

from zkdns.daemon.answerer_figures import FiguresTeller
from zkdns.daemon.child import Follow, Orders, Retire, Task, Tell
from zkdns.daemon.doors import Doors
from zkdns.daemon.feed import Health, Subscriber
from zkdns.daemon.loading import collect_all, collect_only_what_is_new
from zkdns.daemon.retiring import retire
from zkdns.dns.authority import Authority
from zkdns.dns.cookies import Cookies
from zkdns.dns.edns_options import EdnsOptions
from zkdns.dns.marks import mark_of
from zkdns.observe.query_log import QueryLog
from zkdns.table import Table
from zkdns.transport.codecs import TcpCodec, UdpCodec
from zkdns.transport.contract import PerClientResponse
from zkdns.transport.log_once import LogOnce
from zkdns.transport.sockets import connections_per_listener
from zkdns.transport.tcp import IDLE_SECONDS, TcpServer
from zkdns.transport.udp import UdpServer

if TYPE_CHECKING:
    from zkdns.forward.forwarder import Forwarder

log = structlog.get_logger("zkdns.answerer")

_TICK_SECONDS = 1.0
# How long questions wait at most for the watcher's first word. It comes at once, and what is asked while this
# process is a lost one's successor deserves the table; a mute watcher must not keep anybody waiting.
_FIRST_WORD_SECONDS = 2.0
# So many connections to upstreams leave a megabyte.
_CONNECTIONS = 256
# What may be remembered of answers, more or less.
_MOST_UDP_BYTES, _MOST_TCP_BYTES = 72 << 20, 16 << 20


async def answer(task: Task, tell: Tell, orders: Orders) -> None:
    """Answer until cancelled or retired; readiness is told to the supervisor."""
    collect_only_what_is_new()
    table = Table(with_addresses=task.config.reverse)
    log_once = LogOnce(log, "a query could not be answered")
    authority = Authority(
        table, task.config, lambda query, error: log_once.error(error, query=query[:512].hex())
    )
    if task.config.offline:
        authority.responder.stale_reason = "answered from a snapshot"
    authority.responder.edns_options = _edns_options_of(task)

    opened = [socket.socket(fileno=number) for number in task.sockets]
    may_begin = asyncio.Event()

    def heard(health: Health) -> None:
        authority.set_health(ready=health.ready, stale=health.stale)
        if health.ready or not task.waits:
            may_begin.set()
        teller.tell()

    doors = Doors(task.config, authority.responder.edns_options, authority.sources)
    udp, tcp = _servers_of(task, authority, doors, opened)
    forwarder = _forwarder_of(task, authority)  # which takes what files are left
    teller = FiguresTeller(authority, forwarder, (udp, tcp), doors.counts, tell)
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
            ticking = tasks.create_task(_tick(table, authority, forwarder, teller))
            last = await _obey(orders, subscriber)
            await retire(last.alone, udp, tcp, forwarder, teller.tell_left)
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
    query_log = QueryLog(task.config.query_log, authority.sources) if task.config.query_log else None
    datagrams = authority.make_cache(UdpCodec, stream=False, max_bytes=_MOST_UDP_BYTES)
    udp = [
        UdpServer(sock, datagrams, access=doors.of(sock), observer=query_log)
        for sock in opened
        if sock.type == socket.SOCK_DGRAM
    ]
    streams = authority.make_cache(TcpCodec, stream=True, max_bytes=_MOST_TCP_BYTES)
    listening = [sock for sock in opened if sock.type == socket.SOCK_STREAM]
    most = connections_per_listener(len(listening))
    tcp = [
        TcpServer(
            sock,
            streams,
            access=doors.of(sock),
            mark_of=mark_of,
            observer=query_log,
            max_connections=most,
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


def _edns_options_of(task: Task) -> EdnsOptions:
    """What is said by EDNS options."""
    config, cookies = task.config, None
    if config.cookies:
        secret = config.cookie_secret or task.secret
        cookies = Cookies(secret, time.time, is_shared=config.cookie_secret is not None)
    return EdnsOptions(config.identity.encode(), IDLE_SECONDS, cookies, PerClientResponse)


def _forwarder_of(task: Task, authority: Authority) -> Forwarder | None:
    """What answers for names outside the zones, at work for the authority; None: nobody shall."""
    config = task.config
    if not config.forwards:
        return None
    # OpenSSL takes its time to be loaded, so it is where something is forwarded, and not before.
    from zkdns.forward.forwarder import Forwarder, group_of  # noqa: PLC0415

    forwarder = Forwarder(config, task.listening, task.secret)
    forwarder.sources = authority.sources
    forwarder.cache.on_gone = lambda question: authority.forget_forwarded(group_of(question))
    forwarder.on_change = authority.forget_all
    authority.responder.fallback = forwarder
    return forwarder


async def _tick(
    table: Table, authority: Authority, forwarder: Forwarder | None, teller: FiguresTeller
) -> None:
    """What time brings: departed members' names end, and what was counted is told."""
    collected = 0
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        authority.refresh(table.expire(time.monotonic()))
        teller.tell()
        # asyncio's transports are cycles of some kilobytes, and live longer than what is collected by itself.
        if forwarder is not None and forwarder.connections - collected >= _CONNECTIONS:
            collected = forwarder.connections
            collect_all()
