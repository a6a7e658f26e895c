"""Which ensemble a connection shows: rules, and real servers that lose their data or get an older state."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient

from tests.serverset.sync_helpers import FollowedTree, Locked, join, remake
from tests.serverset.test_older_state import SESSION_TIMEOUT, make_history, wipe
from tests.support.waiting import eventually
from tests.support.zookeeper import Ensemble as ZooKeeperEnsemble
from tests.support.zookeeper import ZooKeeperServer
from zkdns.serverset.changes import SetPut
from zkdns.serverset.ensemble import Ensemble, continues, merge
from zkdns.serverset.sync import SyncState

BEFORE = Ensemble(root_czxid=5, root_ctime=1000, zxid=80)
ROOT = "/discovery"
TEMPLATE = f"{ROOT}/{{environment}}/{{service}}"

Follow = Callable[..., FollowedTree]


# -- rules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (BEFORE, True),
        (Ensemble(5, 1000, 81), True),
        (Ensemble(5, 1000, 79), False),
        (Ensemble(6, 1000, 90), False),
        (Ensemble(5, 1001, 90), False),
        (Ensemble(0, 0, 90), True),
        (Ensemble(0, 0, 79), False),
        (Ensemble(5, 1000, 0), True),
        (Ensemble(6, 1000, 0), False),
        (Ensemble(), True),
    ],
)
def test_an_ensemble_continues_with_the_same_root_and_later_transactions(
    now: Ensemble, expected: bool
) -> None:
    assert continues(BEFORE, now) is expected


@pytest.mark.parametrize("now", [BEFORE, Ensemble(6, 7, 1), Ensemble()])
def test_an_unknown_ensemble_is_continued_by_any(now: Ensemble) -> None:
    assert continues(Ensemble(), now)


def test_unknown_values_are_kept_from_before() -> None:
    assert merge(None, BEFORE) == BEFORE
    assert merge(BEFORE, Ensemble(zxid=90)) == Ensemble(5, 1000, 90)
    assert merge(BEFORE, Ensemble(6, 1001)) == Ensemble(6, 1001, 80)
    assert merge(BEFORE, Ensemble(6, 1001, 3)) == Ensemble(6, 1001, 3)


# -- a server that others use as well ----------------------------------------------------------------------


@pytest.fixture(params=["recursive", "one-shot"])
def is_recursive(request: pytest.FixtureRequest) -> bool:
    """Every test with a server runs with both strategies."""
    return bool(request.param == "recursive")


@pytest.fixture
def follow(zookeeper: ZooKeeperServer, zk_root: str, is_recursive: bool) -> Follow:
    """Makes a FollowedTree below the test's root."""

    def make(**options: Any) -> FollowedTree:
        template = f"{zk_root}/{{environment}}/{{service}}"
        return FollowedTree(
            zookeeper.address, template, recursive=is_recursive, retry_seconds=0.05, **options
        )

    return make


def root_of(client: Any, path: str) -> tuple[int, int]:
    stat = client.get(path)[1]
    return stat.czxid, stat.ctime


def known_root(tree: FollowedTree) -> tuple[int, int]:
    """The root that the tree has read last."""
    ensemble = tree.read(lambda: tree.ensemble)
    return (ensemble.root_czxid, ensemble.root_ctime) if ensemble else (0, 0)


def test_each_connection_shows_root_and_transaction_before_its_changes(
    zk: Any, zk_root: str, follow: Follow
) -> None:
    join(zk, f"{zk_root}/staging/web")
    latest = zk.last_zxid
    with follow() as tree:
        tree.wait_live()
        (first,) = tree.ensembles
        assert (first.shown.root_czxid, first.shown.root_ctime) == root_of(zk, zk_root)
        assert first.shown.zxid >= latest
        (put,) = (change for change in tree.changes if isinstance(change, SetPut))
        assert tree.log.index(first) < tree.log.index(put)
        tree.restart()
        eventually(lambda: len(tree.ensembles) == 2)
        assert tree.ensembles[1].is_same


def test_the_latest_transaction_is_updated_while_connected(zk: Any, zk_root: str, follow: Follow) -> None:
    join(zk, f"{zk_root}/staging/web")
    with follow() as tree:
        tree.wait_live()
        zk.create(f"{zk_root}-elsewhere", b"", ephemeral=True)  # below another root, so without an event
        latest = zk.last_zxid
        eventually(lambda: tree.read(lambda: (tree.ensemble or Ensemble()).zxid) >= latest)
        assert len(tree.ensembles) == 1


def test_a_missing_root_is_unknown_until_it_is_created(zk: Any, zk_root: str, follow: Follow) -> None:
    with follow() as tree:
        tree.wait_live()
        (missing,) = tree.ensembles
        assert missing.shown.root_czxid == missing.shown.root_ctime == 0 < missing.shown.zxid
        join(zk, f"{zk_root}/staging/web")
        eventually(lambda: tree.changes)
        created = tree.ensembles[-1]
        assert (created.shown.root_czxid, created.shown.root_ctime) == root_of(zk, zk_root)
        assert tree.log.index(created) < tree.log.index(tree.changes[0])


