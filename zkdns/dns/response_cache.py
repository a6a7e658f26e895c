"""The response cache: responses by the bytes of their queries, so that a repeated query needs no DNS work.

    query after its id ──▶ cache[query] ──▶ next() ──▶ response after its id
                              │ missing
                              ├─▶ 1 a forwarded name, in the form of an earlier query: a deferred response
                              ├─▶ 2 with EDNS options: the responses to the query without the client's own
                              │     options, and the client's cookie
                              ├─▶ 3 the name of a member: its record, in the form of an earlier response
                              ├─▶ 4 another spelling of a cached query: its responses
                              ├─▶ 5 a name that does not exist: the parts of the response to a similar name
                              └─▶ 6 Responder.answer, cached until its service changes

A hit is one dictionary lookup and one `next()`, both of which run in C. A miss calls `__missing__`, which
takes the first of the six ways that applies. The key is the whole query after its id, so queries that differ
in any bit have different entries. There are three exceptions:

1. Resolvers that randomize the case of names (0x20) would never hit. All spellings of a name therefore share
   the entry of the lower-case name, and each response has the spelling of its query.
2. Most clients send a new cookie with each query. `EdnsOptions.separate` replaces the options, and the result
   is the key, which `OptionForms` finds for similar queries. Such an entry has unfinished responses
   (`_Entry.responses`), without the cookie.
3. Floods of random names would fill the cache. Responses to names of equal length below the same closest
   encloser differ only in the name. A `_NegativeForm` has the rest of the response, and the zone is only
   asked whether the name exists.

There may be more names of members than entries. If an earlier query differs only in the name, its `QueryForm`
saves the parsing and all DNS rules that do not concern the name.

The cache owns its entries. A rotation returns the iterator of each new entry, and calls `_replace` when an
earlier entry needs another iterator. Dropping an entry takes 2 µs. If many are dropped together, they are no
longer served at once, and their memory is released in small steps (`release`).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Protocol

import msgspec

from zkdns.dns.answer_source import ZONE, AnswerSources
from zkdns.dns.edns import CLIENT_COOKIE_SIZE, OPT
from zkdns.dns.edns_options import EdnsOptions
from zkdns.dns.forward_form import ForwardForm
from zkdns.dns.message import HEADER_SIZE, end_of_question, servfail
from zkdns.dns.option_forms import OptionForms
from zkdns.dns.query_codec import QueryCodec
from zkdns.dns.query_form import QueryForm
from zkdns.dns.responder import Absence, CacheableAnswer, EncodeResponse
from zkdns.dns.response_class import classify
from zkdns.dns.rotation import MemoryBudget, OnShared, Rotation
from zkdns.dns.service_counts import ServiceCounts
from zkdns.dns.steps import UnfinishedError
from zkdns.names import MAX_LABEL, MAX_NAME, Labels
from zkdns.table import ANY_SERVICE

MAX_ENTRIES = 1 << 16
MAX_BYTES = 72 << 20

MAX_WITHOUT_SERVICE = 2048
"""Maximum number of entries for names of no service, because there is an unlimited number of such names.

Names that do not exist, below a service or not, have the same limit together.
"""
MAX_PER_SERVICE = 1024
"""Maximum number of entries of one service, including all query forms and spellings."""
MAX_EVICTED_AT_ONCE = 128
"""Maximum number of entries that are evicted together, at some 7 µs each (measured)."""
MAX_RELEASED_AT_ONCE = 256
"""Maximum number of dropped entries whose memory is released together."""
MAX_DROPPED_AT_ONCE = 4096
"""Maximum number of entries that one change of services drops one by one, at some 1 µs each (measured).

