"""Copies of a server's table: read from the server, or once from its sources."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from zkdns.admin.api_types import TableHead, TableLine
from zkdns.admin.client import ApiClient
from zkdns.config import Config, SnapshotSettings
from zkdns.daemon.ipc.child import Task
from zkdns.daemon.ipc.request_messages import Lines, ReadTable
from zkdns.daemon.ipc.requests import (
    RequestFailedError,
    RequestRefusedError,
    requests_path,
    stream_responses,
)
from zkdns.durations import format_duration
from zkdns.errors import UnreachableError, ZkdnsError
from zkdns.serverset.auth import load_access
from zkdns.serverset.reachability import Diagnosis
from zkdns.table import Table

READ_SECONDS = 30.0
"""Time-out of the first read: ten times as long as 100,000 members take."""
RESOLVE_SECONDS = 3.0
"""Maximum time in which the user waits for the addresses of host names."""
_POLL_SECONDS = 0.02


class TableCopy(msgspec.Struct, frozen=True):
    """A table, with the configuration of the server that answers from it."""

    table: Table
    config: Config
    is_stale: bool
    """Whether its source is unreachable, so that it is the last table that was read."""


def copy_from_server(client: ApiClient) -> TableCopy:
    """Read the table of a server.

    Raises:
        UnreachableError, RefusedError: it cannot be read.
    """
    return _build(client.table())


def _build(lines: Iterable[TableLine]) -> TableCopy:
    """Build a table from the lines of a copy, of which the first one is the head."""
    table = Table(departed_seconds=0)
    head: TableHead | None = None
    for line in lines:
        if isinstance(line, TableHead):
            head = line
        else:
            for change in line.changes:
                table.apply(change)
    if head is None:
        raise ZkdnsError("the server sent no table")
    table.serial = head.serial
    return TableCopy(table, head.config, head.is_stale)


async def copy_from_sources(
    config: Config, *, read_seconds: float = READ_SECONDS, resolve_seconds: float = RESOLVE_SECONDS
) -> TableCopy:
    """Read the table that a server with this configuration would start with.

    A watcher in this process reads it, so that it equals the table of a server.

    Args:
        config: the configuration.
        read_seconds: as `READ_SECONDS`.
        resolve_seconds: as `RESOLVE_SECONDS`.

    Raises:
        ZkdnsError: it cannot be read in time.
    """
    from zkdns.daemon.watcher.watcher import run_watcher  # noqa: PLC0415 - slow to load, rarely used

    with tempfile.TemporaryDirectory(prefix="zkdns-") as directory:
        feed = str(Path(directory, "feed"))
        # A watcher that only reads must not write the snapshot.
        snapshot = config.snapshot if config.offline else SnapshotSettings()
        config = msgspec.structs.replace(config, snapshot=snapshot)
        watcher = asyncio.create_task(
            run_watcher(Task("watcher", config, feed), lambda _: None, asyncio.Queue())
        )
        try:
            path = requests_path(feed)
            async with asyncio.timeout(read_seconds):
                copy = await _next_copy(path, watcher)
            return await _with_addresses(copy, path, watcher, resolve_seconds)
        except TimeoutError:
            raise await asyncio.to_thread(_unread_error, config, read_seconds) from None
        finally:
            watcher.cancel()
            await asyncio.wait([watcher])


def _unread_error(config: Config, seconds: float) -> UnreachableError:
    """The error for a source that could not be read in time, with the cause. Blocks for about a second."""
    hosts = config.zookeeper.hosts
    if config.is_secondary:
        servers = " or ".join(map(str, config.primary.servers))
        return UnreachableError(f"the primary {servers} could not be read within {format_duration(seconds)}")
    if hosts is None:
        return UnreachableError(f"the source could not be read within {format_duration(seconds)}")
    return Diagnosis(hosts, load_access(config.zookeeper).tls).wait().error("read the table")


async def _with_addresses(
    copy: TableCopy, path: str, watcher: asyncio.Task[None], seconds: float
) -> TableCopy:
    """Copy the watcher's table again until all its host names have addresses, at most for `seconds`."""
    now = asyncio.get_running_loop().time
    deadline = now() + seconds
    while now() < deadline and not all(map(copy.table.addresses_of, copy.table.hosts)):
        await asyncio.sleep(_POLL_SECONDS)
        copy = await _next_copy(path, watcher)
    return copy


async def _next_copy(path: str, watcher: asyncio.Task[None]) -> TableCopy:
    while True:
        if watcher.done():
            await watcher  # raises its error
        with contextlib.suppress(RequestFailedError, RequestRefusedError):  # it has not read the table yet
            data = b""
            async with contextlib.aclosing(stream_responses(path, ReadTable(), Lines)) as pieces:
                while piece := (await anext(pieces)).data:
                    data += piece
            return _build(msgspec.json.Decoder(TableLine).decode_lines(data))
        await asyncio.sleep(_POLL_SECONDS)
