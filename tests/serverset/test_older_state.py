"""An ensemble that has lost its data: its transactions are older than those that its clients have seen."""

from typing import Any

from kazoo.client import KazooClient
from structlog.testing import capture_logs

from tests.serverset.sync_helpers import FollowedTree, join
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns import ServerSet

SESSION_TIMEOUT = 4.0  # the server's minimum
PATH = "/discovery/prod/web"


def make_history(client: Any, count: int = 50) -> None:
    """Make transactions, so that the last one is later than any of the new ensemble."""
    for _ in range(count):
        client.create("/history", b"", sequence=True)


def wipe(server: ZooKeeperServer) -> None:
    """Restart the server without its data."""
    server.kill()
    server.lose_data()
    server.start()


def test_a_tree_a_watch_and_a_registration_return_after_data_loss(own_zookeeper: ZooKeeperServer) -> None:
    admin = KazooClient(own_zookeeper.address)
    admin.start()
    make_history(admin)
    join(admin, PATH, "10.0.0.1")
    admin.stop()
    admin.close()
    web = ServerSet("prod", "web", own_zookeeper.address, session_timeout=SESSION_TIMEOUT)
    with (
        capture_logs() as logs,
        FollowedTree(
            own_zookeeper.address, "/discovery/{environment}/{service}", session_timeout=SESSION_TIMEOUT
        ) as tree,
        web.watch() as watch,
        web.register("10.0.0.2", 80) as registration,
    ):
        tree.wait_live()
        eventually(lambda: watch.endpoints == ("10.0.0.1:80", "10.0.0.2:80"))
        wipe(own_zookeeper)
        eventually(lambda: watch.endpoints == ("10.0.0.2:80",), 40)
        eventually(lambda: tree.is_live and list(tree.contents) == [PATH], 40)
        eventually(lambda: list(tree.contents[PATH].values()) == ["10.0.0.2:80"], 40)
        assert registration.path is not None
    assert "zookeeper_older_state_accepted" in {entry["event"] for entry in logs}
