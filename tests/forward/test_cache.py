"""The forward cache: TTLs, stale entries, prefetching, eviction, failures and flushing."""

from __future__ import annotations

from collections.abc import Sequence

import dns.flags
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import astuple

from tests.forward.helpers import NAME, query, question, read, reply, rrset, soa
from zkdns.dns.edns import pack_ede
from zkdns.forward.cache import Cache, Entry
from zkdns.forward.message import Question
from zkdns.forward.reply import Reply
from zkdns.forward.rewriting import is_subdomain

A = question()
DAY = 86400
START = 1000


def cache_of(
    entries: int = 100,
    *,
    max_ttl: int = DAY,
    negative: int = 3600,
    stale: int = DAY,
    max_bytes: int = 1 << 20,
) -> Cache:
    return Cache(
        max_entries=entries,
        max_ttl=max_ttl,
        max_negative_ttl=negative,
        stale_seconds=stale,
        max_bytes=max_bytes,
    )


def removed_from(cache: Cache) -> list[Question]:
    """Return a list that collects the questions of entries removed from now on."""
    removed: list[Question] = []
    cache.on_removed = lambda entry: removed.append(entry.question)
    return removed


def address(ttl: int = 300) -> Reply:
    return reply("A", [rrset("A", ttl=ttl)])


def denial(minimum: int = 900) -> Reply:
    return reply("A", [], [soa(minimum=minimum, ttl=DAY)], rcode="NXDOMAIN")


def servfail() -> Reply:
    return reply("A", rcode="SERVFAIL")


def put(cache: Cache, requested: Question = A, found: Reply | None = None, now: int = START) -> Entry:
    entry = cache.put(requested, found or address(), now)
    assert entry is not None
    return entry


def wire(text: str) -> bytes:
    return question(name=text).name


# -- TTLs -------------------------------------------------------------------------------------------------


def test_dns_35_entry_is_fresh_until_its_ttl_expires() -> None:
    cache = cache_of()
    entry = put(cache, found=address(ttl=10))
    for passed in (0, 5, 9):
        assert cache.get(A, START + passed) is entry
        assert (entry.age(START + passed), entry.is_fresh(START + passed)) == (passed, True)
    assert cache.get(A, START + 10) is None
    assert not entry.is_fresh(START + 10)
    assert (entry.question, entry.stored_at, entry.expires_at, entry.hits) == (A, START, START + 10, 3)


def test_questions_with_any_different_field_are_separate_entries() -> None:
    cache = cache_of()
    put(cache)
    for other in (question("AAAA"), question(do=True), question(cd=True), question(name="example.com.")):
        assert cache.get(other, START) is None


@pytest.mark.parametrize(
    ("found", "seconds"),
    [
        (address(ttl=5), 5),
        (address(ttl=50), 50),
        (address(ttl=500), 100),
        (denial(minimum=5), 5),
        (denial(minimum=20), 20),
        (denial(minimum=500), 60),
    ],
)
def test_dns_35_ttl_limits_of_positive_and_negative_replies(found: Reply, seconds: int) -> None:
    entry = put(cache_of(max_ttl=100, negative=60), found=found)
    assert entry.expires_at - entry.stored_at == seconds
    response = read(found.render(query(), 512, 0, max_ttl=entry.max_ttl))
    assert [record.ttl for record in (*response.answer, *response.authority)] == [seconds]


@pytest.mark.parametrize(
    "found",
    [address(ttl=0), denial(minimum=0), reply("A"), servfail(), reply("A", [rrset("A")], flags=dns.flags.TC)],
)
def test_dns_35_uncacheable_replies_are_not_cached(found: Reply) -> None:
    cache = cache_of()
    assert cache.put(A, found, START) is None
    assert (cache.get(A, START), cache.get_stale(A, START), len(cache), cache.size) == (None, None, 0, 0)


@pytest.mark.parametrize("limits", [{"entries": 0}, {"max_ttl": 0}, {"max_bytes": 100}])
def test_cache_without_room_stores_nothing(limits: dict[str, int]) -> None:
    cache = cache_of(**limits)
    assert cache.put(A, address(), START) is None
    cache.put_failure(A, START)
    assert (len(cache), cache.size) == (0, 0)


