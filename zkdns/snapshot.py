"""The table on disk, so that a restart without ZooKeeper still answers.

    a line that says what this is · SHA-256 of the rest · msgpack: when, of which namespace, the sets

Written beside its place and renamed, so that a reader sees the old one or the new one, never a half.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path

import msgspec

from zkdns.errors import ZkdnsError
from zkdns.serverset.changes import SetPut

_MAGIC = b"zkdns snapshot 1\n"
_DIGEST_SIZE = hashlib.sha256().digest_size


class SnapshotError(ZkdnsError):
    """A snapshot cannot be written, read, or trusted; the text says why."""


class Snapshot(msgspec.Struct, frozen=True):
    """What a snapshot holds.

    `written` is the time in seconds since the epoch, `serial` the zone's; `namespace` is the template that
    the sets were found by, since under another their names would be others.
    """

    written: float
    serial: int
    namespace: str
    sets: tuple[SetPut, ...]


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Replace the file at `path`.

    Raises:
        SnapshotError: it cannot be written; what was there stays.
    """
    body = msgspec.msgpack.encode(snapshot)
    # A name of the thread's own: at the end one may still be writing while another begins.
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with beside.open("wb") as file:
            file.writelines((_MAGIC, hashlib.sha256(body).digest(), body))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise SnapshotError(f"{path}: cannot be written: {error.strerror}") from None


def read_snapshot(path: Path, *, namespace: str) -> Snapshot | None:
    """Read the file at `path`; None where there is none.

    Raises:
        SnapshotError: it cannot be read, is damaged or no snapshot at all, or is of another namespace.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {error.strerror}") from None
    digest, body = data[len(_MAGIC) :][:_DIGEST_SIZE], data[len(_MAGIC) + _DIGEST_SIZE :]
    if not data.startswith(_MAGIC):
        raise SnapshotError(f"{path}: is not a snapshot of this version of zkdns")
    if hashlib.sha256(body).digest() != digest:
        raise SnapshotError(f"{path}: is damaged: its checksum is wrong")
    try:
        snapshot = msgspec.msgpack.decode(body, type=Snapshot)
    except msgspec.DecodeError as error:
        raise SnapshotError(f"{path}: cannot be understood: {error}") from None
    if snapshot.namespace != namespace:
        raise SnapshotError(f"{path}: is of the namespace {snapshot.namespace}, not of {namespace}")
    return snapshot
