"""The snapshot: it is read as it was written, or rejected with a SnapshotError; never a part of it."""

import contextlib
import hashlib
import math
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.namespace import ServiceName, parse_namespace
from zkdns.serverset.changes import HostResolved, MembersHeld, SetPut
from zkdns.serverset.ensemble import Ensemble
from zkdns.serverset.member import Endpoint, Member, Status
from zkdns.snapshot import (
    Expected,
    Header,
    NamespaceState,
    NoSnapshotError,
    Snapshot,
    SnapshotError,
    SnapshotWriter,
    encode_part,
    read_header,
    read_snapshot,
    remove_leftovers,
    write_snapshot,
)

NAMESPACE = parse_namespace("/discovery/{environment}/{service}")
OTHER = parse_namespace("/aurora/{job}")
NOW = 1700000000.25
STATES = (NamespaceState(str(NAMESPACE), NOW, Ensemble(5, 6, 7)),)
EXPECTED = Expected(namespaces=(NAMESPACE,), now=NOW)

WEB = Member(
    "member_0000000318",
    Endpoint("10.0.0.1", 8080),
    {"admin": Endpoint("web-1.example", 9990, "10.0.0.1", "2001:db8::1")},
    Status.WARNING,
    42,
    {"größe": "日本"},
    0.5,
)
HEADER = Header(NOW, 7, STATES, "zk1:2181,zk2:2181/a")
SMALL = Snapshot(
    HEADER,
    (
        SetPut("/discovery/staging/web", ServiceName("web", "staging"), (WEB,)),
        MembersHeld("/discovery/staging/web", (WEB.name,)),
        HostResolved("web-1.example", ("10.0.0.1", "2001:db8::1")),
    ),
)


def of_size(count: int) -> Snapshot:
    """A snapshot with this number of members, which is also its serial."""
    members = tuple(Member(f"member_{n:010d}", Endpoint("10.0.0.1", 80)) for n in range(count))
    put = SetPut("/discovery/s/web", ServiceName("web", "s"), members)
    return Snapshot(Header(NOW, count, STATES), (put,))


def write(path: Path, snapshot: Snapshot, in_part: int = 2) -> None:
    changes = snapshot.changes
    parts = [changes[start : start + in_part] for start in range(0, len(changes), in_part)]
    write_snapshot(path, snapshot.header, parts)


def read(path: Path, expected: Expected = EXPECTED) -> Snapshot:
    return read_snapshot(path, expected)


def sealed(*frames: bytes, end: bytes = bytes(4)) -> bytes:
    """A file with a valid checksum and arbitrary contents."""
    body = b"zkdns snapshot 3\n" + b"".join(len(f).to_bytes(4) + f for f in frames) + end
    return body + hashlib.sha256(body).digest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table"


# -- writing and reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "snapshot", [SMALL, of_size(0), of_size(3000), Snapshot(Header(0.0, 0xFFFFFFFF, STATES), ())]
)
def test_a_snapshot_is_read_as_it_was_written(path: Path, snapshot: Snapshot) -> None:
    write(path, snapshot)
    assert read(path) == snapshot


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
endpoints = st.builds(
    Endpoint, names, st.integers(1, 65535), st.none() | st.just("10.0.0.1"), st.none() | st.just("::1")
)
members = st.builds(
    Member,
    names,
    st.none() | endpoints,
    st.dictionaries(names, endpoints, max_size=2),
    st.sampled_from(Status),
    st.none() | st.integers(-(2**31), 2**31 - 1),
    st.dictionaries(names, names, max_size=2),
    st.floats(0, 1000),
)
origins = st.builds("/discovery/{}/{}".format, *2 * [names.map(lambda name: name.replace("/", "-"))])
puts = st.builds(
    SetPut, origins, st.builds(ServiceName, names, names), st.lists(members, max_size=3).map(tuple)
)


changes = st.one_of(
    puts,
    st.builds(MembersHeld, origins, st.lists(names, max_size=3).map(tuple), st.floats(0, 1e12)),
    st.builds(HostResolved, names, st.lists(names, max_size=3).map(tuple)),
)
headers = st.builds(Header, st.floats(0, 1e12), st.integers(0, 0xFFFFFFFF), st.just(STATES), names)


@given(st.builds(Snapshot, headers, st.lists(changes, max_size=5).map(tuple)))
def test_sets_with_any_contents_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, snapshot: Snapshot
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-table"
    write(path, snapshot)
    assert read(path) == snapshot


def test_a_new_snapshot_replaces_the_old_one(path: Path) -> None:
    write(path, of_size(100))
    write(path, SMALL)
    assert read(path) == SMALL
    assert list(path.parent.iterdir()) == [path]


# -- damaged and unusable files ----------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_damaged_byte_anywhere_is_detected(path: Path, flip: int) -> None:
    write(path, SMALL)
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        with pytest.raises(SnapshotError):
            read(path)