If there are more, all entries are dropped, so that the pause stays short.
"""
MAX_CHECKED_AT_ONCE = 500
"""Maximum number of services that `forget_where` checks in one piece, at some 1 µs each (measured)."""
MAX_NEGATIVE_FORMS = 1024
"""Maximum number of forms of negative responses: one for each length, closest encloser and query form."""

MAX_QUERY_FORMS = 512
"""Maximum number of forms of queries: for the names of members, and for forwarded names."""

# If at most this many entries are dropped, their memory is released at once.
_MAX_RELEASED_AT_ONCE = 64
_RELEASED_PER_MISS = 8
# Labels below the closest encloser. Names with more are rare, and searching for the form takes longer.
_MAX_ABSENT_LABELS = 4

# Bytes of an entry in addition to its query (measured); the query is stored twice if its spelling varies.
_ENTRY_OVERHEAD = 1360
# One part in four of the memory is for built responses. If it is full, responses are built each time.
_RESPONSES_DIVISOR = 4
# To make room, one in 16 entries is evicted, up to the limit. Entries of the services that were cached first
# go first.
_EVICTION_DIVISOR = 16

_HEADER = HEADER_SIZE - 2
_TYPE_AND_CLASS = 4
_ROOT = b"\0"

# Root and type of an OPT record, and the end of one without options.
_OPT_START, _NO_OPTIONS, _OPT_SIZE = b"\0\0\x29", b"\0\0", OPT.size
_ADDITIONAL_AT, _NO_ADDITIONAL = _HEADER - 2, b"\0\0"
_NO_RESPONSES = itertools.repeat(b"")
_ZERO_COOKIE = bytes(CLIENT_COOKIE_SIZE)
# Entries and forms with cookies have other keys in `_folded`, `_query_forms` and `_negative_forms` than those
# without, so that a query with a cookie of zeros does not find them.
_WITH_COOKIE = b"cookie"
# By the end of the labels that do not exist: part of the key of a negative form.
_ENDS = [end.to_bytes(2) for end in range(_HEADER + MAX_NAME + 1)]
_ENDS_WITH_COOKIE = [(0x8000 | end).to_bytes(2) for end in range(_HEADER + MAX_NAME + 1)]


class QueryResponder(Protocol):
    """Answers the queries that are not cached: `Responder`."""

    edns_options: EdnsOptions

    def answer(self, query: bytes, *, stream: bool, encode: EncodeResponse) -> CacheableAnswer:
        """The answer to a query without its id."""

    def is_absent(self, name: Labels, like: Absence) -> bool:
        """Whether a name does not exist in the same way as another one."""

    def count_absent_labels(self, name: Labels, limit: int) -> int | None:
        """The number of labels below the closest encloser; None if there are more than `limit`."""

    def with_serial(self, before: bytes, after: bytes) -> Iterator[bytes]:
        """Endless responses with the present serial between these parts."""

    def forward_name(self, form: ForwardForm, name: bytes) -> bytes | None:
        """As `Responder.forward_name`."""

    def answer_member(self, form: QueryForm, name: bytes) -> tuple[Labels, bytes] | None:
        """The service and the only response to a query of this form for the name of a member."""


class _Entry(msgspec.Struct):
    """Bookkeeping of a cache entry.

    `responses` are those of the responder: without cookies if `has_cookie`.
    """

    size: int
    service: Labels
    rotation: Rotation | None
    has_cookie: bool
    responses: Iterator[bytes]
    folded: bytes | None = None
    """Its key in `_folded`: the key in lower case, and `_WITH_COOKIE` if it has a cookie."""
    reference: _Folded | None = None


class _Folded(msgspec.Struct, frozen=True):
    """A reference to the entry for all spellings of a name.

    `key` is the entry's key, `name_end` the end of the name in it, and `tail` the key's bytes after the name.
    """

    key: bytes
    name_end: int
    tail: bytes


class _NegativeForm(msgspec.Struct, frozen=True):
    """The responses to all names that do not exist below `encloser` and have the same length.

    `head` and `tail` are the bytes of the query before and after its name, which ends at `name_end`.
    """

    head: bytes
    tail: bytes
    name_end: int
    encloser: Labels
    absence: Absence
    is_cacheable: bool


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
        counts: counts the responses of each service; None: not counted.
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
        counts: ServiceCounts | None = None,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__()
        self.misses = self.evicted = 0
        self._responder, self._codec, self._on_error = responder, codec, on_error
        self._stream = stream
        self._sources = AnswerSources() if sources is None else sources
        self._counts = ServiceCounts({}) if counts is None else counts
        self._max_entries = max_entries
        self._entry_memory = MemoryBudget(max_bytes - max_bytes // _RESPONSES_DIVISOR)
        self._response_memory = MemoryBudget(max_bytes // _RESPONSES_DIVISOR)
        self._entries: dict[bytes, _Entry] = {}
        self._dropped: dict[bytes, _Entry] = {}  # entries that are not served any more
        self._folded: dict[bytes, _Folded] = {}
        self._option_forms = OptionForms()
        self._query_forms: dict[bytes, QueryForm] = {}
        self._forward_forms: dict[bytes, ForwardForm] = {}
        self._negative_forms: dict[bytes, _NegativeForm] = {}
        # By service; the service with the oldest first entry comes first. The keys of names that do not exist
        # are in another dictionary, so that they evict no other entries of their service.
        self._keys: dict[Labels, list[bytes]] = {}
        self._absent: dict[bytes, Labels] = {}
        self._absent_keys: dict[Labels, set[bytes]] = {}
        self._seen_once: set[bytes] = set()
        self._echoes_question = codec.echoes_question
        self._on_shared: OnShared = self._replace  # one bound method for all entries

    @property
    def size(self) -> int:
        """Approximate bytes in use."""
        return self._entry_memory.used + self._response_memory.used

    # -- misses --------------------------------------------------------------------------------------------

    def __missing__(self, key: bytes) -> Iterator[bytes]:  # noqa: PLR0911 - one for each kind of query
        try:
            # If a label has a zero byte, the name before it is not that of a member, and not valid.
            end = key.find(_ROOT, _HEADER)
            shape = key[:_HEADER] + key[end:]
            forward_form = self._forward_forms.get(shape)
            if forward_form is not None:
                deferred = self._responder.forward_name(forward_form, key[_HEADER:end])
                if deferred is not None:
                    self.misses += 1
                    if self._dropped:
                        self.release(_RELEASED_PER_MISS)
                    return iter((deferred,))
            plain_key = self._option_forms.whole.get(key)
            if plain_key is not None and (entry := self._entries.get(plain_key)) is not None:
                return entry.responses
            query = self._codec.query(key)
            if not query:  # it is longer than its slot
                return _NO_RESPONSES
            if query[_ADDITIONAL_AT:_HEADER] != _NO_ADDITIONAL:
                responses = self._find_by_option_form(key, query) or self._with_options(key, query)
                if responses is not None:
                    return responses
            return self._answer_miss(key, query, end, shape)
        except UnfinishedError as unfinished:
            return itertools.repeat(unfinished.defer(lambda: next(self[key])))
        except Exception as error:  # noqa: BLE001 - an internal error costs one response
            query = self._codec.query(key)
            self._on_error(query, error)
            self._sources.record(ZONE)
            failure = servfail(query)
            return itertools.repeat(self._codec.response(failure, 0, classify(failure)))

    def _answer_miss(self, key: bytes, query: bytes, end: int, shape: bytes) -> Iterator[bytes]:
        """The responses to a query without EDNS options; `end`: of the name, `shape`: the key without it."""
        query_form = self._query_forms.get(shape)
        if query_form is not None:
            responses = self._answer_member(key, end, query_form)
            if responses is not None:
                return responses
        lower = key.lower()
        folded = self._folded.get(lower)
        if folded is not None and folded.key in self and key.endswith(folded.tail):
            return self._in_spelling_of(key, folded, self[folded.key])
        form = self._find_negative_form(key, lower, _ENDS) if self._negative_forms else None
        if form is not None:
            return self._answer_from_form(form, query)
        return self._compute(key, lower, query, is_separated=False)

    def _with_options(self, key: bytes, query: bytes) -> Iterator[bytes] | None:
        """The responses to a query that may have EDNS options. None: it has none."""
        options = self._responder.edns_options
        opt = query.find(_OPT_START, _HEADER)  # a guess; a name may have these bytes too
        if opt + _OPT_SIZE == len(query) and query.endswith(_NO_OPTIONS):
            return None
        separated = options.separate(query, opt, stream=self._stream)
        entry = self._entries.get(self._codec.key(separated.query)) if separated is not None else None
        if entry is None and (end := end_of_question(query)) != opt:
            separated = options.separate(query, end, stream=self._stream)
        if separated is None:
            return self._compute(key, key.lower(), query, is_separated=False)
        plain, cookie, data = separated
        plain_key = self._codec.key(plain)
        if entry is None:
            responses = self._find_unfinished(plain_key, plain, has_cookie=cookie is not None)
        else:
            responses = entry.responses
            if data is not None:
                self._option_forms.add(query, data, plain_key)
            if cookie is None:
                self._option_forms.add_whole(key, plain_key)
        return responses if cookie is None else map(options.finish, responses, itertools.repeat(cookie))

    def _find_by_option_form(self, key: bytes, query: bytes) -> Iterator[bytes] | None:
        """The responses to a query that differs from an earlier one only in the data of one option."""
        for start, end, keys in self._option_forms.places.get(len(query), ()):
            plain_key = keys.get(query[:start] + query[end:])
            if plain_key is None or (entry := self._entries.get(plain_key)) is None:
                continue
            if entry.has_cookie:
                finish = self._responder.edns_options.finish
                return iter((finish(next(entry.responses), query[start:end]),))
            self._option_forms.add_whole(key, plain_key)
            return entry.responses
        return None

    def _find_unfinished(self, key: bytes, query: bytes, *, has_cookie: bool) -> Iterator[bytes]:
        """The responses to a separated query, without cookies."""
        lower = key.lower()
        suffix = _WITH_COOKIE if has_cookie else b""
        end = key.find(_ROOT, _HEADER)
        query_form = self._query_forms.get(key[:_HEADER] + key[end:] + suffix)
        if query_form and (responses := self._answer_member(key, end, query_form)):
            return responses
        folded = self._folded.get(lower + suffix)
        if folded is not None and folded.key in self and key.endswith(folded.tail):
            return self._in_spelling_of(key, folded, self._entries[folded.key].responses)
        if self._negative_forms:
            form = self._find_negative_form(key, lower, _ENDS_WITH_COOKIE if has_cookie else _ENDS)
            if form is not None:
                return self._answer_from_form(form, query)
        return self._compute(key, lower, query, is_separated=True)

    def _in_spelling_of(self, key: bytes, folded: _Folded, responses: Iterator[bytes]) -> Iterator[bytes]:
        """The responses of a cached answer, with the spelling of the name in `key`."""
        if self._echoes_question:
            return responses
        if response := next(responses):
            return iter((self._codec.copy_name(response, key, folded.name_end),))
        # The response is deferred. Only a deferred response to this query has the right spelling.
        return self._answer(self._codec.query(key)).responses

    def _compute(self, key: bytes, lower: bytes, query: bytes, *, is_separated: bool) -> Iterator[bytes]:
        """Answer a query, and store the answer if it can be used again.

        Args:
            key: its key.
            lower: the key in lower case.
            query: the query.
            is_separated: whether its options are separated. If it has other options, the answer is not
                stored, because there is an unlimited number of them.
        """
        self.misses += 1
        self.release(_RELEASED_PER_MISS)
        answer = self._answer(query)
        self._sources.record(answer.source)
        if answer.has_options and not is_separated:
            responses = self._counts.counted(answer.service, answer.responses)
            if answer.cookie is None:
                return responses
            finish = self._responder.edns_options.finish
            return map(finish, responses, itertools.repeat(answer.cookie))
        is_short = len(query) <= self._codec.max_cached_query
        is_cacheable = answer.service is not None and is_short
        if answer.form is not None and is_cacheable:
            self._add_query_form(key, answer)
        if answer.forward_form is not None and is_short and not is_separated:
            self._add_forward_form(key, answer.forward_form)
        if answer.absence is not None:
            self._add_negative_form(key, lower, answer, answer.absence, is_cacheable=is_cacheable)
        if not is_cacheable or (answer.is_rare and not self._was_seen_before(lower)):
            return self._counts.counted(answer.service, answer.responses)
        name_end = answer.question_end - _TYPE_AND_CLASS
        head, name = query[:_HEADER], query[_HEADER:name_end]
        if name == name.lower():
            return self._store(key, answer)
        # Not if the header has a byte with the value of a letter: `key.lower()` would change it as well.
        if head.upper() == head == head.lower():
            common = self._codec.key(head + name.lower() + query[name_end:])
            if common not in self:
                self._store(common, self._answer(self._codec.query(common)))
            self._fold(key, common, name_end)
        return self._counts.counted(answer.service, answer.responses)

    def _answer(self, query: bytes) -> CacheableAnswer:
        return self._responder.answer(query, stream=self._stream, encode=self._encode)

    def _encode(self, body: bytes, question: int) -> bytes:
        """A response after its id, ready to send; `question` is the length of its question."""
        return self._codec.response(body, question, classify(body, question))

    # -- forwarded names -----------------------------------------------------------------------------------

    def _add_forward_form(self, key: bytes, form: ForwardForm) -> None:
        if len(self._forward_forms) >= MAX_QUERY_FORMS:
            self._forward_forms.clear()
        name_end = _HEADER + len(form.query.question) - len(form.after_name)
        self._forward_forms[key[:_HEADER] + key[name_end:]] = form

    # -- names of members ----------------------------------------------------------------------------------

    def _answer_member(self, key: bytes, end: int, form: QueryForm) -> Iterator[bytes] | None:
        """The responses to a query of this form whose name ends at `end`, if it is the name of a member."""
        found = self._responder.answer_member(form, key[_HEADER:end])
        if found is None:
            return None
        service, body = found
        self.misses += 1
        if self._dropped:
            self.release(_RELEASED_PER_MISS)
        self._sources.record(ZONE)
        response = self._codec.response(body, end - _HEADER + len(form.after_name), form.response_class)
        cookie = self._responder.edns_options.cookie_of(form.query)
        answer = CacheableAnswer(itertools.repeat(response), service, size=len(response), cookie=cookie)
        return self._store(key, answer)

    def _add_query_form(self, key: bytes, answer: CacheableAnswer) -> None:
        if answer.form is None:
            return
        if len(self._query_forms) >= MAX_QUERY_FORMS:
            self._query_forms.clear()
        name_end = answer.question_end - len(answer.form.after_name)
        suffix = b"" if answer.cookie is None else _WITH_COOKIE
        self._query_forms[key[:_HEADER] + key[name_end:] + suffix] = answer.form

    # -- names that do not exist -----------------------------------------------------------------------------

    def _find_negative_form(self, key: bytes, lower: bytes, ends: list[bytes]) -> _NegativeForm | None:
        """The form of the responses to this query. None: the responder must answer it."""
        labels: list[bytes] = []
        head, at, size = lower[:_HEADER], _HEADER, len(lower)
        while len(labels) < _MAX_ABSENT_LABELS and at < size:
            length = lower[at]
            if not 0 < length <= MAX_LABEL or at + length >= len(ends) - 1:  # not valid, or too long
                return None
            start = at + 1
            at = start + length
            labels.append(lower[start:at])
            form = self._negative_forms.get(head + ends[at] + lower[at:])
            if form is not None:
                break
        else:
            return None
        # In lower case, bytes of header, type and OPT record may be equal that are different.
        if not key.startswith(form.head) or not key.endswith(form.tail):
            return None
        if not self._responder.is_absent((*labels, *form.encloser), form.absence):
            return None
        if form.is_cacheable:
            if lower in self._seen_once:  # the second such query is cached
                return None
            self._was_seen_before(lower)
        return form

    def _answer_from_form(self, form: _NegativeForm, query: bytes) -> Iterator[bytes]:
        self.misses += 1
        self._sources.record(ZONE)
        before = self._codec.copy_name(form.absence.before, query, form.name_end)
        responses = self._responder.with_serial(before, form.absence.after)
        return self._counts.counted(form.absence.service, responses)

    def _add_negative_form(
        self, key: bytes, lower: bytes, answer: CacheableAnswer, absence: Absence, *, is_cacheable: bool
    ) -> None:
        absent = self._responder.count_absent_labels(absence.name, _MAX_ABSENT_LABELS)
        if absent is None:
            return
        end = _HEADER + sum(map(len, absence.name[:absent])) + absent
        name_end = answer.question_end - _TYPE_AND_CLASS
        ends = _ENDS if answer.cookie is None else _ENDS_WITH_COOKIE
        if len(self._negative_forms) >= MAX_NEGATIVE_FORMS:
            self._negative_forms.clear()
        self._negative_forms[lower[:_HEADER] + ends[end] + lower[end:]] = _NegativeForm(
            key[:_HEADER], key[name_end:], name_end, absence.name[absent:], absence, is_cacheable
        )

    # -- writing -------------------------------------------------------------------------------------------

    def _store(self, key: bytes, answer: CacheableAnswer) -> Iterator[bytes]:
        """Store an answer if it may be cached and there is room; return its responses."""
        service = answer.service
        if service is None:
            return answer.responses
        dropped = self._dropped.pop(key, None)
        if dropped is not None:  # before the new entry joins the same rotation
            self._release(dropped)
        size = answer.rotation.size if answer.rotation is not None else answer.size
        size += _ENTRY_OVERHEAD + 2 * len(key)
        entry = _Entry(size, service, answer.rotation, answer.cookie is not None, answer.responses)
        self._limit(service, is_absent=answer.absence is not None)
        while len(self) >= self._max_entries or not self._entry_memory.has_room(entry.size):
            if self._dropped:
                self.release()
            elif self:
                self._make_room()
            else:
                break
        if not self._entry_memory.reserve(entry.size):
            return self._counts.counted(service, answer.responses)
        if entry.rotation is not None:
            entry.responses = entry.rotation.join(key, self._response_memory, self._on_shared)
        entry.responses = self._counts.counted(service, entry.responses)
        self._entries[key] = entry
        self._serve(key, entry)
        if answer.absence is not None:
            self._absent[key] = service
            self._absent_keys.setdefault(service, set()).add(key)
        else:
            self._keys.setdefault(service, []).append(key)
        return entry.responses

    def _limit(self, service: Labels, *, is_absent: bool) -> None:
        """Evict entries if there are too many of one kind."""
        if is_absent:
            if len(self._absent) >= MAX_WITHOUT_SERVICE:
                self._evict_absent(MAX_EVICTED_AT_ONCE)
            return
        limit = MAX_WITHOUT_SERVICE if service == ANY_SERVICE else MAX_PER_SERVICE
        if len(self._keys.get(service, ())) >= limit:
            self._evict_oldest(service, MAX_EVICTED_AT_ONCE)

    def _serve(self, key: bytes, entry: _Entry) -> None:
        """Serve an entry's responses. A query that equals its key has a cookie too, namely of zeros."""
        if entry.has_cookie:
            finish = self._responder.edns_options.finish
            self[key] = map(finish, entry.responses, itertools.repeat(_ZERO_COOKIE))
        else:
            self[key] = entry.responses

    def _replace(self, key: bytes, responses: Iterator[bytes]) -> None:
        """Replace an entry's iterator: another query form now shares its rotation."""
        entry = self._entries.get(key)
        if entry is not None:  # otherwise it was dropped
            entry.responses = self._counts.counted(entry.service, responses)
            self._serve(key, entry)

    def _fold(self, key: bytes, common: bytes, name_end: int) -> None:
        """Use the entry with the key `common` for all spellings of its query."""
        entry = self._entries.get(common)
        if entry is not None:
            entry.folded = key.lower() + _WITH_COOKIE if entry.has_cookie else key.lower()
            entry.reference = _Folded(common, name_end, key[name_end:])
            self._folded[entry.folded] = entry.reference

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

    def forget(self, services: Collection[Labels]) -> None:
        """Drop the entries that depend on these services, or all entries if these are many services."""
        if len(services) > MAX_DROPPED_AT_ONCE:
            self.clear()
            return
        keys: list[bytes] = []
        for service in services:
            keys += self._keys.pop(service, ())
            absent = self._absent_keys.pop(service, None)
            if absent is not None:
                keys += absent
                for key in absent:
                    del self._absent[key]
        self._drop_together(keys)

    def forget_absent(self) -> None:
        """Drop the entries of all names that do not exist."""
        keys = [*self._absent]
        self._absent.clear()
        self._absent_keys.clear()
        self._drop_together(keys)

    def forget_where(self, is_affected: Callable[[Labels], bool]) -> Iterator[None]:
        """Drop the entries of services for which this returns True, and of all names that do not exist.

        Yields after each piece of work. Entries that are stored between two pieces may be dropped too.
        """
        self.forget_absent()
        yield
        services = list(self._keys)
        for start in range(0, len(services), MAX_CHECKED_AT_ONCE):
            keys: list[bytes] = []
            for service in filter(is_affected, services[start : start + MAX_CHECKED_AT_ONCE]):
                keys += self._keys.pop(service, ())
                if len(keys) >= MAX_CHECKED_AT_ONCE:
                    self._drop_together(keys)
                    yield
                    keys = []
            self._drop_together(keys)
            yield

    def _drop_together(self, keys: list[bytes]) -> None:
        """Drop these entries, which are no longer in `_keys` and `_absent`, in a short time."""
        if len(keys) <= _MAX_RELEASED_AT_ONCE:
            self._drop(keys)
        elif len(keys) <= MAX_DROPPED_AT_ONCE:
            # Both run in C, which takes a third of the time of a loop (measured).
            deque(map(self.__delitem__, keys), maxlen=0)
            self._dropped.update(zip(keys, map(self._entries.pop, keys), strict=True))
        else:
            self.clear()

    def clear(self) -> None:
        """Drop all entries."""
        # The entries own what is in the dictionaries, so that nothing but the dictionaries is released here.
        if self._dropped:
            self._dropped.update(self._entries)
        else:
            self._dropped = self._entries
        self._entries = {}
        super().clear()
        self._folded, self._query_forms, self._negative_forms = {}, {}, {}
        self._keys, self._absent, self._absent_keys = {}, {}, {}

    def release(self, count: int = MAX_RELEASED_AT_ONCE) -> None:
        """Release the memory of some dropped entries."""
        for _ in range(min(count, len(self._dropped))):
            self._release(self._dropped.popitem()[1])

    def _make_room(self) -> None:
        left = min(len(self) // _EVICTION_DIVISOR + 1, MAX_EVICTED_AT_ONCE)
        left -= self._evict_absent(left)
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

    def _evict_absent(self, limit: int) -> int:
        """Drop up to `limit` entries of names that do not exist, the oldest first; return their number."""
        oldest = list(itertools.islice(self._absent, limit))
        for key in oldest:
            service = self._absent.pop(key)
            others = self._absent_keys[service]
            others.remove(key)
            if not others:
                del self._absent_keys[service]
        self._drop(oldest)
        self.evicted += len(oldest)
        return len(oldest)

    def _drop(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            del self[key]
            self._release(self._entries.pop(key))

    def _release(self, entry: _Entry) -> None:
        """Release the memory of an entry that is not served any more."""
        self._entry_memory.release(entry.size)
        if entry.folded is not None and self._folded.get(entry.folded) is entry.reference:
            del self._folded[entry.folded]
        if entry.rotation is not None:
            entry.rotation.leave()
