"""What is known of upstreams, and who is asked first for it."""

from __future__ import annotations

import pytest

from zkdns.address import UpstreamAddress
from zkdns.forward.upstreams import (
    EXPLORE_SECONDS,
    LEAST_TIMEOUT,
    MOST_FAILURES,
    MOST_REFUSALS,
    MOST_TIMEOUT,
    PLAIN_SECONDS,
    PROBE_SECONDS,
    Upstream,
    Upstreams,
)

A, B, C = (UpstreamAddress(f"192.0.2.{number}", 53) for number in (1, 2, 3))


def group(*rtts: float | None) -> Upstreams:
    """Upstreams at these distances."""
    upstreams = Upstreams((A, B, C)[: len(rtts)])
    for upstream, rtt in zip(upstreams.all, rtts, strict=True):
        if rtt is not None:
            upstream.lives(rtt)
    return upstreams


def kill(upstream: Upstream) -> None:
    for _ in range(MOST_FAILURES):
        upstream.fails(0.4)


def ranked(upstreams: Upstreams) -> list[UpstreamAddress]:
    return [upstream.address for upstream in upstreams.ranked()]


# -- whom to ask --------------------------------------------------------------------------------------------


def test_as_long_as_nothing_is_known_they_are_asked_as_they_are_written() -> None:
    assert ranked(group(None, None, None)) == [A, B, C]


def test_the_nearest_is_asked_first_and_who_is_not_known_last() -> None:
    assert ranked(group(0.02, None, 0.01)) == [C, A, B]


def test_a_dead_one_is_not_asked_while_another_lives() -> None:
    upstreams = group(0.01, 0.02, 0.03)
    kill(upstreams.all[0])
    assert ranked(upstreams) == [B, C]
    kill(upstreams.all[2])
    assert ranked(upstreams) == [B]


def test_when_none_lives_all_are_asked() -> None:
    upstreams = group(0.01, 0.02)
    for upstream in upstreams.all:
        kill(upstream)
    assert ranked(upstreams) == [A, B]


def test_who_gives_nothing_but_errors_is_asked_after_the_others() -> None:
    upstreams = group(0.01, 0.02)
    upstreams.all[0].refusals = MOST_REFUSALS - 1
    assert ranked(upstreams) == [A, B]
    upstreams.all[0].refusals = MOST_REFUSALS
    assert ranked(upstreams) == [B, A]


def test_one_that_is_named_twice_is_one() -> None:
    assert [upstream.address for upstream in Upstreams([A, B, A]).all] == [A, B]


def test_of_those_that_stay_all_is_still_known() -> None:
    upstreams = group(0.02, 0.01)
    upstreams.change([C, A])
    assert ranked(upstreams) == [A, C]
    assert upstreams.all[1].rtt == pytest.approx(0.02)


# -- how far they are ---------------------------------------------------------------------------------------


def test_the_measure_follows_slowly() -> None:
    upstream = Upstream(A)
    upstream.lives(0.1)
    assert upstream.rtt == pytest.approx(0.1)
    upstream.lives(0.9)
    assert upstream.rtt == pytest.approx(0.2)  # an eighth of the way


@pytest.mark.parametrize(
    ("rtts", "timeout"),
    [
        ([0.001], LEAST_TIMEOUT),
        ([0.15], 0.45),  # RFC 6298 §2.2: the first measure and four halves of it
        ([5.0], MOST_TIMEOUT),
        ([0.4] * 50, 0.4),  # who always takes as long is waited for exactly so long
    ],
)
def test_it_is_waited_for_by_what_was_measured_within_bounds(rtts: list[float], timeout: float) -> None:
    upstream = Upstream(A)
    for rtt in rtts:
        upstream.lives(rtt)
    assert upstream.timeout == pytest.approx(timeout, rel=0.01)


def test_before_anything_is_known_it_is_waited_for_less_than_the_longest_time() -> None:
    assert LEAST_TIMEOUT <= Upstream(A).timeout <= MOST_TIMEOUT


def test_who_lets_wait_is_soon_asked_after_others() -> None:
    upstreams = group(0.01, 0.02)
    upstreams.all[0].fails(0.3)
    assert ranked(upstreams) == [B, A]


def test_what_says_nothing_of_the_distance_is_not_measured() -> None:
    upstreams = group(0.01)
    upstreams.all[0].lives()
    assert upstreams.all[0].rtt == pytest.approx(0.01)


# -- whether they live --------------------------------------------------------------------------------------


def test_it_dies_of_failures_in_a_row_and_any_answer_revives_it() -> None:
    upstream = Upstream(A)
    for _ in range(10):  # never in a row
        for _ in range(MOST_FAILURES - 1):
            upstream.fails()
        upstream.lives()
    assert not upstream.is_dead
    kill(upstream)
    assert upstream.is_dead
    upstream.lives(0.01)
    assert not upstream.is_dead
    assert upstream.rtt == pytest.approx(0.01)  # what it was before is long ago


def test_a_dead_one_is_probed_at_once_and_then_each_few_seconds() -> None:
    upstream = Upstream(A)
    assert not upstream.is_to_be_probed(100.0)
    kill(upstream)
    assert upstream.is_to_be_probed(100.0)
    assert not upstream.is_to_be_probed(100.0)
    upstream.fails(2.0)
    assert not upstream.is_to_be_probed(100.0 + PROBE_SECONDS - 0.1)
    assert upstream.is_to_be_probed(100.0 + PROBE_SECONDS)
    upstream.lives()
    assert not upstream.is_to_be_probed(200.0)
    kill(upstream)
    assert upstream.is_to_be_probed(200.0)


def test_it_is_asked_without_edns_for_a_time_where_it_does_not_know_that() -> None:
    upstream = Upstream(A)
    assert upstream.has_edns(100.0)
    upstream.plain(100.0)
    assert not upstream.has_edns(100.0 + PLAIN_SECONDS - 1)
    assert upstream.has_edns(100.0 + PLAIN_SECONDS)


# -- those that are not asked -------------------------------------------------------------------------------


def test_who_was_not_asked_for_long_is_to_be_explored_the_longest_first() -> None:
    upstreams = group(0.01, 0.02, 0.03)
    first, second, third = upstreams.all
    explored = []
    for now in (100.0, 100.1, 100.2, 100.3):
        first.asked_at = now
        if found := upstreams.to_explore(first, now):
            found.asked_at = now
            explored.append((now, found))
    assert explored == [(100.0, second), (100.1, third)]
    later = 100.0 + EXPLORE_SECONDS
    assert upstreams.to_explore(first, later - 0.1) is None
    assert upstreams.to_explore(first, later) is second


def test_dead_ones_are_probed_and_not_explored() -> None:
    upstreams = group(0.01, 0.02)
    kill(upstreams.all[1])
    assert upstreams.to_explore(upstreams.all[0], 100.0) is None


def test_one_alone_has_no_others_to_explore() -> None:
    upstreams = group(0.01)
    assert upstreams.to_explore(upstreams.all[0], 100.0) is None
