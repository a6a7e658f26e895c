"""Numbers of things as text: `1 member`, `1,200 members`."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number and its noun.

    Args:
        number: of the things.
        noun: the singular.
        plural: by default the singular and `s`.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
