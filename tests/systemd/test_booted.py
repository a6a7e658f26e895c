"""The units in a real systemd: start, restart, watchdog, sandbox and credentials.

It is booted in separate namespaces (tests/support/booted_systemd.py); without these, all tests are skipped.
"""

import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl

from tests.support.booted_systemd import BootedSystemd
from tests.support.network import Network, new_network
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.systemd.service_files import ROOT, files

pytestmark = pytest.mark.processes

SO_RCVBUFFORCE = 33  # see socket(7); not in the socket module
SECONDS = 20.0
RATE = 500
MAX_WAITING = 1200
"""The number of queries that certainly fit into the socket buffer (ReceiveBuffer= of the unit)."""
NAME = "m0.web.staging.discovery"
MEMBER = b'{"serviceEndpoint":{"host":"10.0.0.1","port":8080},"additionalEndpoints":{},"status":"ALIVE"}'


@pytest.fixture
def network() -> Iterator[Network]:
    """A separate network for this thread, where port 53 is free."""
    with new_network() as created, created.entered():
        yield created


def query(name: str = NAME, host: str = "127.0.0.1", *, tcp: bool = False) -> dns.message.Message:
    message = dns.message.make_query(name, "A")
    return (dns.query.tcp if tcp else dns.query.udp)(message, host, timeout=SECONDS)


def addresses(name: str) -> set[str]:
    return {str(record) for rrset in query(name).answer for record in rrset}


def zkdns(machine: BootedSystemd, *arguments: str) -> str:
    """Run a zkdns command as root, and return its standard output."""
    return machine.run("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "zkdns", *arguments)


def findings(machine: BootedSystemd) -> dict[str, str]:
    """The findings of `zkdns doctor` as root with the installed configuration.

    It fails: resolv.conf is not set up.
    """
    python = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "zkdns")
    printed = machine.run(*python, "doctor", "--json", "--config", "/etc/zkdns/zkdns.toml", check=False)
    rows = [json.loads(line) for line in printed.splitlines()]
    return {row["about"]: row["found"] for row in rows}


def wait_for_new_process(machine: BootedSystemd, pid: str) -> None:
    """Wait until the service has a new main process, and is active."""
    eventually(lambda: machine.show("zkdns.service", "MainPID") not in {pid, "0"}, SECONDS)
    eventually(lambda: machine.show("zkdns.service", "ActiveState") == "active", SECONDS)


def test_booted_systemd_does_not_change_this_machine(tmp_path: Path) -> None:
    """Writes in the booted system must not be visible outside. This test runs before the others."""
    name = f"zkdns-test-{os.getpid()}"
    directories = [
        Path("/", *directory.split("/"))
        for directory in ["tmp", "etc", "root", "dev", "dev/shm", "run", "var/tmp", "opt"]
    ]
    directories += [Path("/"), ROOT]
    existing = tmp_path / "existing"
    existing.write_text("")
    with BootedSystemd({}) as machine:
        for directory in directories:
            machine.run("touch", f"{directory}/{name}")
        tree = ROOT.parts[2:3] if ROOT.is_relative_to(directories[0]) else ()  # this tree may be below /tmp
        assert set(machine.run("ls", "-A", str(directories[0])).splitlines()) == {name, *tree}
        assert machine.run("stat", "-f", "-c", "%T", "/").strip() == "overlayfs"
        assert not [directory for directory in directories if (directory / name).exists()]
    assert existing.exists()


@pytest.mark.usefixtures("network")
def test_first_query_starts_the_service_and_is_answered() -> None:
    with BootedSystemd(files("demo = true\n")) as machine:
        machine.run("systemctl", "start", "zkdns.socket")
        assert machine.show("zkdns.service", "ActiveState") == "inactive"
        assert query().answer
        for host in ("127.0.0.1", "::1"):
            for tcp in (False, True):
                assert query(host=host, tcp=tcp).answer
        eventually(lambda: machine.show("zkdns.service", "ActiveState") == "active")
        eventually(lambda: machine.show("zkdns.service", "StatusText") == "live: 6 services, 13 members")


@pytest.mark.usefixtures("network")
def test_service_runs_in_the_sandbox_without_warnings() -> None:
    """It logs no warnings, and commands of root can connect to it."""
    with BootedSystemd(files("demo = true\nworkers = 2\n")) as machine:
        machine.run("systemctl", "enable", "--now", "zkdns.socket", "zkdns.service")
        assert zkdns(machine, "dump", "--zone").count("\n") > 10
        machine.run("systemctl", "stop", "zkdns.service")
        assert machine.show("zkdns.service", "Result") == "success"
        log = machine.run("cat", "/etc/zkdns/log")
        assert "server_ready" in log
        warnings = [line for line in log.splitlines() if re.search(r"\[(warning|error)", line)]
        assert [line for line in warnings if "host_resolution_failed" not in line] == []


