"""Resolves questions at a group of upstreams, with sockets in the running event loop.

    resolve ──▶ Resolution ──▶ Attempt ──▶ UdpClient or TcpClient ──▶ upstream
                  │    ▲                            │
                  │    └── message, error, timer ◀──┘
                  └─▶ outcome ──▶ on_outcome(question, outcome), once

A `Resolution` (zkdns.forward.resolution) decides each step without I/O, and the resolver carries it out.

No event delays other work for long: few messages are read at a time, time-outs are handled one by one with
other work in between, and the event loop watches one file descriptor for all UDP sockets.

Nearly all resolutions are finished before their timer. So they wait for it in slots of 10 ms, where adding or
removing one is a single dictionary operation. The event loop has one timer, for the first slot.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterable
from typing import Final, TypeAlias

import structlog

from zkdns.address import UpstreamAddress
from zkdns.dns.edns import Ede
from zkdns.dns.message import Type
from zkdns.forward.message import Question, build_query, random_ids
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import (
    LIMIT_SECONDS,
    PROBE_LIMIT_SECONDS,
    STOPPED,
    Attempt,
    Failure,
    FailureKind,
    OnOutcome,
    Resolution,
    Step,
)
from zkdns.forward.tcp_client import TCP_TIMES, TcpClient, TcpTimes
from zkdns.forward.udp_client import UdpClient, is_resource_shortage
from zkdns.forward.upstreams import PROBE_SECONDS, UDP_TIMES, UdpTimes, Upstream, Upstreams
from zkdns.transport.event_loop import Defer, add_server, deferrer, remove_server
from zkdns.transport.log_once import LogOnce

log = structlog.get_logger("zkdns.forward")

MAX_IN_FLIGHT: Final = 2000
"""Maximum number of questions that a resolver resolves at a time.

