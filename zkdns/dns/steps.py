"""Work on large services in steps, so that other queries are answered between the steps.

    query ──▶ Zone ──▶ StepRunner.run ──▶ some steps ──┬─▶ finished: the query goes on
                                                      └─▶ UnfinishedError ──▶ ResponseCache: deferred response
    event loop ──▶ StepRunner.advance ──▶ more steps ──▶ finished ──▶ the query is answered from the beginning

A step is a short part of the work, for some members. It yields how much work it was: `MEMBER` for each member
that it has made or changed. The work for a small service is done at once. With a `Deferral`, most steps of a
large service are run later, and its queries are looked up again when they are finished. Without one, all
steps are run at once.

While a service has unfinished steps, only these use its names. Changes of the service are applied after them.

Freeing a large view at once takes 1 ms for each thousand members (measured). `StepRunner.release` frees it in
pieces: it replaces containers by their contents, and then drops some of these in each piece.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeAlias, TypeVar, cast

from zkdns.names import Labels

Item = TypeVar("Item")
Result = TypeVar("Result")
Steps: TypeAlias = Generator[int, None, None]

MEMBER = 16
"""The work for one member in one step, which takes 1 to 6 µs (measured)."""
COMPARISON = 1
"""The work to compare one member, which takes 0.1 µs (measured)."""
CHUNK = 32
"""Maximum number of members in one step."""
COMPARED_AT_ONCE = 1000
"""Maximum number of members that are only compared in one step."""
RELEASED_AT_ONCE = 2000
"""Maximum number of objects that are freed in one piece."""
# The work that is done at once: about 1 ms. Services of some hundred members need no more.
_WORK_AT_ONCE = 500 * MEMBER

Retry: TypeAlias = Callable[[], bytes]
"""Looks the query up again, and returns its response."""
Deferral: TypeAlias = Callable[[Labels, Retry], bytes]
"""Makes a deferred response to a query that needs unfinished steps of the service with this key."""
Run: TypeAlias = Callable[[Steps], None]
"""Runs the steps of one service. Raises `UnfinishedError` if there are many."""


def run_at_once(steps: Generator[object, None, Result]) -> Result:
    """Run all steps, and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast("Result", end.value)


class UnfinishedError(Exception):
    """A query needs work that is not finished yet.

    Attributes:
        key: the service whose steps are not finished.
    """

    def __init__(self, key: Labels, deferral: Deferral) -> None:
        super().__init__(key)
        self.key, self._deferral = key, deferral

    def defer(self, retry: Retry) -> bytes:
        """Make a deferred response, for which `retry` is called when the work is finished."""
        return self._deferral(self.key, retry)


def _never(_key: Labels, _retry: Retry) -> bytes:
    """The deferral of `StepRunner.in_pieces`, which makes no response."""
    raise NotImplementedError


def chunks_of(items: Sequence[Item], size: int = CHUNK) -> Iterable[Sequence[Item]]:
    """The items in parts for one step each. The items must not change meanwhile."""
    if len(items) <= size:  # most services are that small
        return (items,) if items else ()
    return (items[start : start + size] for start in range(0, len(items), size))


class StepRunner:
    """Runs steps, at most those of one piece of work for each service.

    Attributes:
        deferral: makes deferred responses. None: all steps are run at once.
        defer: schedules a piece of work in the event loop. None: large objects are freed at once.
        containers: types of objects that are freed part by part, in addition to dictionaries and lists.
        work_at_once: the work that is done before a query is deferred.
        failed: the services for which a step has raised an exception, until `run` is called for them.
    """

    def __init__(self) -> None:
        self.deferral: Deferral | None = None
        self.defer: Callable[[Callable[[], None]], object] | None = None
        self.containers: tuple[type, ...] = ()
        self.work_at_once = _WORK_AT_ONCE
        self.failed: set[Labels] = set()
        self._unfinished: dict[Labels, Steps] = {}
        self._running: list[Labels] = []
        self._released: list[object] = []  # objects to free that may be containers
        self._parts: list[object] = []  # others

    def check(self, key: Labels) -> None:
        """Raise `UnfinishedError` if the service has unfinished steps; without `deferral`, finish them."""
        if key in self._unfinished and key not in self._running:
            self._raise_or_finish(key)

    def run(self, key: Labels, steps: Steps) -> None:
        """Run steps of a service without unfinished steps.

        Raises:
            UnfinishedError: the steps are not finished, and `advance` must be called.
        """
        if self._running:  # the running step must have the result
            run_at_once(steps)
            return
        self.failed.discard(key)
        self._unfinished[key] = steps
        if not self.advance(key, self.work_at_once):
            self._raise_or_finish(key)

    def advance(self, key: Labels, work: int) -> bool:
        """Run steps that do this much work; return whether the service has no unfinished steps any more."""
        steps = self._unfinished.get(key)
        if steps is None:
            return True
        self._running.append(key)
        try:
            while work > 0:
                done = next(steps, None)
                if done is None:
                    self._unfinished.pop(key, None)
                    return True
                work -= done
        except BaseException:
            self._unfinished.pop(key, None)
            self.failed.add(key)
            raise
        finally:
            self._running.pop()
        return False

    def finish(self, key: Labels) -> None:
        """Run all unfinished steps of a service."""
        while not self.advance(key, _WORK_AT_ONCE):
            pass

    @contextlib.contextmanager
    def without_deferral(self) -> Iterator[None]:
        """Finish all steps that are needed meanwhile at once, so that no query is deferred."""
        deferral, self.deferral = self.deferral, None
        try:
            yield
        finally:
            self.deferral = deferral

    def in_pieces(self, find: Callable[[], Result]) -> Generator[None, None, Result]:
        """Call a function, and run the steps that it needs in pieces. Returns its result."""
        while True:
            deferral, self.deferral = self.deferral, _never
            try:
                return find()
            except UnfinishedError as unfinished:
                key = unfinished.key
            finally:
                self.deferral = deferral
            yield
            while not self.advance(key, self.work_at_once):
                yield

    def is_unfinished(self, key: Labels) -> bool:
        """Whether the service has unfinished steps."""
        return key in self._unfinished

    def cancel(self, key: Labels) -> None:
        """Forget the unfinished steps of a service."""
        self._unfinished.pop(key, None)

    def run_in_pieces(self, pieces: Iterator[None]) -> None:
        """Run the first piece of some work now, and each other one later if there is an event loop."""
        while next(pieces, self) is not self:
            if self.defer is not None:
                self.defer(partial(self.run_in_pieces, pieces))
                return

    def release(self, large: object) -> None:
        """Free an object that the caller no longer uses, in pieces if there is an event loop."""
        if self.defer is None:
            return
        if not self._released and not self._parts:
            self.defer(self._release_piece)
        self._released.append(large)

    def _release_piece(self) -> None:
        """Replace some containers by their parts, or free some parts. All may be in use elsewhere."""
        left = RELEASED_AT_ONCE
        while self._released and left > 0:
            container = self._released.pop()
            # Not isinstance: it would use what a weak reference refers to.
            if issubclass(type(container), (dict, list, *self.containers)):
                parts = gc.get_referents(container)
                left -= len(parts)
                # The parts of a large one are members, records or keys, which are small.
                (self._released if len(parts) <= RELEASED_AT_ONCE else self._parts).extend(parts)
            left -= 1
        if left > 0:
            del self._parts[-left:]
        if (self._released or self._parts) and self.defer is not None:
            self.defer(self._release_piece)

    def _raise_or_finish(self, key: Labels) -> None:
        if self.deferral is not None and not self._running:
            raise UnfinishedError(key, self.deferral)
        self.finish(key)
