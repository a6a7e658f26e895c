"""The resolution of one question: what to do at each event. No sockets, no clock.

    start ──▶ Attempt ──▶ on_message ──▶ Reply      a conclusive reply
                 ▲             ├───────▶ Attempt    this upstream over TCP or without EDNS, or the next one
                 │             └───────▶ None       no change, for example after a forged message
                 └─────── on_timer                  no response yet: query the next upstream as well
                          on_error, on_shortage     the query could not be sent, or was rejected
    deadline reached, or every upstream has failed ──▶ Failure

A late attempt stays open while other upstreams are queried: the time-out is short, to detect a lost packet,
and an upstream needs longer for a name that it has not cached.

Three attempts with a silent upstream differ, since a device on the path may drop some kinds of queries:

    UDP ──▶ UDP, without EDNS if it has not answered with EDNS lately (RFC 6891 §6.2.2) ──▶ TCP

A forged response must have the id and the port of a query and arrive before the real one. After some wrong
messages the question goes over TCP, which cannot be forged by guessing (RFC 5452 §9).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import msgspec

from zkdns.dns.edns import Ede
from zkdns.dns.message import Rcode
from zkdns.forward.message import Question, read_reply
from zkdns.forward.records import BadReplyError
from zkdns.forward.reply import Reply
from zkdns.forward.upstreams import Upstream, Upstreams

LIMIT_SECONDS: Final = 3.8
"""Maximum duration of a resolution. Stub resolvers give up after 5 s, and zkdns needs some of that itself."""
PROBE_LIMIT_SECONDS: Final = 2.0
"""Maximum duration of a probe, which only updates the state of an upstream."""
MAX_BAD_MESSAGES: Final = 8
"""Maximum number of bad messages for one attempt. A forged one has the right id with probability 1/65,536."""
MAX_ATTEMPTS: Final = 3
"""Maximum number of attempts with one upstream (RFC 9520 §3.1); the last one is over TCP."""
MAX_ATTEMPTS_ON_DEAD: Final = 2
"""The same for an upstream that was dead before. Lower: thousands of questions may wait for it.

