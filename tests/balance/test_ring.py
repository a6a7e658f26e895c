"""The ring places every key where go.serversets does."""

import functools
import random
import subprocess
import sys
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.balance.ring import Ring
from zkdns.errors import BadValueError, NoEndpointsError

MASK = 0xFFFFFFFF
TEN = [f"10.0.0.{i}:11211" for i in range(1, 11)]
KEYS = [f"user:{i}" for i in range(20_000)]


def murmur3_32(data: bytes, seed: int = 0) -> int:
    """MurmurHash3_x86_32 from its published definition, independent of the package in use."""

    def rotated(x: int, bits: int) -> int:
        return ((x << bits) | (x >> (32 - bits))) & MASK

    def scrambled(k: int) -> int:
        return rotated(k * 0xCC9E2D51 & MASK, 15) * 0x1B873593 & MASK

    state = seed
    whole = len(data) - len(data) % 4
    for start in range(0, whole, 4):
        state ^= scrambled(int.from_bytes(data[start : start + 4], "little"))
        state = (rotated(state, 13) * 5 + 0xE6546B64) & MASK
    if data[whole:]:
        state ^= scrambled(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & MASK
    return state ^ state >> 16


@functools.cache
def points_of(endpoint: str) -> list[int]:
    return [murmur3_32(f"{i}{endpoint}".encode()) for i in range(150)]


def owner_by_definition(endpoints: list[str], key: str | bytes) -> str:
    """The owner by definition, without sorting: the point at the smallest distance from the key."""
    home = murmur3_32(key.encode() if isinstance(key, str) else key)
    ways: dict[int, str] = {}
    for endpoint in sorted(endpoints):
        ways |= {(point - home) % 2**32: endpoint for point in points_of(endpoint)}
    return ways[min(ways)]


@pytest.mark.parametrize(
    ("data", "seed", "expected"),
    [  # common test vectors of implementations of MurmurHash3_x86_32
        (b"", 0, 0x00000000),
        (b"", 1, 0x514E28B7),
        (b"", 0xFFFFFFFF, 0x81F16F39),
        (b"\xff\xff\xff\xff", 0, 0x76293B50),
        (b"\x21\x43\x65\x87", 0, 0xF55B516B),
        (b"\x21\x43\x65\x87", 0x5082EDEE, 0x2362F9DE),
        (b"\x21\x43\x65", 0, 0x7E4A8634),
        (b"\x21\x43", 0, 0xA0F7B07A),
        (b"\x21", 0, 0x72661CF4),
        (b"\x00\x00\x00\x00", 0, 0x2362F9DE),
        (b"\x00", 0, 0x514E28B7),
        (b"test", 0, 0xBA6BD213),
        (b"Hello, world!", 0, 0xC0363E43),
        (b"The quick brown fox jumps over the lazy dog", 0, 0x2E4FF723),
    ],
)
def test_the_hash_of_these_tests_is_murmur3(data: bytes, seed: int, expected: int) -> None:
    assert murmur3_32(data, seed) == expected


@given(
    st.lists(st.sampled_from([*TEN, "cache:1", "[2001:db8::1]:11211", "ключ:2"]), min_size=1, max_size=4),
    st.lists(st.one_of(st.text(st.characters(codec="utf-8")), st.binary()), max_size=5),
)
def test_every_key_is_placed_as_defined(endpoints: list[str], keys: list[str | bytes]) -> None:
    ring = Ring(endpoints)
    for key in keys:
        assert ring.pick(key) == owner_by_definition(endpoints, key)


def test_keys_stay_in_place_between_releases() -> None:
    ring = Ring(TEN)
    # Computed once with `owner_by_definition`.
    assert ring.pick("") == "10.0.0.1:11211"
    assert ring.pick("foo") == "10.0.0.8:11211"
    assert ring.pick("user:7") == "10.0.0.6:11211"
    assert ring.pick("ключ") == "10.0.0.5:11211"
    assert ring.pick(b"\xff\x00") == "10.0.0.6:11211"


def test_a_key_outside_of_the_points_belongs_to_the_first_one() -> None:
    points = {point: endpoint for endpoint in ("a:1", "b:1") for point in points_of(endpoint)}
    first, last = min(points), max(points)
    keys = (f"key{i}" for i in range(100_000))
    edge = [key for key in keys if murmur3_32(key.encode()) < first or murmur3_32(key.encode()) > last]
    assert len(edge) > 10
    assert {Ring(["a:1", "b:1"]).pick(key) for key in edge} == {points[first]}


def test_a_key_at_a_point_belongs_to_it() -> None:
    ring = Ring(TEN)
    for endpoint in TEN:
        assert {ring.pick(f"{i}{endpoint}") for i in range(150)} == {endpoint}


def test_text_is_hashed_as_utf8() -> None:
    ring = Ring(TEN)
    assert all(ring.pick(key) == ring.pick(key.encode()) for key in [*KEYS[:100], "ключ", "鍵", "🗝"])


@pytest.mark.parametrize(
    ("point", "greater", "i", "other", "j"),
    [  # found by search
        (3477222002, "10.1.1.94:11211", 120, "10.1.0.48:11211", 145),
        (1643297048, "10.1.1.51:11211", 77, "10.1.1.162:11211", 106),
    ],
)
def test_a_shared_point_belongs_to_the_endpoint_with_the_greater_text(
    point: int, greater: str, i: int, other: str, j: int
) -> None:
    assert points_of(greater)[i] == points_of(other)[j] == point
    ring = Ring([other])
    assert ring.pick(f"{i}{greater}") == other
    for endpoints in ([greater, other], [other, greater]):
        ring.set_endpoints(endpoints)
        assert ring.pick(f"{i}{greater}") == ring.pick(f"{j}{other}") == greater


def test_when_one_of_ten_leaves_only_its_keys_move() -> None:
    ring = Ring(TEN)
    before = {key: ring.pick(key) for key in KEYS}
    leaver = TEN[3]
    ring.set_endpoints(endpoint for endpoint in TEN if endpoint != leaver)
    moved = {key for key in KEYS if ring.pick(key) != before[key]}
    assert moved == {key for key in KEYS if before[key] == leaver}
    assert 0.07 < len(moved) / len(KEYS) < 0.13
    # The keys go to all remaining endpoints, not to one neighbour.
    assert set(map(ring.pick, moved)) == set(TEN) - {leaver}
    ring.set_endpoints(TEN)
    assert {key: ring.pick(key) for key in KEYS} == before


def test_keys_are_spread_over_all_endpoints() -> None:
    share = Counter(map(Ring(TEN).pick, KEYS))
    assert set(share) == set(TEN)
    assert max(share.values()) < 1.5 * len(KEYS) / len(TEN)


def test_order_and_duplicates_have_no_effect() -> None:
    shuffled = random.Random(7).sample(TEN, len(TEN)) + TEN[:3]
    assert Ring(shuffled).endpoints == tuple(sorted(TEN))
    assert list(map(Ring(shuffled).pick, KEYS[:1000])) == list(map(Ring(TEN).pick, KEYS[:1000]))


def test_an_empty_ring_is_an_error() -> None:
    ring = Ring()
    assert ring.endpoints == ()
    with pytest.raises(NoEndpointsError, match="the set is empty"):
        ring.pick("key")
    ring.set_endpoints(["a:1"])
    assert ring.pick("key") == "a:1"
    ring.set_endpoints([])
    with pytest.raises(NoEndpointsError):
        ring.pick("key")


def test_invalid_unicode_is_rejected_without_a_crash() -> None:
    ring = Ring(["a:1"])
    with pytest.raises(BadValueError, match="not valid Unicode; pass bytes"):
        ring.pick("\udc80")
    with pytest.raises(BadValueError, match="not valid Unicode"):
        ring.set_endpoints(["b:1", "\udc80:1"])
    assert ring.endpoints == ("a:1",)
    assert ring.pick("key") == "a:1"


def test_picking_works_during_changes() -> None:
    ring = Ring(TEN)
    sets = [TEN, TEN[:5], TEN[5:], TEN[3:4]]
    places = [{Ring(endpoints).pick(key) for endpoints in sets} for key in KEYS[:50]]
    strays: list[object] = []
    done = threading.Event()

    def pick() -> None:
        while not done.is_set():
            for key, owners in zip(KEYS[:50], places, strict=True):
                if (picked := ring.pick(key)) not in owners:
                    strays.append((key, picked))

    threads = [threading.Thread(target=pick) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(200):
        ring.set_endpoints(sets[turn % len(sets)])
    done.set()
    for thread in threads:
        thread.join()
    assert strays == []


def test_without_mmh3_the_error_names_the_package() -> None:
    script = "import sys; sys.modules['mmh3'] = None\nimport zkdns.mcset"
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    assert "zkdns.balance.ring needs mmh3: pip install 'zkdns[memcache]'" in outcome.stderr
