"""`zkdns services` with a real ZooKeeper, directly and through a server: the output is the same."""

import json
import re
from typing import Any

import pytest
from kazoo.security import make_acl

from tests.cli import Terminal, run
from tests.support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.processes


@pytest.fixture
def filled(zk: Any, zk_root: str) -> str:
    """A root with three services: with members and another znode, without members, and without permission."""
    for name in ("member_0000000001", "member_0000000002", "vector_0000000000"):
        zk.create(f"{zk_root}/staging/web/{name}", b"", makepath=True)
    zk.create(f"{zk_root}/prod/api.v2", makepath=True)
    zk.create(f"{zk_root}/prod/hidden/member_1", makepath=True)
    zk.create(f"{zk_root}/test", makepath=True)
    zk.set_acls(f"{zk_root}/prod/hidden", [make_acl("world", "anyone", admin=True, delete=True)])
    return zk_root


@pytest.fixture(autouse=True)
def deletable(zk: Any, zk_root: str) -> Any:
    """Allows that the root is removed after the test."""
    yield
    if zk.exists(f"{zk_root}/prod/hidden"):
        zk.set_acls(f"{zk_root}/prod/hidden", [make_acl("world", "anyone", all=True)])


def test_each_service_is_a_line(environment: dict[str, str], filled: str) -> None:
    ended = run("services", "--direct", environment=environment)
    assert ended.output == "prod\tapi.v2\t0\nprod\thidden\t?\nstaging\tweb\t2\n"
    assert ended.errors == (f"zkdns: cannot list {filled}/prod/hidden: its ACL denies access\n")
    assert ended.status == 0


def test_each_service_is_a_json_object(environment: dict[str, str], filled: str) -> None:
    ended = run("services", "--direct", "--environment", "staging", "--json", environment=environment)
    [row] = map(json.loads, ended.output.splitlines())
    assert row == {
        "environment": "staging",
        "service": "web",
        "members": 2,
        "path": f"{filled}/staging/web",
        "held": 0,
        "passed_over": 0,
        "examples": [],
        "format": None,
    }


def test_services_with_other_children_only_are_reported_with_the_format(
    environment: dict[str, str], zk: Any, zk_root: str
) -> None:
    for name in ("i-1_0000000001", "i-2_0000000002"):
        zk.create(f"{zk_root}/prod/api/{name}", b'{"host":"10.0.0.1","port":80,"name":"i"}', makepath=True)
    zk.create(f"{zk_root}/prod/db/member_0000000001", makepath=True)
    zk.create(f"{zk_root}/prod/db/leader")
    zk.create(f"{zk_root}/prod/idle")
    ended = run("services", "--direct", environment=environment)
    assert ended.output == "prod\tapi\t0\nprod\tdb\t1\nprod\tidle\t0\n"
    assert ended.errors == (
        f"zkdns: {zk_root}/prod/api has no members, but 2 other children: "
        "i-1_0000000001, i-2_0000000002 (nerve)\n"
    )
    assert ended.status == 0
    rows = map(json.loads, run("services", "--direct", "--json", environment=environment).output.splitlines())
    assert [(row["passed_over"], row["format"]) for row in rows] == [(2, "nerve"), (1, None), (0, None)]


def test_at_most_ten_services_with_other_children_are_reported(
    environment: dict[str, str], zk: Any, zk_root: str
) -> None:
    for number in range(12):
        zk.create(f"{zk_root}/prod/s{number:02}/node", makepath=True)
    lines = run("services", "--direct", environment=environment).errors.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "zkdns: 2 more services have no members, but other children"


def test_members_are_counted_by_the_prefix(environment: dict[str, str], zk: Any, zk_root: str) -> None:
    for name in ("node-0000000001", "node-x", "member_0000000002"):
        zk.create(f"{zk_root}/prod/web/{name}", makepath=True)
    ended = run("services", "--direct", "--member-prefix", "node-", environment=environment)
    assert (ended.output, ended.errors) == ("prod\tweb\t2\n", "")


def test_a_terminal_shows_a_table(zookeeper: ZooKeeperServer, filled: str) -> None:
    namespace = f"{filled}/{{environment}}/{{service}}"
    with Terminal(
        "services", "--direct", "--zookeeper", zookeeper.address, "--namespace", namespace
    ) as terminal:
        assert terminal.wait() == 0
        shown = terminal.screen
    assert re.search(r"^environment +service +members\s*$", shown, re.MULTILINE)
    assert re.search(r"^prod +api\.v2 +0\s*$", shown, re.MULTILINE)
    assert re.search(r"^ +hidden +\?\s*$", shown, re.MULTILINE)
    assert re.search(r"^staging +web +2\s*$", shown, re.MULTILINE)
    assert re.search(r"^test +no services\s*$", shown, re.MULTILINE)


def test_all_parents_of_a_service_are_printed_as_its_environment(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    zk.create(f"{zk_root}/www/prod/hello/member_0000000000", makepath=True)
    where = ("--zookeeper", zookeeper.address, "--namespace", f"{zk_root}/{{role}}/{{environment}}/{{job}}")
    assert run("services", "--direct", *where).output == "prod.www\thello\t1\n"


def test_many_services_are_counted(environment: dict[str, str], zk: Any, zk_root: str) -> None:
    zk.create(f"{zk_root}/staging", makepath=True)
    names = [f"service-{number:04}" for number in range(2000)]
    for result in [zk.create_async(f"{zk_root}/staging/{name}") for name in names]:
        result.get(timeout=30)
    ended = run("services", "--direct", environment=environment)
    assert ended.output == "".join(f"staging\t{name}\t0\n" for name in names)


def test_a_root_without_permission_is_reported_but_not_as_missing(
    environment: dict[str, str], zk: Any, zk_root: str
) -> None:
    zk.create(zk_root, acl=[make_acl("world", "anyone", admin=True, delete=True)])
    ended = run("services", "--direct", environment=environment)
    zk.set_acls(zk_root, [make_acl("world", "anyone", all=True)])  # so that it can be removed
    error = f"zkdns: cannot list {zk_root}: its ACL denies access\n"
    assert (ended.status, ended.output, ended.errors) == (5, "", error)


def test_an_invalid_environment_is_a_usage_error() -> None:
    ended = run("services", "--direct", "--environment", "a/b")
    assert ended.status == 2
    assert ended.errors.startswith("zkdns: --environment: is 'a/b'; ")


@pytest.mark.parametrize("more", [(), ("--environment", "prod")])
def test_a_missing_root_or_environment_is_an_error_and_not_created(
    environment: dict[str, str], zk: Any, zk_root: str, more: tuple[str, ...]
) -> None:
    ended = run("services", "--direct", *more, environment=environment)
    assert ended.status == 1
    assert ended.output == ""
    assert ended.errors.startswith("zkdns: there is no ")
    assert zk_root in ended.errors
    assert zk.exists(zk_root) is None