@pytest.mark.usefixtures("network")
def test_no_query_is_lost_during_restarts() -> None:
    query = dns.message.make_query(NAME, "A").to_wire()
    sent: set[int] = set()
    answered: set[int] = set()
    ended = threading.Event()
    with BootedSystemd(files("demo = true\n")) as machine, socket.socket(type=socket.SOCK_DGRAM) as client:
        machine.run("systemctl", "start", "zkdns.socket", "zkdns.service")
        client.connect(("127.0.0.1", 53))
        client.settimeout(SECONDS)
        client.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 2 << 20)  # room for all responses at once

        def send_queries() -> None:
            started_at = time.monotonic()
            while not ended.is_set():
                if len(sent) - len(answered) >= MAX_WAITING:  # restarts are slow on a busy machine
                    ended.wait(0.01)
                    continue
                number = len(sent)
                sent.add(number)
                client.send(number.to_bytes(2) + query[2:])
                ended.wait(max(0.0, started_at + len(sent) / RATE - time.monotonic()))

        def receive_responses() -> None:
            while not ended.is_set() or len(answered) < len(sent):
                try:
                    answered.add(int.from_bytes(client.recv(2000)[:2]))
                except TimeoutError:
                    return

        threads = [threading.Thread(target=work) for work in (send_queries, receive_responses)]
        for thread in threads:
            thread.start()
        try:
            pids = {machine.show("zkdns.service", "MainPID")}
            for _ in range(3):
                machine.run("systemctl", "restart", "zkdns.service")
                pids.add(machine.show("zkdns.service", "MainPID"))
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert len(pids) == 4
    assert len(sent) > RATE
    assert answered == sent


@pytest.mark.usefixtures("network")
def test_service_is_restarted_after_a_crash_and_a_hang() -> None:
    dropin = {"/etc/systemd/system/zkdns.service.d/soon.conf": "[Service]\nWatchdogSec=2\n"}
    with BootedSystemd({**files("demo = true\n"), **dropin}) as machine:
        machine.run("systemctl", "start", "zkdns.socket", "zkdns.service")
        crash = 'kill -KILL "$0"'
        hang = "kill -STOP $(pgrep -f 'zkdns.daemon [w]orker')"
        for end in (crash, hang):
            before = machine.show("zkdns.service", "MainPID")
            machine.run("sh", "-c", end, before)
            wait_for_new_process(machine, before)
            eventually(lambda: query().answer)
        assert int(machine.show("zkdns.service", "NRestarts")) >= 2


@pytest.mark.usefixtures("network")
def test_service_starts_without_zookeeper() -> None:
    with BootedSystemd(files('zookeeper.hosts = "127.0.0.1:9"\n')) as machine:
        machine.run("systemctl", "start", "zkdns.socket", "zkdns.service")
        assert machine.show("zkdns.service", "StatusText").startswith("loading the table")
        assert dns.rcode.to_text(query().rcode()) == "SERVFAIL"


@pytest.mark.usefixtures("network")
def test_service_with_credentials_a_snapshot_and_a_registration() -> None:
    credentials = {
        "/etc/zkdns/zookeeper.toml": 'digest = "user:password"\n',
        "/etc/systemd/system/zkdns.service.d/credentials.conf": (
            "[Service]\nLoadCredential=zookeeper.toml:/etc/zkdns/zookeeper.toml\n"
        ),
        "/etc/zkdns/register/api.env": "ENVIRONMENT=staging\nPORT=9000\nOPTIONS=--host 10.0.0.9 --shard 3\n",
    }
    with ZooKeeperServer() as zookeeper:
        client = KazooClient(hosts=zookeeper.address)
        client.start()
        client.ensure_path("/discovery/staging/web")
        closed = [make_digest_acl("user", "password", all=True)]
        client.create("/discovery/staging/web/member_0000000001", MEMBER, acl=closed)
        client.set_acls("/discovery", closed)
        configuration = files(f'zookeeper.hosts = "{zookeeper.address}"\n')
        with BootedSystemd({**configuration, **credentials}) as machine:
            machine.run("systemctl", "start", "zkdns.socket", "zkdns.service", "zkdns-register@api.service")
            assert addresses("web.staging.discovery") == {"10.0.0.1"}
            eventually(lambda: addresses("s3.api.staging.discovery") == {"10.0.0.9"}, SECONDS)
            live = "live: 2 services, 2 members; ZooKeeper connected"
            eventually(lambda: machine.show("zkdns.service", "StatusText") == live, SECONDS)
            found = findings(machine)
            assert found["socket /run/zkdns/api"] == "responds"
            assert found["snapshot"].endswith(" old")
            assert found[f"ZooKeeper {zookeeper.address}"].startswith(
                "grants a session; /discovery has 1 znode"
            )
            machine.run("systemctl", "stop", "zkdns-register@api.service")
            eventually(lambda: addresses("api.staging.discovery") == set(), SECONDS)
            machine.run("systemctl", "stop", "zkdns.service")
            client.stop()
            client.close()
            zookeeper.stop()
            machine.run("systemctl", "start", "zkdns.service")
            assert addresses("web.staging.discovery") == {"10.0.0.1"}
            status = "serving the snapshot until ZooKeeper has been read: 2 services, 1 member"
            eventually(lambda: machine.show("zkdns.service", "StatusText") == status, SECONDS)
