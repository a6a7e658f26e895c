"""An event loop that serves while it waits: what is asked most often never takes asyncio's way round.

    run_forever ──▶ select(timeout) ──▶ epoll ──▶ a server's socket: its work, then epoll again
                          ▲               └─────▶ anything else ──┐
                          └──────────── callbacks, timers ◀───────┘

asyncio's way from a ready socket to its callback costs some ten microseconds (measured), as much as a small
batch of answers. Timers and other files are not kept waiting: they are looked at before each new wait.

A server that has more to do is not watched meanwhile: its socket would tell of each datagram that leaves it,
which costs a twentieth of what an answer does (measured), and nobody waits to hear of it.
"""

from __future__ import annotations

import asyncio
import enum
import select
import selectors
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from zkdns.transport.mistakes import Mistakes

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

log = structlog.get_logger("zkdns.transport")


class Left(enum.Enum):
    """What there is to be done after a server's work."""

    NOTHING = enum.auto()
    MORE = enum.auto()
    """Its file is still ready, as far as it has seen."""
    FOR_THE_LOOP = enum.auto()
    """It has given the loop something to do."""


Work = Callable[[], Left]
"""What a server does when its file is ready."""


class ServingLoop(asyncio.SelectorEventLoop):
    """An event loop with servers in it, where the system has epoll; else one like any other."""

    def __init__(self) -> None:
        self.serving = _ServingSelector() if hasattr(select, "epoll") else None
        super().__init__(self.serving)


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


class _ServingSelector(selectors.BaseSelector):
    """A selector, watched by an epoll object beside the servers' files."""

    def __init__(self) -> None:
        self._servers: dict[int, Work] = {}
        self._unwatched: set[int] = set()  # those of them that have more to do
        self._epoll = select.epoll()
        self._others = selectors.DefaultSelector()
        self._epoll.register(self._others.fileno(), select.EPOLLIN)
        self._mistakes = Mistakes(log, "a server failed")

    def add(self, file: int, work: Work) -> None:
        """Begin to serve a file."""
        self._servers[file] = work
        self._epoll.register(file, select.EPOLLIN)

    def remove(self, file: int) -> None:
        """Serve it no longer."""
        if self._servers.pop(file, None) is None:
            return
        if file in self._unwatched:
            self._unwatched.remove(file)
        else:
            self._epoll.unregister(file)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Serve until there is something for the loop to do; tell what other files are ready."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            ready = [file for file, _ in self._epoll.poll(0 if self._unwatched else timeout)]
            ready += self._unwatched
            # What is none of the servers' is of the others, or has just been served for the last time.
            is_due = [file not in self._servers or self._has_given(file) for file in ready]
            if any(is_due) or not ready:
                return self._others.select(0)
            if end is not None:
                timeout = end - time.monotonic()
                if timeout <= 0:
                    return self._others.select(0)

    def _has_given(self, file: int) -> bool:
        """Whether that server's work has given the loop something to do."""
        try:
            left = self._servers[file]()
        except Exception as error:  # noqa: BLE001 - a mistake of one server must not end the loop
            self._mistakes.tell(error)
            left = Left.FOR_THE_LOOP
        if left is not Left.MORE:
            self._watch(file)
        elif file not in self._unwatched and file in self._servers:
            self._epoll.unregister(file)
            self._unwatched.add(file)
        return left is Left.FOR_THE_LOOP

    def _watch(self, file: int) -> None:
        if file in self._unwatched:
            self._unwatched.remove(file)
            self._epoll.register(file, select.EPOLLIN)

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
