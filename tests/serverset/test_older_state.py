"""An ensemble that has lost its data: its transactions are older than those that its clients have seen."""

import socket
import struct
import time
from typing import Any

from kazoo.client import KazooClient
from structlog.testing import capture_logs

from tests.serverset.sync_helpers import FollowedTree, join
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns import ServerSet
from zkdns.serverset.client import make_client

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
    accepted = [entry for entry in logs if entry["event"] == "zookeeper_older_state_accepted"]
    assert len(accepted) == 2  # of the tree, and of the session of watch and registration
    assert all(int(entry["now"], 16) < int(entry["last"], 16) for entry in accepted)


def test_an_outage_without_data_loss_is_no_older_state(own_zookeeper: ZooKeeperServer) -> None:
    admin = KazooClient(own_zookeeper.address)
    admin.start()
    join(admin, PATH, "10.0.0.1")
    admin.stop()
    admin.close()
    with (
        capture_logs() as logs,
        FollowedTree(
            own_zookeeper.address, "/discovery/{environment}/{service}", session_timeout=SESSION_TIMEOUT
        ) as tree,
    ):
        tree.wait_live()
        seen = tree.client.last_zxid
        own_zookeeper.kill()
        eventually(lambda: not tree.is_live)
        time.sleep(SESSION_TIMEOUT + 0.5)  # of the client's own clock
        own_zookeeper.start()
        eventually(lambda: tree.is_live and tree.client.last_zxid >= seen, 40)
    assert "zookeeper_older_state_accepted" not in {entry["event"] for entry in logs}


def test_the_last_transaction_is_sent_until_a_server_refuses_the_client() -> None:
    """The first server to return gets it, however long the outage was."""
    session_timeout = 0.2
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        client = make_client(f"127.0.0.1:{server.getsockname()[1]}", session_timeout=session_timeout)
        client.last_zxid = 7
        client.start_async()
        try:
            time.sleep(2 * session_timeout)  # connections are refused, since nothing listens
            server.listen()
            server.settimeout(10)
            assert [_refuse(server), _refuse(server)] == [7, 0]
        finally:
            client.stop()
            client.close()


def _refuse(server: socket.socket) -> int:
    """Close the next connection after its handshake. Returns the transaction in the handshake."""
    connection, _ = server.accept()
    with connection:
        request = connection.recv(1024)
    return int(struct.unpack_from("!iiq", request)[2])  # length, protocol version, last transaction
