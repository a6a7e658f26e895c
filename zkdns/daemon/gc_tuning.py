"""Settings of the garbage collector, while a table is loaded and after that.

Full collections stop a process for too long, and would find nothing: tables, responses and pending queries
contain no reference cycles, so reference counts free them.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

# Generation 0 is collected when 500 more objects were made than freed, and generation 1 every second time.
# Each old object that is freed lets one more new object pass uncounted, so that a collection has up to 3,000
# objects while a full cache replaces its entries (and even more without `collect_young`). An object takes up
# to 1 µs (measured), if the new objects are scattered in memory that was used before. Larger thresholds save
# no time in all: each object is examined as often. The third threshold is never reached: there is no full
# collection.
_YOUNG_ONLY: Final = (500, 1, 0x7FFFFFFF)


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
    """Collect the objects that are new. A worker calls this every few milliseconds of work.

    While new objects replace old ones one by one, such as queries that wait for a dead upstream, the counter
    of new objects stays near 0. Without this, a collection had all of them, and took 19 ms (measured).
    """
    gc.collect(1)


def collect_all() -> None:
    """Run one full collection, and exclude the remaining objects from later ones."""
    gc.collect()
    gc.freeze()
