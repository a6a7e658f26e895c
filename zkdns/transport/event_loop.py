"""An event loop that serves while it waits: what is asked most often never takes asyncio's way round.

    run_forever ──▶ select(timeout) ──▶ epoll ──▶ a server's socket: its work, then epoll again
                          ▲               └─────▶ anything else ──┐
                          └──────────── callbacks, timers ◀───────┘

asyncio's way from a ready socket to its callback costs some ten microseconds (measured), as much as a small
batch of answers. Timers and other files are not kept waiting: they are looked at before each new wait.

A server that has more to do is not watched meanwhile: its socket would tell of each datagram that leaves it,
which costs a twentieth of what an answer does (measured), and nobody waits to hear of it.

Work that can wait is done in pieces, between which servers are looked at: who asks for what is known waits
for one such piece at most, and not for all that somebody else has asked for.
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

Work = Callable[[], bool]
"""What a server does when its file is ready. It returns whether that is still so, as far as it has seen."""


Defer: TypeAlias = Callable[[Callable[[], None]], object]
"""Puts off a piece of work."""


class ServingLoop(asyncio.SelectorEventLoop):
    """An event loop with servers in it, where the system has epoll; else one like any other."""

    def __init__(self) -> None:
        self.serving = _ServingSelector() if hasattr(select, "epoll") else None
        super().__init__(self.serving)

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As in every loop; and servers make way for it."""
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
        """As in every loop; and it is thought of in time."""
        if self.serving is not None:
            self.serving.has_loop_work = True
        return super().call_at(when, callback, *args, context=context)


def add_server(file: int, work: Work) -> None:
    """Call `work` in the running loop whenever there is something to read at this file."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, ServingLoop) and loop.serving is not None:
        loop.serving.add(file, work)
    else:
        loop.add_reader(file, work)


def remove_server(file: int) -> None:
    """Serve it no longer in the running loop."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, ServingLoop) and loop.serving is not None:
        loop.serving.remove(file)
    else:
        loop.remove_reader(file)


def deferrer() -> Defer:
    """What puts off pieces of work in the running loop until its servers have been served.

    Pieces are done in their order, soon, not now. They take half of the time where servers never rest, and no
    more than one at a time where they do. To be kept: to find out which loop runs takes a system call.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, ServingLoop) and loop.serving is not None:
        return loop.serving.defer
    return loop.call_soon


class _ServingSelector(selectors.BaseSelector):
    """A selector, watched by an epoll object beside the servers' files.

    Attributes:
        is_wanted: set when the loop was given something to do; what serves makes way for it then.
    """

    def __init__(self) -> None:
        self.has_loop_work = False
        self._servers: dict[int, Work] = {}
        self._busy: set[int] = set()  # those of them that have more to do
        self._pieces: deque[Callable[[], None]] = deque()  # what was put off
        self._epoll = select.epoll()
        self._others = selectors.DefaultSelector()
        self._epoll.register(self._others.fileno(), select.EPOLLIN)
        self._log_once = LogOnce(log, "a server failed")

    def add(self, file: int, work: Work) -> None:
        """Begin to serve a file."""
        self._servers[file] = work
        self._epoll.register(file, select.EPOLLIN)

    def remove(self, file: int) -> None:
        """Serve it no longer."""
        if self._servers.pop(file, None) is None:
            return
        if file in self._busy:
            self._busy.remove(file)
        else:
            self._epoll.unregister(file)

    def defer(self, piece: Callable[[], None]) -> None:
        """Do this when the servers have been served."""
        self._pieces.append(piece)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Serve until there is something for the loop to do; tell what other files are ready."""
        end = None if timeout is None else time.monotonic() + timeout
        self.has_loop_work = False
        while True:
            is_busy = self._busy or self._pieces
            ready = self._epoll.poll(0 if is_busy else timeout)
            started = time.monotonic() if self._pieces else 0.0
            for file in tuple(self._busy):
                self._serve(file)
            for file, _ in ready:
                self._serve(file)
            if self._pieces:
                self._run_deferred(started)
            elif not ready and not is_busy:
                return []
            if self.has_loop_work:
                return self._others.select(0)
            if end is not None:
                timeout = end - time.monotonic()
                if timeout <= 0:
                    return self._others.select(0)

    def _serve(self, file: int) -> None:
        """Let a server do its work, and watch its file unless there is more."""
        work = self._servers.get(file)
        if work is None:  # it is the others', or it was served for the last time a moment ago
            self.has_loop_work = True
        elif self._run(work):
            if file not in self._busy and file in self._servers:
                self._epoll.unregister(file)
                self._busy.add(file)
        elif file in self._busy:
            self._busy.remove(file)
            self._epoll.register(file, select.EPOLLIN)

    def _run_deferred(self, started: float) -> None:
        """Do a piece of what was put off, and more until it has taken as long as the servers have.

        Args:
            started: when those began; 0: nothing was put off then.
        """
        now = time.monotonic()
        end = 2 * now - started if started else now
        self._run(self._pieces.popleft())
        while self._pieces and time.monotonic() < end:
            self._run(self._pieces.popleft())

    def _run(self, work: Callable[[], bool | None]) -> bool | None:
        """What it returns; None where it fails."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - a mistake of one must not end the loop
            self._log_once.error(error)
            self.has_loop_work = True
            return None

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
