"""Setup and doctor in a separate network, where resolv.conf is a mount point, as in containers.

A mount point cannot be replaced by another file.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.host.trees import AT_5300, everything, make_tree, set_up
from tests.support.machine import Machine
from tests.support.network import ip, new_network
from tests.support.process_guard import running
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

SERVICE, ADDRESS = "web.staging.discovery", "192.0.2.1"
_SERVICES = f'[services."web.staging"]\nmembers = ["{ADDRESS}:80"]\n'


class SetupMachine(Machine):
    """A machine with a directory for the journal of setup."""

    def __init__(self, directory: Path, nameserver: str) -> None:
        self.saved = directory / "saved"
        self.saved.mkdir(parents=True)
        self.hosts = directory / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        super().__init__(
            directory / "machine", nameserver, {"/var/lib": self.saved, "/etc/hosts": self.hosts}
        )
        self.configure("options timeout:5 attempts:1")
        self.resolv_conf = directory / "machine" / "resolv.conf"

    def zkdns(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a zkdns command on this machine."""
        return self.run(sys.executable, "-m", "zkdns", *arguments)

    def findings(self, *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
        """Run the doctor; return its exit status, and level and text of its findings by subject."""
        ended = self.zkdns("doctor", "--json", *arguments)
        rows = map(json.loads, ended.stdout.splitlines())
        return ended.returncode, {row["about"]: (row["level"], row["found"]) for row in rows}

    def finds(self, name: str) -> set[str]:
        """The addresses of a name for programs."""
        return {line.split()[0] for line in self.run("getent", "ahosts", name).stdout.splitlines()}


@pytest.fixture
def network() -> Iterator[None]:
    if shutil.which("getent") is None:
        pytest.skip("needs getent")
    with new_network() as created, created.entered():
        ip("addr add 192.0.2.99/32 dev lo")
        yield


@pytest.fixture
def machine(network: None, tmp_path: Path) -> SetupMachine:
    """A machine with an unreachable resolver."""
    del network
    machine = SetupMachine(tmp_path / "machine", "198.51.100.53")
    machine.resolv_conf.write_text(machine.resolv_conf.read_text().replace("search staging.discovery\n", ""))
    return machine


@pytest.fixture
def server(network: None, tmp_path: Path) -> Iterator[ZkdnsServer]:
    del network
    (tmp_path / "services.toml").write_text(_SERVICES)
    with ZkdnsServer("--static", str(tmp_path / "services.toml"), "--listen", "127.0.0.1:53") as started:
        yield started.wait_ready()


def settings(server: ZkdnsServer, directory: Path) -> tuple[str, ...]:
    """The doctor's arguments for this server."""
    admin = server.admin.removeprefix("http://")
    return "--static", str(directory / "services.toml"), "--admin-socket", server.api, "--admin", admin


def test_programs_find_services_after_setup_and_undo_restores_all_files(
    machine: SetupMachine, server: ZkdnsServer, tmp_path: Path
) -> None:
    before = machine.resolv_conf.read_bytes()
    assert machine.finds(SERVICE) == set()
    status, found = machine.findings(*settings(server, tmp_path))
    assert status == 1
    assert found["/etc/resolv.conf"] == ("wrong", "names 198.51.100.53, which does not lead to zkdns")
    assert found["end to end"][0] == "wrong"

    apply = ("setup", "--admin-socket", server.api, "--search", "staging.discovery", "--apply", "--yes")
    ended = machine.zkdns(*apply)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{SERVICE}: programs on this machine find {ADDRESS}" in ended.stdout
    assert "is a mount point, as in containers" in ended.stdout
    assert machine.finds(SERVICE) == machine.finds("web") == {ADDRESS}
    assert b"nameserver 127.0.0.1\n" in machine.resolv_conf.read_bytes()

    status, found = machine.findings(*settings(server, tmp_path))
    assert status == 0, found
    assert {level for level, _ in found.values()} == {"ok"}
    assert found["end to end"] == ("ok", f"{SERVICE}: programs on this machine find {ADDRESS}")
    assert found["short names"] == ("ok", "web resolves as web.staging.discovery")
    for transport in ("udp", "tcp"):
        assert found[f"port 127.0.0.1:53/{transport}"][1].startswith("zkdns has it (pid ")

    machine.hosts.write_text(f"203.0.113.7 {SERVICE}\n")
    status, found = machine.findings(*settings(server, tmp_path))
    assert (status, found["end to end"][0]) == (1, "wrong")
    assert "find 203.0.113.7, which zkdns does not serve" in found["end to end"][1]
    machine.hosts.write_text("")

    ended = machine.zkdns("setup", "--undo", "--yes")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert machine.resolv_conf.read_bytes() == before
    assert everything(machine.saved) == {}
    assert machine.finds(SERVICE) == set()


_CHECK = """\
import sys
from zkdns.address import HostPort
from zkdns.host.end_to_end import check_end_to_end
print(check_end_to_end([HostPort("127.0.0.1", 53)], "discovery", sys.argv[1], seconds=20.0).is_ok)
"""


def test_end_to_end_check_is_retried_while_programs_reread_their_files(
    machine: SetupMachine, server: ZkdnsServer
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.9", 53))
        silent.settimeout(10.0)
        machine.resolv_conf.write_text("nameserver 127.0.0.9\noptions timeout:1 attempts:1\n")
        command = [*machine.prefix, sys.executable, "-c", _CHECK, server.api]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as checking:
            try:
                silent.recv(512)  # the first attempt gets no response
                machine.resolv_conf.write_text("nameserver 127.0.0.1\n")
                assert checking.communicate(timeout=20)[0] == "True\n"
            finally:
                checking.kill()


def test_doctor_names_the_program_that_has_the_port(machine: SetupMachine) -> None:
    with ExitStack() as stack:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = stack.enter_context(socket.socket(socket.AF_INET, kind))
            sock.bind(("127.0.0.1", 53))
            if kind == socket.SOCK_STREAM:
                sock.listen()
        status, found = machine.findings("--demo", "--listen", "127.0.0.1:53")
    assert status == 1
    for transport in ("udp", "tcp"):
        level, sentence = found[f"port 127.0.0.1:53/{transport}"]
        assert (level, f"(pid {os.getpid()}), which listens on 127.0.0.1:53" in sentence) == ("wrong", True)


def test_doctor_reports_a_server_before_zkdns_and_rotate(
    machine: SetupMachine, server: ZkdnsServer, tmp_path: Path
) -> None:
    (tmp_path / "other.toml").write_text('[services."www.all"]\nmembers = ["198.51.100.1:80"]\n')
    other = ("--static", str(tmp_path / "other.toml"), "--zone", "example", "--listen", "127.0.0.2:53")
    with ZkdnsServer(*other) as other_server:
        other_server.wait_ready()
        machine.resolv_conf.write_text("nameserver 127.0.0.2\nnameserver 127.0.0.1\n")
        status, found = machine.findings(*settings(server, tmp_path))
        assert (status, found["/etc/resolv.conf"][0]) == (1, "wrong")
        assert found["/etc/resolv.conf"][1].startswith("names 127.0.0.2 before zkdns")
        machine.resolv_conf.write_text("nameserver 127.0.0.1\nnameserver 127.0.0.2\noptions rotate\n")
        status, found = machine.findings(*settings(server, tmp_path))
        assert (status, found["/etc/resolv.conf"][0]) == (1, "wrong")
        assert "options rotate" in found["/etc/resolv.conf"][1]


def test_doctor_reports_that_zkdns_has_no_upstream_but_itself(
    machine: SetupMachine, server: ZkdnsServer
) -> None:
    del server
    machine.resolv_conf.write_text("nameserver 127.0.0.1\n")
    status, found = machine.findings("--demo", "--listen", "127.0.0.1:53", "--upstream", "auto")
    assert status == 1
    assert found["upstreams"] == (
        "wrong",
        "zkdns is the only server in the files of this machine, so it has no upstream",
    )


def test_doctor_reports_all_errors_of_a_configuration(machine: SetupMachine) -> None:
    ended = machine.zkdns("doctor", "--json", "--zone", "a b", "--workers", "none")
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 1
    assert [(row["about"], row["level"]) for row in rows] == [("configuration", "wrong")] * 2


def test_dnsmasq_forwards_the_zone_after_setup(network: None, tmp_path: Path) -> None:
    """It caches positive and negative responses only briefly."""
    del network
    dnsmasq = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin")
    if dnsmasq is None:
        pytest.skip("needs dnsmasq")
    files = {"/etc/resolv.conf": "nameserver 127.0.0.1\n", "/etc/dnsmasq.conf": "conf-dir=/etc/dnsmasq.d\n"}
    tree = make_tree(tmp_path / "root", files)
    assert set_up(tree, AT_5300).manager == "dnsmasq"
    services = tmp_path / "services.toml"
    services.write_text(_SERVICES)
    command = [
        dnsmasq, "--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root",
        "--listen-address=127.0.0.1", "--bind-interfaces", "--stop-dns-rebind", "--conf-file=/dev/null",
        "--pid-file=", f"--conf-dir={tree.at('/etc/dnsmasq.d')}",
    ]  # fmt: skip
    machine = SetupMachine(tmp_path / "machine", "127.0.0.1")
    arguments = ("--static", str(services), "--listen", "127.0.0.1:5300", "--negative-ttl", "1")
    with ZkdnsServer(*arguments) as server, running(command, tmp_path / "log"):
        server.wait_ready()
        eventually(lambda: machine.finds(SERVICE) == {ADDRESS})
        assert machine.finds("new.staging.discovery") == set()
        services.write_text(_SERVICES + '[services."new.staging"]\nmembers = ["10.0.0.1:80"]\n')
        eventually(lambda: machine.finds("new.staging.discovery") == {"10.0.0.1"})
