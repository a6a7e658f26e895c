"""The units at work: a real systemd starts, reloads, restarts, watches and ends zkdns in its sandbox.

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

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

SO_RCVBUFFORCE = 33  # socket(7), which Python does not name
SECONDS = 20.0
RATE = 500
MOST_WAITING = 1200
"""Queries that the socket of the unit holds for sure, by its ReceiveBuffer=."""
NAME = "m0.web.staging.discovery"
MEMBER = b'{"serviceEndpoint":{"host":"10.0.0.1","port":8080},"additionalEndpoints":{},"status":"ALIVE"}'


@pytest.fixture
def network() -> Iterator[Network]:
    """A network of the test's own, where port 53 is free; the test's thread is in it."""
    with new_network() as own, own.entered():
        yield own


def ask(name: str = NAME, host: str = "127.0.0.1", *, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, "A")
    return (dns.query.tcp if tcp else dns.query.udp)(query, host, timeout=SECONDS)


def addresses(name: str) -> set[str]:
    return {str(record) for rrset in ask(name).answer for record in rrset}


def zkdns(machine: BootedSystemd, *arguments: str) -> str:
    """What a command prints that root types."""
    return machine.run("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "zkdns", *arguments)


def findings(machine: BootedSystemd) -> dict[str, str]:
    """What doctor finds for root, who tells it no more than the file; it fails, as no program uses zkdns."""
    python = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "zkdns")
    printed = machine.run(*python, "doctor", "--json", "--config", "/etc/zkdns/zkdns.toml", check=False)
    rows = [json.loads(line) for line in printed.splitlines()]
    return {row["about"]: row["found"] for row in rows}


def wait_for_another(machine: BootedSystemd, pid: str) -> None:
    """Wait until another process than this one is the service, and has told that it is ready."""
    eventually(lambda: machine.show("zkdns.service", "MainPID") not in {pid, "0"}, SECONDS)
    eventually(lambda: machine.show("zkdns.service", "ActiveState") == "active", SECONDS)


def test_what_is_written_in_there_stays_there(tmp_path: Path) -> None:
    """Before anything else: nothing that is booted may do to this machine what boots do."""
    name = f"zkdns-test-{os.getpid()}"
    places = [
        Path("/", *place.split("/"))
        for place in ["tmp", "etc", "root", "dev", "dev/shm", "run", "var/tmp", "opt"]
    ]
    places += [Path("/"), ROOT]
    mine = tmp_path / "mine"
    mine.write_text("")
    with BootedSystemd({}) as machine:
        for place in places:
            machine.run("touch", f"{place}/{name}")
        tree = ROOT.parts[2:3] if ROOT.is_relative_to(places[0]) else ()  # which may be below /tmp itself
        assert set(machine.run("ls", "-A", str(places[0])).splitlines()) == {name, *tree}
        assert machine.run("stat", "-f", "-c", "%T", "/").strip() == "overlayfs"
        assert not [place for place in places if (place / name).exists()]
    assert mine.exists()


@pytest.mark.usefixtures("network")
def test_the_first_query_starts_it_and_it_is_answered() -> None:
    with BootedSystemd(files("demo = true\n")) as machine:
        machine.run("systemctl", "start", "zkdns.socket")
        assert machine.show("zkdns.service", "ActiveState") == "inactive"
        assert ask().answer
        for host in ("127.0.0.1", "::1"):
            for tcp in (False, True):
                assert ask(host=host, tcp=tcp).answer
        eventually(lambda: machine.show("zkdns.service", "ActiveState") == "active")
        eventually(lambda: machine.show("zkdns.service", "StatusText") == "live: 6 services, 13 members")


@pytest.mark.usefixtures("network")
def test_nothing_that_it_needs_is_forbidden() -> None:
    """It runs in the whole sandbox, and complains of nothing; commands of root reach it."""
    with BootedSystemd(files("demo = true\nworkers = 2\n")) as machine:
        machine.run("systemctl", "enable", "--now", "zkdns.socket", "zkdns.service")
        assert zkdns(machine, "dump", "--zone").count("\n") > 10
        machine.run("systemctl", "stop", "zkdns.service")
        assert machine.show("zkdns.service", "Result") == "success"
        log = machine.run("cat", "/etc/zkdns/log")
        assert "server_ready" in log
        told = [line for line in log.splitlines() if re.search(r"\[(warning|error)", line)]
        assert [line for line in told if "host_resolution_failed" not in line] == []


@pytest.mark.usefixtures("network")
def test_no_query_is_lost_over_restarts() -> None:
    query = dns.message.make_query(NAME, "A").to_wire()
    sent: set[int] = set()
    heard: set[int] = set()
    ended = threading.Event()
    with BootedSystemd(files("demo = true\n")) as machine, socket.socket(type=socket.SOCK_DGRAM) as asker:
        machine.run("systemctl", "start", "zkdns.socket", "zkdns.service")
        asker.connect(("127.0.0.1", 53))
        asker.settimeout(SECONDS)
        asker.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 2 << 20)  # for all of their answers at once

        def load() -> None:
            begun = time.monotonic()
            while not ended.is_set():
                if len(sent) - len(heard) >= MOST_WAITING:  # a busy machine takes its time for a restart
                    ended.wait(0.01)
                    continue
                number = len(sent)
                sent.add(number)
                asker.send(number.to_bytes(2) + query[2:])
                ended.wait(max(0.0, begun + len(sent) / RATE - time.monotonic()))

        def hear() -> None:
            while not ended.is_set() or len(heard) < len(sent):
                try:
                    heard.add(int.from_bytes(asker.recv(2000)[:2]))
                except TimeoutError:
                    return

        threads = [threading.Thread(target=work) for work in (load, hear)]
        for thread in threads:
            thread.start()
        try:
            pids = {machine.show("zkdns.service", "MainPID")}
            for _ in range(5):
                machine.run("systemctl", "restart", "zkdns.service")
                pids.add(machine.show("zkdns.service", "MainPID"))
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert len(pids) == 6
    assert len(sent) > RATE
    assert heard == sent


@pytest.mark.usefixtures("network")
def test_who_crashes_is_started_again_and_who_hangs_too() -> None:
    dropin = {"/etc/systemd/system/zkdns.service.d/soon.conf": "[Service]\nWatchdogSec=2\n"}
    with BootedSystemd({**files("demo = true\n"), **dropin}) as machine:
        machine.run("systemctl", "start", "zkdns.socket", "zkdns.service")
        crash = 'kill -KILL "$0"'
        hang = "kill -STOP $(pgrep -f 'zkdns.daemon [a]nswerer')"
        for end in (crash, hang):
            before = machine.show("zkdns.service", "MainPID")
            machine.run("sh", "-c", end, before)
            wait_for_another(machine, before)
            assert ask().answer
        assert int(machine.show("zkdns.service", "NRestarts")) >= 2


@pytest.mark.usefixtures("network")
def test_a_start_without_zookeeper_is_one_too() -> None:
    with BootedSystemd(files('zookeeper.hosts = "127.0.0.1:9"\n')) as machine:
        machine.run("systemctl", "start", "zkdns.socket", "zkdns.service")
        assert machine.show("zkdns.service", "StatusText").startswith("loading the table")
        assert dns.rcode.to_text(ask().rcode()) == "SERVFAIL"


@pytest.mark.usefixtures("network")
def test_a_machines_service_with_credentials_a_snapshot_and_registrations() -> None:
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
            assert found["control /run/zkdns/control"] == "answers"
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
            told = "answers from the snapshot, until ZooKeeper has been read: 2 services, 1 member"
            eventually(lambda: machine.show("zkdns.service", "StatusText") == told, SECONDS)
