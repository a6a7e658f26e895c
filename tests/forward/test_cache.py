"""What is remembered of upstreams' words, for how long, and what goes when there is not room for all."""

from __future__ import annotations

from collections.abc import Sequence

import dns.flags
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import astuple

from tests.forward.helpers import query, question, read, reply, rrset, soa
from zkdns.dns.edns import pack_ede
from zkdns.forward.cache import Cache, Entry, is_below
from zkdns.forward.question import Question
from zkdns.forward.reply import Reply

A = question()
DAY = 86400
START = 1000


def cache_of(
    entries: int = 100,
    *,
    most: int = DAY,
    negative: int = 3600,
    stale: int = DAY,
    most_bytes: int = 1 << 20,
) -> Cache:
    return Cache(
        most_entries=entries,
        most_ttl=most,
        most_negative_ttl=negative,
        stale_seconds=stale,
        most_bytes=most_bytes,
    )


def heard(cache: Cache) -> list[Question]:
    """The questions of entries that go from now on."""
    gone: list[Question] = []
    cache.on_gone = gone.append
    return gone


def address(ttl: int = 300) -> Reply:
    return reply("A", [rrset("A", ttl=ttl)])


def denial(minimum: int = 900) -> Reply:
    return reply("A", [], [soa(minimum=minimum, ttl=DAY)], rcode="NXDOMAIN")


def servfail() -> Reply:
    return reply("A", rcode="SERVFAIL")


def put(cache: Cache, asked: Question = A, found: Reply | None = None, now: int = START) -> Entry:
    entry = cache.put(asked, found or address(), now)
    assert entry is not None
    return entry


def wire(text: str) -> bytes:
    return question(name=text).name


# -- for how long -----------------------------------------------------------------------------------------


def test_dns_35_an_entry_is_there_until_its_ttl_is_over() -> None:
    cache = cache_of()
    entry = put(cache, found=address(ttl=10))
    for passed in (0, 5, 9):
        assert cache.get(A, START + passed) is entry
        assert (entry.age(START + passed), entry.is_fresh(START + passed)) == (passed, True)
    assert cache.get(A, START + 10) is None
    assert not entry.is_fresh(START + 10)
    assert (entry.question, entry.stored, entry.expires, entry.hits) == (A, START, START + 10, 3)


def test_questions_that_differ_in_anything_are_others() -> None:
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
def test_dns_35_ttls_have_a_ceiling_and_denials_one_of_their_own(found: Reply, seconds: int) -> None:
    entry = put(cache_of(most=100, negative=60), found=found)
    assert entry.expires - entry.stored == seconds
    response = read(found.render(query(), 512, 0, most_ttl=entry.most_ttl))
    assert [record.ttl for record in (*response.answer, *response.authority)] == [seconds]


@pytest.mark.parametrize(
    "found",
    [address(ttl=0), denial(minimum=0), reply("A"), servfail(), reply("A", [rrset("A")], flags=dns.flags.TC)],
)
def test_dns_35_what_must_not_be_kept_is_not(found: Reply) -> None:
    cache = cache_of()
    assert cache.put(A, found, START) is None
    assert (cache.get(A, START), cache.get_stale(A, START), len(cache), cache.size) == (None, None, 0, 0)


@pytest.mark.parametrize("how", [{"entries": 0}, {"most": 0}, {"most_bytes": 100}])
def test_a_cache_without_room_keeps_nothing(how: dict[str, int]) -> None:
    cache = cache_of(**how)
    assert cache.put(A, address(), START) is None
    cache.put_failure(A, START)
    assert (len(cache), cache.size) == (0, 0)


# -- what has expired -------------------------------------------------------------------------------------


def test_dns_35_what_has_expired_is_stale_for_a_while() -> None:
    cache = cache_of(stale=100)
    entry = put(cache, found=address(ttl=10))
    assert cache.get_stale(A, START + 9) is None  # it is fresh
    assert cache.get(A, START + 10) is None
    assert cache.get_stale(A, START + 10) is entry
    assert cache.get_stale(A, START + 109) is entry
    assert cache.get_stale(A, START + 110) is None
    assert entry.hits == 0


def test_dns_35_nothing_is_stale_for_more_than_a_day() -> None:
    cache = cache_of(stale=10 * DAY)
    entry = put(cache, found=address(ttl=10))
    assert cache.get_stale(A, START + 9 + DAY) is entry
    assert cache.get_stale(A, START + 10 + DAY) is None


def test_what_is_of_no_more_use_goes_when_it_is_asked_for() -> None:
    cache = cache_of(stale=0)
    gone = heard(cache)
    put(cache, found=address(ttl=10))
    assert (cache.get(A, START + 10), cache.get_stale(A, START + 10)) == (None, None)
    assert (len(cache), cache.size, gone) == (0, 0, [A])


