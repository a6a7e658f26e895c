"""RRsets: how often each record leads, the place of held members, and members of weight 0."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.dns.helpers import LONGEST, Server, ask, data, many, member, origin_of, ports, put, rcode
from zkdns.dns.rrset import Record, RRset, Weighting, arrange
from zkdns.serverset.changes import MembersHeld, SetChanged
from zkdns.serverset.member import Member

WEB = "web.staging.discovery"
_ORDERS = ["round-robin", "random", "fixed"]


def rrset(*weights: float, held: tuple[int, ...] = ()) -> RRset:
    """Records named by their position."""
    return arrange(
        Record(str(at).encode(), weighting=Weighting(weight, at in held)) for at, weight in enumerate(weights)
    )


def heads(records: RRset, count: int, start: int = 0) -> Counter[int]:
    """How often each record leads in `count` responses."""
    packed = records.packed
    turns = range(start, start + count)
    return Counter(int(packed.leading.take(packed.leader(turn), 1, LONGEST)[0]) for turn in turns)


def weighted(*weights: float) -> list[Member]:
    """Members 0, 1, … at 10.0.0.1, 10.0.0.2 and so on."""
    return [member(at, f"10.0.0.{at + 1}:80", weight=weight) for at, weight in enumerate(weights)]


def hold(server: Server, *numbers: int) -> None:
    """Hold these members of web.staging in addition."""
    server.apply(MembersHeld(origin_of("web.staging"), tuple(f"member_{at:010d}" for at in numbers)))


# -- leading records ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "times"),
    [
        ((2, 1), (2, 1)),
        ((1.2, 1.3, 0.5), (12, 13, 5)),
        ((0.01, 1), (1, 100)),
        ((1, 1, 1, 3), (1, 1, 1, 3)),
        ((655.35, 655.35 / 5), (5, 1)),
        ((0.5, 0.5), (1, 1)),
        ((7,), (1,)),
    ],
)
def test_over_a_cycle_each_record_leads_in_proportion_to_its_weight(
    weights: tuple[float, ...], times: tuple[int, ...]
) -> None:
    expected = {at: 3 * count for at, count in enumerate(times)}
    for start in (0, 1, 12345):
        assert heads(rrset(*weights), 3 * sum(times), start) == expected


@given(st.lists(st.floats(0.01, 1000), min_size=2, max_size=40), st.integers(0, 65535))
@example([1.0, 1.01] + [1.0] * 38, 0)
@settings(max_examples=100, deadline=None)
def test_cycles_are_bounded_and_near_the_weights(weights: list[float], start: int) -> None:
    records = rrset(*weights)
    cycle = len(records.leaders) or len(weights)
    assert cycle <= 1000
    found = heads(records, cycle, start)
    srv_weights = [record.weighting.srv_weight for record in records.leading]
    for at, weight in enumerate(srv_weights):
        assert abs(found[at] - cycle * weight / sum(srv_weights)) <= 1 + len(weights) * weight / sum(
            srv_weights
        )
        assert found[at] >= 1


@given(st.lists(st.integers(1, 20), min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_leaders_are_spread_over_the_cycle(weights: list[int]) -> None:
    """In every part of the cycle, each position has its share, within the number of positions."""
    records = rrset(*weights)
    for length in range(1, 2 * sum(weights)):
        found = heads(records, length, length // 3)
        for at, weight in enumerate(weights):
            assert abs(found[at] - length * weight / sum(weights)) <= len(weights)


def test_light_records_do_not_lead_one_after_the_other() -> None:
    leaders = rrset(50, *[1] * 5).leaders
    light = [at for at, leader in enumerate(leaders) if leader]
    assert min(after - before for before, after in pairwise(light)) > 5


@pytest.mark.parametrize(
    "weights",
    [
        [1 + at % 100 / 100 for at in range(5000)],
        [1 + at / 100 for at in range(600)],
        [1000.0] + [0.01] * 500,
        [1.0] * 500 + [2.0],
    ],
)
def test_many_records_lead_exactly_in_proportion_to_their_weights(weights: list[float]) -> None:
    records = rrset(*weights)
    srv_weights = [record.weighting.srv_weight for record in records.leading]
    divisor = math.gcd(*srv_weights)
    assert len(records.leaders) == sum(srv_weights) // divisor
    assert Counter(records.leaders) == {at: weight // divisor for at, weight in enumerate(srv_weights)}


@pytest.mark.parametrize("seed", range(4))
def test_each_of_many_records_leads_at_nearly_equal_intervals(seed: int) -> None:
    rng = random.Random(seed)
    weights = [rng.randint(1, 300) for _ in range(501 + seed)]
    leaders, total = rrset(*weights).leaders, sum(weights)
    for length in (total // 50, total // 7, total // 2):
        found = Counter(leaders[(turn + seed) % total] for turn in range(length))
        for at, weight in enumerate(weights):
            assert abs(found[at] - length * weight / total) <= 6


@pytest.mark.parametrize("qtype", ["A", "SRV", "TXT"])
def test_a_heavier_member_leads_more_answers(qtype: str) -> None:
    server = Server({"web.staging": weighted(3, 1, 1)})
    answers = [data(ask(server, WEB, qtype, stream=True)) for _ in range(50)]
    assert sorted(Counter(answer[0] for answer in answers).values()) == [10, 10, 30]
    assert {len(answer) for answer in answers} == {3}


def test_a_heavier_member_leads_more_answers_in_random_order_too() -> None:
    server = Server({"web.staging": weighted(8, 1, 1)}, order="random")
    answers = [data(ask(server, WEB)) for _ in range(400)]
    assert 280 < Counter(answer[0] for answer in answers)["10.0.0.1"] < 360  # 320 expected, deviation 8
    assert {tuple(sorted(answer)) for answer in answers} == {("10.0.0.1", "10.0.0.2", "10.0.0.3")}
    assert len({tuple(answer) for answer in answers}) == 6


def test_a_fixed_order_ignores_weights() -> None:
    server = Server({"web.staging": weighted(1, 9, 5)}, order="fixed")
    assert {tuple(data(ask(server, WEB))) for _ in range(5)} == {("10.0.0.1", "10.0.0.2", "10.0.0.3")}


@pytest.mark.parametrize(
    ("weight", "written"),
    [(1.0, 100), (0.5, 50), (1.234, 123), (0.001, 1), (1000.0, 65535), (1e9, 65535), (0.0, 1)],
)
def test_a_weight_is_written_in_hundredths_and_never_0(weight: float, written: int) -> None:
    server = Server({"web.staging": weighted(weight)})
    (record,) = ask(server, WEB, "SRV").answer
    assert (record[0].priority, record[0].weight) == (0, written)


def test_a_shared_address_or_target_has_the_heavier_members_weight() -> None:
    two = [member(1, "10.0.0.1:80", weight=0.0), member(2, "10.0.0.1:80", weight=2.0)]
    for members in (two, [two[1], two[0], member(3, "10.0.0.2:80")]):
        server = Server({"web.staging": members}, order="fixed")
        assert data(ask(server, WEB))[0] == "10.0.0.1"
        assert data(ask(server, WEB, "SRV"))[0] == f"0 200 80 m2.{WEB}."


# -- members of weight 0 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", _ORDERS)
@pytest.mark.parametrize("qtype", ["A", "SRV", "TXT"])
def test_a_drained_member_is_left_out_if_there_is_another(order: str, qtype: str) -> None:
    server = Server({"web.staging": weighted(0, 1, 0, 2)}, order=order)
    assert {len(data(ask(server, WEB, qtype, stream=True))) for _ in range(20)} == {2}
    server.change("web.staging", removed=["member_0000000001", "member_0000000003"])
    assert {len(data(ask(server, WEB, qtype, stream=True))) for _ in range(20)} == {2}


def test_an_answer_is_never_empty_because_of_weights_of_0() -> None:
    members = [member(1, "10.0.0.1:80", weight=0.0), member(2, "[2001:db8::1]:80")]
    server = Server({"web.staging": members})
    assert data(ask(server, WEB)) == ["10.0.0.1"]
    assert data(ask(server, WEB, "AAAA")) == ["2001:db8::1"]
    assert ports(ask(server, WEB, "SRV")) == [(80, f"m2.{WEB}.")]
    assert data(ask(server, f"m1.{WEB}")) == ["10.0.0.1"]


def test_a_member_of_negative_weight_is_not_served() -> None:
    server = Server({"web.staging": [*weighted(1, -1.0), member(2, "10.0.0.9:80", weight=-1.0, shard=4)]})
    assert data(ask(server, WEB)) == ["10.0.0.1"]
    for name in ("m1", "m2", "s4"):
        assert rcode(ask(server, f"{name}.{WEB}")) == "NXDOMAIN"
    alone = Server({"web.staging": weighted(-1.0)}, empty="nxdomain")
    assert rcode(ask(alone, WEB)) == "NXDOMAIN"


# -- held members -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", _ORDERS)
@pytest.mark.parametrize("qtype", ["A", "SRV", "TXT"])
@pytest.mark.parametrize("weights", [(1, 1, 1, 1, 1), (9, 1, 2, 1, 1)])
def test_held_members_come_last_in_every_order(order: str, qtype: str, weights: tuple[float, ...]) -> None:
    server = Server({"web.staging": weighted(*weights)}, order=order)
    whole = {place: None for _ in range(200) for place in data(ask(server, WEB, qtype, stream=True))}
    hold(server, 0, 3)
    fixed = Server({"web.staging": weighted(*weights)}, order="fixed")
    hold(fixed, 0, 3)
    behind = set(data(ask(fixed, WEB, qtype, stream=True))[3:])
    assert (len(whole), len(behind)) == (5, 2)
    for _ in range(20):
        assert set(data(ask(server, WEB, qtype, stream=True))[3:]) == behind


@pytest.mark.parametrize("limit", [None, 1, 3])
def test_present_and_held_members_rotate_exactly(limit: int | None) -> None:
    server = Server({"web.staging": weighted(*[1] * 6)}, max_answers=limit)
    hold(server, 1, 4)
    answers = [data(ask(server, WEB)) for _ in range(20)]
    leaders = Counter(answer[0] for answer in answers)
    assert leaders == dict.fromkeys(("10.0.0.1", "10.0.0.3", "10.0.0.4", "10.0.0.6"), 5)
    if limit is None:
        assert Counter(answer[4] for answer in answers) == {"10.0.0.2": 10, "10.0.0.5": 10}
    else:
        assert not {"10.0.0.2", "10.0.0.5"} & {address for answer in answers for address in answer}


def test_if_all_are_held_they_rotate() -> None:
    server = Server({"web.staging": weighted(1, 1, 1)})
    hold(server, 0, 1, 2)
    assert set(Counter(data(ask(server, WEB))[0] for _ in range(12)).values()) == {4}
    server.apply(put("web.staging", weighted(2, 1)))
    hold(server, 0, 1)
    assert sorted(Counter(data(ask(server, WEB))[0] for _ in range(12)).values()) == [4, 8]


def test_a_member_that_is_no_longer_held_rotates_again() -> None:
    server = Server({"web.staging": many(3)}, max_answers=1)
    hold(server, 0)
    assert len({data(ask(server, WEB))[0] for _ in range(6)}) == 2
    server.apply(SetChanged(origin_of("web.staging"), (member(0, many(3)[0]),), ()))
    assert len({data(ask(server, WEB))[0] for _ in range(6)}) == 3


def test_an_endpoint_that_one_of_two_members_has_lost_is_not_held() -> None:
    """A process that restarts on its port registers a new member before the old one is removed."""
    members = [member(1, "10.0.0.1:80"), member(2, "10.0.0.1:80"), member(3, "10.0.0.3:80")]
    for held, target in ((1, "m2"), (2, "m1")):
        server = Server({"web.staging": members}, order="fixed")
        hold(server, held)
        assert data(ask(server, WEB)) == ["10.0.0.1", "10.0.0.3"]
        assert ports(ask(server, WEB, "SRV")) == [(80, f"{target}.{WEB}."), (80, f"m3.{WEB}.")]


def test_srv_records_of_held_members_have_a_lower_priority() -> None:
    """RFC 2782: a client uses them only if it reaches no member with a lower number."""
    server = Server({"web.staging": [member(at, f"10.0.0.{at}:80") for at in (1, 2, 3)]}, order="fixed")
    assert [text.split()[0] for text in data(ask(server, WEB, "SRV"))] == ["0", "0", "0"]
    hold(server, 2)
    records = [text.split() for text in data(ask(server, WEB, "SRV"))]
    assert [(priority, target) for priority, _, _, target in records] == [
        ("0", f"m1.{WEB}."),
        ("0", f"m3.{WEB}."),
        ("1", f"m2.{WEB}."),
    ]


def test_a_shard_prefers_a_present_member() -> None:
    members = [member(at, f"10.0.0.{at}:80", shard=7) for at in (1, 2, 3)]
    server = Server({"web.staging": members})
    for held, address in (((), 3), ((3,), 2), ((2, 3), 1), ((1, 2, 3), 3)):
        hold(server, *held)
        assert data(ask(server, f"s7.{WEB}")) == [f"10.0.0.{address}"]
    drained = [*members[:2], member(3, "10.0.0.3:80", shard=7, weight=0.0)]
    assert data(ask(Server({"web.staging": drained}), f"s7.{WEB}")) == ["10.0.0.2"]


def test_txt_has_held_and_weight() -> None:
    server = Server({"web.staging": weighted(1, 0.5)}, order="fixed")
    hold(server, 1)
    plain, other = data(ask(server, WEB, "TXT", stream=True))
    assert "held" not in plain
    assert "weight" not in plain
    assert '"weight=0.5" "held=1" "znode=' in other
    assert data(ask(server, f"m1.{WEB}")) == ["10.0.0.2"]


def test_the_random_order_needs_only_the_generator() -> None:
    records = rrset(1, 1, 5, held=(0,))
    drawn = [records.shuffled(random.Random(seed)) for seed in range(30)]
    assert {each[-1].answer for each in drawn} == {b"0"}
    assert {len(each) for each in drawn} == {3}
