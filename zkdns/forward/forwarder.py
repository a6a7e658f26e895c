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
           ├▶ own_names.py         the rest of the answer, if an alias leads into a zone of this server
           └▶ reply.py             the response: TTLs, size limit, EDNS
                ▼
         deliver(response)         transport/udp.py or tcp.py sends it

Equal questions are resolved once, however many queries wait. A waiting query does not delay others. Clients
and forward zones share the places of waiting queries (`waiting_places.py`).
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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
from zkdns.dns.forward_form import ForwardForm
from zkdns.dns.message import HEADER_SIZE, TYPE_CLASS, Query, Rcode, Response
from zkdns.dns.responder import CacheableAnswer, EncodeResponse
from zkdns.forward.cache import Cache, Entry
from zkdns.forward.forward_zones import ForwardZones
from zkdns.forward.loop_detection import DEFAULT_DOMAIN
from zkdns.forward.message import Question
from zkdns.forward.own_names import OwnNames, labels_of
from zkdns.forward.pending import ID_SIZE, PendingQuery, PendingQuestion, Waiter
from zkdns.forward.rebinding import RebindProtection
from zkdns.forward.reply import MAX_TTL, Reply
from zkdns.forward.resolution import STOPPED, Failure, FailureKind, OnOutcome
from zkdns.forward.resolver import Resolver
from zkdns.forward.special_use import SPECIAL_USE_DOMAINS, special_use_answer
from zkdns.forward.system_upstreams import FILES
from zkdns.forward.udp_client import affordable_sockets
from zkdns.forward.upstreams import UDP_TIMES, UdpTimes
from zkdns.forward.waiting_places import TurnQueue, WaitingPlaces, client_key
from zkdns.names import Labels, parse_name, to_text
from zkdns.transport.contract import DeferredResponse, Deliver, deferred
from zkdns.transport.event_loop import Defer, deferrer
from zkdns.transport.log_once import LogOnce

log = structlog.get_logger("zkdns.forward")

MAX_WAITING: Final = 4_000
"""Maximum number of clients' queries that wait for upstreams in each worker.

The same number of questions may be resolved for which no query waits: prefetched ones, and those whose
queries have received a stale response. Beyond it, the oldest one is cancelled.
"""
STALE_TTL: Final = 30  # RFC 8767 §4
CLIENT_RESPONSE_SECONDS: Final = 1.8
"""How long a client waits for a fresh response if there is a stale one: the timer of RFC 8767 §5."""

# This number of questions may be resolved at once in this time. More of them wait for the turn of their
# client, and other work is done between them.
_MAX_BURST = 8
_BURST_SECONDS = 0.001

_IPV4 = 4  # bytes
_NO_CLIENT = b""  # of a prefetched question
_ROOT = b"\0"
_TYPE_CLASS_SIZE = TYPE_CLASS.size
_ANSWER_OVERHEAD = 700  # bytes of a cached answer in addition to its response (measured)
# Maximum length of error texts; fits into the smallest message with the longest question (RFC 8914 §2).
_MAX_TEXT = 200
_UNCACHED_FAILURES = frozenset({FailureKind.OVERLOADED, FailureKind.STOPPED})


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
    """Queries that gave way to others, because too many were waiting, or without a file descriptor."""
    prefetched: int = 0
    """Questions that were sent again before their cache entry expired."""
    filtered: int = 0
    """Replies of upstreams from which private addresses were removed."""


