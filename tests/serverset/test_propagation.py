"""The time from the writing of a member to its publication."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.serverset.sync_helpers import FollowedTree, data, join
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns.serverset.propagation import BUCKETS, Propagation

LATER = 1_000_000.0  # seconds by which a clock is ahead
TEMPLATE = "/{environment}/{service}"


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(-5.0, 0), (0.0, 0), (0.001, 0), (0.0011, 1), (60.0, len(BUCKETS) - 1), (61.0, len(BUCKETS))],
)
def test_a_time_is_in_the_first_bucket_that_is_not_lower(seconds: float, bucket: int) -> None:
    propagation = Propagation()
    propagation.add(seconds)
    assert propagation.counts == [int(number == bucket) for number in range(len(BUCKETS) + 1)]
    assert propagation.seconds == max(seconds, 0.0)


@pytest.mark.parametrize("recursive", [True, False])
def test_members_that_are_written_while_it_follows_are_counted(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, recursive: bool
) -> None:
    """Not those of the first read, whose times say when they were registered."""
    path = f"{zk_root}/staging/web"
    first = join(zk, path, "10.0.0.1")
    ahead = FollowedTree(
        zookeeper.address, f"{zk_root}{TEMPLATE}", recursive=recursive, wall_clock=lambda: time.time() + LATER
    )
    with ahead as tree:
        tree.wait_live()
        tree.wait_equal(zk)
        assert sum(tree.read(lambda: tree.sync.propagation.counts)) == 0
        join(zk, path, "10.0.0.2")
        eventually(lambda: sum(tree.read(lambda: tree.sync.propagation.counts)) == 1)
        zk.set(first, data("10.0.0.3", 80))
        eventually(lambda: sum(tree.read(lambda: tree.sync.propagation.counts)) == 2)
        zk.delete(first)
        tree.wait_equal(zk)
        counts, seconds = tree.read(
            lambda: (list(tree.sync.propagation.counts), tree.sync.propagation.seconds)
        )
    assert counts == [*[0] * len(BUCKETS), 2]
    assert abs(seconds - 2 * LATER) < 1000


def test_a_clock_that_is_behind_counts_as_no_time(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> None:
    path = f"{zk_root}/staging/web"
    join(zk, path, "10.0.0.1")
    with FollowedTree(zookeeper.address, f"{zk_root}{TEMPLATE}", wall_clock=lambda: 1.0) as tree:
        tree.wait_live()
        join(zk, path, "10.0.0.2")
        eventually(lambda: tree.read(lambda: tree.sync.propagation.counts[0]) == 1)
        assert tree.read(lambda: tree.sync.propagation.seconds) == 0.0
