"""How often ZooKeeper is asked for those who ask what it knows of members."""

import asyncio
from collections.abc import Iterable

from zkdns.serverset.znode_stat import ZnodeStat

from zkdns.daemon.watcher.znode_cache import MAX_CACHED, ZnodeStatCache


class Asked:
    """Knows each znode below /own but one that has gone, and notes what it is asked."""

    def __init__(self) -> None:
        self.times: list[list[str]] = []
        self.now = self.most_at_once = 0

    def holds(self, path: str, /) -> bool:
        return path.startswith("/own")

    async def look(self, paths: Iterable[str], _seconds: float) -> dict[str, ZnodeStat]:
        wanted = list(paths)
        self.times.append(wanted)
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            await asyncio.sleep(0)  # others have their turn
        finally:
            self.now -= 1
        return {path: ZnodeStat(b"", 1, 0.0, 0.0) for path in wanted if path != "/own/gone"}


def test_many_who_ask_at_once_cost_one_look_which_is_shared() -> None:
    source = Asked()

    async def run() -> list[dict[str, ZnodeStat]]:
        looks = ZnodeStatCache()
        same = [looks.of(["/own/1", "/own/gone", "/other/1"], [source]) for _ in range(50)]
        return await asyncio.gather(*same, looks.of(["/own/2"], [source]))

    *same, other = asyncio.run(run())
    assert [set(found) for found in same] == [{"/own/1"}] * 50
    assert set(other) == {"/own/2"}
    assert source.times == [["/own/1", "/own/gone"], ["/own/2"]]
    assert source.most_at_once == 1


def test_so_many_are_looked_at_and_no_more() -> None:
    source = Asked()
    found = asyncio.run(ZnodeStatCache().of([f"/own/{number}" for number in range(MAX_CACHED + 5)], [source]))
    assert len(found) == len(source.times[0]) == MAX_CACHED
    assert f"/own/{MAX_CACHED}" not in found


def test_who_hangs_up_leaves_the_turn_to_others() -> None:
    source = Asked()

    async def run() -> dict[str, ZnodeStat]:
        looks = ZnodeStatCache()
        hung_up = asyncio.create_task(looks.of(["/own/1"], [source]))
        await asyncio.sleep(0)
        hung_up.cancel()
        return await looks.of(["/own/2"], [source])

    assert set(asyncio.run(run())) == {"/own/2"}
