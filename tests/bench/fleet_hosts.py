"""Simulated hosts: ZooKeeper clients that send the requests of a watcher, hundreds in one process.

A host connects as the watcher does, sets one recursive watch on the root, and reads the whole tree with
multiRead. After an event it reads the new member; events that arrive while four requests are in flight share
the next one. Each second it sends a `sync`, the watcher's heartbeat, so that it never needs a ping. After a
lost connection it connects again with the watcher's delays, and reads everything. It leaves out the two
requests of the watcher's self-test, and keeps no members.
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.bench.fleet_messages import Forget, Leave, Observe, Observed
from zkdns.serverset.client import CONNECT_TIMEOUT, SESSION_TIMEOUT
from zkdns.serverset.kazoo_ext import CREATED, GET_CHILDREN, GET_DATA, AddWatch, MultiRead
from zkdns.serverset.sync.heartbeat import INTERVAL_SECONDS

_CONNECT = struct.Struct("!iqiqi16s?")
_CONNECTED = struct.Struct("!iiqi16s")
_REQUEST = struct.Struct("!iii")  # length, xid, type
_REPLY = struct.Struct("!iqi")  # xid, zxid, error
_EVENT = struct.Struct("!iii")  # kind, state, length of the path
_LENGTH = struct.Struct("!i")
_EVENT_XID: Final = -1
_SYNC: Final = 9
_CLOSE: Final = -11
_NO_SESSION = (0, bytes(16))
_SERVICE_LEVEL = 2  # below the root

_MAX_READS, _MAX_IN_FLIGHT = 1024, 4  # as the watcher's (serverset.sync.recursive)
_RETRY_SECONDS, _MAX_RETRY_SECONDS = 0.1, 0.7  # as the watcher's (serverset.client)
_HEARTBEAT_JITTER = 0.1


@dataclass(frozen=True)
class Jitter:
    """Random parts of the delays after a lost connection."""

    first: float
    """Maximum seconds until the first attempt to connect."""
    retry: float
    """Of the delay before a further attempt, as a share of it, up or down."""
    read: float
    """Maximum seconds from the new connection to the first read."""

    def __str__(self) -> str:
        is_any = self.first or self.retry or self.read
        return f"reconnect within {self.first:g} s, read within {self.read:g} s" if is_any else "no jitter"


NO_JITTER = Jitter(0.0, 0.0, 0.0)
WATCHER_JITTER = Jitter(1.0, 0.4, 0.25)
"""That of the watcher."""
WIDE_JITTER = Jitter(1.0, 0.4, 10.0)
"""For comparison: with time for the server to serve the reads of all hosts."""


@dataclass(frozen=True)
class Join:
    """Message: add hosts that connect within `seconds`. All messages but `Observe` have the reply None."""

    root: str
    servers: tuple[tuple[str, int], ...]
    """Addresses. The hosts are spread over them, and stay with theirs."""
    count: int
    seconds: float


@dataclass(frozen=True)
class SetJitter:
    """Message: reconnect with this jitter from now on."""

    jitter: Jitter


class HostFleet:
    """The hosts of this process, and their measurements."""

    def __init__(self) -> None:
        self.jitter = WATCHER_JITTER
        self.hosts: list[Host] = []
        self.forget()

    def forget(self) -> None:
        """Begin a new measurement."""
        self.observed = Observed()

    def handle(self, message: Join | SetJitter | Leave | Forget | Observe) -> Observed | None:
        """Handle a message, and return the reply."""
        match message:
            case Join():
                loop = asyncio.get_running_loop()
                for number in range(message.count):
                    address = message.servers[number % len(message.servers)]
                    host = Host(self, address, message.root)
                    self.hosts.append(host)
                    loop.call_later(message.seconds * number / message.count, host.connect)
            case SetJitter():
                self.jitter = message.jitter
            case Leave():
                for host in self.hosts:
                    host.leave()
            case Forget():
                self.forget()
            case Observe():
                return self._observe(is_complete=message.is_complete)
        return None

    def _observe(self, *, is_complete: bool) -> Observed:
        now = time.monotonic()
        observed = self.observed
        self.hosts = [host for host in self.hosts if host.is_connected or not host.has_left]
        observed.hosts = len(self.hosts)
        observed.current = sum(host.is_current for host in self.hosts)
        waiting = max((host.waited(now) for host in self.hosts), default=0.0)
        observed.longest_heartbeat = max(observed.longest_heartbeat, waiting)
        return observed if is_complete else observed.summary()


class Host(asyncio.Protocol):
    """One host: a session, and the reads that it waits for.

    Args:
        fleet: receives the measurements.
        address: of its ZooKeeper server.
        root: the znode that it watches. Members are three levels below.
    """

    def __init__(self, fleet: HostFleet, address: tuple[str, int], root: str) -> None:
        self.is_current = False
        """Whether it is connected and has read everything."""
        self.has_left = False
        self._fleet = fleet
        self._address = address
        self._root = root
        self._loop = asyncio.get_running_loop()
        self._session = _NO_SESSION
        self._zxid = 0
        self._failures = 0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._reset()

    def _reset(self) -> None:
        """Begin a connection without requests in flight."""
        self.is_current = False
        self._rest = b""
        self._xid = 0
        self._is_accepted = False
        self._pending: deque[Callable[[bytes, int], None]] = deque()
        self._to_read: deque[tuple[int, str]] = deque()
        self._in_flight = 0
        self._heartbeat_at: float | None = None

    # -- the connection ------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Try to connect."""
        if not self.has_left:
            self._fleet.observed.attempts.append(time.monotonic())
            self._task = self._loop.create_task(self._connect())

    def leave(self) -> None:
        """Close the session. The server then closes the connection."""
        self.has_left = True
        self._set_timer(None)
        if self._task is not None:
            self._task.cancel()
        self._request(_CLOSE, b"", lambda _data, _at: None)

    @property
    def is_connected(self) -> bool:
        return self._transport is not None

    def waited(self, now: float) -> float:
        """Seconds since the heartbeat without a reply; 0 if there is none."""
        return 0.0 if self._heartbeat_at is None else now - self._heartbeat_at

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._patience()):
                await self._loop.create_connection(lambda: self, *self._address)
        except OSError:
            self._retry()

    def _patience(self) -> float:
        """Seconds for an attempt: 1, 2, 4, up to two thirds of the session timeout."""
        return float(min(CONNECT_TIMEOUT * 2**self._failures, SESSION_TIMEOUT * 2 / 3))

    def _retry(self) -> None:
        delay = min(_RETRY_SECONDS * 2**self._failures, _MAX_RETRY_SECONDS)
        jitter = self._fleet.jitter.retry
        self._failures += 1
        self._set_timer(delay * random.uniform(1 - jitter, 1 + jitter), self.connect)

    def _set_timer(self, seconds: float | None, call: Callable[[], None] = lambda: None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._loop.call_later(seconds, call)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._reset()
        session, password = self._session
        timeout = int(SESSION_TIMEOUT * 1000)
        self._write(_CONNECT.pack(0, self._zxid, timeout, session, len(password), password, False))
        self._set_timer(self._patience(), transport.abort)

    def connection_lost(self, _: Exception | None) -> None:
        was_accepted = self._is_accepted
        self._transport = None
        self._set_timer(None)
        self._reset()
        if self.has_left:
            return
        if was_accepted and self._fleet.jitter.first:
            self._set_timer(random.uniform(0, self._fleet.jitter.first), self.connect)
        else:
            self._retry()

    def _on_accepted(self, reply: bytes, at: int) -> None:
        _, timeout, session, _, password = _CONNECTED.unpack_from(reply, at)
        observed = self._fleet.observed
        if not timeout:
            observed.expired += 1
            self._session = _NO_SESSION  # the server closes the connection
            return
        is_return = self._session != _NO_SESSION
        self._is_accepted = True
        self._session = session, password
        self._failures = 0
        observed.connected.append(time.monotonic())
        self._beat()
        if is_return and self._fleet.jitter.read:
            self._loop.call_later(random.uniform(0, self._fleet.jitter.read), self._start, self._transport)
        else:
            self._start(self._transport)

    # -- requests and replies ------------------------------------------------------------------------------

    def _write(self, body: bytes) -> None:
        if self._transport is not None:
            self._transport.write(_LENGTH.pack(len(body)) + body)

    def _request(self, kind: int, body: bytes, on_reply: Callable[[bytes, int], None]) -> None:
        if self._transport is not None:
            self._xid += 1
            self._pending.append(on_reply)
            self._transport.write(_REQUEST.pack(len(body) + 8, self._xid, kind) + body)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at = 0
        while len(data) - at >= _LENGTH.size:
            end = at + _LENGTH.size + _LENGTH.unpack_from(data, at)[0]
            if end > len(data):
                break
            self._on_message(data, at + _LENGTH.size)
            at = end
        self._rest = data[at:]
        self._send_reads()

    def _on_message(self, data: bytes, at: int) -> None:
        if not self._is_accepted:
            self._on_accepted(data, at)
            return
        xid, zxid, error = _REPLY.unpack_from(data, at)
        at += _REPLY.size
        if xid == _EVENT_XID:
            self._on_event(data, at)
            return
        self._zxid = zxid
        assert not error, f"ZooKeeper returned the error {error}"
        self._pending.popleft()(data, at)

    def _beat(self) -> None:
        """Send a heartbeat, and the next one about a second later."""
        sent_at = self._heartbeat_at = time.monotonic()
        path = self._root.encode()

        def on_reply(_data: bytes, _at: int) -> None:
            waited = time.monotonic() - sent_at
            self._heartbeat_at = None
            self._fleet.observed.longest_heartbeat = max(self._fleet.observed.longest_heartbeat, waited)
            pause = INTERVAL_SECONDS * random.uniform(1 - _HEARTBEAT_JITTER, 1 + _HEARTBEAT_JITTER)
            self._set_timer(max(0.0, pause - waited), self._beat)

        self._request(_SYNC, _LENGTH.pack(len(path)) + path, on_reply)
        self._set_timer(None)

    # -- watching and reading ------------------------------------------------------------------------------

    def _start(self, transport: asyncio.Transport | None) -> None:
        """Watch the root and read everything, unless that connection has ended."""
        if transport is None or transport is not self._transport:
            return
        self._request(AddWatch.type, AddWatch(self._root).serialize(), lambda _data, _at: None)
        self._to_read += ((GET_DATA, self._root), (GET_CHILDREN, self._root))
        self._send_reads()

    def _on_event(self, data: bytes, at: int) -> None:
        kind, _, length = _EVENT.unpack_from(data, at)
        path = data[at + _EVENT.size : at + _EVENT.size + length].decode()
        if kind == CREATED:
            self._to_read.append((GET_DATA, path))

    def _send_reads(self) -> None:
        while self._to_read and self._in_flight < _MAX_IN_FLIGHT:
            batch = [self._to_read.popleft() for _ in range(min(len(self._to_read), _MAX_READS))]
            request = MultiRead(batch)
            self._in_flight += 1
            self._fleet.observed.requests += 1
            handle = self._on_new_members if self.is_current else self._on_initial
            self._request(MultiRead.type, request.serialize(), partial(handle, request, batch))

    def _on_new_members(self, request: MultiRead, batch: list[tuple[int, str]], data: bytes, at: int) -> None:
        self._in_flight -= 1
        now = time.monotonic()
        for (_, path), result in zip(batch, request.deserialize(data, at), strict=True):
            if isinstance(result, tuple):
                self._fleet.observed.add_read(path, now)

    def _on_initial(self, request: MultiRead, batch: list[tuple[int, str]], data: bytes, at: int) -> None:
        """Read the next level of the tree. The last level is not decoded, since nothing follows."""
        self._in_flight -= 1
        if any(operation == GET_CHILDREN for operation, _ in batch):
            for (_, path), names in zip(batch, request.deserialize(data, at), strict=True):
                if isinstance(names, list):
                    self._to_read += self._reads_below(path, names)
        if not self._to_read and not self._in_flight:
            self.is_current = True
            self._fleet.observed.returned.append(time.monotonic())

    def _reads_below(self, path: str, names: list[str]) -> list[tuple[int, str]]:
        """The reads of these children: environments and services are listed and read, members are read."""
        is_service = path[len(self._root) :].count("/") == _SERVICE_LEVEL
        operations = (GET_DATA,) if is_service else (GET_DATA, GET_CHILDREN)
        return [(operation, f"{path}/{name}") for name in names for operation in operations]