class Forwarder:
    """Answers queries for names outside the zones, in the running event loop.

    Attributes:
        cache: the forward cache.
        counters: the counters.
        zones: the forward zones.
        now: the current second of the clock.
        sources: counts responses by source, if the source is not known when `answer` returns.
        own_names: the names in the zones of this server; None: aliases are not followed there.
        on_change: called after the upstreams have changed.

    Args:
        config: the upstreams and limits.
        listening: addresses of this server, as bound.
        secret: 16 random bytes, the same in all workers.
        clock: returns seconds that never decrease.
        max_waiting: maximum number of queries that wait for upstreams; beyond it, a query of the greediest
            client gets SERVFAIL.
        client_response_seconds: how long a query waits for a fresh response if there is a stale one.
        system_files: the files for `forward.upstreams = "auto"`, in order of precedence.
        udp_times: limits of the time-out of a query to an upstream.
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
        udp_times: UdpTimes = UDP_TIMES,
    ) -> None:
        self.cache = Cache(
            max_entries=config.cache.entries,
            max_ttl=config.cache.max_ttl,
            stale_seconds=config.cache.stale,
        )
        self.counters = ForwardCounters()
        self.sources = AnswerSources()
        self.own_names: OwnNames | None = None
        self.now = int(clock())
        self.on_change: Callable[[], None] = lambda: None
        resolvers = len(config.forward.zones) + 1
        max_sockets = max(1, affordable_sockets(2 * max_waiting) // resolvers)

        def make_resolver(servers: Iterable[UpstreamAddress]) -> Resolver:
            return Resolver(
                servers, max_in_flight=2 * max_waiting + 1, max_sockets=max_sockets, udp_times=udp_times
            )

        self.zones = ForwardZones(config, listening, secret, make_resolver, system_files=system_files)
        self._trust_ad = config.forward.trust_ad
        self._rebind_protection: RebindProtection | None = None
        if config.forward.rebind_protection:
            self._rebind_protection = RebindProtection(map(parse_name, config.forward.rebind_exempt))
        self._logged_filter_at = -1
        self._max_waiting = max_waiting
        self._client_response_seconds = client_response_seconds
        self._clock = clock
        self._pending: dict[Question, PendingQuestion] = {}
        self._defer: Defer
        self._to_resolve: TurnQueue[tuple[Question, PendingQuestion]] = TurnQueue()
        self._places: WaitingPlaces[Waiter] = WaitingPlaces(max_waiting)
        self._report: OnOutcome = self._on_outcome  # one bound method for all questions
        self._burst_until = 0.0
        self._burst_left = 0
        self._unawaited: dict[PendingQuestion, Question] = {}  # no query waits for them; the oldest first
        self._to_deliver: deque[tuple[Waiter, Reply | Entry]] = deque()
        # Apart from replies, so that thousands of failures do not delay them.
        self._to_fail: deque[tuple[Waiter, Failure]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._log_once = LogOnce(log, "forwarded_response_failed")

    @property
    def waiting(self) -> int:
        """Number of queries that wait for upstreams."""
        return len(self._places)

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
            question, _ = self._to_resolve.pop()
            self._on_outcome(question, STOPPED)
        while self._to_deliver:
            self._deliver_one(*self._to_deliver.popleft())
        while self._to_fail:
            self._deliver_one(*self._to_fail.popleft())

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

    @property
    def domains(self) -> Iterator[Labels]:
        """The domains whose names are not all resolved by the upstreams of all names."""
        yield from SPECIAL_USE_DOMAINS
        yield DEFAULT_DOMAIN  # of the loop probes
        for zone in self.zones.all:
            if zone.labels:
                yield zone.labels

    def defer(self, form: ForwardForm, name: bytes, lower: bytes) -> DeferredResponse | None:
        """Return the deferred response to a query of this form; None: use `answer`.

        Args:
            form: the query without its name.
            name: a name in none of `domains`, in wire format without the root label.
            lower: the same in lower case.
        """
        zone = self.zones.default
        question = Question(lower + _ROOT, form.query.qtype, form.do, form.query.cd)
        if not zone.servers or question in self.cache:
            return None
        current = self._pending.get(question)
        if current is not None and current.is_late:
            return None
        pending = PendingQuery(
            form.query_for(name), question, form.limit, form.encode, zone, may_be_stale=False, form=form
        )
        return deferred(partial(self._begin, pending))

    def answer(self, query: Query, limit: int, encode: EncodeResponse) -> CacheableAnswer:
        """Return the answer to a query of class IN.

        Args:
            query: a query for a name outside the zones.
            limit: maximum size of the response in bytes.
            encode: makes a response after its id ready to send.
        """
        special = special_use_answer(query, self.zones.is_configured)
        if special is not None:
            special.recursion_available = self.recursion_available
            return _once(encode(special.pack(limit)[ID_SIZE:], len(query.question)), ZONE)
        zone = self.zones.find(query.name)
        if not zone.servers:
            return _once(encode(self._refused(query).pack(limit)[ID_SIZE:], len(query.question)), REFUSED)
        # lower() leaves the length bytes unchanged: they are smaller than any letter.
        name = query.question[:-_TYPE_CLASS_SIZE].lower()
        question = Question(name, query.qtype, query.edns is not None and query.edns.do, query.cd)
        # Only zones need the labels, and thousands of queries may wait.
        pending = PendingQuery(msgspec.structs.replace(query, name=()), question, limit, encode, zone)
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
        if entry.reply.is_alias_of_ours:  # it depends on the table too
            return CacheableAnswer(self._cached_responses(entry, pending), source=FORWARD_CACHE)
        return CacheableAnswer(
            self._cached_responses(entry, pending),
            group_of_question(pending.question),
            HEADER_SIZE - ID_SIZE + len(pending.query.question),
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
            response = self._render(entry.reply, pending, now - entry.stored_at, entry.max_ttl)
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
        if failure is not None and not failure.has_recovered(pending.zone.resolver.upstreams.recoveries):
            if failure.partial is not None:
                return self._partial_response(failure.partial, pending, failure.age(self.now))
            return self._failure_response(pending, failure.errors, failure.text)
        current = self._pending.get(pending.question)
        if current is not None and current.is_late:
            stale = self.cache.get_stale(pending.question, self.now)
            if stale is not None:  # other clients have already waited for a fresh response
                return self._stale_response(stale, pending)
        return deferred(partial(self._begin, pending))

    # -- resolution ----------------------------------------------------------------------------------------

    def _begin(self, pending: PendingQuery, deliver: Deliver, client: bytes) -> None:
        """Let a query of a client wait for the outcome of its question."""
        self.counters.queries += 1
        question, waiter = pending.question, Waiter(pending, deliver)
        if len(client) != _IPV4:
            client = client_key(client)
        current = self._pending.get(question)
        is_new = current is None
        if current is None:
            current = self._pending[question] = PendingQuestion(pending.zone, client)
        else:
            self.counters.joined += 1
            self._unawaited.pop(current, None)
        current.waiters[waiter] = None
        loser = self._places.add(waiter, client, pending.zone.domain)
        if loser is not None:
            self._give_way(loser)
        if not current.waiters:  # it was the loser
            return
        if is_new:
            self._resolve_soon(question, current)
        if (
            pending.may_be_stale
            and current.stale_timer is None
            and self.cache.get_stale(question, self.now) is not None
        ):
            current.stale_timer = asyncio.get_running_loop().call_later(
                self._client_response_seconds, self._on_stale_timer, question, current
            )

    def _prefetch(self, pending: PendingQuery) -> bool:
        """Resolve a question before its cache entry expires; return False if it is being resolved already."""
        if pending.question in self._pending or len(self._places) >= self._max_waiting:
            return False
        current = self._pending[pending.question] = PendingQuestion(pending.zone, _NO_CLIENT)
        self._resolve_later(pending.question, current)
        self._add_unawaited(pending.question, current)
        return True

    def _add_unawaited(self, question: Question, current: PendingQuestion) -> None:
        """Note a question without waiting queries, and cancel the oldest one if there are too many."""
        self._unawaited[current] = question
        if len(self._unawaited) > self._max_waiting:
            oldest = next(iter(self._unawaited))
            self._cancel(self._unawaited[oldest], oldest)

    def _give_way(self, loser: Waiter) -> None:
        """Let a query that has lost its place fail, and end its resolution if no other query waits for it."""
        self.counters.overloaded += 1
        question = loser.pending.question
        current = self._pending[question]
        del current.waiters[loser]
        if not current.waiters:
            self._cancel(question, current)
        text = f"{self._max_waiting} queries wait for upstreams, the most of them from this client"
        failure = Failure(FailureKind.OVERLOADED, text, Ede.NO_REACHABLE_AUTHORITY)
        self._deliver_failure((loser,), failure)
        if len(self._to_fail) > self._max_waiting:  # reading more queries has to wait for the deliveries
            self._deliver_one(*self._to_fail.popleft())

    def _cancel(self, question: Question, current: PendingQuestion) -> None:
        """End a resolution without an outcome."""
        del self._pending[question]
        self._to_resolve.remove(current.client, (question, current))
        self._unawaited.pop(current, None)
        if current.stale_timer is not None:
            current.stale_timer.cancel()
        if current.resolution is not None:
            current.zone.resolver.cancel(current.resolution)

    def _resolve_soon(self, question: Question, current: PendingQuestion) -> None:
        """Resolve a question at once, or when it is the turn of its client if there are many questions."""
        now = self._clock()
        if now >= self._burst_until:
            self._burst_until = now + _BURST_SECONDS
            self._burst_left = 0 if self._to_resolve else _MAX_BURST
        if self._burst_left:
            self._burst_left -= 1
            current.resolution = current.zone.resolver.resolve(question, self._report)
        else:
            self._resolve_later(question, current)

    def _resolve_later(self, question: Question, current: PendingQuestion) -> None:
        """Resolve a question when it is the turn of its client."""
        if not self._to_resolve:
            self._defer(self._resolve_next)
            self._burst_left = 0  # later questions must wait too
        self._to_resolve.add(current.client, (question, current))

    def _resolve_next(self) -> None:
        if self._to_resolve:  # empty if all were cancelled, and after `stop`
            question, current = self._to_resolve.pop()
            current.resolution = current.zone.resolver.resolve(question, self._report)
        if self._to_resolve:
            self._defer(self._resolve_next)

    def _on_outcome(self, question: Question, outcome: Reply | Failure) -> None:
        """Deliver the outcome of a resolution to the waiting clients, and store it."""
        current = self._pending.pop(question, None)
        if current is None:  # it was cancelled just before
            return
        self._unawaited.pop(current, None)
        if current.stale_timer is not None:
            current.stale_timer.cancel()
        for waiter in current.waiters:
            self._places.remove(waiter)
        if self._rebind_protection is not None and current.zone.domain is None:
            outcome = self._without_private_addresses(self._rebind_protection, question, outcome)
        if not isinstance(outcome, Reply) or outcome.aliases:
            outcome = self._cut_at_own_name(question, outcome)
        if isinstance(outcome, Reply):
            self._deliver(current.waiters, outcome)
            self.cache.put(question, outcome, self.now)  # after the delivery, which does not need it
            return
        if outcome.kind not in _UNCACHED_FAILURES:
            self.cache.put_failure(
                question,
                self.now,
                errors=_errors_of(outcome),
                text=outcome.text,
                partial=_partial_answer_of(outcome),
                recoveries=outcome.recoveries,
            )
        if outcome.kind is FailureKind.OVERLOADED:
            self.counters.overloaded += len(current.waiters)
        self._deliver_failure(current.waiters, outcome)

    def _without_private_addresses(
        self, protection: RebindProtection, question: Question, outcome: Reply | Failure
    ) -> Reply | Failure:
        """Return an outcome without private addresses, unless the name is exempt."""
        reply = outcome if isinstance(outcome, Reply) else outcome.reply
        name = labels_of(question.name)
        if reply is None or not reply.records or protection.is_exempt(name):
            return outcome
        filtered, address = protection.filter(reply, question)
        if address is None:
            return outcome
        self.counters.filtered += 1
        if self.now != self._logged_filter_at:  # once per second
            self._logged_filter_at = self.now
            log.warning("private_address_removed", name=to_text(name), address=address)
        return filtered if outcome is reply else msgspec.structs.replace(outcome, reply=filtered)

    def _cut_at_own_name(self, question: Question, outcome: Reply | Failure) -> Reply | Failure:
        """Return only the aliases of an outcome if they lead into a zone of this server.

        Whether the upstream has an answer for a name there is not important, even if it failed because of it.
        """
        reply = outcome if isinstance(outcome, Reply) else outcome.reply
        if reply is None or not reply.aliases or self.own_names is None:
            return outcome
        return self.own_names.cut(reply, question) or outcome

    def _on_stale_timer(self, question: Question, current: PendingQuestion) -> None:
        """Deliver the stale response to the waiting clients; the resolution continues."""
        entry = self.cache.get_stale(question, self.now)
        if entry is None:  # flushed meanwhile
            return
        current.is_late = True
        waiters, current.waiters = current.waiters, {}
        for waiter in waiters:
            self._places.remove(waiter)
        self._deliver(waiters, entry)
        self._add_unawaited(question, current)

    # -- delivery ------------------------------------------------------------------------------------------

    def _deliver(self, waiters: Collection[Waiter], outcome: Reply | Entry) -> None:
        """Deliver a reply: to one client at once, to the others later, because there may be thousands."""
        if len(waiters) == 1 and not self._to_deliver:
            for waiter in waiters:
                self._deliver_one(waiter, outcome)
            return
        is_delivering = bool(self._to_deliver)
        self._to_deliver.extend((waiter, outcome) for waiter in waiters)
        if self._to_deliver and not is_delivering:
            self._deliver_next()

    def _deliver_failure(self, waiters: Iterable[Waiter], failure: Failure) -> None:
        """Deliver a failure later: it is not urgent, and a transport may be in a delivery now."""
        is_failing = bool(self._to_fail)
        self._to_fail.extend((waiter, failure) for waiter in waiters)
        if self._to_fail and not is_failing:
            self._defer(self._fail_next)

    def _fail_next(self) -> None:
        if self._to_fail:  # empty after `stop`
            self._deliver_one(*self._to_fail.popleft())
        if self._to_fail:
            self._defer(self._fail_next)

    def _deliver_next(self) -> None:
        if self._to_deliver:  # empty after `stop`
            self._deliver_one(*self._to_deliver.popleft())
        if self._to_deliver:
            self._defer(self._deliver_next)

    def _deliver_one(self, waiter: Waiter, outcome: Reply | Failure | Entry) -> None:
        try:
            render = partial(self._response_from, outcome, waiter.pending, self.now)
            waiter.deliver(render, outcome.size if isinstance(outcome, Reply) else _size_of(outcome))
        except Exception as error:  # noqa: BLE001 - an internal error must not affect other responses
            self._log_once.error(error)

    # -- responses -----------------------------------------------------------------------------------------

    def _response_from(
        self, outcome: Reply | Failure | Entry, pending: PendingQuery, received_at: int
    ) -> bytes:
        """Return the response from a reply, a failure or a stale entry; `received_at` as `now`."""
        if isinstance(outcome, Reply):
            self.sources.record(UPSTREAM)
            age = self.now - received_at  # over TCP, a slow client gets its response later
            max_ttl, form = self.cache.max_ttl_of(outcome), pending.form
            if form is None or not outcome.kind or age or outcome.longest_ttl > max_ttl:
                return self._render(outcome, pending, age, max_ttl)
            response = form.respond(outcome.kind, outcome.records)
            if response is None:
                response = self._render(outcome, pending, age, max_ttl)
                form.learn(outcome.kind, response, outcome.records, pending.query.question)
            return response
        if isinstance(outcome, Entry):
            return self._stale_response(outcome, pending)
        partial = _partial_answer_of(outcome)
        if partial is not None:
            return self._partial_response(partial, pending, self.now - received_at)
        return self._failure_response(pending, _errors_of(outcome), outcome.text)

    def _render(
        self,
        reply: Reply,
        pending: PendingQuery,
        age: int,
        max_ttl: int,
        *,
        min_ttl: int = 0,
        ede: Ede | None = None,
        ede_text: str = "",
    ) -> bytes:
        """Return the bytes to deliver for a reply; the arguments are those of `Reply.render`."""
        if reply.is_alias_of_ours and self.own_names is not None:
            reply = self.own_names.complete(reply.at_age(age, min_ttl, max_ttl), pending.query, pending.limit)
            age, min_ttl, max_ttl = 0, 0, MAX_TTL
        query = pending.query
        message = reply.render(
            query,
            pending.limit,
            age,
            min_ttl=min_ttl,
            max_ttl=max_ttl,
            ede=ede,
            ede_text=ede_text,
            trust_ad=self._trust_ad,
        )
        return pending.encode(message[ID_SIZE:], len(query.question))

    def _partial_response(self, partial: Reply, pending: PendingQuery, age: int) -> bytes:
        """Return the part of an answer that the upstream could send, with TC (RFC 2181 §9)."""
        self.sources.record(UPSTREAM)
        return self._render(partial, pending, age, MAX_TTL)

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
        return self._render(
            entry.reply,
            pending,
            0,
            STALE_TTL,
            min_ttl=STALE_TTL,
            ede=Ede.STALE_ANSWER,
            ede_text=text[:_MAX_TEXT],
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


def _partial_answer_of(failure: Failure) -> Reply | None:
    """Return the part of an answer that an upstream sent, if it could not be completed over TCP."""
    reply = failure.reply
    return reply if reply is not None and reply.is_partial_answer else None


def _size_of(outcome: Reply | Failure | Entry) -> int:
    """Return the bytes that an outcome keeps in memory; failures are short, except for partial answers."""
    reply = outcome if isinstance(outcome, Reply) else outcome.reply
    return reply.size if reply is not None else 0


def _once(response: bytes, source: str) -> CacheableAnswer:
    """Return an answer that the response cache must not keep."""
    return CacheableAnswer(itertools.repeat(response), source=source)
