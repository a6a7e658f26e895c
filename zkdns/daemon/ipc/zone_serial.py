"""The SOA serial of the table, computed from the versions of its sources instead of counted.

    serial = the sum of the versions of all sources, modulo 2^32

Servers with the same contents show the same serial, also after a restart, so that a secondary can change from
one to another. The version of a namespace in ZooKeeper is computed from the highest transaction (zxid) of its
contents, that of the static file is the time of its last modification.

Serials are compared in a circle (RFC 1982): one is newer than another if it is less than 2^31 ahead. The sum
cannot be the next serial if it is not newer than the last one. There are two cases:

- The last serial is a little ahead. Some changes have no version: a held member, the addresses of a host
  name, a znode that becomes unreadable. Each of them raises the serial by 1, until the sum has passed it.
- The sum has moved far, for instance because another ensemble is used, or an election has followed more than
  2^28 transactions. Then the serial takes a detour around the circle: it rises half of the way to the sum,
  and the rest after an hour, in which all secondaries have followed (RFC 1982 section 7).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from zkdns.dns.serial import MODULUS, is_newer

_EPOCH_BITS: Final = 28
_COUNTER_BITS: Final = 32  # of a zxid; the bits before are the epoch, which each election increments

MAX_LEAD: Final = 1 << 20
"""How far a serial may be ahead of the sum. A change without a version each second takes 12 days."""
DETOUR_SECONDS: Final = 3600.0
"""How long a detour lasts. A secondary checks the serial each minute (SOA refresh), or each 5 minutes if it
limits that, and may have secondaries itself."""


def version_of_zxid(zxid: int) -> int:
    """The version of the contents of a ZooKeeper ensemble with this highest transaction.

    An election counts as 2^28 transactions. Up to seven elections between two changes of the contents keep
    serials in order, unless there are more than 2^28 transactions between two elections.
    """
    epoch, counter = zxid >> _COUNTER_BITS, zxid & ((1 << _COUNTER_BITS) - 1)
    return ((epoch << _EPOCH_BITS) + counter) % MODULUS


class ZoneSerial:
    """Decides the next serial.

    Attributes:
        is_restored: whether the last serial is from before the start of this process, so that the next one
            has to be newer.
        detour_until: when a detour ends, by the clock of `following`. Minus infinity: there is none.

    Args:
        sources: the names of the sources. Without the versions of all of them there is no sum.
        detour_seconds: as `DETOUR_SECONDS`.
    """

    def __init__(self, sources: Iterable[str], *, detour_seconds: float = DETOUR_SECONDS) -> None:
        self.is_restored = False
        self._detour_seconds = detour_seconds
        self.detour_until = -math.inf
        self._versions: dict[str, int | None] = dict.fromkeys(sources)
        self._has_followed = False

    def set_version(self, source: str, version: int) -> None:
        """Set the version of a source."""
        self._versions[source] = version

    @property
    def sum(self) -> int | None:
        """The sum of all versions. None: one is unknown."""
        versions = [version for version in self._versions.values() if version is not None]
        return sum(versions) % MODULUS if len(versions) == len(self._versions) else None

    def following(self, last: int, now: float, *, is_changed: bool) -> int:
        """The serial that follows the last one.

        Args:
            last: the last serial.
            now: seconds of any clock.
            is_changed: whether the contents have changed since the last serial, so that it has to rise.
        """
        wanted = self.sum
        counted = (last + is_changed) % MODULUS
        if wanted is None or now < self.detour_until:
            return counted
        self.detour_until = -math.inf
        is_first, self._has_followed = not (self._has_followed or self.is_restored), True
        if is_first or is_newer(wanted, last):
            return wanted
        if (last - wanted) % MODULUS < MAX_LEAD:
            return counted
        self.detour_until = now + self._detour_seconds
        return (last + (wanted - last) % MODULUS // 2) % MODULUS
