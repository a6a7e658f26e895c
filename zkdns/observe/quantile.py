"""How long responses took, by what histograms tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise


def quantile(waits: Mapping[float, float], share: float) -> float | None:
    """So long this share of them took at most, as Prometheus' `histogram_quantile` has it.

    Args:
        waits: how many took at most so many seconds, cumulative, up to infinitely many.
        share: from 0 to 1.

    Returns:
        Seconds; of what took longer than the last end that is none; None where there was nothing.
    """
    wanted = share * waits.get(math.inf, 0.0)
    if not wanted:
        return None
    for (begin, below), (end, count) in pairwise([(0.0, 0.0), *sorted(waits.items())]):
        if count >= wanted:
            return begin if math.isinf(end) else begin + (end - begin) * (wanted - below) / (count - below)
    return None
