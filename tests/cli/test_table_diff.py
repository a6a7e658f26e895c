"""The comparison of servers: its requests, how long a difference must last, and its report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.admin.helpers import STATUS
from tests.cli import run
from tests.support.fake_api import FakeApi
from zkdns.admin.api_types import MemberRow, ServiceDigest, ServiceDigests
from zkdns.admin.client import ApiClient, ServerAddress, UnreachableError
from zkdns.admin.status import Status, TableStatus, WorkerStatus
from zkdns.cli.table_diff import MAX_SERVICES, POLL_SECONDS, Comparer, Comparison
from zkdns.telemetry.stats import ZoneDigest


def status_of(digest: str, *workers: str) -> Status:
    """A status in which the watcher and the workers have these digests."""
    zone = (ZoneDigest("discovery", 1, digest),)
    return msgspec.structs.replace(
        STATUS,
        table=TableStatus(1, 1, 0, 0, 0, zone),
        workers=tuple(
            WorkerStatus(7 + number, True, (ZoneDigest("discovery", 1, each),))
            for number, each in enumerate(workers)
        ),
    )


def row(name: str = "m0", **fields: Any) -> MemberRow:
    usual: dict[str, Any] = {
        "service": "web.prod.discovery",
        "member": name,
        "origin": "/discovery/prod/web",
        "endpoint": "10.0.0.1:80",
        "additional": {},
        "status": "ALIVE",
        "shard": None,
        "weight": 1.0,
        "metadata": {},
        "addresses": (),
        "held_since": None,
    }
    return MemberRow(**(usual | fields))


def lines(*rows: MemberRow) -> bytes:
    return b"".join(msgspec.json.encode(each) + b"\n" for each in rows)


def digests(*services: tuple[str, str]) -> ServiceDigests:
    return ServiceDigests(tuple(ServiceDigest(name, 1, digest) for name, digest in services))


class Servers:
    """Two fake servers, `one` and `other`, and a clock that `sleep` advances."""

    def __init__(self, one: FakeApi, other: FakeApi) -> None:
        self.one, self.other = one, other
        self.now = 0.0
        self.on_sleep: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()

    def compare(self, wait: float = 0.0) -> Comparison:
        clients = [ApiClient(ServerAddress(path=each.socket)) for each in (self.one, self.other)]
        return Comparer(clients, self.sleep, lambda: self.now).compare(wait)

    def answer(self, path: str, one: object, other: object) -> None:
        self.one.responses[path], self.other.responses[path] = (200, one), (200, other)


@pytest.fixture
def servers(short_path: Path) -> Iterator[Servers]:
    """Two servers that disagree in the service web.prod."""
    apis = [FakeApi(str(short_path / name)) for name in ("one", "other")]
    found = Servers(*apis)
    found.answer("status", status_of("a", "a"), status_of("b", "b"))
    found.answer("digests", digests(("web.prod.discovery", "a")), digests(("web.prod.discovery", "b")))
    found.answer("members", lines(row()), lines(row(endpoint="10.0.0.2:80")))
    with contextlib.ExitStack() as stack:
        for api in apis:
            stack.enter_context(api.serving())
        yield found


def test_servers_that_agree_are_compared_with_one_request(servers: Servers) -> None:
    servers.answer("status", status_of("a", "a", "a"), status_of("a", "a"))
    assert servers.compare(9.0) == Comparison()
    assert servers.one.requests == servers.other.requests == ["/api/status"]


def test_only_members_of_services_that_differ_are_requested(servers: Servers) -> None:
    equal = [(f"s{number}.prod.discovery", "c") for number in range(100)]
    servers.answer(
        "digests", digests(*equal, ("web.prod.discovery", "a")), digests(*equal, ("web.prod.discovery", "b"))
    )
    (found,) = servers.compare().differences
    assert (found.service, found.member, found.field) == ("web.prod.discovery", "m0", "endpoint")
    assert found.values == {servers.one.socket: "10.0.0.1:80", servers.other.socket: "10.0.0.2:80"}
    assert servers.one.requests == ["/api/status", "/api/digests", "/api/members?service=web.prod.discovery."]


def test_a_difference_that_does_not_last_is_not_reported(servers: Servers) -> None:
    def agree() -> None:
        if servers.now >= 1.0:
            servers.answer("status", status_of("b", "b"), status_of("b", "b"))

    servers.on_sleep = agree
    assert servers.compare(3.0) == Comparison()
    assert servers.now == 1.0


def test_a_lasting_difference_is_reported_after_the_wait(servers: Servers) -> None:
    assert len(servers.compare(3.0).differences) == 1
    assert 3.0 <= servers.now <= 3.0 + POLL_SECONDS


def test_services_that_differ_in_turn_are_not_reported(servers: Servers) -> None:
    """As in a fleet with changes all the time, which reach the servers one after another."""

    def change() -> None:
        name = f"s{servers.now}.prod.discovery"
        servers.answer("digests", digests((name, "a")), digests((name, "b")))

    servers.on_sleep = change
    assert servers.compare(3.0) == Comparison()


@pytest.mark.parametrize(
    ("other", "field", "values"),
    [
        (row(additional={"admin": "10.0.0.1:90"}), "additional", ["none", "admin=10.0.0.1:90"]),
        (row(status="STOPPING"), "status", ["ALIVE", "STOPPING"]),
        (row(shard=0), "shard", ["none", "0"]),
        (row(weight=0.5), "weight", ["1", "0.5"]),
        (row(held_since=1.0), "held", ["no", "yes"]),
        (row(endpoint=None), "endpoint", ["10.0.0.1:80", "none"]),
    ],
)
def test_each_property_of_a_member_is_compared(
    servers: Servers, other: MemberRow, field: str, values: list[str]
) -> None:
    servers.answer("members", lines(row()), lines(other))
    (found,) = servers.compare().differences
    assert (found.field, list(found.values.values())) == (field, values)


def test_missing_members_and_services_are_reported(servers: Servers) -> None:
    servers.answer("members", lines(row(), row("m1")), lines(row()))
    (found,) = servers.compare().differences
    assert (found.member, found.field, list(found.values.values())) == (
        "m1",
        "member",
        ["10.0.0.1:80", "missing"],
    )
    servers.answer("digests", digests(("web.prod.discovery", "a")), digests())
    servers.answer("members", lines(row(), row("m1")), b"")
    (found,) = servers.compare().differences
    assert (found.field, list(found.values.values())) == ("service", ["2 members", "missing"])
    servers.answer("members", b"", b"")
    (found,) = servers.compare().differences
    assert (found.field, list(found.values.values())) == ("service", ["0 members", "missing"])


def test_servers_with_other_settings_differ_in_the_digest_only(servers: Servers) -> None:
    servers.answer("members", lines(row()), lines(row()))
    (found,) = servers.compare().differences
    assert (found.member, found.field, list(found.values.values())) == ("", "digest", ["a", "b"])


def test_a_worker_that_disagrees_with_its_watcher_is_reported(servers: Servers) -> None:
    servers.answer("status", status_of("a", "a", "x"), status_of("a", "a"))
    servers.answer("digests", digests(), digests())
    (found,) = servers.compare(1.0).differences
    assert (found.service, found.field) == ("discovery", "worker")
    assert list(found.values) == [servers.one.socket]
    assert "worker 8 " in found.values[servers.one.socket]


def test_the_number_of_compared_services_is_limited(servers: Servers) -> None:
    names = [f"s{number}.prod.discovery" for number in range(MAX_SERVICES + 5)]
    servers.answer("digests", digests(*((n, "a") for n in names)), digests(*((n, "b") for n in names)))
    found = servers.compare()
    assert len({each.service for each in found.differences}) == MAX_SERVICES
    assert found.more == 5


def test_a_server_that_refuses_cannot_be_compared(servers: Servers) -> None:
    servers.other.responses["digests"] = (404, {"error": "the table has not been read yet"})
    with pytest.raises(UnreachableError, match="other cannot be compared: the table has not been read yet"):
        servers.compare()


# -- the command --------------------------------------------------------------------------------------------


def test_the_command_prints_a_line_for_each_difference(servers: Servers) -> None:
    one, other = servers.one.socket, servers.other.socket
    ended = run("diff", one, other, "--wait", "0")
    assert (ended.status, ended.errors) == (1, "")
    assert ended.output == f"web.prod.discovery\tm0\tendpoint\t{one}=10.0.0.1:80\t{other}=10.0.0.2:80\n"


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (["/x/one"], 2, "/x/one: is compared with nothing; name two or more servers"),
        (["/x/one", "/x/one"], 2, "/x/one: occurs twice"),
        (["/x/one", "nonsense"], 2, "'nonsense' is neither a URL nor a path"),
        (["/x/one", "/x/other"], 3, "start one, or name another one\n"),
        (["/x/one", "/x/other", "--wait", "soon"], 2, "--wait"),
    ],
)
def test_errors_have_the_status_of_their_kind(arguments: list[str], status: int, error: str) -> None:
    ended = run("diff", *arguments)
    assert (ended.status, ended.output) == (status, "")
    assert error in ended.errors