# -- stale entries ----------------------------------------------------------------------------------------


def test_dns_35_expired_entry_is_stale_for_the_configured_time() -> None:
    cache = cache_of(stale=100)
    entry = put(cache, found=address(ttl=10))
    assert cache.get_stale(A, START + 9) is None  # still fresh
    assert cache.get(A, START + 10) is None
    assert cache.get_stale(A, START + 10) is entry
    assert cache.get_stale(A, START + 109) is entry
    assert cache.get_stale(A, START + 110) is None
    assert entry.hits == 0


def test_dns_35_entries_are_stale_for_at_most_one_day() -> None:
    cache = cache_of(stale=10 * DAY)
    entry = put(cache, found=address(ttl=10))
    assert cache.get_stale(A, START + 9 + DAY) is entry
    assert cache.get_stale(A, START + 10 + DAY) is None


def test_get_removes_an_entry_past_its_stale_time() -> None:
    cache = cache_of(stale=0)
    removed = removed_from(cache)
    put(cache, found=address(ttl=10))
    assert (cache.get(A, START + 10), cache.get_stale(A, START + 10)) == (None, None)
    assert (len(cache), cache.size, removed) == (0, 0, [A])


@pytest.mark.parametrize("found", [servfail(), reply("A", [rrset("A")], flags=dns.flags.TC)])
def test_dns_35_inconclusive_reply_keeps_the_earlier_entry(found: Reply) -> None:
    cache = cache_of()
    removed = removed_from(cache)
    entry = put(cache, found=address(ttl=10))
    assert cache.put(A, found, START + 20) is None
    assert cache.get_stale(A, START + 20) is entry
    assert removed == []


def test_uncacheable_reply_removes_the_earlier_entry() -> None:
    cache = cache_of()
    removed = removed_from(cache)
    put(cache, found=address(ttl=10))
    assert cache.put(A, address(ttl=0), START + 20) is None
    assert cache.get_stale(A, START + 20) is None
    assert (removed, cache.size) == ([A], 0)


# -- prefetch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ttl", "first"), [(2, 1), (3, 2), (9, 8), (19, 18), (20, 18), (300, 270), (DAY, DAY - DAY // 10)]
)
def test_prefetch_is_due_once_in_the_last_tenth_of_the_ttl(ttl: int, first: int) -> None:
    entry = put(cache_of(), found=address(ttl=ttl))
    assert not entry.start_prefetch_if_due(START)
    assert not entry.start_prefetch_if_due(START + first - 1)
    assert entry.start_prefetch_if_due(START + first)
    assert not entry.start_prefetch_if_due(START + first)
    assert not entry.start_prefetch_if_due(START + ttl)
    late = put(cache_of(), found=address(ttl=ttl))
    assert late.start_prefetch_if_due(START + ttl - 1)
    assert not put(cache_of(), found=address(ttl=ttl)).start_prefetch_if_due(START + ttl)


def test_entry_with_a_ttl_of_one_second_is_not_prefetched() -> None:
    assert not put(cache_of(), found=address(ttl=1)).start_prefetch_if_due(START)


# -- eviction ---------------------------------------------------------------------------------------------


def named(number: int, zone: str = "example.com.") -> Question:
    return question(name=f"n{number}.{zone}")


def test_least_recently_used_entries_are_evicted_first() -> None:
    cache = cache_of(entries=3)
    for number in range(3):
        put(cache, named(number))
    removed = removed_from(cache)
    assert cache.get(named(0), START) is not None
    assert cache.get_stale(named(1), START + 300) is not None
    put(cache, named(3))
    put(cache, named(4))
    assert removed == [named(2), named(0)]
    assert (len(cache), cache.evictions) == (3, 2)


def test_replacing_an_entry_removes_only_that_entry() -> None:
    cache = cache_of(entries=2)
    put(cache, named(0))
    put(cache, named(1))
    removed = removed_from(cache)
    size = cache.size
    entry = put(cache, named(0), now=START + 5)
    assert (removed, cache.evictions, cache.size) == ([named(0)], 0, size)
    assert cache.get(named(0), START + 5) is entry


