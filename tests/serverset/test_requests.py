"""The number of requests: all reads that are known together go into few requests."""

import re
import time

from tests.serverset.sync_helpers import FollowedTree, data, delete_at_once, join_many
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import client_of

ROOT = "/discovery"
TEMPLATE = f"{ROOT}/{{environment}}/{{service}}"
WEB = f"{ROOT}/staging/web"
COUNT = 1000
FEW = 50
"""Measured: 3 to 9 requests. A busy machine receives the events in more parts, each with one request."""


class Requests:
    """The requests of a tree since the beginning of its session, as its server counts them."""

    def __init__(self, server: ZooKeeperServer, tree: FollowedTree) -> None:
        self._server = server
        self._tree = tree
        self._began_at = time.monotonic()
        self._before = 0

    def count(self) -> int:
        """The number since the last call, without one `sync` per second."""
        session = f"sid={self._tree.client.client_id[0]:#x}"
        (line,) = (line for line in self._server.four_letter("cons").splitlines() if session in line)
        found = re.search(r"recved=(\d+)", line)
        assert found
        now, before, began_at = time.monotonic(), self._before, self._began_at
        self._before, self._began_at = int(found[1]), now
        return self._before - before - int(now - began_at)


def test_a_start_reads_each_level_together(own_zookeeper: ZooKeeperServer) -> None:
    with client_of(own_zookeeper.address) as client:
        for environment in range(5):
            for service in range(20):
                join_many(client, f"{ROOT}/e{environment}/s{service}", 10)
    with FollowedTree(own_zookeeper.address, TEMPLATE) as tree:
        requests = Requests(own_zookeeper, tree)
        tree.wait_live()
        assert sum(map(len, tree.contents.values())) == COUNT
        assert requests.count() < FEW


def test_members_of_one_transaction_are_read_together(own_zookeeper: ZooKeeperServer) -> None:
    with client_of(own_zookeeper.address) as client, FollowedTree(own_zookeeper.address, TEMPLATE) as tree:
        client.ensure_path(WEB)
        tree.wait_live()
        requests = Requests(own_zookeeper, tree)
        requests.count()
        transaction = client.transaction()
        for number in range(COUNT):
            transaction.create(f"{WEB}/member_{number:010d}", data(f"10.0.{number // 250}.{number % 250}"))
        transaction.commit()
        eventually(lambda: len(tree.contents.get(WEB, ())) == COUNT)
        tree.wait_zxid(client)
        assert requests.count() < FEW
        delete_at_once(client, WEB)
        eventually(lambda: WEB not in tree.contents)
        tree.wait_zxid(client)
        assert requests.count() < FEW


def test_an_audit_reads_the_sets_of_a_round_together(own_zookeeper: ZooKeeperServer) -> None:
    with client_of(own_zookeeper.address) as client:
        for service in range(100):
            join_many(client, f"{ROOT}/staging/s{service}", 2)
    with FollowedTree(own_zookeeper.address, TEMPLATE, audit_seconds=1.0) as tree:
        tree.wait_live()
        requests = Requests(own_zookeeper, tree)
        requests.count()
        last = tree.listed.total()
        eventually(lambda: tree.listed.total() - last >= 3 * 100)
        assert requests.count() < FEW
