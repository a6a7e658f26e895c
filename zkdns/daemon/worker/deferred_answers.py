"""Deferred responses to queries for large services whose names are not ready.

The work is done in pieces of about 1 ms. The event loop serves other queries between them. A query waits
until the steps of its service are finished, and is then looked up again. Its response is therefore always the
present one, also if the service has changed or ended in the meantime. No query is lost: if too many wait, or
if one has waited too often, the work is finished at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from zkdns.dns.steps import MEMBER, Retry, StepRunner
from zkdns.names import Labels
from zkdns.transport.contract import DeferredResponse, Deliver
from zkdns.transport.event_loop import Defer

MAX_WAITING = 4096
"""Maximum number of queries that wait. Each takes about 1 KB."""
MAX_ATTEMPTS = 8
"""How often a query waits. A lookup needs up to four pieces of work; changes of the service may add more."""
_WORK_PER_PIECE = 300 * MEMBER
_RESPONSES_PER_PIECE = 16


class _Waiting(msgspec.Struct, frozen=True, gc=False):
    """A query that waits, and how often it has waited before."""

    retry: Retry
    deliver: Deliver
    address: bytes
    attempts: int


class DeferredAnswers:
    """Finishes the steps of services in pieces, and then answers the queries that wait for them.

    Attributes:
        waiting: number of queries that wait.

    Args:
        runner: has the unfinished steps. From now on, it defers queries with this object.
        defer: schedules a piece of work in the event loop.
        on_error: called with the exception of an internal error, which costs one response.
        work_per_piece: the work of the steps in one piece.
    """

    def __init__(
        self,
        runner: StepRunner,
        defer: Defer,
        on_error: Callable[[Exception], None],
        *,
        work_per_piece: int = _WORK_PER_PIECE,
    ) -> None:
        self.waiting = 0
        self._work_per_piece = work_per_piece
        self._runner, self._defer, self._on_error = runner, defer, on_error
        self._queries: dict[Labels, deque[_Waiting]] = {}
        self._attempts = 0  # of the query that is looked up again
        self._is_scheduled = False
        runner.deferral, runner.defer = self, defer

    def __call__(self, key: Labels, retry: Retry) -> bytes:
        """Make a deferred response to a query that needs unfinished steps of the service with this key."""
        return DeferredResponse(partial(self._start, key, retry))

    def _start(self, key: Labels, retry: Retry, deliver: Deliver, address: bytes) -> None:
        query = _Waiting(retry, deliver, address, self._attempts)
        if self.waiting >= MAX_WAITING:
            self._answer_at_once(query)
            return
        self._queries.setdefault(key, deque()).append(query)
        self.waiting += 1
        if not self._is_scheduled:
            self._is_scheduled = True
            self._defer(self._run_piece)

    def _run_piece(self) -> None:
        """Run steps of the first service, or answer some of the queries that wait for it."""
        self._is_scheduled = False
        key, queries = next(iter(self._queries.items()))
        try:
            if self._runner.advance(key, self._work_per_piece):
                del self._queries[key]  # queries that have to wait again are added again
                for _ in range(min(len(queries), _RESPONSES_PER_PIECE)):
                    self.waiting -= 1
                    self._answer(queries.popleft())
                if queries:
                    self._queries[key] = queries + self._queries.get(key, deque())
        except Exception as error:  # noqa: BLE001 - the queries are looked up again
            self._on_error(error)
        finally:
            if self._queries and not self._is_scheduled:
                self._is_scheduled = True
                self._defer(self._run_piece)

    def _answer(self, query: _Waiting) -> None:
        """Look a query up again, and deliver the response."""
        if query.attempts >= MAX_ATTEMPTS:
            self._answer_at_once(query)
            return
        self._attempts = query.attempts + 1
        try:
            self._look_up(query)
        finally:
            self._attempts = 0

    def _answer_at_once(self, query: _Waiting) -> None:
        """Look a query up, and finish all work that it needs."""
        with self._runner.without_deferral():
            self._look_up(query)

    def _look_up(self, query: _Waiting) -> None:
        try:
            response = query.retry()
            if isinstance(response, DeferredResponse):
                response.start(query.deliver, query.address)
            else:
                query.deliver(lambda: response, len(response))
        except Exception as error:  # noqa: BLE001 - as above
            self._on_error(error)
