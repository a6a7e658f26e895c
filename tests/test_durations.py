"""Durations are parsed and formatted in the same form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.durations import duration_parser, format_duration, parse_duration
from zkdns.errors import BadValueError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("500ms", 0.5),
        ("250µs", 0.00025),
        ("250us", 0.00025),
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("1d", 86_400.0),
        ("1y", 31_536_000.0),
        ("1h 30m", 5400.0),
        ("1h30m", 5400.0),
        ("1m 500ms", 60.5),
    ],
)
def test_parse(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", "s", "-1s", "+1s", "1 s", " 1s", "1s ", "1h  30m", "1h 30", "1w", "1e3", "nan", "inf"],
)
def test_text_that_is_not_a_duration(text: str) -> None:
    with pytest.raises(BadValueError, match=r"write a duration, such as 500ms, 1\.5s or 2m"):
        parse_duration(text)


def test_a_range_is_checked_and_named_in_the_error() -> None:
    parse = duration_parser(0.01, 3600)
    assert (parse("10ms"), parse("1h")) == (0.01, 3600.0)
    for text in ("9ms", "0", "61m", "3600.1s", "soon"):
        with pytest.raises(BadValueError, match=f"is '{text}'; write a duration from 10ms to 1h"):
            parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (-3.0, "0s"),
        (5e-8, "0.1µs"),
        (1e-9, "0s"),
        (53e-6, "53µs"),
        (0.0015, "1.5ms"),
        (0.4, "400ms"),
        (0.9994, "999ms"),
        (0.9996, "1s"),
        (1.54, "1.5s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (12.4, "12s"),
        (59.7, "1m"),
        (90.0, "1m 30s"),
        (3599.9, "1h"),
        (7300.0, "2h 1m"),
        (86_500.0, "1d"),
        (187_300.0, "2d 4h"),
        (float("nan"), "nans"),
        (float("inf"), "infs"),
    ],
)
def test_format(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_number_of_units() -> None:
    assert [format_duration(93_784.0, units=units) for units in (1, 2, 3, 4)] == [
        "1d",
        "1d 2h",
        "1d 2h 3m",
        "1d 2h 3m 4s",
    ]
    assert format_duration(90_010.0, units=3) == "1d 1h"


@given(st.floats(0, 1e9))
def test_formatted_durations_can_be_parsed_and_are_close(seconds: float) -> None:
    parsed = parse_duration(format_duration(seconds, units=2))
    assert parsed == pytest.approx(seconds, rel=0.06, abs=1e-7)
