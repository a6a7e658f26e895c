"""The table on disk, so that a restart without ZooKeeper still answers.

    a line that says what this is
    length · msgpack of the header: when, of which namespaces, read from which ZooKeeper
    length · msgpack of some changes, as often as it takes
    length 0
    SHA-256 of all before it

Made in parts, so that whoever writes it can do other things between two of them. Written beside its place
and renamed, so that a reader sees the old one or the new one, never a half. Nothing of a file is believed,
nor made into objects, before its checksum was found right.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, BinaryIO, Self

import msgspec

from zkdns.config import Config
from zkdns.durations import format_duration
from zkdns.errors import ZkdnsError
from zkdns.serverset.changes import Change

_MAGIC = b"zkdns snapshot 2\n"
_DIGEST_SIZE = hashlib.sha256().digest_size
_LENGTH = 4
# 100,000 members take some 10 MB; what is larger than this is something else, and not worth the memory.
MAX_BYTES = 1 << 30
# Clocks are set back a little now and then; what lies further ahead was written by a clock that was wrong.
_AHEAD_SECONDS = 300.0

_CURES = {
    errno.ENOENT: "make the directory {directory}",
    errno.ENOTDIR: "{directory} must be a directory",
    errno.EACCES: "let this user write into {directory}",
    errno.EPERM: "let this user write into {directory}",
    errno.EROFS: "name a file that does not lie on a read-only file system",
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EISDIR: "name a file, not a directory",
}


class SnapshotError(ZkdnsError):
    """A snapshot cannot be written, read, or trusted; the text says why."""


class NoSnapshotError(SnapshotError):
    """There is no file at all, as at the first start."""


class Header(msgspec.Struct, frozen=True):
    """What a snapshot says of itself.

    `written` is when its table was known to be right, in seconds since the epoch, and `serial` the zone's.
    `namespaces` are the templates that its sets were found by, since under others their names would be
    others; `zookeeper` is the connect string, whose chroot counts for the same reason.
    """

    written: float
    serial: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
    namespaces: tuple[str, ...]
    zookeeper: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """What a snapshot holds: a header, and the changes that make an empty table equal to the one it is of."""

    header: Header
    changes: tuple[Change, ...]


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader can use: snapshots of the same namespaces, and not too old.

    `zookeeper` is the connect string whose chroot must be the same; None: any. Its servers may be others:
    ensembles move. `now` is in seconds since the epoch; `max_age` in seconds, 0: any age.
    """

    namespaces: tuple[str, ...]
    zookeeper: str | None = None
    now: float
    max_age: float = 0


def namespaces_of(config: Config) -> tuple[str, ...]:
    """What the names in a snapshot depend on."""
    return tuple(map(str, config.namespaces))


def expected_by(config: Config, now: float) -> Expected:
    """Which snapshots a server of this configuration can use now (seconds since the epoch)."""
    return Expected(
        namespaces=namespaces_of(config),
        zookeeper=config.zookeeper.hosts,
        now=now,
        max_age=config.snapshot.max_age,
    )


_numbers = itertools.count()
_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(Header)
_part_decoder = msgspec.msgpack.Decoder(tuple[Change, ...])


def encode_part(changes: Sequence[Change]) -> bytes:
    """Some of a snapshot's changes as `SnapshotWriter.add` takes them."""
    return _encoder.encode(changes)


class SnapshotWriter:
    """Writes one snapshot: parts, then `commit`. Leaving its context without that leaves the old one there.

    It may be used by several threads, one after the other.

    Raises:
        SnapshotError: from whatever is called: it cannot be written; what was there stays.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        # A name of its own: what one writer has not yet written must not end up in another's file.
        self._beside = path.with_name(f".{path.name}.{os.getpid()}.{next(_numbers)}.new")
        self._digest = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._header = _encoder.encode(header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()

    def add(self, part: bytes) -> None:
        """Write a part of the changes."""
        self._write(len(part).to_bytes(_LENGTH) + part)

    def commit(self) -> None:
        """Put it in its place, safe from a loss of power."""
        file = self._write(bytes(_LENGTH))
        try:
            file.write(self._digest.digest())
            file.flush()
            os.fsync(file.fileno())
            file.close()
            self._beside.replace(self._path)
        except OSError as error:
            raise self._failure(error) from None
        with contextlib.suppress(OSError):  # not every file system can, and it is in its place all the same
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def discard(self) -> None:
        """Leave nothing beside the snapshot."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # closing writes what is left, into a full disk perhaps
            self._file.close()
        with contextlib.suppress(OSError):
            self._beside.unlink(missing_ok=True)

    def _write(self, data: bytes) -> BinaryIO:
        """Write to the file, which is made at the first time."""
        try:
            if self._file is None:
                self._file = self._beside.open("xb")
                data = _MAGIC + len(self._header).to_bytes(_LENGTH) + self._header + data
            self._digest.update(data)
            self._file.write(data)
        except OSError as error:
            raise self._failure(error) from None
        return self._file

    def _failure(self, error: OSError) -> SnapshotError:
        cure = _CURES.get(error.errno or 0, "").format(directory=self._path.parent)
        return SnapshotError(
            f"{self._path}: cannot be written: {error.strerror}" + (f"; {cure}" if cure else "")
        )


