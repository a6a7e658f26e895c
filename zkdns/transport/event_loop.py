"""An event loop with a fast path for servers: their sockets bypass asyncio's callbacks.

    run_forever ──▶ select(timeout) ──▶ epoll ──▶ a server's socket: its work, then epoll again
                          ▲               └─────▶ other files ──┐
                          └──────────── callbacks, timers ◀─────┘

asyncio needs some ten microseconds (measured) to call the callback of a ready socket, as long as a small
batch of responses takes. Timers and other files do not wait for servers: `select` returns to asyncio as soon
as they have something to do.

While a server has more work, epoll does not watch its socket. Otherwise epoll would also wake for each
datagram that the server sends, which costs a twentieth of a response (measured).

Deferred work runs in pieces, and servers are checked between the pieces. A query that can be answered from
the cache therefore waits for at most one piece.

A function for housekeeping, such as garbage collection, is called every few milliseconds of work
(`set_housekeeping`).
"""

from __future__ import annotations

import asyncio
import contextvars
import select
import selectors
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVarTuple

import structlog

from zkdns.transport.log_once import LogOnce

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

log = structlog.get_logger("zkdns.transport")


_Ts = TypeVarTuple("_Ts")

HOUSEKEEPING_SECONDS = 0.002
"""Interval of housekeeping. A longer turn, with at most some hundred queries, is followed by it."""

Work = Callable[[], bool]
"""What a server does when its file is ready. Returns whether there may be more to do."""


Defer: TypeAlias = Callable[[Callable[[], None]], object]
"""Schedules a piece of deferred work."""


class ServingLoop(asyncio.SelectorEventLoop):
    """An event loop with the fast path for servers. On systems without epoll it is an ordinary event loop.

    Args:
        clock: a monotonic clock in seconds, which measures the work of servers.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.serving = _ServingSelector(clock) if hasattr(select, "epoll") else None
        super().__init__(self.serving)

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As in the base class; servers yield to the callback."""
        if self.serving is not None:
            self.serving.has_loop_work = True
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As in the base class; servers yield to the timer."""
        if self.serving is not None:
            self.serving.has_loop_work = True
        return super().call_at(when, callback, *args, context=context)


def add_server(file: int, work: Work) -> None:
    """Call `work` in the running loop whenever the file is ready to read."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, ServingLoop) and loop.serving is not None:
        loop.serving.add(file, work)
    else:
        loop.add_reader(file, work)


def remove_server(file: int) -> None:
    """Stop serving a file in the running loop."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, ServingLoop) and loop.serving is not None:
        loop.serving.remove(file)
    else:
        loop.remove_reader(file)


def set_housekeeping(function: Callable[[], object]) -> None:
    """Call a function after turns of the running loop, at most every `HOUSEKEEPING_SECONDS`, from now on."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, ServingLoop) and loop.serving is not None:
        loop.serving.housekeeping = function


def deferrer() -> Defer:
    """The function that schedules deferred work in the running loop.

    The pieces run in order, after the servers have been served. While servers are busy, the pieces take at
    most half of the time. Callers keep the function, since finding the running loop takes a system call.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, ServingLoop) and loop.serving is not None:
        return loop.serving.defer
    return loop.call_soon


class _ServingSelector(selectors.BaseSelector):
    """The selector of a `ServingLoop`: one epoll object watches the servers' files and an inner selector.

    The inner selector (`_others`) watches the files of asyncio.

    Attributes:
        has_loop_work: whether asyncio has something to do, so that `select` has to return soon.
        housekeeping: called after turns, at most every `HOUSEKEEPING_SECONDS`.

    Args:
        clock: as above.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.has_loop_work = False
        self.housekeeping: Callable[[], object] = lambda: None
        self._housekeeping_at = 0.0
        self._clock = clock
        self._servers: dict[int, Work] = {}
        self._busy: set[int] = set()  # servers with more work
        self._pieces: deque[Callable[[], None]] = deque()  # deferred work
        self._epoll = select.epoll()
        self._others = selectors.DefaultSelector()
        self._epoll.register(self._others.fileno(), select.EPOLLIN)
        self._log_once = LogOnce(log, "socket_handler_failed")

    def add(self, file: int, work: Work) -> None:
        """Start serving a file."""
        self._servers[file] = work
        self._epoll.register(file, select.EPOLLIN)

    def remove(self, file: int) -> None:
        """Stop serving a file."""
        if self._servers.pop(file, None) is None:
            return
        if file in self._busy:
            self._busy.remove(file)
        else:
            self._epoll.unregister(file)

    def defer(self, piece: Callable[[], None]) -> None:
        """Run a piece of work after the servers have been served."""
        self._pieces.append(piece)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Serve until asyncio has something to do; return the ready files of the inner selector."""
        clock, poll, serve = self._clock, self._epoll.poll, self._serve
        end = None if timeout is None else clock() + timeout
        self.has_loop_work = False
        while True:
            if self._pieces or self._busy:
                self._take_turn()
            elif ready := poll(timeout):
                for file, _ in ready:
                    serve(file)
            else:
                return []
            now = clock()
            if now >= self._housekeeping_at:
                self._housekeeping_at = now + HOUSEKEEPING_SECONDS
                self.housekeeping()
            if self.has_loop_work:
                return self._others.select(0)
            if end is not None:
                timeout = end - now
                if timeout <= 0:
                    return self._others.select(0)

    def _serve(self, file: int) -> None:
        """Run a server's work. Stop watching its file while there is more, and watch it again after that."""
        work = self._servers.get(file)
        if work is None:  # another file, or one that was removed a moment ago
            self.has_loop_work = True
            return
        try:
            has_more = work()
        except Exception as error:  # noqa: BLE001 - an error of one server must not end the loop
            self._on_error(error)
            has_more = False
        if has_more:
            if file not in self._busy and file in self._servers:
                self._epoll.unregister(file)
                self._busy.add(file)
        elif file in self._busy:
            self._busy.remove(file)
            self._epoll.register(file, select.EPOLLIN)

    def _take_turn(self) -> None:
        """Serve the busy and the ready servers; then run deferred pieces for as long as that took.

        One piece is run in any case.
        """
        ready = self._epoll.poll(0)
        started = self._clock()
        for file in (*self._busy, *[file for file, _ in ready]):
            self._serve(file)
        if not self._pieces:
            return
        end = 2 * self._clock() - started
        self._run(self._pieces.popleft())
        while self._pieces and self._clock() < end:
            self._run(self._pieces.popleft())

    def _run(self, piece: Callable[[], None]) -> None:
        try:
            piece()
        except Exception as error:  # noqa: BLE001 - an error of one piece must not end the loop
            self._on_error(error)

    def _on_error(self, error: Exception) -> None:
        self._log_once.error(error)
        self.has_loop_work = True

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:  # noqa: ANN401 - as the base class has it
        return self._others.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._others.unregister(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:  # noqa: ANN401 - as the base class has it
        return self._others.modify(fileobj, events, data)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._others.get_map()

    def close(self) -> None:
        self._epoll.close()
        self._others.close()
