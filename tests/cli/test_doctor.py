"""`zkdns doctor` for a server with ZooKeeper. `scenarios/test_setup_and_doctor.py` tests name resolution."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli import Terminal
from tests.support.machine import Machine
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.processes

_MEMBER = b'{"serviceEndpoint":{"host":"192.0.2.1","port":80},"additionalEndpoints":{},"status":"ALIVE"}'


def findings(machine: Machine, *arguments: str, **variables: str) -> dict[str, tuple[str, str]]:
    """Run the doctor; return level and text of its findings by subject."""
    command = (
        "env",
        *(f"{name}={value}" for name, value in variables.items()),
        sys.executable,
        "-m",
        "zkdns",
    )
    ended = machine.run(*command, "doctor", "--json", *arguments)
    assert not ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == int(any(row["level"] == "wrong" for row in rows))
    return {row["about"]: (row["level"], row["found"]) for row in rows}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with an address in resolv.conf that has no resolver."""
    return Machine(tmp_path / "machine", "127.0.0.253")


def test_a_healthy_server_and_its_zookeeper(
    environment: dict[str, str], zk: Any, zk_root: str, tmp_path: Path, machine: Machine
) -> None:
    zk.create(f"{zk_root}/staging/web/member_0000000000", _MEMBER, makepath=True)
    variables = {**environment, "ZKDNS_SNAPSHOT": str(tmp_path / "snapshot")}
    with ZkdnsServer(environment=variables) as server:
        server.wait_ready()
        eventually((tmp_path / "snapshot").exists)
        arguments = ("--listen", f"127.0.0.1:{server.port}", "--admin-socket", server.api)
        admin = server.admin.removeprefix("http://")
        found = findings(machine, *arguments, "--admin", admin, **variables)
        subjects = [f"127.0.0.1:{server.port} over {transport}" for transport in ("UDP", "TCP")]
    assert found["configuration"] == ("ok", "has no errors")
    zookeeper = environment["ZKDNS_ZOOKEEPER"]
    assert found[f"ZooKeeper {zookeeper}"] == ("ok", f"grants a session; {zk_root} has 1 znode")
    assert found["services"] == ("ok", f"{zk_root}/{{environment}}/{{service}} has 1; members: 1")
    for about in subjects:
        assert found[about] == ("ok", "responds")
    for path in ("healthz", "readyz"):
        assert found[f"http://{admin}/{path}"] == ("ok", "200")
    assert found[f"socket {server.api}"] == ("ok", "responds")
    assert found["snapshot"][0] == "ok"
    assert found["end to end"][0] == "wrong"
    assert found["end to end"][1].startswith("web.staging.discovery: programs on this machine do not find it")


def test_a_running_server_with_other_settings_is_found(machine: Machine) -> None:
    """As a newcomer has one: the demo runs, and the doctor has no options."""
    with ZkdnsServer("--demo", "--listen", "127.0.0.1:0") as server:
        server.wait_ready()
        server.wait_api()
        address, admin, api = f"127.0.0.1:{server.port}", server.admin.removeprefix("http://"), server.api
        by_socket = findings(machine, "--admin-socket", api, "--admin", "none")
        by_address = findings(machine, "--admin-socket", "none", "--admin", admin)
    for found in (by_socket, by_address):
        level, sentence = found["server"]
        assert (level, sentence.endswith(f" answers at {address}: discovery from the built-in example")) == (
            "ok",
            True,
        )
        assert found["settings"] == ("warning", "name other addresses than the server has: 127.0.0.1:53")
        assert found[f"{address} over UDP"] == ("ok", "responds")
        assert found["/etc/resolv.conf"] == ("wrong", "names 127.0.0.253, which does not lead to zkdns")
        assert not [about for about in found if about.startswith(("ZooKeeper", "services", "snapshot"))]
    assert findings(machine, "--demo", "--admin-socket", api, "--admin", "none")["server"] == (
        "warning",
        "none responds to commands",
    )


def test_files_that_the_server_cannot_use_are_warnings(tmp_path: Path, machine: Machine) -> None:
    missing = tmp_path / "token"
    options = ("--demo", "--listen", "127.0.0.1:0", "--admin-socket", "none", "--admin", "none")
    level, sentence = findings(machine, *options, "--admin-token", str(missing))["files"]
    assert level == "warning"
    assert sentence.startswith(f"admin.token: '{missing}' cannot be read (no such file or directory)")


