"""The forward cache: replies of upstreams by question, and recent failures.

An entry is fresh until its TTL has expired. Then it is kept as stale, for a time when no upstream responds
(RFC 8767), until its place is needed: the entries that were requested least recently are evicted first. The
caller passes the time, in whole seconds that never decrease. No sockets and no clocks here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from cachetools import LRUCache

from zkdns.forward.message import Question
from zkdns.forward.reply import MAX_TTL, Reply

MAX_BYTES: Final = 64 << 20
MAX_NEGATIVE_TTL: Final = 3_600  # RFC 2308 §5 suggests one to three hours
MAX_STALE_SECONDS: Final = 86400  # one day (RFC 8767 §5 suggests one to three)
MIN_FAILURE_SECONDS: Final = 1  # RFC 9520 §3.2
MAX_FAILURE_SECONDS: Final = 300  # RFC 9520 §3.2

# Memory of an entry in addition to its bytes, and of each record's TTL and offsets (measured).
_OVERHEAD = 900
_RECORD_OVERHEAD = 110
_ROOT = b"\0"


class Entry(msgspec.Struct, gc=False):
    """A cached reply.

    Attributes:
        question: the question.
        reply: the reply.
        stored_at: the second in which it was stored.
        expires_at: the first second in which it is not fresh.
        max_ttl: upper limit of its TTLs, for `Reply.render`.
        hits: number of times that it was returned while fresh.
        is_prefetched: whether a prefetch was started.
    """

    question: Question
    reply: Reply
    stored_at: int
    expires_at: int
    max_ttl: int = MAX_TTL
    hits: int = 0
    is_prefetched: bool = False

    @property
    def size(self) -> int:
        """Approximate memory in bytes."""
        reply = self.reply
        own = len(self.question.name) + len(reply.records) + len(reply.ede)
        return _OVERHEAD + own + _RECORD_OVERHEAD * len(reply.ends)

    def age(self, now: int) -> int:
        """Return the number of seconds since it was stored."""
        return now - self.stored_at

    def is_fresh(self, now: int) -> bool:
        """Return whether its TTL has not expired."""
        return now < self.expires_at

    def start_prefetch_if_due(self, now: int) -> bool:
        """Return whether to query the upstream again before the entry expires; True at most once.

        Call this when the entry is requested: an entry that is requested in the last tenth of its TTL, or in
        its last second, is likely to be requested again.
        """
        ttl = self.expires_at - self.stored_at
        if self.is_prefetched or ttl < 2:  # noqa: PLR2004 - one second has no last part
            return False
        self.is_prefetched = 0 < self.expires_at - now <= max(ttl // 10, 1)
        return self.is_prefetched


class CachedFailure(msgspec.Struct, frozen=True, gc=False):
    """A question that upstreams could not answer (RFC 9520).

    Attributes:
        until: the first second in which the question may be sent again.
        seconds: the time from the failure to `until`.
        errors: the extended errors of the response (RFC 8914), as options.
        text: the reason for people.
    """

    until: int
    seconds: int
    errors: bytes = b""
    text: str = ""


class _Entries(LRUCache[Question, Entry]):
    """Entries with LRU eviction, and a callback for each evicted entry."""

    def __init__(self, max_entries: int, on_evicted: Callable[[Entry], None]) -> None:
        super().__init__(max_entries)
        self._on_evicted = on_evicted

    def popitem(self) -> tuple[Question, Entry]:
        question, entry = super().popitem()
        self._on_evicted(entry)
        return question, entry


class Cache:
    """Replies and failures by question.

    Attributes:
        on_removed: called with the question after its entry was removed or replaced, so that responses made
            from the entry can be removed from other caches.
        size: approximate memory in bytes.
        evictions: entries removed to make room, fresh or stale.

    Args:
        max_entries: maximum number of replies, and of failures.
        max_ttl: upper limit of TTLs in seconds.
        stale_seconds: how long stale entries may be used; 0: not at all.
        max_negative_ttl: upper limit of TTLs of negative replies in seconds.
        max_bytes: approximate maximum memory of the replies.
    """

    def __init__(
        self,
        *,
        max_entries: int,
        max_ttl: int,
        stale_seconds: int,
        max_negative_ttl: int = MAX_NEGATIVE_TTL,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.on_removed: Callable[[Question], None] = lambda _question: None
        self.size = self.evictions = 0
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._max_ttl = max_ttl
        self._max_negative_ttl = min(max_negative_ttl, max_ttl)
        self._stale_seconds = min(stale_seconds, MAX_STALE_SECONDS)
        self._entries = _Entries(max_entries, self._on_evicted)
        self._failures: LRUCache[Question, CachedFailure] = LRUCache(max_entries)

    def __len__(self) -> int:
        return len(self._entries)

    # -- replies -------------------------------------------------------------------------------------------

    def get(self, question: Question, now: int) -> Entry | None:
        """Return the fresh entry."""
        entry = self._entries.get(question)  # faster than an exception: most questions are not cached
        if entry is None:
            return None
        if now < entry.expires_at:
            entry.hits += 1
            return entry
        if now >= entry.expires_at + self._stale_seconds:
            self._remove(question)
        return None

    def get_stale(self, question: Question, now: int) -> Entry | None:
        """Return the entry if it is stale and may still be used (RFC 8767 §4)."""
        entry = self._entries.get(question)
        if entry is None or not entry.expires_at <= now < entry.expires_at + self._stale_seconds:
            return None
        return entry

    def put(self, question: Question, reply: Reply, now: int) -> Entry | None:
        """Store a reply, and remove the earlier one and failures.

        An inconclusive reply, such as SERVFAIL or a truncated one, changes nothing: the earlier reply remains
        the best one (RFC 8767 §4).

        Returns:
            The entry; None: the reply may not be cached, or there is no room for it.
        """
        if not reply.is_conclusive:
            return None
        self._failures.pop(question, None)
        previous = self._entries.pop(question, None)
        if previous is not None:
            self.size -= previous.size
        entry = self._entry(question, reply, now)
        if entry is not None:
            while self.size + entry.size > self._max_bytes:
                self._entries.popitem()
            self._entries[question] = entry
            self.size += entry.size
        if previous is not None:
            self.on_removed(question)
        return entry

    def max_ttl_of(self, reply: Reply) -> int:
        """Return the upper limit of the TTLs in a reply, for `Reply.render`."""
        if not reply.ttl or not reply.is_conclusive:
            return MAX_TTL
        return self._max_negative_ttl if reply.is_negative else self._max_ttl

    def _entry(self, question: Question, reply: Reply, now: int) -> Entry | None:
        """Return an entry for a reply; None: it may not be cached, or is too large."""
        max_ttl = self.max_ttl_of(reply)
        ttl = min(reply.ttl, max_ttl)
        entry = Entry(question, reply, now, now + ttl, max_ttl)
        has_room = self._max_entries > 0 and entry.size <= self._max_bytes
        return entry if ttl and has_room else None

    def _remove(self, question: Question) -> None:
        entry = self._entries.pop(question)
        self.size -= entry.size
        self.on_removed(question)

    def _on_evicted(self, entry: Entry) -> None:
        self.size -= entry.size
        self.evictions += 1
        self.on_removed(entry.question)

    # -- failures ------------------------------------------------------------------------------------------

    def put_failure(self, question: Question, now: int, *, errors: bytes = b"", text: str = "") -> None:
        """Store a failure: for one second, and twice as long for each further failure.

        After `MAX_FAILURE_SECONDS` without a further failure, it starts with one second again.
        """
        previous = self._failures.get(question)
        seconds = MIN_FAILURE_SECONDS
        if previous is not None and now < previous.until + MAX_FAILURE_SECONDS:
            is_current = now < previous.until
            seconds = previous.seconds if is_current else min(2 * previous.seconds, MAX_FAILURE_SECONDS)
        if self._max_entries:
            self._failures[question] = CachedFailure(now + seconds, seconds, errors, text)

    def get_failure(self, question: Question, now: int) -> CachedFailure | None:
        """Return the failure because of which the question must not be sent now."""
        found = self._failures.get(question)
        return found if found is not None and now < found.until else None

    # -- flushing ------------------------------------------------------------------------------------------

    def flush(self, name: bytes | None = None, *, below: bool = True) -> int:
        """Remove the replies and failures of a name.

        Args:
            name: in wire format and lower case; None: all names.
            below: whether to include the names below it.

        Returns:
            The number of questions with a removed reply or failure.
        """
        replied = self._matching(self._entries, name, below=below)
        failed = self._matching(self._failures, name, below=below)
        for question in failed:
            del self._failures[question]
        for question in replied:
            self._remove(question)
        return len({*replied, *failed})

    @staticmethod
    def _matching(questions: Iterable[Question], name: bytes | None, *, below: bool) -> list[Question]:
        if name is None or (below and name == _ROOT):
            return list(questions)
        if below:
            return [question for question in questions if is_subdomain(question.name, name)]
        return [question for question in questions if question.name == name]


def is_subdomain(name: bytes, domain: bytes) -> bool:
    """Return whether a name is the domain or lies below it; both in wire format and lower case."""
    if not name.endswith(domain):
        return False
    at, domain_at = 0, len(name) - len(domain)
    while at < domain_at:  # the same bytes may occur within a label
        at += name[at] + 1
    return at == domain_at
