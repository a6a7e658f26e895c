"""One question, from when it is asked until it has an answer: what to do at each event. No socket, no clock.

    begin ──▶ Try ──▶ received ──▶ Reply          an answer that counts
               ▲         ├───────▶ Try            of the same upstream in another way, or of the next one
               │         └───────▶ None           nothing changes: a forged message, say
               └───────── woken                   it took too long: the next one is asked as well
                         failed, put_off          could not be sent, came back, or must be sent later
    the time is over, or all have said no ──▶ Failure

What takes long is still listened to while others are asked: the time after which another one is asked is that
of a lost packet, and resolvers need longer than that for names that they have not in their caches.

Who forges an answer must guess the id and the port of a query before its answer is there. He may not guess
often: after some wrong messages the question is asked over TCP, where nobody guesses (RFC 5452 §9).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from zkdns.dns.edns import Ede
from zkdns.dns.message import Rcode
from zkdns.forward.message import BadReplyError, read_reply
from zkdns.forward.question import Question
from zkdns.forward.reply import Reply
from zkdns.forward.upstreams import Upstream, Upstreams

LIMIT_SECONDS: Final = 3.8
"""So long a question takes at most; stubs give up after 5 s, and some of our own work comes on top of it."""
PROBE_LIMIT_SECONDS: Final = 2.0
"""So long an answer is waited for that only shall tell something of its upstream."""
MAX_BAD_REPLIES: Final = 8
"""So many messages that are no answer may come to one socket. Each has a chance of one in 65,536."""
MAX_ATTEMPTS: Final = 3
"""So often one upstream is asked one question at most in the same way (RFC 9520 §3.1)."""
MAX_ATTEMPTS_ON_DEAD: Final = 2
"""The same of one that was dead already: thousands may wait for it, and each try takes its time."""
DEFER_SECONDS: Final = 0.1
"""After so long what could not be sent for want of files is tried again."""

_MOST_PATIENCE = 1.0  # seconds until one is asked again that is silent
_STREAM_PATIENCE = 2  # a connection takes one way there and back more than a datagram

_NO_EDNS = frozenset({Rcode.FORMERR, Rcode.NOTIMP})  # RFC 6891 §7
# What another upstream may know better. Everything else is an answer; NXDOMAIN first of all.
_REFUSALS = frozenset({Rcode.FORMERR, Rcode.SERVFAIL, Rcode.NOTIMP, Rcode.REFUSED, Rcode.BADVERS})


class Kind(enum.Enum):
    """Why there is no answer."""

    TIMED_OUT = "timed out"
    SERVFAIL = "servfail"
    REFUSED = "refused"
    NETWORK = "network"
    OVERLOADED = "overloaded"
    STOPPED = "stopped"


class Failure(msgspec.Struct, frozen=True):
    """That there is no answer.

    Attributes:
        kind: why.
        text: the same for people, with the upstreams' addresses.
        ede: the extended error that tells it (RFC 8914).
        reply: the best of what upstreams said: a truncated answer that could not be had whole, or an error.
    """

    kind: Kind
    text: str
    ede: Ede
    reply: Reply | None = None


STOPPED: Final = Failure(Kind.STOPPED, "this server is being stopped", Ede.NOT_READY)


class Attempt:
    """One query to one upstream.

    Attributes:
        upstream: whom.
        by_stream: whether over TCP or TLS, or else over UDP.
        edns: whether with EDNS.
        ident: the id that its answer must have; None: a stream takes care of that.
        sent_at: when.
        due: when its answer begins to be late.
        is_open: whether an answer to it is still waited for; if not, what carries it can go.
        carrier: the socket, or whatever else carries it: its owner's affair.
    """

    __slots__ = (
        "by_stream",
        "carrier",
        "due",
        "edns",
        "ident",
        "is_doubted",
        "is_late",
        "is_open",
        "sent_at",
        "upstream",
        "wrong",
    )

    def __init__(
        self, upstream: Upstream, *, by_stream: bool, edns: bool, sent_at: float, due: float
    ) -> None:
        self.upstream = upstream
        self.by_stream = by_stream
        self.edns = edns
        self.sent_at = sent_at
        self.due = due
        self.ident: bytes | None = None
        self.carrier: Any = None
        self.wrong = 0
        self.is_open = True
        self.is_late = False
        self.is_doubted = False  # it got something that cannot be read, and was asked anew over TCP

    @property
    def tells_distance(self) -> bool:
        """Whether its time says something of its upstream, and not of a connection that had to be made."""
        return not self.by_stream or self.upstream.address.tls is not None


Step = Attempt | Reply | Failure | None
"""What to do next: send that, be done with that outcome, or wait."""


class Resolution:
    """One question on its way.

    Attributes:
        question: what is asked.
        done: who wants the outcome.
        tries: the queries so far.
        only: the one upstream that is asked, once, to learn of it; None: the question wants an answer.
        wake_at: when `woken` wants to be called.

    Args:
        question: what is asked.
        upstreams: whom to ask.
        now: when it begins.
        done: is kept here, and never called.
        only: an upstream to ask that one alone.
    """

    __slots__ = (
        "_began",
        "_best",
        "_by_stream",
        "_dead",
        "_end",
        "_is_short",
        "_out",
        "_plain",
        "_upstreams",
        "done",
        "is_over",
        "only",
        "question",
        "tries",
        "wake_at",
        "watched_at",
    )

    def __init__(
        self,
        question: Question,
        upstreams: Upstreams,
        now: float,
        done: Callable[[Reply | Failure], None],
        only: Upstream | None = None,
    ) -> None:
        self.question = question
        self.done = done
        self.only = only
        self.tries: list[Attempt] = []
        self.is_over = False  # for who carries it out
        self.wake_at = self._end = now + (LIMIT_SECONDS if only is None else PROBE_LIMIT_SECONDS)
        self.watched_at = 0.0  # for who wakes it
        self._upstreams = upstreams
        self._began = now
        self._best: Reply | None = None
        self._by_stream = False
        self._out: dict[Upstream, str] = {}  # who has said no, and how
        self._plain: Upstream | None = None  # who may not know EDNS
        self._is_short = False
        self._dead = [upstream for upstream in upstreams.all if upstream.is_dead]

    def begin(self, now: float) -> Step:
        """The first query, or a failure where there is nobody to ask."""
        if self.only is not None:
            return self._ask(self.only, now)
        return self._ask_next(now)

    def received(self, tried: Attempt, message: bytes, now: float) -> Step:
        """Something came where the answer to a try is waited for."""
        if not tried.is_open:
            return None
        if tried.ident is not None and message[:2] != tried.ident:
            return self._wrong(tried, now)
        try:
            reply = read_reply(message, self.question)
        except BadReplyError as error:
            return self._unreadable(tried, error, now)
        tried.is_open = False
        tried.upstream.answered += 1
        tried.upstream.lives(now - tried.sent_at if tried.tells_distance else None)
        return self._answered(tried, reply, now)

    def failed(self, tried: Attempt, reason: str, now: float) -> Step:
        """A query could not be sent, or came back: its upstream is not there, or hangs up."""
        if not tried.is_open:
            return None
        tried.is_open = False
        if tried.tells_distance:
            tried.upstream.fails()
        return self._ask_other(tried.upstream, reason, now)

    def put_off(self, tried: Attempt, now: float) -> Step:
        """A query could not be sent for want of files, which says nothing of its upstream."""
        tried.is_open = False
        self.tries.remove(tried)
        self._is_short = True
        if self.only is not None:
            return self._failure(now)
        self.wake_at = min(now + DEFER_SECONDS, self._end)
        return None

    def give_way(self) -> Attempt | None:
        """Listen no more to the oldest query that is late, so that its socket can serve the next one."""
        for tried in self.tries:
            if tried.is_open and tried.is_late and not tried.by_stream:
                tried.is_open = False
                return tried
        return None

    def woken(self, now: float) -> Step:
        """It is `wake_at`: ask another one too, or give up."""
        for tried in self.tries:
            if tried.is_open and not tried.is_late and tried.due <= now:
                tried.is_late = True
                tried.upstream.timed_out += 1
                if tried.tells_distance:
                    tried.upstream.fails(now - tried.sent_at)
        if now >= self._end:
            return self._failure(now)
        return self._ask_next(now)

    # -- what came -----------------------------------------------------------------------------------------

    def _answered(self, tried: Attempt, reply: Reply, now: float) -> Step:
        """A message came that counts as what this upstream says (RFC 5452 §9.1)."""
        upstream = tried.upstream
        if reply.truncated and self.only is None:
            if tried.by_stream:
                return self._ask_other(upstream, "truncates even over TCP", now)
            self._keep(reply)
            self._by_stream = True  # the answer will be too long for all
            return self._ask(upstream, now, edns=tried.edns)
        if reply.rcode not in _REFUSALS:
            upstream.refusals = 0
            if upstream is self._plain:
                upstream.plain(now)
            return reply
        no_edns = reply.rcode == Rcode.BADVERS or (reply.rcode in _NO_EDNS and not reply.has_edns)
        if tried.edns and no_edns:
            return self._ask_plain(tried, now)
        if self.only is None:
            upstream.refusals += 1
        self._keep(reply)
        return self._ask_other(upstream, f"says {_rcode_name(reply.rcode)}", now)

    def _wrong(self, tried: Attempt, now: float) -> Step:
        """A message with another id."""
        self._count_bad(tried)
        if tried.wrong < MAX_BAD_REPLIES:
            return None
        tried.is_open = False
        if self.only is not None:
            return self._ask_other(tried.upstream, "has its answers forged", now)
        self._by_stream = True
        return self._ask(tried.upstream, now, edns=tried.edns)

    def _unreadable(self, tried: Attempt, error: BadReplyError, now: float) -> Step:
        """A message with the right id that is no answer to the question.

        It may be a forged one, so the answer is still waited for; more likely it is all that will come, so
        TCP is tried at once. A bare FORMERR or NOTIMP comes from servers that know no EDNS; who could forge
        that could forge an answer as well.
        """
        self._count_bad(tried)
        if tried.edns and error.rcode in _NO_EDNS:
            tried.is_open = False
            return self._ask_plain(tried, now)
        if tried.by_stream or self.only is not None:
            tried.is_open = False
            return self._ask_other(tried.upstream, f"sends no usable answer ({error.reason})", now)
        if tried.wrong >= MAX_BAD_REPLIES:
            tried.is_open = False
        if tried.is_doubted:
            return None
        tried.is_doubted = True
        return self._ask(tried.upstream, now, by_stream=True, edns=tried.edns)

    def _count_bad(self, tried: Attempt) -> None:
        tried.wrong += 1
        tried.upstream.bad += 1
        self._upstreams.bad += 1

    def _keep(self, reply: Reply) -> None:
        if self._best is None or _worth(reply) > _worth(self._best):
            self._best = reply

    # -- whom to ask next ----------------------------------------------------------------------------------

    def _ask(
        self, upstream: Upstream, now: float, *, by_stream: bool = False, edns: bool | None = None
    ) -> Attempt:
        by_stream = by_stream or self._by_stream or upstream.address.tls is not None
        seconds = upstream.timeout
        for earlier in self.tries:  # who has let us wait is asked again less often
            if earlier.is_late and earlier.upstream is upstream:
                seconds = min(2 * seconds, _MOST_PATIENCE)
        if by_stream:
            seconds *= _STREAM_PATIENCE
        if edns is None:
            edns = upstream is not self._plain and upstream.has_edns(now)
        tried = Attempt(upstream, by_stream=by_stream, edns=edns, sent_at=now, due=now + seconds)
        upstream.asked_at = now
        self.tries.append(tried)
        self.wake_at = min(tried.due, self._end)
        return tried

    def _ask_plain(self, tried: Attempt, now: float) -> Attempt:
        """The same without EDNS."""
        self._plain = tried.upstream
        return self._ask(tried.upstream, now, by_stream=tried.by_stream, edns=False)

    def _ask_other(self, upstream: Upstream, reason: str, now: float) -> Step:
        """This one has said no."""
        self._out[upstream] = reason
        return self._ask_next(now)

    def _ask_next(self, now: float) -> Step:
        """Ask the best of those that were asked least often; wait, or give up, where all have said no."""
        chosen, fewest = None, 0
        for upstream in self._upstreams.ranked() if self.only is None else ():
            if upstream in self._out:
                continue
            count = sum(tried.upstream is upstream for tried in self.tries)
            if count >= (MAX_ATTEMPTS_ON_DEAD if upstream in self._dead else MAX_ATTEMPTS):
                continue
            if chosen is None or count < fewest:
                chosen, fewest = upstream, count
        if chosen is not None:
            return self._ask(chosen, now)
        if any(tried.is_open and not tried.is_doubted for tried in self.tries):
            self.wake_at = self._next_due(now)
            return None
        return self._failure(now)

    def _next_due(self, now: float) -> float:
        """When the next answer begins to be late, which says something of its upstream."""
        dues = (tried.due for tried in self.tries if tried.is_open and tried.due > now)
        return min([self._end, *dues])

    # -- that nothing came ---------------------------------------------------------------------------------

    def _failure(self, now: float) -> Failure:
        silent = dict.fromkeys(
            tried.upstream
            for tried in self.tries
            if (tried.is_open or tried.is_late) and tried.upstream not in self._out
        )
        parts = [f"{upstream.address} {reason}" for upstream, reason in self._out.items()]
        if silent:
            names = _listed([str(upstream.address) for upstream in silent])
            parts.append(f"no answer from {names} within {now - self._began:.1f} s")
        if self._is_short and not parts:
            text = "no file was left to ask with (ulimit -n says how many there are)"
            return Failure(Kind.OVERLOADED, text, Ede.NO_REACHABLE_AUTHORITY)
        text = "; ".join(parts) or "there is no upstream to ask"
        best = self._best
        if best is not None and not best.truncated:
            kind = Kind.REFUSED if best.rcode == Rcode.REFUSED else Kind.SERVFAIL
            return Failure(kind, text, Ede.NO_REACHABLE_AUTHORITY, best)
        if silent:
            return Failure(Kind.TIMED_OUT, text, Ede.NO_REACHABLE_AUTHORITY, best)
        return Failure(Kind.NETWORK, text, Ede.NETWORK_ERROR, best)


def _worth(reply: Reply) -> int:
    """How much a reply says that is no answer: a part of one most, then that there was a try to find it."""
    if reply.truncated:
        return 3
    return {Rcode.SERVFAIL: 2, Rcode.REFUSED: 1}.get(Rcode(reply.rcode), 0)


def _rcode_name(rcode: int) -> str:
    return Rcode(rcode).name  # of those that are refusals each has one


def _listed(names: Sequence[str]) -> str:
    """As a sentence lists them."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