def test_a_service_with_other_children_only_is_a_warning(
    environment: dict[str, str], zk: Any, zk_root: str, machine: Machine
) -> None:
    zk.create(f"{zk_root}/staging/web/i-1_0000000003", b'{"host":"10.0.0.1","port":80}', makepath=True)
    found = findings(machine, "--listen", "127.0.0.1:0", **environment)
    assert found["services"] == (
        "warning",
        f"{zk_root}/staging/web has no members, but 1 other child: i-1_0000000003 (nerve)",
    )


def test_an_unreachable_zookeeper_server_is_a_warning_if_others_work(
    environment: dict[str, str], zookeeper: ZooKeeperServer, zk: Any, zk_root: str, machine: Machine
) -> None:
    zk.create(zk_root, makepath=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = f"127.0.0.1:{taken.getsockname()[1]}"
        variables = {**environment, "ZKDNS_ZOOKEEPER": f"{zookeeper.address},{away}"}
        found = findings(machine, "--listen", "127.0.0.1:0", **variables)
    assert found[f"ZooKeeper {zookeeper.address}"] == ("ok", f"grants a session; {zk_root} has 0 znodes")
    assert found[f"ZooKeeper {away}"][0] == "warning"
    assert "connection refused" in found[f"ZooKeeper {away}"][1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read the snapshot of the unit")
def test_root_finds_the_snapshot_of_the_unit(
    environment: dict[str, str], zk: Any, zk_root: str, tmp_path: Path
) -> None:
    zk.create(f"{zk_root}/staging/web/member_0000000000", _MEMBER, makepath=True)
    snapshot = tmp_path / "lib" / "zkdns" / "table"  # /var/lib/zkdns is a link with DynamicUser=
    snapshot.parent.mkdir(parents=True)
    with ZkdnsServer(environment={**environment, "ZKDNS_SNAPSHOT": str(snapshot)}) as server:
        server.wait_ready()
        eventually(snapshot.exists)
    machine = Machine(tmp_path / "machine", "127.0.0.253", {"/var/lib": tmp_path / "lib"})
    level, sentence = findings(machine, "--listen", "127.0.0.1:0", **environment)["snapshot"]
    assert (level, sentence.endswith(" old")) == ("ok", True), sentence


def test_sockets_without_a_responding_server(short_path: Path, machine: Machine) -> None:
    """The socket of a killed server, that of a hanging one, and a missing one."""
    dead, strange, none = (str(short_path / name) for name in ("dead", "strange", "none"))
    arguments = ("--demo", "--listen", "127.0.0.1:0", "--admin", "none", "--admin-socket")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(dead)
    for path, cause in ((dead, "connection refused"), (none, "no such file or directory")):
        found = findings(machine, *arguments, path)
        assert found[f"socket {path}"] == (
            "warning",
            f"no server listens at {path} ({cause})",
        )
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(strange)
        silent.listen()
        level, sentence = findings(machine, *arguments, strange)[f"socket {strange}"]
    assert (level, "does not respond within" in sentence) == ("warning", True)


def test_the_static_file_is_checked_too(tmp_path: Path, machine: Machine) -> None:
    (tmp_path / "services.toml").write_text('[services."web.staging"]\nmembers = ["10.0.0.1"]\n')
    found = findings(machine, "--static", str(tmp_path / "services.toml"))
    assert found.keys() == {"configuration"}
    assert found["configuration"][0] == "wrong"
    assert "services.toml" in found["configuration"][1]


def test_a_terminal_shows_a_coloured_line_for_each_finding(tmp_path: Path) -> None:
    with Terminal(
        "doctor", "--demo", "--listen", "127.0.0.1:1", "--admin-socket", str(tmp_path / "no")
    ) as terminal:
        assert terminal.wait() == 1
        written, lines = terminal.written, terminal.screen.splitlines()
    assert "\x1b[1;31mwrong" in written
    assert lines[0] == "ok       configuration: has no errors"
    (free,) = (line for line in lines if "port 127.0.0.1:1/tcp: " in line)
    assert free.startswith("warning  ")
    (refused,) = (line for line in lines if "127.0.0.1:1 over TCP: " in line)
    assert refused == (
        "wrong    127.0.0.1:1 over TCP: cannot be reached: connection refused; "
        "start zkdns; if it does not start, see its log"
    )
