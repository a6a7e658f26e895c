"""`ZoneStore`: keeps a zone and its journal on disk, so that secondaries get differences after a restart.

    Begin  Past…  Part…  End  Difference…
           older differences, the records of each service at a serial, the differences since

A file has the exact records of the zone at its serial, whatever made them. The first version after a restart
is therefore compared with these records, even if the configuration, this program or the services have changed
meanwhile. Each frame has a checksum; a damaged end is ignored, and the zone is then at an earlier serial.

Each version appends its difference. The file is written again when these are longer than half of the zone.

On reload, two processes run for some seconds. The file belongs to the one that has locked `ZONE.lock`; the
next one reads it, and writes its newest version as soon as the other one has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeAlias
from urllib.parse import quote

import msgspec
import structlog

from zkdns.causes import cause_of
from zkdns.dns.transfer.contents import SoaTemplate
from zkdns.dns.transfer.service_records import Buckets
from zkdns.dns.transfer.versions import Difference, ZoneVersions
from zkdns.names import Labels, to_text

log = structlog.get_logger("zkdns.transfer")

RETRY_SECONDS: Final = 60.0
"""Time after a write that has failed, until the file is written again."""
LOCK_SECONDS: Final = 0.2
"""Time until the lock is tried again."""
_FORMAT = 1
_MIN_APPENDED = 1 << 20
_FRAME = struct.Struct("!II")  # length and CRC-32 of what follows


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """The beginning of a file."""

    format: int
    apex: Labels
    soa: SoaTemplate
    serial: int
    """That of the records in the parts."""


class Part(msgspec.Struct, frozen=True, tag="part"):
    """The records of a service, or (key ()) those of the zone as a whole."""

    key: Labels
    buckets: Buckets


class Change(msgspec.Struct, frozen=True, tag="change"):
    """A difference. Those before `End` lead to the serial of the parts, others follow it."""

    difference: Difference


class End(msgspec.Struct, frozen=True, tag="end"):
    """The end of the parts."""

    parts: int


_Frame: TypeAlias = Begin | Part | Change | End
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[_Frame] = msgspec.msgpack.Decoder(_Frame)

Parts: TypeAlias = Sequence[tuple[Labels, Buckets]]


class StoredZone(NamedTuple):
    """A zone as read from its file: its records at `serial`, and the differences before and after it."""

    serial: int
    parts: Parts
    past: Sequence[Difference]
    following: Sequence[Difference]


class ZoneStore:
    """The file of one zone.

    Args:
        directory: of all files.
        apex: the name of the zone.
        soa: its SOA record. A file with another one is not used.
        retry_seconds: as `RETRY_SECONDS`.
    """

    def __init__(
        self, directory: Path, apex: Labels, soa: SoaTemplate, *, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        self.path = directory / f"{quote(to_text(apex), safe='')}.zone"
        self._apex, self._soa, self._retry_seconds = apex, soa, retry_seconds
        self._writes: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self._file: BinaryIO | None = None
        self._is_current = False  # once written, unless a write fails
        self._appended = 0
        self._retry_at = 0.0
        self._lock: int | None = None
        self._unlocked: tuple[ZoneVersions, Callable[[], Parts]] | None = None  # written when it is locked

    def load(self) -> StoredZone | None:
        """Read the file. None: there is no usable one."""
        try:
            with self.path.open("rb") as file:
                found = self._read(_frames(file))
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("zone_store_failed", path=str(self.path), reason=cause_of(error))
            return None
        if found is None:
            log.info("zone_store_ignored", path=str(self.path))
        return found

    def note(self, versions: ZoneVersions, parts: Callable[[], Parts]) -> None:
        """Write the present version soon.

        Args:
            versions: its difference is appended.
            parts: returns the present records, for a file that is written as a whole.
        """
        if versions.is_ambiguous:
            return  # the file has the other content of this serial
        if not self._has_lock():
            self._write_later(versions, parts)
            return
        latest = versions.latest_difference
        if (
            self._is_current
            and latest is not None
            and self._appended < max(_MIN_APPENDED, versions.size // 2)
        ):
            frame = _encode(Change(latest))
            self._appended += len(frame)
            self._writes.put_nowait(lambda: self._append(frame))
        elif time.monotonic() >= self._retry_at:
            self._is_current, self._appended = True, 0
            serial, past, found = versions.serial or 0, tuple(versions.journal), parts()
            self._writes.put_nowait(lambda: self._write(serial, past, found))

    async def stop(self) -> None:
        """Finish writing, and write no later version, because another process takes over the file."""
        self._is_current, self._retry_at = False, math.inf
        await self.wait_until_written()
        self._close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    async def wait_until_written(self) -> None:
        """Wait until all versions so far are written, or could not be."""
        await self._writes.join()

    async def run(self) -> None:
        """Write in a thread, without end."""
        while True:
            write = await self._writes.get()
            try:
                await asyncio.to_thread(write)
            except OSError as error:
                log.warning("zone_store_failed", path=str(self.path), reason=cause_of(error))
                self._is_current = False
                self._retry_at = max(self._retry_at, time.monotonic() + self._retry_seconds)
                while not self._writes.empty():  # without the failed one, they lead to another version
                    self._writes.get_nowait()
                    self._writes.task_done()
            finally:
                self._writes.task_done()

    def _has_lock(self) -> bool:
        """Lock the file, and return whether no other process has. A directory without locks has none."""
        if self._lock is None and self._retry_at != math.inf:
            with contextlib.suppress(OSError):  # the write will report it
                self.path.parent.mkdir(parents=True, exist_ok=True)
                lock = os.open(self.path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                    return False
                except OSError:
                    os.close(lock)
                    return True
                self._lock = lock
        return True

    def _write_later(self, versions: ZoneVersions, parts: Callable[[], Parts]) -> None:
        is_waiting, self._unlocked = self._unlocked is not None, (versions, parts)
        if not is_waiting:
            asyncio.get_running_loop().call_later(LOCK_SECONDS, self._try_again)

    def _try_again(self) -> None:
        waiting, self._unlocked = self._unlocked, None
        if waiting is not None:
            self.note(*waiting)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _append(self, frame: bytes) -> None:
        if self._file is not None:
            self._file.write(frame)
            self._file.flush()

    def _write(self, serial: int, past: Sequence[Difference], parts: Parts) -> None:
        """Replace the file."""
        self._close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        file = new.open("wb")
        try:
            file.write(_encode(Begin(_FORMAT, self._apex, self._soa, serial)))
            file.writelines(_encode(Change(difference)) for difference in past)
            file.writelines(_encode(Part(key, buckets)) for key, buckets in parts)
            file.write(_encode(End(len(parts))))
            file.flush()
            new.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                file.close()
            raise
        self._file = file

    def _read(self, frames: Iterator[_Frame]) -> StoredZone | None:
        begin = next(frames, None)
        expected = (_FORMAT, self._apex, self._soa)
        if not isinstance(begin, Begin) or (begin.format, begin.apex, begin.soa) != expected:
            return None
        parts: list[tuple[Labels, Buckets]] = []
        past: list[Difference] = []
        following: list[Difference] = []
        has_ended, serial = False, begin.serial
        for frame in frames:
            match frame:
                case Part(key, buckets):
                    parts.append((key, buckets))
                case End(count):
                    has_ended = count == len(parts)
                case Change(difference) if not has_ended:
                    past.append(difference)
                case Change(difference) if difference.before == serial:
                    following.append(difference)
                    serial = difference.after
                case _:
                    break
        return StoredZone(begin.serial, parts, past, following) if has_ended else None


def _encode(frame: _Frame) -> bytes:
    body = _encoder.encode(frame)
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def _frames(file: BinaryIO) -> Iterator[_Frame]:
    """The frames up to the first damaged one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    while len(head := file.read(_FRAME.size)) == _FRAME.size:
        length, checksum = _FRAME.unpack(head)
        body = file.read(min(length, size))  # a damaged length may be 4 GiB
        if len(body) != length or zlib.crc32(body) != checksum:
            return
        try:
            yield _decoder.decode(body)
        except msgspec.DecodeError:
            return
