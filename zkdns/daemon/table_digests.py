"""Counts the members of the table for its digests, a few at a time, and reports the digests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from zkdns.config import Config
from zkdns.digest import TableDigests
from zkdns.names import to_text
from zkdns.table import Table
from zkdns.telemetry.stats import ZoneDigest

_MEMBERS_PER_PIECE = 500  # about 1 ms
_PAUSE_SECONDS = 0.01  # so that a start spends a tenth of its time on them
_CHECK_SECONDS = 1.0


async def count_members(table: Table, config: Config, is_ready: Callable[[], bool]) -> None:
    """Keep the digests of a table complete as soon as it has been read, without end."""
    while True:
        if is_ready():
            digests = table.need_digests(config)
            while not digests.is_complete:
                _count_piece(digests)
                await asyncio.sleep(_PAUSE_SECONDS)
        await asyncio.sleep(_CHECK_SECONDS)


def _count_piece(digests: TableDigests) -> None:
    counted = 0
    while counted < _MEMBERS_PER_PIECE and not digests.is_complete:
        counted += 1 + digests.count_some()


async def complete_digests(table: Table, config: Config) -> TableDigests:
    """The digests of a table, with all members counted, between which other work is done."""
    digests = table.need_digests(config)
    while not digests.is_complete:
        _count_piece(digests)
        await asyncio.sleep(0)
    return digests


def zone_digests(table: Table) -> tuple[ZoneDigest, ...]:
    """The digest of each zone. Empty: they are not complete."""
    if table.digests is None or not table.digests.is_complete:
        return ()
    found = table.digests.of_zones
    return tuple(ZoneDigest(to_text(apex), one.members, str(one)) for apex, one in found.items())
