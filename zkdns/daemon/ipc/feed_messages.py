"""The messages of the feed, and how changes are divided into frames.

A worker serves queries between two frames, and between two parts of a large change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from zkdns.daemon.ipc.framing import FrameCodec
from zkdns.namespace import ALL_SOURCES
from zkdns.serverset.changes import Change, MembersHeld, SetChange, SetChanged, SetDropped, SetPut
from zkdns.serverset.ensemble import Ensemble
from zkdns.serverset.member import Member
from zkdns.table import Table

# The work of a frame for a worker, which serves queries between two frames: 1 to 3 ms. A change takes as long
# as 20 members of a set (20 µs, measured), and twice as long if it drops a service with cached responses.
_WORK_PER_FRAME, _WORK_PER_CHANGE, _WORK_PER_DROP = 1000, 20, 40
_MEMBERS_PER_PART = 500  # 0.3 ms (measured)
VERSION_SECONDS = 1.0
"""Time in which the version of changed contents follows the changes. A round trip to ZooKeeper is enough."""


class Packed(msgspec.Struct, frozen=True, tag="packed"):
    """A change of many members, which are decoded in parts: 10,000 at once take 6 ms (measured)."""

    change: SetPut | SetChanged
    """The change without its members."""
    parts: tuple[msgspec.Raw, ...]
    """A `SetChanged` each."""


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """A copy of the table follows. The subscriber drops a source's sets that it does not contain."""


class Changes(msgspec.Struct, frozen=True, tag="changes"):
    """Changes of the table, and the zone's serial after them. Without changes, only the serial has risen.

    With an unchanged serial, they belong to the next one, which follows within `VERSION_SECONDS`.
    """

    serial: int
    changes: tuple[Change | Packed, ...]
    has_more: bool = False
    """Whether more changes with this serial follow."""
    is_ahead: bool = False
    """Whether changes so far belong to the next serial."""


class SourceHealth(msgspec.Struct, frozen=True, tag="health"):
    """The state of a source, after all its changes so far."""

    ready: bool
    """Whether it has been read."""
    stale_since: float | None = None
    """Since when it has been unreachable, in seconds since the epoch. None: it is connected."""
    source: str = ALL_SOURCES
    """Its name, as `zkdns.namespace.source_of` returns it."""
    ensemble: Ensemble | None = None
    """The ensemble that it was read from. None: unknown, or not from ZooKeeper."""

    @property
    def is_stale(self) -> bool:
        """Whether it is unreachable."""
        return self.stale_since is not None

    @property
    def is_current(self) -> bool:
        """Whether it has been read and is connected."""
        return self.ready and not self.is_stale


class End(msgspec.Struct, frozen=True, tag="end"):
    """The copy is complete, as far as its sources are ready. It has a serial even if it is empty."""

    serial: int
    is_ahead: bool = False
    """As in `Changes`."""


class Health(NamedTuple):
    """The state of all sources together."""

    ready: bool
    """Whether all have been read."""
    stale: bool
    """Whether any is unreachable."""


def merge_health(sources: Collection[SourceHealth]) -> Health:
    """The state of several sources together. Without a source, nothing is ready."""
    is_ready = bool(sources) and all(source.ready for source in sources)
    return Health(is_ready, any(source.is_stale for source in sources))


class Flush(msgspec.Struct, frozen=True, tag="flush"):
    """Flush the forward cache."""

    name: bytes | None
    """Only entries of this name and of names below it, in wire format and lower case. None: all entries."""


class Barrier(msgspec.Struct, frozen=True, tag="barrier"):
    """The subscriber sends this back when it has processed everything before it."""

    number: int


class WaitForAll(msgspec.Struct, frozen=True, tag="wait_for_all"):
    """A subscriber's request for an `AppliedByAll` with this number, after this time at the latest."""

    number: int
    seconds: float


class AppliedByAll(msgspec.Struct, frozen=True, tag="applied_by_all"):
    """All subscribers have processed everything that was sent before the request, or a time-out has ended."""

    number: int


