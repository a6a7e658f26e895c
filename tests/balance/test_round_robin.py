"""`RoundRobin`: exact rotation over any source, in many threads, and while the set changes."""

import gc
import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns import BadValueError, FixedSet
from zkdns.balance import LeastRequest, NoEndpointsError, RoundRobin
from zkdns.serverset.member import Endpoint, Member
from zkdns.serverset.watch import Watch


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


def test_the_endpoints_of_a_source_cannot_be_set() -> None:
    source = FixedSet(["a:1"])
    balancer = RoundRobin(source)
    with pytest.raises(BadValueError, match="come from a watch or another source"):
        balancer.set_endpoints(["b:1"])
    assert picks(balancer, 2) == ["a:1", "a:1"]


def test_changes_are_counted() -> None:
    source = FixedSet(["a:1"])
    balancer = RoundRobin(source)
    assert (balancer.event_count, balancer.last_event) == (1, source.last_event)
    source.set_endpoints(["b:1"])
    assert (balancer.event_count, balancer.last_event) == (2, source.last_event)
    own = RoundRobin()
    before = own.event_count
    assert before is not None
    own.set_endpoints(["a:1"])
    assert own.event_count == before + 1
    assert own.last_event is not None


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


def test_processes_with_the_same_seed_start_with_different_endpoints() -> None:
    state = random.getstate()
    first: Counter[str] = Counter()
    for _ in range(20):
        random.seed(1)
        balancer, least = RoundRobin(), LeastRequest()
        balancer.set_endpoints(names(250))
        least.set_endpoints(names(250, 250))
        first.update((balancer.pick(), least.acquire()))
    random.setstate(state)
    assert sum(count == 20 for count in first.values()) == 0


# -- weights ---------------------------------------------------------------------------------------------


class Weighted(Watch):
    """A watch of members with weights, by endpoint."""

    def __init__(self, **weights: float) -> None:
        super().__init__()
        self.set(**weights)

    def set(self, **weights: float) -> None:
        self._publish(Member(name, Endpoint(name, 1), weight=weight) for name, weight in weights.items())


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([0.1, 0.5, 1.0, 1.2, 3.0, 10.0]), min_size=1)
)
def test_choices_are_in_proportion_to_the_weights(weights: dict[str, float]) -> None:
    count = 500
    chosen = Counter(picks(RoundRobin(Weighted(**weights)), count))
    for name, weight in weights.items():
        assert abs(chosen[f"{name}:1"] - count * weight / sum(weights.values())) <= len(weights) + 1


def test_the_choices_of_a_heavy_endpoint_are_spread() -> None:
    chosen = picks(RoundRobin(Weighted(a=3, b=1)), 40)
    assert all(chosen[begin : begin + 4].count("b:1") <= 2 for begin in range(37))
    assert all("b:1" in chosen[begin : begin + 5] for begin in range(36))


def test_a_weight_of_0_drains_and_a_negative_one_drops() -> None:
    watch = Weighted(a=1, b=0, c=-1)
    balancer = RoundRobin(watch)
    assert picks(balancer, 3) == ["a:1"] * 3
    with pytest.raises(NoEndpointsError, match="tried: a:1"):
        balancer.pick(without=["a:1"])
    watch.set(a=0, b=0, c=-1)  # all drained ones, if there are no others
    assert sorted(picks(balancer, 4)) == ["a:1", "a:1", "b:1", "b:1"]
    watch.set(c=-1)
    with pytest.raises(NoEndpointsError, match="weights below 0"):
        balancer.pick()


def test_an_endpoint_excluded_for_a_while_is_not_chosen_more_often_afterwards() -> None:
    balancer = RoundRobin(Weighted(a=2, b=1, c=1))
    assert "a:1" not in [balancer.pick(without=["a:1"]) for _ in range(100)]
    assert 9 <= picks(balancer, 20).count("a:1") <= 11


def test_a_change_of_weights_is_followed() -> None:
    watch = Weighted(a=1, b=1)
    balancer = RoundRobin(watch)
    assert picks(balancer, 4).count("a:1") == 2
    watch.set(a=1, b=9, c=10)
    assert abs(Counter(picks(balancer, 200))["c:1"] - 100) <= 2
    watch.set(a=2, b=2)
    assert picks(balancer, 4).count("a:1") == 2
