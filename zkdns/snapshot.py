"""The snapshot: the table on disk, so that a restart without ZooKeeper still answers.

    a line with the format and its version
    length · header as msgpack: time, serial, ZooKeeper, and for each namespace its own time and ensemble
    length · a part: some changes as msgpack (any number of parts)
    length 0
    SHA-256 of everything before it

The server writes the changes in parts, so that it can do other work in between. It writes a temporary file in
the same directory and renames it, so that a reader sees the old or the new snapshot, never a partial one. A
reader checks the checksum before it decodes anything.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import math
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, BinaryIO, Self

import msgspec

from zkdns.causes import cause_of
from zkdns.config import Config
from zkdns.durations import format_duration
from zkdns.errors import ZkdnsError
from zkdns.namespace import Namespace
from zkdns.serverset.changes import Change
from zkdns.serverset.ensemble import Ensemble

_MAGIC = b"zkdns snapshot 3\n"
_DIGEST_SIZE = hashlib.sha256().digest_size
_LENGTH = 4
# 100,000 members take about 10 MB. A larger file is not a snapshot, and reading it would cost memory.
MAX_BYTES = 1 << 30

_REMEDIES = {
    errno.ENOENT: "create the directory {directory}",
    errno.ENOTDIR: "{directory} must be a directory",
    errno.EACCES: "give this user write permission in {directory}",
    errno.EPERM: "give this user write permission in {directory}",
    errno.EROFS: "choose a file on a writable file system",
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EISDIR: "choose a file, not a directory",
}


class SnapshotError(ZkdnsError):
    """A snapshot cannot be written, read or used. The text says why."""


class NoSnapshotError(SnapshotError):
    """The file does not exist, as at the first start."""


class NamespaceState(msgspec.Struct, frozen=True):
    """The state of a namespace in a snapshot.

    Attributes:
        name: the namespace as text, which determines the names of its sets.
        current_at: when its sets were last known to equal ZooKeeper's, in seconds since the epoch.
        ensemble: the ensemble that they were read from. None: unknown.
    """

    name: str
    current_at: float
    ensemble: Ensemble | None = None


class Header(msgspec.Struct, frozen=True):
    """The header of a snapshot.

    Attributes:
        written: when it was written, in seconds since the epoch.
        serial: the zone's SOA serial.
        namespaces: the namespaces whose sets it has.
        zookeeper: the connect string. Its chroot determines the paths of the sets.
    """

    written: float
    serial: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
    namespaces: tuple[NamespaceState, ...]
    zookeeper: str = ""

    def by_source(self, namespaces: Sequence[Namespace]) -> dict[str, NamespaceState]:
        """The states of those of these namespaces that the snapshot has, by their templates."""
        states = {state.name: state for state in self.namespaces}
        return {one.template: state for one in namespaces if (state := states.get(str(one))) is not None}


class Snapshot(msgspec.Struct, frozen=True):
    """The contents of a snapshot: its header, and the changes that turn an empty table into its table."""

    header: Header
    changes: tuple[Change, ...]


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader accepts: the sets of these namespaces, if they are not too old. At least one must match.

    Attributes:
        namespaces: the namespaces.
        zookeeper: the connect string. The chroot of the header must be equal; its servers may differ, since
            ensembles move. None: any chroot is accepted.
        now: the present time in seconds since the epoch.
        max_age: the maximum age in seconds. 0: no limit.
    """

    namespaces: tuple[Namespace, ...]
    zookeeper: str | None = None
    now: float
    max_age: float = 0

    def is_too_old(self, current_at: float) -> bool:
        """Whether sets of this time exceed the maximum age.

        A time in the future is accepted: the clock may be behind, as on a machine without a battery.
        """
        age = self.now - current_at
        return bool(self.max_age) and not -math.inf < age <= self.max_age  # in this form NaN is too old


def expected_by(config: Config, now: float) -> Expected:
    """The snapshots that a server with this configuration accepts. `now` is in seconds since the epoch."""
    return Expected(
        namespaces=config.namespaces,
        zookeeper=config.zookeeper.hosts,
        now=now,
        max_age=config.snapshot.max_age,
    )


_numbers = itertools.count()
_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(Header)
_part_decoder = msgspec.msgpack.Decoder(tuple[Change, ...])


def encode_part(changes: Sequence[Change]) -> bytes:
    """Encode some of a snapshot's changes for `SnapshotWriter.add`."""
    return _encoder.encode(changes)


