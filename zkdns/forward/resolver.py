"""Questions on their way to upstreams, carried by sockets in the running event loop.

    ask ──▶ Exchange ──▶ a try ──▶ Datagrams ─┐             (zkdns.forward.resolution decides,
               ▲           └─────▶ Streams ───┤              and the others carry it out)
               └── what came, errors, timer ◀─┘
    an outcome ──▶ done(outcome), once

Whatever comes, it holds up nobody: answers are taken in turns that have an end, time-outs are worked off one
by one with other things in between, and all sockets together are one to the event loop.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from zkdns.address import UpstreamAddress
from zkdns.dns.edns import Ede
from zkdns.dns.message import Type
from zkdns.forward.ids import RandomIds
from zkdns.forward.message import build_query
from zkdns.forward.question import Question
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import STOPPED, Attempt, Failure, Kind, Resolution, Step
from zkdns.forward.tcp_client import TcpClient
from zkdns.forward.udp_client import UdpClient, is_resource_shortage
from zkdns.forward.upstreams import Upstream, Upstreams
from zkdns.transport.event_loop import Defer, add_server, deferrer, remove_server
from zkdns.transport.log_once import LogOnce

log = structlog.get_logger("zkdns.forward")

MAX_IN_FLIGHT: Final = 2000
# So long answers are taken before UDP, the feed and timers get their turn.
_TURN_SECONDS = 0.0001
# So many that are over are taken out of the heap before others get their turn: some 20 µs.
_OVER_AT_ONCE = 32
# What nobody has to answer from elsewhere, so it tells most surely whether an upstream lives.
_PROBE = Question(b"\0", Type.NS)
_TEND_SECONDS = 1.0
_TELL_AGAIN_SECONDS = 60.0  # of one upstream that dies again and again

Done = Callable[[Reply | Failure], None]


class Resolver:
    """Asks a group of upstreams, and hands each answer to who asked; in the running event loop.

    Attributes:
        upstreams: the group, with what is known of each.
        in_flight: questions on their way now.
        asked: questions so far.
        sent: queries so far, those included that only shall tell something of an upstream.
        answered: questions that had an answer.
        failed: questions that had none; also counted as one of the following two where they apply.
        timed_out: of those, to which all upstreams were silent.
        overloaded: of those, that could not be asked, since too many were on their way or no file was left.
        by_stream: queries over TCP and TLS.

    Args:
        servers: whom to ask; where there are none, every question fails.
        most_in_flight: questions that may be on their way.
        most_sockets: of UDP, for all tries of all questions (`zkdns.forward.udp_client.affordable_sockets`).
        tls: checks certificates; None: by the authorities that this machine trusts.
    """

    def __init__(
        self,
        servers: Iterable[UpstreamAddress],
        *,
        most_in_flight: int = MAX_IN_FLIGHT,
        most_sockets: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.upstreams = Upstreams(servers)
        self.in_flight = self.asked = self.sent = self.answered = self.failed = 0
        self.timed_out = self.overloaded = self.by_stream = 0
        self._most_in_flight = most_in_flight
        self._most_sockets = most_sockets or 2 * most_in_flight
        self._ids = RandomIds()
        self._numbers = itertools.count()
        self._running: set[Resolution] = set()
        self._due: list[tuple[float, int, Resolution]] = []  # a heap; what is in it may be over meanwhile
        self._outcomes: deque[tuple[Done, Reply | Failure]] = deque()  # that could not be told within ask
        self._clock = time.monotonic
        self._loop: asyncio.AbstractEventLoop
        self._put_off: Defer
        self._datagrams: UdpClient | None = None
        if tls is None and any(upstream.address.tls for upstream in self.upstreams.all):
            tls = ssl.create_default_context()  # now, since that takes 20 ms
        self._streams = TcpClient(self._stream_arrived, tls)
        self._timer: asyncio.TimerHandle | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        self._is_waking = False  # whether time-outs are being worked off
        self._mistakes = LogOnce(log, "upstream_result_failed")
        self._dead: dict[Upstream, bool] = {}  # and whether that was told
        self._told_at: dict[Upstream, float] = {}

    @property
    def bad(self) -> int:
        """Messages so far that were no answer to what was asked: forged ones, or garbage."""
        return self.upstreams.bad

    @property
    def connections(self) -> int:
        """How many there were over TCP and TLS so far."""
        return self._streams.opened

    def start(self) -> None:
        """Begin to ask, in the running event loop, whose clock is `time.monotonic`."""
        self._loop = asyncio.get_running_loop()
        self._put_off = deferrer()
        self._datagrams = UdpClient(self._most_sockets, self._put_off)
        add_server(self._datagrams.fileno(), self._turn)

    def stop(self) -> None:
        """Ask no more; whoever waits is told so at once."""
        if self._datagrams is None:
            return
        for timer in (self._timer, self._probe_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._probe_timer = None
        remove_server(self._datagrams.fileno())
        self._datagrams.close()
        self._datagrams = None
        self._streams.close()
        self._due.clear()
        self._outcomes.extend((exchange.done, STOPPED) for exchange in self._running)
        self.failed += self.in_flight
        self.in_flight = 0
        for exchange in self._running:
            exchange.is_over = True
        self._running.clear()
        while self._outcomes:
            self._tell(*self._outcomes.popleft())

    def change(self, servers: Iterable[UpstreamAddress]) -> None:
        """Ask these from now on; what is known of those that stay is kept, and so are connections to them."""
        self.upstreams.change(servers)
        self._streams.keep([upstream.address for upstream in self.upstreams.all])
        for known in (self._dead, self._told_at):
            for upstream in known.keys() - set(self.upstreams.all):
                del known[upstream]

    def ask(self, question: Question, done: Done) -> None:
        """Ask a question.

        Args:
            question: what is asked.
            done: is called exactly once, in the event loop, never from within here.
        """
        self.asked += 1
        if self._datagrams is None or self.in_flight >= self._most_in_flight:
            self.overloaded += 1
            self.failed += 1
            reason = f"more than {self._most_in_flight} questions are on their way to upstreams"
            self._tell_later(done, Failure(Kind.OVERLOADED, reason, Ede.NO_REACHABLE_AUTHORITY))
            return
        now = self._clock()
        exchange = Resolution(question, self.upstreams, now, done)
        self.in_flight += 1
        self._running.add(exchange)
        outcome = self._carry_out(exchange, exchange.begin(now), now)
        if outcome is not None:
            self._end(exchange, outcome)
            self._tell_later(done, outcome)
        elif exchange.tries and (other := self.upstreams.to_explore(exchange.tries[0].upstream, now)):
            self._learn_of(other, question, now)

    def try_one(self, server: UpstreamAddress, question: Question) -> None:
        """Ask one upstream of the group, for no other reason than to see what comes of it."""
        for upstream in self.upstreams.all:
            if upstream.address == server and self._datagrams is not None:
                self._learn_of(upstream, question, self._clock())

    # -- what happens --------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Take what came, until the turn is over; what is left makes for another turn."""
        end = self._clock() + _TURN_SECONDS
        while self._datagrams is not None and self._datagrams.receive(self._datagram_arrived):
            if self._clock() >= end:
                break
        return False

    def _datagram_arrived(self, owner: tuple[Resolution, Attempt], message: bytes | OSError) -> None:
        exchange, tried = owner
        self._arrived(exchange, tried, message)

    def _stream_arrived(
        self, owner: tuple[Resolution, Attempt], message: bytes | OSError, sent_at: float
    ) -> None:
        exchange, tried = owner
        tried.carrier = None
        if not exchange.is_over:
            tried.sent_at = sent_at
            self._arrived(exchange, tried, message)

    def _arrived(self, exchange: Resolution, tried: Attempt, message: bytes | OSError) -> None:
        now = self._clock()
        if isinstance(message, bytes):
            step = exchange.received(tried, message, now)
        elif is_resource_shortage(message):
            step = exchange.put_off(tried, now)
        else:
            step = exchange.failed(tried, _reason(message), now)
        if not tried.is_open and not isinstance(step, Reply):  # or it is dropped when that was handed over
            self._drop(tried)
        self._go_on(exchange, step, now)
        if tried.upstream.is_dead != (tried.upstream in self._dead):
            self._tend(now)

    def _time_out(self) -> None:
        """Something is due."""
        self._timer = None
        if not self._is_waking:
            self._is_waking = True
            self._put_off(self._wake_one)

    def _wake_one(self) -> None:
        """Work off one of those that are due; the others wait for their turn.

        Nearly all are over when they would be due. They are taken out together, lest the loop wakes for each.
        """
        now = self._clock()
        for _ in range(_OVER_AT_ONCE):
            if not self._due:
                break
            at, _, exchange = self._due[0]
            is_over = exchange.is_over or exchange.watched_at != at
            if at > now and not is_over:
                break
            heapq.heappop(self._due)
            if not is_over:
                exchange.watched_at = 0.0
                self._put_off(self._wake_one)  # whatever comes of this one, the others have their turn
                self._go_on(exchange, exchange.woken(now), now)
                self._tend(now)
                return
        else:
            self._put_off(self._wake_one)
            return
        self._is_waking = False
        if self._due and self._datagrams is not None:
            self._set_timer(self._due[0][0])

    # -- what to do then -----------------------------------------------------------------------------------

    def _go_on(self, exchange: Resolution, step: Step, now: float) -> None:
        outcome = self._carry_out(exchange, step, now)
        if outcome is not None:
            exchange.is_over = True
            self._tell(exchange.done, outcome)
            self._end(exchange, outcome)  # who waits does not have to wait for that

    def _carry_out(self, exchange: Resolution, step: Step, now: float) -> Reply | Failure | None:
        """Send what is to be sent, and see to it that it is woken; return its outcome if there is one."""
        while isinstance(step, Attempt):
            step = self._send(exchange, step, now)
        if step is None and exchange.watched_at != exchange.wake_at:
            exchange.watched_at = exchange.wake_at
            heapq.heappush(self._due, (exchange.wake_at, next(self._numbers), exchange))
            self._set_timer(exchange.wake_at)
        return step

    def _send(self, exchange: Resolution, tried: Attempt, now: float) -> Step:
        """Send one query; what follows if that cannot be."""
        assert self._datagrams is not None  # noqa: S101 - who has stopped has no exchange left
        ident = self._ids.take()
        query = build_query(exchange.question, ident, edns=tried.edns)
        address = tried.upstream.address
        try:
            if tried.by_stream:
                tried.carrier = self._streams.send(address, query, (exchange, tried))
                self.by_stream += 1
            else:
                tried.ident = query[:2]
                tried.carrier = self._datagrams.send(address, query, (exchange, tried))
        except OSError as error:
            if not is_resource_shortage(error):
                return exchange.failed(tried, _reason(error), now)
            oldest = exchange.give_way()
            if oldest is None:
                return exchange.put_off(tried, now)
            self._drop(oldest)
            return self._send(exchange, tried, now)
        self.sent += 1
        tried.upstream.sent += 1
        return None

    def _drop(self, tried: Attempt) -> None:
        carrier, tried.carrier = tried.carrier, None
        if carrier is None:
            return
        if tried.by_stream:
            self._streams.drop(carrier)
        elif self._datagrams is not None:
            self._datagrams.drop(carrier)

    def _end(self, exchange: Resolution, outcome: Reply | Failure) -> None:
        """It is over: nothing of it is left, and it is counted."""
        exchange.is_over = True
        for tried in exchange.tries:
            self._drop(tried)
        self._running.discard(exchange)
        if exchange.only is not None:
            return
        self.in_flight -= 1
        if isinstance(outcome, Reply):
            self.answered += 1
            return
        self.failed += 1
        self.timed_out += outcome.kind is Kind.TIMED_OUT
        self.overloaded += outcome.kind is Kind.OVERLOADED

    def _tell(self, done: Done, outcome: Reply | Failure) -> None:
        try:
            done(outcome)
        except Exception as error:  # noqa: BLE001 - a mistake of one must not cost the others their answers
            self._mistakes.tell(error)

    def _tell_later(self, done: Done, outcome: Reply | Failure) -> None:
        self._outcomes.append((done, outcome))
        self._put_off(self._tell_one)

    def _tell_one(self) -> None:
        if self._outcomes:  # or this has been stopped meanwhile
            self._tell(*self._outcomes.popleft())

    # -- timers --------------------------------------------------------------------------------------------

    def _set_timer(self, at: float) -> None:
        """Let the loop look at what is due then, if it does not so earlier anyway."""
        if self._is_waking:  # which goes on as long as anything is due, and then sets it
            return
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._time_out)

    # -- upstreams that are dead, or not well known --------------------------------------------------------

    def _learn_of(self, upstream: Upstream, question: Question, now: float) -> None:
        """Ask one upstream for no other reason than to learn how it is."""
        exchange = Resolution(question, self.upstreams, now, _nobody, upstream)
        self._running.add(exchange)
        outcome = self._carry_out(exchange, exchange.begin(now), now)
        if outcome is not None:
            self._end(exchange, outcome)

    def _tend(self, now: float) -> None:
        """See who has died or come to life, and probe the dead, now and later."""
        if self._datagrams is None:  # who was told of an outcome has stopped it
            return
        for upstream in self.upstreams.all:
            if upstream.is_dead != (upstream in self._dead):
                self._note(upstream, now)
            if upstream.is_to_be_probed(now):
                self._learn_of(upstream, _PROBE, now)
        if self._dead and self._probe_timer is None:
            self._probe_timer = self._loop.call_later(_TEND_SECONDS, self._tend_again)

    def _tend_again(self) -> None:
        self._probe_timer = None
        self._tend(self._clock())

    def _note(self, upstream: Upstream, now: float) -> None:
        """Note that it is dead, or that it lives again; tell of it, but not over and over."""
        address = str(upstream.address)
        if not upstream.is_dead:
            if self._dead.pop(upstream):
                log.info("upstream_recovered", upstream=address)
            return
        is_told = now >= self._told_at.get(upstream, now - _TELL_AGAIN_SECONDS) + _TELL_AGAIN_SECONDS
        self._dead[upstream] = is_told
        if is_told:
            self._told_at[upstream] = now
            log.warning("upstream_failed", upstream=address)


def _nobody(_: Reply | Failure) -> None:
    """Nobody wants to know."""


def _reason(error: OSError) -> str:
    """What an upstream does, as it goes on after its address."""
    if isinstance(error, ssl.SSLError):
        return f"does not speak TLS as it should ({error.reason or error})"
    if error.errno is None:
        return str(error)  # a sentence of our own
    return f"cannot be reached ({os.strerror(error.errno)})"
