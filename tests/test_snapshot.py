"""The snapshot: what was written comes back, or one kind of error, and never a half of it."""

import contextlib
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.namespace import ServiceName
from zkdns.serverset.changes import SetPut
from zkdns.serverset.member import Endpoint, Member, Status
from zkdns.snapshot import Snapshot, SnapshotError, read_snapshot, write_snapshot

NAMESPACE = "/discovery/{environment}/{service}"

WEB = Member(
    "member_0000000318",
    Endpoint("10.0.0.1", 8080),
    {"admin": Endpoint("web-1.example", 9990, "10.0.0.1", "2001:db8::1")},
    Status.WARNING,
    42,
    {"größe": "日本"},
)
SMALL = Snapshot(
    1700000000.25, 7, NAMESPACE, (SetPut("/discovery/staging/web", ServiceName("web", "staging"), (WEB,)),)
)


def of_size(count: int) -> Snapshot:
    """A snapshot with so many members, and as much for its serial."""
    members = tuple(Member(f"member_{n:010d}", Endpoint("10.0.0.1", 80)) for n in range(count))
    return Snapshot(1.0, count, NAMESPACE, (SetPut("/discovery/s/web", ServiceName("web", "s"), members),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table"


# -- there and back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "snapshot", [SMALL, of_size(0), of_size(3000), Snapshot(0.0, 0xFFFFFFFF, NAMESPACE, ())]
)
def test_what_was_written_is_read_again(path: Path, snapshot: Snapshot) -> None:
    write_snapshot(path, snapshot)
    assert read_snapshot(path, namespace=NAMESPACE) == snapshot


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
)
puts = st.builds(
    SetPut, names, st.builds(ServiceName, names, names), st.lists(members, max_size=3).map(tuple)
)


@given(
    st.builds(
        Snapshot,
        st.floats(0, 1e12),
        st.integers(0, 0xFFFFFFFF),
        st.just(NAMESPACE),
        st.lists(puts, max_size=3).map(tuple),
    )
)
def test_whatever_sets_hold_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, snapshot: Snapshot
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-table"
    write_snapshot(path, snapshot)
    assert read_snapshot(path, namespace=NAMESPACE) == snapshot


def test_a_new_one_replaces_the_old_one_and_leaves_nothing_beside_it(path: Path) -> None:
    write_snapshot(path, of_size(100))
    write_snapshot(path, SMALL)
    assert read_snapshot(path, namespace=NAMESPACE) == SMALL
    assert list(path.parent.iterdir()) == [path]


# -- what cannot be trusted --------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_damaged_byte_anywhere_is_noticed(path: Path, flip: int) -> None:
    write_snapshot(path, SMALL)
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        with pytest.raises(SnapshotError):
            read_snapshot(path, namespace=NAMESPACE)


def test_a_truncated_one_is_noticed_wherever_it_ends(path: Path) -> None:
    write_snapshot(path, SMALL)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SnapshotError):
            read_snapshot(path, namespace=NAMESPACE)
    path.write_bytes(whole + b"\0")
    with pytest.raises(SnapshotError, match="damaged"):
        read_snapshot(path, namespace=NAMESPACE)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not a snapshot"),
        (b"{}\n", "not a snapshot"),
        (b"zkdns snapshot 2\n" + bytes(64), "not a snapshot of this version"),
        (b"zkdns snapshot 1\n", "damaged"),
    ],
)
def test_a_file_that_is_no_snapshot_is_told_to_be_none(path: Path, content: bytes, complaint: str) -> None:
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=complaint) as caught:
        read_snapshot(path, namespace=NAMESPACE)
    assert str(path) in str(caught.value)


def test_one_of_another_namespace_is_refused_and_both_are_named(path: Path) -> None:
    write_snapshot(path, SMALL)
    with pytest.raises(SnapshotError, match=r"/discovery/\{environment\}.*not of /aurora/\{job\}"):
        read_snapshot(path, namespace="/aurora/{job}")


def test_where_there_is_none_there_is_none(path: Path) -> None:
    assert read_snapshot(path, namespace=NAMESPACE) is None
    assert read_snapshot(path / "deeper", namespace=NAMESPACE) is None


def test_what_cannot_be_read_is_an_error(path: Path) -> None:
    path.mkdir()
    loop = path / "loop"
    loop.symlink_to(loop)
    for unreadable in (path, loop):
        with pytest.raises(SnapshotError, match="cannot be read"):
            read_snapshot(unreadable, namespace=NAMESPACE)


# -- writing -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Files of this process end after a kilobyte; also the one that the tests' own output may go to."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_failure_to_write_leaves_the_old_one_and_nothing_beside_it(path: Path) -> None:
    write_snapshot(path, SMALL)
    large = of_size(1000)
    with full_disk(), pytest.raises(SnapshotError, match="cannot be written"):
        write_snapshot(path, large)
    assert read_snapshot(path, namespace=NAMESPACE) == SMALL
    assert list(path.parent.iterdir()) == [path]


def test_a_directory_in_its_place_is_an_error_and_nothing_is_left_beside_it(path: Path) -> None:
    path.mkdir()
    with pytest.raises(SnapshotError, match="cannot be written"):
        write_snapshot(path, SMALL)
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_directory_is_an_error(path: Path) -> None:
    with pytest.raises(SnapshotError, match="cannot be written: No such file"):
        write_snapshot(path / "table", SMALL)


def test_a_reader_never_sees_a_half_of_one(path: Path) -> None:
    sizes = [1, 500, 20, 3000]
    write_snapshot(path, of_size(sizes[0]))

    def write() -> None:
        for number in range(100):
            write_snapshot(path, of_size(sizes[number % len(sizes)]))

    writer = threading.Thread(target=write)
    seen = set()
    writer.start()
    while writer.is_alive():
        snapshot = read_snapshot(path, namespace=NAMESPACE)
        assert snapshot is not None
        assert len(snapshot.sets[0].members) == snapshot.serial
        seen.add(snapshot.serial)
    writer.join()
    assert seen <= set(sizes)
    assert len(seen) > 1


def test_two_that_write_at_once_do_not_meet(path: Path) -> None:
    """As at a shutdown: the writing that was under way in a thread, and the last one."""
    failures: list[BaseException] = []

    def write(size: int) -> None:
        try:
            for _ in range(50):
                write_snapshot(path, of_size(size))
                read_snapshot(path, namespace=NAMESPACE)
        except SnapshotError as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(size,)) for size in (10, 3000)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208 - names are what matters
