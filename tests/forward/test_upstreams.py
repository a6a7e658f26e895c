"""State and ranking of upstreams."""

from __future__ import annotations

import pytest

from zkdns.address import UpstreamAddress
from zkdns.forward.upstreams import (
    DOUBT_SECONDS,
    EXPLORE_SECONDS,
    MAX_DOUBTS,
    MAX_FAILURES,
    MAX_REFUSALS,
    PROBE_SECONDS,
    UDP_TIMES,
    Upstream,
    Upstreams,
)

A, B, C = (UpstreamAddress(f"192.0.2.{number}", 53) for number in (1, 2, 3))


def group(*rtts: float | None) -> Upstreams:
    """Return upstreams with these round-trip times."""
    upstreams = Upstreams((A, B, C)[: len(rtts)])
    for upstream, rtt in zip(upstreams.all, rtts, strict=True):
        if rtt is not None:
            upstream.on_response(rtt)
    return upstreams


def kill(upstream: Upstream) -> None:
    for _ in range(MAX_FAILURES):
        upstream.on_failure(0.4)


def ranked(upstreams: Upstreams) -> list[UpstreamAddress]:
    return [upstream.address for upstream in upstreams.ranked()]


# -- ranking ----------------------------------------------------------------------------------------------


def test_unmeasured_upstreams_keep_their_order() -> None:
    assert ranked(group(None, None, None)) == [A, B, C]


def test_nearest_upstream_is_first_and_unmeasured_ones_are_last() -> None:
    assert ranked(group(0.02, None, 0.01)) == [C, A, B]


def test_dead_upstream_is_not_ranked_while_another_is_alive() -> None:
    upstreams = group(0.01, 0.02, 0.03)
    kill(upstreams.all[0])
    assert ranked(upstreams) == [B, C]
    kill(upstreams.all[2])
    assert ranked(upstreams) == [B]


def test_all_are_ranked_if_none_is_alive() -> None:
    upstreams = group(0.01, 0.02)
    for upstream in upstreams.all:
        kill(upstream)
    assert ranked(upstreams) == [A, B]


def test_upstream_with_only_error_responses_ranks_last() -> None:
    upstreams = group(0.01, 0.02)
    for _ in range(MAX_REFUSALS):
        assert ranked(upstreams) == [A, B]
        upstreams.all[0].on_refusal()
    assert ranked(upstreams) == [B, A]
    upstreams.all[0].on_conclusive_reply()
    assert ranked(upstreams) == [A, B]


def test_duplicate_addresses_are_one_upstream() -> None:
    assert [upstream.address for upstream in Upstreams([A, B, A]).all] == [A, B]


def test_replace_keeps_the_state_of_common_upstreams() -> None:
    upstreams = group(0.02, 0.01)
    upstreams.replace([C, A])
    assert ranked(upstreams) == [A, C]
    assert upstreams.all[1].rtt == pytest.approx(0.02)


# -- measurement ------------------------------------------------------------------------------------------


def test_rtt_is_smoothed() -> None:
    upstream = Upstream(A)
    upstream.on_response(0.1)
    assert upstream.rtt == pytest.approx(0.1)
    upstream.on_response(0.9)
    assert upstream.rtt == pytest.approx(0.2)  # an eighth of the difference


@pytest.mark.parametrize(
    ("rtts", "timeout"),
    [
        ([0.001], UDP_TIMES.shortest),
        ([0.15], 0.45),  # RFC 6298 §2.2: the first measurement plus four times its half
        ([5.0], UDP_TIMES.longest),
        ([0.4] * 50, 0.4),  # constant round-trip times: no variation
    ],
)
def test_timeout_follows_the_measurements_within_limits(rtts: list[float], timeout: float) -> None:
    upstream = Upstream(A)
    for rtt in rtts:
        upstream.on_response(rtt)
    assert upstream.plan(0.0).timeout == pytest.approx(timeout, rel=0.01)


def test_timeout_before_any_measurement_is_within_limits() -> None:
    assert UDP_TIMES.shortest <= Upstream(A).plan(0.0).timeout <= UDP_TIMES.longest


def test_late_upstream_soon_ranks_below_others() -> None:
    upstreams = group(0.01, 0.02)
    upstreams.all[0].on_failure(0.3)
    assert ranked(upstreams) == [B, A]


def test_response_without_a_duration_is_not_measured() -> None:
    upstreams = group(0.01)
    upstreams.all[0].on_response()
    assert upstreams.all[0].rtt == pytest.approx(0.01)


# -- liveness ---------------------------------------------------------------------------------------------


