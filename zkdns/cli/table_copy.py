"""Copies of a server's table: read from the server, or once from its sources."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

import msgspec

from zkdns.cli.control_client import other_version
from zkdns.config import Config, SnapshotSettings
from zkdns.daemon.ipc.child import Task
from zkdns.daemon.ipc.control import ControlError, private_control_path, stream_responses
from zkdns.daemon.ipc.control_messages import Contents, Dump, Dumped, Refused
from zkdns.errors import ZkdnsError
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


async def copy_from_server(path: str) -> TableCopy | Refused:
    """Read the table of the server with this control socket.

    Raises:
        ControlError: there is no server, it does not respond, or this user has no permission.
    """
    async with contextlib.aclosing(stream_responses(path, Dump())) as messages:
        head = await anext(messages)
        if isinstance(head, Refused):
            return head
        if not isinstance(head, Dumped):
            raise other_version(path)
        table = Table(departed_seconds=0)
        async for part in messages:
            if not isinstance(part, Contents):
                raise ControlError(f"the server at {path} failed to send its table; its log has the reason")
            if not part.changes:
                break
            for change in part.changes:
                table.apply(change)
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
        config = msgspec.structs.replace(config, control=None, snapshot=snapshot)
        watcher = asyncio.create_task(
            run_watcher(Task("watcher", config, feed), lambda _: None, asyncio.Queue())
        )
        try:
            control = private_control_path(feed)
            async with asyncio.timeout(read_seconds):
                copy = await _next_copy(control, watcher)
            return await _with_addresses(copy, control, watcher, resolve_seconds)
        except TimeoutError:
            source = f"ZooKeeper at {config.zookeeper.hosts}" if config.zookeeper.hosts else "the source"
            raise ZkdnsError(f"{source} could not be read within {read_seconds:g} s") from None
        finally:
            watcher.cancel()
            await asyncio.wait([watcher])


async def _with_addresses(
    copy: TableCopy, control: str, watcher: asyncio.Task[None], seconds: float
) -> TableCopy:
    """Copy the watcher's table again until all its host names have addresses, at most for `seconds`."""
    now = asyncio.get_running_loop().time
    deadline = now() + seconds
    while now() < deadline and not all(map(copy.table.addresses_of, copy.table.hosts)):
        await asyncio.sleep(_POLL_SECONDS)
        copy = await _next_copy(control, watcher)
    return copy


async def _next_copy(control: str, watcher: asyncio.Task[None]) -> TableCopy:
    while True:
        if watcher.done():
            await watcher  # raises its error
        with contextlib.suppress(ControlError):  # its socket does not exist yet
            copy = await copy_from_server(control)
            if isinstance(copy, TableCopy):
                return copy
        await asyncio.sleep(_POLL_SECONDS)
