"""Every example in the help of the commands is run, on a machine with the names and files that it uses.

The machine has a network and a mount namespace of its own, ZooKeeper at port 2181 of zk01 to zk03, and three
servers: that of the machine itself, `dns2`, and `dns1.example.com` with HTTPS and a token.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from kazoo.client import KazooClient

from tests.support.network import Network, bind_mount_prefix, new_network, nft, skip_without_nft
from tests.support.process_guard import running, running_guarded
from tests.support.reference import commands
from tests.support.server import ZkdnsServer
from tests.support.waiting import PATIENCE, eventually
from tests.support.web import make_certificate
from tests.support.zookeeper import ZooKeeperServer
from zkdns.cli.command import Command
from zkdns.cli.statuses import ExitStatus

pytestmark = pytest.mark.processes

ZOOKEEPER = "zk01:2181,zk02:2181,zk03:2181"
SERVICE = "/discovery/staging/web"
MEMBERS = [f"{SERVICE}/member_{number:010}" for number in (316, 317, 318)]
_MEMBER = '{{"serviceEndpoint": {{"host": "127.0.0.1", "port": {}}}, "status": "ALIVE"}}'
_HOSTS = """\
127.0.0.1 localhost zk01 zk02 zk03
127.0.0.2 dns1
127.0.0.3 dns2
127.0.0.4 dns1.example.com
"""
_SERVE = "zkdns serve"
EXAMPLES = [
    example.command
    for command in commands().values()
    if isinstance(command, Command)
    for example in command.examples
]


class Ended(NamedTuple):
    """The end of an example."""

    status: int
    text: str


class Place:
    """The machine: its files, its network with ZooKeeper, and the members of `web.staging`.

    Attributes:
        home: the working directory of the examples.
        client: a client of ZooKeeper.
    """

    def __init__(self, directory: Path, client: KazooClient) -> None:
        self.client = client
        self.home = directory / "home"
        self.certificates = directory / "certificates"
        programs = directory / "bin"
        for path in (self.home, self.certificates, programs, directory / "run/zkdns", directory / "lib"):
            path.mkdir(parents=True)
        etc = directory / "etc"
        shutil.copytree("/etc", etc, symlinks=True, ignore=lambda *_: {"resolv.conf", "hosts"})
        (etc / "hosts").write_text(_HOSTS)
        (etc / "resolv.conf").write_text("nameserver 192.0.2.53\n")
        (etc / "zkdns").mkdir(exist_ok=True)
        for config in (etc / "zkdns/zkdns.toml", self.home / "zkdns.toml"):
            config.write_text(f'[zookeeper]\nhosts = "{ZOOKEEPER}"\n\n[forward]\nupstreams = ["127.0.0.9"]\n')
        token = self.home / "token"
        token.write_text("0123456789abcdef0123456789abcdef\n")
        token.chmod(0o600)
        script(programs / "zkdns", f'exec {sys.executable} -m zkdns "$@"')
        script(self.home / "server", "exec sleep 1")
        (self.home / "health").write_text("ok\n")
        for completions in (".local/share/bash-completion/completions", ".config/fish/completions"):
            (self.home / completions).mkdir(parents=True)
        make_certificate(self.certificates, "dns1.example.com")
        self._prefix = bind_mount_prefix(
            {"/etc": etc, "/run": directory / "run", "/var/lib": directory / "lib"}
        )
        own = {name: value for name, value in os.environ.items() if not name.startswith("ZKDNS_")}
        self._environment = {
            **own,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "SSL_CERT_FILE": str(self.certificates / "certificate.pem"),
            "TERM": "xterm",
        }

    def server(self, address: str, **settings: str) -> ZkdnsServer:
        """A server of this machine at port 53 of an address, and at 127.0.0.1:5300 if that is 127.0.0.1."""
        listen = f"{address}:53,127.0.0.1:5300" if address == "127.0.0.1" else f"{address}:53"
        variables = {"LISTEN": listen, "ADMIN": f"{address}:9153", "UPSTREAM": "127.0.0.9", **settings}
        return ZkdnsServer(
            "--zookeeper",
            ZOOKEEPER,
            environment={f"ZKDNS_{name}": value for name, value in variables.items()},
            cwd=self.home,
            prefix=self._prefix,
        )

    def run(self, example: str) -> Ended:
        """Run an example until it ends."""
        ended = subprocess.run(
            [*self._prefix, "sh", "-c", example],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd=self.home,
            timeout=PATIENCE,
            text=True,
        )
        return Ended(ended.returncode, ended.stdout)

    def run_until(self, example: str, condition: Callable[[str], object]) -> Ended:
        """Run an example until the condition holds for its output; then end it as Ctrl-C would."""
        log = self.home / "log"
        with (
            log.open("wb") as out,
            running_guarded(
                [*self._prefix, "sh", "-c", f"exec {example}"],
                stdout=out,
                stderr=out,
                env=self._environment,
                cwd=self.home,
            ) as process,
        ):
            try:
                eventually(lambda: process.poll() is not None or condition(log.read_text()), PATIENCE)
            except AssertionError as error:
                error.add_note(log.read_text())
                raise
            process.send_signal(signal.SIGINT)
            return Ended(process.wait(PATIENCE), log.read_text())

    def run_in_terminal(self, example: str, shown: bytes, key: bytes) -> Ended:
        """Run an example in a terminal, press a key once it has shown this, and wait for its end."""
        master, slave = pty.openpty()
        with running_guarded(
            [*self._prefix, "sh", "-c", f"exec {example} <{os.ttyname(slave)}"],
            stdout=slave,
            stderr=slave,
            env=self._environment,
            cwd=self.home,
        ) as process:
            os.close(slave)
            output = b""
            while shown not in output:
                assert select.select([master], [], [], PATIENCE)[0], output
                output += os.read(master, 65536)
            os.write(master, key)
            status = process.wait(PATIENCE)
        os.close(master)
        return Ended(status, output.decode())

    def create_members(self) -> None:
        """Create the members that do not exist."""
        for port, path in enumerate(MEMBERS, 8081):
            if not self.client.exists(path):
                self.client.create(path, _MEMBER.format(port).encode(), makepath=True)

    def delete_members(self) -> None:
        """Delete all members."""
        for path in self.client.get_children(SERVICE):
            self.client.delete(f"{SERVICE}/{path}")


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with new_network() as own, own.entered():
        skip_without_nft()
        yield own


@pytest.fixture(scope="module")
def place(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:  # noqa: ARG001 - entered
    with ZooKeeperServer() as zookeeper:
        nft(
            "table ip nat {\n chain output {\n  type nat hook output priority -100;\n"
            f"  tcp dport 2181 redirect to :{zookeeper.port}\n }}\n}}\n"
        )
        client = KazooClient("127.0.0.1:2181")
        client.start(timeout=PATIENCE)
        made = Place(tmp_path_factory.mktemp("machine"), client)
        made.create_members()
        yield made
        client.stop()
        client.close()


@pytest.fixture(scope="module")
def servers(place: Place) -> Iterator[None]:
    """The servers of the examples, and an HTTP server with the page /health."""
    token = {"ADMIN_TOKEN": "token"}
    tls = {
        "ADMIN_CERTIFICATE": str(place.certificates / "certificate.pem"),
        "ADMIN_KEY": str(place.certificates / "key.pem"),
        "ADMIN_NAMES": "dns1.example.com",
    }
    with ExitStack() as stack:
        command = [sys.executable, "-m", "http.server", "8080", "--directory", str(place.home)]
        stack.enter_context(running(command, place.home / "health.log"))
        for server in (
            place.server("127.0.0.1", ADMIN_SOCKET="/run/zkdns/api"),
            place.server("127.0.0.2", ADMIN_NAMES="dns1"),
            place.server("127.0.0.3", ADMIN_NAMES="dns2"),
            place.server("127.0.0.4", **token, **tls),
        ):
            stack.enter_context(server).wait_ready()
        place.client.delete(MEMBERS[-1])
        place.create_members()
        yield


@pytest.mark.parametrize("example", [one for one in EXAMPLES if one.startswith(_SERVE)])
def test_examples_of_serve(place: Place, example: str) -> None:
    ended = place.run_until(example, lambda text: "server_ready" in text)
    assert ended.status == ExitStatus.SUCCESS, ended.text


# How examples that do not end by themselves are run, and which part of the output is awaited.
UNTIL = {
    "zkdns history --follow --json": "member_0000000318",
    "zkdns register web.staging --port 8080 --check http:/health": "member_registered",
    "zkdns watch web.staging": "member_0000000318",
}
# Examples that need a terminal: the output to wait for, and the keys to press.
IN_TERMINAL = {
    "zkdns top": (b"queries/s", b"q"),
    "zkdns setup --search staging.discovery --apply": (b"[y/N]", b"y\n"),
    "zkdns setup --undo": (b"[y/N]", b"y\n"),
}
STATUS = {
    # Here no upstream responds, and no members are held.
    "zkdns lookup example.com AAAA --dns 127.0.0.1:5300": ExitStatus.NEGATIVE,
    "zkdns accept web.staging": ExitStatus.NEGATIVE,
    "zkdns accept --all": ExitStatus.NEGATIVE,
    "zkdns doctor --config /etc/zkdns/zkdns.toml": ExitStatus.NEGATIVE,
    "zkdns doctor --json": ExitStatus.NEGATIVE,
}


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("example", [one for one in EXAMPLES if not one.startswith(_SERVE)])
def test_examples(place: Place, example: str) -> None:
    if example.endswith("--gone"):
        place.delete_members()
    if example in UNTIL:
        ended = place.run_until(example, lambda text: UNTIL[example] in text)
    elif "--exec" in example:
        endpoints = place.home / "endpoints"
        ended = place.run_until(
            example, lambda _: endpoints.exists() and "127.0.0.1:8081" in endpoints.read_text()
        )
    elif example in IN_TERMINAL:
        ended = place.run_in_terminal(example, *IN_TERMINAL[example])
    else:
        ended = place.run(example)
    assert ended.status == STATUS.get(example, ExitStatus.SUCCESS), ended.text
    place.create_members()
