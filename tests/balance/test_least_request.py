"""`LeastRequest` chooses the least active endpoint, in constant time for any number of endpoints."""

import gc
import random
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from zkdns import BadValueError, FixedSet
from zkdns.balance import LeastRequest, NoEndpointsError
from zkdns.serverset.member import Endpoint, Member
from zkdns.serverset.watch import Watch


def names(count: int) -> list[str]:
    return [f"10.0.{index // 250}.{index % 250}:80" for index in range(count)]


class AnyHistory(RuleBasedStateMachine):
    """After any history, the choice has the fewest requests, and the counts are right.

    An endpoint that joins a busy set is a newcomer until it has received as many requests as the least active
    of the others had. Newcomers are compared with each other only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source = FixedSet()
        self.balancer = LeastRequest(self.source)
        self.held: list[str] = []
        self.known: set[str] = set()
        self.newcomers: dict[str, int] = {}  # with the number of requests that they lack

    @rule(members=st.sets(st.integers(0, 7)))
    def change(self, members: set[int]) -> None:
        self.source.set_endpoints([f"10.0.0.{member}:80" for member in members])

    @rule(without=st.sets(st.integers(0, 7), max_size=2))
    def acquire(self, without: set[int]) -> None:
        tried = {f"10.0.0.{member}:80" for member in without}
        self.follow()
        counts = {name: self.held.count(name) for name in self.source.endpoints if name not in tried}
        if not counts:
            with pytest.raises(NoEndpointsError):
                self.balancer.acquire(tried)
            return
        chosen = self.balancer.acquire(tried)
        peers = [name for name in counts if (name in self.newcomers) == (chosen in self.newcomers)]
        assert counts[chosen] == min(counts[name] for name in peers)
        self.held.append(chosen)
        if chosen in self.newcomers:
            self.newcomers[chosen] -= 1
            if not self.newcomers[chosen]:
                del self.newcomers[chosen]

    def follow(self) -> None:
        present = set(self.source.endpoints)
        for name in self.newcomers.keys() - present:
            del self.newcomers[name]
        settled = (self.known & present) - self.newcomers.keys()
        least = min((self.held.count(name) for name in settled), default=0)
        for name in present - self.known:
            if settled and self.held.count(name) < least:
                self.newcomers[name] = least - self.held.count(name)
        settled = present - self.newcomers.keys()
        least = min((self.held.count(name) for name in settled), default=0)
        if all(self.held.count(name) >= least for name in self.newcomers):
            self.newcomers.clear()
        self.known = present

    @rule(data=st.data())
    def release(self, data: Any) -> None:
        if self.held:
            chosen = data.draw(st.sampled_from(self.held))
            self.held.remove(chosen)
            self.balancer.release(chosen)

    @invariant()
    def counts_are_right(self) -> None:
        for name in {*self.source.endpoints, *self.held}:
            assert self.balancer.active(name) == self.held.count(name)


TestAnyHistory = AnyHistory.TestCase


def test_idle_endpoints_take_turns() -> None:
    """Sequential requests would all go to the first endpoint if ties were broken by order."""
    balancer = LeastRequest(FixedSet(names(10)))
    chosen = []
    for _ in range(100):
        with balancer.request() as endpoint:
            chosen.append(endpoint)
    assert Counter(chosen) == dict.fromkeys(names(10), 10)


@given(st.integers(1, 30), st.integers(0, 100))
def test_held_requests_are_spread_evenly(count: int, requests: int) -> None:
    balancer = LeastRequest(FixedSet(names(count)))
    for _ in range(requests):
        balancer.acquire()
    active = [balancer.active(name) for name in names(count)]
    assert sum(active) == requests
    assert max(active) - min(active) <= 1


def test_the_first_choice_is_random() -> None:
    source = FixedSet(names(10))
    assert len({LeastRequest(source).acquire() for _ in range(200)}) > 5  # chance of failure: below 10**-50


@pytest.mark.parametrize("others", [1, 2, 9])
def test_a_newcomer_gets_its_share_of_the_next_requests(others: int) -> None:
    """The others have a hundred requests each. Without the rule it would get the next hundred in a row."""
    source = FixedSet(names(others))
    balancer = LeastRequest(source)
    held = [balancer.acquire() for _ in range(100 * others)]
    newcomer = names(others + 1)[-1]
    source.set_endpoints(names(others + 1))
    chosen = []
    for _ in range(50 * (others + 1)):  # the usual traffic: one request begins and one ends
        chosen.append(balancer.acquire())
        balancer.release(held.pop(0))
        held.append(chosen[-1])
    for begin in range(0, len(chosen), others + 1):
        assert 0 <= chosen[begin : begin + others + 1].count(newcomer) <= 2
    assert 49 <= chosen.count(newcomer) <= 51
    for _ in range(70 * (others + 1)):
        held.append(balancer.acquire())
        balancer.release(held.pop(0))
    counts = [balancer.active(name) for name in names(others + 1)]
    assert max(counts) - min(counts) <= 2  # it has caught up


def test_many_newcomers_share_the_requests_of_a_busy_set() -> None:
    source = FixedSet(["a:1"])
    balancer = LeastRequest(source)
    for _ in range(50):
        balancer.acquire()
    source.set_endpoints(["a:1", "b:1", "c:1", "d:1"])
    chosen = Counter(balancer.acquire() for _ in range(40))
    assert all(9 <= chosen[name] <= 11 for name in ("a:1", "b:1", "c:1", "d:1"))


def test_a_newcomer_to_an_idle_set_is_equal() -> None:
    source = FixedSet(["a:1", "b:1"])
    balancer = LeastRequest(source)
    with balancer.request():
        source.set_endpoints(["a:1", "b:1", "c:1"])
        taken = [balancer.acquire(), balancer.acquire()]
    assert "c:1" in taken


def test_when_the_others_become_idle_a_newcomer_is_equal() -> None:
    source = FixedSet(["a:1"])
    balancer = LeastRequest(source)
    for _ in range(10):
        balancer.acquire()
    source.set_endpoints(["a:1", "b:1"])
    while balancer.acquire() != "b:1":
        pass
    while balancer.active("a:1"):
        balancer.release("a:1")
    assert balancer.acquire() == "a:1"
    assert sorted([balancer.acquire(), balancer.acquire()]) == ["a:1", "b:1"]


def test_below_a_limit_a_newcomer_gets_what_the_others_cannot_take() -> None:
    source = FixedSet(["a:1"])
    balancer = LeastRequest(source)
    assert [balancer.acquire_below(3) for _ in range(4)] == ["a:1", "a:1", "a:1", None]
    source.set_endpoints(["a:1", "b:1"])
    assert [balancer.acquire_below(3) for _ in range(4)] == ["b:1", "b:1", "b:1", None]
    assert balancer.acquire_below(4, without=["a:1"]) == "b:1"
    with pytest.raises(NoEndpointsError, match="tried: a:1, b:1"):
        balancer.acquire_below(3, without=["a:1", "b:1"])
    source.set_endpoints([])
    with pytest.raises(NoEndpointsError, match="the set is empty"):
        balancer.acquire_below(3)


# -- weights ---------------------------------------------------------------------------------------------


class Weighted(Watch):
    """A watch of members with weights, by endpoint."""

    def __init__(self, **weights: float) -> None:
        super().__init__()
        self.set(**weights)

    def set(self, **weights: float) -> None:
        self._publish(Member(name, Endpoint(name, 1), weight=weight) for name, weight in weights.items())


def test_requests_are_in_proportion_to_the_weights() -> None:
    balancer = LeastRequest(Weighted(a=1, b=2, c=0.5))
    held = Counter(balancer.acquire() for _ in range(350))
    assert held == {"a:1": 100, "b:1": 200, "c:1": 50}
    idle = LeastRequest(Weighted(a=1, b=2, c=0.5))
    chosen: Counter[str] = Counter()
    for _ in range(350):
        with idle.request() as endpoint:
            chosen[endpoint] += 1
    assert chosen == {"a:1": 100, "b:1": 200, "c:1": 50}


@given(st.data())
def test_the_choice_has_the_least_load(data: Any) -> None:
    """The number of requests divided by the weight is least, after any history without changes of the set."""
    weights = data.draw(
        st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([0.5, 1.0, 2.0, 8.0]), min_size=1)
    )
    balancer = LeastRequest(Weighted(**weights))
    held: list[str] = []
    for acquires in data.draw(st.lists(st.booleans(), max_size=60)):
        if acquires or not held:
            loads = {f"{name}:1": held.count(f"{name}:1") / weight for name, weight in weights.items()}
            held.append(balancer.acquire())
            assert loads[held[-1]] == min(loads.values())
        else:
            balancer.release(held.pop(data.draw(st.integers(0, len(held) - 1))))


def test_a_weight_of_0_drains_and_a_negative_one_drops() -> None:
    watch = Weighted(a=1, b=0, c=-1)
    balancer = LeastRequest(watch)
    assert {balancer.acquire() for _ in range(5)} == {"a:1"}
    watch.set(a=0, b=0, c=-1)  # all drained ones, if there are no others
    assert {balancer.acquire() for _ in range(5)} == {"a:1", "b:1"}
    watch.set(a=-1, c=-1)
    with pytest.raises(NoEndpointsError, match="weights below 0"):
        balancer.acquire()


def test_a_drained_endpoint_keeps_its_requests_and_gets_no_new_ones() -> None:
    watch = Weighted(a=1, b=1)
    balancer = LeastRequest(watch)
    held = [balancer.acquire() for _ in range(4)]
    watch.set(a=1, b=0)
    assert {balancer.acquire() for _ in range(4)} == {"a:1"}
    assert balancer.active("b:1") == 2
    for endpoint in held:
        balancer.release(endpoint)
    watch.set(a=1, b=3)  # it has another weight now
    assert balancer.active("a:1") == 4
    for _ in range(12):
        balancer.acquire()
    assert (balancer.active("a:1"), balancer.active("b:1")) != (4, 12)  # it did not get all of them at once
    assert balancer.active("a:1") + balancer.active("b:1") == 16


def test_a_slow_endpoint_gets_fewer_requests() -> None:
    balancer = LeastRequest(FixedSet(["fast:1", "slow:1"]))
    held = [balancer.acquire(), balancer.acquire()]
    assert sorted(held) == ["fast:1", "slow:1"]
    for _ in range(5):
        balancer.release("fast:1")
        assert balancer.acquire() == "fast:1"


class CountedName(str):
    """An endpoint that counts how often it is hashed or compared."""

    __slots__ = ("__weakref__",)
    comparisons = 0

    def __hash__(self) -> int:
        CountedName.comparisons += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        CountedName.comparisons += 1
        return super().__eq__(other)

    def __lt__(self, other: str) -> bool:
        CountedName.comparisons += 1
        return super().__lt__(other)


class CountedSource:
    """A source of counted endpoints."""

    is_closed = False

    def __init__(self, count: int) -> None:
        self.endpoints: tuple[str, ...] = tuple(map(CountedName, names(count)))

    def subscribe(self, on_change: Callable[[], None]) -> Callable[[], None]:
        return on_change


def steps(work: Callable[[], object]) -> int:
    """The number of lines of Python that a call executes."""
    count = 0

    def trace(_: FrameType, event: str, __: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def worst(count: int) -> tuple[int, int]:
    """The most lines and comparisons of one acquire or release in a busy set of `count` endpoints."""
    balancer = LeastRequest(CountedSource(count))
    held = [balancer.acquire() for _ in range(3 * count)]  # the first call reads the whole set
    history = random.Random(1)
    lines = comparisons = 0
    for _ in range(2000):
        CountedName.comparisons = 0
        if held and history.random() < 0.5:
            endpoint = held.pop(history.randrange(len(held)))
            lines = max(lines, steps(partial(balancer.release, endpoint)))
        else:
            lines = max(lines, steps(lambda: held.append(balancer.acquire())))
        comparisons = max(comparisons, CountedName.comparisons)
    return lines, comparisons


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_a_choice_takes_constant_time(count: int) -> None:
    """Counts comparisons as well as lines, since a scan may hide in one line of C, or compare no names."""
    gc.collect()
    gc.disable()  # finalizers of other tests' objects would be counted too
    try:
        lines, comparisons = worst(count)
    finally:
        gc.enable()
    assert lines <= 75
    assert comparisons <= 10


def test_a_departed_endpoint_is_not_chosen_and_keeps_its_requests() -> None:
    source = FixedSet(["a:1", "b:1"])
    balancer = LeastRequest(source)
    assert sorted([balancer.acquire(), balancer.acquire()]) == ["a:1", "b:1"]
    source.set_endpoints(["b:1"])
    assert [balancer.acquire(), balancer.acquire()] == ["b:1", "b:1"]
    assert balancer.active("a:1") == 1
    balancer.release("a:1")
    assert balancer.active("a:1") == 0


def test_a_departed_endpoint_without_requests_is_forgotten() -> None:
    source = CountedSource(2)
    balancer = LeastRequest(source)
    held = [balancer.acquire(), balancer.acquire()]
    references = [weakref.ref(endpoint) for endpoint in source.endpoints]
    source.endpoints = ("b:1",)
    assert balancer.acquire() == "b:1"
    for endpoint in held:
        balancer.release(endpoint)
    del endpoint, held
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_an_endpoint_that_returns_still_has_its_requests() -> None:
    source = FixedSet(["a:1"])
    balancer = LeastRequest(source)
    for _ in range(3):
        balancer.acquire()
    source.set_endpoints(["b:1"])
    balancer.acquire()
    source.set_endpoints(["a:1", "b:1"])
    assert [balancer.acquire(), balancer.acquire()] == ["b:1", "b:1"]
    for _ in range(3):
        balancer.release("a:1")
    assert balancer.acquire() == "a:1"


@pytest.mark.parametrize("endpoint", ["a:1", "never:1"])
def test_releasing_an_inactive_endpoint_is_an_error(endpoint: str) -> None:
    balancer = LeastRequest(FixedSet(["a:1"]))
    with balancer.request():
        pass
    with pytest.raises(BadValueError, match=f"'{endpoint}' has no active request"):
        balancer.release(endpoint)


def test_a_block_that_raises_releases() -> None:
    balancer = LeastRequest(FixedSet(["a:1"]))
    with pytest.raises(KeyError), balancer.request():
        raise KeyError
    assert balancer.active("a:1") == 0


def test_an_empty_set_is_an_error_until_it_is_filled() -> None:
    balancer = LeastRequest()
    with pytest.raises(NoEndpointsError, match="the set is empty"):
        balancer.acquire()
    balancer.set_endpoints(["a:1"])
    assert balancer.acquire() == "a:1"
    with pytest.raises(NoEndpointsError, match="tried: a:1"):
        balancer.acquire(without=["a:1"])


def test_threads_leave_no_request_behind() -> None:
    source = FixedSet(names(5))
    balancer = LeastRequest(source)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(500):
                with balancer.request():
                    pass
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for turn in range(50):
        source.set_endpoints(names(2 + turn % 4))
    for thread in threads:
        thread.join()
    assert not failures
    assert not any(balancer.active(name) for name in names(5))
