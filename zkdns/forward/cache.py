"""What upstreams have said, for as long as they said it may be kept, and what they could not say.

An entry is fresh until its time is over; then it is kept on for the day on which all upstreams are silent
(RFC 8767), until others need its place: those least recently asked for go first. Time is a parameter, in
whole seconds that never go back. Never here: sockets, clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from cachetools import LRUCache

from zkdns.forward.question import Question
from zkdns.forward.reply import MOST_TTL, Reply

MAX_BYTES: Final = 64 << 20
MOST_NEGATIVE_TTL: Final = 3_600  # RFC 2308 §5 suggests one to three hours
LONGEST_STALE: Final = 86400  # a day (RFC 8767 §5 says one to three)
LEAST_FAILURE: Final = 1  # RFC 9520 §3.2
LONGEST_FAILURE: Final = 300  # RFC 9520 §3.2

# What an entry takes beside its bytes, and each of its records for its TTL and its places (measured).
_OVERHEAD = 900
_RECORD_OVERHEAD = 110
_ROOT = b"\0"


class Entry(msgspec.Struct, gc=False):
    """A reply that is kept.

    Attributes:
        question: what it answers.
        reply: what was said.
        stored: the second in which it came.
        expires: the second from which on it is no longer fresh.
        hits: how often it was asked for while it was fresh.
        most_ttl: what longer TTLs in it count as, for `Reply.render`.
        is_prefetched: whether it was said once that it wants to be.
    """

    question: Question
    reply: Reply
    stored: int
    expires: int
    most_ttl: int = MOST_TTL
    hits: int = 0
    is_prefetched: bool = False

    @property
    def size(self) -> int:
        """Bytes that it takes, more or less."""
        reply = self.reply
        own = len(self.question.name) + len(reply.records) + len(reply.ede)
        return _OVERHEAD + own + _RECORD_OVERHEAD * len(reply.ends)

    def age(self, now: int) -> int:
        """Seconds since it came."""
        return now - self.stored

    def is_fresh(self, now: int) -> bool:
        """Whether its time is not over."""
        return now < self.expires

    def wants_prefetch(self, now: int) -> bool:
        """Whether it should be asked for anew before it expires; true once, and then it is taken as done.

        To be called when it is asked for: what is still asked for in the last tenth of its time, or in its
        last second, will be asked for again.
        """
        lasts = self.expires - self.stored
        if self.is_prefetched or lasts < 2:  # noqa: PLR2004 - one second has no last part
            return False
        self.is_prefetched = 0 < self.expires - now <= max(lasts // 10, 1)
        return self.is_prefetched


class KnownFailure(msgspec.Struct, frozen=True, gc=False):
    """A question that could not be answered (RFC 9520).

    Attributes:
        until: the second from which on it may be asked again.
        wait: how many seconds that was from the failure on.
        errors: the extended errors that were answered (RFC 8914), as options.
        text: what people were told.
    """

    until: int
    wait: int
    errors: bytes = b""
    text: str = ""


class _Entries(LRUCache[Question, Entry]):
    """Entries, of which those least recently asked for go first; each that goes is told of."""

    def __init__(self, most: int, gone: Callable[[Entry], None]) -> None:
        super().__init__(most)
        self._gone = gone

    def popitem(self) -> tuple[Question, Entry]:
        question, entry = super().popitem()
        self._gone(entry)
        return question, entry


class Cache:
    """Replies and failures by question.

    Attributes:
        on_gone: called with the question of each entry that goes, or is replaced, when that is done: whoever
            has made something of the entry has to forget that.
        size: bytes that are taken, more or less.
        evicted: entries that went for others, fresh or not.

    Args:
        most_entries: how many replies are kept; and so many failures.
        most_ttl: seconds that longer TTLs count as.
        most_negative_ttl: the same for denials.
        stale_seconds: how long entries may be used when they have expired; 0: not at all.
        most_bytes: how much memory the replies may take, more or less.
    """

    def __init__(
        self,
        *,
        most_entries: int,
        most_ttl: int,
        stale_seconds: int,
        most_negative_ttl: int = MOST_NEGATIVE_TTL,
        most_bytes: int = MAX_BYTES,
    ) -> None:
        self.on_gone: Callable[[Question], None] = lambda _question: None
        self.size = self.evicted = 0
        self._most_entries, self._most_bytes = most_entries, most_bytes
        self._most_ttl = most_ttl
        self._most_negative_ttl = min(most_negative_ttl, most_ttl)
        self._stale_seconds = min(stale_seconds, LONGEST_STALE)
        self._entries = _Entries(most_entries, self._forget_evicted)
        self._failures: LRUCache[Question, KnownFailure] = LRUCache(most_entries)

    def __len__(self) -> int:
        return len(self._entries)

    # -- replies -------------------------------------------------------------------------------------------

    def get(self, question: Question, now: int) -> Entry | None:
        """The entry that is fresh."""
        entry = self._entries.get(question)  # most often there is none, and an exception takes longer
        if entry is None:
            return None
        if now < entry.expires:
            entry.hits += 1
            return entry
        if now >= entry.expires + self._stale_seconds:
            self._drop(question)
        return None

    def get_stale(self, question: Question, now: int) -> Entry | None:
        """The entry that has expired, but not too long ago to be better than nothing (RFC 8767 §4)."""
        entry = self._entries.get(question)
        if entry is None or not entry.expires <= now < entry.expires + self._stale_seconds:
            return None
        return entry

    def put(self, question: Question, reply: Reply, now: int) -> Entry | None:
        """Keep a reply, and forget an earlier one and failures; None: it must not be kept.

        A reply that says nothing about the name, as SERVFAIL, or not all, changes nothing: what was said
        before is still the best that is known (RFC 8767 §4).
        """
        if not reply.is_conclusive:
            return None
        self._failures.pop(question, None)
        had = self._entries.pop(question, None)
        if had is not None:
            self.size -= had.size
        entry = self._entry(question, reply, now)
        if entry is not None:
            while self.size + entry.size > self._most_bytes:
                self._entries.popitem()
            self._entries[question] = entry
            self.size += entry.size
        if had is not None:
            self.on_gone(question)
        return entry

    def max_ttl(self, reply: Reply) -> int:
        """The TTL that longer ones of a reply count as, for `Reply.render`."""
        if not reply.ttl or not reply.is_conclusive:
            return MOST_TTL
        return self._most_negative_ttl if reply.is_negative else self._most_ttl

    def _entry(self, question: Question, reply: Reply, now: int) -> Entry | None:
        """The entry for a reply, where it may be kept and there can be room for it."""
        most = self.max_ttl(reply)
        lasts = min(reply.ttl, most)
        entry = Entry(question, reply, now, now + lasts, most_ttl=most)
        has_room = self._most_entries > 0 and entry.size <= self._most_bytes
        return entry if lasts and has_room else None

    def _drop(self, question: Question) -> None:
        entry = self._entries.pop(question)
        self.size -= entry.size
        self.on_gone(question)

    def _forget_evicted(self, entry: Entry) -> None:
        self.size -= entry.size
        self.evicted += 1
        self.on_gone(entry.question)

    # -- failures ------------------------------------------------------------------------------------------

    def put_failure(self, question: Question, now: int, *, errors: bytes = b"", text: str = "") -> None:
        """Remember that nobody could answer: for a second, and twice as long each time that it is so again.

        It begins anew when a question was not asked for as long as failures are remembered at most.
        """
        before = self._failures.get(question)
        wait = LEAST_FAILURE
        if before is not None and now < before.until + LONGEST_FAILURE:
            wait = before.wait if now < before.until else min(2 * before.wait, LONGEST_FAILURE)
        if self._most_entries:
            self._failures[question] = KnownFailure(now + wait, wait, errors, text)

    def failure(self, question: Question, now: int) -> KnownFailure | None:
        """The failure for which the question must not be asked now."""
        found = self._failures.get(question)
        return found if found is not None and now < found.until else None

    # -- forgetting ----------------------------------------------------------------------------------------

    def flush(self, name: bytes | None = None, *, below: bool = True) -> int:
        """Forget a name.

        Args:
            name: in wire form and lower case; None: all names.
            below: and all names below it.

        Returns:
            Of how many questions a reply or a failure was forgotten.
        """
        gone = self._matching(self._entries, name, below=below)
        failed = self._matching(self._failures, name, below=below)
        for question in failed:
            del self._failures[question]
        for question in gone:
            self._drop(question)
        return len({*gone, *failed})

    @staticmethod
    def _matching(questions: Iterable[Question], name: bytes | None, *, below: bool) -> list[Question]:
        if name is None or (below and name == _ROOT):
            return list(questions)
        if below:
            return [question for question in questions if is_below(question.name, name)]
        return [question for question in questions if question.name == name]


def is_below(name: bytes, above: bytes) -> bool:
    """Whether a name is the other one or lies below it; both in wire form and lower case."""
    if not name.endswith(above):
        return False
    at, begins = 0, len(name) - len(above)
    while at < begins:  # the same bytes may stand within a label
        at += name[at] + 1
    return at == begins
