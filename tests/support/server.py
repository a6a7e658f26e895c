"""A real `zkdns serve` for tests.

It is started as a command, queried over sockets, and ends with the test.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import dns.message
import dns.query
import dns.rcode

from tests.support.files import new_short_directory
from tests.support.process_guard import kill_guarded, start_guarded
from tests.support.udp_query import query_udp
from tests.support.waiting import PATIENCE, eventually
from zkdns.admin.client import ApiClient, RefusedError, ServerAddress, UnreachableError

_END_SECONDS = 10.0

# Socket activation, see sd_listen_fds(3): file descriptors from 3 on, and variables with the process ID.
_ACTIVATE = """\
import fcntl, os, sys
numbers = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[1].split(",")]
for at, number in enumerate(numbers):
    os.dup2(number, 3 + at)
    os.close(number)
os.environ.update(LISTEN_FDS=str(len(numbers)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="zkdns.socket")
os.execv(sys.argv[2], sys.argv[2:])
"""


class ZkdnsServer:
    """`zkdns serve` with these arguments; by default on a free port of 127.0.0.1.

    Entering the context starts it, and waits until it listens. Leaving the context kills it.

    Args:
        arguments: of `zkdns serve`.
        environment: variables in addition to the defaults below.
        cwd: the working directory.
        prefix: a command prefix, for example a sandbox.
        passed: sockets to pass by socket activation. They stay open in this process.

    Attributes:
        command: the command line. A test may change it before the start.
        environment: all environment variables.
        log_file: the log (standard error).
        out_file: the standard output.
    """

    def __init__(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        cwd: Path | None = None,
        prefix: Sequence[str] = (),
        passed: Sequence[socket.socket] = (),
    ) -> None:
        self._directory = new_short_directory()
        self.log_file = Path(self._directory.name) / "log"
        self.out_file = Path(self._directory.name) / "out"
        self.api = str(Path(self._directory.name) / "api")
        defaults = {
            "ZKDNS_LISTEN": "127.0.0.1:0",
            "ZKDNS_ADMIN": "127.0.0.1:0",
            "ZKDNS_ADMIN_SOCKET": self.api,
            "ZKDNS_UPSTREAM": "none",  # queries of tests must not reach the resolver of this machine
            "ZKDNS_LOG_FORMAT": "json",
            "ZKDNS_LOG_LEVEL": "debug",
        }
        self.environment = {**os.environ, **defaults, **(environment or {})}
        self._passed = [sock.fileno() for sock in passed]
        if passed:
            prefix = [*prefix, sys.executable, "-c", _ACTIVATE, ",".join(map(str, self._passed))]
        self.command = [*prefix, sys.executable, "-m", "zkdns", "serve", *arguments]
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log_file.open("wb") as log, self.out_file.open("wb") as out:
            self._process = start_guarded(
                self.command,
                stdout=out,
                stderr=log,
                env=self.environment,
                cwd=self._cwd,
                pass_fds=self._passed,
            )
        try:
            eventually(lambda: self.ended or self.address, PATIENCE)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None:
            children = _children(process.pid)
            kill_guarded(process)
            _wait_for_end(children)
        self._directory.cleanup()

    # -- the process ---------------------------------------------------------------------------------------

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The supervisor process."""
        assert self._process is not None
        return self._process

    @property
    def ended(self) -> bool:
        """Whether the supervisor has exited."""
        return self.process.poll() is not None

    @property
    def log(self) -> str:
        """The whole log."""
        return self.log_file.read_text(errors="replace")

    @property
    def output(self) -> str:
        """The whole standard output."""
        return self.out_file.read_text(errors="replace")

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log entries of this event."""
        complete, _, _ = self.log.rpartition("\n")  # the last line may be incomplete
        lines = [line for line in complete.splitlines() if line.startswith("{") and line.endswith("}")]
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    def pid_of(self, role: str) -> int:
        """The process ID of the newest process with this role (`watcher` or `worker`)."""
        started = [entry["pid"] for entry in self.events("process_started") if entry["role"] == role]
        return int(started[-1])

    def wait_ready(self, timeout: float = PATIENCE) -> Self:
        """Wait until all workers have their table and the API's socket is open, or has failed to open."""
        eventually(lambda: self.events("server_ready"), timeout)
        if self.environment.get("ZKDNS_ADMIN_SOCKET") == self.api and "--admin-socket" not in self.command:
            failed = "admin_socket_failed"
            eventually(lambda: Path(self.api).exists() or self.events(failed), timeout)
        return self

    def wait_api(self, timeout: float = PATIENCE) -> Self:
        """Wait until the API responds with data of the watcher. The table may not have been read."""
        client = ApiClient(ServerAddress(path=self.api))

        def responds() -> bool:
            try:
                client.count("none")
            except (UnreachableError, RefusedError):
                return False
            return True

        eventually(responds, timeout)
        return self

    def terminate(self) -> int:
        """Send SIGTERM, and return the exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    # -- queries -------------------------------------------------------------------------------------------

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The host and port of each listener."""
        return self._addresses(tls=False)

    @property
    def tls_addresses(self) -> list[tuple[str, int]]:
        """The host and port of each listener for DNS over TLS."""
        return self._addresses(tls=True)

    def _addresses(self, *, tls: bool) -> list[tuple[str, int]]:
        opened = [entry for entry in self.events("listener_opened") if entry["tls"] == tls]
        split = [entry["address"].rpartition(":") for entry in opened]
        return [(host.strip("[]"), int(port)) for host, _, port in split]

    @property
    def address(self) -> tuple[str, int] | None:
        """The first of `addresses`, or None before it listens."""
        return next(iter(self.addresses), None)

    @property
    def port(self) -> int:
        """The port of the first listener."""
        return self.addresses[0][1]

    @property
    def admin(self) -> str:
        """The URL of the admin server, which starts after the listeners."""
        (first, *_) = eventually(lambda: self.events("admin_server_started"))
        return f"http://{first['address']}"

    def query(
        self, name: str, qtype: str = "A", *, tcp: bool = False, timeout: float = PATIENCE, **options: Any
    ) -> dns.message.Message:
        """Send a query, and return the response."""
        host, port = self.addresses[0]
        message = dns.message.make_query(name, qtype, **options)
        if tcp:
            return dns.query.tcp(message, host, timeout, port)
        return query_udp(message, host, port, timeout=timeout)

    def lookup(self, name: str, qtype: str = "A", **options: Any) -> set[str]:
        """Send a query, and return the record data of the answer section."""
        response = self.query(name, qtype, **options)
        return {str(record) for rrset in response.answer for record in rrset}

    def rcode(self, name: str, qtype: str = "A", **options: Any) -> str:
        """Send a query, and return the name of the response code."""
        return dns.rcode.to_text(self.query(name, qtype, **options).rcode())


def _children(pid: int) -> list[int]:
    """File descriptors (pidfd_open(2)) of the child processes, if the kernel lists them."""
    found = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                found.append(os.pidfd_open(int(child)))
    return found


def _wait_for_end(children: list[int]) -> None:
    """Wait until the child processes have ended, so that their ports are free."""
    for child in children:
        poll = select.poll()
        poll.register(child, select.POLLIN)
        if not poll.poll(_END_SECONDS * 1000):  # a failed test may have stopped it
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)
