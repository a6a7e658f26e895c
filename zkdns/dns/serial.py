"""Serials of zones (RFC 1982)."""

from typing import Final

MODULUS: Final = 1 << 32
"""The number of serials. They are compared in a circle."""


def difference(serial: int, other: int) -> int:
    """How far a serial is ahead of another one; negative if it is behind (RFC 1982 §3.2)."""
    return (serial - other + MODULUS // 2) % MODULUS - MODULUS // 2


def is_newer(serial: int, other: int) -> bool:
    """Whether a serial is less than half of the circle ahead of another one (RFC 1982 §3.2)."""
    return difference(serial, other) > 0
