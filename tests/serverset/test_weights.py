"""Weight vectors: selectors, products, and invalid vectors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkdns.errors import BadMemberError
from zkdns.serverset.member import Endpoint, Member
from zkdns.serverset.weights import DROPPED, Vector, Weights, parse_vector

NAME = "vector_0000000001"
PLAIN = Member("member_0000000001", Endpoint("10.0.0.3", 80), shard=3)
OTHER = Member("member_0000000002", Endpoint("web.example", 80, inet="10.0.0.4"))


def weight_of(member: Member, vectors: Iterable[Vector]) -> float:
    return Weights(vectors).of(member)


def vector(*entries: tuple[str, Any]) -> Vector:
    """A vector of selectors and weights."""
    written = [{"select": select, "weight": weight, "priority": 1} for select, weight in entries]
    return parse_vector(NAME, json.dumps({"vector": written}).encode())


def test_a_weight_is_the_product_of_all_matching_entries() -> None:
    """The example of the format's description: the three kinds of selectors, in one vector and in several."""
    example = vector(("member=member_0000000001", 1.2), ("inet=10.0.0.3:80", 1.3), ("shard=3", 0.5))
    assert weight_of(PLAIN, [example]) == pytest.approx(1.2 * 1.3 * 0.5)
    assert weight_of(PLAIN, [example, vector(("shard=3", 2))]) == pytest.approx(1.2 * 1.3)
    assert weight_of(OTHER, [example]) == 1.0
    assert weight_of(PLAIN, []) == 1.0


@pytest.mark.parametrize(
    ("select", "selected"),
    [
        ("member=member_0000000001", {"plain"}),
        ("member=member_0000000003", set()),
        ("member=member_1", set()),
        ("member=", set()),
        ("inet=10.0.0.3:80", {"plain"}),
        ("inet=10.0.0.3:81", set()),
        ("inet=10.0.0.4:80", {"other"}),
        ("inet=WEB.example.:80", {"other"}),
        ("inet=10.0.0.9:81", {"bare"}),
        ("inet=[2001:DB8::1]:82", {"v6"}),
        ("shard=3", {"plain"}),
        ("shard=0", set()),
        ("zone=3", set()),
        ("nonsense", set()),
        ("", set()),
    ],
)
def test_a_selector_matches_these_members(select: str, selected: set[str]) -> None:
    members = {
        "plain": PLAIN,
        "other": OTHER,
        "bare": Member("member_0000000004", None, additional={"http": Endpoint("10.0.0.9", 81)}),
        "v6": Member("member_0000000005", Endpoint("2001:db8::1", 82)),
    }
    weights = {name: weight_of(member, [vector((select, 0.5))]) for name, member in members.items()}
    assert weights == {name: 0.5 if name in selected else 1.0 for name in members}


def test_inet_does_not_match_additional_endpoints_beside_a_service_endpoint() -> None:
    member = Member("member_0000000001", Endpoint("a", 80), additional={"http": Endpoint("a", 81)})
    assert weight_of(member, [vector(("inet=a:81", 0.5))]) == 1.0


@pytest.mark.parametrize(
    ("weights", "product"),
    [
        ([2], 2.0),
        ([0], 0.0),
        ([0, 5], 0.0),
        ([-1.0], DROPPED),
        ([-1.0, -1.0], DROPPED),
        ([0, -1], DROPPED),
        ([5, -0.5], DROPPED),
        ([1e300, 1e300], 1e9),
        ([1e300, 1e300, 0], 0.0),
        ([1e-300, 1e-300], 0.0),
    ],
)
def test_zero_drains_negative_drops_and_products_stay_finite(weights: list[float], product: float) -> None:
    for vectors in (
        [vector(*[("shard=3", weight) for weight in weights])],
        [vector(("shard=3", w)) for w in weights],
    ):
        assert weight_of(PLAIN, vectors) == product


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"vector":null}',
        b'{"vector":[]}',
        b'{"vector":[{}]}',
        b'{"vector":[{"select":null,"weight":3}]}',
        b'{"vector":[{"select":"shard=3"}],"more":[1]}',
        b'{"vector":[{"select":"shard=3","weight":null,"priority":"high","more":1}]}',
    ],
)
def test_missing_and_unknown_parts_have_no_effect(data: bytes) -> None:
    assert weight_of(PLAIN, [parse_vector(NAME, data)]) == 1.0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"[]",
        b"null",
        b'{"vector":{}}',
        b'{"vector":[{"select":"shard=3","weight":NaN}]}',
        b'{"vector":[{"select":"shard=3","weight":1e999}]}',
        b'{"vector":[{"select":"shard=3","weight":0.5}',
        b'{"vector":' * 5000,
        b"\xff",
    ],
    ids=range(10),
)
def test_data_that_is_no_vector_is_rejected(data: bytes) -> None:
    with pytest.raises(BadMemberError) as caught:
        parse_vector(NAME, data)
    assert caught.value.reason == "vector"
    assert str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        '"shard=3"',
        '{"select":3,"weight":1.0}',
        '{"select":"shard=3","weight":"1.0"}',
        '{"select":"shard=3","weight":true}',
        '{"select":"shard=three","weight":1.0}',
        '{"select":"shard=","weight":1.0}',
        '{"select":"inet=10.0.0.3","weight":1.0}',
        '{"select":"inet=:80","weight":1.0}',
        '{"select":"inet=0.0.0.0:80","weight":1.0}',
    ],
)
def test_an_invalid_entry_is_ignored_alone(entry: str) -> None:
    good = '{"select":"shard=3","weight":0.5}'
    ignored: list[tuple[str, str]] = []
    data = f'{{"vector":[{good},{entry},{good}]}}'.encode()
    vector = parse_vector(NAME, data, lambda field, why: ignored.append((field, why)))
    assert [each.weight for each in vector.entries] == [0.5, 0.5]
    ((field, why),) = ignored
    assert field == "vector"
    assert why.startswith("its entry 2 is invalid: ")


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_raise_only_bad_member_error(data: bytes) -> None:
    with contextlib.suppress(BadMemberError):
        parse_vector(NAME, data)


@given(st.lists(st.tuples(st.text(max_size=30) | st.text(max_size=9).map("inet=".__add__), st.floats())))
@settings(max_examples=300, deadline=None)
def test_arbitrary_selectors_give_a_finite_weight_or_are_rejected(
    entries: list[tuple[str, float]],
) -> None:
    try:
        weight = weight_of(PLAIN, [vector(*entries)])
    except BadMemberError:
        return
    assert weight == DROPPED or 0 <= weight <= 1e9
