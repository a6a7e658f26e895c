"""The answerer process: follows the feed, answers over UDP and TCP.

It knows nothing of ZooKeeper, and holds no secret of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import structlog

from zkdns.daemon.child import Report, Task, Tell
from zkdns.daemon.feed import Health, Subscriber
from zkdns.dns.responder import Responder
from zkdns.dns.wire import servfail
from zkdns.dns.zone import Zone
from zkdns.table import Table
from zkdns.transport.tcp import TcpServer, affordable_connections
from zkdns.transport.udp import UdpServer

log = structlog.get_logger("zkdns.answerer")

_TICK_SECONDS = 1.0
# How long questions wait at most for the watcher's first word. It comes at once, and what is asked while this
# process is a lost one's successor deserves the table; a mute watcher must not keep anybody waiting.
_FIRST_WORD_SECONDS = 2.0


async def answer(task: Task, tell: Tell) -> None:
    """Answer until cancelled; readiness is told to the supervisor."""
    table = Table()
    zone = Zone(table, task.config)
    responder = Responder(zone)
    if task.config.offline:
        responder.stale_reason = "answered from a snapshot"

    first_word = asyncio.Event()

    def heard(health: Health) -> None:
        responder.ready, responder.stale = health.ready, health.stale
        first_word.set()
        tell(Report(ready=health.ready))

    respond = _Careful(responder)
    opened = [socket.socket(fileno=number) for number in task.sockets]
    udp = [UdpServer(sock, respond) for sock in opened if sock.type == socket.SOCK_DGRAM]
    listening = [sock for sock in opened if sock.type == socket.SOCK_STREAM]
    most = affordable_connections(len(listening))
    tcp = [TcpServer(sock, respond, most_connections=most) for sock in listening]
    follower = asyncio.create_task(Subscriber(task.feed, table, zone.refresh, heard).run())
    try:
        with contextlib.suppress(TimeoutError):
            # Not wait_for, which before Python 3.12 loses a cancellation that comes with what it waits for.
            async with asyncio.timeout(_FIRST_WORD_SECONDS):
                await first_word.wait()
        for server in udp:
            server.start()
        for listener in tcp:
            await listener.start()
        await _tick(table, zone, responder)
    finally:
        follower.cancel()
        for server in udp:
            server.stop()
        for listener in tcp:
            listener.stop()
        await asyncio.sleep(0)  # what was answered over TCP leaves before the process does


async def _tick(table: Table, zone: Zone, responder: Responder) -> None:
    """What time brings: departed members' names end; what was cut is told, at most once a second."""
    told = 0
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        zone.refresh(table.expire(time.monotonic()))
        if responder.cut_over_tcp != told:
            log.warning("answers over 64 KiB were cut, even over TCP", count=responder.cut_over_tcp - told)
            told = responder.cut_over_tcp


class _Careful:
    """A responder that never raises: a mistake of ours costs one answer, and is told once for each kind."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._told: set[str] = set()

    def __call__(self, message: bytes, *, stream: bool) -> bytes | None:
        try:
            return self._responder.respond(message, stream=stream)
        except Exception as error:  # nothing may escape into the event loop
            kind = repr(error)
            if kind not in self._told:
                self._told.add(kind)
                log.exception("a query could not be answered", query=message[:512].hex())
            return servfail(message)
