"""How often znodes are read for concurrent requests."""

import asyncio
from collections.abc import Iterable

from zkdns.daemon.watcher.znode_cache import MAX_ZNODES, ZnodeStatCache
from zkdns.serverset.znode_stat import ZnodeStat


class RecordingSource:
    """A source with all znodes below /own except /own/gone. Records the reads."""

    def __init__(self) -> None:
        self.reads: list[list[str]] = []
        self.concurrent = self.max_concurrent = 0

    def holds(self, path: str, /) -> bool:
        return path.startswith("/own")

    async def read_stats(self, paths: Iterable[str], _seconds: float) -> dict[str, ZnodeStat]:
        requested = list(paths)
        self.reads.append(requested)
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        try:
            await asyncio.sleep(0)  # other tasks run
        finally:
            self.concurrent -= 1
        return {path: ZnodeStat(b"", 1, 0.0, 0.0) for path in requested if path != "/own/gone"}


def test_concurrent_requests_for_the_same_znodes_share_one_read() -> None:
    source = RecordingSource()

    async def run() -> list[dict[str, ZnodeStat]]:
        cache = ZnodeStatCache()
        same = [cache.read(["/own/1", "/own/gone", "/other/1"], [source]) for _ in range(50)]
        return await asyncio.gather(*same, cache.read(["/own/2"], [source]))

    *same, other = asyncio.run(run())
    assert [set(found) for found in same] == [{"/own/1"}] * 50
    assert set(other) == {"/own/2"}
    assert source.reads == [["/own/1", "/own/gone"], ["/own/2"]]
    assert source.max_concurrent == 1


def test_at_most_max_znodes_are_read_for_a_request() -> None:
    source = RecordingSource()
    found = asyncio.run(
        ZnodeStatCache().read([f"/own/{number}" for number in range(MAX_ZNODES + 5)], [source])
    )
    assert len(found) == len(source.reads[0]) == MAX_ZNODES
    assert f"/own/{MAX_ZNODES}" not in found


def test_a_cancelled_request_does_not_block_the_next_one() -> None:
    source = RecordingSource()

    async def run() -> dict[str, ZnodeStat]:
        cache = ZnodeStatCache()
        cancelled = asyncio.create_task(cache.read(["/own/1"], [source]))
        await asyncio.sleep(0)
        cancelled.cancel()
        return await cache.read(["/own/2"], [source])

    assert set(asyncio.run(run())) == {"/own/2"}