def test_a_truncated_snapshot_is_detected(path: Path) -> None:
    write(path, SMALL)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SnapshotError):
            read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(SnapshotError, match="damaged"):
        read(path)


@given(st.data())
def test_a_changed_file_is_an_error_or_reads_as_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed-table"
    write(path, SMALL)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    path.write_bytes(content)
    with contextlib.suppress(SnapshotError):
        assert read(path) == SMALL


@given(
    st.lists(st.binary(min_size=1, max_size=60), max_size=4),
    st.sampled_from([b"", b"\0", bytes(4), bytes(8)]),
)
def test_contents_with_a_valid_checksum_are_decoded_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, frames: list[bytes], end: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "sealed-table"
    for before in ([], [msgspec.msgpack.encode(HEADER)]):
        path.write_bytes(sealed(*before, *frames, end=end))
        with contextlib.suppress(SnapshotError):
            assert read(path).header == HEADER


IMMENSE = (
    b"\xdd",
    b"\xdf",
    b"\xdb",
    b"\xc6",
)  # msgpack's array, map, text and bytes with a length of 32 bits


@pytest.mark.parametrize("kind", IMMENSE)
def test_an_immense_length_takes_no_memory(path: Path, kind: bytes) -> None:
    bomb = kind + b"\xff" * 4
    header = msgspec.msgpack.encode(HEADER)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (512 << 20), limits[1]))  # an eighth of the given length
    try:
        for content in (
            sealed(bomb),
            sealed(header, bomb),
            sealed(header, end=b"\xff\xff\xff\xff" + bomb),
        ):
            path.write_bytes(content)
            with pytest.raises(SnapshotError, match="cannot be decoded"):
                read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_a_file_that_is_too_large_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 << 30)  # a sparse file, which takes no space on the disk
    with pytest.raises(SnapshotError, match="is not a snapshot: it is larger than"):
        read(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not a snapshot"),
        (b"{}\n", "not a snapshot"),
        (b"zkdns snapshot 1\n" + bytes(64), "not a snapshot of this version"),
        (b"zkdns snapshot 3\n", "damaged"),
        (b"zkdns snapshot 3\n" + bytes(64), "damaged"),
        (sealed(), "cannot be decoded: its lengths are wrong"),
        (sealed(end=b""), "cannot be decoded: it has no end"),
        (sealed(msgspec.msgpack.encode(HEADER), end=bytes(5)), "cannot be decoded: its lengths are wrong"),
        (sealed(b"\x80"), "cannot be decoded: Object missing required field"),
    ],
)
def test_a_file_that_is_not_a_snapshot_is_rejected(path: Path, content: bytes, complaint: str) -> None:
    path.write_bytes(content)
    for reading in (read, lambda path: read_header(path, EXPECTED)):
        with pytest.raises(SnapshotError, match=complaint) as caught:
            reading(path)
        assert str(path) in str(caught.value)


def expecting(**others: Any) -> Expected:
    return msgspec.structs.replace(EXPECTED, **others)


@pytest.mark.parametrize(
    ("expected", "complaint"),
    [
        (
            expecting(namespaces=(OTHER,)),
            f"has the namespace {NAMESPACE} instead of {OTHER}",
        ),
        (
            expecting(zookeeper="zk1:2181/b"),
            "was read from zk1:2181,zk2:2181/a, whose chroot differs from that of zk1:2181/b",
        ),
        (
            expecting(now=NOW + 61, max_age=60),
            "is 1m 1s old; at most 1m is accepted (snapshot.max_age)",
        ),
        (
            expecting(now=NOW + 3 * 86_400, max_age=86_400),
            "is 3d old; at most 1d is accepted (snapshot.max_age)",
        ),
    ],
)
def test_an_unusable_snapshot_is_rejected_with_the_reason(
    path: Path, expected: Expected, complaint: str
) -> None:
    write(path, SMALL)
    with pytest.raises(SnapshotError) as caught:
        read(path, expected)
    assert str(caught.value) == f"{path}: {complaint}"


@pytest.mark.parametrize(
    "expected",
    [
        expecting(zookeeper="elsewhere:2181/a/"),  # ensembles move
        expecting(now=NOW + 60, max_age=60),
        expecting(now=NOW - 1e9, max_age=60),  # booted with a clock that is behind
        expecting(now=NOW + 1e9),
        expecting(now=0.0),
    ],
)
def test_a_usable_snapshot_is_read(path: Path, expected: Expected) -> None:
    write(path, SMALL)
    assert read(path, expected) == SMALL
    assert read_header(path, expected) == HEADER


def test_the_header_has_only_the_accepted_namespaces(path: Path) -> None:
    (mine,), other = STATES, NamespaceState(str(OTHER), NOW - 100)
    write(path, Snapshot(Header(NOW, 7, (mine, other)), SMALL.changes))
    both = (NAMESPACE, OTHER)
    all_of_it = read(path, expecting(namespaces=both)).header
    assert all_of_it.by_source(both) == {NAMESPACE.template: mine, OTHER.template: other}
    young = read(path, expecting(namespaces=both, max_age=60)).header
    assert (young.namespaces, young.by_source(both)) == (STATES, {NAMESPACE.template: mine})
    assert read(path, expecting(namespaces=(OTHER,))).header.by_source(both) == {OTHER.template: other}


