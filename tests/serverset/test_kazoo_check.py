"""The test of kazoo's private parts, and the fallback to one-shot watches if one of them has changed."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.serverset.conftest import sockets
from tests.serverset.kazoo_internals import CHANGES
from tests.serverset.sync_helpers import FollowedTree, data, join
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns.serverset.kazoo_check import incompatibility
from zkdns.serverset.sync.one_shot import OneShotStrategy

Change = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def _without_cache() -> Iterator[None]:
    """Test kazoo again in each test, and after the test without its changes."""
    incompatibility.cache_clear()
    yield
    incompatibility.cache_clear()


@pytest.mark.usefixtures("leaves_nothing")
def test_the_installed_kazoo_is_compatible() -> None:
    assert incompatibility() is None


def test_the_version_alone_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kazoo.version.__version__", "2.99.0")
    assert incompatibility() is None


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_part_is_found(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kazoo.version.__version__", "2.99.0")
    before = sockets()
    with capture_logs() as logs:
        change(monkeypatch)
        reason = incompatibility()
    monkeypatch.undo()
    assert str(reason).startswith("kazoo 2.99.0 differs from the kazoo that zkdns knows: ")
    assert logs == []
    eventually(lambda: sockets() <= before)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_part_leads_to_one_shot_watches(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tree follows a real ZooKeeper as before, and one log event reports the reason."""
    web = f"{zk_root}/staging/web"
    path = join(zk, web)
    change(monkeypatch)
    with (
        capture_logs() as logs,
        FollowedTree(zookeeper.address, f"{zk_root}/{{environment}}/{{service}}") as tree,
    ):
        tree.wait_live().wait_equal(zk)
        zk.set(path, data("10.0.0.2"))
        tree.wait_equal(zk)
        join(zk, f"{zk_root}/prod/api")
        zk.delete(path)
        tree.wait_equal(zk)
        tree.restart()
        join(zk, web, "10.0.0.3")
        tree.wait_equal(zk)
    (started,) = [entry for entry in logs if entry["event"] == "zookeeper_watch_started"]
    assert started["strategy"] == OneShotStrategy.name
    (problem,) = [entry for entry in logs if entry["log_level"] in {"warning", "error"}]
    assert problem["event"] == "recursive_watch_refused"
    assert "differs from the kazoo that zkdns knows" in problem["reason"]