def write_snapshot(path: Path, header: Header, parts: Iterable[Sequence[Change]]) -> None:
    """Replace the file at `path`, at one go.

    Raises:
        SnapshotError: it cannot be written; what was there stays.
    """
    with SnapshotWriter(path, header) as writer:
        for part in parts:
            writer.add(encode_part(part))
        writer.commit()


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed amid writing have left beside the snapshot."""
    name = re.compile(rf"\.{re.escape(path.name)}\.([0-9]{{1,9}})\.[0-9]+\.new")
    with contextlib.suppress(OSError):  # whoever writes there will tell
        for entry in os.scandir(path.parent):
            found = name.fullmatch(entry.name)
            if found and not _is_running(int(found[1])):
                Path(entry.path).unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def read_header(path: Path, expected: Expected) -> Header:
    """What the snapshot at `path` says of itself, if all of it is whole and can be used.

    Raises:
        NoSnapshotError: there is none.
        SnapshotError: there is none that can be used.
    """
    header, _ = _read(path, expected)
    return header


def read_snapshot(path: Path, expected: Expected) -> Snapshot:
    """Read the file at `path`.

    Raises:
        NoSnapshotError: there is none.
        SnapshotError: it cannot be read, is damaged or no snapshot at all, of other namespaces
            or of another place in ZooKeeper, or too old.
    """
    header, parts = _read(path, expected)
    changes: list[Change] = []
    try:
        for part in parts:
            changes += _part_decoder.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SnapshotError(f"{path}: cannot be understood: {error}") from None
    return Snapshot(header, tuple(changes))


def _read(path: Path, expected: Expected) -> tuple[Header, list[memoryview]]:
    """The header, and the parts as they are written, when all but the parts' contents was found right."""
    data = memoryview(_load(path))
    if data[: len(_MAGIC)] != _MAGIC:
        raise SnapshotError(f"{path}: is not a snapshot of this version of zkdns")
    end = len(data) - _DIGEST_SIZE
    if end < len(_MAGIC) or hashlib.sha256(data[:end]).digest() != data[end:]:
        raise SnapshotError(f"{path}: is damaged: its checksum is wrong")
    first, *parts = _split(data[len(_MAGIC) : end], path)
    try:
        header = _header_decoder.decode(first)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SnapshotError(f"{path}: cannot be understood: {error}") from None
    if reason := _unusable(header, expected):
        raise SnapshotError(f"{path}: {reason}")
    return header, parts


def _load(path: Path) -> bytes:
    """The bytes of a regular file: a pipe would be waited for, and a device has no end."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(number, "rb") as file:  # noqa: PTH123 - opened by its number
            status = os.fstat(number)
            if not stat.S_ISREG(status.st_mode):
                raise SnapshotError(f"{path}: cannot be read: it is not a regular file")
            if status.st_size > MAX_BYTES:
                raise SnapshotError(f"{path}: is not a snapshot: it is larger than {MAX_BYTES} bytes")
            return file.read(status.st_size)  # not more: memory for as much is taken first
    except FileNotFoundError:
        raise NoSnapshotError(f"{path}: cannot be read: there is no such file") from None
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # a zero byte in the path
        raise SnapshotError(f"{path}: cannot be read: {error}") from None


def _split(rest: memoryview, path: Path) -> list[memoryview]:
    """What lies between the lengths; each is checked against what there is before anything is made of it."""
    parts = []
    position = 0
    while position + _LENGTH <= len(rest):
        length = int.from_bytes(rest[position : position + _LENGTH])
        position += _LENGTH
        if not length:
            break
        parts.append(rest[position : position + length])
        position += length
    else:
        raise SnapshotError(f"{path}: cannot be understood: it has no end")
    if position != len(rest) or not parts:
        raise SnapshotError(f"{path}: cannot be understood: its lengths are wrong")
    return parts


def _unusable(header: Header, expected: Expected) -> str | None:
    """Why a snapshot is of no use to this reader; None: it is."""
    if header.namespaces != expected.namespaces:
        found, wanted = " and ".join(header.namespaces), " and ".join(expected.namespaces)
        return f"is of the namespace {found}, not of {wanted}"
    if expected.zookeeper is not None and _chroot(header.zookeeper) != _chroot(expected.zookeeper):
        return f"is of ZooKeeper at {header.zookeeper}, which has another root than {expected.zookeeper}"
    age = expected.now - header.written
    if expected.max_age and age > expected.max_age:
        most = format_duration(expected.max_age)
        return f"is {format_duration(age)} old; at most {most} is accepted (snapshot.max_age)"
    if expected.max_age and not age >= -_AHEAD_SECONDS:  # so that "not a number" is caught too
        return f"was written {format_duration(-age)} in the future; a clock is or was wrong"
    return None


def _chroot(zookeeper: str) -> str:
    return zookeeper.partition("/")[2].strip("/")
