"""addWatch and multiRead against a real ZooKeeper, compared with kazoo's public API."""

import queue
import struct
import threading
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoAuthError, NoNodeError

from tests.serverset.sync_helpers import Locked
from tests.support.zookeeper import ZooKeeperServer
from zkdns.serverset.client import make_client
from zkdns.serverset.kazoo_ext import (
    CHANGED,
    CREATED,
    DELETED,
    GET_CHILDREN,
    GET_DATA,
    AddWatch,
    MultiRead,
    Result,
    Znode,
    intercept_events,
    send_request,
)

TIMEOUT = 10.0


def answer(client: KazooClient, request: AddWatch | MultiRead) -> list[Result]:
    """Send a request and wait for the response."""
    answers: queue.SimpleQueue[tuple[list[Result], BaseException | None]] = queue.SimpleQueue()
    send_request(client, request, lambda results, error: answers.put((results, error)))
    results, error = answers.get(timeout=TIMEOUT)
    if error is not None:
        raise error
    return results


def test_a_multi_read_returns_what_single_reads_do(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> None:
    contents = {"a": b"data", "b": b"", "größe": b"\xff\x00", "large": b"x" * 900_000}
    for name, data in contents.items():
        zk.create(f"{zk_root}/{name}", data, makepath=True)
    zk.create(f"{zk_root}/secret")
    reads = [(GET_DATA, f"{zk_root}/{name}") for name in contents]
    reads += [(GET_CHILDREN, zk_root), (GET_CHILDREN, f"{zk_root}/a")]
    reads += [(operation, f"{zk_root}/none") for operation in (GET_DATA, GET_CHILDREN)]
    reads += [(operation, f"{zk_root}/secret") for operation in (GET_DATA, GET_CHILDREN)]
    with Locked(zookeeper.address, f"{zk_root}/secret"):
        *found, children, nothing, absent, no_children, secret, hidden = answer(zk, MultiRead(reads))
    stats = [zk.exists(f"{zk_root}/{name}") for name in contents]
    assert found == [
        Znode(data, stat.czxid, stat.mzxid, stat.ctime, stat.mtime, stat.pzxid)
        for data, stat in zip(contents.values(), stats, strict=True)
    ]
    assert isinstance(children, list)
    assert sorted(children) == sorted([*contents, "secret"])
    assert nothing == []
    assert (type(absent), type(no_children)) == (NoNodeError, NoNodeError)
    assert (type(secret), type(hidden)) == (NoAuthError, NoAuthError)


def test_an_empty_multi_read_returns_nothing(zk: Any) -> None:
    assert answer(zk, MultiRead([])) == []


def test_an_error_code_unknown_to_kazoo_concerns_one_read() -> None:
    item = struct.pack("!i?ii", -1, False, -999, -999)  # MultiHeader of an error, and ErrorResult
    (result,) = MultiRead([(GET_DATA, "/a")]).deserialize(item, 0)
    assert isinstance(result, KazooException)
    assert "-999" in str(result)


@pytest.mark.parametrize("chroot", ["", "/below"])
def test_a_recursive_watch_reports_every_change_in_order(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, chroot: str
) -> None:
    top = f"{zk_root}{chroot}"
    events: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    client = make_client(f"{zookeeper.address}{top if chroot else ''}")
    intercept_events(client, lambda kind, path: events.put((kind, path)))
    client.start_async().wait(TIMEOUT)
    try:
        seen = "" if chroot else top
        assert answer(client, AddWatch(top)) == []  # which need not exist yet
        zk.ensure_path(f"{top}/a/b")
        zk.set(f"{top}/a/b", b"data")
        zk.delete(f"{top}/a", recursive=True)
        expected = [
            *((CREATED, f"{seen}{path}") for path in ("", "/a", "/a/b")),
            (CHANGED, f"{seen}/a/b"),
            *((DELETED, f"{seen}{path}") for path in ("/a/b", "/a")),
        ]
        received = [events.get(timeout=TIMEOUT) for _ in expected]
        assert [(kind, path.rstrip("/")) for kind, path in received] == expected
    finally:
        client.stop()
        client.close()


def test_kazoos_own_watches_still_work(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> None:
    zk.ensure_path(zk_root)
    client = make_client(zookeeper.address)
    intercept_events(client, lambda kind, path: None)  # noqa: ARG005 - the event is not used
    client.start()
    try:
        fired = threading.Event()
        client.get_children(zk_root, watch=lambda _: fired.set())
        zk.create(f"{zk_root}/a")
        assert fired.wait(TIMEOUT)
    finally:
        client.stop()
        client.close()