@pytest.mark.parametrize("found", [servfail(), reply("A", [rrset("A")], flags=dns.flags.TC)])
def test_dns_35_a_reply_that_says_nothing_leaves_what_was_known(found: Reply) -> None:
    cache = cache_of()
    gone = heard(cache)
    entry = put(cache, found=address(ttl=10))
    assert cache.put(A, found, START + 20) is None
    assert cache.get_stale(A, START + 20) is entry
    assert gone == []


def test_a_reply_that_must_not_be_kept_ends_what_was_known() -> None:
    cache = cache_of()
    gone = heard(cache)
    put(cache, found=address(ttl=10))
    assert cache.put(A, address(ttl=0), START + 20) is None
    assert cache.get_stale(A, START + 20) is None
    assert (gone, cache.size) == ([A], 0)


# -- prefetch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ttl", "first"), [(2, 1), (3, 2), (9, 8), (19, 18), (20, 18), (300, 270), (DAY, DAY - DAY // 10)]
)
def test_an_entry_wants_to_be_prefetched_once_in_the_last_tenth_of_its_time(ttl: int, first: int) -> None:
    entry = put(cache_of(), found=address(ttl=ttl))
    assert not entry.wants_prefetch(START)
    assert not entry.wants_prefetch(START + first - 1)
    assert entry.wants_prefetch(START + first)
    assert not entry.wants_prefetch(START + first)
    assert not entry.wants_prefetch(START + ttl)
    late = put(cache_of(), found=address(ttl=ttl))
    assert late.wants_prefetch(START + ttl - 1)
    assert not put(cache_of(), found=address(ttl=ttl)).wants_prefetch(START + ttl)


def test_an_entry_for_one_second_is_not_prefetched() -> None:
    assert not put(cache_of(), found=address(ttl=1)).wants_prefetch(START)


# -- what goes --------------------------------------------------------------------------------------------


def named(number: int, zone: str = "example.com.") -> Question:
    return question(name=f"n{number}.{zone}")


def test_those_least_recently_asked_for_go_first() -> None:
    cache = cache_of(entries=3)
    for number in range(3):
        put(cache, named(number))
    gone = heard(cache)
    assert cache.get(named(0), START) is not None
    assert cache.get_stale(named(1), START + 300) is not None
    put(cache, named(3))
    put(cache, named(4))
    assert gone == [named(2), named(0)]
    assert (len(cache), cache.evicted) == (3, 2)


def test_an_entry_that_is_put_anew_goes_and_nothing_else() -> None:
    cache = cache_of(entries=2)
    put(cache, named(0))
    put(cache, named(1))
    gone = heard(cache)
    size = cache.size
    entry = put(cache, named(0), now=START + 5)
    assert (gone, cache.evicted, cache.size) == ([named(0)], 0, size)
    assert cache.get(named(0), START + 5) is entry


def test_whoever_hears_that_an_entry_was_replaced_finds_the_new_one() -> None:
    cache = cache_of()
    put(cache)
    seen: list[Entry | None] = []
    cache.on_gone = lambda asked: seen.append(cache.get(asked, START + 1))
    entry = put(cache, now=START + 1)
    assert seen == [entry]


def test_many_bytes_go_as_many_entries_do() -> None:
    large = reply("A", [rrset("TYPE731", "x.example.com.", f"\\# 5000 {'00' * 5000}"), rrset("A")])
    cache = cache_of(most_bytes=50_000)
    gone = heard(cache)
    for number in range(20):
        put(cache, named(number), large)
        assert cache.size <= 50_000
    assert gone == [named(number) for number in range(20 - len(cache))]
    assert 5 < len(cache) < 10
    put(cache, named(19), address())
    assert cache.size <= 50_000


# -- failures ---------------------------------------------------------------------------------------------


def failing(cache: Cache, now: int) -> int:
    """For how many seconds from then on the question must not be asked."""
    found = cache.failure(A, now)
    return found.until - now if found else 0


def test_dns_34_a_failure_is_remembered_a_second_and_twice_as_long_each_time() -> None:
    cache = cache_of()
    now, waits = START, []
    assert failing(cache, now) == 0
    for _ in range(12):
        cache.put_failure(A, now)
        waits.append(failing(cache, now))
        now += waits[-1]
        assert failing(cache, now - 1) == 1
        assert failing(cache, now) == 0
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_dns_34_a_failure_while_one_is_remembered_does_not_count_twice() -> None:
    cache = cache_of()
    for now in (START, START + 1):
        cache.put_failure(A, now)
    cache.put_failure(A, START + 2)
    assert failing(cache, START + 2) == 2


