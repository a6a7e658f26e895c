"""Copies of a worker's table for a new watcher.

A new watcher that replaces one that has died takes the last table from a worker, with the members that were
held. The stream is that of the feed, up to `End`.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

from zkdns.daemon.ipc.feed import Subscriber
from zkdns.daemon.ipc.feed_messages import (
    FRAMES,
    Changes,
    End,
    SourceHealth,
    copy_frames,
    unpack,
)
from zkdns.serverset.changes import Change


class TableCopy(NamedTuple):
    """A copy of a table, read from a feed or from a `CopyServer`."""

    serial: int
    changes: list[Change]
    sources: dict[str, SourceHealth]


async def read_copy(path: str) -> TableCopy | None:
    """Read a copy of the table at a Unix socket. None: it has no end, because the other process exits.

    Raises:
        OSError: there is no process at this socket.
        msgspec.DecodeError: it sends something else.
    """
    copy = TableCopy(0, [], {})
    reader, writer = await asyncio.open_unix_connection(path)
    with contextlib.closing(writer):
        while (message := await FRAMES.read(reader)) is not None:
            match message:
                case Changes(changes=changes):
                    copy.changes.extend(await unpack(changes))
                case SourceHealth():
                    copy.sources[message.source] = message
                case End(serial):
                    return copy._replace(serial=serial)
    return None


class CopyServer:
    """A worker's table for a new watcher: sends a copy to each connection at a Unix socket.

    Args:
        subscriber: has the table and the health of its sources.
        path: of the socket. Empty: there is none.
    """

    def __init__(self, subscriber: Subscriber, path: str) -> None:
        self._subscriber = subscriber
        self._path = path
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Accept connections."""
        if self._path:
            self._server = await asyncio.start_unix_server(self._send, self._path)

    def close(self) -> None:
        """Accept no more connections."""
        if self._server is not None:
            self._server.close()

    async def _send(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        table, sources = self._subscriber.table, tuple(self._subscriber.sources.values())
        # Each set has the state of the moment at which it is encoded.
        with contextlib.suppress(OSError):
            for frame in copy_frames(table.contents(), sources, End(table.serial)):
                writer.write(frame)
                await writer.drain()
                await asyncio.sleep(0)  # drain() alone does not yield to other tasks
        writer.close()
