"""Answers for all names that are none of ours: from the cache, or of upstreams when they have answered.

    query ──▶ special names ──▶ cache ──▶ fresh: an answer, right for the second in which its TTL is
                                  │
                                  └─ else: later ──▶ Exchanges ──▶ reply: kept, and handed to all who wait
                                                              └──▶ failure: what is stale, or SERVFAIL

Equal questions are asked once, whoever waits for them. Whoever waits holds up nobody: neither the names of
our zones, nor other questions.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

import msgspec
import structlog

from zkdns.address import HostPort, UpstreamAddress
from zkdns.config import Config
from zkdns.dns.answer_source import FORWARD_CACHE, PENDING, REFUSED, STALE, UPSTREAM, ZONE, AnswerSources
from zkdns.dns.edns import MIN_UDP_SIZE, Ede, pack_ede
from zkdns.dns.message import HEADER_SIZE, Query, Rcode, Response
from zkdns.dns.responder import CacheableAnswer
from zkdns.forward.cache import Cache, Entry
from zkdns.forward.forward_zones import ForwardZone, ForwardZones
from zkdns.forward.question import Question
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import STOPPED, Failure, Kind
from zkdns.forward.resolver import Resolver
from zkdns.forward.special_use import special_use_answer
from zkdns.forward.udp_client import affordable_sockets
from zkdns.names import Labels
from zkdns.transport import DeferredResponse, Deliver
from zkdns.transport.event_loop import Defer, deferrer
from zkdns.transport.log_once import LogOnce

log = structlog.get_logger("zkdns.forward")

MAX_WAITING: Final = 4_000
"""Maximum number of queries that wait for upstreams, in each worker; each of them may need a socket."""
STALE_TTL: Final = 30  # RFC 8767 §4
STALE_SECONDS: Final = 1.8
"""So long an asker waits for what is fresh, where something stale is there (RFC 8767 §5)."""

_ID = 2
_TYPE_AND_CLASS = 4
_GENERATOR = 700  # bytes that an answer takes beside its response (measured)
# Letters of what people are told: with the longest question it fits into the least message (RFC 8914 §2).
_MOST_TEXT = 200
_NOT_REMEMBERED = frozenset({Kind.OVERLOADED, Kind.STOPPED})
# What is not about the upstreams but about the query, and so is passed on as it is.
_ABOUT_QUERY = frozenset({Rcode.FORMERR, Rcode.NOTIMP})


class _Asked(msgspec.Struct, frozen=True, gc=False):
    """A query, and what its responses must be like."""

    query: Query
    question: Question
    limit: int
    wrap: Callable[[bytes], bytes]
    route: ForwardZone

    def wrapped(self, message: bytes) -> bytes:
        """A whole message, ready to be handed out."""
        return self.wrap(message[_ID:])


class _Sought(msgspec.Struct, gc=False):
    """A question on its way to upstreams.

    Attributes:
        askers: who waits for the answer, and how each is handed it.
        patience: ends their waiting, where something stale is there; None: there was nobody, or nothing.
        is_late: whether that has happened.
    """

    askers: list[tuple[_Asked, Deliver]]
    patience: asyncio.TimerHandle | None = None
    is_late: bool = False


class Counts(msgspec.Struct):
    """What was counted so far."""

    asked: int = 0
    """Queries that were not answered from the cache at once."""
    joined: int = 0
    """Of those, that waited for a question that was on its way already."""
    failed: int = 0
    """Queries that were answered with SERVFAIL."""
    stale: int = 0
    """Queries that were answered with what has expired."""
    overloaded: int = 0
    """Queries for which nobody was asked, since too many others waited, or no file was left."""
    prefetched: int = 0
    """Questions asked anew before anybody had to wait for them."""


class Forwarder:
    """Answers what is forwarded, in the running event loop.

    Attributes:
        cache: what upstreams have said.
        counts: what was counted.
        routes: who is asked.
        second: the present one, on a clock that never goes back.
        sources: is told what answers are made from, where `Answer.source` does not tell.

    Args:
        config: upstreams, limits, and what is done with answers.
        listening: where this server answers, as bound.
        secret: 16 random bytes, the same in all its workers.
        clock: tells seconds, and never goes back.
        max_waiting: maximum number of queries that wait for upstreams; further ones get SERVFAIL.
    """

    def __init__(
        self,
        config: Config,
        listening: Sequence[HostPort],
        secret: bytes,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.cache = Cache(
            most_entries=config.cache.entries,
            most_ttl=config.cache.max_ttl,
            stale_seconds=config.cache.stale,
        )
        self.counts = Counts()
        self.sources = AnswerSources()
        self.second = int(clock())
        self.on_change: Callable[[], None] = lambda: None
        """Called when others are asked than before."""
        groups = len(config.forward.zones) + 1
        sockets = max(1, affordable_sockets(2 * max_waiting) // groups)

        def make(servers: Iterable[UpstreamAddress]) -> Resolver:
            return Resolver(servers, most_in_flight=max_waiting, most_sockets=sockets)

        self.routes = ForwardZones(config, listening, secret, make)
        self._config = config
        self._max_waiting = max_waiting
        self._clock = clock
        self._sought: dict[Question, _Sought] = {}
        self._put_off: Defer
        self._to_ask: deque[_Asked] = deque()
        self._awaited = 0
        self._ready: deque[tuple[_Asked, Deliver, Callable[[_Asked], bytes]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._mistakes = LogOnce(log, "forwarded_response_failed")

    @property
    def waiting(self) -> int:
        """Queries that wait for an answer."""
        return self._awaited

    @property
    def connections(self) -> int:
        """How many there were to upstreams over TCP and TLS so far."""
        return sum(route.exchanges.connections for route in self.routes.all)

    @property
    def is_asking(self) -> bool:
        """Whether there is anybody to ask."""
        return self.routes.are_any

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._put_off = deferrer()
        self.routes.start()
        self._tick()

    def stop(self) -> None:
        """End; whoever waits is told that there is no answer."""
        if self._timer is not None:
            self._timer.cancel()
        self.routes.stop()
        while self._to_ask:
            self._done(self._to_ask.popleft().question, STOPPED)
        while self._ready:
            self._hand_out_one()

    def _tick(self) -> None:
        now = self._clock()
        self.second = int(now)
        self._timer = asyncio.get_running_loop().call_later(self.second + 1 - now, self._tick)
        if self.routes.tend(now):
            self.cache.flush()  # others may know other names, and what failed need not fail there
            self.on_change()

    def flush(self, name: bytes | None) -> None:
        """Forget what is cached of a name (in wire form and lower case) and of those below it; None: all."""
        self.cache.flush(name)

    # -- answering -----------------------------------------------------------------------------------------

    def answer(self, query: Query, limit: int, wrap: Callable[[bytes], bytes]) -> CacheableAnswer:
        """The answer to a query of class IN.

        Args:
            query: for a name outside our zones.
            limit: bytes of the longest message.
            wrap: makes of a response after its id what is handed out.
        """
        special = special_use_answer(query, self.routes.is_configured)
        if special is not None:
            special.recursion_available = self.is_asking
            return _once(wrap(special.pack(limit)[_ID:]), ZONE)
        route = self.routes.find(query.name)
        if not route.servers:
            return _once(wrap(self._refusal(query).pack(limit)[_ID:]), REFUSED)
        # Lengths of labels are below the letters, so that lower() changes none of them.
        name = query.question[:-_TYPE_AND_CLASS].lower()
        question = Question(name, query.qtype, query.edns is not None and query.edns.do, query.cd)
        asked = _Asked(query, question, limit, wrap, route)
        entry = self.cache.get(question, self.second)
        if entry is not None:
            return self._from(entry, asked)
        if self.routes.has_returned(question, self._clock()):
            denial = Response(query, Rcode.NXDOMAIN, recursion_available=True)
            return _once(asked.wrapped(denial.pack(limit)), REFUSED)
        return _once(self._unknown(asked), PENDING)

    def _refusal(self, query: Query) -> Response:
        """REFUSED, since nobody else is asked for this (RFC 8914 §4.21)."""
        ede = Ede.NOT_AUTHORITATIVE
        return Response(query, Rcode.REFUSED, ede=ede, recursion_available=self.is_asking)

    def _from(self, entry: Entry, asked: _Asked) -> CacheableAnswer:
        """The answer that is cached; where it may be remembered, until it is not in the cache any more."""
        edns = asked.query.edns
        if edns is not None and edns.options:
            return _once(next(self._aging(entry, asked)), FORWARD_CACHE)
        return CacheableAnswer(
            self._aging(entry, asked),
            group_of_question(asked.question),
            HEADER_SIZE - _ID + len(asked.query.question),
            size=_GENERATOR + min(asked.limit, len(entry.reply.records)),
            is_rare=True,
            source=FORWARD_CACHE,
        )

    def _aging(self, entry: Entry, asked: _Asked) -> Iterator[bytes]:
        """Its responses for ever: the same while a second lasts, as long as it is fresh."""
        second = self.second
        while entry.is_fresh(second):
            if asked.query.rd and entry.wants_prefetch(second):
                self.counts.prefetched += self._refresh(asked)
            response = asked.wrapped(self._render(entry.reply, asked, second - entry.stored, entry.most_ttl))
            while second == self.second:
                yield response
            second = self.second
            self.cache.get(asked.question, second)  # lest it gives way to what is asked for less often
        while True:
            yield self._unknown(asked)

    def _unknown(self, asked: _Asked) -> bytes:
        """The response to what is not in the cache, or not fresh: later, where it can be asked for."""
        if not asked.query.rd:  # who asks for no recursion is told what is known, and nobody else is asked
            self.sources.note(REFUSED)
            return asked.wrapped(self._refusal(asked.query).pack(asked.limit))
        failure = self.cache.failure(asked.question, self.second)
        if failure is not None:
            return self._without(asked, failure.errors, failure.text)
        sought = self._sought.get(asked.question)
        if sought is not None and sought.is_late:
            stale = self.cache.get_stale(asked.question, self.second)
            if stale is not None:  # and for its successor others have waited in vain
                return self._stale(stale, asked)
        if self._awaited >= self._max_waiting:
            self.counts.overloaded += 1
            text = f"{self._awaited} queries wait for upstreams already"
            return self._without(asked, pack_ede(Ede.NO_REACHABLE_AUTHORITY, text), text)
        return DeferredResponse(partial(self._begin, asked))

    # -- asking --------------------------------------------------------------------------------------------

    def _begin(self, asked: _Asked, deliver: Deliver) -> None:
        """Let an asker wait."""
        self.counts.asked += 1
        self._awaited += 1
        question = asked.question
        sought = self._sought.get(question)
        if sought is None:
            sought = self._seek(asked)
        else:
            self.counts.joined += 1
        sought.askers.append((asked, deliver))
        if sought.patience is None and self.cache.get_stale(question, self.second) is not None:
            loop = asyncio.get_running_loop()
            sought.patience = loop.call_later(STALE_SECONDS, self._lose_patience, question, sought)

    def _refresh(self, asked: _Asked) -> bool:
        """Ask for what is cached before it expires; whether that was not on its way already."""
        if asked.question in self._sought or self._awaited >= self._max_waiting:
            return False
        self._seek(asked)
        return True

    def _seek(self, asked: _Asked) -> _Sought:
        """Ask upstreams, soon; nobody waits yet."""
        sought = self._sought[asked.question] = _Sought([])
        self._to_ask.append(asked)
        self._put_off(self._ask_one)
        return sought

    def _ask_one(self) -> None:
        if self._to_ask:  # or this has been stopped meanwhile
            asked = self._to_ask.popleft()
            asked.route.exchanges.ask(asked.question, partial(self._done, asked.question))

    def _done(self, question: Question, outcome: Reply | Failure) -> None:
        sought = self._sought.pop(question)
        if sought.patience is not None:
            sought.patience.cancel()
        self._awaited -= len(sought.askers)
        if isinstance(outcome, Reply):
            self._hand(sought.askers, partial(self._replied, outcome, self.cache.max_ttl(outcome)))
            # Who waits has waited long enough, and does not need what only those do who will ask later.
            self.cache.put(question, outcome, self.second)
            return
        if outcome.kind not in _NOT_REMEMBERED:
            self.cache.put_failure(question, self.second, errors=_errors_of(outcome), text=outcome.text)
        if outcome.kind is Kind.OVERLOADED:
            self.counts.overloaded += len(sought.askers)
        self._hand(sought.askers, partial(self._after, outcome))

    def _lose_patience(self, question: Question, sought: _Sought) -> None:
        """Answer those who wait with what is stale; the question stays on its way."""
        entry = self.cache.get_stale(question, self.second)
        if entry is None:  # it was flushed meanwhile
            return
        sought.is_late = True
        askers, sought.askers = sought.askers, []
        self._awaited -= len(askers)
        self._hand(askers, partial(self._stale, entry))

    # -- handing out ---------------------------------------------------------------------------------------

    def _hand(self, askers: Iterable[tuple[_Asked, Deliver]], response: Callable[[_Asked], bytes]) -> None:
        """Hand their responses to these askers: to one at once, as thousands may have asked for the same."""
        is_at_it = bool(self._ready)
        self._ready.extend((asked, deliver, response) for asked, deliver in askers)
        if self._ready and not is_at_it:
            self._hand_out()

    def _hand_out(self) -> None:
        if self._ready:  # or this has been stopped meanwhile
            self._hand_out_one()
        if self._ready:
            self._put_off(self._hand_out)

    def _hand_out_one(self) -> None:
        """Make a response and hand it out."""
        asked, deliver, response = self._ready.popleft()
        try:
            deliver(response(asked))
        except Exception as error:  # noqa: BLE001 - a mistake of ours costs one response
            self._mistakes.tell(error)

    def _render(self, reply: Reply, asked: _Asked, seconds: int, most: int) -> bytes:
        trust_ad = self._config.forward.trust_ad
        return reply.render(asked.query, asked.limit, seconds, most_ttl=most, trust_ad=trust_ad)

    def _replied(self, reply: Reply, most: int, asked: _Asked) -> bytes:
        """The response with what an upstream has just said."""
        self.sources.note(UPSTREAM)
        return asked.wrapped(self._render(reply, asked, 0, most))

    def _after(self, failure: Failure, asked: _Asked) -> bytes:
        """The response when nobody could answer."""
        reply = failure.reply
        if reply is not None and reply.rcode in _ABOUT_QUERY:
            self.sources.note(UPSTREAM)
            return asked.wrapped(reply.render(asked.query, asked.limit, 0))
        return self._without(asked, _errors_of(failure), failure.text)

    def _without(self, asked: _Asked, errors: bytes, text: str) -> bytes:
        """The response without an answer of upstreams: the last good one, or SERVFAIL with these errors."""
        entry = self.cache.get_stale(asked.question, self.second)
        if entry is not None:
            return self._stale(entry, asked, text)
        self.counts.failed += 1
        self.sources.note(UPSTREAM)
        failure = Response(asked.query, Rcode.SERVFAIL, recursion_available=True, errors=errors)
        return asked.wrapped(failure.pack(asked.limit))

    def _stale(self, entry: Entry, asked: _Asked, text: str = "") -> bytes:
        """The response with what has expired (RFC 8767 §4)."""
        self.counts.stale += 1
        self.sources.note(STALE)
        return asked.wrapped(
            entry.reply.render(
                asked.query,
                asked.limit,
                0,
                least_ttl=STALE_TTL,
                most_ttl=STALE_TTL,
                ede=Ede.STALE_ANSWER,
                ede_text=text[:_MOST_TEXT],
                trust_ad=self._config.forward.trust_ad,
            )
        )


def group_of_question(question: Question) -> Labels:
    """What answers to a question are remembered under: like a service's key, and never one."""
    return b"", question.name, question.qtype.to_bytes(2), bytes((question.do, question.cd))


def _errors_of(failure: Failure) -> bytes:
    """The extended errors of a failure: those of the upstream, which knows more, or else our own."""
    # What is long may not fit beside the question, and is not worth remembering.
    if failure.reply is not None and 0 < len(failure.reply.ede) < MIN_UDP_SIZE // 2:
        return failure.reply.ede
    return pack_ede(failure.ede, failure.text[:_MOST_TEXT])


def _once(response: bytes, source: str) -> CacheableAnswer:
    return CacheableAnswer(itertools.repeat(response), source=source)
