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
from zkdns.dns.authority import Authority
from zkdns.observe.figures import AnswererFigures
from zkdns.table import Table
from zkdns.transport.forms import Datagrams, Streams
from zkdns.transport.mistakes import Mistakes
from zkdns.transport.tcp import TcpServer, affordable_connections
from zkdns.transport.udp import UdpServer

log = structlog.get_logger("zkdns.answerer")

_TICK_SECONDS = 1.0
# How long questions wait at most for the watcher's first word. It comes at once, and what is asked while this
# process is a lost one's successor deserves the table; a mute watcher must not keep anybody waiting.
_FIRST_WORD_SECONDS = 2.0
# What may be remembered of answers, more or less.
_MOST_UDP_BYTES, _MOST_TCP_BYTES = 72 << 20, 16 << 20


async def answer(task: Task, tell: Tell) -> None:
    """Answer until cancelled; readiness is told to the supervisor."""
    table = Table()
    mistakes = Mistakes(log, "a query could not be answered")
    authority = Authority(
        table, task.config, lambda query, error: mistakes.tell(error, query=query[:512].hex())
    )
    if task.config.offline:
        authority.responder.stale_reason = "answered from a snapshot"
    datagrams = authority.answers(Datagrams, stream=False, most_bytes=_MOST_UDP_BYTES)
    streams = authority.answers(Streams, stream=True, most_bytes=_MOST_TCP_BYTES)

    first_word = asyncio.Event()
    teller = _Teller(authority, tell)

    def heard(health: Health) -> None:
        authority.set_health(ready=health.ready, stale=health.stale)
        first_word.set()
        teller.tell()

    opened = [socket.socket(fileno=number) for number in task.sockets]
    udp = [UdpServer(sock, datagrams) for sock in opened if sock.type == socket.SOCK_DGRAM]
    listening = [sock for sock in opened if sock.type == socket.SOCK_STREAM]
    most = affordable_connections(len(listening))
    tcp = [TcpServer(sock, streams, most_connections=most) for sock in listening]
    teller.counted = udp, tcp
    follower = asyncio.create_task(Subscriber(task.feed, table, authority.refresh, heard).run())
    try:
        with contextlib.suppress(TimeoutError):
            # Not wait_for, which before Python 3.12 loses a cancellation that comes with what it waits for.
            async with asyncio.timeout(_FIRST_WORD_SECONDS):
                await first_word.wait()
        for server in udp:
            server.start()
        for listener in tcp:
            await listener.start()
        await _tick(table, authority, teller)
    finally:
        follower.cancel()
        for server in udp:
            server.stop()
        for listener in tcp:
            listener.stop()
        await asyncio.sleep(0)  # what was answered over TCP leaves before the process does


async def _tick(table: Table, authority: Authority, teller: _Teller) -> None:
    """What time brings: departed members' names end, and what was counted is told."""
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        authority.refresh(table.expire(time.monotonic()))
        teller.tell()


class _Teller:
    """Reports readiness and figures to the supervisor, where they are others than before."""

    def __init__(self, authority: Authority, tell: Tell) -> None:
        self.counted: tuple[list[UdpServer], list[TcpServer]] = [], []
        """The servers whose queries are counted."""
        self._authority = authority
        self._tell = tell
        self._told = Report(ready=False)
        self._cut = 0

    def tell(self) -> None:
        """Report what is new; what was cut over TCP is logged too, which asks for a service to be divided."""
        figures = self._figures()
        report = Report(self._authority.responder.ready, figures)
        if report == self._told:
            return
        self._told = report
        self._tell(report)
        if figures.cut_over_tcp > self._cut:
            log.warning("answers over 64 KiB were cut, even over TCP", count=figures.cut_over_tcp - self._cut)
            self._cut = figures.cut_over_tcp

    def _figures(self) -> AnswererFigures:
        udp, tcp = self.counted
        memos = self._authority.memos
        return AnswererFigures(
            udp_queries=sum(server.received for server in udp),
            tcp_queries=sum(server.received for server in tcp),
            misses=sum(memo.misses for memo in memos),
            forgotten=sum(memo.forgotten for memo in memos),
            remembered=sum(map(len, memos)),
            remembered_bytes=sum(memo.size for memo in memos),
            unsent=sum(server.lost for server in udp),
            cut_over_tcp=self._authority.responder.cut_over_tcp,
        )
