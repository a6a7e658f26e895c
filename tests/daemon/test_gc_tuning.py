"""The garbage collector's settings, and that tables and responses contain no cycles."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import random
import weakref
from collections import deque
from collections.abc import Iterator

import pytest

from tests.daemon.ipc.feed_helpers import until
from tests.dns.helpers import Server, many, put, query
from tests.robustness.mutations import Mutator, ordinary_messages
from zkdns.daemon.gc_tuning import (
    collect_all,
    collect_while_idle,
    collect_young,
    collect_young_generations_only,
)

SERVICES = 10
MAX_YOUNG = 4000
"""Objects in one collection, each of which takes up to 1 µs."""


@pytest.fixture
def _threshold() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


class Cycle:
    """An object that reference counts do not free."""

    def __init__(self) -> None:
        self.cycle = self


@pytest.mark.usefixtures("_threshold")
def test_full_collections_do_not_happen_automatically() -> None:
    collected: set[int] = set()

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            collected.add(info["generation"])

    gc.freeze()  # objects of other tests would affect the time of a full collection
    gc.collect()
    gc.set_threshold(700, 10, 10)
    gc.callbacks.append(note)
    try:
        for expected in ({0, 1, 2}, {0, 1}):
            collected.clear()
            kept = [[number] for number in range(300_000)]
            assert collected == expected
            kept.clear()
            collect_young_generations_only()
    finally:
        gc.callbacks.remove(note)


@pytest.mark.usefixtures("_threshold")
def test_collections_are_small_while_a_full_cache_replaces_its_entries() -> None:
    """Each old object that is freed lets a new one pass uncounted, so the thresholds are no bound alone."""
    server = Server({name: many(5) for name in ("web.staging", "api.staging")})
    messages = [query(f"{name}.staging.discovery", edns=0).to_wire() for name in ("web", "api")]
    sizes: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            young = range(info["generation"] + 1)
            sizes.append(sum(len(gc.get_objects(generation=each)) for each in young))

    collect_young_generations_only()
    gc.collect()
    gc.freeze()
    gc.callbacks.append(note)
    try:
        for size in range(512, 5_000):  # of the client's buffer, so that all queries differ
            for message in messages:
                server.respond(message[:-8] + size.to_bytes(2) + message[-6:])
    finally:
        gc.callbacks.remove(note)
    assert server.datagrams.evicted > 5_000
    assert max(sizes) < MAX_YOUNG


@pytest.mark.usefixtures("_threshold")
@pytest.mark.parametrize("is_called", [False, True])
def test_new_objects_that_replace_old_ones_are_collected_in_small_groups(is_called: bool) -> None:
    """Without `collect_young`, an automatic collection would have nearly all of these objects."""
    collect_young_generations_only()
    objects = deque([[number] for number in range(20_000)])
    gc.collect()
    gc.freeze()
    young = 0
    for number in range(20_000):
        objects.popleft()
        objects.append([number])
        if number % 100 == 0:
            young = max(young, *(len(gc.get_objects(generation=each)) for each in (0, 1)))
            if is_called:
                collect_young()
    assert (young < 300) == is_called


def test_tables_and_responses_have_no_cycles() -> None:
    names = [f"s{number}.staging" for number in range(SERVICES)]
    server = Server({name: many(12) for name in names})
    seeds = ordinary_messages([f"{name}.discovery" for name in names])
    messages = list(itertools.islice(Mutator(seeds, random.Random(1)), 5000))
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for message in messages:
            for stream in (False, True):
                server.respond(message, stream=stream)
        assert len(server.datagrams) > 500
        for number, name in enumerate(names):
            server.apply(put(name, many(number)))
        server.authority.forget_all()
        gc.collect()
        assert [entry for entry in gc.garbage if type(entry).__module__.startswith("zkdns.")] == []
        assert len(gc.garbage) < 100  # and none of zkdns' own objects
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()


@pytest.mark.usefixtures("_threshold")
def test_collect_all_frees_a_cycle_that_lived_long() -> None:
    gc.collect()
    collect_young_generations_only()
    old = Cycle()
    reference = weakref.ref(old)
    kept = [[number] for number in range(50_000)]  # so that it leaves the young generations
    del old
    kept += [[number] for number in range(50_000)]
    assert reference() is not None
    collect_all()
    assert reference() is None
    assert gc.get_freeze_count() >= len(kept)


@pytest.mark.usefixtures("_threshold")
def test_a_full_collection_waits_until_the_process_is_idle() -> None:
    """It frees a cycle that has lived long, and excludes nothing from the next one."""
    gc.set_threshold(700, 10, 10)
    last_work = math.inf  # the process is busy

    async def scenario() -> tuple[bool, bool]:
        nonlocal last_work
        gc.collect()
        collecting = asyncio.create_task(collect_while_idle(lambda: last_work, check_seconds=0.0))
        await asyncio.sleep(0)
        old = Cycle()
        reference = weakref.ref(old)
        kept = [[number] for number in range(100_000)]  # so that it leaves the young generations
        del old
        kept += [[number] for number in range(100_000)]
        for _ in range(10):
            await asyncio.sleep(0)
        was_kept = reference() is not None
        last_work = -math.inf
        await until(lambda: reference() is None)
        collecting.cancel()
        # Python 3.12 excludes some immortal objects from later collections itself.
        return was_kept, gc.get_freeze_count() - frozen < len(kept) // 100

    frozen = gc.get_freeze_count()
    assert asyncio.run(scenario()) == (True, True)
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.usefixtures("_threshold")
def test_no_full_collection_runs_during_the_first_load() -> None:
    """The objects of the load are excluded from later ones."""
    gc.set_threshold(700, 10, 10)
    is_loaded = False

    async def scenario() -> None:
        nonlocal is_loaded
        gc.collect()
        collecting = asyncio.create_task(
            collect_while_idle(lambda: -math.inf, lambda: is_loaded, check_seconds=0.0)
        )
        await asyncio.sleep(0)
        kept = [[number] for number in range(200_000)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert gc.get_count()[2] >= 10
        is_loaded = True
        await until(lambda: gc.get_count()[2] == 0)
        assert gc.get_freeze_count() - frozen >= len(kept)
        collecting.cancel()

    frozen = gc.get_freeze_count()
    try:
        asyncio.run(scenario())
    finally:
        gc.unfreeze()


@pytest.mark.usefixtures("_threshold")
def test_a_full_collection_does_not_wait_without_end() -> None:
    gc.set_threshold(700, 10, 10)

    async def scenario() -> None:
        collecting = asyncio.create_task(
            collect_while_idle(lambda: math.inf, check_seconds=0.0, max_seconds=0.05)
        )
        await asyncio.sleep(0)
        gc.collect()
        kept = [[number] for number in range(200_000)]
        assert gc.get_count()[2] >= 10
        await until(lambda: gc.get_count()[2] == 0)
        assert kept
        collecting.cancel()

    asyncio.run(scenario())
