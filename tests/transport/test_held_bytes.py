"""The bytes that connections hold: the bounds of a client and of all, and which connection must be closed."""

from hypothesis import given
from hypothesis import strategies as st

from zkdns.transport.held_bytes import HeldBytes


def test_within_the_bounds_no_owner_must_give_up() -> None:
    held: HeldBytes[str] = HeldBytes(max_per_client=100, max_total=150)
    assert held.set("client", "one", 60) is None
    assert held.set("client", "two", 40) is None
    assert held.set("other", "three", 50) is None
    assert (held.total, held.of("client"), held.of("other"), held.of("third")) == (150, 100, 50, 0)


def test_a_client_over_its_bound_loses_its_largest_owner() -> None:
    held: HeldBytes[str] = HeldBytes(max_per_client=100, max_total=1000)
    held.set("other", "large", 90)
    held.set("client", "one", 60)
    assert held.set("client", "two", 50) == "one"
    assert held.set("client", "one", 0) is None
    assert (held.total, held.of("client")) == (140, 50)


def test_over_the_total_the_client_with_the_most_bytes_loses_its_largest_owner() -> None:
    held: HeldBytes[str] = HeldBytes(max_per_client=100, max_total=150)
    held.set("greedy", "one", 30)
    held.set("greedy", "two", 60)
    assert held.set("polite", "three", 61) == "two"
    assert held.set("greedy", "two", 0) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 60)), max_size=60))
def test_the_bounds_hold_if_each_returned_owner_gives_up(steps: list[tuple[str, int, int]]) -> None:
    held: HeldBytes[tuple[str, int]] = HeldBytes(max_per_client=100, max_total=150)
    sizes: dict[tuple[str, int], int] = {}
    for client, number, size in steps:
        owner = client, number
        sizes[owner] = size
        largest = held.set(client, owner, size)
        while largest is not None:
            sizes[largest] = 0
            largest = held.set(largest[0], largest, 0)
        assert held.total == sum(sizes.values()) <= 150
        for each in "abc":
            assert held.of(each) == sum(size for (of, _), size in sizes.items() if of == each) <= 100
