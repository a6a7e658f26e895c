"""One ZooKeeper session, shared by whatever registers and watches over it, and the one thread that asks.

    kazoo's threads ──(only post)──▶ queue of jobs ──▶ worker thread ──▶ asks ZooKeeper, one by one

kazoo must not be asked in its own callbacks (it deadlocks), so jobs that come from there run in the worker. A
session begins with its first user and ends with its last; a client of the caller's own is left running then.
The end of the process ends it too. A process that is forked off has no part in it, and begins one of its own.
"""

from __future__ import annotations

import atexit
import heapq
import itertools
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from kazoo.client import KazooState
from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    KazooException,
    NoAuthError,
    SessionExpiredError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import KeeperState

from zkdns.errors import UnreachableError, ZkdnsError, ZooKeeperError
from zkdns.serverset.access import ANYBODY, Access
from zkdns.serverset.client import dispose, make_client
from zkdns.serverset.kazoo_private import has_ended
from zkdns.serverset.logs import Log

if TYPE_CHECKING:
    from kazoo.client import KazooClient
    from kazoo.interfaces import IAsyncResult
    from kazoo.protocol.states import ZnodeStat

log = Log("zkdns.session")

AWAY = (ConnectionLoss, ConnectionClosedError, SessionExpiredError, KazooTimeoutError)
"""What is raised where the connection is the reason: it says nothing about whether the server did it."""

_LOOK_SECONDS = 1.0
"""How often a client is looked at, whether it has ended."""
_EXIT_PATIENCE = 2.0  # seconds that the end of the process waits for the end of the session

_LEAST_PAUSE, _MOST_PAUSE = 1.0, 60.0  # seconds between tries of what the server refuses, as go.serversets


class User(Protocol):
    """What lives on a session."""

    def connected(self) -> None:
        """In the worker: there is a connection (again): watches are gone, the session may be another."""


