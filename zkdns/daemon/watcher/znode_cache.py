"""Reads the Stats of members' znodes for `zkdns explain`, with a cache that bounds the load on ZooKeeper."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from zkdns.serverset.znode_stat import ZnodeStat

MAX_ZNODES: Final = 500
"""Maximum number of znodes that are read for one request."""
_TIMEOUT_SECONDS = 1.0  # a person waits for the output
_CACHE_SECONDS = 2.0


class StatSource(Protocol):
    """A ZooKeeper connection for one namespace."""

    def holds(self, path: str, /) -> bool:
        """Return True if a znode is in this namespace."""

    async def read_stats(self, paths: Iterable[str], seconds: float) -> dict[str, ZnodeStat]:
        """Read znodes, with a timeout. Znodes that could not be read in time are not in the result."""


class ZnodeStatCache:
    """Reads znodes for one request at a time, and caches the results for two seconds."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._cache: dict[str, tuple[float, ZnodeStat | None]] = {}  # with the time of the read

    async def read(self, paths: Sequence[str], sources: Sequence[StatSource]) -> dict[str, ZnodeStat]:
        """Return the Stats of the first `MAX_ZNODES` znodes, without those that could not be read in time."""
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await self._lock.acquire()
        except TimeoutError:  # the requests before this one took all of the time
            return {}
        try:
            return await self._read(paths[:MAX_ZNODES], sources)
        finally:
            self._lock.release()

    async def _read(self, paths: Sequence[str], sources: Sequence[StatSource]) -> dict[str, ZnodeStat]:
        clock = asyncio.get_running_loop().time
        oldest = clock() - _CACHE_SECONDS
        self._cache = {path: entry for path, entry in self._cache.items() if entry[0] > oldest}
        if missing := [path for path in paths if path not in self._cache]:
            found: dict[str, ZnodeStat] = {}
            reads = (source.read_stats(filter(source.holds, missing), _TIMEOUT_SECONDS) for source in sources)
            for stats in await asyncio.gather(*reads):
                found |= stats
            now = clock()
            self._cache |= {path: (now, found.get(path)) for path in missing}
        stats_by_path = {path: self._cache[path][1] for path in paths}
        return {path: stat for path, stat in stats_by_path.items() if stat is not None}