def test_dns_34_a_success_ends_it_even_one_that_is_not_kept() -> None:
    for found in (address(), address(ttl=0), denial()):
        cache = cache_of()
        for now in (START, START + 1):
            cache.put_failure(A, now)
        cache.put(A, found, START + 1)
        assert failing(cache, START + 1) == 0
        cache.put_failure(A, START + 9)
        assert failing(cache, START + 9) == 1
    cache.put(A, servfail(), START + 9)
    assert failing(cache, START + 9) == 1


def test_dns_34_it_begins_anew_after_a_long_time() -> None:
    for quiet, wait in ((299, 4), (300, 1)):
        cache = cache_of()
        cache.put_failure(A, START)
        cache.put_failure(A, START + 1)
        cache.put_failure(A, START + 3 + quiet)
        assert failing(cache, START + 3 + quiet) == wait


def test_a_failure_tells_what_was_answered_and_leaves_what_is_stale() -> None:
    cache = cache_of()
    entry = put(cache, found=address(ttl=10))
    cache.put_failure(A, START + 10, errors=pack_ede(22), text="no answer from 192.0.2.1")
    found = cache.failure(A, START + 10)
    assert found is not None
    assert (found.errors, found.text) == (pack_ede(22), "no answer from 192.0.2.1")
    assert cache.get_stale(A, START + 10) is entry
    assert cache.failure(question("AAAA"), START + 10) is None


def test_failures_are_bounded_as_entries_are() -> None:
    cache = cache_of(entries=3)
    for number in range(9):
        cache.put_failure(named(number), START)
    assert [cache.failure(named(number), START) is not None for number in range(9)] == 6 * [False] + 3 * [
        True
    ]


# -- forgetting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "below", "gone"),
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
def test_a_name_can_be_forgotten_with_or_without_what_lies_below(
    name: bytes | None, gone: Sequence[str], *, below: bool
) -> None:
    cache = cache_of()
    every = [
        question(qtype, name)
        for name in ("example.com.", "www.example.com.", "a.www.example.com.", "example.net.", ".")
        for qtype in ("A", "AAAA")
    ]
    for asked in every:
        put(cache, asked)
    told = heard(cache)
    assert cache.flush(name, below=below) == 2 * len(gone)
    expected = [question(qtype, name) for name in gone for qtype in ("A", "AAAA")]
    assert sorted(map(astuple, told)) == sorted(map(astuple, expected))
    assert [asked for asked in every if cache.get(asked, START) is None] == [
        a for a in every if a in expected
    ]
    assert (cache.size == 0) == (len(cache) == 0)


def test_failures_are_forgotten_too_and_a_question_counts_once() -> None:
    cache = cache_of()
    put(cache)
    cache.put_failure(A, START)
    cache.put_failure(question("AAAA"), START)
    cache.put_failure(question(name="example.net."), START)
    assert cache.flush(wire("example.com.")) == 2
    assert cache.failure(A, START) is None
    assert cache.failure(question(name="example.net."), START) is not None


def test_bytes_within_a_label_are_no_name_above() -> None:
    above = b"\3com\0"
    assert is_below(b"\7example\3com\0", above)
    assert is_below(above, above)
    assert not is_below(b"\x0bexample\3com\0", above)
    assert not is_below(b"\0", above)


# -- all together -----------------------------------------------------------------------------------------


class CacheMachine(RuleBasedStateMachine):
    """A small cache against a dictionary that forgets nothing: what the cache tells is what was put last."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.cache = cache_of(entries=4, stale=20, most_bytes=6000)
        self.cache.on_gone = self._gone
        self.last: dict[Question, Entry] = {}

    def _gone(self, asked: Question) -> None:
        if self.cache.get(asked, self.now) is None:
            self.last.pop(asked, None)

    numbers = st.integers(0, 6)

    @rule(number=numbers, ttl=st.integers(0, 30), size=st.sampled_from([0, 500, 9000]))
    def put(self, number: int, ttl: int, size: int) -> None:
        found = reply(
            "A", [rrset("A", ttl=ttl), rrset("TYPE731", "x.example.com.", f"\\# {size} {'00' * size}")]
        )
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
        if expected is None or self.now >= expected.expires + 20:
            assert (fresh, stale) == (None, None)
        else:
            assert (fresh or stale) is expected
            assert (fresh is expected) == (self.now < expected.expires)

    @precondition(lambda self: self.last)
    @rule()
    def flush(self) -> None:
        self.cache.flush(named(0).name)
        assert self.cache.get(named(0), self.now) is None

    @invariant()
    def holds_its_bounds(self) -> None:
        assert len(self.cache) <= 4
        assert self.cache.size == sum(entry.size for entry in self.last.values()) <= 6000
        assert len(self.cache) == len(self.last)


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
