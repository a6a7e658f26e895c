"""What ZooKeeper tells of znodes when somebody asks: their data, and whose they are since when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kazoo.interfaces import IAsyncResult

    from zkdns.serverset.client import Client

_AT_ONCE = 100  # questions, before others have a turn in the event loop


class Look(NamedTuple):
    """One znode as it is now."""

    data: bytes
    session: int
    """The session that it goes with; 0: none."""
    created: float
    """Unix time, by ZooKeeper's clock."""
    modified: float


async def look(client: Client, paths: Iterable[str], seconds: float) -> dict[str, Look]:
    """Ask for all of these znodes together.

    Args:
        client: a started one; where it is not connected nothing is asked.
        paths: the znodes'.
        seconds: what has not been told by then lacks, and so does what is not there or not permitted to read.
    """
    loop = asyncio.get_running_loop()
    wanted = list(paths)
    found: dict[str, Look] = {}
    answered = asyncio.Event()
    left = len(wanted)

    def take(path: str, result: IAsyncResult) -> None:
        nonlocal left
        left -= 1
        if result.exception is None:
            data, stat = result.value
            found[path] = Look(data, stat.ephemeralOwner, stat.ctime / 1000, stat.mtime / 1000)
        if not left:
            answered.set()

    def tell(path: str, result: IAsyncResult) -> None:
        """In a thread of kazoo's."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(take, path, result)

    if not wanted or not client.connected:
        return found
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            for count, path in enumerate(wanted, 1):
                client.get_async(path).rawlink(partial(tell, path))
                if count % _AT_ONCE == 0:
                    await asyncio.sleep(0)
            await answered.wait()
    return dict(found)  # what comes later is nobody's
