"""Health checks of a service from outside: TCP, HTTP or a command.

`tcp` connects to the registered host and port. `http:/health` and `http:9990/health` send a GET request and
accept the statuses 200 to 399 (redirects are not followed). `exec:CMD` runs CMD in a shell and accepts exit
status 0. A check that exceeds its timeout is aborted and counts as failed.

This file only determines the result. The registration acts on it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from typing import Final, Literal

import msgspec

from zkdns.address import MAX_PORT, HostPort
from zkdns.causes import cause_of
from zkdns.errors import BadValueError, ZkdnsError
from zkdns.serverset.logs import Log

log = Log("zkdns.check")

FORMS: Final = "tcp, http:/PATH, http:PORT/PATH, exec:CMD"
"""The accepted forms of a check."""

_HTTP = re.compile(r"http:([0-9]{0,5})(/(?!/)[!-~]*)")  # `http://host/…` would be a path that begins with //
_ACCEPTED_STATUSES = range(200, 400)  # RFC 9110 §15: successful, redirection
_MAX_BODY = 65_536  # bytes of a response body that are read
_MAX_STDERR = 200  # characters of a failed command's error output that are logged
_MIN_POLL, _MAX_POLL = 0.002, 0.05  # seconds between polls of a running command


class CheckError(ZkdnsError):
    """The health check failed. The text says why."""


class Check(msgspec.Struct, frozen=True):
    """A parsed check."""

    kind: Literal["tcp", "http", "exec"]
    port: int | None = None
    """None: the service's own port."""
    detail: str = ""
    """The path to request, or the command."""

    @property
    def needs_service_port(self) -> bool:
        """Whether the check needs a service with a port of its own."""
        return self.kind != "exec" and self.port is None


def parse_check(text: str) -> Check:
    """Parse a check.

    Raises:
        BadValueError: the text has none of the forms in `FORMS`.
    """
    if text == "tcp":
        return Check("tcp")
    if match := _HTTP.fullmatch(text):
        port, path = match.groups()
        if port and not 1 <= int(port) <= MAX_PORT:
            raise BadValueError(f"{text!r} has the port {port}; a port is 1 to {MAX_PORT}")
        return Check("http", int(port) if port else None, path)
    kind, _, command = text.partition(":")
    if kind == "exec" and command.strip():
        return Check("exec", None, command)
    if text.startswith("http"):
        raise BadValueError(f"{text!r} is not a check; write http:/PATH or http:PORT/PATH, without a host")
    raise BadValueError(f"{text!r} is not a check; write one of {FORMS}")


class HealthMonitor:
    """Runs a health check as the ping of a registration, and logs each change of the result.

    Args:
        check: the check to run.
        host: the host to check: the registered one, since clients connect to it.
        port: the service's own port.
        timeout: time limit of a check, in seconds.
    """

    def __init__(self, check: Check, host: str, port: int, timeout: float) -> None:
        self._check = check
        self._target = HostPort(host, check.port or port)
        self._timeout = timeout
        # Why the last check failed. None: it passed. Empty: no check has run yet.
        self._reason: str | None = ""
        self._is_closed = threading.Event()
        self._running = threading.Lock()

    def __call__(self) -> bool:
        """Run the check. True: the service is healthy."""
        with self._running:
            reason = None
            try:
                self._check_once()
            except CheckError as error:
                reason = str(error)
        if reason != self._reason and not self._is_closed.is_set():
            if reason is None:
                log.info("check_passed")
            else:
                log.warning("check_failed", reason=reason)
        self._reason = reason
        return reason is None

    @property
    def passes(self) -> bool:
        """Whether the last check passed."""
        return self._reason is None

    def close(self) -> None:
        """Run no more checks. A running command is killed, and has ended when this returns."""
        self._is_closed.set()
        if self._check.kind == "exec":
            with self._running:
                pass

    def _check_once(self) -> None:
        match self._check.kind:
            case "tcp":
                _check_tcp(self._target, self._timeout)
            case "http":
                _check_http(self._target, self._check.detail, self._timeout)
            case "exec":
                _check_command(self._check.detail, self._timeout, self._is_closed)


def wait_for_command(
    process: subprocess.Popen[bytes],
    ended: threading.Event,
    *,
    timeout: float | None = None,
    grace: float = 0.0,
) -> bool:
    """Wait until a command exits. After the timeout, or on request, kill its process group.

    Args:
        process: the leader of a process group.
        ended: setting this ends the command.
        timeout: seconds after which the command is ended. None: no limit.
        grace: seconds between SIGTERM and SIGKILL. 0: SIGKILL at once.

    Returns:
        Whether the command exited by itself.
    """
    begun, pause = time.monotonic(), _MIN_POLL
    while process.poll() is None:
        if ended.wait(pause) or (timeout is not None and time.monotonic() - begun >= timeout):
            _end(process, grace)
            return False
        pause = min(pause * 2, _MAX_POLL)
    return True


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if grace:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(grace)
            return
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _check_tcp(target: HostPort, timeout: float) -> None:
    try:
        socket.create_connection((target.host, target.port), timeout).close()
    except OSError as error:
        raise _connect_error(target, error, timeout) from None


def _check_http(target: HostPort, path: str, timeout: float) -> None:
    begun = time.monotonic()
    connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout)
    try:
        try:
            connection.connect()
        except OSError as error:
            raise _connect_error(target, error, timeout) from None
        # A socket's timeout applies to each read, so a server that sends byte by byte would never exceed it.
        deadline = threading.Timer(timeout - (time.monotonic() - begun), _shut_down, [connection.sock])
        deadline.daemon = True
        deadline.start()
        try:
            connection.request("GET", path, headers={"User-Agent": "zkdns", "Connection": "close"})
            response = connection.getresponse()
            response.read(_MAX_BODY)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError) or time.monotonic() - begun >= timeout:
                raise CheckError(f"{target} did not answer GET {path} within {timeout:g} s") from None
            raise CheckError(f"{target} failed at GET {path}: {error!r}") from None
        finally:
            deadline.cancel()
    finally:
        connection.close()
    if time.monotonic() - begun >= timeout:
        raise CheckError(f"{target} did not answer GET {path} within {timeout:g} s")
    if response.status not in _ACCEPTED_STATUSES:
        raise CheckError(f"{target} answered GET {path} with {response.status}; 200 to 399 is accepted")


def _check_command(command: str, timeout: float, ended: threading.Event) -> None:
    with tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(  # noqa: S602 - the operator configures a shell command
                command,
                shell=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        except OSError as error:
            raise CheckError(f"the check cannot be run: {cause_of(error)}") from None
        if not wait_for_command(process, ended, timeout=timeout):
            raise CheckError(f"the check did not end within {timeout:g} s")
        if process.returncode == 0:
            return
        stderr.seek(0)
        last = stderr.read().decode(errors="replace").strip().rpartition("\n")[2][:_MAX_STDERR]
    raise CheckError(f"the check ended with {describe_status(process.returncode)}{last and f': {last}'}")


def describe_status(returncode: int) -> str:
    """A process's exit status as text: `status 3`, `SIGKILL`."""
    if returncode >= 0:
        return f"status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:  # a real-time signal, which has no name
        return f"signal {-returncode}"


def _shut_down(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):  # already closed
        connected.shutdown(socket.SHUT_RDWR)


def _connect_error(target: HostPort, error: OSError, timeout: float) -> CheckError:
    if isinstance(error, TimeoutError):
        return CheckError(f"{target} did not accept the connection within {timeout:g} s")
    return CheckError(f"cannot connect to {target}: {cause_of(error)}")
