"""The garbage collector while a table is loaded, and ever after."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

# New objects, and collections of them, after which those that have outlived one are looked at once more: some
# 2,000 objects, in a millisecond. The last number is how many of those there are before a full collection.
_NEW_ALONE: Final = (700, 2, 0x7FFFFFFF)

# Queries that wait live for seconds, thousands of them at a time; they are no cycles either. Looking at them
# after each 700 new objects took 10 ms twice a second (measured with 2,000 of them), and found nothing.
_YOUNG = 100_000


@contextlib.contextmanager
def loading() -> Iterator[None]:
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
        gc.set_threshold(_YOUNG, 10, 10)
        gc.enable()


def collect_only_what_is_new() -> None:
    """Let the collector look at new objects alone from now on, few at a time.

    A full collection looks at all that is remembered, and meanwhile nobody is answered (measured: 20 ms with
    15,000 answers, 80 to 170 ms with 31,000). It would find nothing: neither a table nor an answer has
    cycles, reference counts free them. What has, such as an exception with its traceback, is gone while it
    is new.
    """
    gc.set_threshold(*_NEW_ALONE)
