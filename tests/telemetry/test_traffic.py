"""Frequent names and clients: the bounds of SpaceSaving, rates over time, and totals by service."""

from __future__ import annotations

import socket
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.telemetry.traffic import (
    MAX_NAMED,
    MAX_SERVICES,
    TOP_SIZE,
    ServiceTotals,
    SpaceSaving,
    TopQueries,
    TopReport,
    TopRow,
    merge,
)

CLIENT = socket.inet_aton("192.0.2.1")
CLIENT_6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1")


def query(name: bytes, rest: bytes = b"\x00\x01\x00\x01") -> bytes:
    """A query without its id, with zeros after its end."""
    labels = b"".join(bytes((len(label),)) + label for label in name.split(b".")) if name else b""
    return bytes(10) + labels + b"\0" + rest + bytes(9)


def names(top: TopQueries, now: float) -> dict[str, float]:
    return {row.name: row.rate for row in top.read(now).names}


# -- SpaceSaving --------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 12).map(lambda number: b"%d" % number), max_size=30), max_size=12))
def test_counts_are_never_too_low_and_too_high_by_a_bounded_error(batches: list[list[bytes]]) -> None:
    size = 4
    sketch, exact = SpaceSaving(size), Counter[bytes]()
    for batch in batches:
        sketch.add(Counter(batch))
        exact.update(batch)
    rows = sketch.items()
    assert len(rows) == min(size, len(exact))
    assert [count for _, count, _ in rows] == sorted((count for _, count, _ in rows), reverse=True)
    for key, count, error in rows:
        assert count - error <= exact[key] <= count
        assert error <= exact.total() / size
    lowest = rows[-1][1] if rows else 0
    assert all(exact[key] <= lowest for key in exact.keys() - {key for key, _, _ in rows})


def test_a_frequent_key_is_found_among_many_others() -> None:
    sketch = SpaceSaving()
    for number in range(1000):
        sketch.add({b"often": 1, **{b"%d" % (100 * number + other): 1 for other in range(100)}})
    key, count, error = sketch.items()[0]
    assert (key, len(sketch.items())) == (b"often", TOP_SIZE)
    assert count - error <= 1000 <= count


# -- names and clients --------------------------------------------------------------------------------------


def test_names_in_any_spelling_and_clients_are_counted() -> None:
    top = TopQueries(0.0)
    top.add([query(b"Web.Staging"), query(b"web.staging"), query(b"")], [CLIENT, CLIENT, CLIENT_6])
    report = top.read(0.001)
    assert [row.name for row in report.names] == ["web.staging", "."]
    assert [row.name for row in report.clients] == ["192.0.2.1", "2001:db8::1"]
    assert {row.error for row in report.names} == {0.0}


@pytest.mark.parametrize("seconds", [1, 10, 100])
def test_a_steady_rate_is_reported_as_it_is(seconds: int) -> None:
    top = TopQueries(0.0)
    for tick in range(1, seconds + 1):
        top.add([query(b"a.b")] * 50, [CLIENT] * 50)
        found = names(top, float(tick))
    assert found["a.b"] == pytest.approx(50.0, rel=0.06)


def test_names_without_new_queries_fade() -> None:
    top = TopQueries(0.0)
    top.add([query(b"a.b")] * 5000, [CLIENT] * 5000)
    rates = [names(top, now)["a.b"] for now in (10.0, 20.0, 30.0)]
    assert rates[0] > 2 * rates[1] > 4 * rates[2]


@pytest.mark.parametrize(
    "malformed", [b"", bytes(9), bytes(10) + b"\x05ab\0", bytes(10) + b"\xc0\x0c\0", b"\xff" * 94]
)
def test_malformed_names_are_left_out(malformed: bytes) -> None:
    top = TopQueries(0.0)
    top.add([malformed, query(b"a")], [CLIENT, CLIENT])
    assert list(names(top, 1.0)) == ["a"]


def test_special_characters_are_escaped() -> None:
    top = TopQueries(0.0)
    top.add([query(b"a\x1b[2J\n.b")], [CLIENT])
    assert list(names(top, 1.0)) == [r"a\027[2j\010.b"]


def test_reports_of_workers_are_added_up() -> None:
    client = (TopRow("192.0.2.1", 1.0, 0.0),)
    one = TopReport((TopRow("a", 3.0, 0.0), TopRow("b", 1.0, 0.5)), client)
    other = TopReport((TopRow("b", 2.5, 0.25),), client)
    assert merge([one, other]) == TopReport(
        (TopRow("b", 3.5, 0.75), TopRow("a", 3.0, 0.0)), (TopRow("192.0.2.1", 2.0, 0.0),)
    )
    assert merge([]) == TopReport((), ())


# -- totals -------------------------------------------------------------------------------------------------


def test_totals_grow_and_are_bounded() -> None:
    totals = ServiceTotals()
    totals.add({"old": 1, "web": 2})
    totals.add({"web": 3})
    assert totals.counts == {"old": 1, "web": 5}
    totals.add({f"s{number}": 1 for number in range(MAX_SERVICES - 1)})
    assert len(totals.counts) == MAX_SERVICES
    assert "old" not in totals.counts
    assert totals.counts["web"] == 5


def test_the_services_with_the_first_responses_keep_their_counters() -> None:
    """So that no counter falls, and the counter of all others neither."""
    totals = ServiceTotals()
    totals.add({"first": 1})
    totals.add({f"s{number}": 1 for number in range(MAX_NAMED)})
    assert len(totals.named) == MAX_NAMED
    assert "first" in totals.named
    totals.add({"first": 2, "late": 5})
    assert totals.named["first"] == 3
    assert "late" not in totals.named
    assert totals.total - sum(totals.named.values()) == 1 + 5