@pytest.mark.parametrize("time", [math.nan, math.inf, -math.inf])
def test_an_invalid_time_is_rejected(path: Path, time: float) -> None:
    header = msgspec.structs.replace(HEADER, namespaces=(NamespaceState(str(NAMESPACE), time),))
    write(path, msgspec.structs.replace(SMALL, header=header))
    with pytest.raises(SnapshotError):
        read(path, expecting(max_age=60))


def test_a_missing_file_has_its_own_error(path: Path) -> None:
    for missing in (path, path / "deeper"):
        with pytest.raises(NoSnapshotError):
            read(missing)


def test_an_unreadable_file_is_an_error(path: Path) -> None:
    path.mkdir()
    loop, pipe, beneath, zero = path / "loop", path / "pipe", path / "file" / "table", Path(f"{path}\0")
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    (path / "file").touch()
    for unreadable in (path, loop, pipe, beneath, zero, Path("/dev/zero")):
        with pytest.raises(SnapshotError, match="cannot be read"):
            read(unreadable)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """A user without root's permissions."""
    user = os.geteuid()
    if user:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_missing_read_permission_is_an_error(path: Path) -> None:
    write(path, SMALL)
    path.chmod(0)
    with unprivileged(), pytest.raises(SnapshotError, match="cannot be read: permission denied"):
        read(path)


def test_missing_write_permission_is_reported_with_a_remedy(path: Path) -> None:
    path.parent.chmod(0o555)
    with unprivileged(), pytest.raises(SnapshotError) as caught:
        write(path, SMALL)
    path.parent.chmod(0o755)
    assert str(caught.value) == (
        f"{path}: cannot be written: permission denied; give this user write permission in {path.parent}"
    )


# -- writing -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Limit the files of this process to a kilobyte, including the one for the tests' own output."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_failed_write_leaves_the_old_snapshot_and_no_other_file(path: Path) -> None:
    write(path, SMALL)
    large = of_size(1000)
    with full_disk(), pytest.raises(SnapshotError, match="cannot be written"):
        write(path, large)
    assert read(path) == SMALL
    assert list(path.parent.iterdir()) == [path]


def test_a_directory_in_its_place_is_an_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(SnapshotError, match="cannot be written"):
        write(path, SMALL)
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_directory_is_an_error(path: Path) -> None:
    with pytest.raises(SnapshotError, match="cannot be written: no such file") as caught:
        write(path / "table", SMALL)
    assert str(caught.value).endswith(f"; create the directory {path}")
    assert not path.exists()


def test_after_a_crash_the_old_snapshot_stays_and_leftovers_are_removed(path: Path) -> None:
    write(path, SMALL)
    child = os.fork()
    if not child:
        writer = SnapshotWriter(path, HEADER)
        writer.add(encode_part(of_size(3000).changes))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(path.parent.iterdir())) == 2
    before = set(path.parent.iterdir())
    unfinished = SnapshotWriter(path, HEADER)  # of a running process
    unfinished.add(encode_part(()))
    (temporary,) = set(path.parent.iterdir()) - before
    other = path.with_name(f".{path.name}.notes.new")
    other.touch()
    remove_leftovers(path)
    assert set(path.parent.iterdir()) == {path, temporary, other}
    unfinished.discard()
    assert read(path) == SMALL


def test_without_a_commit_the_old_snapshot_stays(path: Path) -> None:
    write(path, SMALL)
    with SnapshotWriter(path, of_size(10).header) as writer:
        writer.add(encode_part(of_size(10).changes))
    with SnapshotWriter(path, of_size(10).header):
        pass
    assert read(path) == SMALL
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_never_sees_a_partial_snapshot(path: Path) -> None:
    sizes = [1, 500, 20, 3000]
    write(path, of_size(sizes[0]))

    def write_all() -> None:
        for number in range(100):
            write(path, of_size(sizes[number % len(sizes)]))

    writer = threading.Thread(target=write_all)
    seen = set()
    writer.start()
    while writer.is_alive():
        snapshot = read(path)
        (put,) = snapshot.changes
        assert isinstance(put, SetPut)
        assert len(put.members) == snapshot.header.serial
        seen.add(snapshot.header.serial)
    writer.join()
    assert seen <= set(sizes)
    assert len(seen) > 1


def test_two_writers_at_once_do_not_interfere(path: Path) -> None:
    """As at a shutdown: a write in progress in a thread, and the last one."""
    failures: list[BaseException] = []

    def write_all(size: int) -> None:
        try:
            for _ in range(50):
                write(path, of_size(size))
                read(path)
        except SnapshotError as error:
            failures.append(error)

    writers = [threading.Thread(target=write_all, args=(size,)) for size in (10, 3000)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208 - only the names matter