Probes find out whether it answers over TCP.
"""
RETRY_SECONDS: Final = 0.1
"""Delay before the next attempt after one that could not be sent for lack of a file descriptor."""

# Shared, because thousands of resolutions may wait for their first response.
_NO_UPSTREAMS: Mapping[Upstream, str] = MappingProxyType({})

_MAX_REPEATED_TIMEOUT = 1.0  # seconds; the time-out doubles up to this if an earlier attempt was late
_STREAM_TIMEOUT_FACTOR = 2  # TCP takes one more round trip than UDP, to connect

_NOERROR, _YXDOMAIN = int(Rcode.NOERROR), 6
# After other codes, the next upstream may have an answer. YXDOMAIN: a name became too long (RFC 6672 §2.2).
_CONCLUSIVE = frozenset({_NOERROR, int(Rcode.NXDOMAIN), _YXDOMAIN})
_NO_EDNS = frozenset({Rcode.FORMERR, Rcode.NOTIMP})  # RFC 6891 §7
_MAYBE_NO_EDNS = frozenset({Rcode.SERVFAIL, Rcode.REFUSED})


class FailureKind(enum.Enum):
    """Why a resolution failed."""

    TIMED_OUT = "timed out"
    SERVFAIL = "servfail"
    REFUSED = "refused"
    NETWORK = "network"
    OVERLOADED = "overloaded"
    STOPPED = "stopped"


class Failure(msgspec.Struct, frozen=True):
    """The outcome of a resolution without a conclusive reply.

    Attributes:
        kind: the reason.
        text: the reason for people, with the addresses of the upstreams.
        ede: the extended error for it (RFC 8914).
        reply: the best inconclusive reply: a truncated one that could not be completed, or an error.
        recoveries: `Upstreams.recoveries` if no upstream works; then the failure is about the upstreams, and
            ends when this number changes. None: it is about the question.
    """

    kind: FailureKind
    text: str
    ede: Ede
    reply: Reply | None = None
    recoveries: int | None = None


STOPPED: Final = Failure(FailureKind.STOPPED, "this server is being stopped", Ede.NOT_READY)

OnOutcome: TypeAlias = Callable[[Question, Reply | Failure], None]
"""Receives the outcome of a resolution."""


class Attempt(msgspec.Struct, eq=False, gc=False):
    """One query to one upstream.

    Attributes:
        upstream: the upstream.
        uses_stream: whether it goes over TCP or TLS instead of UDP.
        edns: whether it has an OPT record.
        sent_at: time at which it was sent.
        due_at: time from which on it is late.
        was_dead: whether the upstream was dead then.
        query_id: the id of the query in two bytes; None: the TCP client matches ids itself.
        carrier: the socket or TCP query; set and used by the resolver only.
        bad_messages: messages so far that do not answer it.
        is_open: whether a response is still accepted. If not, its carrier can be released.
        is_answered: whether the first message was its reply.
        is_late: whether there was no response until `due_at`.
        has_tcp_copy: whether the question was sent again over TCP, because an unusable message arrived.
    """

    upstream: Upstream
    uses_stream: bool
    edns: bool
    sent_at: float
    due_at: float
    was_dead: bool = False
    query_id: bytes | None = None
    carrier: Any = None
    bad_messages: int = 0
    is_open: bool = True
    is_answered: bool = False
    is_late: bool = False
    has_tcp_copy: bool = False

    @property
    def measures_rtt(self) -> bool:
        """Whether its duration is about the upstream, and not about a TCP connection that had to be made."""
        return not self.uses_stream or self.upstream.address.is_stream


Step: TypeAlias = Attempt | Reply | Failure | None
"""The next step: send this attempt, finish with this outcome, or wait."""


class Resolution(msgspec.Struct, eq=False, gc=False):
    """State of one question.

    Attributes:
        question: the question.
        upstreams: the upstreams to query.
        started_at: the time of the start.
        on_outcome: the receiver of the outcome; stored here for the resolver, never called.
        probed: the only upstream to query, once, to update its state; None: a client needs a response.
        limit_seconds: maximum duration.
        attempts: the attempts so far.
        wake_at: when to call `on_timer`.
        is_over: whether there is an outcome; set and used by the resolver only.
        slot: the slot of its timer, 0 without one; set and used by the resolver only.
    """

    question: Question
    upstreams: Upstreams
    started_at: float
    on_outcome: OnOutcome
    probed: Upstream | None = None
    limit_seconds: float = LIMIT_SECONDS
    attempts: list[Attempt] = []
    wake_at: float = 0.0
    is_over: bool = False
    slot: int = 0
    _best_reply: Reply | None = None
    _needs_stream: bool = False
    # Upstreams that have failed, and those that cannot be reached over UDP, with the reasons.
    _excluded: Mapping[Upstream, str] = _NO_UPSTREAMS
    _udp_errors: Mapping[Upstream, str] = _NO_UPSTREAMS
    _without_edns: Upstream | None = None  # the upstream that has rejected EDNS
    _had_shortage: bool = False

    @property
    def _deadline(self) -> float:
        return self.started_at + self.limit_seconds

    # -- events --------------------------------------------------------------------------------------------

    def start(self, now: float) -> Step:
        """Return the first attempt, or a failure if there are no upstreams."""
        upstreams = self.upstreams.ranked() if self.probed is None else (self.probed,)
        if not upstreams:
            return self._failure(now)
        plan = upstreams[0].plan(now)
        return self._add(upstreams[0], plan.timeout, now, uses_stream=plan.uses_tcp, edns=plan.uses_edns)

    def on_message(self, attempt: Attempt, message: bytes, now: float) -> Step:
        """Handle a message from the carrier of an attempt."""
        if not attempt.is_open:
            return None
        if attempt.query_id is not None and message[:2] != attempt.query_id:
            return self._on_wrong_id(attempt, now)
        try:
            reply = read_reply(message, self.question)
        except BadReplyError as error:
            return self._on_bad_reply(attempt, error, now)
        attempt.is_open = False
        attempt.is_answered = not attempt.bad_messages
        is_first = attempt.edns and not attempt.uses_stream and len(self.attempts) == 1
        if is_first and reply.ttl and not reply.is_referral:  # nearly always; with a TTL, it is conclusive
            if now >= attempt.upstream.settled_until:
                attempt.upstream.on_answer(now - attempt.sent_at, now)
            return reply
        attempt.upstream.on_response(now - attempt.sent_at if attempt.measures_rtt else None)
        return self._on_reply(attempt, reply, now)

    def on_error(self, attempt: Attempt, reason: str, now: float) -> Step:
        """Handle a network error: the query was not sent, or the upstream closed the port or connection."""
        if not attempt.is_open:
            return None
        attempt.is_open = False
        upstream = attempt.upstream
        if attempt.measures_rtt:
            upstream.on_failure()
        if attempt.uses_stream:
            upstream.on_tcp_failed()
            return self._exclude(upstream, reason, now)
        self._udp_errors = {**self._udp_errors, upstream: reason}
        return self._attempt_next(now)

    def on_shortage(self, attempt: Attempt, now: float) -> Step:
        """Handle a lack of file descriptors, ports or memory of this machine: retry later."""
        attempt.is_open = False
        self.attempts.remove(attempt)
        self._had_shortage = True
        if self.probed is not None:
            return self._failure(now)
        self.wake_at = min(now + RETRY_SECONDS, self._deadline)
        return None

    def on_timer(self, now: float) -> Step:
        """Handle `wake_at`: query the next upstream as well, or fail."""
        for attempt in self.attempts:
            if attempt.is_open and not attempt.is_late and attempt.due_at <= now:
                attempt.is_late = True
                attempt.upstream.timed_out += 1
                if attempt.uses_stream:
                    attempt.upstream.on_tcp_failed()
                if attempt.measures_rtt:
                    attempt.upstream.on_failure(now - attempt.sent_at)
        if now >= self._deadline:
            return self._failure(now)
        return self._attempt_next(now)

    def close_late_attempt(self) -> Attempt | None:
        """Close the oldest late attempt over UDP, so that the next attempt can have its socket."""
        for attempt in self.attempts:
            if attempt.is_open and attempt.is_late and not attempt.uses_stream:
                attempt.is_open = False
                return attempt
        return None

    # -- messages ------------------------------------------------------------------------------------------

    def _on_reply(self, attempt: Attempt, reply: Reply, now: float) -> Step:
        """Handle a message that is a reply of the upstream (RFC 5452 §9.1)."""
        upstream = attempt.upstream
        if reply.truncated and self.probed is None:
            self._keep_if_best(reply)
            if attempt.uses_stream:
                return self._exclude(upstream, "truncates even over TCP", now)
            self._needs_stream = True  # other upstreams would truncate it as well
            return self._attempt(upstream, now, edns=attempt.edns)
        if reply.rcode in _CONCLUSIVE and not reply.is_referral:
            upstream.on_conclusive_reply()
            self._note_support(attempt, now)
            return reply
        if attempt.edns and self._may_reject_edns(upstream, reply, now):
            return self._attempt(upstream, now, uses_stream=attempt.uses_stream, edns=False)
        if self.probed is None:
            upstream.on_refusal()
        self._keep_if_best(reply)
        reason = f"responds {_rcode_name(reply.rcode)}"
        return self._exclude(
            upstream, "does not recurse, but names other servers" if reply.is_referral else reason, now
        )

    def _note_support(self, attempt: Attempt, now: float) -> None:
        """Record whether the upstream supports EDNS and UDP, after a conclusive reply."""
        upstream = attempt.upstream
        if attempt.edns:
            upstream.on_edns_accepted(now)
        elif any(other.edns and other.upstream is upstream for other in self.attempts):
            upstream.on_edns_rejected(now, is_certain=upstream is self._without_edns)
        if not attempt.uses_stream:
            upstream.udp_doubts = 0
        elif not self._needs_stream and any(
            other.upstream is upstream
            and not other.uses_stream
            and (upstream in self._udp_errors or (other.is_late and other.is_open))
            for other in self.attempts
        ):
            upstream.on_udp_ignored(now)

    def _may_reject_edns(self, upstream: Upstream, reply: Reply, now: float) -> bool:
        """Return whether EDNS may be the reason for an error, and note if it is the most likely one.

        SERVFAIL and REFUSED are about the question, unless the upstream has not answered with EDNS lately.
        """
        if reply.rcode in _NO_EDNS or reply.rcode == Rcode.BADVERS:
            self._without_edns = upstream
            return True
        if reply.rcode not in _MAYBE_NO_EDNS or self.probed is not None or upstream.accepts_edns(now):
            return False
        self._keep_if_best(reply)
        return True

    def _on_wrong_id(self, attempt: Attempt, now: float) -> Step:
        """Handle a message with another id; after too many of them, use TCP."""
        self._count_bad_message(attempt)
        if attempt.bad_messages < MAX_BAD_MESSAGES:
            return None
        attempt.is_open = False
        if self.probed is not None:
            return self._exclude(attempt.upstream, "has its responses forged", now)
        self._needs_stream = True
        return self._attempt(attempt.upstream, now, edns=attempt.edns)

    def _on_bad_reply(self, attempt: Attempt, error: BadReplyError, now: float) -> Step:
        """Handle a message with the right id that is not a reply to the question.

        It may be forged, so the attempt stays open. More likely the upstream has sent it and will send no
        other, so the question is also sent over TCP at once. A server without EDNS support may send FORMERR
        or NOTIMP without the question. That is trusted: an attacker with the right id could forge any reply.
        """
        self._count_bad_message(attempt)
        if attempt.edns and error.rcode in _NO_EDNS:
            attempt.is_open = False
            self._without_edns = attempt.upstream
            return self._attempt(attempt.upstream, now, uses_stream=attempt.uses_stream, edns=False)
        if attempt.uses_stream or self.probed is not None:
            attempt.is_open = False
            return self._exclude(attempt.upstream, f"sends no usable response ({error.reason})", now)
        if attempt.bad_messages >= MAX_BAD_MESSAGES:
            attempt.is_open = False
        if attempt.has_tcp_copy:
            return None
        attempt.has_tcp_copy = True
        return self._attempt(attempt.upstream, now, uses_stream=True, edns=attempt.edns)

    def _count_bad_message(self, attempt: Attempt) -> None:
        attempt.bad_messages += 1
        attempt.upstream.bad_messages += 1

    def _keep_if_best(self, reply: Reply) -> None:
        if self._best_reply is None or _worth(reply) > _worth(self._best_reply):
            self._best_reply = reply

    # -- attempts ------------------------------------------------------------------------------------------

    def _attempt(
        self, upstream: Upstream, now: float, *, uses_stream: bool = False, edns: bool | None = None
    ) -> Attempt:
        """Return another attempt with this upstream, depending on the earlier ones."""
        plan = upstream.plan(now)
        seconds = plan.timeout
        uses_stream = uses_stream or self._needs_stream or plan.uses_tcp
        may_use_edns = upstream is not self._without_edns
        for earlier in self.attempts:
            if earlier.is_late and earlier.upstream is upstream:
                seconds = min(2 * seconds, _MAX_REPEATED_TIMEOUT)
                if earlier.edns and not uses_stream and not upstream.accepts_edns(now):
                    may_use_edns = False
        if edns is None:
            edns = may_use_edns and plan.uses_edns
        return self._add(upstream, seconds, now, uses_stream=uses_stream, edns=edns)

    def _add(
        self, upstream: Upstream, seconds: float, now: float, *, uses_stream: bool, edns: bool
    ) -> Attempt:
        """Return a new attempt with this upstream, with this time-out over UDP."""
        if uses_stream:
            seconds *= _STREAM_TIMEOUT_FACTOR
        due_at, deadline = now + seconds, self.started_at + self.limit_seconds
        attempt = Attempt(upstream, uses_stream, edns, now, due_at, upstream.is_dead)
        upstream.queried_at = now
        self.attempts.append(attempt)
        self.wake_at = due_at if due_at < deadline else deadline  # noqa: FURB136 - a third of min()'s time
        return attempt

    def _exclude(self, upstream: Upstream, reason: str, now: float) -> Step:
        """Send no more queries to this upstream; continue with the next one."""
        self._excluded = {**self._excluded, upstream: reason}
        return self._attempt_next(now)

    def _attempt_next(self, now: float) -> Step:
        """Return an attempt with the upstream that has the fewest attempts; of several, the best one.

        If no upstream may be queried again, wait for the open attempts; without any, fail.
        """
        chosen, fewest = None, 0
        for upstream in self._candidates():
            if upstream in self._excluded:
                continue
            earlier = [attempt for attempt in self.attempts if attempt.upstream is upstream]
            was_dead = self.probed is None and bool(earlier) and earlier[0].was_dead
            limit, count = MAX_ATTEMPTS_ON_DEAD if was_dead else MAX_ATTEMPTS, len(earlier)
            if count < limit and (chosen is None or count < fewest):
                chosen, fewest = upstream, count
        if chosen is not None:
            is_last = fewest == MAX_ATTEMPTS - 1
            return self._attempt(chosen, now, uses_stream=is_last or chosen in self._udp_errors)
        if any(attempt.is_open and not attempt.has_tcp_copy for attempt in self.attempts):
            self.wake_at = self._next_due_at(now)
            return None
        return self._failure(now)

    def _candidates(self) -> Sequence[Upstream]:
        """Return the upstreams that may be queried, the best first.

        A dead upstream is probed in each way, since it may lack support of EDNS or UDP. Other probes are sent
        once.
        """
        if self.probed is None:
            return self.upstreams.ranked()
        return [self.probed] if self.probed.is_dead else ()

    def _next_due_at(self, now: float) -> float:
        """Return when the next open attempt becomes late; the deadline if none does earlier."""
        due = (attempt.due_at for attempt in self.attempts if attempt.is_open and attempt.due_at > now)
        return min([self._deadline, *due])

    # -- failure -------------------------------------------------------------------------------------------

    def _failure(self, now: float) -> Failure:
        reasons = {**self._excluded, **self._udp_errors}
        silent = dict.fromkeys(
            attempt.upstream
            for attempt in self.attempts
            if (attempt.is_open or attempt.is_late) and attempt.upstream not in reasons
        )
        parts = [f"{upstream.address} {reason}" for upstream, reason in reasons.items()]
        if silent:
            names = _enumerate([str(upstream.address) for upstream in silent])
            parts.append(f"no response from {names} within {now - self.started_at:.1f} s")
        if self._had_shortage and not parts:
            text = "no file descriptor was left for a query (see ulimit -n)"
            return Failure(FailureKind.OVERLOADED, text, Ede.NO_REACHABLE_AUTHORITY)
        text = "; ".join(parts) or "there is no upstream to query"
        best = self._best_reply
        if best is not None and best.rcode not in _CONCLUSIVE:
            kind = FailureKind.REFUSED if best.rcode == Rcode.REFUSED else FailureKind.SERVFAIL
            return Failure(kind, text, Ede.NO_REACHABLE_AUTHORITY, best)
        recoveries = self.upstreams.recoveries if self.upstreams.have_failed else None
        if silent:
            return Failure(FailureKind.TIMED_OUT, text, Ede.NO_REACHABLE_AUTHORITY, best, recoveries)
        return Failure(FailureKind.NETWORK, text, Ede.NETWORK_ERROR, best, recoveries)


def _worth(reply: Reply) -> int:
    """Rank an inconclusive reply: part of an answer, SERVFAIL (the upstream tried), REFUSED, other."""
    if reply.is_partial_answer:
        return 3
    return {int(Rcode.SERVFAIL): 2, int(Rcode.REFUSED): 1}.get(reply.rcode, 0)


def _rcode_name(rcode: int) -> str:
    try:
        return Rcode(rcode).name
    except ValueError:
        return f"with the unknown response code {rcode}"


def _enumerate(names: Sequence[str]) -> str:
    """Join names as in a sentence: `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
