"""Following a part of a namespace: `only`."""

from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.serverset.sync_helpers import FollowedTree, data, delete_at_once, join, remake
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

Follow = Callable[..., FollowedTree]


@pytest.fixture(params=["recursive", "one-shot"])
def follow(request: pytest.FixtureRequest, zookeeper: ZooKeeperServer, zk_root: str) -> Follow:
    """Follow the services below the test's root that match one of the patterns."""

    def make(*only: str, audit_seconds: float = 300.0) -> FollowedTree:
        return FollowedTree(
            zookeeper.address,
            f"{zk_root}/{{environment}}/{{service}}",
            recursive=request.param == "recursive",
            only=only,
            audit_seconds=audit_seconds,
        )

    return make


def test_only_matching_services_are_followed(follow: Follow, zk: Any, zk_root: str) -> None:
    for path in ("prod/web", "prod/api", "staging/web", "staging/api", "test/web"):
        join(zk, f"{zk_root}/{path}")
    with follow("*.prod", "web.staging") as tree:
        tree.wait_live()
        followed = {f"{zk_root}/{path}" for path in ("prod/web", "prod/api", "staging/web")}
        assert tree.contents.keys() == followed
        assert tree.listed.keys() == {zk_root, f"{zk_root}/prod", f"{zk_root}/staging", *followed}
        join(zk, f"{zk_root}/staging/db")
        join(zk, f"{zk_root}/test/db")
        join(zk, f"{zk_root}/prod/db")
        join(zk, f"{zk_root}/staging/web", "10.0.0.2")
        eventually(lambda: tree.contents.keys() == followed | {f"{zk_root}/prod/db"})
        eventually(lambda: len(tree.contents[f"{zk_root}/staging/web"]) == 2)
        assert f"{zk_root}/test" not in tree.listed


@pytest.mark.parametrize("only", ["web.staging", "*.staging", "w*.staging", "web.*", "*.st*", "*.*"])
def test_a_matching_service_may_be_created_and_deleted_at_each_level(
    follow: Follow, zk: Any, zk_root: str, only: str
) -> None:
    web = f"{zk_root}/staging/web"
    with follow(only) as tree:
        tree.wait_live()
        assert tree.contents == {}
        for path in (web, f"{zk_root}/staging", zk_root):
            member = join(zk, web)
            eventually(lambda: len(tree.contents.get(web, ())) == 1)
            zk.set(member, data("10.0.0.2"))
            eventually(lambda: list(tree.contents[web].values()) == ["10.0.0.2:80"])
            delete_at_once(zk, path)
            eventually(lambda: web not in tree.contents)
        join(zk, web)
        eventually(lambda: len(tree.contents.get(web, ())) == 1)
        for path in (web, f"{zk_root}/staging", zk_root):
            remake(zk, path)
            eventually(lambda: not tree.contents.get(web))
            join(zk, web)
            eventually(lambda: len(tree.contents.get(web, ())) == 1)


@pytest.mark.parametrize(
    ("only", "watched"),
    [
        (("web.staging", "api.prod"), 2),
        (("*.prod", "web.prod", "api.*"), 1),
        (("web.prod", "*.prod"), 1),
    ],
)
def test_watches_are_as_narrow_as_the_patterns(
    own_zookeeper: ZooKeeperServer, only: tuple[str, ...], watched: int
) -> None:
    template = "/discovery/{environment}/{service}"
    with FollowedTree(own_zookeeper.address, template, only=only) as tree:
        tree.wait_live()
        assert own_zookeeper.count_watches() == watched
        roots = (
            {"/discovery/staging/web", "/discovery/prod/api"}
            if watched == 2
            else {"/discovery", "/discovery/prod"}
        )
        lines = own_zookeeper.four_letter("wchp").splitlines()
        assert {line for line in lines if line.startswith("/")} <= roots


def test_an_audit_finds_unwatched_changes_without_counting_a_repair(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    web = f"{zk_root}/staging/web"
    join(zk, web)
    template = f"{zk_root}/{{environment}}/{{service}}"
    with (
        capture_logs() as logs,
        FollowedTree(zookeeper.address, template, only=("web.staging",), audit_seconds=0.2) as tree,
    ):
        tree.wait_live()
        delete_at_once(zk, f"{zk_root}/staging")
        eventually(lambda: not tree.contents)
        eventually(lambda: not tree.read(lambda: list(tree.sync.empty_directories())))
        assert tree.read(lambda: tree.sync.repairs) == 0
    assert not [entry for entry in logs if entry["event"] == "missed_changes_repaired"]


def test_events_of_services_that_do_not_match_cause_no_requests(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    template = f"{zk_root}/{{environment}}/{{service}}"
    join(zk, f"{zk_root}/prod/web-1")
    with FollowedTree(zookeeper.address, template, only=("web-*.prod",)) as tree:
        tree.wait_live()
        before = tree.listed.copy()
        for _ in range(5):
            join(zk, f"{zk_root}/prod/api")
            join(zk, f"{zk_root}/test/web-1")
        join(zk, f"{zk_root}/prod/web-2")
        eventually(lambda: f"{zk_root}/prod/web-2" in tree.contents)
        assert tree.listed - before == {f"{zk_root}/prod/web-2": 1}
