"""The servers that are compared: each with one worker, the same zone and a port of its own of 127.0.0.1.

Each is set up as fast as it goes while its answers hold what ours do: the address records of SRV targets
among them, no limit of rates, no rotation (which is zkdns' own extra), no log.
"""

import contextlib
import os
import signal
import socket
import subprocess
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from tests.bench.native import compile_program
from tests.bench.processes import cpu_seconds, family, find_program, pin, running
from tests.bench.served import Client
from tests.bench.zone import (
    TTL,
    ZONE,
    Service,
    to_dnsmasq_lines,
    to_fixed_file,
    to_hosts_file,
    to_zone_file,
)
from tests.support.loopback import free_port
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually

_START_SECONDS = 60.0
_STOP_SECONDS = 1.0
_LOG_TAIL = 2000
_RCODE = 15


class Peer:
    """A server; as a context manager it is started, waited for until it answers, and ended.

    Args:
        services: what it knows.
        directory: where it has a directory of its own below.
        core: where it runs.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    package: ClassVar[str]
    """Debian's and Ubuntu's."""
    is_dns: ClassVar[bool] = True

    def __init__(self, services: Sequence[Service], directory: Path, core: int) -> None:
        self.services = services
        self.directory = directory / self.name
        self.core = core
        self.port = free_port()
        self._stack = contextlib.ExitStack()
        self._pid = 0

    def configure(self) -> list[str]:
        """Write what the server reads; how it is started, in the foreground."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.directory.mkdir()
        log = self.directory / "log"
        process = self._stack.enter_context(running(self.configure(), core=self.core, log=log))
        self._pid = process.pid
        try:
            eventually(lambda: process.poll() is not None or self._is_answering(), _START_SECONDS)
            self._see_that_it_runs(process.poll(), log)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _see_that_it_runs(self, status: int | None, log: Path) -> None:
        if status is not None:
            tail = log.read_text(errors="replace")[-_LOG_TAIL:].strip()
            raise RuntimeError(f"{self.name} has ended with {status}: {tail}")

    def _is_answering(self) -> bool:
        client = Client(self.port, timeout=0.2)
        try:
            answer = client.ask(self.services[-1].owner)
            # The answer may be cut. TCP may be listened at a moment later.
            return answer is not None and answer[3] & _RCODE == 0 and self._is_listening()
        finally:
            client.close()

    def _is_listening(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False

    def pids(self) -> list[int]:
        """The processes whose cost counts."""
        return family(self._pid)

    def rest(self) -> list[int]:
        """Its other processes."""
        return []

    def cpu_seconds(self) -> float:
        """What those that count have used since they began."""
        return cpu_seconds(self.pids())

    def _write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(textwrap.dedent(text))
        return str(path)

    def _program(self) -> str:
        found = find_program(self.program)
        assert found is not None, f"{self.program} was there a moment ago"
        return found


class Echo(Peer):
    """What the kernel itself costs; it knows no DNS."""

    name, program, package = "echo", "cc", "gcc libc6-dev"
    is_dns = False

    def configure(self) -> list[str]:
        program = compile_program("echo", self.directory)
        self.port = free_port()  # another one: meanwhile somebody else could get the first
        return [program, str(self.port)]

    def _is_answering(self) -> bool:
        client = Client(self.port, timeout=0.2)
        try:
            return client.ask("echo") is not None
        finally:
            client.close()


class Knot(Peer):
    name, program, package = "knot", "knotd", "knot"

    def configure(self) -> list[str]:
        zone = self._write("zone", to_zone_file(self.services))
        text = f"""\
            server:
                rundir: "{self.directory}"
                listen: 127.0.0.1@{self.port}
                udp-workers: 1
                tcp-workers: 1
                background-workers: 1
                tcp-max-clients: 200
                tcp-io-timeout: 0
            log:
              - target: stderr
                any: warning
            database:
                storage: "{self.directory}"
            zone:
              - domain: {ZONE}
                file: "{zone}"
                journal-content: none
                semantic-checks: off
            """
        return [self._program(), "-c", self._write("knot.conf", text)]


class Nsd(Peer):
    """With the targets' addresses come the zone's NS record and its address: it leaves out all or none."""

    name, program, package = "nsd", "nsd", "nsd"
    ttl: ClassVar[int] = TTL
    is_minimal: ClassVar[bool] = False

    def configure(self) -> list[str]:
        zone = self._write("zone", to_zone_file(self.services, ttl=self.ttl))
        text = f"""\
            server:
                ip-address: 127.0.0.1@{self.port}
                server-count: 1
                tcp-count: 200
                username: ""
                chroot: ""
                zonesdir: "{self.directory}"
                database: ""
                zonelistfile: "{self.directory}/zone.list"
                xfrdfile: "{self.directory}/xfrd.state"
                xfrdir: "{self.directory}"
                pidfile: "{self.directory}/pid"
                verbosity: 0
                minimal-responses: {"yes" if self.is_minimal else "no"}
                rrl-ratelimit: 0
            remote-control:
                control-enable: no
            zone:
                name: {ZONE}
                zonefile: "{zone}"
            """
        return [self._program(), "-d", "-c", self._write("nsd.conf", text)]


class Unbound(Peer):
    """As an authority: what stands in local-data is answered without the targets' addresses."""

    name, program, package = "unbound", "unbound", "unbound"

    def configure(self) -> list[str]:
        zone = self._write("zone", to_zone_file(self.services))
        text = f"""\
            server:
                interface: 127.0.0.1@{self.port}
                num-threads: 1
                incoming-num-tcp: 200
                do-daemonize: no
                username: ""
                chroot: ""
                directory: "{self.directory}"
                pidfile: "{self.directory}/pid"
                use-syslog: no
                verbosity: 0
                access-control: 127.0.0.0/8 allow
                minimal-responses: no
                rrset-roundrobin: no
                module-config: "iterator"
            remote-control:
                control-enable: no
            auth-zone:
                name: {ZONE}
                zonefile: "{zone}"
                for-downstream: yes
                for-upstream: no
            """
        return [self._program(), "-d", "-c", self._write("unbound.conf", text)]


class Dnsmasq(Peer):
    """Looks an SRV record up in a list of them all, so it is slow with many."""

    name, program, package = "dnsmasq", "dnsmasq", "dnsmasq-base"

    def configure(self) -> list[str]:
        hosts = self._write("hosts", to_hosts_file(self.services))
        text = f"""\
            listen-address=127.0.0.1
            bind-interfaces
            port={self.port}
            local=/{ZONE}/
            no-resolv
            no-hosts
            addn-hosts={hosts}
            edns-packet-max=1232
            """
        configuration = textwrap.dedent(text) + to_dnsmasq_lines(self.services)
        path = self._write("dnsmasq.conf", configuration)
        options = ("--keep-in-foreground", f"--conf-file={path}", "--user=", "--group=", "--pid-file=")
        return [self._program(), *options, "--log-facility=-"]


class Zkdns(Peer):
    """`zkdns serve` from a fixed file, or from where `arguments` say. Its worker's cost counts.

    Args:
        services: what it knows.
        directory: where it has a directory of its own below.
        core: where its worker runs.
        arguments: of the command; `--static` with the services unless given.
        rest_core: where watcher and supervisor run; with the worker unless given.
    """

    name, program, package = "zkdns", "sh", ""

    def __init__(
        self,
        services: Sequence[Service],
        directory: Path,
        core: int,
        *,
        arguments: Sequence[str] = (),
        rest_core: int | None = None,
    ) -> None:
        super().__init__(services, directory, core)
        self._arguments = arguments
        self._rest_core = core if rest_core is None else rest_core
        self._server: ZkdnsServer
        self.worker = 0

    def __enter__(self) -> Self:
        self.directory.mkdir()
        source = self._arguments or ("--static", self._write("services.toml", to_fixed_file(self.services)))
        # At level debug it tells which process is which, and nothing of queries.
        quiet = ("--log-level", "debug", "--admin", "none", "--listen", f"127.0.0.1:{self.port}")
        server = ZkdnsServer(*source, *quiet, environment={"TMPDIR": str(self.directory)})
        self._server = self._stack.enter_context(server)
        self._stack.callback(self._terminate)
        try:
            self._server.wait_ready(_START_SECONDS)
            eventually(self._is_answering, _START_SECONDS)
            self.worker = self._server.pid_of("worker")
            pin(self.rest(), self._rest_core)
            pin(self.pids(), self.core)
        except BaseException:
            self._stack.close()
            raise
        return self

    def _terminate(self) -> None:
        """End all its processes: by themselves, or else at once; nobody who pressed Ctrl-C is to wait."""
        process = self._server.process
        pids = family(process.pid)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        return [self.worker]

    def rest(self) -> list[int]:
        return [pid for pid in family(self._server.process.pid) if pid != self.worker]
