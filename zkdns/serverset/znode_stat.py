"""Reads the data and Stat of some znodes once, without watches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kazoo.interfaces import IAsyncResult

    from zkdns.serverset.client import Client

_BATCH = 100  # requests before other tasks of the event loop run


class ZnodeStat(NamedTuple):
    """A znode's data and the useful part of its Stat."""

    data: bytes
    session: int
    """The session that owns the ephemeral znode. 0: it is not ephemeral."""
    created: float
    """Unix time, by ZooKeeper's clock."""
    modified: float


async def read_stats(client: Client, paths: Iterable[str], seconds: float) -> dict[str, ZnodeStat]:
    """Read several znodes at once.

    Args:
        client: a started client. If it is not connected, the result is empty.
        paths: the znodes' paths.
        seconds: time limit. Responses that arrive later are left out, as are znodes that do not exist or
            cannot be read.
    """
    loop = asyncio.get_running_loop()
    wanted = list(paths)
    found: dict[str, ZnodeStat] = {}
    is_complete = asyncio.Event()
    pending = len(wanted)

    def take(path: str, result: IAsyncResult) -> None:
        nonlocal pending
        pending -= 1
        if result.exception is None:
            data, stat = result.value
            found[path] = ZnodeStat(data, stat.ephemeralOwner, stat.ctime / 1000, stat.mtime / 1000)
        if not pending:
            is_complete.set()

    def on_response(path: str, result: IAsyncResult) -> None:
        """Pass a response to the event loop. Called in kazoo's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(take, path, result)

    if not wanted or not client.connected:
        return found
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            for count, path in enumerate(wanted, 1):
                client.get_async(path).rawlink(partial(on_response, path))
                if count % _BATCH == 0:
                    await asyncio.sleep(0)
            await is_complete.wait()
    return dict(found)  # a copy, since late responses still change the original
