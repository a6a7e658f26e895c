"""The last hour's points, made of what processes have counted."""

import pytest

from zkdns.observe.figures import LATENCY_BUCKETS, SOURCES, AnswererFigures, LatencyFigures
from zkdns.observe.series import NAMES, POINTS, STEP, LastHour


def counted(queries: int = 0, latency: dict[float, int] | None = None, **sources: int) -> AnswererFigures:
    """Figures of a process; latencies by the end of their bucket."""
    counts = tuple((latency or {}).get(end, 0) for end in (*LATENCY_BUCKETS, float("inf")))
    return AnswererFigures(
        udp_queries=queries - queries // 4,
        tcp_queries=queries // 4,
        sources=sources,
        latencies=(LatencyFigures(kind="made", counts=counts),),
    )


def test_there_is_a_value_for_each_ten_seconds_of_an_hour_from_the_first_moment_on() -> None:
    figures = LastHour(100.0, {}).read(103.0, 1_000_003.0)
    assert (figures.step, figures.until) == (STEP, 1_000_000.0)
    assert tuple(figures.series) == NAMES == ("queries", *SOURCES, "latency_p50", "latency_p99")
    assert all(values == [None] * POINTS for values in figures.series.values())


def test_a_point_tells_what_all_processes_did_a_second_since_the_last_one() -> None:
    hour = LastHour(0.0, {})
    hour.take(10.0, {1: counted(100, memo=80, zone=20), 2: counted(300, memo=300)})
    point = hour.take(20.0, {1: counted(150, memo=130, zone=20), 2: counted(400, memo=400)})
    assert (point["queries"], point["memo"], point["zone"], point["cache"]) == (15.0, 15.0, 0.0, None)
    assert hour.read(20.0, 0.0).series["queries"][-3:] == [None, 40.0, 15.0]


def test_a_process_that_takes_anothers_place_is_counted_from_its_start_and_no_rate_is_negative() -> None:
    hour = LastHour(0.0, {})
    hour.take(10.0, {1: counted(1000, memo=1000)})
    replaced = hour.take(20.0, {2: counted(50, memo=50)})
    assert (replaced["queries"], replaced["memo"]) == (5.0, 5.0)
    with_the_same_number = hour.take(30.0, {2: counted(20, {0.001: 3}, memo=20)})
    assert (with_the_same_number["queries"], with_the_same_number["memo"]) == (2.0, 2.0)


def test_what_was_counted_before_the_hour_began_is_no_part_of_it() -> None:
    hour = LastHour(0.0, {1: counted(1_000_000, {5.0: 1000}, memo=1_000_000)})
    point = hour.take(10.0, {1: counted(1_000_100, {5.0: 1000}, memo=1_000_100)})
    assert (point["queries"], point["memo"], point["latency_p99"]) == (10.0, 10.0, None)


def test_rates_are_by_the_time_that_really_passed() -> None:
    hour = LastHour(0.0, {})
    assert hour.take(12.5, {1: counted(100)})["queries"] == 8.0


def test_where_no_process_tells_nothing_is_known() -> None:
    hour = LastHour(0.0, {})
    assert set(hour.take(10.0, {}).values()) == {None}


def test_what_was_slept_through_is_left_out() -> None:
    hour = LastHour(0.0, {})
    hour.take(10.0, {1: counted(100)})
    hour.take(40.0, {1: counted(400)})
    assert hour.read(40.0, 0.0).series["queries"][-4:] == [10.0, None, None, 10.0]
    hour.take(1e9, {1: counted(400)})
    assert hour.read(1e9, 0.0).series["queries"] == [*[None] * (POINTS - 1), 0.0]


def test_an_hour_is_kept_and_no_more() -> None:
    hour = LastHour(0.0, {})
    for number in range(1, POINTS + 6):
        hour.take(number * 10.0, {1: counted(number * 100)})
    values = hour.read(3650.0, 0.0).series["queries"]
    assert values == [10.0] * POINTS


def test_latencies_are_those_of_the_time_since_the_last_point() -> None:
    hour = LastHour(0.0, {})
    hour.take(10.0, {1: counted(100, {5.0: 100})})
    point = hour.take(20.0, {1: counted(200, {5.0: 100, 0.001: 98, 0.01: 2})})
    assert point["latency_p50"] == pytest.approx(0.000_755, rel=0.01)
    assert point["latency_p99"] == pytest.approx(0.007_5)
    assert hour.take(30.0, {1: counted(200, {5.0: 100, 0.001: 98, 0.01: 2})})["latency_p50"] is None