def test_on_removed_is_called_after_the_new_entry_is_stored() -> None:
    cache = cache_of()
    put(cache)
    seen: list[Entry | None] = []
    cache.on_removed = lambda entry: seen.append(cache.get(entry.question, START + 1))
    entry = put(cache, now=START + 1)
    assert seen == [entry]


def test_entries_are_evicted_by_size_too() -> None:
    large = reply("A", [rrset("TYPE731", NAME, f"\\# 5000 {'00' * 5000}"), rrset("A")])
    cache = cache_of(max_bytes=50_000)
    removed = removed_from(cache)
    for number in range(20):
        put(cache, named(number), large)
        assert cache.size <= 50_000
    assert removed == [named(number) for number in range(20 - len(cache))]
    assert 5 < len(cache) < 10
    put(cache, named(19), address())
    assert cache.size <= 50_000


# -- failures ---------------------------------------------------------------------------------------------


def failure_seconds(cache: Cache, now: int) -> int:
    """Return the number of seconds from now on in which the question must not be sent."""
    found = cache.get_failure(A, now)
    return found.until - now if found else 0


def test_dns_34_failure_is_cached_for_a_second_then_twice_as_long() -> None:
    cache = cache_of()
    now, waits = START, []
    assert failure_seconds(cache, now) == 0
    for _ in range(12):
        cache.put_failure(A, now)
        waits.append(failure_seconds(cache, now))
        now += waits[-1]
        assert failure_seconds(cache, now - 1) == 1
        assert failure_seconds(cache, now) == 0
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30]


def test_dns_34_failure_during_a_cached_failure_does_not_double_it() -> None:
    cache = cache_of()
    for now in (START, START + 1):
        cache.put_failure(A, now)
    cache.put_failure(A, START + 2)
    assert failure_seconds(cache, START + 2) == 2


def test_dns_34_success_removes_the_failure_even_if_uncacheable() -> None:
    for found in (address(), address(ttl=0), denial()):
        cache = cache_of()
        for now in (START, START + 1):
            cache.put_failure(A, now)
        cache.put(A, found, START + 1)
        assert failure_seconds(cache, START + 1) == 0
        cache.put_failure(A, START + 9)
        assert failure_seconds(cache, START + 9) == 1
    cache.put(A, servfail(), START + 9)
    assert failure_seconds(cache, START + 9) == 1


def test_dns_34_backoff_restarts_after_the_maximum_time() -> None:
    for quiet, wait in ((29, 4), (30, 1)):
        cache = cache_of()
        cache.put_failure(A, START)
        cache.put_failure(A, START + 1)
        cache.put_failure(A, START + 3 + quiet)
        assert failure_seconds(cache, START + 3 + quiet) == wait


def test_dns_34_failure_of_the_upstreams_ends_when_they_recover() -> None:
    cache = cache_of()
    cache.put_failure(A, START, recoveries=5)
    cache.put_failure(A, START + 1, recoveries=5)
    found = cache.get_failure(A, START + 2)
    assert found is not None
    assert [found.has_recovered(number) for number in (5, 6)] == [False, True]
    cache.put_failure(A, START + 2, recoveries=6)
    assert failure_seconds(cache, START + 2) == 1


def test_failure_about_the_question_does_not_end_when_upstreams_recover() -> None:
    cache = cache_of()
    cache.put_failure(A, START)
    found = cache.get_failure(A, START)
    assert found is not None
    assert not found.has_recovered(6)


def test_failure_has_the_errors_and_keeps_the_stale_entry() -> None:
    cache = cache_of()
    entry = put(cache, found=address(ttl=10))
    cache.put_failure(A, START + 10, errors=pack_ede(22), text="no response from 192.0.2.1")
    found = cache.get_failure(A, START + 10)
    assert found is not None
    assert (found.errors, found.text) == (pack_ede(22), "no response from 192.0.2.1")
    assert cache.get_stale(A, START + 10) is entry
    assert cache.get_failure(question("AAAA"), START + 10) is None


def test_number_of_failures_is_limited_like_entries() -> None:
    cache = cache_of(entries=3)
    for number in range(9):
        cache.put_failure(named(number), START)
    assert [cache.get_failure(named(number), START) is not None for number in range(9)] == 6 * [False] + 3 * [
        True
    ]


