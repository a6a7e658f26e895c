"""How zkdns talks to ZooKeeper: one kazoo client, set up so that it never gives up and never chatters."""

from __future__ import annotations

import contextlib
import logging
import select
import ssl
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from kazoo.client import KazooClient
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.states import KeeperState
from kazoo.retry import KazooRetry

from zkdns.address import HostPort
from zkdns.serverset.access import ANYBODY, Access
from zkdns.serverset.logs import Log

log = Log("zkdns.zookeeper")

SESSION_TIMEOUT = 10.0
"""Seconds; Finagle's. Shorter ones turn a long garbage collection of a server into a reload."""

# A pause is up to 1.4 times as long as its nominal value (kazoo's jitter): 0.7 s keeps it below 1 s, so
# that a server is found soon after it is back. A try costs next to nothing. It is about a third of the
# session's time at most: else a few failed tries in a row would cost the session.
_LONGEST_PAUSE = 0.7

Client: TypeAlias = KazooClient
"""What `make_client` makes, for those who only pass it on."""

_FIRST_PATIENCE = 1.0  # seconds; a server that is well answers within milliseconds


def make_client(
    hosts: str,
    *,
    session_timeout: float = SESSION_TIMEOUT,
    access: Access = ANYBODY,
    read_only: bool = False,
    identity: tuple[int, bytes] | None = None,
) -> KazooClient:
    """A client that is not started yet.

    It tries to connect for ever, at most 1 s apart (kazoo's own default grows to an hour), and gives up a
    server that does not answer after 1 s, after 2 s the next time, and so on up to kazoo's own limit. Only
    where SASL fails does it end for good (`LOST`), as kazoo's clients do; it takes another one to try again.

    Args:
        hosts: `host:port,host:port/chroot`.
        session_timeout: seconds.
        access: who this is, and whether TLS is spoken.
        read_only: whether a server without a quorum is good enough, if it serves readers (`CONNECTED_RO`).
        identity: of a session to go on with, where it has not expired; None: a new one begins.
    """
    # kazoo tells each try as a warning; who uses the client tells each change of state instead.
    quiet = logging.getLogger("zkdns.kazoo")
    quiet.setLevel(logging.CRITICAL + 1)
    client = KazooClient(
        hosts=hosts,
        timeout=session_timeout,
        handler=_Handler(access.tls),
        auth_data=[("digest", digest.reveal()) for digest in access.digests],
        sasl_options=access.sasl.options() if access.sasl else None,
        read_only=read_only,
        client_id=identity,
        connection_retry=KazooRetry(
            max_tries=-1, delay=0.1, max_delay=min(_LONGEST_PAUSE, session_timeout / 4)
        ),
        logger=quiet,
    )
    if access.sasl is not None:
        client.add_listener(lambda _: _tell_refusal(client, hosts))
    return client


def dispose(client: KazooClient, then: Callable[[], object] = lambda: None) -> threading.Thread:
    """End a client and its threads in a thread of its own, which is returned, and calls `then` at last.

    It takes its time; what hangs is left to the end of the process, and the session then ends by itself.
    """

    def work() -> None:
        with contextlib.suppress(Exception):  # kazoo's, where its threads do not end in its time
            client.stop()
            client.close()
        then()

    thread = threading.Thread(target=work, name="zookeeper stop", daemon=True)
    thread.start()
    return thread


