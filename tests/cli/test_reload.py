"""`zkdns reload` with running servers, and without one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import run
from tests.scenarios.reloadable import WEB, ReloadableServer
from tests.support.forked_command import Ended
from tests.support.server import ZkdnsServer

pytestmark = pytest.mark.processes


def reload(server: ReloadableServer, *arguments: str) -> Ended:
    return run("reload", *arguments, environment={"ZKDNS_ADMIN_SOCKET": server.api})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReloadableServer]:
    with ReloadableServer(tmp_path, ttl=5) as running:
        running.wait_ready()
        yield running


def test_it_returns_when_the_new_configuration_is_in_force(server: ReloadableServer) -> None:
    assert reload(server) == (0, "nothing has changed\n", "")
    server.write(ttl=6, zookeeper={"session_timeout": 20})
    ended = reload(server)
    assert (ended.status, ended.errors) == (0, "")
    assert ended.output.startswith("reloaded in ")
    assert ended.output.endswith("s: zookeeper.session_timeout, ttl changed, 2 processes replaced\n")
    server.wait_for_processes()
    assert server.query(WEB).answer[0].ttl == 6


def test_all_replaces_all_processes(server: ReloadableServer) -> None:
    before = server.processes("worker") | server.processes("watcher")
    ended = reload(server, "--all")
    assert ended.output.endswith("s: nothing changed, 2 processes replaced\n")
    server.wait_for_processes()
    assert not (server.processes("worker") | server.processes("watcher")) & before
    # The new processes respond to requests.
    assert run("dump", "--zone", environment={"ZKDNS_ADMIN_SOCKET": server.api}).status == 0


def test_all_errors_are_printed_with_exit_status_2(server: ReloadableServer) -> None:
    server.write(ttl=-1, order="upwards")
    ended = reload(server)
    assert (ended.status, ended.output) == (2, "")
    *errors, last = ended.errors.splitlines()
    assert {line.split(": ")[2] for line in errors} == {"ttl", "order"}
    assert last == "zkdns: the old configuration stays in force"
    assert server.query(WEB).answer[0].ttl == 5


def test_without_a_server_the_exit_status_is_3(short_path: Path) -> None:
    control = str(short_path / "api")
    ended = run("reload", "--server", control)
    assert (ended.status, ended.output) == (3, "")
    assert ended.errors.startswith(f"zkdns: no server listens at {control} (no such file or directory);")
    assert run("reload", environment={"ZKDNS_ADMIN": "none"}).status == 2


def test_over_tcp_the_token_is_needed(tmp_path: Path) -> None:
    token, wrong = tmp_path / "token", tmp_path / "wrong"
    for file in (token, wrong):
        file.touch(0o600)
        file.write_text(f"a-token-in-the-file-{file.name}")
    with ZkdnsServer("--demo", "--admin-token", str(token)) as server:
        server.wait_ready()
        for arguments in ((), ("--token-file", str(wrong))):
            ended = run("reload", "--server", server.admin, *arguments)
            assert (ended.status, ended.output) == (2, "")
            assert ended.errors.startswith("zkdns: the server's token is missing or wrong; name the file")
        ended = run("reload", "--server", server.admin, environment={"ZKDNS_TOKEN_FILE": str(token)})
        assert ended == (0, "nothing has changed\n", "")
        unreadable = run("reload", "--server", server.admin, "--token-file", str(tmp_path))
        assert unreadable.status == 2
        assert unreadable.errors.startswith(f"zkdns: --token-file: '{tmp_path}' is not a regular file")
