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

from zkdns.transport.mistakes import Mistakes

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

log = structlog.get_logger("zkdns.transport")

Work = Callable[[], bool]
"""What a server does when its file is ready; it returns whether it has given the loop something to do."""


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
        if self._servers.pop(file, None) is not None:
            self._epoll.unregister(file)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Serve until there is something for the loop to do; tell what other files are ready."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            is_due = False
            ready = self._epoll.poll(timeout)
            for file, _ in ready:
                work = self._servers.get(file)
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
        except Exception as error:  # noqa: BLE001 - a mistake of one server must not end the loop
            self._mistakes.tell(error)
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
        self._epoll.close()
        self._others.close()
