"""Forwarding: responses for names outside the zones, from the forward cache or from upstreams.

The path of a query, with its file in zkdns/:

    dns/responder.py               the name is outside the zones
      └▶ Forwarder.answer          forward/forwarder.py
           ├▶ special_use.py       special-use name ──▶ response at once
           ├▶ forward_zones.py     the forward zone of the name; without upstreams ──▶ REFUSED
           └▶ cache.py             fresh entry ──▶ response at once, with the TTLs of this second
                │ no fresh entry
                ▼
         deferred response         transport/udp.py or tcp.py calls its `start`: `Forwarder._begin`
                ▼
         resolver.py               `resolve`: one resolution for equal questions
           ├▶ resolution.py        decides at each event: attempt, outcome or wait; no I/O
           ├▶ upstreams.py         ranks the upstreams
           ├▶ message.py           builds the query, and reads the reply
           └▶ udp_client.py        or tcp_client.py: sockets
                ▼
         Forwarder._on_outcome     stores the reply or failure in the cache; for each waiting query:
           └▶ reply.py             the response: TTLs, size limit, EDNS
                ▼
         deliver(response)         transport/udp.py or tcp.py sends it

Equal questions are resolved once, however many queries wait. A waiting query does not delay others.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog

from zkdns.address import HostPort, UpstreamAddress
from zkdns.clock import elapsed_seconds
from zkdns.config import Config
from zkdns.dns.answer_source import FORWARD_CACHE, PENDING, REFUSED, STALE, UPSTREAM, ZONE, AnswerSources
from zkdns.dns.edns import MIN_UDP_SIZE, Ede, pack_ede
from zkdns.dns.message import HEADER_SIZE, TYPE_CLASS, Query, Rcode, Response
from zkdns.dns.responder import CacheableAnswer
from zkdns.forward.cache import Cache, Entry
from zkdns.forward.forward_zones import ForwardZone, ForwardZones
from zkdns.forward.message import Question
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import STOPPED, Failure, FailureKind
from zkdns.forward.resolver import Resolver
from zkdns.forward.special_use import special_use_answer
from zkdns.forward.system_upstreams import FILES
from zkdns.forward.udp_client import affordable_sockets
from zkdns.names import Labels
from zkdns.transport.contract import DeferredResponse, Deliver
from zkdns.transport.event_loop import Defer, deferrer
from zkdns.transport.log_once import LogOnce

log = structlog.get_logger("zkdns.forward")

MAX_WAITING: Final = 4_000
"""Maximum number of clients' queries that wait for upstreams in each worker.

