"""Durations as text, such as `250ms`, `12s` or `1h 30m`; parsed and formatted in the same form."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from zkdns.errors import BadValueError

_UNITS = {"y": 31_536_000.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
_UNITS |= {"ms": 1e-3, "µs": 1e-6, "us": 1e-6}
_LONG_UNITS = (("y", 31_536_000), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_SHORT_UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_SECONDS = re.compile(_NUMBER)
_PART = re.compile(rf"({_NUMBER})(y|d|h|ms|m|s|µs|us)")
_DURATION = re.compile(rf"{_PART.pattern}(?: ?{_PART.pattern})*")


def parse_duration(text: str, *, min_seconds: float = 0.0, max_seconds: float = math.inf) -> float:
    """Parse a number of seconds, or numbers with units: `500ms`, `1.5s`, `2m`, `1h 30m`. A year has 365 days.

    Args:
        text: the duration as written.
        min_seconds: the smallest accepted number of seconds.
        max_seconds: the largest accepted number of seconds.

    Returns:
        Seconds.

    Raises:
        BadValueError: the text is not a duration, or is out of range.
    """
    seconds = None
    if _SECONDS.fullmatch(text):
        seconds = float(text)
    elif _DURATION.fullmatch(text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if seconds is None or not min_seconds <= seconds <= max_seconds:
        limits = _describe_range(min_seconds, max_seconds)
        raise BadValueError(f"is {text!r}; write a duration{limits}, such as 500ms, 1.5s or 2m")
    return seconds


def _describe_range(lowest: float, highest: float) -> str:
    """The accepted range, as it follows a noun."""
    if not math.isfinite(highest):
        return f" of at least {format_duration(lowest)}" if lowest else ""
    if not lowest:
        return f" of at most {format_duration(highest)}"
    return f" from {format_duration(lowest)} to {format_duration(highest)}"


def duration_parser(min_seconds: float, max_seconds: float) -> Callable[[str], float]:
    """Return a parser of durations within a range of seconds, for a setting or a flag."""

    def parse(text: str) -> float:
        return parse_duration(text, min_seconds=min_seconds, max_seconds=max_seconds)

    return parse


def format_duration(seconds: float, *, units: int = 2) -> str:
    """Format a duration: `53µs`, `1.5ms`, `400ms`, `9.5s`, `12s`, `3m 20s`, `2d 4h`, `1y`.

    Args:
        seconds: the duration. A negative one counts as 0; one that is not finite gives `nans` or `infs`.
        units: the number of adjacent units to show, from 10 seconds on. Smaller units are cut off, and units
            with the value 0 are left out.
    """
    if not math.isfinite(seconds):
        return f"{seconds:g}s"
    seconds = max(seconds, 0.0)
    if round(seconds, 1) < 10:  # noqa: PLR2004 - two digits are enough below 10 s
        return _format_short(seconds)
    remainder = round(seconds)
    parts: list[str] = []
    shown = 0
    for unit, size in _LONG_UNITS:
        count, remainder = divmod(remainder, size)
        if not count and not shown:
            continue
        shown += 1
        if count:
            parts.append(f"{count}{unit}")
        if shown == units:
            break
    return " ".join(parts)


def _format_short(seconds: float) -> str:
    """Format less than 10 seconds with at least two digits."""
    for unit, size in _SHORT_UNITS:
        value = seconds / size
        if round(value, 3) >= 1 or unit == "µs":
            break
    digits = 0 if value >= 10 else 1  # noqa: PLR2004 - two digits
    number = f"{value:.{digits}f}".removesuffix(".0")
    return "0s" if number == "0" else f"{number}{unit}"
