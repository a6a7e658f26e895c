"""An event loop that serves while it waits: what is asked most often never takes asyncio's way round.

    run_forever ──▶ select(timeout) ──▶ epoll ──▶ a server's socket: its work, then epoll again
                          ▲               └─────▶ anything else ──┐
                          └──────────── callbacks, timers ◀───────┘

asyncio's way from a ready socket to its callback costs some ten microseconds (measured), as much as a small
batch of answers. Timers and other files are not kept waiting: they are looked at before each new wait.
"""

from __future__ import annotations

import asyncio
import select
import selectors
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

log = structlog.get_logger("zkdns.transport")

Work = Callable[[], bool]
"""What a server does when its file is ready; it returns whether it has given the loop something to do."""


class ServingLoop(asyncio.SelectorEventLoop):
    """An event loop with servers in it."""

    def __init__(self) -> None:
        self._serving = _ServingSelector() if hasattr(select, "epoll") else None
        super().__init__(self._serving)

    def add_server(self, file: int, work: Work) -> None:
        """Call `work` whenever there is something to read at this file."""
        if self._serving is not None:
            self._serving.servers[file] = work
            self._serving.epoll.register(file, select.EPOLLIN)
        else:
            self.add_reader(file, work)

    def remove_server(self, file: int) -> None:
        """Serve it no longer."""
        if self._serving is None:
            self.remove_reader(file)
        elif self._serving.servers.pop(file, None) is not None:
            self._serving.epoll.unregister(file)


def add_server(file: int, work: Work) -> None:
    """Call `work` in the running loop whenever there is something to read at this file."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, ServingLoop):
        loop.add_server(file, work)
    else:
        loop.add_reader(file, work)


def remove_server(file: int) -> None:
    """Serve it no longer in the running loop."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, ServingLoop):
        loop.remove_server(file)
    else:
        loop.remove_reader(file)


class _ServingSelector(selectors.BaseSelector):
    """A selector, watched by an epoll object beside the servers' files."""

    def __init__(self) -> None:
        self.servers: dict[int, Work] = {}
        self.epoll = select.epoll()
        self._others = selectors.DefaultSelector()
        self.epoll.register(self._others.fileno(), select.EPOLLIN)
        self._told: set[str] = set()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Serve until there is something for the loop to do; tell what other files are ready."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            is_due = False
            ready = self.epoll.poll(timeout)
            for file, _ in ready:
                work = self.servers.get(file)
                # What is none of the servers' is of the others, or has just been served for the last time.
                is_due |= work is None or self._served(work)
            if is_due or not ready:
                return self._others.select(0)
            if end is not None:
                timeout = end - time.monotonic()
                if timeout <= 0:
                    return self._others.select(0)

    def _served(self, work: Work) -> bool:
        try:
            return work()
        except Exception as error:  # a mistake of one server must not end the loop
            kind = repr(error)
            if kind not in self._told:
                self._told.add(kind)
                log.error("a server failed", exc_info=error)
            return True

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:  # noqa: ANN401 - as the base class has it
        return self._others.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._others.unregister(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:  # noqa: ANN401 - as the base class has it
        return self._others.modify(fileobj, events, data)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._others.get_map()

    def close(self) -> None:
        self.epoll.close()
        self._others.close()