def _tell_refusal(client: KazooClient, hosts: str) -> None:
    """Say why a client has ended; servers only hang up on whom they refuse."""
    if client.client_state == KeeperState.AUTH_FAILED:
        log.warning("zookeeper_authentication_failed", zookeeper=hosts)


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no types
    """kazoo's own handler, except for how connections are made: impatiently, and with a TLS of our own.

    kazoo would wait a whole session timeout for a new connection. A server forgets some of those that come
    amid its start: they stay open and are never answered (2 of 100 restarts cost 10 s). The patience doubles
    with each time it was not enough, so that servers which are slow under load are connected to as well.

    kazoo's TLS trusts the system's authorities beside those it is told, says nothing of what it refuses, and
    is not spoken where it looks for servers with a quorum.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self._tls = tls
        self._names: dict[Any, str] = {}
        self._complaints: set[tuple[str, str]] = set()
        self._patience = _FIRST_PATIENCE
        self._is_connecting = False

    def spawn(self, func: Callable[..., object], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - kazoo's
        """Run it in a thread. What kazoo did not expect ends its connection for good; it is one line here."""

        def run() -> None:
            try:
                func(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody is there to catch it
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
        """Connect a socket; what follows on it is ZooKeeper's handshake.

        Args:
            address: of the server.
            hostname: what it is called; kazoo's four-letter words have something else here, and its search
                for a server with a quorum nothing: then it is the name that the address had before.
            timeout: seconds.
        """
        self._is_connecting = True
        name = hostname if isinstance(hostname, str) else self._names.get(address, address[0])
        patience = self._patience if timeout is None else min(timeout, self._patience)
        try:
            connection = super().create_connection(address, timeout=patience)
            if self._tls is not None:
                connection = self._begin_tls(self._tls, connection, name, str(HostPort(*address[:2])))
        except TimeoutError:
            self._patience *= 2
            raise
        self._names[address] = name
        return connection

    def _begin_tls(self, tls: ssl.SSLContext, connection: Any, name: str, server: str) -> Any:  # noqa: ANN401 - sockets
        """Shake hands; a server that is refused is told of once, and tried again all the same."""
        try:
            secured = tls.wrap_socket(connection, server_hostname=name)
        except (ssl.SSLError, ValueError) as error:  # ValueError: a name that no certificate can be for
            connection.close()
            self._complain(name, server, error)
            raise ConnectionAbortedError(str(error)) from None
        except OSError:
            connection.close()
            raise
        self._complaints = {complaint for complaint in self._complaints if complaint[0] != server}
        return secured

    def _complain(self, name: str, server: str, error: Exception) -> None:
        reason = str(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = error.verify_message
        elif isinstance(error, ssl.SSLError):
            reason = (error.reason or reason).replace("_", " ").lower()
        if (server, reason) in self._complaints:
            return
        self._complaints.add((server, reason))
        if isinstance(error, ssl.SSLCertVerificationError):
            log.warning("zookeeper_certificate_refused", server=server, host=name, reason=reason)
        else:
            log.warning("zookeeper_tls_failed", server=server, host=name, reason=reason)

    def select(self, readable: list[Any], writable: list[Any], _others: list[Any], timeout: float) -> Any:  # noqa: ANN401 - kazoo's
        """Wait for sockets; kazoo waits for two of them (the other wakes it) as soon as it is connected."""
        if len(readable) > 1:
            self._is_connecting = False
            self._patience = _FIRST_PATIENCE
            # What TLS has taken from the socket and not handed on is nothing that the kernel knows of.
            if waiting := [one for one in readable if isinstance(one, ssl.SSLSocket) and one.pending()]:
                return waiting, [], []
        if not self._is_connecting:
            return _wait_for(readable, writable, timeout)
        ready = _wait_for(readable, writable, min(timeout, self._patience))
        if not any(ready):
            self._patience *= 2
        return ready


def _wait_for(
    readable: list[Any], writable: list[Any], timeout: float
) -> tuple[list[Any], list[Any], list[Any]]:
    """Wait for sockets as kazoo's `selector_select` does, by one system call instead of four.

    kazoo makes an epoll each time that it waits, five times for each question: half of what that one costs.
    """
    poller = select.poll()
    for one in readable:
        poller.register(one, select.POLLIN)
    for one in writable:
        poller.register(one, select.POLLOUT)
    events = dict(poller.poll(timeout * 1000))
    # A socket that was hung up is ready for both: whoever reads or writes is told.
    return (
        [one for one in readable if events.get(one.fileno(), 0) & ~select.POLLOUT],
        [one for one in writable if events.get(one.fileno(), 0) & ~select.POLLIN],
        [],
    )
