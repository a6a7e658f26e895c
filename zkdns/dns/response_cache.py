"""The response cache: responses by the bytes of their queries, so that a repeated query needs no DNS work.

    query after its id ──▶ cache[query] ──▶ next() ──▶ response after its id
                              │ missing
                              └──▶ Responder.answer, cached until its service changes

A hit is one dictionary lookup and one `next()`, both of which run in C. A miss calls `__missing__`, which
calls the responder. The key is the whole query after its id, so queries that differ in any bit have different
entries. The case of the name is the exception, because resolvers that randomize it (0x20) would never hit:
all spellings share the entry of the lower-case name, and each response has the spelling of its query.

The cache owns its entries. A rotation returns the iterator of each new entry, and calls `_replace` when an
earlier entry needs another iterator.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import msgspec

from zkdns.dns.answer_source import ZONE, AnswerSources
from zkdns.dns.message import HEADER_SIZE, servfail
from zkdns.dns.responder import CacheableAnswer, EncodeResponse
from zkdns.dns.response_class import classify
from zkdns.dns.rotation import MemoryBudget, OnShared, Rotation
from zkdns.dns.zone import ANY_SERVICE
from zkdns.names import Labels

MAX_ENTRIES = 1 << 16
MAX_BYTES = 72 << 20

MAX_WITHOUT_SERVICE = 2048
"""Maximum number of entries for names of no service, because there is an unlimited number of such names."""
MAX_PER_SERVICE = 1024
"""Maximum number of entries of one service, including all query forms and spellings.

