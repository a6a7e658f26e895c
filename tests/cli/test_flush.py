"""`zkdns flush` with running servers, and without one."""

import json
from pathlib import Path

import pytest

from tests.cli import run
from tests.support.fake_api import responding
from tests.support.forked_command import Ended
from tests.support.server import ZkdnsServer
from zkdns.admin.api_types import Flushed

pytestmark = pytest.mark.processes


def flush(server: ZkdnsServer, *arguments: str) -> Ended:
    return run("flush", *arguments, environment={"ZKDNS_ADMIN_SOCKET": server.api})


def test_all_workers_flush_their_caches() -> None:
    with ZkdnsServer("--demo", "--workers", "2", "--upstream", "192.0.2.1") as server:
        server.wait_ready()
        server.wait_api()
        assert flush(server) == (0, "flushed all names in 2 workers\n", "")
        assert flush(server, "www.example.com") == (
            0,
            "flushed www.example.com and all names below it in 2 workers\n",
            "",
        )
        output = flush(server, "www.example.com", "--json").output
        assert json.loads(output) == {"name": "www.example.com", "flushed_workers": 2, "workers": 2}
        invalid = flush(server, "a..b")
        assert (invalid.status, invalid.output) == (2, "")
        assert "'a..b' is not a domain name" in invalid.errors
        own = flush(server, "web.staging.discovery")
        assert (own.status, own.output) == (1, "")
        assert own.errors.startswith(
            "zkdns: web.staging.discovery lies in the zone discovery, which is never"
        )


def test_a_server_without_upstreams_has_no_cache() -> None:
    with ZkdnsServer("--demo", "--upstream", "none") as server:
        server.wait_ready()
        server.wait_api()
        assert flush(server) == (1, "", "zkdns: this server forwards nothing, so nothing is cached\n")


def test_without_a_server_the_exit_status_is_3(short_path: Path) -> None:
    control = str(short_path / "api")
    ended = run("flush", "--server", control)
    assert (ended.status, ended.output) == (3, "")
    assert ended.errors.startswith(
        f"zkdns: no server listens at {control} (no such file or directory); start one"
    )
    ended = run("flush", environment={"ZKDNS_ADMIN": "none"})
    assert ended == (
        2,
        "",
        "zkdns: no address of a server is configured; name the server with --server URL\n",
    )


@pytest.mark.parametrize(
    ("response", "ended"),
    [
        (Flushed(1, 1), (0, "flushed all names in 1 worker\n", "")),
        (Flushed(1, 2), (5, "", "zkdns: flushed only 1 of 2 workers; try again\n")),
        ([], (3, "", "zkdns: the server at {} is of another version of zkdns\n")),
    ],
)
def test_responses_and_exit_statuses(short_path: Path, response: object, ended: tuple[int, str, str]) -> None:
    path = str(short_path / "api")
    with responding(path, "flush", response):
        found = run("flush", "--server", path)
    assert found == (ended[0], ended[1], ended[2].format(path))
