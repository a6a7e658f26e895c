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
from zkdns.dns.responder import Answer
from zkdns.dns.wire import HEADER_SIZE, Ede, Query, Rcode, Response
from zkdns.forward.cache import Cache, Entry
from zkdns.forward.datagrams import affordable_sockets
from zkdns.forward.exchange import Failure, Kind
from zkdns.forward.exchanges import Exchanges
from zkdns.forward.question import Question
from zkdns.forward.reply import Reply
from zkdns.forward.routes import Route, Routes
from zkdns.forward.special import special_answer
from zkdns.names import Labels
from zkdns.transport import Deliver, Later
from zkdns.transport.mistakes import Mistakes

log = structlog.get_logger("zkdns.forward")

STALE_TTL: Final = 30  # RFC 8767 §4
STALE_SECONDS: Final = 1.8
"""So long an asker waits for what is fresh, where something stale is there (RFC 8767 §5)."""

_ID = 2
_TYPE_AND_CLASS = 4
# So long answers are handed out before others get their turn.
_TURN_SECONDS = 0.0003
_GENERATOR = 700  # bytes that an answer takes beside its response (measured)
_NOT_REMEMBERED = frozenset({Kind.OVERLOADED, Kind.STOPPED})
# What is not about the upstreams but about the query, and so is passed on as it is.
_ABOUT_QUERY = frozenset({Rcode.FORMERR, Rcode.NOTIMP})


class _Asked(msgspec.Struct, frozen=True):
    """A query, and what its responses must be like."""

    query: Query
    question: Question
    limit: int
    wrap: Callable[[bytes], bytes]
    route: Route

    def wrapped(self, message: bytes) -> bytes:
        """A whole message, ready to be handed out."""
        return self.wrap(message[_ID:])


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
    """Queries that were answered with SERVFAIL at once, since too many others waited."""
    prefetched: int = 0
    """Questions asked anew before anybody had to wait for them."""