The forwarder limits its questions itself (`zkdns.forward.forwarder.MAX_WAITING`). The watcher uses resolvers
without a forwarder.
"""
_SLOTS_PER_SECOND = 100  # of timers, which are therefore up to 10 ms late
# Every recursive resolver has this RRset in its cache, so the response depends on no other server.
_PROBE_QUESTION = Question(b"\0", Type.NS)
_CHECKS_PER_PROBE = 3  # how often dead upstreams are checked in the interval between two probes
_LOG_AGAIN_SECONDS = 60.0  # for an upstream that fails again and again

Owner: TypeAlias = tuple[Resolution, Attempt]
"""The owner of a query: the UDP and TCP clients return it with each message."""


class Resolver:
    """Resolves questions at a group of upstreams, in the running event loop.

    Attributes:
        upstreams: the group, with the state of each upstream.
        in_flight: questions that are being resolved, without probes.
        sent: queries so far, including probes.
        answered: questions with a conclusive reply.
        failed: questions without one, including the following two.
        timed_out: questions to which no upstream responded in time.
        overloaded: questions that could not be sent: too many at a time, or no file descriptor left.
        cancelled: questions without a reply that were cancelled.
        sent_over_tcp: queries over TCP and TLS.

    Args:
        servers: addresses of the upstreams; without any, every question fails.
        max_in_flight: maximum of `in_flight`; further questions fail at once.
        max_sockets: maximum number of UDP sockets (see `zkdns.forward.udp_client.affordable_sockets`).
        tls: the TLS context; None: one with the certification authorities of the system.
        limit_seconds: maximum duration of a resolution.
        probe_seconds: interval between probes of a dead upstream.
        tcp_times: times of TCP and TLS connections.
        udp_times: limits of the time-out of a query.
    """

    def __init__(
        self,
        servers: Iterable[UpstreamAddress],
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_sockets: int | None = None,
        tls: ssl.SSLContext | None = None,
        limit_seconds: float = LIMIT_SECONDS,
        probe_seconds: float = PROBE_SECONDS,
        tcp_times: TcpTimes = TCP_TIMES,
        udp_times: UdpTimes = UDP_TIMES,
    ) -> None:
        self.upstreams = Upstreams(servers, probe_seconds=probe_seconds, times=udp_times)
        self.in_flight = self.sent = self.answered = self.failed = 0
        self.timed_out = self.overloaded = self.cancelled = self.sent_over_tcp = 0
        self._max_in_flight = max_in_flight
        self._max_sockets = max_sockets or 2 * max_in_flight
        self._limit_seconds = limit_seconds
        self._check_seconds = probe_seconds / _CHECKS_PER_PROBE
        self._ids = random_ids()
        # The current resolutions by the slot of their timer, and a heap of the slots.
        self._slots: dict[int, dict[Resolution, None]] = {}
        self._slot_heap: list[int] = []
        # Resolutions whose timer is due, the oldest first.
        self._due: deque[Resolution] = deque()  # includes some that are over or have a slot again
        self._late: dict[Attempt, None] = {}  # late attempts over UDP that are still open, the oldest first
        # Outcomes that were known before `resolve` returned, and are reported later.
        self._outcomes: deque[tuple[Question, OnOutcome, Reply | Failure]] = deque()
        self._clock = time.monotonic
        self._loop: asyncio.AbstractEventLoop
        self._defer: Defer
        self._udp: UdpClient[Owner] | None = None
        if tls is None and any(upstream.address.tls for upstream in self.upstreams.all):
            tls = ssl.create_default_context()  # takes 20 ms, so not at the first query
        self._tcp = TcpClient(self._on_tcp_message, tls, times=tcp_times)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_slot: float = math.inf
        self._probe_timer: asyncio.TimerHandle | None = None
        self._is_handling_timers = False
        self._log_once = LogOnce(log, "upstream_result_failed")
        self._dead: dict[Upstream, bool] = {}  # dead upstreams, and whether that was logged
        self._logged_at: dict[Upstream, float] = {}

    @property
    def questions(self) -> int:
        """Questions so far."""
        return self.in_flight + self.answered + self.failed + self.cancelled

    @property
    def connections(self) -> int:
        """TCP and TLS connections so far."""
        return self._tcp.opened

    @property
    def open_connections(self) -> int:
        """TCP and TLS connections that are open or being opened."""
        return len(self._tcp)

    @property
    def open_sockets(self) -> int:
        """UDP sockets that wait for a response, including those of probes."""
        return len(self._udp) if self._udp is not None else 0

    def start(self) -> None:
        """Start in the running event loop; its clock must be `time.monotonic`."""
        self._loop = asyncio.get_running_loop()
        self._defer = deferrer()
        self._udp = UdpClient(self._max_sockets)
        add_server(self._udp.fileno(), self._receive)

    def stop(self) -> None:
        """Stop; all current resolutions fail at once."""
        if self._udp is None:
            return
        for timer in (self._timer, self._probe_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._probe_timer = None
        self._timer_slot = math.inf
        remove_server(self._udp.fileno())
        self._udp.close()
        self._udp = None
        self._tcp.close()
        for resolution in (*self._due, *itertools.chain.from_iterable(self._slots.values())):
            if not resolution.is_over:
                resolution.is_over = True
                self._outcomes.append((resolution.question, resolution.on_outcome, STOPPED))
        self._due.clear()
        self._slots.clear()
        self._slot_heap.clear()
        self.failed += self.in_flight
        self.in_flight = 0
        while self._outcomes:
            self._report(*self._outcomes.popleft())

    def replace_upstreams(self, servers: Iterable[UpstreamAddress]) -> None:
        """Replace the upstreams; those in both groups keep their state and connections."""
        self.upstreams.replace(servers)
        self._tcp.retire_others([upstream.address for upstream in self.upstreams.all])
        for by_upstream in (self._dead, self._logged_at):
            for upstream in by_upstream.keys() - set(self.upstreams.all):
                del by_upstream[upstream]

    def resolve(self, question: Question, on_outcome: OnOutcome) -> Resolution | None:
        """Resolve a question.

        Returns:
            what `cancel` takes; None: the outcome is already known, and about to be reported.

        Args:
            question: the question.
            on_outcome: called exactly once, in the event loop, after this method has returned, unless the
                resolution is cancelled.
        """
        if self._udp is None:
            self.failed += 1
            self._report_later(question, on_outcome, STOPPED)
            return None
        if self.in_flight >= self._max_in_flight:
            self.failed += 1
            self.overloaded += 1
            reason = f"{self.in_flight} questions already wait for upstreams"
            failure = Failure(FailureKind.OVERLOADED, reason, Ede.NO_REACHABLE_AUTHORITY)
            self._report_later(question, on_outcome, failure)
            return None
        now = self._clock()
        resolution = Resolution(question, self.upstreams, now, on_outcome, None, self._limit_seconds)
        self.in_flight += 1
        outcome = self._execute(resolution, resolution.start(now), now)
        if outcome is not None:
            self._finish(resolution, outcome)
            self._report_later(question, on_outcome, outcome)
            return None
        if len(self.upstreams.all) > 1 and resolution.attempts:
            other = self.upstreams.to_explore(resolution.attempts[0].upstream, now)
            if other is not None:
                self._probe(other, question, now)
        return resolution

    def cancel(self, resolution: Resolution) -> None:
        """End a resolution, if it is not over. Its outcome is not reported."""
        if not resolution.is_over:
            self._end(resolution)
            self.in_flight -= 1
            self.cancelled += 1

    def probe(self, server: UpstreamAddress, question: Question) -> None:
        """Send a question to one upstream of the group, and ignore the outcome."""
        for upstream in self.upstreams.all:
            if upstream.address == server and self._udp is not None:
                self._probe(upstream, question, self._clock())

    # -- events --------------------------------------------------------------------------------------------

    def _receive(self) -> bool:
        """Read a few datagrams; the event loop calls again if there are more, after it has served others."""
        if self._udp is not None:
            self._udp.receive(self._on_message)
        return False

    def _on_tcp_message(self, owner: Owner, message: bytes | OSError, sent_at: float) -> None:
        resolution, attempt = owner
        attempt.carrier = None
        if not resolution.is_over:
            attempt.sent_at = sent_at
            self._on_message(owner, message)

    def _on_message(self, owner: Owner, message: bytes | OSError) -> None:
        resolution, attempt = owner
        now = self._clock()
        if isinstance(message, bytes):
            step = resolution.on_message(attempt, message, now)
        elif is_resource_shortage(message):
            step = resolution.on_shortage(attempt, now)
        else:
            step = resolution.on_error(attempt, _reason(message), now)
        if isinstance(step, Reply):
            self._end_with(resolution, step)
        else:
            if not attempt.is_open:
                self._release(attempt)
            self._continue(resolution, step, now)
        upstream = attempt.upstream
        if (self._dead or upstream.failures) and upstream.is_dead != (upstream in self._dead):
            self._check_upstreams(now)

    def _on_timer(self) -> None:
        self._timer, self._timer_slot = None, math.inf
        now = self._clock()
        while self._slot_heap and self._slot_heap[0] <= now * _SLOTS_PER_SECOND:
            for resolution in self._slots.pop(heapq.heappop(self._slot_heap)):
                resolution.slot = 0
                self._due.append(resolution)
        if not self._is_handling_timers:
            self._is_handling_timers = True
            self._defer(self._handle_timer)
        self._set_timer()

    def _handle_timer(self) -> None:
        """Handle the timer of one resolution; other work is done before the next one."""
        while self._due and (self._due[0].is_over or self._due[0].slot):
            self._due.popleft()
        if not self._due:
            self._is_handling_timers = False
            return
        resolution = self._due.popleft()
        self._defer(self._handle_timer)  # first, so that an exception does not stop the others
        now = self._clock()
        step = resolution.on_timer(now)
        late = (attempt for attempt in resolution.attempts if attempt.is_late and attempt.is_open)
        self._late |= {attempt: None for attempt in late if not attempt.uses_stream}
        self._continue(resolution, step, now)
        self._check_upstreams(now)

    def _wait(self, resolution: Resolution) -> None:
        """Call `on_timer` of a resolution at its `wake_at`, rounded up, unless it is over before."""
        slot = int(resolution.wake_at * _SLOTS_PER_SECOND) + 1
        if slot == resolution.slot:
            return
        if resolution.slot:
            self._slots[resolution.slot].pop(resolution, None)
        resolution.slot = slot
        waiting = self._slots.get(slot)
        if waiting is not None:
            waiting[resolution] = None
            return
        self._slots[slot] = {resolution: None}
        heapq.heappush(self._slot_heap, slot)
        if slot < self._timer_slot:
            self._set_timer()

    def _set_timer(self) -> None:
        """Set the timer to the first slot with resolutions."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_slot = None, math.inf
        while self._slot_heap and not self._slots[self._slot_heap[0]]:
            del self._slots[heapq.heappop(self._slot_heap)]
        if self._slot_heap:
            self._timer_slot = slot = self._slot_heap[0]
            self._timer = self._loop.call_at(slot / _SLOTS_PER_SECOND, self._on_timer)

    # -- steps ---------------------------------------------------------------------------------------------

    def _continue(self, resolution: Resolution, step: Step, now: float) -> None:
        """Execute a step, and report the outcome if there is one."""
        outcome = self._execute(resolution, step, now)
        if outcome is not None:
            self._end_with(resolution, outcome)

    def _end_with(self, resolution: Resolution, outcome: Reply | Failure) -> None:
        """Report an outcome, and then release everything: clients need not wait for it."""
        resolution.is_over = True
        self._report(resolution.question, resolution.on_outcome, outcome)
        self._finish(resolution, outcome)

    def _execute(self, resolution: Resolution, step: Step, now: float) -> Reply | Failure | None:
        """Send attempts and set the timer; return the outcome if there is one."""
        while isinstance(step, Attempt):
            step = self._send(resolution, step, now)
        if step is None:
            self._wait(resolution)
        return step

    def _send(self, resolution: Resolution, attempt: Attempt, now: float, *, may_take: bool = True) -> Step:
        """Send one query; return the next step if that fails.

        Without a free socket, it takes that of a late attempt: of the same question, or else (`may_take`) of
        another one. Otherwise questions that no upstream answers would hold all sockets for seconds.
        """
        assert self._udp is not None  # noqa: S101 - no resolution is left after `stop`
        query_id = next(self._ids)
        query = build_query(resolution.question, query_id, edns=attempt.edns)
        address = attempt.upstream.address
        try:
            if attempt.uses_stream:
                attempt.carrier = self._tcp.send(address, query, (resolution, attempt))
                self.sent_over_tcp += 1
            else:
                attempt.query_id = query[:2]
                attempt.carrier = self._udp.send(address, query, (resolution, attempt))
        except OSError as error:
            if not is_resource_shortage(error):
                return resolution.on_error(attempt, _reason(error), now)
            oldest = resolution.close_late_attempt()
            if oldest is None and may_take:
                oldest, may_take = next(iter(self._late), None), False
            if oldest is None:
                return resolution.on_shortage(attempt, now)
            oldest.is_open = False
            self._release(oldest)
            return self._send(resolution, attempt, now, may_take=may_take)
        self.sent += 1
        attempt.upstream.sent += 1
        return None

    def _release(self, attempt: Attempt) -> None:
        """Release the socket or TCP query of an attempt."""
        if attempt.is_late:
            self._late.pop(attempt, None)
        carrier = attempt.carrier
        if carrier is None:
            return
        attempt.carrier = None
        if attempt.uses_stream:
            self._tcp.cancel(carrier)
        elif self._udp is not None:
            self._udp.release(carrier, is_answered=attempt.is_answered)

    def _finish(self, resolution: Resolution, outcome: Reply | Failure) -> None:
        """Release everything of a resolution, and count its outcome."""
        self._end(resolution)
        if resolution.probed is not None:
            return
        self.in_flight -= 1
        if isinstance(outcome, Reply):
            self.answered += 1
            return
        self.failed += 1
        self.timed_out += outcome.kind is FailureKind.TIMED_OUT
        self.overloaded += outcome.kind is FailureKind.OVERLOADED

    def _end(self, resolution: Resolution) -> None:
        """Release everything of a resolution."""
        resolution.is_over = True
        for attempt in resolution.attempts:
            self._release(attempt)
        waiting = self._slots.get(resolution.slot)
        if waiting is not None:
            waiting.pop(resolution, None)

    def _report(self, question: Question, on_outcome: OnOutcome, outcome: Reply | Failure) -> None:
        try:
            on_outcome(question, outcome)
        except Exception as error:  # noqa: BLE001 - an error in one receiver must not affect the others
            self._log_once.error(error)

    def _report_later(self, question: Question, on_outcome: OnOutcome, outcome: Reply | Failure) -> None:
        self._outcomes.append((question, on_outcome, outcome))
        self._defer(self._report_next)

    def _report_next(self) -> None:
        if self._outcomes:  # empty after `stop`
            self._report(*self._outcomes.popleft())

    # -- probes --------------------------------------------------------------------------------------------

    def _probe(self, upstream: Upstream, question: Question, now: float) -> None:
        """Query one upstream, only to update its state."""
        resolution = Resolution(
            question, self.upstreams, now, _ignore_outcome, upstream, limit_seconds=PROBE_LIMIT_SECONDS
        )
        outcome = self._execute(resolution, resolution.start(now), now)
        if outcome is not None:
            self._finish(resolution, outcome)

    def _check_upstreams(self, now: float) -> None:
        """Log upstreams that have failed or recovered, and probe the dead ones, now and periodically."""
        if self._udp is None:  # stopped by a receiver of an outcome
            return
        for upstream in self.upstreams.all:
            if upstream.is_dead != (upstream in self._dead):
                self._log_change(upstream, now)
            if upstream.start_probe_if_due(now):
                self._probe(upstream, _PROBE_QUESTION, now)
        if self._dead and self._probe_timer is None:
            self._probe_timer = self._loop.call_later(self._check_seconds, self._on_probe_timer)

    def _on_probe_timer(self) -> None:
        self._probe_timer = None
        self._check_upstreams(self._clock())

    def _log_change(self, upstream: Upstream, now: float) -> None:
        """Log that an upstream is dead or alive again, at a limited rate."""
        address = str(upstream.address)
        if not upstream.is_dead:
            if self._dead.pop(upstream):
                log.info("upstream_recovered", upstream=address)
            return
        is_logged = now >= self._logged_at.get(upstream, now - _LOG_AGAIN_SECONDS) + _LOG_AGAIN_SECONDS
        self._dead[upstream] = is_logged
        if is_logged:
            self._logged_at[upstream] = now
            log.warning("upstream_failed", upstream=address)


def _ignore_outcome(_question: Question, _outcome: Reply | Failure) -> None:
    """Receive the outcome of a probe."""


def _reason(error: OSError) -> str:
    """Return a reason that follows the address of an upstream."""
    if isinstance(error, ssl.SSLError):
        return f"has a TLS error ({error.reason or error})"
    if error.errno is None:
        return str(error)  # a text of the TCP client
    if isinstance(error, socket.gaierror):  # its number is not an errno
        return f"cannot be reached ({error.strerror})"
    return f"cannot be reached ({os.strerror(error.errno)})"
