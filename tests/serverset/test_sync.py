"""TreeSync against a real ZooKeeper: its table equals the contents that another client reads."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.serverset.session_internals import data_callbacks
from tests.serverset.sync_helpers import (
    FollowedTree,
    Locked,
    RandomActions,
    complaints,
    contents_of,
    data,
    in_zookeeper,
    join,
    join_many,
    leave_many,
    others_in_zookeeper,
    remake,
)
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import DirectoryUnread, SetDropped, SetPut, SetUnread
from zkdns.serverset.sync import SyncState
from zkdns.table import Table

TEMPLATE = "/{environment}/{service}"
GOOD = data("10.9.9.9", 99)

Follow = Callable[..., FollowedTree]


@pytest.fixture(params=["recursive", "one-shot"])
def is_recursive(request: pytest.FixtureRequest) -> bool:
    """Every test runs with both strategies."""
    return bool(request.param == "recursive")


@pytest.fixture
def follow(zookeeper: ZooKeeperServer, zk_root: str, is_recursive: bool) -> Follow:
    """Makes a FollowedTree of a template below the test's root, with a short retry interval."""

    def make(template: str = TEMPLATE, *, start: bool = True, member_prefix: str = "member_") -> FollowedTree:
        return FollowedTree(
            zookeeper.address,
            f"{zk_root}{template}",
            start=start,
            member_prefix=member_prefix,
            recursive=is_recursive,
            retry_seconds=0.05,
        )

    return make


# -- roots -------------------------------------------------------------------------------------------------


def test_the_root_may_appear_later_and_be_deleted_and_created_again(
    zk: Any, zk_root: str, follow: Follow
) -> None:
    with follow() as tree:
        tree.wait_live()
        assert tree.contents == {}
        for host in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
            join(zk, f"{zk_root}/staging/web", host)
            eventually(
                lambda: tree.contents == {f"{zk_root}/staging/web": {"member_0000000000": f"{host}:80"}}  # noqa: B023 - called at once
            )
            zk.delete(zk_root, recursive=True)
            eventually(lambda: tree.contents == {})
        assert tree.states == [SyncState.LIVE]


def test_a_root_created_again_at_once_is_read_again(zk: Any, zk_root: str, follow: Follow) -> None:
    join(zk, f"{zk_root}/staging/web", "10.0.0.1")
    with follow() as tree:
        tree.wait_live()
        for number in range(20):
            remake(zk, zk_root)
            join(zk, f"{zk_root}/staging/web", f"10.0.1.{number}")
            tree.wait_equal(zk)