A change of the service drops them all, at some 2 µs each (measured), and no query is answered in that time.
"""
MAX_EVICTED_AT_ONCE = 512
"""Maximum number of entries that are evicted together, to keep the pause short."""

# Bytes of an entry in addition to its query (measured); the query is stored twice if its spelling varies.
_ENTRY_OVERHEAD = 1300
# One part in four of the memory is for built responses. If it is full, responses are built each time.
_RESPONSES_DIVISOR = 4
# To make room, one in 16 entries is evicted, up to the limit. Entries of the services that were cached first
# go first.
_EVICTION_DIVISOR = 16

_HEADER = HEADER_SIZE - 2
_TYPE_AND_CLASS = 4


class QueryResponder(Protocol):
    """Answers the queries that are not cached: `Responder`."""

    def answer(self, query: bytes, *, stream: bool, encode: EncodeResponse) -> CacheableAnswer:
        """The answer to a query without its id."""


class QueryCodec(Protocol):
    """The form of queries and responses of one transport."""

    echoes_question: bool
    """Whether the transport copies the question, and so its spelling, from the query into the response."""

    @property
    def max_cached_query(self) -> int:
        """Bytes of the longest query that is cached."""

    def key(self, query: bytes, /) -> bytes:
        """The key of a query without its id: the query, followed by bytes that the codec may add."""

    def query(self, key: bytes, /) -> bytes:
        """The query without its id that belongs to a key."""

    def response(self, body: bytes, question: int, response_class: int, /) -> bytes:
        """A response after its id, ready to send.

        Args:
            body: the response after its id.
            question: length of its question.
            response_class: as `classify` returns it, for counting.
        """

    def copy_case(self, response: bytes, key: bytes, name_end: int, /) -> bytes:
        """The response with the spelling of a key's name, which ends at `name_end`.

        Not called if the transport copies the question itself.
        """


class _Entry(msgspec.Struct):
    """Bookkeeping of a cache entry."""

    size: int
    rotation: Rotation | None
    folded: bytes | None = None
    """The key in lower case, under which `_folded` has the entry."""


class _Folded(msgspec.Struct, frozen=True):
    """A reference to the entry for all spellings of a name.

    `key` is the entry's key, `name_end` the end of the name in it, and `tail` the key's bytes after the name.
    """

    key: bytes
    name_end: int
    tail: bytes


class ResponseCache(dict[bytes, Iterator[bytes]]):
    """Responses by query; never raises, for any bytes.

    Attributes:
        misses: queries that the responder answered.
        evicted: entries that were dropped to make room.

    Args:
        responder: answers queries that are not cached.
        codec: the form of keys and responses.
        on_error: called with a query and the exception that it raised (an internal error).
        stream: whether the transport is TCP.
        sources: counts the sources of responses that were not cached; None: not counted.
        max_entries: maximum number of entries.
        max_bytes: approximate memory limit.
    """

    def __init__(
        self,
        responder: QueryResponder,
        codec: QueryCodec,
        on_error: Callable[[bytes, Exception], None],
        *,
        stream: bool,
        sources: AnswerSources | None = None,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__()
        self.misses = self.evicted = 0
        self._responder, self._codec, self._on_error = responder, codec, on_error
        self._stream = stream
        self._sources = AnswerSources() if sources is None else sources
        self._max_entries = max_entries
        self._entry_memory = MemoryBudget(max_bytes - max_bytes // _RESPONSES_DIVISOR)
        self._response_memory = MemoryBudget(max_bytes // _RESPONSES_DIVISOR)
        self._entries: dict[bytes, _Entry] = {}
        self._folded: dict[bytes, _Folded] = {}
        # By service; the service with the oldest first entry comes first.
        self._keys: dict[Labels, list[bytes]] = {}
        self._seen_once: set[bytes] = set()
        self._echoes_question = codec.echoes_question
        self._on_shared: OnShared = self._replace  # one bound method for all entries

    @property
    def size(self) -> int:
        """Approximate bytes in use."""
        return self._entry_memory.used + self._response_memory.used

    # -- misses --------------------------------------------------------------------------------------------

    def __missing__(self, key: bytes) -> Iterator[bytes]:
        try:
            folded = self._folded.get(key.lower())
            if folded is not None and key.endswith(folded.tail):
                return self._in_spelling_of(key, folded)
            self.misses += 1
            return self._compute(key)
        except Exception as error:  # noqa: BLE001 - an internal error costs one response
            query = self._codec.query(key)
            self._on_error(query, error)
            self._sources.record(ZONE)
            failure = servfail(query)
            return itertools.repeat(self._codec.response(failure, 0, classify(failure)))

    def _in_spelling_of(self, key: bytes, folded: _Folded) -> Iterator[bytes]:
        """The responses of a cached answer, with the spelling of the name in `key`."""
        responses = self[folded.key]
        if self._echoes_question:
            return responses
        if response := next(responses):
            return iter((self._codec.copy_case(response, key, folded.name_end),))
        # The response is deferred. Only a deferred response to this query has the right spelling.
        return self._answer(self._codec.query(key)).responses

    def _compute(self, key: bytes) -> Iterator[bytes]:
        """Answer a query, and store the answer if it can be used again."""
        query = self._codec.query(key)
        answer = self._answer(query)
        self._sources.record(answer.source)
        if answer.service is None or len(query) > self._codec.max_cached_query:
            return answer.responses
        name_end = answer.question_end - _TYPE_AND_CLASS
        head, name = query[:_HEADER], query[_HEADER:name_end]
        if name == name.lower():
            self._store(key, answer)
            return self.get(key, answer.responses)
        # Not if the header has a byte with the value of a letter: `key.lower()` would change it as well.
        if head.upper() == head == head.lower():
            common = self._codec.key(head + name.lower() + query[name_end:])
            if common not in self:
                self._store(common, self._answer(self._codec.query(common)))
            self._fold(key, common, name_end)
        return answer.responses

    def _answer(self, query: bytes) -> CacheableAnswer:
        return self._responder.answer(query, stream=self._stream, encode=self._encode)

    def _encode(self, body: bytes, question: int) -> bytes:
        """A response after its id, ready to send; `question` is the length of its question."""
        return self._codec.response(body, question, classify(body))

    # -- writing -------------------------------------------------------------------------------------------

    def _store(self, key: bytes, answer: CacheableAnswer) -> None:
        service = answer.service
        if service is None or (answer.is_rare and not self._was_seen_before(key)):
            return
        size = answer.rotation.size if answer.rotation is not None else answer.size
        entry = _Entry(_ENTRY_OVERHEAD + 2 * len(key) + size, answer.rotation)
        limit = MAX_WITHOUT_SERVICE if service == ANY_SERVICE else MAX_PER_SERVICE
        if len(self._keys.get(service, ())) >= limit:
            self._evict_oldest(service, limit // 2)
        while self and (len(self) >= self._max_entries or not self._entry_memory.has_room(entry.size)):
            self._make_room()
        if not self._entry_memory.reserve(entry.size):
            return
        if entry.rotation is None:
            self[key] = answer.responses
        else:
            self[key] = entry.rotation.join(key, self._response_memory, self._on_shared)
        self._entries[key] = entry
        self._keys.setdefault(service, []).append(key)

    def _replace(self, key: bytes, responses: Iterator[bytes]) -> None:
        """Replace an entry's iterator: another query form now shares its rotation."""
        self[key] = responses

    def _fold(self, key: bytes, common: bytes, name_end: int) -> None:
        """Use the entry with the key `common` for all spellings of its query."""
        entry = self._entries.get(common)
        if entry is not None:
            entry.folded = key.lower()
            self._folded[entry.folded] = _Folded(common, name_end, key[name_end:])

    def _was_seen_before(self, key: bytes) -> bool:
        """Whether this is not the first such query. The first one is only recorded."""
        if key in self._seen_once:
            self._seen_once.remove(key)
            return True
        if len(self._seen_once) >= MAX_WITHOUT_SERVICE:
            self._seen_once.clear()
        self._seen_once.add(key)
        return False

    # -- dropping ------------------------------------------------------------------------------------------

    def forget(self, services: Iterable[Labels]) -> int:
        """Drop the entries that depend on these services; return their number."""
        count = 0
        for service in services:
            keys = self._keys.pop(service, ())
            count += len(keys)
            self._drop(keys)
        return count

    def clear(self) -> None:
        """Drop all entries."""
        self.forget(list(self._keys))

    def _make_room(self) -> None:
        left = min(len(self) // _EVICTION_DIVISOR + 1, MAX_EVICTED_AT_ONCE)
        while left > 0 and self._keys:
            left -= self._evict_oldest(next(iter(self._keys)), left)

    def _evict_oldest(self, service: Labels, limit: int) -> int:
        """Drop up to `limit` entries of a service, the oldest first; return their number."""
        keys = self._keys[service]
        oldest = keys[:limit]
        del keys[:limit]
        if not keys:
            del self._keys[service]
        self._drop(oldest)
        self.evicted += len(oldest)
        return len(oldest)

    def _drop(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            del self[key]
            entry = self._entries.pop(key)
            self._entry_memory.release(entry.size)
            if entry.rotation is not None:
                entry.rotation.leave()
            if entry.folded is not None:
                self._folded.pop(entry.folded, None)
