"""Registers a member for as long as a signal or a program of the user's lets it be one.

    connect ──▶ start the program ──▶ register, when the check passes ──▶ a stop signal, or its end
                                         unregister ──▶ drain ──▶ send the signal on ──▶ its end

One thread decides: the main one, which takes news from a queue. Kazoo's listener, and the threads that wait
for a signal or for something else, only post to it.

Signals. SIGTERM and SIGINT unregister first, and then go on to the program; HUP, QUIT, USR1, USR2 and WINCH
go on at once; what was ignored when this started (nohup) stays ignored, here and there. The program leads a
process group of its own: Ctrl-C reaches every process of a terminal's foreground group, so in ours it would
end before it is unregistered. What keys send goes on to all of that group, as a terminal would have it: a
shell that waits for its child leaves Ctrl-C to that. Other signals go to the program alone: what a hang-up
means to its children is its own business. Nobody may read from a terminal in its background, so a program
whose standard input would be one gets /dev/null. Without a program, a hang-up is as good as SIGTERM.
"""

from __future__ import annotations

import enum
import os
import queue
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from zkdns.address import parse_host_port
from zkdns.errors import UnreachableError, ZkdnsError, ZooKeeperError
from zkdns.registrar.signals import queue_signals
from zkdns.serverset.auth import Access
from zkdns.serverset.checks import Check, HealthMonitor, describe_status
from zkdns.serverset.client import make_client
from zkdns.serverset.listing import disconnect
from zkdns.serverset.logs import Log
from zkdns.serverset.server_set import ServerSet

if TYPE_CHECKING:
    from zkdns.serverset.registration import Registration

log = Log("zkdns.register")

NOT_FOUND: Final = 127
"""The exit status where there is no such program, as shells have it."""
NOT_EXECUTABLE: Final = 126
"""The exit status where there is one that cannot be run, as shells have it."""
_BY_SIGNAL = 128  # and the signal's number: the exit status of what a signal ended

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_PASSED_ON = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
_FROM_KEYS = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH)  # the terminal's, whose window is one too

_REACH_TIMEOUT = 10.0  # seconds to wait for ZooKeeper before the program is started
_LOOK = 0.1  # seconds between looks at a registration that has not come about yet
_CHECK_SLACK = 1.0  # seconds beyond its own time-out, until what a check cannot end itself counts as hanging


class ProgramError(ZkdnsError):
    """The program cannot be run; `status` is what to exit with."""

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        super().__init__(detail)


class RegisterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `zkdns register` is to do; durations are in seconds."""

    environment: str
    service: str
    zookeeper: str
    """`host:port,host:port/chroot`."""
    access: Access
    namespace: str
    session_timeout: float
    host: str | None
    """None: the address from which this machine reaches ZooKeeper."""
    port: int
    additional: Mapping[str, str | int]
    shard: int | None
    metadata: Mapping[str, str]
    check: Check | None
    interval: float
    timeout: float
    wait: bool
    """Whether to go on where ZooKeeper cannot be reached, until it can."""
    drain: float
    command: tuple[str, ...]
    """The program and its arguments; empty: whoever it is that serves runs elsewhere."""


class _News(enum.Enum):
    CONNECTED = enum.auto()
    AWAY = enum.auto()
    ENDED = enum.auto()
    """The program has; it can be reaped."""
    LEFT = enum.auto()
    """The registration is closed."""


class Registrar:
    """Carries out one plan, in the main thread."""

    def __init__(self, plan: RegisterOptions) -> None:
        self._plan = plan
        self._news: queue.SimpleQueue[_News | signal.Signals] = queue.SimpleQueue()
        self._client = make_client(plan.zookeeper, session_timeout=plan.session_timeout, access=plan.access)
        self._set = ServerSet(
            plan.environment,
            plan.service,
            namespace=plan.namespace,
            session_timeout=plan.session_timeout,
            client=self._client,
        )
        self._is_connected = False
        self._registration: Registration | None = None
        self._health: HealthMonitor | None = None
        self._was_registered = False
        self._has_left = False
        self._program: subprocess.Popen[bytes] | None = None
        self._stops: list[signal.Signals] = []
        self._is_stop_sent = False

    def run(self) -> int:
        """Register, and stay so until a signal or the program's end. Signals stay taken afterwards.

        Returns:
            The program's exit status (128 and the signal's number where one ended it); without a program 0.

        Raises:
            ProgramError: the program cannot be run; nothing was registered.
            BadValueError: this machine's own address cannot be registered.
            UnreachableError: ZooKeeper cannot be reached; the program was not started.
            ZooKeeperError: ZooKeeper refuses; the program has been ended.
        """
        wanted = (*_STOPPING, *(_PASSED_ON if self._plan.command else (signal.SIGHUP,)))
        queue_signals([n for n in wanted if signal.getsignal(n) is not signal.SIG_IGN], self._news.put)
        try:
            self._client.add_listener(self._hear)
            self._client.start_async()
            self._reach()
            self._start()
            self._serve()
        finally:
            self._leave()
            self._end()
            disconnect(self._client)
        return self._status()

    # -- what happens --------------------------------------------------------------------------------------

    def _hear(self, state: str) -> None:
        """The listener of the connection, in a thread of kazoo's."""
        self._news.put(_News.CONNECTED if state == "CONNECTED" else _News.AWAY)

    def _next(self, deadline: float | None = None) -> bool:
        """Take a piece of news; False where none came until the deadline (on the monotonic clock)."""
        try:
            news = self._news.get(timeout=None if deadline is None else max(deadline - time.monotonic(), 0.0))
        except queue.Empty:
            return False
        if isinstance(news, signal.Signals):
            self._signalled(news)
        elif news is _News.LEFT:
            self._has_left = True
        elif news is _News.ENDED:
            assert self._program is not None  # noqa: S101 - it was started
            log.info("program_exited", outcome=describe_status(self._program.wait()))
        else:
            self._connection_changed(news is _News.CONNECTED)
        return True

    def _signalled(self, number: signal.Signals) -> None:
        if number in _STOPPING or not self._plan.command:
            self._stops.append(number)
            if not self._is_stop_sent:
                return
        if self._is_running():
            self._send(number)

    def _connection_changed(self, is_there: bool) -> None:
        if is_there and not self._is_connected:
            log.info("zookeeper_connected", zookeeper=self._plan.zookeeper)
        elif not is_there and self._is_connected:
            log.warning("zookeeper_disconnected", zookeeper=self._plan.zookeeper)
        self._is_connected = is_there

    # -- the way -------------------------------------------------------------------------------------------

    def _reach(self) -> None:
        """Wait for ZooKeeper, unless the program need not."""
        deadline = time.monotonic() + _REACH_TIMEOUT
        while not (self._is_connected or self._stops or self._plan.wait):
            if not self._next(deadline):
                raise UnreachableError(
                    f"cannot register in {self._set.path}: ZooKeeper at {self._plan.zookeeper} cannot be "
                    "reached (--wait keeps trying)"
                )

    def _start(self) -> None:
        """Start the program, if there is one."""
        command = self._plan.command
        if not command or self._stops:
            return
        try:
            self._program = subprocess.Popen(  # noqa: S603 - the user's own program
                command, stdin=subprocess.DEVNULL if os.isatty(0) else None, process_group=0
            )
        except FileNotFoundError:
            reason = "there is no such program, or no such interpreter as it names"
            raise ProgramError(NOT_FOUND, f"cannot run {command[0]!r}: {reason}") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise ProgramError(NOT_EXECUTABLE, f"cannot run {command[0]!r}: {reason}") from None
        log.info("program_started", pid=self._program.pid, command=shlex.join(command))
        threading.Thread(target=self._await_program, args=(self._program.pid,), daemon=True).start()

    def _await_program(self, pid: int) -> None:
        # It is not reaped here, so that its number is its own for as long as a signal may be sent to it.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._news.put(_News.ENDED)

    def _serve(self) -> None:
        """Register as soon as that can be, and stay so until there is a reason to stop."""
        while not self._stops and (self._program is None or self._program.returncode is None):
            if self._is_connected and self._registration is None:
                self._register()
            is_pending = self._registration is not None and not self._was_registered
            self._next(time.monotonic() + _LOOK if is_pending else None)
            if is_pending:
                self._look()

    def _register(self) -> None:
        plan = self._plan
        host = plan.host or own_address(plan.zookeeper)
        if plan.host is None:
            is_loopback = host.startswith("127.") or host == "::1"
            why = "loopback, as ZooKeeper; --host names another" if is_loopback else "it reaches ZooKeeper"
            log.info("host_chosen", host=host, reason=why)
        if plan.check is not None:
            self._health = HealthMonitor(plan.check, host, plan.port, plan.timeout)
        self._registration = self._set.register(
            host,
            plan.port,
            ping=self._health,
            ping_interval=plan.interval,
            ping_timeout=plan.timeout + _CHECK_SLACK,
            additional=plan.additional,
            shard=plan.shard,
            metadata=plan.metadata,
            timeout=None,
        )

    def _look(self) -> None:
        """Whether the first registration has come about, or never will."""
        assert self._registration is not None  # noqa: S101 - there is one that is looked at
        error = self._registration.last_error
        if self._registration.is_registered:
            self._was_registered = True
        elif isinstance(error, ZooKeeperError) and not isinstance(error, UnreachableError):
            raise error

    def _leave(self) -> None:
        """Unregister, and wait until the znode is gone; a second signal ends the waiting."""
        registration = self._registration
        if registration is None:
            return
        # What is about to be registered may be known to others before it is to us.
        if registration.is_registered or self._health is None or self._health.passes:
            self._was_registered = True
            log.info("unregistration_started", reason=self._stops[0].name if self._stops else "the end")
        threading.Thread(target=self._close, args=(registration,), daemon=True).start()
        enough = max(len(self._stops), 1) + 1
        while not self._has_left and len(self._stops) < enough:
            self._next()
        if registration.is_registered:
            log.warning(
                "unregistration_failed",
                path=registration.path,
                seconds=self._plan.session_timeout,
            )

    def _close(self, registration: Registration) -> None:
        try:
            registration.close()
            if self._health is not None:
                self._health.close()
        finally:
            self._news.put(_News.LEFT)

    def _end(self) -> None:
        """Let the program finish what it serves, send the signal on, and wait for its end."""
        if self._was_registered and self._stops and self._is_running():
            log.info("drain_started", seconds=self._plan.drain)
            deadline = time.monotonic() + self._plan.drain
            while len(self._stops) == 1 and self._is_running() and self._next(deadline):
                pass
        if self._is_running():
            self._is_stop_sent = True
            self._send(self._stops[0] if self._stops else signal.SIGTERM)
        while self._is_running():
            self._next()

    def _is_running(self) -> bool:
        return self._program is not None and self._program.returncode is None

    def _send(self, number: signal.Signals) -> None:
        assert self._program is not None  # noqa: S101 - it is running
        log.info("signal_forwarded", signal=number.name)
        (os.killpg if number in _FROM_KEYS else os.kill)(self._program.pid, number)

    def _status(self) -> int:
        if not self._plan.command:
            return 0
        if self._program is None:  # stopped before it was started
            return _BY_SIGNAL + self._stops[0]
        code = self._program.returncode
        return code if code >= 0 else _BY_SIGNAL - code


def own_address(zookeeper: str) -> str:
    """The address from which this machine reaches ZooKeeper; nothing is sent to find out.

    Raises:
        ZkdnsError: there is no way to any of the servers.
    """
    servers = zookeeper.partition("/")[0]
    for server in servers.split(","):
        address = parse_host_port(server)
        try:
            for family, *_, target in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM):
                with socket.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.connect(target)  # only chooses a route
                    return str(probe.getsockname()[0])
        except OSError:
            continue
    raise ZkdnsError(f"cannot tell which address reaches ZooKeeper at {servers}; name one with --host")