def test_zookeepers_root_may_be_the_root_without_its_own_znode(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    join(zk, f"{zk_root}/web")
    with FollowedTree(zookeeper.address, "/{environment}/{service}") as tree:
        tree.wait_live()
        assert f"{zk_root}/web" in tree.contents
        tree.wait_equal(zk)
        assert not [path for path in tree.contents if path.startswith("/zookeeper")]


def test_below_a_chroot_a_service_may_be_named_zookeeper(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    join(zk, f"{zk_root}/zookeeper")
    with FollowedTree(f"{zookeeper.address}{zk_root}", "/{service}") as tree:
        tree.wait_live()
        assert tree.contents == {"/zookeeper": {"member_0000000000": "10.0.0.1:80"}}


@pytest.mark.parametrize("template", ["/{service}", "/discovery/{service}"])
def test_a_missing_chroot_is_waited_for(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, template: str
) -> None:
    path = template.replace("{service}", "web")
    with FollowedTree(f"{zookeeper.address}{zk_root}/later", template) as tree:
        tree.wait_live()
        assert tree.contents == {}
        for _ in range(2):
            join(zk, f"{zk_root}/later{path}")
            eventually(lambda: tree.contents == {path: {"member_0000000000": "10.0.0.1:80"}})
            zk.delete(zk_root, recursive=True)
            eventually(lambda: tree.contents == {})


# -- templates and names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "followed", "ignored", "name"),
    [
        ("/{service}", "web", "web/deeper", "web"),
        ("/{env}/{service}", "prod/web", "prod/web/deeper", "web.prod"),
        ("/{role}/{environment}/{job}", "www/prod/web", "www/prod/web/deeper", "web.prod.www"),
        ("/{service}/{env}", "web/prod", "web/prod/deeper", "web.prod"),
        ("/{env}/services/{service}", "prod/services/web", "prod/configs/web", "web.prod"),
        ("/{env}/a/b/{service}", "prod/a/b/web", "prod/a/web", "web.prod"),
    ],
)
def test_templates_lead_to_sets(  # noqa: PLR0917 - pytest passes all by name
    zk: Any, zk_root: str, follow: Follow, template: str, followed: str, ignored: str, name: str
) -> None:
    with follow(template) as tree:
        tree.wait_live()
        join(zk, f"{zk_root}/{ignored}")
        join(zk, f"{zk_root}/{followed}", "10.0.0.2")
        eventually(lambda: any(tree.contents.values()))
        assert [(path, *hosts.values()) for path, hosts in tree.contents.items()] == [
            (f"{zk_root}/{followed}", "10.0.0.2:80")
        ]
        assert tree.read(lambda: [b".".join(key).decode() for key in tree.table.services]) == [
            f"{name}.discovery"
        ]
        zk.delete(f"{zk_root}/{followed.partition('/')[0]}", recursive=True)
        eventually(lambda: tree.contents == {})


@pytest.mark.parametrize(
    ("service", "is_served"),
    [
        ("api.v2", True),
        ("with space", True),
        ("100%25", True),
        ("{service}", True),
        ("Web", True),
        ("größe-日本", True),
        ("x" * 63, True),
        ("x" * 64, False),
        ("ü" * 31, True),
        ("ü" * 32, False),
        ("two..dots", False),
        (".hidden", False),
    ],
)
def test_only_names_that_are_valid_in_dns_are_served(
    zk: Any, zk_root: str, follow: Follow, service: str, is_served: bool
) -> None:
    with follow() as tree:
        tree.wait_live()
        for made in (service, "web"):
            join(zk, f"{zk_root}/env/{made}")
        services = ("web", service) if is_served else ("web",)
        one = {"member_0000000000": "10.0.0.1:80"}
        eventually(lambda: tree.contents == {f"{zk_root}/env/{name}": one for name in services})
        assert tree.sync.bad_names == (not is_served)


def test_sets_that_differ_only_in_case_are_both_followed(zk: Any, zk_root: str, follow: Follow) -> None:
    for service in ("web", "WEB", "Web"):
        join(zk, f"{zk_root}/env/{service}")
    with follow() as tree:
        tree.wait_live()
        assert tree.contents == in_zookeeper(zk, f"{zk_root}{TEMPLATE}")
        assert tree.read(lambda: len(tree.table.services)) == 1


# -- members -----------------------------------------------------------------------------------------------


def test_members_join_and_leave_one_by_one(zk: Any, zk_root: str, follow: Follow) -> None:
    path = f"{zk_root}/staging/web"
    with follow() as tree:
        tree.wait_live()
        members = [join(zk, path, f"10.0.0.{number}") for number in range(20)]
        tree.wait_equal(zk)
        for member in members:
            zk.delete(member)
            eventually(lambda: member.rpartition("/")[2] not in tree.contents[path])  # noqa: B023 - called at once
        assert tree.contents == {path: {}}


def test_thousands_of_members_join_and_leave(zk: Any, zk_root: str, follow: Follow) -> None:
    path = f"{zk_root}/staging/web"
    with follow() as tree:
        tree.wait_live()
        first = join_many(zk, path, 1000)
        eventually(lambda: len(tree.contents.get(path, ())) == 1000, 60)
        second = join_many(zk, path, 1000)
        leave_many(zk, first)
        tree.wait_equal(zk)
        leave_many(zk, second)
        eventually(lambda: tree.contents == {path: {}}, 60)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "empty"),
        (b"garbage", "json"),
        (GOOD[:20], "json"),
        (b"null", "json"),
        (b"\x01", "json"),
        (b"\xff\xfe", "json"),
        (b"[" * 100_000, "json"),
        (b"{}", "host"),
        (GOOD.replace(b"99}", b"0x63}"), "json"),
        (GOOD.replace(b"99}", b"65536}"), "port"),
        (GOOD.replace(b"ALIVE", b"WELL"), "status"),
        (b"\x0c\x00\x01", "thrift"),
    ],
)
def test_a_bad_member_is_skipped_and_counted_by_reason(
    zk: Any, zk_root: str, follow: Follow, bad: bytes, reason: str
) -> None:
    path = f"{zk_root}/staging/web"
    join(zk, path)
    zk.create(f"{path}/member_bad", bad)
    with follow() as tree:
        tree.wait_live()
        assert tree.contents == {path: {"member_0000000000": "10.0.0.1:80"}}
        later = zk.create(f"{path}/member_", bad, sequence=True)
        last = join(zk, path, "10.0.0.2")
        eventually(lambda: len(tree.contents[path]) == 2)
        zk.delete(later)
        zk.delete(last)
        eventually(lambda: tree.contents == {path: {"member_0000000000": "10.0.0.1:80"}})
        assert dict(tree.sync.bad_members) == {reason: 2}