# -- flushing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "below", "removed"),
    [
        (None, True, ["example.com.", "www.example.com.", "a.www.example.com.", "example.net.", "."]),
        (wire("."), True, ["example.com.", "www.example.com.", "a.www.example.com.", "example.net.", "."]),
        (wire("."), False, ["."]),
        (wire("com."), True, ["example.com.", "www.example.com.", "a.www.example.com."]),
        (wire("com."), False, []),
        (wire("example.com."), True, ["example.com.", "www.example.com.", "a.www.example.com."]),
        (wire("example.com."), False, ["example.com."]),
        (wire("www.example.com."), True, ["www.example.com.", "a.www.example.com."]),
        (wire("xample.com."), True, []),
    ],
)
def test_flush_removes_a_name_with_or_without_names_below(
    name: bytes | None, removed: Sequence[str], *, below: bool
) -> None:
    cache = cache_of()
    every = [
        question(qtype, name)
        for name in ("example.com.", "www.example.com.", "a.www.example.com.", "example.net.", ".")
        for qtype in ("A", "AAAA")
    ]
    for requested in every:
        put(cache, requested)
    logged = removed_from(cache)
    assert cache.flush(name, below=below) == 2 * len(removed)
    expected = [question(qtype, name) for name in removed for qtype in ("A", "AAAA")]
    assert sorted(map(astuple, logged)) == sorted(map(astuple, expected))
    assert [requested for requested in every if cache.get(requested, START) is None] == [
        a for a in every if a in expected
    ]
    assert (cache.size == 0) == (len(cache) == 0)


def test_flush_removes_failures_and_counts_each_question_once() -> None:
    cache = cache_of()
    put(cache)
    cache.put_failure(A, START)
    cache.put_failure(question("AAAA"), START)
    cache.put_failure(question(name="example.net."), START)
    assert cache.flush(wire("example.com.")) == 2
    assert cache.get_failure(A, START) is None
    assert cache.get_failure(question(name="example.net."), START) is not None


def test_suffix_within_a_label_is_not_a_parent_domain() -> None:
    above = b"\3com\0"
    assert is_subdomain(b"\7example\3com\0", above)
    assert is_subdomain(above, above)
    assert not is_subdomain(b"\x0bexample\3com\0", above)
    assert not is_subdomain(b"\0", above)


# -- model ------------------------------------------------------------------------------------------------


class CacheMachine(RuleBasedStateMachine):
    """A small cache, compared with a dictionary without limits: `get` returns the last reply stored."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.cache = cache_of(entries=4, stale=20, max_bytes=6000)
        self.cache.on_removed = self._on_removed
        self.last: dict[Question, Entry] = {}

    def _on_removed(self, entry: Entry) -> None:
        if self.cache.get(entry.question, self.now) is None:
            self.last.pop(entry.question, None)

    numbers = st.integers(0, 6)

    @rule(number=numbers, ttl=st.integers(0, 30), size=st.sampled_from([0, 500, 9000]))
    def put(self, number: int, ttl: int, size: int) -> None:
        found = reply("A", [rrset("A", ttl=ttl), rrset("TYPE731", NAME, f"\\# {size} {'00' * size}")])
        entry = self.cache.put(named(number), found, self.now)
        assert (entry is None) == (not ttl or size == 9000)
        self.last.pop(named(number), None)
        if entry is not None:
            self.last[named(number)] = entry

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(number=numbers)
    def get(self, number: int) -> None:
        expected = self.last.get(named(number))
        fresh, stale = self.cache.get(named(number), self.now), self.cache.get_stale(named(number), self.now)
        assert fresh is None or stale is None
        if expected is None or self.now >= expected.expires_at + 20:
            assert (fresh, stale) == (None, None)
        else:
            assert (fresh or stale) is expected
            assert (fresh is expected) == (self.now < expected.expires_at)

    @precondition(lambda self: self.last)
    @rule()
    def flush(self) -> None:
        self.cache.flush(named(0).name)
        assert self.cache.get(named(0), self.now) is None

    @invariant()
    def respects_its_limits(self) -> None:
        assert len(self.cache) <= 4
        assert self.cache.size == sum(entry.size for entry in self.last.values()) <= 6000
        assert len(self.cache) == len(self.last)


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
