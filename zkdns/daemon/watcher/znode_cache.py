"""What ZooKeeper tells of members' znodes when somebody asks: so little that askers are no load for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from zkdns.serverset.znode_stat import ZnodeStat

MAX_CACHED: Final = 500
"""Znodes that are looked at for one who asks."""
_LOOK_SECONDS = 1.0  # a person waits
_KEPT_SECONDS = 2.0


class StatSource(Protocol):
    """What follows ZooKeeper, and can ask it."""

    def holds(self, path: str, /) -> bool:
        """Whether it is the one to ask for this znode."""

    async def look(self, paths: Iterable[str], seconds: float) -> dict[str, ZnodeStat]:
        """What ZooKeeper tells of these znodes within so many seconds."""


class ZnodeStatCache:
    """Looks for one asker after the other, who share for two seconds what was seen."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._seen: dict[str, tuple[float, ZnodeStat | None]] = {}

    async def of(self, paths: Sequence[str], sources: Sequence[StatSource]) -> dict[str, ZnodeStat]:
        """What is known of the first `MAX_CACHED` of these znodes; what is not told in time lacks."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._turn.acquire()
        except TimeoutError:  # those who asked before take all the time
            return {}
        try:
            return await self._look(paths[:MAX_CACHED], sources)
        finally:
            self._turn.release()

    async def _look(self, paths: Sequence[str], sources: Sequence[StatSource]) -> dict[str, ZnodeStat]:
        clock = asyncio.get_running_loop().time
        oldest = clock() - _KEPT_SECONDS
        self._seen = {path: one for path, one in self._seen.items() if one[0] > oldest}
        if missing := [path for path in paths if path not in self._seen]:
            found: dict[str, ZnodeStat] = {}
            asked = (source.look(filter(source.holds, missing), _LOOK_SECONDS) for source in sources)
            for some in await asyncio.gather(*asked):
                found |= some
            now = clock()
            self._seen |= {path: (now, found.get(path)) for path in missing}
        seen = {path: self._seen[path][1] for path in paths}
        return {path: look for path, look in seen.items() if look is not None}
