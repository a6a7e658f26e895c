"""Points of the last hour, computed from the counters of workers."""

import pytest

from zkdns.telemetry.last_hour import NAMES, POINTS, STEP, LastHour
from zkdns.telemetry.stats import LATENCY_BUCKETS, SOURCES, LatencyKind, LatencyStats, WorkerStats


def counted(queries: int = 0, latency: dict[float, int] | None = None, **sources: int) -> WorkerStats:
    """Stats of a worker, with latencies by the bound of their bucket."""
    counts = tuple((latency or {}).get(end, 0) for end in (*LATENCY_BUCKETS, float("inf")))
    return WorkerStats(
        udp_queries=queries - queries // 4,
        tcp_queries=queries // 4,
        sources=sources,
        latencies=(LatencyStats(kind="computed", counts=counts),),
    )


def test_there_is_a_value_for_each_ten_seconds_of_an_hour_at_once() -> None:
    hour = LastHour(100.0, {}).read(103.0, 1_000_003.0)
    assert (hour.step, hour.until) == (STEP, 1_000_000.0)
    kinds = ("", "cached_", "computed_", "forwarded_")
    latencies = tuple(f"latency_{kind}{name}" for kind in kinds for name in ("p50", "p99"))
    assert tuple(hour.series) == NAMES == ("queries", *SOURCES, *latencies)
    assert all(values == [None] * POINTS for values in hour.series.values())


def test_a_point_has_the_rates_of_all_workers_since_the_last_one() -> None:
    hour = LastHour(0.0, {})
    hour.add_point(10.0, {1: counted(100, response_cache=80, zone=20), 2: counted(300, response_cache=300)})
    point = hour.add_point(
        20.0, {1: counted(150, response_cache=130, zone=20), 2: counted(400, response_cache=400)}
    )
    assert (point["queries"], point["response_cache"], point["zone"], point["forward_cache"]) == (
        15.0,
        15.0,
        0.0,
        None,
    )
    assert hour.read(20.0, 0.0).series["queries"][-3:] == [None, 40.0, 15.0]


def test_a_replaced_worker_counts_from_0_and_no_rate_is_negative() -> None:
    hour = LastHour(0.0, {})
    hour.add_point(10.0, {1: counted(1000, response_cache=1000)})
    replaced = hour.add_point(20.0, {2: counted(50, response_cache=50)})
    assert (replaced["queries"], replaced["response_cache"]) == (5.0, 5.0)
    same_pid = hour.add_point(30.0, {2: counted(20, {0.001: 3}, response_cache=20)})
    assert (same_pid["queries"], same_pid["response_cache"]) == (2.0, 2.0)


def test_counts_from_before_the_first_reading_are_excluded() -> None:
    hour = LastHour(0.0, {1: counted(1_000_000, {5.0: 1000}, response_cache=1_000_000)})
    point = hour.add_point(10.0, {1: counted(1_000_100, {5.0: 1000}, response_cache=1_000_100)})
    assert (point["queries"], point["response_cache"], point["latency_p99"]) == (10.0, 10.0, None)


def test_rates_use_the_elapsed_time() -> None:
    hour = LastHour(0.0, {})
    assert hour.add_point(12.5, {1: counted(100)})["queries"] == 8.0


def test_without_workers_all_values_are_unknown() -> None:
    hour = LastHour(0.0, {})
    assert set(hour.add_point(10.0, {}).values()) == {None}


def test_missed_points_are_unknown() -> None:
    hour = LastHour(0.0, {})
    hour.add_point(10.0, {1: counted(100)})
    hour.add_point(40.0, {1: counted(400)})
    assert hour.read(40.0, 0.0).series["queries"][-4:] == [10.0, None, None, 10.0]
    hour.add_point(1e9, {1: counted(400)})
    assert hour.read(1e9, 0.0).series["queries"] == [*[None] * (POINTS - 1), 0.0]


def test_points_of_one_hour_are_kept() -> None:
    hour = LastHour(0.0, {})
    for number in range(1, POINTS + 6):
        hour.add_point(number * 10.0, {1: counted(number * 100)})
    values = hour.read(3650.0, 0.0).series["queries"]
    assert values == [10.0] * POINTS


def test_latencies_are_those_since_the_last_point() -> None:
    hour = LastHour(0.0, {})
    hour.add_point(10.0, {1: counted(100, {5.0: 100})})
    point = hour.add_point(20.0, {1: counted(200, {5.0: 100, 0.001: 98, 0.01: 2})})
    assert point["latency_p50"] == pytest.approx(0.000_755, rel=0.01)
    assert point["latency_p99"] == pytest.approx(0.007_5)
    assert hour.add_point(30.0, {1: counted(200, {5.0: 100, 0.001: 98, 0.01: 2})})["latency_p50"] is None


def test_latencies_are_separate_for_cache_zone_and_upstreams() -> None:
    counts: dict[LatencyKind, float] = {"cached": 0.000_01, "computed": 0.001, "forwarded": 0.1}
    latencies = tuple(
        LatencyStats(kind=kind, counts=tuple(10 * (end == bound) for end in (*LATENCY_BUCKETS, None)))
        for kind, bound in counts.items()
    )
    hour = LastHour(0.0, {})
    point = hour.add_point(
        10.0, {1: WorkerStats(latencies=latencies[:2]), 2: WorkerStats(latencies=latencies)}
    )
    assert point["latency_cached_p99"] == pytest.approx(0.000_009_9)
    assert point["latency_computed_p50"] == pytest.approx(0.000_75)
    assert point["latency_forwarded_p50"] == pytest.approx(0.075)
    assert point["latency_p50"] == pytest.approx(0.000_625)
    idle = hour.add_point(
        20.0, {1: WorkerStats(latencies=latencies[:2]), 2: WorkerStats(latencies=latencies)}
    )
    assert idle["latency_forwarded_p99"] is None