class Forwarder:
    """Answers what is forwarded, in the running event loop.

    Attributes:
        cache: what upstreams have said.
        counts: what was counted.
        routes: who is asked.
        second: the present one, on a clock that never goes back.

    Args:
        config: upstreams, limits, and what is done with answers.
        listening: where this server answers, as bound.
        secret: 16 random bytes, the same in all its workers.
    """

    def __init__(self, config: Config, listening: Sequence[HostPort], secret: bytes) -> None:
        self.cache = Cache(
            most_entries=config.cache_entries,
            least_ttl=config.cache_min_ttl,
            most_ttl=config.cache_max_ttl,
            most_negative_ttl=config.cache_negative_ttl,
            stale_seconds=config.cache_stale,
        )
        self.counts = Counts()
        self.second = int(time.monotonic())
        self.on_change: Callable[[], None] = lambda: None
        """Called when others are asked than before."""
        groups = len(config.forward) + 1
        sockets = affordable_sockets(2 * config.max_forwarded) // groups

        def make(servers: Iterable[UpstreamAddress]) -> Exchanges:
            return Exchanges(servers, most_in_flight=config.max_forwarded, most_sockets=sockets)

        self.routes = Routes(config, listening, secret, make)
        self._config = config
        self._waiting: dict[Question, list[tuple[_Asked, Deliver]]] = {}
        self._awaited = 0
        self._ready: deque[tuple[Deliver, Callable[[], bytes]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._mistakes = Mistakes(log, "an answer could not be handed out")

    @property
    def waiting(self) -> int:
        """Queries that wait for an answer."""
        return self._awaited

    @property
    def is_asking(self) -> bool:
        """Whether there is anybody to ask."""
        return self.routes.are_any

    def start(self) -> None:
        """Begin, in the running event loop."""
        self.routes.start()
        self._tick()

    def stop(self) -> None:
        """End; whoever waits is told that there is no answer."""
        if self._timer is not None:
            self._timer.cancel()
        self.routes.stop()
        while self._ready:
            self._hand_out()

    def _tick(self) -> None:
        now = time.monotonic()
        self.second = int(now)
        self._timer = asyncio.get_running_loop().call_at(self.second + 1, self._tick)
        if self.routes.tend(now):
            self.on_change()

    def flush(self, name: bytes | None) -> None:
        """Forget what is cached of a name (in wire form and lower case) and of those below it; None: all."""
        self.cache.flush(name)

    # -- answering -----------------------------------------------------------------------------------------

    def answer(self, query: Query, limit: int, wrap: Callable[[bytes], bytes]) -> Answer:
        """The answer to a query of class IN.

        Args:
            query: for a name outside our zones.
            limit: bytes of the longest message.
            wrap: makes of a response after its id what is handed out.
        """
        special = special_answer(query, self.routes.is_configured)
        if special is not None:
            return _once(wrap(special.pack(limit)[_ID:]))
        route = self.routes.find(query.name)
        if not route.servers:
            return _once(wrap(self._refusal(query, Ede.NOT_AUTHORITATIVE).pack(limit)[_ID:]))
        # Lengths of labels are below the letters, so that lower() changes none of them.
        name = query.question[:-_TYPE_AND_CLASS].lower()
        question = Question(name, query.qtype, query.edns is not None and query.edns.do, query.cd)
        asked = _Asked(query, question, limit, wrap, route)
        entry = self.cache.get(question, self.second)
        if entry is not None:
            return self._from(entry, asked)
        if not query.rd:  # who asks for no recursion is told what is known, and nobody else is asked
            return _once(asked.wrapped(self._refusal(query, None).pack(limit)))
        if self.routes.has_returned(question, time.monotonic()):
            return _once(asked.wrapped(Response(query, Rcode.NXDOMAIN, recursion_available=True).pack(limit)))
        return _once(self._unknown(asked))

    def _refusal(self, query: Query, ede: Ede | None) -> Response:
        return Response(query, Rcode.REFUSED, ede=ede, recursion_available=self.is_asking)

    def _from(self, entry: Entry, asked: _Asked) -> Answer:
        """The answer that is cached; where it may be remembered, until it is not in the cache any more."""
        edns = asked.query.edns
        if edns is not None and edns.has_options:
            return _once(next(self._aging(entry, asked)))
        return Answer(
            self._aging(entry, asked),
            group_of(asked.question),
            HEADER_SIZE - _ID + len(asked.query.question),
            size=_GENERATOR + min(asked.limit, len(entry.reply.records)),
            is_rare=True,
        )

    def _aging(self, entry: Entry, asked: _Asked) -> Iterator[bytes]:
        """Its responses for ever: the same while a second lasts, as long as it is fresh."""
        while True:
            second = self.second
            if not entry.is_fresh(second):
                yield self._unknown(asked)
                continue
            if self._config.cache_prefetch and entry.wants_prefetch(second):
                self.counts.prefetched += self._refresh(asked)
            response = asked.wrapped(self._render(entry.reply, asked, second - entry.stored, entry))
            while second == self.second:
                yield response

    def _unknown(self, asked: _Asked) -> bytes:
        """The response to what is not in the cache, or not fresh: later, where it can be asked for."""
        failure = self.cache.failure(asked.question, self.second)
        if failure is not None:
            return self._without(asked, failure.ede, failure.text)
        if self._awaited >= self._config.max_forwarded:
            self.counts.overloaded += 1
            text = f"{self._awaited} queries wait for upstreams already"
            return self._without(asked, Ede.NO_REACHABLE_AUTHORITY, text)
        return Later(partial(self._begin, asked))

    # -- asking --------------------------------------------------------------------------------------------

    def _begin(self, asked: _Asked, deliver: Deliver) -> None:
        """Let an asker wait."""
        self.counts.asked += 1
        self._awaited += 1
        waiting = self._waiting.get(asked.question)
        if waiting is not None:
            self.counts.joined += 1
            waiting.append((asked, deliver))
            return
        self._waiting[asked.question] = [(asked, deliver)]
        asked.route.exchanges.ask(asked.question, partial(self._done, asked.question))
        if self.cache.get_stale(asked.question, self.second) is not None:
            asyncio.get_running_loop().call_later(STALE_SECONDS, self._lose_patience, asked.question)

    def _refresh(self, asked: _Asked) -> bool:
        """Ask for what is cached before it expires; whether that was not on its way already."""
        if asked.question in self._waiting or self._awaited >= self._config.max_forwarded:
            return False
        self._waiting[asked.question] = []
        asked.route.exchanges.ask(asked.question, partial(self._done, asked.question))
        return True

    def _done(self, question: Question, outcome: Reply | Failure) -> None:
        waiting = self._waiting.pop(question)
        self._awaited -= len(waiting)
        if isinstance(outcome, Reply):
            entry = self.cache.put(question, outcome, self.second)
            for asked, deliver in waiting:
                self._hand(deliver, partial(self._render_now, outcome, asked, entry))
            return
        text = outcome.text
        if outcome.kind not in _NOT_REMEMBERED:
            self.cache.put_failure(question, self.second, ede=outcome.ede, text=text)
        for asked, deliver in waiting:
            self._hand(deliver, partial(self._after, outcome, asked))

    def _lose_patience(self, question: Question) -> None:
        """Answer those who wait with what is stale; the question stays on its way."""
        entry = self.cache.get_stale(question, self.second)
        waiting = self._waiting.get(question)
        if entry is None or not waiting:
            return
        self._awaited -= len(waiting)
        self._waiting[question] = []
        for asked, deliver in waiting:
            self._hand(deliver, partial(self._without, asked, None, ""))

    # -- handing out ---------------------------------------------------------------------------------------

    def _hand(self, deliver: Deliver, response: Callable[[], bytes]) -> None:
        self._ready.append((deliver, response))
        if len(self._ready) == 1:
            self._hand_out()

    def _hand_out(self) -> None:
        """Make responses and hand them out, until the turn is over: thousands may wait for one answer."""
        end = time.monotonic() + _TURN_SECONDS
        while self._ready:
            deliver, response = self._ready.popleft()
            try:
                deliver(response())
            except Exception as error:  # noqa: BLE001 - a mistake of ours must not cost the others their answers
                self._mistakes.tell(error)
            if self._ready and time.monotonic() >= end:
                asyncio.get_running_loop().call_soon(self._hand_out)
                return

    def _render_now(self, reply: Reply, asked: _Asked, entry: Entry | None) -> bytes:
        return asked.wrapped(self._render(reply, asked, 0, entry))

    def _render(self, reply: Reply, asked: _Asked, seconds: int, entry: Entry | None) -> bytes:
        trust_ad = self._config.trust_ad
        if entry is None:
            return reply.render(asked.query, asked.limit, seconds, trust_ad=trust_ad)
        least, most = entry.least_ttl, entry.most_ttl
        return reply.render(
            asked.query, asked.limit, seconds, least_ttl=least, most_ttl=most, trust_ad=trust_ad
        )

    def _after(self, failure: Failure, asked: _Asked) -> bytes:
        """The response when nobody could answer."""
        reply = failure.reply
        if reply is not None and reply.rcode in _ABOUT_QUERY:
            return asked.wrapped(reply.render(asked.query, asked.limit, 0))
        return self._without(asked, failure.ede, failure.text)

    def _without(self, asked: _Asked, ede: int | None, text: str) -> bytes:
        """The response without an answer of upstreams: the last good one, or else SERVFAIL."""
        entry = self.cache.get_stale(asked.question, self.second)
        if entry is None:
            self.counts.failed += 1
            code = Ede(ede) if ede is not None else None
            failure = Response(asked.query, Rcode.SERVFAIL, recursion_available=True, ede=code, ede_text=text)
            return asked.wrapped(failure.pack(asked.limit))
        self.counts.stale += 1
        return asked.wrapped(
            entry.reply.render(
                asked.query,
                asked.limit,
                0,
                least_ttl=STALE_TTL,
                most_ttl=STALE_TTL,
                ede=Ede.STALE_ANSWER,
                ede_text=text,
                trust_ad=self._config.trust_ad,
            )
        )


def group_of(question: Question) -> Labels:
    """What answers to a question are remembered under: like a service's key, and never one."""
    return b"", question.name, question.qtype.to_bytes(2), bytes((question.do, question.cd))


def _once(response: bytes) -> Answer:
    return Answer(itertools.repeat(response))
