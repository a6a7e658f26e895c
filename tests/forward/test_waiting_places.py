"""How clients and forward zones share the places of waiting queries."""

from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.forward.waiting_places import TurnQueue, WaitingPlaces, client_key

A, B, C = b"a", b"b", b"c"


def fill(places: WaitingPlaces[str], client: bytes, zone: str, count: int) -> list[str]:
    """Add queries with increasing numbers; return those that lost their places."""
    names = [f"{client.decode()} {zone} {number}" for number in range(count)]
    return [lost for name in names if (lost := places.add(name, client, zone)) is not None]


def test_with_free_places_a_client_may_have_all() -> None:
    places: WaitingPlaces[str] = WaitingPlaces(100)
    assert fill(places, A, "zone", 100) == []
    assert len(places) == 100


def test_the_greediest_client_loses_its_oldest_query_and_others_are_not_refused() -> None:
    places: WaitingPlaces[str] = WaitingPlaces(100)
    fill(places, A, "zone", 100)
    assert fill(places, B, "zone", 3) == [f"a zone {number}" for number in range(3)]
    assert places.add("one more", A, "zone") == "a zone 3"


def test_greedy_clients_end_with_equal_shares() -> None:
    places: WaitingPlaces[str] = WaitingPlaces(90)
    lost = fill(places, A, "zone", 90) + fill(places, B, "zone", 500) + fill(places, C, "zone", 500)
    held = Counter({"a": 90, "b": 500, "c": 500}) - Counter(name[0] for name in lost)
    assert set(held.values()) == {30}


def test_queries_of_a_dead_zone_give_way_to_those_of_others() -> None:
    """Of clients that are all alike, so that no client is greedy."""
    places: WaitingPlaces[str] = WaitingPlaces(600)
    clients = [b"%d" % number for number in range(60)]
    for client in clients:
        assert fill(places, client, "dead", 10) == []
    lost = [name for client in clients for name in fill(places, client, "alive", 1)]
    assert len(lost) == 60
    assert all(" dead " in name for name in lost)


def test_a_greedy_client_of_a_small_zone_gives_way_before_polite_ones_of_a_large_zone() -> None:
    places: WaitingPlaces[str] = WaitingPlaces(1000)
    fill(places, A, "small", 400)
    for number in range(600):
        fill(places, b"polite %d" % number, "large", 1)
    assert places.add("new", b"new", "large") == "a small 0"


def test_an_answered_query_frees_its_place_once() -> None:
    places: WaitingPlaces[str] = WaitingPlaces(2)
    places.add("one", A, "zone")
    places.add("two", B, "zone")
    places.remove("one")
    places.remove("one")
    assert places.add("three", B, "zone") is None
    assert places.add("four", C, "zone") == "two"


def test_the_greediest_client_loses_its_oldest_query_after_many_were_answered() -> None:
    places: WaitingPlaces[str] = WaitingPlaces(1000)
    for number in range(3):
        fill(places, A, f"old {number}", 300)  # more than are counted one by one
        fill(places, B, "zone", 10)
        for name in range(300):
            places.remove(f"a old {number} {name}")
        for name in range(10):
            places.remove(f"b zone {name}")
        assert len(places) == 0
    fill(places, B, "zone", 400)
    fill(places, A, "zone", 600)
    assert fill(places, C, "zone", 2) == ["a zone 0", "a zone 1"]


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.1", "c0000201"),
        ("::ffff:192.0.2.1", "c0000201"),
        ("2001:db8:1:2:3:4:5:6", "20010db800010002"),
        ("::1", "0000000000000000"),
    ],
)
def test_a_client_is_an_ipv4_address_or_a_64_bit_ipv6_network(host: str, key: str) -> None:
    assert client_key(ip_address(host).packed).hex() == key


def test_clients_take_turns() -> None:
    queue: TurnQueue[str] = TurnQueue()
    for client, items in ((A, ("a1", "a2", "a3", "a4")), (B, ("b1",)), (C, ("c1", "c2"))):
        for item in items:
            queue.add(client, item)
    taken = [queue.pop() for _ in range(4)]
    queue.add(B, "b2")
    queue.add(A, "a5")
    queue.remove(A, "a5")
    queue.remove(A, "a1")  # it was taken
    queue.remove(b"unknown", "a2")
    while queue:
        taken.append(queue.pop())
    assert taken == ["a1", "b1", "c1", "a2", "c2", "a3", "b2", "a4"]


STEPS = st.lists(st.tuples(st.sampled_from("+++-"), st.integers(0, 4), st.integers(0, 2)), max_size=120)


@given(STEPS, st.integers(1, 12))
def test_the_query_that_gives_way_is_the_oldest_of_the_pair_with_the_largest_product(
    steps: list[tuple[str, int, int]], limit: int
) -> None:
    places: WaitingPlaces[int] = WaitingPlaces(limit)
    held: dict[int, tuple[bytes, int]] = {}  # the oldest first
    for number, (step, client, zone) in enumerate(steps):
        if step == "-":
            if held:
                gone = list(held)[client % len(held)]
                del held[gone]
                places.remove(gone)
            continue
        held[number] = bytes([client]), zone
        lost = places.add(number, bytes([client]), zone)
        if len(held) <= limit:
            assert lost is None
        else:
            assert lost is not None
            pairs, zones = Counter(held.values()), Counter(in_zone for _, in_zone in held.values())
            worst = max(pairs[pair] * zones[pair[1]] for pair in pairs)
            assert pairs[held[lost]] * zones[held[lost][1]] == worst
            assert lost == next(waiter for waiter, pair in held.items() if pair == held[lost])
            del held[lost]
        assert len(places) == len(held) <= limit