FeedMessage: TypeAlias = Begin | Changes | End | SourceHealth | Flush | Barrier | AppliedByAll
FRAMES: FrameCodec[FeedMessage] = FrameCodec(FeedMessage)  # type: ignore[arg-type]  # a union is no type to mypy
SubscriberMessage: TypeAlias = Barrier | WaitForAll
REPLIES: FrameCodec[SubscriberMessage] = FrameCodec(SubscriberMessage)  # type: ignore[arg-type]  # likewise
"""Messages from subscribers."""


def divide_by_work(changes: Iterable[Change]) -> Iterator[tuple[Change, ...]]:
    """Divide changes into parts that a worker applies in a short time; at least one change in each.

    Successive changes of one set are in the same part, so that a held member is not answered as a live one
    in between.
    """
    part: list[Change] = []
    work, last = 0, ""
    for change in changes:
        origin = change.origin if isinstance(change, SetChange) else ""
        if work >= _WORK_PER_FRAME and (not origin or origin != last):
            yield tuple(part)
            part, work = [], 0
        part.append(change)
        last = origin
        work += _WORK_PER_DROP if isinstance(change, SetDropped) else _WORK_PER_CHANGE
        if isinstance(change, SetPut):
            work += len(change.members)
        elif isinstance(change, SetChanged):
            work += len(change.added) + len(change.removed)
        elif isinstance(change, MembersHeld):
            work += len(change.names)
    if part:
        yield tuple(part)


_encode_part = msgspec.msgpack.Encoder().encode
_decode_part = msgspec.msgpack.Decoder(SetChanged).decode


def pack(change: Change) -> Change | Packed:
    """Pack a change of many members, and return others as they are."""
    origin, size = "", _MEMBERS_PER_PART
    added: Sequence[Member] = ()
    removed: Sequence[str] = ()
    match change:
        case SetPut(origin, _, added):
            empty: SetPut | SetChanged = SetPut(origin, change.name, ())
        case SetChanged(origin, added, removed):
            empty = SetChanged(origin, (), ())
    if len(added) + len(removed) <= size:
        return change
    parts = [SetChanged(origin, tuple(added[at : at + size]), ()) for at in range(0, len(added), size)]
    parts += [SetChanged(origin, (), tuple(removed[at : at + size])) for at in range(0, len(removed), size)]
    return Packed(empty, tuple(msgspec.Raw(_encode_part(part)) for part in parts))


async def unpack(changes: Iterable[Change | Packed], table: Table | None = None) -> list[Change]:
    """Unpack changes, and let other tasks run after each part.

    Args:
        changes: as they were received.
        table: to be changed. Members that it has are taken from it, so that their comparison takes no time
            later: that of 10,000 equal members takes 4 ms (measured).
    """
    unpacked: list[Change] = []
    for change in changes:
        if not isinstance(change, Packed):
            unpacked.append(change)
            continue
        added: list[Member] = []
        removed: list[str] = []
        present = table.set_of(change.change.origin) if table is not None else None
        known = present.members if present is not None else {}
        for raw in change.parts:
            part = _decode_part(raw)
            added += (old if (old := known.get(new.name)) == new else new for new in part.added)
            removed += part.removed
            await asyncio.sleep(0)
        empty = change.change
        if isinstance(empty, SetPut):
            unpacked.append(SetPut(empty.origin, empty.name, tuple(added)))
        else:
            unpacked.append(SetChanged(empty.origin, tuple(added), tuple(removed)))
    return unpacked


def copy_frames(contents: Iterable[Change], sources: Sequence[SourceHealth], end: End) -> Iterator[bytes]:
    """The frames of a copy of a table."""
    yield FRAMES.encode(Begin())
    for part in divide_by_work(contents):
        yield FRAMES.encode(Changes(end.serial, tuple(map(pack, part))))
    for source in sources:
        yield FRAMES.encode(source)
    yield FRAMES.encode(end)
