"""Describes why ZooKeeper gives no session: the cause for each server, which kazoo does not report.

A cause is found with a connection of its own: name lookup, TCP, TLS, then ZooKeeper's handshake, which
accepts a server without a quorum. A session that starts is closed at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import struct
import threading
import time
from typing import Self

from zkdns.address import HostPort, parse_servers
from zkdns.causes import cause_of
from zkdns.errors import UnreachableError

_SECONDS = 1.0
"""Time limit of each server; all are checked in parallel. Most causes show at once."""
_SLACK = 0.25  # seconds that a check may take longer than its time limit, on a busy machine
DIAGNOSIS_SECONDS = _SECONDS + _SLACK
"""Maximum duration of a search for the cause."""
NO_QUORUM = "it is read-only, because it has no quorum"
"""Why a read-only server gives no session to a client that writes."""

# The handshake: the length, then protocol version, last transaction seen, session time-out in ms, session id
# and password (both 0: a new session), and whether a read-only server is accepted.
_CONNECT = struct.pack(">i iqiqi16s?", 45, 0, 0, 10_000, 0, 16, bytes(16), True)
_CLOSE_SESSION = struct.pack(">i ii", 8, 1, -11)
_RESPONSE = struct.Struct(">i iiqi16s?")
_RESPONSE_LENGTHS = (36, 37)  # of the response without its length; 36: from ZooKeeper before 3.4
_CLOSED = (
    "it closes the connection instead of starting a session: it has no quorum, is starting, limits the "
    "connections of a client, or requires TLS"
)
_REFUSED = (
    cause_of(ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))),
    cause_of(socket.gaierror(socket.EAI_NONAME, "")),
)
_NO_LOCAL_SESSIONS = f"{NO_QUORUM}, and starts no sessions without localSessionsEnabled=true"
_REFUSAL = struct.Struct(">i iqi")
"""A response to a request, which a server sends instead if it cannot create the session: length, xid, zxid,
error."""
_NOT_READ_ONLY = -119  # the error of a write on a read-only server: without local sessions, a session is one
_TLS_ALERT = 0x15  # the first byte of a TLS record that reports an error


class Diagnosis:
    """The search for the cause why no server gives a session. It runs in threads of its own.

    Every error and log entry about an unreachable ZooKeeper has its cause from here.

    Args:
        hosts: `host:port,host:port/chroot`.
        tls: of the client. None: it does not use TLS.
    """

    def __init__(self, hosts: str, tls: ssl.SSLContext | None = None) -> None:
        self._hosts = hosts
        self._tls = tls
        self._began_at = time.monotonic()
        self._servers = parse_servers(hosts)
        self._reasons: dict[HostPort, str] = {}
        self._threads: list[threading.Thread] = []
        for server in self._servers:
            thread = threading.Thread(target=self._check, args=(server,), name="zkdns diagnosis", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._reasons[server] = f"the cause is unknown, since no thread can search for it ({error})"
            else:
                self._threads.append(thread)

    @property
    def age(self) -> float:
        """Seconds since the beginning of the search."""
        return time.monotonic() - self._began_at

    def wait(self) -> Self:
        """Wait for the end of the search, at most little more than a second. Return the search."""
        for thread in self._threads:
            thread.join(max(0.0, DIAGNOSIS_SECONDS - self.age))
        return self

    def describe(self) -> str:
        """The causes found so far: `no such host`, with several servers `a:2181: no such host; b:2181: …`."""
        silent = f"no response within {min(_SECONDS, max(self.age, 0.01)):.2g} s"
        found = {server: self._reasons.get(server, silent) for server in self._servers}
        if len(found) == 1:
            return next(iter(found.values()))
        return "; ".join(f"{server}: {reason}" for server, reason in found.items())

    @property
    def is_refused(self) -> bool:
        """Whether all servers refuse connections or have no address, so that waiting is of little use."""
        return all(self._reasons.get(server) in _REFUSED for server in self._servers)

    def error(self, action: str, advice: str = "") -> UnreachableError:
        """The error for an action that failed without ZooKeeper, with the causes found so far.

        Args:
            action: completes the sentence `cannot …`.
            advice: follows the sentence, for instance ` (--wait keeps trying)`.
        """
        return UnreachableError(
            f"cannot {action}: ZooKeeper at {self._hosts} is unreachable: {self.describe()}{advice}"
        )

    def _check(self, server: HostPort) -> None:
        self._reasons[server] = session_failure(server, _SECONDS, self._tls) or (
            "it gives sessions now: it has just become reachable, or refuses the credentials of this client"
        )


def describe_missing_chroot(chroot: str, hosts: str) -> str:
    """The sentence for a chroot of the connect string that does not exist, so that every path is missing."""
    return f"the chroot {chroot} does not exist on {hosts.partition('/')[0]}"


def session_failure(
    server: HostPort, seconds: float, tls: ssl.SSLContext | None = None, *, read_only: bool = False
) -> str | None:
    """Why a server gives no session: `no such host`, `connection refused`, `it requires TLS`.

    Args:
        server: the server's host name or address, and its port.
        seconds: time limit of each step.
        tls: of the client. None: it does not use TLS.
        read_only: whether a server without a quorum is accepted.

    Returns:
        A clause. None: the server gives sessions, apart from credentials.
    """
    sock = _connect(server, seconds)
    if isinstance(sock, str):
        return sock
    try:
        failure = _handshake_failure(sock, server.host, seconds, tls)
    except TimeoutError:
        return (
            f"it accepts connections, but sends nothing within {seconds:g} s: "
            "it is paused, overloaded or starting, or it is not ZooKeeper"
        )
    except OSError:  # for instance a reset
        return _CLOSED
    return None if read_only and failure == NO_QUORUM else failure


def _handshake_failure(
    sock: socket.socket, host: str, seconds: float, tls: ssl.SSLContext | None
) -> str | None:
    """Do the handshakes of TLS and ZooKeeper, and close. Returns why they fail; None: they succeed."""
    with contextlib.ExitStack() as stack:
        stack.callback(sock.close)
        if tls is not None:
            try:
                sock = stack.enter_context(tls.wrap_socket(sock, server_hostname=host))
            except ssl.SSLCertVerificationError as error:
                return cause_of(error)
            except (ssl.SSLError, ValueError) as error:  # ValueError: a host that cannot be in a certificate
                return f"TLS fails: {cause_of(error)}"
        sock.sendall(_CONNECT)
        failure = _read_response(_receive(sock, time.monotonic() + seconds))
        if failure in (None, NO_QUORUM):
            with contextlib.suppress(OSError):
                sock.sendall(_CLOSE_SESSION)
        return failure


def _receive(sock: socket.socket, deadline: float) -> bytes:
    """Receive the response to the handshake, or whatever arrives instead of it until the server closes."""
    received = b""
    while len(received) < _RESPONSE.size:
        # A response without its last byte comes from a server before 3.4, and nothing follows it.
        if len(received) >= 4 and len(received) == 4 + int.from_bytes(received[:4]):  # noqa: PLR2004 - the length
            break
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            chunk = sock.recv(_RESPONSE.size - len(received))
        except OSError:
            if received:  # it is no response, or the server would have sent the rest
                break
            raise
        if not chunk:
            break
        received += chunk
    return received


def _read_response(received: bytes) -> str | None:
    """Why the response to the handshake starts no session. None: it does."""
    if not received:
        return _CLOSED
    if received[0] == _TLS_ALERT:
        return "it requires TLS"
    if len(received) == _REFUSAL.size and int.from_bytes(received[:4]) == _REFUSAL.size - 4:
        error = _REFUSAL.unpack(received)[-1]
        return (
            _NO_LOCAL_SESSIONS if error == _NOT_READ_ONLY else f"it refuses a session with the error {error}"
        )
    if int.from_bytes(received[:4]) not in _RESPONSE_LENGTHS or len(received) < 4 + min(_RESPONSE_LENGTHS):
        return "it does not speak ZooKeeper's protocol"
    is_read_only = _RESPONSE.unpack(received.ljust(_RESPONSE.size, b"\0"))[-1]
    return NO_QUORUM if is_read_only else None


def _connect(server: HostPort, seconds: float) -> socket.socket | str:
    """A TCP connection, or why it fails: `no such host`, `connection refused`."""
    try:
        infos = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return cause_of(error)
    reason = ""
    for family, kind, protocol, _, address in infos:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # such as no more files
            reason = (error.strerror or str(error)).lower()
            continue
        sock.settimeout(seconds)
        try:
            sock.connect(address)
        except TimeoutError:
            reason = f"no response within {seconds:g} s"
        except OSError as error:
            reason = cause_of(error)
        else:
            return sock
        sock.close()
    return reason
