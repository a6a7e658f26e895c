"""Registers a member until a stop signal arrives or the program exits: `zkdns register -- PROGRAM`.

    connect ──▶ start the program ──▶ register, when the check passes ──▶ a stop signal, or the program exits
                                         unregister ──▶ drain ──▶ forward the signal ──▶ the program exits

The main thread makes all decisions. It reads events from a queue. Kazoo's listener and the threads that wait
for signals, for the program or for the registration only put events into that queue.

Signals:
- SIGTERM and SIGINT are stop signals: the member is unregistered first, then the signal is forwarded.
- HUP, QUIT, USR1, USR2 and WINCH are forwarded at once. Without a program, HUP is a stop signal.
- A signal that is ignored at start (nohup) stays ignored, in this process and in the program.

The program leads a process group of its own. In this process's group, Ctrl-C would reach it directly, and it
would exit before it is unregistered. Signals from terminal keys are forwarded to the whole new group, as a
terminal would send them: a shell that waits for its child relies on that. Other signals are forwarded to the
program only. A process of a background group cannot read from the terminal, so the program gets /dev/null if
its standard input would be one.
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

from zkdns.address import parse_servers
from zkdns.causes import cause_of
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

from zkdns.serverset.reachability import DIAGNOSIS_SECONDS, Diagnosis
from zkdns.serverset.session import FIRST_UNREACHABLE_SECONDS

log = Log("zkdns.register")

NOT_FOUND: Final = 127
"""Exit status if the program does not exist, as in shells."""
NOT_EXECUTABLE: Final = 126
"""Exit status if the program cannot be executed, as in shells."""
_BY_SIGNAL = 128  # plus the signal's number: exit status if a signal terminated the program, as in shells

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FORWARDED_SIGNALS = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
_TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH)

_CONNECT_TIMEOUT = 10.0  # seconds to wait for ZooKeeper before the program is started
_POLL_SECONDS = 0.1  # interval of the checks whether the first registration has succeeded
_CHECK_SLACK = 1.0  # seconds after a check's own timeout, until the registration regards it as hanging


class ProgramError(ZkdnsError):
    """The program cannot be executed.

    Attributes:
        status: exit status for `zkdns register`.
    """

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        super().__init__(detail)


class RegisterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of `zkdns register`. Durations are in seconds."""

    environment: str
    service: str
    zookeeper: str
    """`host:port,host:port/chroot`."""
    access: Access
    namespace: str
    member_prefix: str
    session_timeout: float
    host: str | None
    """None: the address of this machine that reaches ZooKeeper."""
    port: int
    additional: Mapping[str, str | int]
    shard: int | None
    metadata: Mapping[str, str]
    check: Check | None
    interval: float
    timeout: float
    wait: bool
    """Start the program without waiting for ZooKeeper."""
    drain: float
    command: tuple[str, ...]
    """The program and its arguments. Empty: the service is not run by this process."""


class _Event(enum.Enum):
    CONNECTED = enum.auto()
    DISCONNECTED = enum.auto()
    PROGRAM_EXITED = enum.auto()
    """The program has exited, and can be reaped."""
    UNREGISTERED = enum.auto()
    """The registration is closed."""


