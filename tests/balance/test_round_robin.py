"""`RoundRobin`: exact rotation over any source, in many threads, and while the set changes."""

import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns import BadValueError, FixedSet
from zkdns.balance import NoEndpointsError, RoundRobin


class CountedSet(FixedSet):
    """A set that counts its subscriptions."""

    subscription_count = 0

    def subscribe(self, on_change: Callable[[], object]) -> Callable[[], None]:
        self.subscription_count += 1
        return super().subscribe(on_change)


def names(count: int, first: int = 0) -> list[str]:
    return [f"10.0.{index // 250}.{index % 250}:80" for index in range(first, first + count)]


def picks(balancer: RoundRobin, count: int) -> list[str]:
    return [balancer.pick() for _ in range(count)]


@given(st.integers(1, 40), st.integers(1, 4))
def test_n_choices_in_a_row_are_the_n_endpoints_in_order(count: int, rounds: int) -> None:
    balancer = RoundRobin(FixedSet(names(count)))
    chosen = picks(balancer, count * rounds)
    start = sorted(names(count)).index(chosen[0])
    turn = sorted(names(count))[start:] + sorted(names(count))[:start]
    assert chosen == turn * rounds


def test_the_first_choice_is_random() -> None:
    source = FixedSet(names(10))
    assert (
        len({RoundRobin(source).pick() for _ in range(200)}) > 5
    )  # at most 5 of 10: chance of failure below 10**-50


def test_threads_share_the_rotation_exactly() -> None:
    balancer = RoundRobin(FixedSet(names(7)))
    chosen: list[str] = []
    start = threading.Barrier(8)

    def run() -> None:
        start.wait()
        chosen.extend(picks(balancer, 700))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(chosen) == dict.fromkeys(names(7), 800)


def test_after_a_change_the_rotation_continues_behind_the_last_choice() -> None:
    source = FixedSet(["b:1", "d:1", "f:1"])
    balancer = RoundRobin(source)
    while balancer.pick() != "d:1":
        pass
    source.set_endpoints(["a:1", "b:1", "e:1", "f:1"])  # d has left; e follows it
    assert picks(balancer, 5) == ["e:1", "f:1", "a:1", "b:1", "e:1"]


@given(st.lists(st.sets(st.integers(0, 9), min_size=1), min_size=1, max_size=8))
def test_a_remaining_endpoint_is_never_skipped(sets: list[set[int]]) -> None:
    """After as many choices as there are endpoints, each was chosen once, whatever the history."""
    source = FixedSet()
    balancer = RoundRobin(source)
    for members in sets:
        source.set_endpoints([f"10.0.0.{member}:80" for member in members])
        assert sorted(picks(balancer, len(members))) == list(source.endpoints)


def test_without_a_source_endpoints_are_set() -> None:
    balancer = RoundRobin()
    balancer.set_endpoints(["[::1]:80", "10.0.0.1:80", "10.0.0.1:80"])
    assert balancer.endpoints == ("10.0.0.1:80", "[::1]:80")
    assert sorted(picks(balancer, 2)) == ["10.0.0.1:80", "[::1]:80"]


def test_set_endpoints_replaces_the_source() -> None:
    source = FixedSet(["a:1"])
    balancer = RoundRobin(source)
    balancer.set_endpoints(["b:1"])
    source.set_endpoints(["c:1"])
    assert picks(balancer, 2) == ["b:1", "b:1"]


def test_an_invalid_endpoint_changes_nothing() -> None:
    balancer = RoundRobin()
    balancer.set_endpoints(["a:1"])
    with pytest.raises(BadValueError, match="no port"):
        balancer.set_endpoints(["b:1", "c"])
    assert balancer.endpoints == ("a:1",)


def test_an_empty_set_is_an_error_until_it_is_filled() -> None:
    source = FixedSet()
    balancer = RoundRobin(source)
    with pytest.raises(NoEndpointsError, match="the set is empty"):
        balancer.pick()
    source.set_endpoints(["a:1"])
    assert balancer.pick() == "a:1"


def test_excluded_endpoints_are_skipped() -> None:
    balancer = RoundRobin(FixedSet(["a:1", "b:1", "c:1"]))
    first = balancer.pick()
    second = balancer.pick(without={first})
    third = balancer.pick(without=[first, second])
    assert {first, second, third} == {"a:1", "b:1", "c:1"}
    with pytest.raises(NoEndpointsError, match="tried: a:1, b:1, c:1"):
        balancer.pick(without=["a:1", "b:1", "c:1"])


def test_a_closed_watch_keeps_its_last_endpoints() -> None:
    source = FixedSet(["a:1"])
    balancer = RoundRobin(source)
    source.close()
    assert balancer.pick() == "a:1"


def test_a_dropped_balancer_leaves_nothing_in_the_watch() -> None:
    source = CountedSet(["a:1"])
    balancer = RoundRobin(source)
    balancer.pick()
    assert source.subscription_count == 0
    gone = weakref.ref(balancer)
    del balancer
    gc.collect()
    assert gone() is None