def test_a_loopback_address_is_followed_and_logged_once(zk: Any, zk_root: str, follow: Follow) -> None:
    path = f"{zk_root}/staging/web"
    first = join(zk, path, "127.0.0.1")
    join(zk, path, "::1")
    with capture_logs() as logs, follow() as tree:
        tree.wait_live()
        assert len(tree.contents[path]) == 2
    found = [entry for entry in logs if entry["event"] == "member_on_loopback"]
    assert len(found) == 1
    assert found[0]["path"] in {first, f"{path}/member_0000000001"}


def test_children_without_the_prefix_are_ignored(zk: Any, zk_root: str, follow: Follow) -> None:
    path = f"{zk_root}/staging/web"
    for name in ("leader", "vector_0000000001", "Member_1", "member", "member_abc"):
        zk.create(f"{path}/{name}", GOOD, makepath=True)
    with follow() as tree:
        tree.wait_live()
        assert tree.contents == {path: {"member_abc": "10.9.9.9:99"}}
        assert not tree.sync.bad_members


def test_children_with_another_prefix_may_be_the_members(zk: Any, zk_root: str, follow: Follow) -> None:
    path = f"{zk_root}/staging/web"
    join(zk, path)
    first = zk.create(f"{path}/node-", data("10.0.0.2"), sequence=True)
    zk.create(f"{path}/vector_1", vector({"inet=10.0.0.2:80": 0.5}))
    with follow(member_prefix="node-") as tree:
        tree.wait_live()
        name = first.rpartition("/")[2]
        assert tree.contents == {path: {name: "10.0.0.2:80"}}
        assert weights_of(tree) == {"10.0.0.2": 0.5}
        zk.set(first, data("10.0.0.3"))
        eventually(lambda: tree.contents == {path: {name: "10.0.0.3:80"}})
        zk.create(f"{path}/node-bad", b"{")
        eventually(lambda: dict(tree.sync.bad_members) == {"json": 1})
        zk.delete(first)
        eventually(lambda: tree.contents == {path: {}})
        assert tree.read(lambda: tree.sync.passed_over) == 1


def test_other_children_are_counted_through_every_change(zk: Any, zk_root: str, follow: Follow) -> None:
    path = f"{zk_root}/staging/web"
    join(zk, path)
    zk.create(f"{path}/vector_1", vector({}))
    for name in ("node1", "Member_0000000001", "10.0.0.1:80", "zzz"):
        zk.create(f"{path}/{name}", b"unread")
    zk.create(f"{zk_root}/staging/idle")

    def found(tree: FollowedTree, at: str = path) -> tuple[int, int, set[str]]:
        """The number of all children that are passed over, that of the set, and the set's examples."""
        of_set = tree.read(lambda: tree.sync.passed_over_of(at))
        return tree.read(lambda: tree.sync.passed_over), of_set.count, set(of_set.examples)

    with follow() as tree:
        tree.wait_live()
        assert found(tree) == (4, 4, {"node1", "Member_0000000001", "10.0.0.1:80"})
        assert found(tree, f"{zk_root}/staging/idle") == (4, 0, set())
        zk.create(f"{path}/another")
        zk.create(f"{path}/another/deeper")
        zk.set(f"{path}/another", b"changed")
        eventually(lambda: found(tree)[:2] == (5, 5))
        for name in ("node1", "Member_0000000001", "10.0.0.1:80"):
            zk.delete(f"{path}/{name}")
        eventually(lambda: found(tree) == (2, 2, {"another", "zzz"}))
        with tree.away():
            zk.delete(f"{path}/zzz")
        eventually(lambda: tree.is_live and found(tree) == (1, 1, {"another"}))
        zk.create(f"{zk_root}/prod/api/x", makepath=True)
        eventually(lambda: found(tree, f"{zk_root}/prod/api") == (2, 1, {"x"}))
        remake(zk, path)
        eventually(lambda: found(tree) == (1, 0, set()))
        zk.delete(f"{zk_root}/prod", recursive=True)
        eventually(lambda: found(tree)[0] == 0)
        assert not tree.sync.bad_members


