"""The answers that have been given, by the bytes of their queries: what is asked again costs no DNS work.

    query after its id ──▶ memo[query] ──▶ next() ──▶ response after its id
                              │ not there
                              └──▶ Responder.answer, remembered until its service changes

A hit is one look-up and one `next`, without a line of Python; all rules of DNS lie behind `__missing__`. The
key is all of the query, so a query that differs in anything is another one, but for the case of its name: a
resolver that spells names at random (0x20) would never ask twice. What it asks for is found in lower case,
and the response has the spelling of each who asks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import msgspec

from zkdns.dns.answer_source import ZONE, AnswerSources
from zkdns.dns.marks import mark_of
from zkdns.dns.message import HEADER_SIZE, servfail
from zkdns.dns.responder import CacheableAnswer
from zkdns.dns.rotation import MemoryBudget, Rotation
from zkdns.dns.zone import ANY_SERVICE
from zkdns.names import Labels

MAX_ENTRIES = 1 << 16
MAX_BYTES = 72 << 20

# Names that belong to no service have no end: so many of their answers are remembered at a time.
_MAX_ANY_SERVICE = 2048
# What a remembered answer takes beside its query (measured), which is there twice where its spelling varies.
_OVERHEAD = 1300
# Responses may take so much of the memory; beyond that they are made anew from what is remembered.
_RESPONSES_DIVISOR = 4
# So many answers of one service are remembered, however differently it is asked: a change of it forgets them
# all at once, in some 2 µs each (measured), while everybody waits.
_MAX_PER_SERVICE = 1024
# How much is forgotten at once to make room: one part in so many, the oldest services first, and no more than
# can be without anybody noticing.
_EVICTION_DIVISOR = 16
_MAX_EVICTED_AT_ONCE = 512

_HEADER = HEADER_SIZE - 2
_TYPE_AND_CLASS = 4


class QueryCodec(Protocol):
    """How a transport has its queries and responses."""

    @property
    def max_cached_query(self) -> int:
        """Bytes of the longest query that is worth remembering."""

    def key(self, query: bytes, /) -> bytes:
        """The key of a query without its id; what it adds stands behind."""

    def query(self, key: bytes, /) -> bytes:
        """The query without its id that a key stands for."""

    def response(self, body: bytes, question: int, mark: int, /) -> bytes:
        """A response after its id, ready to be sent; `question`: how many bytes of it are the question's.

        `mark` is what it is counted by.
        """

    echoes_question: bool
    """Whether the transport itself gives a response the question as it was asked."""

    def copy_case(self, response: bytes, key: bytes, name_end: int, /) -> bytes:
        """The response with the name of that key, which ends there, where the transport does not do that."""


class _Entry(msgspec.Struct):
    """What belongs to a remembered answer."""

    size: int
    rotation: Rotation | None
    folded: bytes | None = None


class _Folded(msgspec.Struct, frozen=True):
    """An answer for all spellings: its key, where its name ends in keys (`name_end`), and what follows."""

    key: bytes
    name_end: int
    tail: bytes


class ResponseCache(dict[bytes, Iterator[bytes]]):
    """Responses by query, never raising, whatever is asked.

    Attributes:
        misses: queries that were answered by the responder.
        forgotten: answers that had to go for others.

    Args:
        answer: answers a query without its id, with responses in the form.
        form: of keys and responses.
        on_error: told of a query and the exception that it raised, which is a mistake of ours.
        sources: is told what answers are made from that are not remembered; None: nobody is.
        most_entries: how many answers are remembered.
        most_bytes: how much memory they may take, more or less.
    """

    def __init__(
        self,
        answer: Callable[[bytes], CacheableAnswer],
        codec: QueryCodec,
        on_error: Callable[[bytes, Exception], None],
        *,
        sources: AnswerSources | None = None,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__()
        self.misses = self.evicted = 0
        self._answer, self._codec, self._on_error = answer, codec, on_error
        self._sources = AnswerSources() if sources is None else sources
        self._max_entries = max_entries
        self._answers = MemoryBudget(max_bytes - max_bytes // _RESPONSES_DIVISOR)
        self._responses = MemoryBudget(max_bytes // _RESPONSES_DIVISOR)
        self._entries: dict[bytes, _Entry] = {}
        self._folded: dict[bytes, _Folded] = {}
        # By service: the one that was asked for first before all others.
        self._keys: dict[Labels, list[bytes]] = {}
        self._seen_once: set[bytes] = set()
        self._echoes_question = codec.echoes_question

    @property
    def size(self) -> int:
        """Bytes that are taken, more or less."""
        return self._answers.used + self._responses.used

    def __missing__(self, key: bytes) -> Iterator[bytes]:
        try:
            folded = self._folded.get(key.lower())
            if folded is not None and key.endswith(folded.tail):
                responses = self[folded.key]
                if self._echoes_question:
                    return responses
                if response := next(responses):
                    return iter((self._codec.copy_case(response, key, folded.name_end),))
                # There will be one later, with the name as it is spelled in whoever's query it answers.
                return self._answer(self._codec.query(key)).responses
            self.misses += 1
            return self._compute(key)
        except Exception as error:  # noqa: BLE001 - a mistake of ours costs one answer
            query = self._codec.query(key)
            self._on_error(query, error)
            self._sources.record(ZONE)
            failure = servfail(query)
            return itertools.repeat(self._codec.response(failure, 0, mark_of(failure)))

    def _compute(self, key: bytes) -> Iterator[bytes]:
        query = self._codec.query(key)
        answer = self._answer(query)
        self._sources.record(answer.source)
        if answer.service is None or len(query) > self._codec.max_cached_query:
            return answer.responses
        name_end = answer.question_end - _TYPE_AND_CLASS
        head, name = query[:_HEADER], query[_HEADER:name_end]
        if name == name.lower():
            self._remember(key, answer)
            return self.get(key, answer.responses)
        if head.upper() == head == head.lower():  # or other flags might fold into these
            common = self._codec.key(head + name.lower() + query[name_end:])
            if common not in self:
                self._remember(common, self._answer(self._codec.query(common)))
            self._fold(key, common, name_end)
        return answer.responses

    def _fold(self, key: bytes, common: bytes, name_end: int) -> None:
        """Let all spellings of a remembered query be answered by it."""
        entry = self._entries.get(common)
        if entry is not None:
            entry.folded = key.lower()
            self._folded[entry.folded] = _Folded(common, name_end, key[name_end:])

    def _remember(self, key: bytes, answer: CacheableAnswer) -> None:
        service = answer.service
        if service is None or (answer.is_rare and not self._was_seen_before(key)):
            return
        size = answer.rotation.size if answer.rotation is not None else answer.size
        entry = _Entry(_OVERHEAD + 2 * len(key) + size, answer.rotation)
        most = _MAX_ANY_SERVICE if service == ANY_SERVICE else _MAX_PER_SERVICE
        if len(self._keys.get(service, ())) >= most:
            self._evict_oldest(service, most // 2)
        while self and (len(self) >= self._max_entries or not self._answers.has_room(entry.size)):
            self._make_room()
        if not self._answers.take(entry.size):
            return
        if entry.rotation is None:
            self[key] = answer.responses
        else:
            entry.rotation.keep_within(self._responses)
            entry.rotation.turns.answer(self, key, entry.rotation)
        self._entries[key] = entry
        self._keys.setdefault(service, []).append(key)

    def _was_seen_before(self, key: bytes) -> bool:
        """Whether it was asked lately."""
        if key in self._seen_once:
            self._seen_once.remove(key)
            return True
        if len(self._seen_once) >= _MAX_ANY_SERVICE:
            self._seen_once.clear()
        self._seen_once.add(key)
        return False

    def forget(self, services: Iterable[Labels]) -> int:
        """Forget the answers that depend on these services; return how many there were."""
        count = 0
        for service in services:
            keys = self._keys.pop(service, ())
            count += len(keys)
            self._drop(keys)
        return count

    def _make_room(self) -> None:
        left = min(len(self) // _EVICTION_DIVISOR + 1, _MAX_EVICTED_AT_ONCE)
        while left > 0 and self._keys:
            left -= self._evict_oldest(next(iter(self._keys)), left)

    def _evict_oldest(self, service: Labels, most: int) -> int:
        """Forget so many answers of a service, those first that have been there longest."""
        keys = self._keys[service]
        oldest = keys[:most]
        del keys[:most]
        if not keys:
            del self._keys[service]
        self._drop(oldest)
        self.evicted += len(oldest)
        return len(oldest)

    def _drop(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            del self[key]
            entry = self._entries.pop(key)
            self._answers.used -= entry.size
            if entry.rotation is not None:
                self._responses.used -= entry.rotation.kept_bytes
                entry.rotation.turns.leave()
            if entry.folded is not None:
                self._folded.pop(entry.folded, None)

    def clear(self) -> None:
        """Forget everything."""
        self.forget(list(self._keys))
