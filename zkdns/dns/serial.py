"""Serials of zones (RFC 1982)."""

from typing import Final

MODULUS: Final = 1 << 32
"""The number of serials. They are compared in a circle."""


def is_newer(serial: int, other: int) -> bool:
    """Whether a serial is less than half of the circle ahead of another one (RFC 1982 §3.2)."""
    return 0 < (serial - other) % MODULUS < MODULUS // 2
