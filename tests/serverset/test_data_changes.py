"""Member data that is changed in place, or under the same name: the table has what ZooKeeper has.

The writers of server sets never change a member's data, but operators do, for instance with zkCli.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.serverset.sync_helpers import FollowedTree, data, join, join_many
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns.namespace import ServiceName
from zkdns.serverset.sync.audit import MAX_READS_PER_SECOND, Audit
from zkdns.serverset.sync.tree import Directory, SetNode

TEMPLATE = "/{environment}/{service}"

Follow = Callable[..., FollowedTree]


@pytest.fixture(params=["recursive", "one-shot", "one-shot through kazoo's API"])
def follow(
    zookeeper: ZooKeeperServer, zk_root: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Follow:
    """Makes a FollowedTree below the test's root, with each way of watching."""
    if request.param.endswith("API"):
        for module in ("one_shot", "tree_sync"):
            monkeypatch.setattr(f"zkdns.serverset.sync.{module}.incompatibility", lambda: "changed")

    def make(**options: Any) -> FollowedTree:
        is_recursive = request.param == "recursive"
        return FollowedTree(zookeeper.address, f"{zk_root}{TEMPLATE}", recursive=is_recursive, **options)

    return make


def replace(zk: Any, path: str, body: bytes) -> None:
    """Delete a member and create it again under the same name, in one transaction."""
    change = zk.transaction()
    change.delete(path)
    change.create(path, body)
    assert [result for result in change.commit() if isinstance(result, Exception)] == []


def test_data_changed_in_place_is_read_again(zk: Any, zk_root: str, follow: Follow) -> None:
    web = f"{zk_root}/staging/web"
    paths = [join(zk, web, f"10.0.0.{n}") for n in range(3)]
    with follow() as tree:
        tree.wait_live()
        for turn in range(3):  # a one-shot watch has to be set again
            zk.set(paths[0], data(f"10.1.{turn}.0"))
            tree.wait_equal(zk)
        zk.set(paths[1], b"garbage")
        eventually(lambda: len(tree.contents[web]) == 2)
        zk.set(paths[1], data("10.2.0.0"))
        tree.wait_equal(zk)


def test_data_changed_while_disconnected_is_read_again(zk: Any, zk_root: str, follow: Follow) -> None:
    paths = [join(zk, f"{zk_root}/staging/web", f"10.0.0.{n}") for n in range(3)]
    with follow() as tree:
        tree.wait_live()
        for turn in range(2):
            with tree.away():
                zk.set(paths[0], data(f"10.1.{turn}.0"))
                replace(zk, paths[1], data(f"10.2.{turn}.0"))
            tree.wait_live().wait_equal(zk)
        assert tree.sync.repairs == 0


def test_members_replaced_under_the_same_name_are_read_again(zk: Any, zk_root: str, follow: Follow) -> None:
    path = join(zk, f"{zk_root}/staging/web")
    with follow() as tree:
        tree.wait_live()
        for turn in range(20):
            replace(zk, path, data(f"10.1.{turn}.0"))
            tree.wait_equal(zk)


def test_unchanged_data_is_not_published_again_after_a_reconnect(
    zk: Any, zk_root: str, follow: Follow
) -> None:
    path = join_many(zk, f"{zk_root}/staging/web", 20)[0]
    with follow() as tree:
        tree.wait_live()
        before = len(tree.changes)
        with tree.away():
            zk.set(path, data("10.9.9.9"))
        tree.wait_live().wait_equal(zk)
        (change,) = tree.changes[before:]
        assert len(getattr(change, "added", ())) == 1


def nodes(*sizes: int) -> list[SetNode]:
    """Sets with that many members each, which were read."""
    root = Directory("/discovery", (), None)
    made = []
    for number, size in enumerate(sizes):
        node = SetNode(f"/discovery/s{number}", (f"s{number}",), root, ServiceName(f"s{number}", "prod"))
        node.data_hashes = dict.fromkeys(map(str, range(size)), 0)
        made.append(node)
    return made


def test_an_audit_spreads_its_work_over_its_period() -> None:
    audit, sets = Audit(300.0), nodes(*[10] * 600)
    assert audit.round_seconds == 1.0
    audit.begin(sets)
    for node in sets:
        audit.add(node)
    listed, read = zip(*(map(len, audit.next_round()) for _ in range(300)), strict=True)
    assert set(listed) == set(read) == {2}
    assert audit.is_beginning()


def test_an_audit_reads_data_at_a_limited_rate() -> None:
    audit, sets = Audit(10.0), nodes(*[10] * 1000, 5000)
    seen: list[SetNode] = []
    for second in range(1, 400):
        if audit.is_beginning():
            audit.begin(sets if not seen else [])
        seen += audit.next_round()[1]
        members = sum(len(node.data_hashes) for node in seen)
        assert members <= MAX_READS_PER_SECOND * second + 5000 * (sets[-1] in seen)
    assert seen == sets