def test_other_children_are_logged_once_for_each_service(zk: Any, zk_root: str, follow: Follow) -> None:
    foreign, mixed = f"{zk_root}/prod/api", f"{zk_root}/prod/web"
    zk.create(f"{foreign}/a", makepath=True)
    zk.create(f"{foreign}/h1.example.com,16020,1767225600000")
    join(zk, mixed)
    with capture_logs() as logs, follow() as tree:
        tree.wait_live()
        zk.create(f"{mixed}/leader")
        eventually(lambda: tree.read(lambda: tree.sync.passed_over) == 3)
        for at in range(5):
            zk.create(f"{mixed}/lock{at}")
        remake(zk, foreign)
        zk.create(f"{foreign}/b")
        eventually(lambda: tree.read(lambda: tree.sync.passed_over) == 7)
    entries = [entry for entry in logs if entry["event"] == "children_passed_over"]
    assert [(entry["path"], entry["log_level"], entry["example"], entry["format"]) for entry in entries] == [
        (foreign, "warning", "h1.example.com,16020,1767225600000", "HBase"),
        (mixed, "info", "leader", "unknown"),
    ]
    assert entries[0]["count"] == 2


# -- weights -----------------------------------------------------------------------------------------------


def vector(weights: dict[str, float]) -> bytes:
    """A vector as Finagle writes it."""
    entries = [{"select": select, "weight": weight, "priority": 1} for select, weight in weights.items()]
    return json.dumps({"vector": entries}).encode()


def weights_of(tree: FollowedTree) -> dict[str, float]:
    """The weights by host."""
    changed = tree.read(
        lambda: [owner for service in tree.table.services.values() for owner in service.sets.values()]
    )
    return {
        member.service.host: member.weight
        for owner in changed
        for member in owner.members.values()
        if member.service
    }


def test_vectors_weight_members_through_every_change(zk: Any, zk_root: str, follow: Follow) -> None:
    path = f"{zk_root}/staging/web"
    join(zk, path, "10.0.0.1")
    join(zk, path, "10.0.0.2")
    first = zk.create(f"{path}/vector_", vector({"inet=10.0.0.1:80": 0.5}), sequence=True)
    with follow() as tree:
        tree.wait_live()
        assert weights_of(tree) == {"10.0.0.1": 0.5, "10.0.0.2": 1.0}
        zk.set(first, vector({"inet=10.0.0.1:80": 2, "inet=10.0.0.3:80": 3}))
        eventually(lambda: weights_of(tree) == {"10.0.0.1": 2.0, "10.0.0.2": 1.0})
        join(zk, path, "10.0.0.3")
        eventually(lambda: weights_of(tree) == {"10.0.0.1": 2.0, "10.0.0.2": 1.0, "10.0.0.3": 3.0})
        zk.create(f"{path}/vector_", vector({"inet=10.0.0.1:80": 0.25}), sequence=True)
        eventually(lambda: weights_of(tree) == {"10.0.0.1": 0.5, "10.0.0.2": 1.0, "10.0.0.3": 3.0})
        zk.set(first, b"garbage")
        eventually(lambda: weights_of(tree) == {"10.0.0.1": 0.25, "10.0.0.2": 1.0, "10.0.0.3": 1.0})
        assert dict(tree.sync.bad_members) == {"vector": 1}
        zk.delete(path, recursive=True)
        join(zk, path, "10.0.0.1")
        eventually(lambda: weights_of(tree) == {"10.0.0.1": 1.0})