class Registrar:
    """Runs one `zkdns register`, in the main thread."""

    def __init__(self, options: RegisterOptions) -> None:
        self._options = options
        self._events: queue.SimpleQueue[_Event | signal.Signals] = queue.SimpleQueue()
        self._client = make_client(
            options.zookeeper, session_timeout=options.session_timeout, access=options.access
        )
        self._set = ServerSet(
            options.environment,
            options.service,
            namespace=options.namespace,
            member_prefix=options.member_prefix,
            session_timeout=options.session_timeout,
            client=self._client,
        )
        self._is_connected = False
        self._registration: Registration | None = None
        self._health: HealthMonitor | None = None
        self._was_registered = False
        self._is_unregistered = False
        self._program: subprocess.Popen[bytes] | None = None
        self._stop_signals: list[signal.Signals] = []
        self._is_stop_forwarded = False

    def run(self) -> int:
        """Register, and stay registered until a stop signal arrives or the program exits.

        The signal handlers stay installed afterwards.

        Returns:
            The program's exit status (128 plus the signal's number if a signal terminated it); 0 without a
            program.

        Raises:
            ProgramError: the program cannot be executed. Nothing was registered.
            BadValueError: this machine's address cannot be registered.
            UnreachableError: ZooKeeper cannot be reached. The program was not started.
            ZooKeeperError: ZooKeeper refuses the registration. The program was terminated.
        """
        numbers = (*_STOP_SIGNALS, *(_FORWARDED_SIGNALS if self._options.command else (signal.SIGHUP,)))
        queue_signals([n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN], self._events.put)
        timer = threading.Timer(FIRST_UNREACHABLE_SECONDS, self._warn_if_unreachable)
        timer.daemon = True
        try:
            self._client.add_listener(self._on_connection_state)
            self._client.start_async()
            timer.start()
            self._wait_for_zookeeper()
            self._start_program()
            self._serve()
        finally:
            timer.cancel()
            self._unregister()
            self._stop_program()
            disconnect(self._client)
        return self._exit_status()

    # -- events --------------------------------------------------------------------------------------------

    def _on_connection_state(self, state: str) -> None:
        """Listener of the ZooKeeper connection, called in a thread of kazoo."""
        self._events.put(_Event.CONNECTED if state == "CONNECTED" else _Event.DISCONNECTED)

    def _handle_event(self, deadline: float | None = None) -> bool:
        """Wait for an event, and handle it. Return False at the deadline (on the monotonic clock)."""
        try:
            event = self._events.get(
                timeout=None if deadline is None else max(deadline - time.monotonic(), 0.0)
            )
        except queue.Empty:
            return False
        if isinstance(event, signal.Signals):
            self._handle_signal(event)
        elif event is _Event.UNREGISTERED:
            self._is_unregistered = True
        elif event is _Event.PROGRAM_EXITED:
            assert self._program is not None  # noqa: S101 - it was started
            log.info("program_exited", outcome=describe_status(self._program.wait()))
        else:
            self._connection_changed(event is _Event.CONNECTED)
        return True

    def _handle_signal(self, number: signal.Signals) -> None:
        if number in _STOP_SIGNALS or not self._options.command:
            self._stop_signals.append(number)
            if not self._is_stop_forwarded:
                return
        if self._is_running():
            self._forward_signal(number)

    def _connection_changed(self, is_connected: bool) -> None:
        if is_connected and not self._is_connected:
            log.info("zookeeper_connected", zookeeper=self._options.zookeeper)
        elif not is_connected and self._is_connected:
            log.warning("zookeeper_disconnected", zookeeper=self._options.zookeeper)
        self._is_connected = is_connected

    # -- start and registration ----------------------------------------------------------------------------

    def _wait_for_zookeeper(self) -> None:
        """Wait until ZooKeeper is connected, unless the option `wait` is set."""
        deadline = time.monotonic() + _CONNECT_TIMEOUT - DIAGNOSIS_SECONDS
        while not (self._is_connected or self._stop_signals or self._options.wait):
            if not self._handle_event(deadline):
                raise self._diagnosis().error(f"register in {self._set.path}", " (--wait keeps trying)")

    def _diagnosis(self) -> Diagnosis:
        """Why ZooKeeper cannot be reached. Blocks for little more than a second."""
        return Diagnosis(self._options.zookeeper, self._options.access.tls).wait()

    def _warn_if_unreachable(self) -> None:
        """Log why there is no connection yet."""
        if not self._client.connected:
            hosts = self._options.zookeeper
            reason = self._diagnosis().describe()
            if not self._client.connected and not self._stop_signals:
                effect = "retrying" if self._options.wait else f"retrying for {_CONNECT_TIMEOUT:g} s"
                log.warning("zookeeper_unreachable", zookeeper=hosts, reason=reason, effect=effect)

    def _start_program(self) -> None:
        command = self._options.command
        if not command or self._stop_signals:
            return
        try:
            self._program = subprocess.Popen(  # noqa: S603 - the user gives the program
                command, stdin=subprocess.DEVNULL if os.isatty(0) else None, process_group=0
            )
        except FileNotFoundError:
            reason = "there is no such program, or its interpreter does not exist"
            raise ProgramError(NOT_FOUND, f"cannot run {command[0]!r}: {reason}") from None
        except OSError as error:
            raise ProgramError(NOT_EXECUTABLE, f"cannot run {command[0]!r}: {cause_of(error)}") from None
        log.info("program_started", pid=self._program.pid, command=shlex.join(command))
        threading.Thread(target=self._wait_for_program, args=(self._program.pid,), daemon=True).start()

    def _wait_for_program(self, pid: int) -> None:
        # WNOWAIT does not reap the process. So its pid is not reused while the main thread may signal it.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._events.put(_Event.PROGRAM_EXITED)

    def _serve(self) -> None:
        """Register as soon as ZooKeeper is connected, and handle events until there is a reason to stop."""
        while not self._stop_signals and (self._program is None or self._program.returncode is None):
            if self._is_connected and self._registration is None:
                self._register()
            is_pending = self._registration is not None and not self._was_registered
            self._handle_event(time.monotonic() + _POLL_SECONDS if is_pending else None)
            if is_pending:
                self._check_registration()

    def _register(self) -> None:
        options = self._options
        host = options.host or own_address(options.zookeeper)
        if options.host is None:
            is_loopback = host.startswith("127.") or host == "::1"
            reason = "loopback, as ZooKeeper; --host names another" if is_loopback else "it reaches ZooKeeper"
            log.info("host_chosen", host=host, reason=reason)
        if options.check is not None:
            self._health = HealthMonitor(options.check, host, options.port, options.timeout)
        self._registration = self._set.register(
            host,
            options.port,
            ping=self._health,
            ping_interval=options.interval,
            ping_timeout=options.timeout + _CHECK_SLACK,
            additional=options.additional,
            shard=options.shard,
            metadata=options.metadata,
            timeout=None,
        )

    def _check_registration(self) -> None:
        """Note whether the first registration has succeeded. Raise its error if it cannot succeed."""
        assert self._registration is not None  # noqa: S101 - checked by the caller
        error = self._registration.last_error
        if self._registration.is_registered:
            self._was_registered = True
        elif isinstance(error, ZooKeeperError) and not isinstance(error, UnreachableError):
            raise error

    # -- the end -------------------------------------------------------------------------------------------

    def _unregister(self) -> None:
        """Unregister, and wait until the znode is deleted. A second stop signal ends the wait."""
        registration = self._registration
        if registration is None:
            return
        # A registration in progress may already be visible to clients, so it counts as registered.
        if registration.is_registered or self._health is None or self._health.passes:
            self._was_registered = True
            reason = self._stop_signals[0].name if self._stop_signals else "the end"
            log.info("unregistration_started", reason=reason)
        threading.Thread(target=self._close, args=(registration,), daemon=True).start()
        max_signals = max(len(self._stop_signals), 1) + 1
        while not self._is_unregistered and len(self._stop_signals) < max_signals:
            self._handle_event()
        if registration.is_registered:
            log.warning(
                "unregistration_failed",
                path=registration.path,
                seconds=self._options.session_timeout,
            )

    def _close(self, registration: Registration) -> None:
        try:
            registration.close()
            if self._health is not None:
                self._health.close()
        finally:
            self._events.put(_Event.UNREGISTERED)

    def _stop_program(self) -> None:
        """Wait for the drain time, forward the stop signal, and wait until the program has exited."""
        if self._was_registered and self._stop_signals and self._is_running():
            log.info("drain_started", seconds=self._options.drain)
            deadline = time.monotonic() + self._options.drain
            while len(self._stop_signals) == 1 and self._is_running() and self._handle_event(deadline):
                pass
        if self._is_running():
            self._is_stop_forwarded = True
            self._forward_signal(self._stop_signals[0] if self._stop_signals else signal.SIGTERM)
        while self._is_running():
            self._handle_event()

    def _is_running(self) -> bool:
        return self._program is not None and self._program.returncode is None

    def _forward_signal(self, number: signal.Signals) -> None:
        assert self._program is not None  # noqa: S101 - it is running
        log.info("signal_forwarded", signal=number.name)
        (os.killpg if number in _TERMINAL_SIGNALS else os.kill)(self._program.pid, number)

    def _exit_status(self) -> int:
        if not self._options.command:
            return 0
        if self._program is None:  # stopped before it was started
            return _BY_SIGNAL + self._stop_signals[0]
        code = self._program.returncode
        return code if code >= 0 else _BY_SIGNAL - code


def own_address(zookeeper: str) -> str:
    """Return the address of this machine that reaches ZooKeeper. No packet is sent.

    Raises:
        ZkdnsError: there is no route to any of the servers.
    """
    servers = parse_servers(zookeeper)
    for address in servers:
        try:
            for family, *_, target in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM):
                with socket.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.connect(target)  # selects a route; a UDP socket sends nothing
                    return str(probe.getsockname()[0])
        except OSError:
            continue
    named = ",".join(map(str, servers))
    raise ZkdnsError(f"cannot find the address that reaches ZooKeeper at {named}; name one with --host")
