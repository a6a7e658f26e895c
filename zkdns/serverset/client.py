"""Creates kazoo clients that reconnect for ever and log little."""

from __future__ import annotations

import contextlib
import logging
import random
import select
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

from kazoo.client import KazooClient
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.states import KeeperState
from kazoo.retry import KazooRetry

from zkdns.address import HostPort
from zkdns.serverset import forking
from zkdns.serverset.auth import ANONYMOUS, Access
from zkdns.serverset.kazoo_ext import prefer_servers, release_in_child
from zkdns.serverset.logs import Log

log = Log("zkdns.zookeeper")

SESSION_TIMEOUT = 10.0
"""Seconds, as in Finagle. With a shorter one, a long garbage collection of a server causes a reload."""

# A delay is up to 1.4 times its nominal value (kazoo's jitter): 0.7 s keeps it below 1 s, so that a returning
# server is found quickly. An attempt costs next to nothing. `make_client` also limits the delay to about a
# third of the session timeout, since the session would expire during a few failed attempts otherwise.
_MAX_RETRY_DELAY = 0.7
_random = random.SystemRandom()  # unlike the global generator, a program does not seed or copy it

Client: TypeAlias = KazooClient
"""The type of the client, for callers that only pass it on."""

CONNECT_TIMEOUT = 1.0
"""Seconds for the first attempt to connect. A healthy server responds within milliseconds."""


def make_client(
    hosts: str,
    *,
    session_timeout: float = SESSION_TIMEOUT,
    access: Access = ANONYMOUS,
    read_only: bool = False,
    identity: tuple[int, bytes] | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    preferred: Collection[HostPort] = (),
    reconnect_spread: float = 0.0,
    on_connect_failed: Callable[[], object] = lambda: None,
) -> KazooClient:
    """Make a client, which is not started yet.

    It tries to connect for ever, at intervals of at most 1 s (kazoo's default grows to an hour). It waits for
    the response of a server for `connect_timeout`, at the next attempt for twice as long, and so on up to
    kazoo's own limit. Only a SASL failure ends it for good (`LOST`), as with any kazoo client; then the
    caller has to make another one.

    ZooKeeper refuses a client that has seen a later transaction than the server: it closes the connection. So
    an ensemble that has lost its data or was restored from an older state would refuse the client for ever.
    After a session timeout without a session, and a closed connection, the client accepts an older state.

    Args:
        hosts: `host:port,host:port/chroot`.
        session_timeout: seconds.
        access: credentials and TLS.
        read_only: whether to accept a server without a quorum that serves reads (`CONNECTED_RO`).
        identity: the session id and password to resume, unless it has expired. None: a new session.
        connect_timeout: seconds, for the first attempt.
        preferred: servers that are tried before the others, in random order like those.
        reconnect_spread: maximum random delay in seconds before the first attempt after a lost connection, so
            that the clients of a lost server do not connect to the others at once. Java's client has 1 s.
        on_connect_failed: called in kazoo's thread after a failed attempt to connect, for instance if the
            server refuses the connection. It must be quick and must not raise.
    """
    handler = _Handler(hosts, access.tls, connect_timeout, session_timeout, reconnect_spread)
    client = KazooClient(
        hosts=hosts,
        timeout=session_timeout,
        handler=handler,
        auth_data=[("digest", digest.reveal()) for digest in access.digests],
        sasl_options=access.sasl.options() if access.sasl else None,
        read_only=read_only,
        client_id=identity,
        connection_retry=KazooRetry(
            max_tries=-1,
            delay=0.1,
            max_delay=min(_MAX_RETRY_DELAY, session_timeout / 4),
            sleep_func=handler.sleep_func,
        ),
        logger=_quiet_logger(),
    )
    prefer_servers(client, {(server.host, server.port) for server in preferred})
    handler.on_connect_failed = on_connect_failed
    handler.client = weakref.ref(client)
    forking.add(handler)
    if access.sasl is not None:
        client.add_listener(lambda _: _log_auth_failure(client, hosts))
    return client


def _quiet_logger() -> logging.Logger:
    """A logger without output: kazoo logs each attempt, and the owner of the client each change of state."""
    quiet = logging.getLogger("zkdns.kazoo")
    quiet.setLevel(logging.CRITICAL + 1)
    return quiet


def is_read_only(client: KazooClient) -> bool:
    """Whether a client is connected to a server without a quorum, whose data may be out of date."""
    return bool(client.client_state == KeeperState.CONNECTED_RO)


def hosts_of(client: KazooClient) -> str:
    """The servers of a client, without its chroot."""
    return ",".join(str(HostPort(host, port)) for host, port, *_ in client.hosts)


