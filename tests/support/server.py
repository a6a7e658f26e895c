"""A real `zkdns serve` for tests: started as its user would, asked over real sockets, ended with the test."""

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
from tests.support.process_guard import guarded
from tests.support.waiting import eventually

_START_SECONDS = 30.0  # of which a busy machine takes a few
_END_SECONDS = 10.0

# What sd_listen_fds(3) finds: the files from number 3 on, in the process that they are for.
_HAND_OVER = """\
import fcntl, os, sys
numbers = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[1].split(",")]
for at, number in enumerate(numbers):
    os.dup2(number, 3 + at)
    os.close(number)
os.environ.update(LISTEN_FDS=str(len(numbers)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="zkdns.socket")
os.execv(sys.argv[2], sys.argv[2:])
"""


class ZkdnsServer:
    """`zkdns serve` with these arguments, on a free port of 127.0.0.1 unless they say otherwise.

    As a context manager it is started, waited for until it listens, and ended. `prefix` is what runs it;
    `passed` are sockets that it is handed as systemd does, and that stay open here.

    Attributes:
        command: what is started; a test may change it before.
        environment: the variables of that, all of them.
        log_file: what it has logged.
        out_file: what it has printed.
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
        self.control = str(Path(self._directory.name) / "control")
        defaults = {
            "ZKDNS_LISTEN": "127.0.0.1:0",
            "ZKDNS_ADMIN": "127.0.0.1:0",
            "ZKDNS_CONTROL": self.control,
            "ZKDNS_UPSTREAM": "none",  # what a test asks is no business of this machine's resolver
            "ZKDNS_LOG_FORMAT": "json",
            "ZKDNS_LOG_LEVEL": "debug",
        }
        self.environment = {**os.environ, **defaults, **(environment or {})}
        self._passed = [sock.fileno() for sock in passed]
        if passed:
            prefix = [*prefix, sys.executable, "-c", _HAND_OVER, ",".join(map(str, self._passed))]
        self.command = [*prefix, sys.executable, "-m", "zkdns", "serve", *arguments]
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log_file.open("wb") as log, self.out_file.open("wb") as out:
            self._process = subprocess.Popen(
                guarded(self.command),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=log,
                env=self.environment,
                cwd=self._cwd,
                pass_fds=self._passed,
                start_new_session=True,
            )
        try:
            eventually(lambda: self.ended or self.address, _START_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None:
            others = _children(process.pid)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
            _await_end(others)
        self._directory.cleanup()

    # -- the process ---------------------------------------------------------------------------------------

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The supervisor."""
        assert self._process is not None
        return self._process

    @property
    def ended(self) -> bool:
        """Whether the supervisor has exited."""
        return self.process.poll() is not None

    @property
    def log(self) -> str:
        """Everything that was logged."""
        return self.log_file.read_text(errors="replace")

    @property
    def output(self) -> str:
        """Everything that was printed."""
        return self.out_file.read_text(errors="replace")

    def events(self, event: str) -> list[dict[str, Any]]:
        """What was logged under this event."""
        whole, _, _ = self.log.rpartition("\n")  # what is being written may be seen in part
        lines = [line for line in whole.splitlines() if line.startswith("{") and line.endswith("}")]
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    def pid_of(self, role: str) -> int:
        """The process that has this role now: watcher or worker."""
        started = [entry["pid"] for entry in self.events("process_started") if entry["role"] == role]
        return int(started[-1])

    def wait_ready(self, timeout: float = 20.0) -> Self:
        """Wait until every worker has its table, and until commands reach it, or it says that none can."""
        eventually(lambda: self.events("server_ready"), timeout)
        if self.environment["ZKDNS_CONTROL"] == self.control and "--control" not in self.command:
            said = "control_socket_failed"
            eventually(lambda: Path(self.control).exists() or self.events(said), timeout)
        return self

    def terminate(self) -> int:
        """SIGTERM; the exit status, which must come within 5 s."""
        self.process.terminate()
        return self.process.wait(5.0)

    # -- asking --------------------------------------------------------------------------------------------

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens: host and port."""
        split = [entry["address"].rpartition(":") for entry in self.events("listener_opened")]
        return [(host.strip("[]"), int(port)) for host, _, port in split]

    @property
    def address(self) -> tuple[str, int] | None:
        """The first of them, once there is one."""
        return next(iter(self.addresses), None)

    @property
    def port(self) -> int:
        """The first port that it listens at."""
        return self.addresses[0][1]

    @property
    def admin(self) -> str:
        """The URL of the admin address, which is told after those that are listened at."""
        (first, *_) = eventually(lambda: self.events("admin_server_started"))
        return f"http://{first['address']}"

    def query(
        self, name: str, qtype: str = "A", *, tcp: bool = False, timeout: float = 5.0, **options: Any
    ) -> dns.message.Message:
        """Ask once, and return the whole response."""
        host, port = self.addresses[0]
        message = dns.message.make_query(name, qtype, **options)
        ask = dns.query.tcp if tcp else dns.query.udp
        return ask(message, host, port=port, timeout=timeout)

    def ask(self, name: str, qtype: str = "A", **options: Any) -> set[str]:
        """The data of the answer's records."""
        response = self.query(name, qtype, **options)
        return {str(record) for rrset in response.answer for record in rrset}

    def rcode(self, name: str, qtype: str = "A", **options: Any) -> str:
        """The response code, by name."""
        return dns.rcode.to_text(self.query(name, qtype, **options).rcode())


def _children(pid: int) -> list[int]:
    """File descriptors of the processes that this one has started (pidfd_open(2)), where the kernel tells."""
    found = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                found.append(os.pidfd_open(int(child)))
    return found


def _await_end(children: list[int]) -> None:
    """Wait until these have ended, as they do without their supervisor: others may want what they hold."""
    for child in children:
        poll = select.poll()
        poll.register(child, select.POLLIN)
        if not poll.poll(_END_SECONDS * 1000):  # one that a failed test has stopped
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)
