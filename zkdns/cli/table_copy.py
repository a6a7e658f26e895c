"""Copies of a server's table for those who look at it: from the server, or read from its sources once."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

import msgspec

from zkdns.config import Config, SnapshotSettings
from zkdns.daemon.ipc.child import Task
from zkdns.daemon.ipc.control import ControlError, private_control_path, stream_responses
from zkdns.daemon.ipc.control_messages import Contents, Dump, Dumped, Refused
from zkdns.errors import ZkdnsError
from zkdns.table import Table

_READ_SECONDS = 30.0  # some ten times what 100,000 members in ZooKeeper take
_RESOLVE_SECONDS = 3.0  # for host names: as long as somebody who looks at it waits
_PAUSE = 0.02


class TableCopy(msgspec.Struct, frozen=True):
    """A table, and what a server answers from it by."""

    table: Table
    config: Config
    is_stale: bool
    """Whether its source is out of reach, so that it is the last that was known."""


async def copy_from_server(path: str) -> TableCopy | Refused:
    """The table of the server whose control socket this is.

    Raises:
        ControlError: there is none, it may not be asked, or it does not answer.
    """
    async with contextlib.aclosing(stream_responses(path, Dump())) as all_of_them:
        head = await anext(all_of_them)
        if isinstance(head, Refused):
            return head
        if not isinstance(head, Dumped):
            raise ControlError(f"the server at {path} is of another version of zkdns")
        table = Table(departed_seconds=0)
        async for part in all_of_them:
            if not isinstance(part, Contents):
                raise ControlError(f"the server at {path} could not hand out its table; its log says why")
            if not part.changes:
                break
            for change in part.changes:
                table.apply(change)
        table.serial = head.serial
        return TableCopy(table, head.config, head.is_stale)


async def copy_from_sources(config: Config) -> TableCopy:
    """What a server of this configuration would begin with.

    It is read by a watcher of our own, so that it is what a server's would be.

    Raises:
        ZkdnsError: it cannot be read in time.
    """
    from zkdns.daemon.watcher.watcher import run_watcher  # noqa: PLC0415 - a server is mostly asked, and this takes longer

    with tempfile.TemporaryDirectory(prefix="zkdns-") as directory:
        feed = str(Path(directory, "feed"))
        # A watcher that only reads must not write the snapshot.
        snapshot = config.snapshot if config.offline else SnapshotSettings()
        config = msgspec.structs.replace(config, control=None, snapshot=snapshot)
        watching = asyncio.create_task(
            run_watcher(Task("watcher", config, feed), lambda _: None, asyncio.Queue())
        )
        try:
            return await _first_copy(private_control_path(feed), watching)
        except TimeoutError:
            source = f"ZooKeeper at {config.zookeeper.hosts}" if config.zookeeper.hosts else "the source"
            raise ZkdnsError(f"{source} could not be read within {_READ_SECONDS:g} s") from None
        finally:
            watching.cancel()
            await asyncio.wait([watching])


async def _first_copy(control: str, watching: asyncio.Task[None]) -> TableCopy:
    """The first copy in which all that can be known soon is known."""
    clock = asyncio.get_running_loop().time
    async with asyncio.timeout(_READ_SECONDS):
        copy = await _next_copy(control, watching)
    patience = clock() + _RESOLVE_SECONDS
    while clock() < patience and not all(map(copy.table.addresses_of, copy.table.hosts)):
        await asyncio.sleep(_PAUSE)
        copy = await _next_copy(control, watching)
    return copy


async def _next_copy(control: str, watching: asyncio.Task[None]) -> TableCopy:
    while True:
        if watching.done():
            await watching  # which raises what has ended it
        with contextlib.suppress(ControlError):  # it does not listen yet
            copy = await copy_from_server(control)
            if isinstance(copy, TableCopy):
                return copy
        await asyncio.sleep(_PAUSE)
