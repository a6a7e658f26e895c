"""Ids that nobody can guess (RFC 5452 §9.2)."""

from __future__ import annotations

import array
import os

_AT_ONCE = 4096  # bytes that are had from the system by one call, instead of two bytes by each


class RandomIds:
    """Random numbers of 16 bits, from the system's source of secrets."""

    def __init__(self) -> None:
        self._left = array.array("H")

    def take(self) -> int:
        """The next one."""
        if not self._left:
            self._left.frombytes(os.urandom(_AT_ONCE))
        return self._left.pop()