def test_a_root_that_may_not_be_read_is_unknown_until_it_may(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, follow: Follow
) -> None:
    join(zk, f"{zk_root}/staging/web")
    with follow(start=False) as tree:
        with Locked(zookeeper.address, zk_root):
            tree.client.start_async()
            (denied,) = eventually(lambda: tree.ensembles)
            assert denied.shown.root_czxid == 0 < denied.shown.zxid
        eventually(lambda: len(tree.ensembles) > 1)
        assert [(one.shown.root_czxid, one.shown.root_ctime) for one in tree.ensembles] == [
            (0, 0),
            root_of(zk, zk_root),
        ]


def test_a_root_created_again_while_connected_is_known_at_the_next_connection(
    zk: Any, zk_root: str, follow: Follow
) -> None:
    join(zk, f"{zk_root}/staging/web")
    with follow() as tree:
        tree.wait_live()
        remake(zk, zk_root)
        join(zk, f"{zk_root}/staging/web")
        eventually(lambda: known_root(tree) == root_of(zk, zk_root))
        tree.restart()
        eventually(lambda: len(tree.ensembles) == 2)
        assert tree.ensembles[1].is_same


def test_a_root_created_again_while_disconnected_is_another_one(
    zk: Any, zk_root: str, follow: Follow
) -> None:
    join(zk, f"{zk_root}/staging/web")
    with follow() as tree:
        tree.wait_live()
        with tree.away():
            remake(zk, zk_root)
        eventually(lambda: len(tree.ensembles) == 2)
        assert not tree.ensembles[1].is_same


# -- a server of its own -----------------------------------------------------------------------------------


def write(server: ZooKeeperServer, host: str) -> None:
    """Make transactions, and a member."""
    client = KazooClient(server.address)
    client.start()
    make_history(client)
    join(client, f"{ROOT}/prod/web", host)
    client.stop()
    client.close()


def follow_own(server: ZooKeeperServer, *, is_recursive: bool) -> FollowedTree:
    return FollowedTree(server.address, TEMPLATE, session_timeout=SESSION_TIMEOUT, recursive=is_recursive)


def wait_for_another(tree: FollowedTree) -> None:
    """Wait for the next connection, and check that it shows another ensemble before any change."""
    eventually(lambda: len(tree.ensembles) == 2, 40)
    assert not tree.ensembles[1].is_same


def test_an_ensemble_without_its_data_is_another_one(
    own_zookeeper: ZooKeeperServer, is_recursive: bool
) -> None:
    write(own_zookeeper, "10.0.0.1")
    with follow_own(own_zookeeper, is_recursive=is_recursive) as tree:
        tree.wait_live()
        wipe(own_zookeeper)
        wait_for_another(tree)
        assert tree.ensembles[1].shown.zxid < tree.ensembles[0].shown.zxid


def test_an_ensemble_without_its_data_is_another_one_even_with_later_transactions(
    own_zookeeper: ZooKeeperServer, is_recursive: bool
) -> None:
    write(own_zookeeper, "10.0.0.1")
    with follow_own(own_zookeeper, is_recursive=is_recursive) as tree:
        tree.wait_live()
        with tree.away():
            wipe(own_zookeeper)
            for _ in range(2):
                write(own_zookeeper, "10.0.0.2")
        wait_for_another(tree)
        first, second = (one.shown for one in tree.ensembles)
        assert second.zxid > first.zxid
        assert second.root_ctime != first.root_ctime  # the czxid is equal


def test_an_ensemble_with_an_older_state_is_another_one(
    own_zookeeper: ZooKeeperServer, is_recursive: bool, tmp_path: Path
) -> None:
    write(own_zookeeper, "10.0.0.1")
    own_zookeeper.kill()
    data = own_zookeeper.directory / "data"
    shutil.copytree(data, tmp_path / "backup")
    own_zookeeper.start()
    with follow_own(own_zookeeper, is_recursive=is_recursive) as tree:
        tree.wait_live()
        write(own_zookeeper, "10.0.0.2")
        eventually(lambda: len(tree.contents[f"{ROOT}/prod/web"]) == 2)
        changes = len(tree.changes)
        # The heartbeat shows all transactions.
        eventually(lambda: tree.read(lambda: (tree.ensemble or Ensemble()).zxid) > 100)
        own_zookeeper.kill()
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "backup", data)
        own_zookeeper.start()
        wait_for_another(tree)
        first, second = (one.shown for one in tree.ensembles)
        assert (first.root_czxid, first.root_ctime) == (second.root_czxid, second.root_ctime)
        eventually(lambda: len(tree.changes) > changes)
        assert tree.log.index(tree.ensembles[1]) < tree.log.index(tree.changes[changes])


def test_a_server_without_a_quorum_shows_no_transaction() -> None:
    """It may lag behind the others, so a lower number is no evidence."""
    settings = {"localSessionsEnabled": "true", "localSessionsUpgradingEnabled": "true"}
    with ZooKeeperEnsemble(settings=settings, jvm_flags=("-Dreadonlymode.enabled=true",)) as ensemble:
        *others, last = ensemble.members
        write(last, "10.0.0.1")
        for member in others:
            member.kill()
        with FollowedTree(last.address, TEMPLATE, session_timeout=SESSION_TIMEOUT, read_only=True) as tree:
            eventually(lambda: tree.state is SyncState.READ_ONLY, 60)
            readonly = tree.ensembles[-1]  # before it, the server may have been a follower
            assert readonly.shown.root_czxid
            assert readonly.shown.zxid == 0
            for member in others:
                member.start()
            eventually(lambda: tree.is_live, 60)
            assert tree.ensembles[-1].is_same
            assert tree.ensembles[-1].shown.zxid
