"""The compared servers: each has one worker, the same zone, and its own port on 127.0.0.1.

Each is configured for speed, with the same answers as zkdns: addresses of SRV targets included, no rate limit
and no log. The other servers do not rotate records.
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

from tests.bench.c_programs import compile_program
from tests.bench.processes import cpu_seconds, family, find_program, pin, running
from tests.bench.zkdns_process import UdpClient
from tests.bench.zone import (
    TTL,
    ZONE,
    Service,
    to_dnsmasq_lines,
    to_hosts_file,
    to_static_file,
    to_zone_file,
)
from tests.support.dns_programs import knot_settings, nsd_settings, unbound_settings
from tests.support.loopback import free_port
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually

_START_SECONDS = 60.0
_STOP_SECONDS = 1.0
_LOG_TAIL = 2000
_RCODE = 15


class Peer:
    """A server. As a context manager it starts, waits for the first answer, and is killed at the end.

    Args:
        services: the services it serves.
        directory: parent of the server's own directory.
        core: the CPU it runs on.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    package: ClassVar[str]
    """Name of the Debian and Ubuntu package."""
    is_dns: ClassVar[bool] = True

    def __init__(self, services: Sequence[Service], directory: Path, core: int) -> None:
        self.services = services
        self.directory = directory / self.name
        self.core = core
        self.port = free_port()
        self._stack = contextlib.ExitStack()
        self._pid = 0

    def configure(self) -> list[str]:
        """Write the configuration and return the command that runs the server in the foreground."""
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
            raise RuntimeError(f"{self.name} exited with status {status}: {tail}")

    def _is_answering(self) -> bool:
        client = UdpClient(self.port, timeout=0.2)
        try:
            answer = client.query(self.services[-1].owner)
            # The answer may be truncated. TCP may start a moment later than UDP.
            return answer is not None and answer[3] & _RCODE == 0 and self._is_listening()
        finally:
            client.close()

    def _is_listening(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False

    def pids(self) -> list[int]:
        """The processes of which the CPU time is measured."""
        return family(self._pid)

    def other_pids(self) -> list[int]:
        """The other processes of the server."""
        return []

    def cpu_seconds(self) -> float:
        """CPU time of the measured processes since their start."""
        return cpu_seconds(self.pids())

    def _write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(textwrap.dedent(text))
        return str(path)

    def _program(self) -> str:
        found = find_program(self.program)
        assert found is not None, f"{self.program} was removed during the benchmark"
        return found


class Echo(Peer):
    """echo.c, which returns each datagram: the cost of the kernel alone."""

    name, program, package = "echo", "cc", "gcc libc6-dev"
    is_dns = False

    def configure(self) -> list[str]:
        program = compile_program("echo", self.directory)
        self.port = free_port()  # a new one: during the compilation another process may have taken the first
        return [program, str(self.port)]

    def _is_answering(self) -> bool:
        client = UdpClient(self.port, timeout=0.2)
        try:
            return client.query("echo") is not None
        finally:
            client.close()


class Knot(Peer):
    name, program, package = "knot", "knotd", "knot"
    tcp_io_timeout: ClassVar[int] = 0
    """Milliseconds that it waits for a client that does not read its responses; 0 means no limit."""

    def records(self) -> str:
        """Records of the zone in addition to those of the services, in the format of the zone file."""
        return ""

    def configure(self) -> list[str]:
        zone = self._write("zone", to_zone_file(self.services) + self.records())
        text = f"""\
            acl:
              - id: updates
                address: 127.0.0.1
                action: update
            zone:
              - domain: {ZONE}
                file: "{zone}"
                zonefile-sync: -1
                journal-content: none
                semantic-checks: off
                acl: updates
            """
        head = knot_settings(
            self.directory, self.port, tcp_max_clients=200, tcp_io_timeout=self.tcp_io_timeout
        )
        text = head + textwrap.dedent(text)
        return [self._program(), "-c", self._write("knot.conf", text)]


class Nsd(Peer):
    """NSD. It adds NS records and their addresses too, since it has one setting for all additional data."""

    name, program, package = "nsd", "nsd", "nsd"
    ttl: ClassVar[int] = TTL
    is_minimal: ClassVar[bool] = False

    def configure(self) -> list[str]:
        zone = self._write("zone", to_zone_file(self.services, ttl=self.ttl))
        options = {"tcp_count": 200, "minimal_responses": "yes" if self.is_minimal else "no"}
        text = nsd_settings(self.directory, self.port, **options)
        text += f'zone:\n    name: {ZONE}\n    zonefile: "{zone}"\n'
        return [self._program(), "-d", "-c", self._write("nsd.conf", text)]


class Unbound(Peer):
    """unbound with an auth-zone; its local-data would be answered without the addresses of SRV targets."""

    name, program, package = "unbound", "unbound", "unbound"

    def configure(self) -> list[str]:
        zone = self._write("zone", to_zone_file(self.services))
        options = {"incoming_num_tcp": 200, "minimal_responses": "no", "rrset_roundrobin": "no"}
        text = unbound_settings(self.directory, self.port, **options)
        text += f'auth-zone:\n    name: {ZONE}\n    zonefile: "{zone}"\n'
        text += "    for-downstream: yes\n    for-upstream: no\n"
        return [self._program(), "-d", "-c", self._write("unbound.conf", text)]


class Dnsmasq(Peer):
    """dnsmasq. It searches SRV records linearly, so it is slow with many."""

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
    """`zkdns serve`, by default with a static file. Only the CPU time of its worker is measured.

    Args:
        services: the services it serves.
        directory: parent of the server's own directory.
        core: the CPU of the worker.
        arguments: of the command, instead of `--static` with the services.
        other_core: the CPU of watcher and supervisor; default: that of the worker.
    """

    name, program, package = "zkdns", "sh", ""

    def __init__(
        self,
        services: Sequence[Service],
        directory: Path,
        core: int,
        *,
        arguments: Sequence[str] = (),
        other_core: int | None = None,
    ) -> None:
        super().__init__(services, directory, core)
        self._arguments = arguments
        self._rest_core = core if other_core is None else other_core
        self._server: ZkdnsServer
        self.worker = 0

    def __enter__(self) -> Self:
        self.directory.mkdir()
        source = self._arguments or ("--static", self._write("services.toml", to_static_file(self.services)))
        # At level debug the log has the pids by role, which pid_of needs, and nothing about queries.
        options = ("--log-level", "debug", "--admin", "none", "--listen", f"127.0.0.1:{self.port}")
        server = ZkdnsServer(*source, *options, environment={"TMPDIR": str(self.directory)})
        self._server = self._stack.enter_context(server)
        self._stack.callback(self._terminate)
        try:
            self._server.wait_ready(_START_SECONDS)
            eventually(self._is_answering, _START_SECONDS)
            self.worker = self._server.pid_of("worker")
            pin(self.other_pids(), self._rest_core)
            pin(self.pids(), self.core)
        except BaseException:
            self._stack.close()
            raise
        return self

    def _terminate(self) -> None:
        """Terminate all processes, and kill them after a second, so that Ctrl-C takes effect quickly."""
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

    def other_pids(self) -> list[int]:
        return [pid for pid in family(self._server.process.pid) if pid != self.worker]
