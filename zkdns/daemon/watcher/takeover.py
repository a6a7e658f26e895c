"""What a watcher takes over from the one in whose place it is put: the table, with those that are held."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import structlog

from zkdns.daemon.ipc.feed import FRAMES, Changes, End, SourceHealth
from zkdns.serverset.changes import Change, HostResolved
from zkdns.table import Table

log = structlog.get_logger("zkdns.watcher")

_SECONDS = 5.0  # a copy of 100,000 members takes one


async def take_over_table(feed: str, table: Table) -> list[Change]:
    """What a watcher's feed tells of ZooKeeper; nothing where it has not been read, or is not told in time.

    Fixed files are read again, and so is ZooKeeper: until then this is the last that was known.

    Args:
        feed: its Unix socket.
        table: gets the serial, so that this goes on rising.
    """
    copied: list[Change] = []
    with contextlib.suppress(OSError, TimeoutError, msgspec.DecodeError):
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_unix_connection(feed)
            with contextlib.closing(writer):
                while (message := await FRAMES.read(reader)) is not None:
                    match message:
                        case Changes(changes=changes):
                            copied += changes
                        case End(serial):
                            table.serial = serial
                            return list(filter(_is_of_zookeeper, copied))
                        case SourceHealth():  # before an end: it is still reading
                            return []
    log.warning("table_takeover_failed")
    return []


def _is_of_zookeeper(change: Change) -> bool:
    return isinstance(change, HostResolved) or change.origin.startswith("/")