def test_a_vector_changed_during_a_disconnect_is_read_again(zk: Any, zk_root: str, follow: Follow) -> None:
    path = f"{zk_root}/staging/web"
    join(zk, path, "10.0.0.1")
    made = zk.create(f"{path}/vector_", vector({"inet=10.0.0.1:80": 0.5}), sequence=True)
    with follow() as tree:
        tree.wait_live()
        with tree.away():
            zk.set(made, vector({"inet=10.0.0.1:80": 4}))
        eventually(lambda: weights_of(tree) == {"10.0.0.1": 4.0}, 20)


# -- created again under the same name ---------------------------------------------------------------------


@pytest.mark.parametrize("remade", ["staging", "staging/web"])
@pytest.mark.parametrize("at_once", [True, False])
def test_znodes_created_again_have_the_new_members_under_old_names(
    zk: Any, zk_root: str, follow: Follow, remade: str, at_once: bool
) -> None:
    path = f"{zk_root}/staging/web"
    join(zk, path, "10.0.0.1")
    with follow() as tree:
        tree.wait_live()
        for number in range(20):
            if at_once:
                remake(zk, f"{zk_root}/{remade}")
            else:
                zk.delete(f"{zk_root}/{remade}", recursive=True)
            assert join(zk, path, f"10.0.1.{number}") == f"{path}/member_0000000000"
            tree.wait_equal(zk)


def test_callbacks_do_not_accumulate_for_znodes_created_again(
    zk: Any, zk_root: str, follow: Follow, is_recursive: bool
) -> None:
    path = f"{zk_root}/staging/web"
    with follow() as tree:
        tree.wait_live()
        for number in range(50):
            join(zk, path, f"10.0.1.{number}")
            zk.delete(path, recursive=True)
        join(zk, path)
        tree.wait_equal(zk)
        # An event at each level removes the callbacks of deleted znodes.
        for below in (zk_root, f"{zk_root}/staging", path):
            join(zk, f"{below}/x")
        tree.wait_equal(zk)
        sets = in_zookeeper(zk, f"{zk_root}{TEMPLATE}")
        directories = [zk_root, f"{zk_root}/staging", f"{zk_root}/x"]
        watched = [] if is_recursive else [*sets, *directories]
        eventually(lambda: tree.callbacks() == dict.fromkeys(watched, 1))


def test_callbacks_do_not_accumulate_for_a_vector(zk: Any, zk_root: str, follow: Follow) -> None:
    path = f"{zk_root}/staging/web"
    join(zk, path, "10.0.0.1")
    made = zk.create(f"{path}/vector_", vector({"inet=10.0.0.1:80": 0.5}), sequence=True)
    with follow() as tree:
        tree.wait_live()
        for number in range(20):
            join(zk, path, f"10.0.1.{number}")
            tree.wait_equal(zk)
        assert data_callbacks(tree.client, made) <= 1
        zk.set(made, vector({"inet=10.0.0.1:80": 2}))
        eventually(lambda: weights_of(tree)["10.0.0.1"] == 2.0)


# -- unreadable znodes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("locked", ["staging/web", "staging"])
@pytest.mark.parametrize("is_known", [False, True])
def test_unreadable_znodes_keep_their_contents(  # noqa: PLR0917 - as above
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, follow: Follow, locked: str, is_known: bool
) -> None:
    web, other = f"{zk_root}/staging/web", f"{zk_root}/prod/web"
    join(zk, web, "10.0.0.1")
    lock = Locked(zookeeper.address, f"{zk_root}/{locked}")
    with capture_logs() as logs, follow(start=is_known) as tree:
        known = tree.wait_live().contents if is_known else {}
        with lock:
            tree.restart()
            join(zk, other, "10.0.0.2")
            eventually(lambda: tree.listed[f"{zk_root}/{locked}"] > 5)
            unread: dict[str, dict[str, str]] = {} if is_known or locked == "staging" else {web: {}}
            expected = known | unread | {other: {"member_0000000000": "10.0.0.2:80"}}
            eventually(lambda: tree.contents == expected)
            assert tree.wait_live().states.count(SyncState.LIVE) == 1 + is_known
            assert [entry["path"] for entry in complaints(logs)] == [f"{zk_root}/{locked}"]
        tree.wait_equal(zk)
        join(zk, web, "10.0.0.3")  # the watches are set again as well
        tree.wait_equal(zk)