Each of them may need a socket. But equal questions need one, and a question may have no waiting query, so
each resolver also limits its questions, to the same number (see `zkdns.forward.resolver.MAX_IN_FLIGHT`).
"""
STALE_TTL: Final = 30  # RFC 8767 §4
CLIENT_RESPONSE_SECONDS: Final = 1.8
"""How long a client waits for a fresh response if there is a stale one: the timer of RFC 8767 §5."""

_ID_SIZE = 2
_TYPE_CLASS_SIZE = TYPE_CLASS.size
_ANSWER_OVERHEAD = 700  # bytes of a cached answer in addition to its response (measured)
# Maximum length of error texts; fits into the smallest message with the longest question (RFC 8914 §2).
_MAX_TEXT = 200
_UNCACHED_FAILURES = frozenset({FailureKind.OVERLOADED, FailureKind.STOPPED})
# Errors about the query, not about the upstream; passed on unchanged.
_QUERY_ERRORS = frozenset({Rcode.FORMERR, Rcode.NOTIMP})


class PendingQuery(msgspec.Struct, frozen=True, gc=False):
    """A client's query, with everything that is needed to make its response.

    Attributes:
        query: the query.
        question: its question.
        limit: maximum size of the response in bytes.
        encode: returns the bytes to deliver for a response without its id.
        zone: the forward zone.
    """

    query: Query
    question: Question
    limit: int
    encode: Callable[[bytes], bytes]
    zone: ForwardZone

    def finish(self, message: bytes) -> bytes:
        """Return the bytes to deliver for a response."""
        return self.encode(message[_ID_SIZE:])


class PendingQuestion(msgspec.Struct, gc=False):
    """A question that is being resolved.

    Attributes:
        waiters: the waiting queries, and the functions that deliver their responses.
        stale_timer: delivers a stale response to them; None: no query waits, or there is no stale entry.
        is_late: whether `stale_timer` has delivered a stale response.
    """

    waiters: list[tuple[PendingQuery, Deliver]]
    stale_timer: asyncio.TimerHandle | None = None
    is_late: bool = False


class ForwardCounters(msgspec.Struct):
    """Counters of a forwarder."""

    queries: int = 0
    """Queries that the forward cache could not answer at once."""
    joined: int = 0
    """Of these, queries with a question that was already being resolved."""
    failed: int = 0
    """Responses with SERVFAIL."""
    stale: int = 0
    """Responses from stale cache entries."""
    overloaded: int = 0
    """Queries that were not forwarded: too many are waiting, or no file descriptor is left."""
    prefetched: int = 0
    """Questions that were sent again before their cache entry expired."""


class Forwarder:
    """Answers queries for names outside the zones, in the running event loop.

    Attributes:
        cache: the forward cache.
        counters: the counters.
        zones: the forward zones.
        now: the current second of the clock.
        sources: counts responses by source, if the source is not known when `answer` returns.
        on_change: called after the upstreams have changed.

    Args:
        config: the upstreams and limits.
        listening: addresses of this server, as bound.
        secret: 16 random bytes, the same in all workers.
        clock: returns seconds that never decrease.
        max_waiting: maximum number of queries that wait for upstreams; further ones get SERVFAIL.
        client_response_seconds: how long a query waits for a fresh response if there is a stale one.
        system_files: the files for `forward.upstreams = "auto"`, in order of precedence.
    """

    def __init__(
        self,
        config: Config,
        listening: Sequence[HostPort],
        secret: bytes,
        clock: Callable[[], float] = elapsed_seconds,
        *,
        max_waiting: int = MAX_WAITING,
        client_response_seconds: float = CLIENT_RESPONSE_SECONDS,
        system_files: Sequence[Path] = FILES,
    ) -> None:
        self.cache = Cache(
            max_entries=config.cache.entries,
            max_ttl=config.cache.max_ttl,
            stale_seconds=config.cache.stale,
        )
        self.counters = ForwardCounters()
        self.sources = AnswerSources()
        self.now = int(clock())
        self.on_change: Callable[[], None] = lambda: None
        resolvers = len(config.forward.zones) + 1
        max_sockets = max(1, affordable_sockets(2 * max_waiting) // resolvers)

        def make_resolver(servers: Iterable[UpstreamAddress]) -> Resolver:
            return Resolver(servers, max_in_flight=max_waiting, max_sockets=max_sockets)

        self.zones = ForwardZones(config, listening, secret, make_resolver, system_files=system_files)
        self._trust_ad = config.forward.trust_ad
        self._max_waiting = max_waiting
        self._client_response_seconds = client_response_seconds
        self._clock = clock
        self._pending: dict[Question, PendingQuestion] = {}
        self._defer: Defer
        self._to_resolve: deque[PendingQuery] = deque()
        self._waiting = 0
        self._to_deliver: deque[tuple[PendingQuery, Deliver, Reply | Failure | Entry]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._log_once = LogOnce(log, "forwarded_response_failed")

    @property
    def waiting(self) -> int:
        """Number of queries that wait for upstreams."""
        return self._waiting

    @property
    def resolving(self) -> int:
        """Number of questions that are being resolved; a prefetched one has no waiting query."""
        return len(self._pending)

    @property
    def connections(self) -> int:
        """TCP and TLS connections to upstreams so far."""
        return sum(zone.resolver.connections for zone in self.zones.all)

    @property
    def recursion_available(self) -> bool:
        """Whether there are upstreams, so that recursion is available."""
        return self.zones.has_upstreams

    def start(self) -> None:
        """Start in the running event loop."""
        self._defer = deferrer()
        self.zones.start()
        self._on_second()

    def stop(self) -> None:
        """Stop; all waiting queries fail at once."""
        if self._timer is not None:
            self._timer.cancel()
        self.zones.stop()
        while self._to_resolve:
            self._on_outcome(self._to_resolve.popleft().question, STOPPED)
        while self._to_deliver:
            self._deliver_one()

    def _on_second(self) -> None:
        now = self._clock()
        self._timer = asyncio.get_running_loop().call_later(int(now) + 1 - now, self._on_second)
        self.poll()

    def poll(self) -> None:
        """Update `now`, and check for other upstreams. Called every second of the clock."""
        now = self._clock()
        self.now = int(now)
        if self.zones.poll(now):
            self.cache.flush()  # other upstreams may have other names and no failures
            self.on_change()

    def flush(self, name: bytes | None) -> None:
        """Remove a name in wire format and lower case, and all below it, from the cache; None: all names."""
        self.cache.flush(name)

    # -- answers -------------------------------------------------------------------------------------------

    def answer(self, query: Query, limit: int, encode: Callable[[bytes], bytes]) -> CacheableAnswer:
        """Return the answer to a query of class IN.

        Args:
            query: a query for a name outside the zones.
            limit: maximum size of the response in bytes.
            encode: returns the bytes to deliver for a response without its id.
        """
        special = special_use_answer(query, self.zones.is_configured)
        if special is not None:
            special.recursion_available = self.recursion_available
            return _once(encode(special.pack(limit)[_ID_SIZE:]), ZONE)
        zone = self.zones.find(query.name)
        if not zone.servers:
            return _once(encode(self._refused(query).pack(limit)[_ID_SIZE:]), REFUSED)
        # lower() leaves the length bytes unchanged: they are smaller than any letter.
        name = query.question[:-_TYPE_CLASS_SIZE].lower()
        question = Question(name, query.qtype, query.edns is not None and query.edns.do, query.cd)
        pending = PendingQuery(query, question, limit, encode, zone)
        entry = self.cache.get(question, self.now)
        if entry is not None:
            return self._answer_from(entry, pending)
        if self.zones.detect_loop(question, self._clock()):
            denial = Response(query, Rcode.NXDOMAIN, recursion_available=True)
            return _once(pending.finish(denial.pack(limit)), REFUSED)
        return _once(self._uncached_response(pending), PENDING)

    def _refused(self, query: Query) -> Response:
        """Return REFUSED, because the name is not forwarded (RFC 8914 §4.21)."""
        ede = Ede.NOT_AUTHORITATIVE
        return Response(query, Rcode.REFUSED, ede=ede, recursion_available=self.recursion_available)

    def _answer_from(self, entry: Entry, pending: PendingQuery) -> CacheableAnswer:
        """Return the answer from a fresh entry; the response cache keeps it until the entry is removed."""
        edns = pending.query.edns
        if edns is not None and edns.options:
            return _once(next(self._cached_responses(entry, pending)), FORWARD_CACHE)
        return CacheableAnswer(
            self._cached_responses(entry, pending),
            group_of_question(pending.question),
            HEADER_SIZE - _ID_SIZE + len(pending.query.question),
            size=_ANSWER_OVERHEAD + min(pending.limit, len(entry.reply.records)),
            is_rare=True,
            source=FORWARD_CACHE,
        )

    def _cached_responses(self, entry: Entry, pending: PendingQuery) -> Iterator[bytes]:
        """Yield responses forever: a new one each second while the entry is fresh, then uncached ones."""
        now = self.now
        while entry.is_fresh(now):
            if pending.query.rd and entry.start_prefetch_if_due(now):
                self.counters.prefetched += self._prefetch(pending)
            response = pending.finish(
                self._render(entry.reply, pending, now - entry.stored_at, entry.max_ttl)
            )
            while now == self.now:
                yield response
            now = self.now
            self.cache.get(pending.question, now)  # counts as a use, which delays eviction
        while True:
            yield self._uncached_response(pending)

    def _uncached_response(self, pending: PendingQuery) -> bytes:
        """Return the response if there is no fresh entry: a deferred one if it may be forwarded."""
        if not pending.query.rd:  # a query without recursion desired gets cached responses only
            self.sources.record(REFUSED)
            return pending.finish(self._refused(pending.query).pack(pending.limit))
        failure = self.cache.get_failure(pending.question, self.now)
        if failure is not None:
            return self._failure_response(pending, failure.errors, failure.text)
        current = self._pending.get(pending.question)
        if current is not None and current.is_late:
            stale = self.cache.get_stale(pending.question, self.now)
            if stale is not None:  # other clients have already waited for a fresh response
                return self._stale_response(stale, pending)
        if self._waiting >= self._max_waiting:
            self.counters.overloaded += 1
            text = f"{self._waiting} queries already wait for upstreams"
            return self._failure_response(pending, pack_ede(Ede.NO_REACHABLE_AUTHORITY, text), text)
        return DeferredResponse(partial(self._begin, pending))

    # -- resolution ----------------------------------------------------------------------------------------

    def _begin(self, pending: PendingQuery, deliver: Deliver) -> None:
        """Let a query wait for the outcome of its question."""
        self.counters.queries += 1
        self._waiting += 1
        question = pending.question
        current = self._pending.get(question)
        if current is None:
            current = self._resolve_later(pending)
        else:
            self.counters.joined += 1
        current.waiters.append((pending, deliver))
        if current.stale_timer is None and self.cache.get_stale(question, self.now) is not None:
            current.stale_timer = asyncio.get_running_loop().call_later(
                self._client_response_seconds, self._on_stale_timer, question, current
            )

    def _prefetch(self, pending: PendingQuery) -> bool:
        """Resolve a question before its cache entry expires; return False if it is being resolved already."""
        if pending.question in self._pending or self._waiting >= self._max_waiting:
            return False
        self._resolve_later(pending)
        return True

    def _resolve_later(self, pending: PendingQuery) -> PendingQuestion:
        """Resolve a question after the sockets have been served; the result has no waiters yet."""
        current = self._pending[pending.question] = PendingQuestion([])
        self._to_resolve.append(pending)
        self._defer(self._resolve_next)
        return current

    def _resolve_next(self) -> None:
        if self._to_resolve:  # empty after `stop`
            pending = self._to_resolve.popleft()
            pending.zone.resolver.resolve(pending.question, self._on_outcome)

    def _on_outcome(self, question: Question, outcome: Reply | Failure) -> None:
        """Deliver the outcome of a resolution to the waiting clients, and store it."""
        current = self._pending.pop(question)
        if current.stale_timer is not None:
            current.stale_timer.cancel()
        self._waiting -= len(current.waiters)
        if isinstance(outcome, Reply):
            self._deliver(current.waiters, outcome)
            self.cache.put(question, outcome, self.now)  # after the delivery, which does not need it
            return
        if outcome.kind not in _UNCACHED_FAILURES:
            self.cache.put_failure(question, self.now, errors=_errors_of(outcome), text=outcome.text)
        if outcome.kind is FailureKind.OVERLOADED:
            self.counters.overloaded += len(current.waiters)
        self._deliver(current.waiters, outcome)

    def _on_stale_timer(self, question: Question, current: PendingQuestion) -> None:
        """Deliver the stale response to the waiting clients; the resolution continues."""
        entry = self.cache.get_stale(question, self.now)
        if entry is None:  # flushed meanwhile
            return
        current.is_late = True
        waiters, current.waiters = current.waiters, []
        self._waiting -= len(waiters)
        self._deliver(waiters, entry)

    # -- delivery ------------------------------------------------------------------------------------------

    def _deliver(
        self, waiters: Iterable[tuple[PendingQuery, Deliver]], outcome: Reply | Failure | Entry
    ) -> None:
        """Deliver an outcome: to one client at once, to the others later, because there may be thousands."""
        is_delivering = bool(self._to_deliver)
        self._to_deliver.extend((pending, deliver, outcome) for pending, deliver in waiters)
        if self._to_deliver and not is_delivering:
            self._deliver_next()

    def _deliver_next(self) -> None:
        if self._to_deliver:  # empty after `stop`
            self._deliver_one()
        if self._to_deliver:
            self._defer(self._deliver_next)

    def _deliver_one(self) -> None:
        pending, deliver, outcome = self._to_deliver.popleft()
        try:
            deliver(self._response_from(outcome, pending))
        except Exception as error:  # noqa: BLE001 - an internal error must not affect other responses
            self._log_once.error(error)

    # -- responses -----------------------------------------------------------------------------------------

    def _response_from(self, outcome: Reply | Failure | Entry, pending: PendingQuery) -> bytes:
        """Return the response from a new reply, a failure or a stale entry."""
        if isinstance(outcome, Reply):
            self.sources.record(UPSTREAM)
            return pending.finish(self._render(outcome, pending, 0, self.cache.max_ttl_of(outcome)))
        if isinstance(outcome, Entry):
            return self._stale_response(outcome, pending)
        reply = outcome.reply
        if reply is not None and reply.rcode in _QUERY_ERRORS:
            self.sources.record(UPSTREAM)
            return pending.finish(reply.render(pending.query, pending.limit, 0))
        return self._failure_response(pending, _errors_of(outcome), outcome.text)

    def _render(self, reply: Reply, pending: PendingQuery, age: int, max_ttl: int) -> bytes:
        return reply.render(pending.query, pending.limit, age, max_ttl=max_ttl, trust_ad=self._trust_ad)

    def _failure_response(self, pending: PendingQuery, errors: bytes, text: str) -> bytes:
        """Return the stale response, or SERVFAIL with these extended errors."""
        entry = self.cache.get_stale(pending.question, self.now)
        if entry is not None:
            return self._stale_response(entry, pending, text)
        self.counters.failed += 1
        self.sources.record(UPSTREAM)
        failure = Response(pending.query, Rcode.SERVFAIL, recursion_available=True, errors=errors)
        return pending.finish(failure.pack(pending.limit))

    def _stale_response(self, entry: Entry, pending: PendingQuery, text: str = "") -> bytes:
        """Return the response from a stale entry (RFC 8767 §4)."""
        self.counters.stale += 1
        self.sources.record(STALE)
        return pending.finish(
            entry.reply.render(
                pending.query,
                pending.limit,
                0,
                min_ttl=STALE_TTL,
                max_ttl=STALE_TTL,
                ede=Ede.STALE_ANSWER,
                ede_text=text[:_MAX_TEXT],
                trust_ad=self._trust_ad,
            )
        )


def group_of_question(question: Question) -> Labels:
    """Return the group of cached responses to a question: like a service's key, but never equal to one."""
    return b"", question.name, question.qtype.to_bytes(2), bytes((question.do, question.cd))


def _errors_of(failure: Failure) -> bytes:
    """Return the extended errors of a failure: those of the upstream, which are more precise, or our own."""
    # Long ones may not fit next to the question, and are not worth caching.
    if failure.reply is not None and 0 < len(failure.reply.ede) < MIN_UDP_SIZE // 2:
        return failure.reply.ede
    return pack_ede(failure.ede, failure.text[:_MAX_TEXT])


def _once(response: bytes, source: str) -> CacheableAnswer:
    """Return an answer that the response cache must not keep."""
    return CacheableAnswer(itertools.repeat(response), source=source)
