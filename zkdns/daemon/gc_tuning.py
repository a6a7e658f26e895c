"""Settings of the garbage collector, while a table is loaded and after that.

Full collections stop a process for too long, and nearly always find nothing: tables, responses and pending
queries contain no reference cycles, so reference counts free them. A worker never runs one, the watcher only
while its table does not change.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from typing import Final

# Generation 0 is collected when 500 more objects were made than freed, and generation 1 every second time.
# Each old object that is freed lets one more new object pass uncounted, so that a collection has up to 3,000
# objects while a full cache replaces its entries (and even more without `collect_young`). An object takes up
# to 1 µs (measured), if the new objects are scattered in memory that was used before. Larger thresholds save
# no time in all: each object is examined as often. The third threshold is never reached: there is no full
# collection.
_NEVER: Final = 0x7FFFFFFF
_YOUNG_ONLY: Final = (500, 1, _NEVER)

CHECK_SECONDS = 0.5
"""Time between two checks whether a full collection is due and the process is idle."""
IDLE_SECONDS = 2.0
"""Time without work after which the process is idle."""
MAX_SECONDS = 120.0
"""How long a full collection waits for an idle process."""


@contextlib.contextmanager
def gc_paused_for_loading() -> Iterator[None]:
    """Pause the collector while a table is loaded, and exclude all objects from later collections.

    Otherwise it would traverse the same objects again and again during loading (measured: a second for
    100,000 members), and in each full collection after that.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def collect_young_generations_only() -> None:
    """Turn full collections off, and collect new objects in small steps.

    Measured durations of a full collection, in which no query is answered: 20 ms with 15,000 cached
    responses, 80 to 170 ms with 31,000, 4 to 14 ms with 2,000 pending queries. Cycles such as an exception
    with its traceback are freed while they are new. For longer-lived cycles there is `collect_all`.
    """
    gc.set_threshold(*_YOUNG_ONLY)


def collect_young() -> None:
    """Collect the objects that are new. Workers and the watcher call this every few milliseconds of work.

    While new objects replace old ones one by one, such as queries that wait for a dead upstream, the counter
    of new objects stays near 0. Without this, a collection had all of them, and took 19 ms (measured).
    """
    gc.collect(1)


async def collect_while_idle(
    last_work: Callable[[], float],
    is_loaded: Callable[[], bool] = lambda: True,
    *,
    check_seconds: float = CHECK_SECONDS,
    idle_seconds: float = IDLE_SECONDS,
    max_seconds: float = MAX_SECONDS,
) -> None:
    """Turn automatic full collections off, and run them while the process is idle, until it is cancelled.

    Measured in a watcher after the loss of 10,000 services: 40 to 90 ms with 160,000 objects, several times
    within the second in which it publishes the loss; and ten times up to 60 ms in the transfer of a zone with
    800,000 records. The objects of the first load are excluded: with them, each takes 10 ms more.

    Args:
        last_work: when the process has last done its work, by `time.monotonic`.
        is_loaded: whether the first load has ended, before which no full collection runs.
        check_seconds: as `CHECK_SECONDS`.
        idle_seconds: as `IDLE_SECONDS`.
        max_seconds: as `MAX_SECONDS`.
    """
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)
    due_since: float | None = None
    is_frozen = is_loaded()
    try:
        while True:
            await asyncio.sleep(check_seconds)
            if not is_frozen:
                if not is_loaded():
                    continue
                is_frozen = True
                gc.freeze()
            if gc.get_count()[2] < old:
                continue
            now = time.monotonic()
            due_since = due_since or now
            if now - last_work() >= idle_seconds or now - due_since >= max_seconds:
                gc.collect()
                due_since = None
    finally:
        gc.set_threshold(young, middle, old)


def collect_all() -> None:
    """Run one full collection, and exclude the remaining objects from later ones."""
    gc.collect()
    gc.freeze()
