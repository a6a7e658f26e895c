"""How long something took, or is ago, as people say it."""

from __future__ import annotations

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))


def span(seconds: float) -> str:
    """In its largest unit and the next one: `0.4 s`, `12 s`, `3 m 20 s`, `2 d 4 h`."""
    whole = max(seconds, 0.0)
    if whole < 10:  # noqa: PLR2004 - a tenth of a second says nothing any more
        return f"{whole:.1f} s"
    rest = round(whole)
    parts: list[str] = []
    for unit, size in (*_UNITS, ("s", 1)):
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
        if len(parts) == 2:  # noqa: PLR2004 - the largest unit, and the next one
            break
    return " ".join(filter(None, parts))