class Session:
    """A session's client, worker and users.

    Args:
        hosts: `host:port,host:port/chroot`.
        session_timeout: seconds.
        client: a kazoo client of the caller's, which is started and stopped by the caller alone.
        access: of the client that is made where none is given.
    """

    _of_clients: ClassVar[weakref.WeakKeyDictionary[Any, Session]] = weakref.WeakKeyDictionary()
    _of_clients_lock: ClassVar = threading.Lock()

    def __init__(
        self,
        hosts: str,
        session_timeout: float,
        client: KazooClient | None = None,
        *,
        access: Access = ANYBODY,
    ) -> None:
        self.hosts = hosts
        self._access = access
        self.session_timeout = session_timeout
        # Weak: it is the key that this session is found by. With users, `_client` holds it.
        self._given = weakref.ref(client) if client is not None else None
        self.forget()
        _sessions.add(self)

    def forget(self) -> None:
        """Be as new. A process just forked off has none of the threads, and all else is its parent's."""
        self.claimed: set[str] = set()
        """Paths of members that a registration of this session holds."""
        self._client: KazooClient | None = None
        self._users: list[User] = []
        self._leaving: list[User] = []
        self._lock = threading.Condition()
        self._jobs: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._worker: threading.Thread | None = None
        self._identity: tuple[int, bytes] | None = None
        """Of the session, while a client that has ended may have lost it."""

    @classmethod
    def of_client(cls, client: KazooClient, session_timeout: float) -> Session:
        """The session of a caller's client: one, however many sets use it."""
        with cls._of_clients_lock:
            session = cls._of_clients.get(client)
            if session is None:
                hosts = ",".join(f"{host}:{port}" for host, port, *_ in client.hosts)
                session = cls._of_clients[client] = cls(hosts, session_timeout, client)
            return session

    @property
    def is_connected(self) -> bool:
        """Whether ZooKeeper can be asked now."""
        client = self._client
        return client is not None and client.state == KazooState.CONNECTED

    def owns(self, status: ZnodeStat) -> bool:
        """Whether an ephemeral znode is this session's.

        Raises:
            ConnectionLoss: the connection has just gone, and what the session is with it.
        """
        client = self._client
        identity = client.client_id if client is not None else None
        if identity is None:
            raise ConnectionLoss
        return bool(status.ephemeralOwner == identity[0])

    # -- users ---------------------------------------------------------------------------------------------

    def join(self, user: User) -> None:
        """Begin to use the session; the first user connects it."""
        with self._lock:
            if self._worker is None:
                self._begin()
            self._users.append(user)
        self.soon(lambda: self._tell_connected([user]) if self.is_connected else None)

    def leave(self, user: User, *, unfinished: bool = False) -> None:
        """Use the session no more; with its last user it ends.

        Args:
            user: who joined.
            unfinished: whether it has left something in ZooKeeper. As long as the session lives on for others
                it is then still told of connections, until it calls `finished`.
        """
        with self._lock:
            if user not in self._users:
                return
            self._users.remove(user)
            if unfinished:
                self._leaving.append(user)
        self._end_if_unused()

    def finished(self, user: User) -> None:
        """Nothing of a user that has left is in ZooKeeper any more."""
        with self._lock:
            if user not in self._leaving:
                return
            self._leaving.remove(user)
        self._end_if_unused()

    def _begin(self) -> None:
        """Make client and worker, with the lock held."""
        own = self._make_client(None) if self._given is None else None
        client = own or (self._given() if self._given is not None else None)
        if client is None:
            raise ZooKeeperError("the ZooKeeper client that this set was made with is no more")
        if own is not None:
            own.start_async()  # before anything is kept: it fails where there are no files left to open
            atexit.register(self._end_at_exit)  # after kazoo's own, which is called later so
        self._client = client
        self._worker = threading.Thread(target=self._work, name="zkdns session", daemon=True)
        self._worker.start()
        client.add_listener(self._heard)  # what was heard before the first job finds by itself
        if own is not None:
            heapq.heappush(self._jobs, (time.monotonic() + _LOOK_SECONDS, next(self._numbers), self._look))

    def _make_client(self, identity: tuple[int, bytes] | None) -> KazooClient:
        return make_client(
            self.hosts, session_timeout=self.session_timeout, access=self._access, identity=identity
        )

    def _look(self) -> None:
        """Put another client in the place of one that has ended for good, and go on with its session."""
        self.later(_LOOK_SECONDS, self._look)
        ended = self._client
        if ended is None or not has_ended(ended):
            return
        try:
            client = self._make_client(self._identity)
            client.start_async()
        except Exception as error:  # noqa: BLE001 - no files left to open, say; that may pass
            log.warning("zookeeper_client_restart_failed", zookeeper=self.hosts, reason=repr(error))
            return
        log.warning("zookeeper_client_replaced", zookeeper=self.hosts)
        ended.remove_listener(self._heard)
        with self._lock:
            is_used = self._client is ended
            if is_used:
                self._client = client
        dispose(ended if is_used else client)
        if not is_used:
            return  # its last user has left meanwhile
        client.add_listener(self._heard)
        if self.is_connected:
            self._tell_all_connected()

    def _end_if_unused(self) -> None:
        with self._lock:
            client, worker = self._client, self._worker
            if self._users or client is None or worker is None:
                return
            if self._leaving and self._given is not None and client.client_state != KeeperState.CLOSED:
                return
            client.remove_listener(self._heard)
            self._client = self._worker = None
            atexit.unregister(self._end_at_exit)
            self._leaving.clear()  # what they left goes with the session
            self.claimed.clear()
            self._jobs.clear()
            self._lock.notify_all()
        if self._given is None:
            try:
                client.stop()
                client.close()
            except Exception as error:  # noqa: BLE001 - kazoo gives up waiting for its own thread
                log.warning("zookeeper_session_close_failed", reason=repr(error))
        if worker is not threading.current_thread():
            worker.join(self.session_timeout)  # longer only where a subscriber that it calls hangs

    def _end_at_exit(self) -> None:
        """At the end of the process: members that were not closed go now, not when the time is out."""
        client, ended = self._client, threading.Event()
        if client is None:
            return

        def end() -> None:
            try:
                client.stop()
            finally:
                ended.set()

        self.soon(end)  # there, since what hangs is left to itself, and no thread can be started any more
        ended.wait(_EXIT_PATIENCE)

    def _heard(self, state: str) -> None:
        """The state listener, in a thread of kazoo's."""
        if state == KazooState.CONNECTED:
            self.soon(self._tell_all_connected)
        elif state == KazooState.LOST:
            self.soon(self._end_if_unused)  # a caller's client that was stopped: nobody need stay for it

    def _tell_all_connected(self) -> None:
        self._tell_connected([*self._users, *self._leaving])

    def _tell_connected(self, users: list[User]) -> None:
        client = self._client
        if client is not None and client.client_id is not None:
            self._identity = client.client_id  # before anybody makes something in it
        for user in users:
            user.connected()

    # -- jobs ----------------------------------------------------------------------------------------------

    def soon(self, job: Callable[[], None]) -> None:
        """Run the job in the worker."""
        self.later(0.0, job)

    def later(self, seconds: float, job: Callable[[], None]) -> None:
        """Run the job in the worker after some time; what is left when the session ends is dropped."""
        with self._lock:
            if self._worker is None:
                return
            heapq.heappush(self._jobs, (time.monotonic() + seconds, next(self._numbers), job))
            self._lock.notify_all()

    def wait_for(self, state: threading.Condition, is_so: Callable[[], bool], timeout: float) -> bool:
        """Wait until jobs have made it so, at most `timeout` seconds; whether it is.

        A subscriber of a watch is called in the worker, and may register and close: waiting is working there.
        """
        if self._worker is None:
            return is_so()  # there are no jobs
        if threading.current_thread() is not self._worker:
            with state:
                return state.wait_for(is_so, timeout)
        deadline = time.monotonic() + timeout
        while not is_so() and (job := self._next_job(deadline)):
            self._run(job)
        return is_so()

    def _work(self) -> None:
        while job := self._next_job(math.inf):
            self._run(job)

    def _next_job(self, deadline: float) -> Callable[[], None] | None:
        """The first job, when it is due; None: the deadline came first, or the session has ended."""
        own = threading.current_thread()
        with self._lock:
            while self._worker is own:
                now, due = time.monotonic(), self._jobs[0][0] if self._jobs else math.inf
                if due <= now:
                    return heapq.heappop(self._jobs)[2]
                if deadline <= now:
                    return None
                until = min(due, deadline)
                self._lock.wait(None if until == math.inf else until - now)
        return None

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException:  # also a subscriber's sys.exit(): it must not end the work for all others
            log.exception("zookeeper_job_failed")

    # -- asking --------------------------------------------------------------------------------------------

    def ask(self, call: str, *arguments: object, **options: object) -> Any:  # noqa: ANN401 - as kazoo answers
        """Ask ZooKeeper from the worker: `ask("get", path)`.

        Raises:
            whatever kazoo does; those in `AWAY` where the connection is the reason.
        """
        return self.begin_to_ask(call, *arguments, **options).get(timeout=self.session_timeout)

    def begin_to_ask(self, call: str, *arguments: object, **options: object) -> IAsyncResult:
        """The same without waiting for the answer."""
        with self._lock:  # a worker that outlives its session must not ask in the next one
            client = self._client if threading.current_thread() is self._worker else None
        if client is None:
            raise ConnectionClosedError("the session has ended")
        return getattr(client, f"{call}_async")(*arguments, **options)


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _forget_all() -> None:
    for session in list(_sessions):
        session.forget()


os.register_at_fork(after_in_child=_forget_all)


class Backoff:
    """Pauses between tries, each twice as long as the last, up to a minute."""

    def __init__(self) -> None:
        self._next = _LEAST_PAUSE

    def pause(self) -> float:
        """Seconds until the next try."""
        pause, self._next = self._next, min(self._next * 2, _MOST_PAUSE)
        return pause

    def reset(self) -> None:
        """It worked: begin with short pauses again."""
        self._next = _LEAST_PAUSE


def explain(error: Exception, what: str, hosts: str) -> ZkdnsError:
    """An error of kazoo's as one of ours, with a sentence for people."""
    if isinstance(error, ZkdnsError):
        return error
    if isinstance(error, AWAY):
        return UnreachableError(f"cannot {what}: ZooKeeper at {hosts} cannot be reached")
    if isinstance(error, NoAuthError):
        return ZooKeeperError(f"cannot {what}: ZooKeeper denies it (its ACL does not permit this client to)")
    reason = f"{type(error).__name__} {error}".strip() if isinstance(error, KazooException) else repr(error)
    return ZooKeeperError(f"cannot {what}: {reason}")
