"""What histograms tell of how long things took."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.observe.figures import LATENCY_BUCKETS
from zkdns.observe.quantile import quantile

ENDS = (*LATENCY_BUCKETS, math.inf)


@given(st.lists(st.floats(0.0, 6.0), min_size=1), st.floats(0.01, 1.0))
def test_a_quantile_lies_in_the_bucket_of_the_one_whose_rank_it_is(times: list[float], share: float) -> None:
    waits = {end: float(sum(time <= end for time in times)) for end in ENDS}
    found = quantile(waits, share)
    assert found is not None
    its = sorted(times)[math.ceil(share * len(times)) - 1]
    above = [end for end in LATENCY_BUCKETS if its <= end]
    below = [0.0, *(end for end in LATENCY_BUCKETS if end < its)]
    assert below[-1] <= found <= (above[0] if above else LATENCY_BUCKETS[-1]) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("place", "share", "seconds"),
    [(0, 0.5, 0.000_005), (0, 1.0, 0.000_01), (1, 1.0, 0.000_025), (len(LATENCY_BUCKETS), 0.5, 5.0)],
)
def test_within_its_bucket_it_lies_by_its_share(place: int, share: float, seconds: float) -> None:
    waits = {end: 10.0 * (number >= place) for number, end in enumerate(ENDS)}
    assert quantile(waits, share) == pytest.approx(seconds)