def test_an_unreadable_set_exists_and_its_deletion_is_published(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, follow: Follow
) -> None:
    path = f"{zk_root}/staging/web"
    zk.ensure_path(path)
    with Locked(zookeeper.address, path), follow() as tree:
        tree.wait_live()
        assert tree.read(lambda: tree.sync.origins) == {path}
        unread = SetUnread(path, ServiceName("web", "staging"))
        assert tree.changes == [unread]
        zk.delete(path)
        eventually(lambda: tree.changes[1:])
        assert tree.changes == [unread, SetDropped(path)]
        assert tree.read(lambda: tree.sync.origins) == set()


@pytest.mark.parametrize("is_known", [False, True])
def test_a_denied_root_is_read_as_unread_until_everything_below_it_was_read(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, follow: Follow, is_known: bool
) -> None:
    paths = [f"{zk_root}/{environment}/web" for environment in ("prod", "staging")]
    for path in paths:
        join(zk, path)
    with follow(start=is_known) as tree:
        known = tree.wait_live().contents if is_known else {}
        del tree.changes[:]
        with Locked(zookeeper.address, zk_root):
            tree.restart()
            eventually(lambda: tree.listed[zk_root] > 5)
            before = [SyncState.LIVE, SyncState.UNREACHABLE] if is_known else []
            assert tree.states == [*before, SyncState.LIVE]
            assert tree.contents == known
            assert tree.changes == [DirectoryUnread(zk_root)]
        eventually(lambda: not tree.read(lambda: tree.sync.unread_directories))
        tree.wait_equal(zk)
        _, *sets, last = tree.changes
        assert last == DirectoryUnread(zk_root, is_unread=False)
        assert {change.origin for change in sets if isinstance(change, SetPut)} == (
            set() if is_known else set(paths)
        )


def test_a_denied_environment_that_is_deleted_is_not_unread_any_more(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, follow: Follow
) -> None:
    path = f"{zk_root}/staging"
    zk.ensure_path(path)
    with Locked(zookeeper.address, path), follow() as tree:
        tree.wait_live()
        assert tree.changes == [DirectoryUnread(path)]
        zk.delete(path)
        eventually(lambda: tree.changes[1:])
        assert tree.changes[1:] == [DirectoryUnread(path, is_unread=False)]
        zk.ensure_path(path)  # so that it can be unlocked


def test_unreadable_members_of_a_set_are_retried_together(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, follow: Follow
) -> None:
    path = f"{zk_root}/staging/web"
    members = join_many(zk, path, 50)
    with capture_logs() as logs, Locked(zookeeper.address, *members), follow() as tree:
        tree.wait_live()
        eventually(lambda: tree.listed[path] > 10)
        assert tree.pending_timers <= 3  # the next retry, audit and heartbeat
        assert tree.contents == {path: {}}
        assert len(complaints(logs)) == 1
    with follow() as tree:
        tree.wait_live()
        tree.wait_equal(zk)


def knows_other_children(tree: FollowedTree, zk: Any, zk_root: str) -> bool:
    """Whether the tree has the numbers of children that are no members, and examples of existing ones."""
    others = others_in_zookeeper(zk, f"{zk_root}{TEMPLATE}")
    found = tree.read(lambda: {path: tree.sync.passed_over_of(path) for path in others})
    total = tree.read(lambda: tree.sync.passed_over)
    return total == sum(map(len, others.values())) and all(
        found[path].count == len(names)
        and names.issuperset(found[path].examples)
        and bool(found[path].examples) == bool(names)
        for path, names in others.items()
    )


# -- random sequences --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_after_any_sequence_of_events_the_table_equals_zookeeper(
    zk: Any, zk_root: str, follow: Follow, seed: int
) -> None:
    with follow() as tree:
        act = RandomActions(zk, zk_root, tree, random.Random(seed))
        for round_ in range(5):
            for _ in range(100):
                act()
            tree.wait_equal(zk)
            tree.wait_zxid(zk)
            eventually(lambda: knows_other_children(tree, zk, zk_root))
            assert max(tree.callbacks().values(), default=0) <= 4, round_
        # The changes on the way lead to the same table as the final state.
        replayed = Table(departed_seconds=0)
        for change in tree.changes:
            replayed.apply(change)
        assert contents_of(replayed) == tree.contents
