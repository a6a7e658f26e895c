"""Quantiles of latency histograms, and growth of counters."""

import math
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.telemetry.stats import (
    LATENCY_BUCKETS,
    ForwardStats,
    UpstreamStats,
    WorkerStats,
    combine_upstreams,
    growth,
    quantile,
)

ENDS = (0.0, *LATENCY_BUCKETS, math.inf)


@given(st.lists(st.floats(0.0, 6.0), min_size=1), st.floats(0.01, 1.0))
def test_a_quantile_lies_in_the_bucket_of_its_rank(times: list[float], share: float) -> None:
    counts = [sum(low < time <= high or time == low == 0.0 for time in times) for low, high in pairwise(ENDS)]
    found = quantile(LATENCY_BUCKETS, counts, share)
    assert found is not None
    of_rank = sorted(times)[math.ceil(share * len(times)) - 1]
    above = [end for end in LATENCY_BUCKETS if of_rank <= end]
    below = [0.0, *(end for end in LATENCY_BUCKETS if end < of_rank)]
    assert below[-1] <= found <= (above[0] if above else LATENCY_BUCKETS[-1]) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("place", "share", "seconds"),
    [(0, 0.5, 0.000_005), (0, 1.0, 0.000_01), (1, 1.0, 0.000_025), (len(LATENCY_BUCKETS), 0.5, 5.0)],
)
def test_a_quantile_is_interpolated_within_its_bucket(place: int, share: float, seconds: float) -> None:
    counts = [10 * (number == place) for number in range(len(LATENCY_BUCKETS) + 1)]
    assert quantile(LATENCY_BUCKETS, counts, share) == pytest.approx(seconds)


def test_without_responses_there_is_no_quantile() -> None:
    assert quantile(LATENCY_BUCKETS, [0] * (len(LATENCY_BUCKETS) + 1), 0.5) is None


@pytest.mark.parametrize(("before", "after", "grown"), [(0, 3, 3), (3, 3, 0), (3, 5, 2), (5, 3, 3)])
def test_a_counter_that_fell_has_restarted_at_0(before: int, after: int, grown: int) -> None:
    assert growth(before, after) == grown


def test_upstreams_of_all_workers_are_combined() -> None:
    def worker(*reported: tuple[str, str, bool, float | None]) -> WorkerStats:
        upstreams = tuple(UpstreamStats(*state, queries=1, timeouts=0, bad_messages=0) for state in reported)
        return WorkerStats(forward=ForwardStats(upstreams=upstreams))

    combined = combine_upstreams(
        [
            worker(("b:53", "", True, None), ("a:53", "", True, 0.2), ("a:53", "corp", False, None)),
            WorkerStats(),
            worker(("b:53", "", True, None), ("a:53", "", False, 0.1)),
        ]
    )
    assert list(msgspec.to_builtins(combined)) == [
        {"address": "b:53", "domain": "", "dead": True, "rtt_seconds": None},
        {"address": "a:53", "domain": "", "dead": False, "rtt_seconds": 0.1},
        {"address": "a:53", "domain": "corp", "dead": False, "rtt_seconds": None},
    ]
