"""Health checks: whether a service can serve, asked of it from outside.

`tcp` connects to the registered host and port; `http:/health` and `http:9990/health` send GET there and
accept the statuses 200 to 399 (a redirect is an answer, and is not followed); `exec:CMD` runs CMD by the
shell and accepts the exit status 0. A check that has not answered in its time has failed, and is ended.

Never here: what follows from an answer.
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
from zkdns.errors import BadValueError, ZkdnsError
from zkdns.serverset.logs import Log

log = Log("zkdns.check")

FORMS: Final = "tcp, http:/PATH, http:PORT/PATH, exec:CMD"
"""How checks are written."""

_HTTP = re.compile(r"http:([0-9]{0,5})(/(?!/)[!-~]*)")  # `http://host/…` would be a path that begins with //
_GOOD = range(200, 400)  # RFC 9110 §15: successful, redirection
_MOST_BODY = 65_536  # bytes of an answer that are taken off the server's hands
_MOST_SAID = 200  # characters of what a failing command said that are worth a log line
_LEAST_PAUSE, _MOST_PAUSE = 0.002, 0.05  # seconds between looks at a running command


class CheckError(ZkdnsError):
    """The service cannot serve; the text says what was found."""


class Check(msgspec.Struct, frozen=True):
    """What to ask, as it was written."""

    kind: Literal["tcp", "http", "exec"]
    port: int | None = None
    """None: the service's own."""
    detail: str = ""
    """The path to GET, or the command."""

    @property
    def needs_service_port(self) -> bool:
        """Whether it can only ask a service that has a port of its own."""
        return self.kind != "exec" and self.port is None


def parse_check(text: str) -> Check:
    """Read a check.

    Raises:
        BadValueError: it is none of `FORMS`.
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


class Health:
    """Asks a check again and again, as the ping of a registration; each change of the answer is logged.

    Args:
        check: what to ask.
        host: whom; the registered host, since it is there that others will ask.
        port: the service's own port.
        timeout: seconds that the service may take to answer.
    """

    def __init__(self, check: Check, host: str, port: int, timeout: float) -> None:
        self._check = check
        self._target = HostPort(host, check.port or port)
        self._timeout = timeout
        self._reason: str | None = ""  # why it failed the last time; None: it did not; empty: not asked yet
        self._ended = threading.Event()
        self._asking = threading.Lock()

    def __call__(self) -> bool:
        """Whether the service can serve."""
        with self._asking:
            reason = None
            try:
                self._ask()
            except CheckError as error:
                reason = str(error)
        if reason != self._reason and not self._ended.is_set():
            if reason is None:
                log.info("check_passed")
            else:
                log.warning("check_failed", reason=reason)
        self._reason = reason
        return reason is None

    @property
    def passes(self) -> bool:
        """Whether it passed the last time."""
        return self._reason is None

    def close(self) -> None:
        """Ask no more; a command that is running has been ended when this returns."""
        self._ended.set()
        if self._check.kind == "exec":
            with self._asking:
                pass

    def _ask(self) -> None:
        match self._check.kind:
            case "tcp":
                _ask_tcp(self._target, self._timeout)
            case "http":
                _ask_http(self._target, self._check.detail, self._timeout)
            case "exec":
                _ask_command(self._check.detail, self._timeout, self._ended)


def wait_for_command(
    process: subprocess.Popen[bytes],
    ended: threading.Event,
    *,
    timeout: float | None = None,
    grace: float = 0.0,
) -> bool:
    """Wait until a command has exited; where it may not go on, end it with its whole process group.

    Args:
        process: it leads a process group.
        ended: once this is set, the command is ended.
        timeout: seconds after which it is ended as well; None: never.
        grace: seconds between SIGTERM and SIGKILL; without them SIGKILL comes at once.

    Returns:
        Whether it exited by itself.
    """
    begun, pause = time.monotonic(), _LEAST_PAUSE
    while process.poll() is None:
        if ended.wait(pause) or (timeout is not None and time.monotonic() - begun >= timeout):
            _end(process, grace)
            return False
        pause = min(pause * 2, _MOST_PAUSE)
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


def _ask_tcp(target: HostPort, timeout: float) -> None:
    try:
        socket.create_connection((target.host, target.port), timeout).close()
    except OSError as error:
        raise _failed_to_connect(target, error, timeout) from None


def _ask_http(target: HostPort, path: str, timeout: float) -> None:
    begun = time.monotonic()
    connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout)
    try:
        try:
            connection.connect()
        except OSError as error:
            raise _failed_to_connect(target, error, timeout) from None
        # The time of a socket is that of each single read: a server that drips would never run out of it.
        late = threading.Timer(timeout - (time.monotonic() - begun), _shut, [connection.sock])
        late.daemon = True
        late.start()
        try:
            connection.request("GET", path, headers={"User-Agent": "zkdns", "Connection": "close"})
            response = connection.getresponse()
            response.read(_MOST_BODY)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError) or time.monotonic() - begun >= timeout:
                raise CheckError(f"{target} has not answered GET {path} within {timeout:g} s") from None
            raise CheckError(f"{target} cannot be asked GET {path}: {error!r}") from None
        finally:
            late.cancel()
    finally:
        connection.close()
    if time.monotonic() - begun >= timeout:
        raise CheckError(f"{target} has not answered GET {path} within {timeout:g} s")
    if response.status not in _GOOD:
        raise CheckError(f"{target} answered GET {path} with {response.status}; 200 to 399 is accepted")


def _ask_command(command: str, timeout: float, ended: threading.Event) -> None:
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(  # noqa: S602 - the shell is what was asked for
                command,
                shell=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
        except OSError as error:
            raise CheckError(f"the check cannot be run: {error.strerror or error}") from None
        if not wait_for_command(process, ended, timeout=timeout):
            raise CheckError(f"the check has not ended within {timeout:g} s")
        if process.returncode == 0:
            return
        said.seek(0)
        last = said.read().decode(errors="replace").strip().rpartition("\n")[2][:_MOST_SAID]
    raise CheckError(f"the check ended with {describe_status(process.returncode)}{last and f': {last}'}")


def describe_status(returncode: int) -> str:
    """How a process ended, in words: `status 3`, `SIGKILL`."""
    if returncode >= 0:
        return f"status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:  # a real-time signal, which has no name of its own
        return f"signal {-returncode}"


def _shut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        connected.shutdown(socket.SHUT_RDWR)


def _failed_to_connect(target: HostPort, error: OSError, timeout: float) -> CheckError:
    if isinstance(error, TimeoutError):
        return CheckError(f"{target} has not taken the connection within {timeout:g} s")
    return CheckError(f"cannot connect to {target}: {error.strerror or error}")