class SnapshotWriter:
    """Writes one snapshot: `add` for each part, then `commit`. Without `commit` the old snapshot stays.

        with SnapshotWriter(path, header) as writer:
            writer.add(encode_part(changes))
            writer.commit()

    Several threads may use it, one after the other.

    Raises:
        SnapshotError: by any method, if the file cannot be written. The old snapshot stays.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        # A unique name, so that two writers never write to the same file.
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.{next(_numbers)}.new")
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
        """Write some of the changes."""
        self._write(len(part).to_bytes(_LENGTH) + part)

    def commit(self) -> None:
        """Complete the file and replace the old snapshot with it, durably (fsync)."""
        file = self._write(bytes(_LENGTH))
        try:
            file.write(self._digest.digest())
            file.flush()
            os.fsync(file.fileno())
            file.close()
            self._temporary.replace(self._path)
        except OSError as error:
            raise self._failure(error) from None
        with contextlib.suppress(OSError):  # not supported by some file systems; the file is renamed anyway
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def discard(self) -> None:
        """Remove the temporary file."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # closing writes buffered data, for which the disk may be full
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def _write(self, data: bytes) -> BinaryIO:
        """Write to the file, which the first call creates."""
        try:
            if self._file is None:
                self._file = self._temporary.open("xb")
                data = _MAGIC + len(self._header).to_bytes(_LENGTH) + self._header + data
            self._digest.update(data)
            self._file.write(data)
        except OSError as error:
            raise self._failure(error) from None
        return self._file

    def _failure(self, error: OSError) -> SnapshotError:
        remedy = _REMEDIES.get(error.errno or 0, "").format(directory=self._path.parent)
        return SnapshotError(
            f"{self._path}: cannot be written: {cause_of(error)}" + (f"; {remedy}" if remedy else "")
        )


def write_snapshot(path: Path, header: Header, parts: Iterable[Sequence[Change]]) -> None:
    """Write a whole snapshot to `path`.

    Raises:
        SnapshotError: it cannot be written. The old snapshot stays.
    """
    with SnapshotWriter(path, header) as writer:
        for part in parts:
            writer.add(encode_part(part))
        writer.commit()


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote a snapshot."""
    name = re.compile(rf"\.{re.escape(path.name)}\.([0-9]{{1,9}})\.[0-9]+\.new")
    with contextlib.suppress(OSError):  # the next snapshot will report it
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
    """The header of the snapshot at `path`, with those of its namespaces that are accepted.

    Raises:
        NoSnapshotError: there is no file.
        SnapshotError: the snapshot cannot be used.
    """
    header, _ = _read(path, expected)
    return header


def read_snapshot(path: Path, expected: Expected) -> Snapshot:
    """Read the snapshot at `path`.

    Its header has those of its namespaces that are accepted. Its changes are those of all of its namespaces:
    the caller selects them (see `divide_by_source`).

    Raises:
        NoSnapshotError: there is no file.
        SnapshotError: the file cannot be read, is damaged or not a snapshot, has only other namespaces or
            another chroot, or is too old.
    """
    header, parts = _read(path, expected)
    changes: list[Change] = []
    try:
        for part in parts:
            changes += _part_decoder.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SnapshotError(f"{path}: cannot be decoded: {error}") from None
    return Snapshot(header, tuple(changes))


def _read(path: Path, expected: Expected) -> tuple[Header, list[memoryview]]:
    """The header with its accepted namespaces, and the encoded parts, which are checked but not decoded."""
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
        raise SnapshotError(f"{path}: cannot be decoded: {error}") from None
    if reason := _unusable(header, expected):
        raise SnapshotError(f"{path}: {reason}")
    accepted = (state for state in _known(header, expected) if not expected.is_too_old(state.current_at))
    return msgspec.structs.replace(header, namespaces=tuple(accepted)), parts


def _load(path: Path) -> bytes:
    """The bytes of a regular file. Reading a pipe could block, and a device may have no end."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(number, "rb") as file:  # noqa: PTH123 - a file descriptor
            status = os.fstat(number)
            if not stat.S_ISREG(status.st_mode):
                raise SnapshotError(f"{path}: cannot be read: it is not a regular file")
            if status.st_size > MAX_BYTES:
                raise SnapshotError(f"{path}: is not a snapshot: it is larger than {MAX_BYTES} bytes")
            return file.read(status.st_size)  # the size limits the memory, even if the file grows
    except FileNotFoundError:
        raise NoSnapshotError(f"{path}: cannot be read: there is no such file") from None
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {cause_of(error)}") from None
    except ValueError as error:  # a NUL byte in the path
        raise SnapshotError(f"{path}: cannot be read: {error}") from None


def _split(rest: memoryview, path: Path) -> list[memoryview]:
    """The parts between the length fields. Each length is checked before it is used."""
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
        raise SnapshotError(f"{path}: cannot be decoded: it has no end")
    if position != len(rest) or not parts:
        raise SnapshotError(f"{path}: cannot be decoded: its lengths are wrong")
    return parts


def _unusable(header: Header, expected: Expected) -> str | None:
    """Why a reader with these expectations rejects a snapshot. None: it accepts it."""
    known = _known(header, expected)
    if not known and expected.namespaces:
        found = " and ".join(state.name for state in header.namespaces) or "(none)"
        return f"has the namespace {found} instead of {' and '.join(map(str, expected.namespaces))}"
    if expected.zookeeper is not None and _chroot(header.zookeeper) != _chroot(expected.zookeeper):
        return f"was read from {header.zookeeper}, whose chroot differs from that of {expected.zookeeper}"
    newest = max((state.current_at for state in known), default=header.written)
    if expected.is_too_old(newest):
        age, limit = format_duration(expected.now - newest), format_duration(expected.max_age)
        return f"is {age} old; at most {limit} is accepted (snapshot.max_age)"
    return None


def _known(header: Header, expected: Expected) -> list[NamespaceState]:
    """The header's namespaces that the reader expects."""
    names = set(map(str, expected.namespaces))
    return [state for state in header.namespaces if state.name in names]


def _chroot(zookeeper: str) -> str:
    return zookeeper.partition("/")[2].strip("/")
