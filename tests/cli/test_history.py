"""`zkdns history` with running servers: past changes, and new ones with `--follow`."""

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli import Command, Terminal, run
from tests.support.forked_command import Ended
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.processes


def history(server: ZkdnsServer, *arguments: str) -> Ended:
    return run("history", *arguments, environment={"ZKDNS_ADMIN_SOCKET": server.api})


def following(server: ZkdnsServer, *arguments: str) -> Command:
    return Command("history", "--follow", *arguments, environment={"ZKDNS_ADMIN_SOCKET": server.api})


class Web:
    """Members of a service in ZooKeeper."""

    def __init__(self, client: Any, root: str) -> None:
        self._client = client
        self._path = f"{root}/staging/web"
        client.ensure_path(self._path)

    def join(self, number: int) -> str:
        text = f'{{"serviceEndpoint":{{"host":"10.0.0.{number}","port":80}},"status":"ALIVE"}}'
        path: str = self._client.create(f"{self._path}/member_", text.encode(), sequence=True)
        return path

    def leave(self, path: str) -> None:
        self._client.delete(path)


@pytest.fixture
def web(zk: Any, zk_root: str) -> Web:
    return Web(zk, zk_root)


@pytest.fixture
def server(zookeeper: ZooKeeperServer, web: Web, zk_root: str) -> Iterator[ZkdnsServer]:
    """A server with one member."""
    web.join(1)
    namespace = f"{zk_root}/{{environment}}/{{service}}"
    with ZkdnsServer("--zookeeper", zookeeper.address, "--namespace", namespace) as server:
        yield server.wait_ready()


def test_added_and_removed_members_are_listed(server: ZkdnsServer, web: Web) -> None:
    assert history(server)[::2] == (1, "zkdns: the server has no changes in its history\n")
    path = web.join(2)
    eventually(
        lambda: "joined" in history(server).output
    )  # otherwise the znode might be deleted before it is read
    web.leave(path)
    eventually(lambda: len(history(server).output.splitlines()) == 2)
    ended = history(server, "web.staging")
    fields = [line.split("\t") for line in ended.output.splitlines()]
    member = path.rpartition("/")[2]
    assert [row[1:] for row in fields] == [
        ["joined", "web.staging", member, "10.0.0.2:80"],
        ["left", "web.staging", member, "10.0.0.2:80"],
    ]
    assert fields[0][0] <= fields[1][0]
    assert history(server, "--last", "1").output.splitlines() == ended.output.splitlines()[1:]
    assert history(server, "--since", "1h").output == ended.output
    assert history(server, "--since", "0s")[::2] == (
        1,
        "zkdns: the server has no changes in this time in its history\n",
    )
    assert history(server, "nix.staging")[::2] == (
        1,
        "zkdns: there is no service nix.staging\n",
    )
    entries = [json.loads(line) for line in history(server, "--json").output.splitlines()]
    assert [entry["znode"] for entry in entries] == [path, path]
    assert abs(entries[0]["at"] - time.time()) < 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_follow_prints_changes_as_they_happen_until_a_signal(
    number: signal.Signals, server: ZkdnsServer, web: Web
) -> None:
    with following(server, "--json") as command:
        paths = [web.join(one) for one in range(2, 40)]
        eventually(lambda: len(command.output.splitlines()) == 38)
        for one in (40, 41):  # the second one would show a repetition of the first
            paths.append(web.join(one))
            eventually(lambda: paths[-1] in command.output)
        entries = [json.loads(line) for line in command.output.splitlines()]
        assert [entry["znode"] for entry in entries] == paths
        numbers = [entry["number"] for entry in entries]
        assert numbers == sorted(set(numbers))
        command.signal(number)
        assert command.wait() == 0
        assert "Traceback" not in command.errors


def test_follow_continues_with_a_restarted_watcher(server: ZkdnsServer, web: Web) -> None:
    with following(server, "web.staging") as command:
        web.join(2)
        eventually(lambda: command.output.count("joined") == 1)
        pid = server.pid_of("watcher")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: server.pid_of("watcher") != pid)
        eventually(lambda: history(server).errors == "zkdns: the server has no changes in its history\n")
        # The members that the new watcher finds at its start are not changes.
        assert run("wait", "web.staging", "--min", "2", "--server", server.api).status == 0
        web.join(3)
        eventually(lambda: command.output.count("joined") == 2)
        assert command.errors.count("; trying again") <= 1


def test_the_newest_1000_changes_of_a_service_are_kept(server: ZkdnsServer, web: Web) -> None:
    paths = [web.join(number % 250) for number in range(600)]
    name = "web.staging"
    # A member that is removed before it is read would be missing.
    eventually(lambda: len(history(server, name).output.splitlines()) == 600, 30.0)
    for path in paths:
        web.leave(path)
    last = paths[-1].rpartition("/")[2]
    # The guard may delay the last removals.
    eventually(lambda: f"left\t{name}\t{last}" in history(server, name).output, 30.0)
    lines = history(server, name, "--last", "5000", "--since", "1h").output.splitlines()
    assert lines == history(server).output.splitlines()
    kinds = [line.split("\t")[1] for line in lines]
    assert kinds == ["joined"] * 400 + ["left"] * 600


def test_changes_have_colours_in_a_terminal(server: ZkdnsServer, web: Web) -> None:
    with Terminal("history", "--follow", environment={"ZKDNS_ADMIN_SOCKET": server.api}) as terminal:
        web.join(2)
        eventually(lambda: "\x1b[32mjoined" in terminal.written)
        assert "10.0.0.2:80" in terminal.screen
        terminal.type(b"\x03")
        assert terminal.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--since", "soon"), "zkdns: --since: is 'soon'; write a duration of at most 1y"),
        (("a..b",), "zkdns: 'a..b' is not a domain name: it has an empty label"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], sentence: str, demo: ZkdnsServer) -> None:
    ended = history(demo, *arguments)
    assert (ended.status, ended.output) == (2, "")
    assert ended.errors.startswith(sentence)