def server_of(client: KazooClient) -> HostPort | None:
    """The server of the last attempt to connect, as in the connect string. None: unknown."""
    return client.handler.server if isinstance(client.handler, _Handler) else None


def tls_of(client: KazooClient) -> ssl.SSLContext | None:
    """The TLS settings with which to find out why a client's servers give no session. None: no TLS."""
    if isinstance(client.handler, _Handler):
        return client.handler.tls
    if not getattr(client, "use_ssl", False):
        return None
    context = ssl.create_default_context()  # of a caller's client, whose own settings are unknown
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def dispose(client: KazooClient, then: Callable[[], object] = lambda: None) -> threading.Thread:
    """Stop and close a client in a thread of its own, then call `then` there. Returns the thread.

    If stopping hangs, the thread lives until the process ends, and the session expires.
    """

    def work() -> None:
        with contextlib.suppress(Exception):  # kazoo raises if its threads do not end in time
            client.stop()
            client.close()
        then()

    thread = threading.Thread(target=work, name="zookeeper stop", daemon=True)
    thread.start()
    return thread


def _log_auth_failure(client: KazooClient, hosts: str) -> None:
    """Log that a server has rejected the credentials. Otherwise only the closed connection would show it."""
    if client.client_state == KeeperState.AUTH_FAILED:
        log.warning("zookeeper_authentication_failed", zookeeper=hosts)


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no types
    """kazoo's handler with short connect timeouts and our own TLS.

    Connect timeouts: kazoo would wait a whole session timeout for a new connection. But a server that is
    starting may accept a connection and never respond to it (2 of 100 restarts cost 10 s). So the timeout is
    short, and doubles after each failure, so that a server that is slow under load is reached as well.

    TLS: kazoo always trusts the system's authorities in addition to the configured ones, does not log why it
    rejects a server, and does not use TLS when it searches for a server with a quorum.

    Older states: kazoo sends its last transaction with each handshake, so that only newer servers accept it.

    Attributes:
        tls: None: no TLS.
        on_connect_failed: called after a failed attempt to connect.
        client: the client of this handler.
        server: the server of the last attempt to connect. None: there was none.
    """

    @staticmethod
    def sleep_func(seconds: float) -> None:
        """Sleep for at least half of the time. kazoo calls this between attempts to connect.

        kazoo's own delays are random too, but equal in processes that have seeded Python's generator.
        """
        time.sleep(seconds * (1 + _random.random()) / 2)

    def __init__(
        self,
        hosts: str,
        tls: ssl.SSLContext | None,
        connect_timeout: float,
        session_timeout: float,
        reconnect_spread: float,
    ) -> None:
        super().__init__()
        self.server: HostPort | None = None
        self._reconnect_spread = reconnect_spread
        self._was_connected = False
        self.on_connect_failed: Callable[[], object] = lambda: None
        self.client: Callable[[], KazooClient | None] = lambda: None
        self._hosts = hosts
        self._session_timeout = session_timeout
        self._absent_since = 0.0
        self._is_in_handshake = False
        self._was_refused = False  # since the last session, a server has closed a connection in the handshake
        self._forgotten_zxid = 0  # the last transaction, while the client sends none
        self.tls = tls
        self._names: dict[Any, str] = {}
        self._reported: set[tuple[str, str]] = set()
        self._first_timeout = self._connect_timeout = connect_timeout
        self._is_connecting = False

    def after_fork(self) -> None:
        """Release the child's part of the connection, which belongs to the parent."""
        client = self.client()
        if client is not None:
            release_in_child(client)

    def spawn(self, func: Callable[..., object], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - kazoo's
        """Run a function in a thread. An unexpected exception ends kazoo's connection; it is logged here."""

        def run() -> None:
            try:
                func(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - the thread has no other handler
                log.warning("zookeeper_thread_failed", reason=repr(error))

        return super().spawn(run)

    def create_connection(
        self,
        address: tuple[str, int],
        *,
        hostname: object = None,
        timeout: float | None = None,
        **_: object,
    ) -> Any:  # noqa: ANN401 - kazoo's
        """Connect a socket. ZooKeeper's handshake follows on it.

        Args:
            address: the server's.
            hostname: the server's host name. kazoo passes another type for four-letter words, and None when
                it searches for a server with a quorum. In these cases the last known name of the address is
                used.
            timeout: seconds.
        """
        if not self._is_connecting:
            self._is_connecting = True
            self._absent_since = time.monotonic()
            self._was_refused = False
            if self._was_connected:
                time.sleep(_random.uniform(0, self._reconnect_spread))
        elif self._is_in_handshake:
            self._was_refused = True
        self._is_in_handshake = False
        if isinstance(hostname, str):
            self.server = HostPort(hostname, address[1])
        name = hostname if isinstance(hostname, str) else self._names.get(address, address[0])
        limit = self._connect_timeout if timeout is None else min(timeout, self._connect_timeout)
        try:
            connection = super().create_connection(address, timeout=limit)
            if self.tls is not None:
                connection = self._begin_tls(self.tls, connection, name, str(HostPort(*address[:2])))
        except Exception as error:
            if isinstance(error, TimeoutError):
                self._connect_timeout *= 2
            self.on_connect_failed()
            raise
        self._names[address] = name
        self._is_in_handshake = True
        if self._was_refused and time.monotonic() - self._absent_since > self._session_timeout:
            self._forget_zxid()
        return connection

    def _forget_zxid(self) -> None:
        """Send no last transaction with the next handshakes, so that a server with an older state accepts."""
        client = self.client()
        if client is not None and client.last_zxid:
            self._forgotten_zxid = client.last_zxid
            client.last_zxid = 0

    def _compare_zxid(self) -> None:
        """With the first response of a session, log whether its server has an older state."""
        client = self.client()
        if client is None or not client.last_zxid:
            return
        if client.last_zxid < self._forgotten_zxid:
            log.warning(
                "zookeeper_older_state_accepted",
                zookeeper=self._hosts,
                last=hex(self._forgotten_zxid),
                now=hex(client.last_zxid),
            )
        self._forgotten_zxid = 0

    def _begin_tls(self, tls: ssl.SSLContext, connection: Any, name: str, server: str) -> Any:  # noqa: ANN401 - sockets
        """Do the TLS handshake. A rejected server is logged once, and tried again."""
        try:
            secured = tls.wrap_socket(connection, server_hostname=name)
        except (ssl.SSLError, ValueError) as error:  # ValueError: a name that cannot be in a certificate
            connection.close()
            self._log_rejection(name, server, error)
            raise ConnectionAbortedError(str(error)) from None
        except OSError:
            connection.close()
            raise
        self._reported = {entry for entry in self._reported if entry[0] != server}
        return secured

    def _log_rejection(self, name: str, server: str, error: Exception) -> None:
        reason = str(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = error.verify_message
        elif isinstance(error, ssl.SSLError):
            reason = (error.reason or reason).replace("_", " ").lower()
        if (server, reason) in self._reported:
            return
        self._reported.add((server, reason))
        if isinstance(error, ssl.SSLCertVerificationError):
            log.warning("zookeeper_certificate_refused", server=server, host=name, reason=reason)
        else:
            log.warning("zookeeper_tls_failed", server=server, host=name, reason=reason)

    def select(self, readable: list[Any], writable: list[Any], _others: list[Any], timeout: float) -> Any:  # noqa: ANN401 - kazoo's
        """Wait for sockets. kazoo waits for two (the second is its wake-up pipe) once it is connected."""
        if len(readable) > 1:
            self._is_connecting = False
            self._was_connected = True
            self._connect_timeout = self._first_timeout
            if self._forgotten_zxid:
                self._compare_zxid()
            # Data that TLS has read from the socket but not returned yet is invisible to the kernel.
            if waiting := [one for one in readable if isinstance(one, ssl.SSLSocket) and one.pending()]:
                return waiting, [], []
        if not self._is_connecting:
            return _wait_for(readable, writable, timeout)
        ready = _wait_for(readable, writable, min(timeout, self._connect_timeout))
        if not any(ready):
            self._is_in_handshake = False  # the server is silent, which is no refusal
            self._connect_timeout *= 2
        return ready


def _wait_for(
    readable: list[Any], writable: list[Any], timeout: float
) -> tuple[list[Any], list[Any], list[Any]]:
    """Wait for sockets like kazoo's `selector_select`, with one system call instead of four.

    kazoo creates an epoll object for each wait, five times per request: half of the cost of a request.
    """
    poller = select.poll()
    for one in readable:
        poller.register(one, select.POLLIN)
    for one in writable:
        poller.register(one, select.POLLOUT)
    events = dict(poller.poll(timeout * 1000))
    # A socket with an error or a closed peer counts as ready for both, so that the next read or write fails.
    return (
        [one for one in readable if events.get(one.fileno(), 0) & ~select.POLLOUT],
        [one for one in writable if events.get(one.fileno(), 0) & ~select.POLLIN],
        [],
    )