def test_upstream_is_dead_after_failures_in_a_row_until_any_response() -> None:
    upstream = Upstream(A)
    for _ in range(10):  # not in a row
        for _ in range(MAX_FAILURES - 1):
            upstream.on_failure()
        upstream.on_response()
    assert not upstream.is_dead
    kill(upstream)
    assert upstream.is_dead
    upstream.on_response(0.01)
    assert not upstream.is_dead
    assert upstream.rtt == pytest.approx(0.01)  # the earlier measurement is obsolete


def test_dead_upstream_is_probed_at_once_and_then_periodically() -> None:
    upstream = Upstream(A)
    assert not upstream.start_probe_if_due(100.0)
    kill(upstream)
    assert upstream.start_probe_if_due(100.0)
    assert not upstream.start_probe_if_due(100.0)
    upstream.on_failure(2.0)
    assert not upstream.start_probe_if_due(100.0 + PROBE_SECONDS - 0.1)
    assert upstream.start_probe_if_due(100.0 + PROBE_SECONDS)
    upstream.on_response()
    assert not upstream.start_probe_if_due(200.0)
    kill(upstream)
    assert upstream.start_probe_if_due(200.0)


# -- what an upstream supports ----------------------------------------------------------------------------


def test_edns_is_omitted_for_a_limited_time() -> None:
    upstream = Upstream(A)
    assert upstream.plan(100.0).uses_edns
    upstream.on_edns_rejected(100.0, is_certain=True)
    assert not upstream.plan(100.0 + DOUBT_SECONDS - 1).uses_edns
    assert upstream.plan(100.0 + DOUBT_SECONDS).uses_edns
    upstream.on_edns_rejected(2000.0, is_certain=False)
    upstream.on_edns_rejected(2000.0, is_certain=False)
    assert not upstream.plan(2000.0).uses_edns  # it has been so before


@pytest.mark.parametrize("is_certain", [True, False])
def test_one_rejection_does_not_end_edns_with_an_upstream_that_accepts_it(*, is_certain: bool) -> None:
    upstream = Upstream(A)
    for _ in range(5):
        upstream.on_edns_accepted(100.0)
        upstream.on_edns_rejected(100.0, is_certain=is_certain)
        upstream.on_edns_rejected(100.0, is_certain=is_certain)
        assert upstream.plan(100.0).uses_edns
    upstream.on_edns_rejected(100.0, is_certain=is_certain)
    assert not upstream.plan(100.0).uses_edns


def test_tcp_is_used_for_a_limited_time_after_several_questions() -> None:
    upstream = Upstream(A)
    for _ in range(MAX_DOUBTS):
        assert not upstream.plan(100.0).uses_tcp
        upstream.on_udp_ignored(100.0)
    assert upstream.plan(100.0 + DOUBT_SECONDS - 1).uses_tcp
    assert not upstream.plan(100.0 + DOUBT_SECONDS).uses_tcp
    upstream.on_udp_ignored(2000.0)
    assert upstream.plan(2000.0).uses_tcp
    upstream.on_tcp_failed()
    assert not upstream.plan(2000.0).uses_tcp


def test_recoveries_change_when_an_upstream_responds_after_a_failure() -> None:
    upstreams = group(0.01, 0.02)
    first, second = upstreams.all
    before = upstreams.recoveries
    first.on_response(0.01)
    first.on_failure()
    assert not upstreams.have_failed
    second.on_failure()
    assert upstreams.have_failed
    assert upstreams.recoveries == before
    second.on_response()
    assert upstreams.recoveries == before + 1


# -- exploration ------------------------------------------------------------------------------------------


def test_to_explore_returns_the_upstream_with_the_oldest_query() -> None:
    upstreams = group(0.01, 0.02, 0.03)
    first, second, third = upstreams.all
    explored = []
    for now in (100.0, 100.1, 100.2, 100.3):
        first.queried_at = now
        if found := upstreams.to_explore(first, now):
            found.queried_at = now
            explored.append((now, found))
    assert explored == [(100.0, second), (100.1, third)]
    later = 100.0 + EXPLORE_SECONDS
    assert upstreams.to_explore(first, later - 0.1) is None
    assert upstreams.to_explore(first, later) is second


def test_dead_upstreams_are_not_explored() -> None:
    upstreams = group(0.01, 0.02)
    kill(upstreams.all[1])
    assert upstreams.to_explore(upstreams.all[0], 100.0) is None


def test_single_upstream_has_none_to_explore() -> None:
    upstreams = group(0.01)
    assert upstreams.to_explore(upstreams.all[0], 100.0) is None
