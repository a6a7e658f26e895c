"""The garbage collector while a table is loaded, and ever after."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

# New objects, and collections of them, after which those that have outlived one are looked at once more: some
# 6,000 objects, in a millisecond. The last number is how many of those there are before a full collection.
_NEW_ALONE: Final = (2000, 2, 0x7FFFFFFF)


@contextlib.contextmanager
def gc_paused_for_loading() -> Iterator[None]:
    """Within this, objects by the hundred thousand are made that stay.

    The collector would look at all of them again and again, meanwhile (measured: a second for 100,000
    members) and at each full collection later, during which nothing is answered. A table has no cycles, so
    the collector has nothing to find there: what was made is put out of its sight. Reference counts free it.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def collect_young_generations_only() -> None:
    """Let the collector look at new objects alone from now on, few at a time.

    A full collection looks at all that is remembered, and meanwhile nobody is answered (measured: 20 ms with
    15,000 answers, 80 to 170 ms with 31,000; 4 to 14 ms with 2,000 queries that wait for upstreams). It would
    find nothing: tables, answers and queries have no cycles, reference counts free them. What has, such as an
    exception with its traceback, is gone while it is new; for what lives longer there is `collect_all`.
    """
    gc.set_threshold(*_NEW_ALONE)


def collect_all() -> None:
    """Collect what a full collection finds, once, and look at none of the rest again."""
    gc.collect()
    gc.freeze()
