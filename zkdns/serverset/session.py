"""A ZooKeeper session shared by registrations and watches, with the one thread that sends requests.

    kazoo's threads ──(only add jobs)──▶ queue of jobs ──▶ worker thread ──▶ requests, one by one

A request in one of kazoo's callbacks would deadlock, so the callbacks add jobs, which run in the worker. No
function of the program runs there, since it could delay all users. A session starts with its first user and
ends with its last one, or at the end of the process. A client that the caller passed in keeps running. A
forked child process does not share the session; it starts its own.
"""

from __future__ import annotations

import atexit
import heapq
import itertools
import math
import random
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
    NotReadOnlyCallError,
    SessionExpiredError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import KeeperState

from zkdns.errors import UnreachableError, ZkdnsError, ZooKeeperError
from zkdns.serverset import forking
from zkdns.serverset.auth import ANONYMOUS, Access
from zkdns.serverset.client import dispose, hosts_of, make_client, tls_of
from zkdns.serverset.kazoo_ext import has_ended_thread
from zkdns.serverset.logs import Log
from zkdns.serverset.reachability import (
    NO_QUORUM,
    Diagnosis,
    describe_missing_chroot,
)

if TYPE_CHECKING:
    import ssl

    from kazoo.client import KazooClient
    from kazoo.interfaces import IAsyncResult
    from kazoo.protocol.states import ZnodeStat

log = Log("zkdns.session")

CONNECTION_ERRORS = (ConnectionLoss, ConnectionClosedError, SessionExpiredError, KazooTimeoutError)
"""Exceptions caused by the connection. The server may or may not have executed the request."""

_CLIENT_CHECK_SECONDS = 1.0
"""How often the session checks whether its client has terminated."""
_EXIT_TIMEOUT = 2.0  # seconds that the end of the process waits for the end of the session

UNREACHABLE_SECONDS = 3.0
"""Time after a lost connection until the cause is logged. A restart of a server often takes less."""
FIRST_UNREACHABLE_SECONDS = 1.0
"""Time without a first connection until the cause is logged: a user may be waiting for it."""

_END_TIMEOUT = 1.0  # seconds that the last user waits for the end of the session
_END_SLACK = 0.1  # seconds that it waits if its own time is over; in good order, the end takes less

_DIAGNOSIS_MAX_AGE = 5.0  # seconds for which a search for the cause is shared

_MIN_BACKOFF, _MAX_BACKOFF = 1.0, 60.0  # seconds between attempts after a refusal, as in go.serversets
_random = random.SystemRandom()  # unlike the global generator, a program does not seed or copy it


class SessionUser(Protocol):
    """A registration or watch that uses a session."""

    def on_connected(self) -> None:
        """Called in the worker after each connect. Watches are gone, and the session may be a new one."""


class Session:
    """A session with its client, worker thread and users.

    Args:
        hosts: `host:port,host:port/chroot`.
        session_timeout: seconds.
        client: a kazoo client that the caller starts and stops. None: the session makes its own.
        access: credentials and TLS of the session's own client.
    """

    # The sessions of clients that callers have passed in.
    _of_clients: ClassVar[weakref.WeakKeyDictionary[Any, Session]] = weakref.WeakKeyDictionary()
    _shared: ClassVar[weakref.WeakValueDictionary[Any, Session]] = weakref.WeakValueDictionary()
    _sessions_lock: ClassVar = threading.Lock()  # for both

    def __init__(
        self,
        hosts: str,
        session_timeout: float,
        client: KazooClient | None = None,
        *,
        access: Access = ANONYMOUS,
    ) -> None:
        self.hosts = hosts
        self._access = access
        self.session_timeout = session_timeout
        # Weak, since this client is a key of `_of_clients`. While there are users, `_client` keeps it alive.
        self._callers_client = weakref.ref(client) if client is not None else None
        self._reset()
        forking.add(self)

    def after_fork(self) -> None:
        """Return to the initial state in a forked child. Open watches join again."""
        atexit.unregister(self._on_exit)
        Session._sessions_lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self.claimed: dict[str, object] = {}
        """Paths of the members that this session's registrations own."""
        self._client: KazooClient | None = None
        self._users: list[SessionUser] = []
        self._leaving: list[SessionUser] = []
        self._lock = threading.Condition()
        self._jobs: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._worker: threading.Thread | None = None
        self._is_outage_logged = False
        self._identity: tuple[int, bytes] | None = None
        """The session id and password, kept in case the client terminates."""
        self._diagnosis: Diagnosis | None = None

    @classmethod
    def of_client(cls, client: KazooClient, session_timeout: float) -> Session:
        """The session of a caller's client. All sets with this client share it."""
        with cls._sessions_lock:
            session = cls._of_clients.get(client)
            if session is None:
                session = cls._of_clients[client] = cls(hosts_of(client), session_timeout, client)
            return session

    @classmethod
    def shared(cls, hosts: str, session_timeout: float, access: Access) -> Session:
        """The session of all sets with equal arguments. A TLS context is equal to itself only."""
        key = hosts, session_timeout, tuple(access.digests), access.sasl, access.tls
        with cls._sessions_lock:
            session = cls._shared.get(key)
            if session is None:
                session = cls._shared[key] = cls(hosts, session_timeout, access=access)
            return session

    @property
    def is_connected(self) -> bool:
        """Whether requests can be sent now."""
        client = self._client
        return client is not None and client.state == KazooState.CONNECTED

    @property
    def has_ended(self) -> bool:
        """Whether the client was stopped, for instance by the caller that it belongs to."""
        client = self._client
        return client is None or client.client_state == KeeperState.CLOSED

    def owns(self, stat: ZnodeStat) -> bool:
        """Whether an ephemeral znode belongs to this session.

        Raises:
            ConnectionLoss: the connection was lost just now, so the session is unknown.
        """
        client = self._client
        identity = client.client_id if client is not None else None
        if identity is None:
            raise ConnectionLoss
        return bool(stat.ephemeralOwner == identity[0])

    def missing_chroot(self) -> str | None:
        """The sentence for a chroot that does not exist, so that every path is missing. None: it exists.

        Called in the worker, after a request has failed because its path does not exist. Readers with the
        correct chroot would never see a member below a wrong one, so nothing creates a chroot.

        Raises:
            KazooException: as `call`.
        """
        chroot = self._client.chroot if self._client is not None else ""
        if not chroot or self.call("exists", "/") is not None:
            return None
        return describe_missing_chroot(chroot, self.hosts)

    def unreachable_error(self, action: str) -> UnreachableError:
        """The error for an action that failed because ZooKeeper was not reached. It names the causes.

        Without a recent search, blocks for little more than a second.
        """
        return self._finished_diagnosis().error(action)

    def diagnose(self) -> Diagnosis:
        """Begin to search why ZooKeeper cannot be reached, or join a search that has begun just now."""
        diagnosis = self._diagnosis
        if diagnosis is None or diagnosis.age > _DIAGNOSIS_MAX_AGE:
            diagnosis = self._diagnosis = Diagnosis(self.hosts, self._tls)
        return diagnosis

    @property
    def _tls(self) -> ssl.SSLContext | None:
        client = self._client
        return self._access.tls if client is None else tls_of(client)

    def claim(self, path: str, registration: object) -> None:
        """Record that a registration owns the member at this path, so that no other one adopts it."""
        self.claimed[path] = registration

    def release(self, path: str, registration: object) -> None:
        """Record that the registration no longer owns the member at this path. Another one may own it now."""
        if self.claimed.get(path) is registration:
            del self.claimed[path]

    # -- users ---------------------------------------------------------------------------------------------

    def join(self, user: SessionUser) -> None:
        """Add a user. The first one starts the connection."""
        with self._lock:
            if self._worker is None:
                self._start()
                forking.warn_of_uwsgi()
            self._users.append(user)
        self.run_soon(lambda: self._notify([user]) if self.is_connected else None)

    def leave(self, user: SessionUser, *, unfinished: bool = False, timeout: float = _END_TIMEOUT) -> None:
        """Remove a user. After the last one the session ends.

        Args:
            user: a user that has joined.
            unfinished: whether the user still has a znode. If so, and while the session has other users,
                `on_connected` is still called for it, until it calls `finished`.
            timeout: seconds to wait for the end of the session.
        """
        with self._lock:
            if user not in self._users:
                return
            self._users.remove(user)
            if unfinished:
                self._leaving.append(user)
        self._end_if_unused(timeout)

    def finished(self, user: SessionUser) -> None:
        """Record that a user that has left has no znode any more."""
        with self._lock:
            if user not in self._leaving:
                return
            self._leaving.remove(user)
        self._end_if_unused()

    def _start(self) -> None:
        """Start the client and the worker. The caller holds the lock."""
        own = self._make_client(None) if self._callers_client is None else None
        client = own or (self._callers_client() if self._callers_client is not None else None)
        if client is None:
            raise ZooKeeperError("the ZooKeeper client of this server set no longer exists")
        if own is None and forking.is_child() and _is_of_parent(client):
            raise ZooKeeperError(
                "the ZooKeeper client of this server set belongs to the parent of this forked process; "
                "make one in each process"
            )
        worker = threading.Thread(target=self._work, name="zkdns session", daemon=True)
        try:  # before anything is stored, since no more files or threads may be available
            if own is not None:
                own.start_async()
            worker.start()  # it waits for the lock
        except BaseException:
            if own is not None:
                _stop(own)
            raise
        if own is not None:
            atexit.register(self._on_exit)  # registered after kazoo's own handler, so that it runs before it
        self._client, self._worker = client, worker
        client.add_listener(self._on_state)  # `join` adds a job that handles an earlier connect
        self._schedule_outage_check()
        if own is not None:
            first_check = time.monotonic() + _CLIENT_CHECK_SECONDS
            heapq.heappush(self._jobs, (first_check, next(self._numbers), self._replace_ended_client))

    def _make_client(self, identity: tuple[int, bytes] | None) -> KazooClient:
        return make_client(
            self.hosts, session_timeout=self.session_timeout, access=self._access, identity=identity
        )

    def _replace_ended_client(self) -> None:
        """Replace a client that has terminated by another one, which resumes its session."""
        self.run_later(_CLIENT_CHECK_SECONDS, self._replace_ended_client)
        ended = self._client
        if ended is None or not has_ended_thread(ended):
            return
        try:
            client = self._make_client(self._identity)
            client.start_async()
        except Exception as error:  # noqa: BLE001 - such as no more open files, which may pass
            log.warning("zookeeper_client_restart_failed", zookeeper=self.hosts, reason=repr(error))
            return
        log.warning("zookeeper_client_replaced", zookeeper=self.hosts)
        ended.remove_listener(self._on_state)
        with self._lock:
            is_used = self._client is ended
            if is_used:
                self._client = client
        if is_used:
            client.add_listener(self._on_state)
            if self.is_connected:
                self.run_soon(self._notify_all)
        # Last, because no thread may be available. Not used: the last user has left in the meantime.
        dispose(ended if is_used else client)

    def _end_if_unused(self, timeout: float = _END_TIMEOUT) -> None:
        with self._lock:
            client, worker = self._client, self._worker
            if self._users or client is None or worker is None:
                return
            is_callers = self._callers_client is not None
            if self._leaving and is_callers and client.client_state != KeeperState.CLOSED:
                return  # the session goes on, so its remaining znodes have to be deleted first
            client.remove_listener(self._on_state)
            self._client = self._worker = None
            atexit.unregister(self._on_exit)
            self._leaving.clear()  # their znodes end with the session
            self.claimed.clear()
            self._jobs.clear()
            self._lock.notify_all()
        deadline = time.monotonic() + timeout
        ending = _stop(client) if self._callers_client is None else []
        if worker is not threading.current_thread():
            ending.append(worker)
        for thread in ending:  # they end at once unless ZooKeeper does not respond
            thread.join(max(deadline - time.monotonic(), _END_SLACK))

    def _on_exit(self) -> None:
        """End the session at the end of the process, so that open members do not wait for the timeout."""
        client, ended = self._client, threading.Event()
        if client is None:
            return

        def end() -> None:
            try:
                client.stop()
            finally:
                ended.set()

        self.run_soon(end)  # in the worker, since no new thread can be started during exit
        ended.wait(_EXIT_TIMEOUT)

    def _on_state(self, state: str) -> None:
        """Handle a change of the connection. Called in kazoo's thread."""
        if state == KazooState.CONNECTED:
            self._is_outage_logged = False
            self.run_soon(self._notify_all)
        elif state == KazooState.LOST:
            self.run_soon(self._end_if_unused)  # if the caller has stopped its client, no user can finish
        else:
            self.run_later(UNREACHABLE_SECONDS, self._check_outage)

    def _schedule_outage_check(self) -> None:
        """Check later whether the first connect has succeeded. The caller holds the lock."""
        due = time.monotonic() + FIRST_UNREACHABLE_SECONDS
        heapq.heappush(self._jobs, (due, next(self._numbers), self._check_outage))

    def _check_outage(self) -> None:
        """Log once per outage why ZooKeeper cannot be reached."""
        if not self.is_connected and not self._is_outage_logged:
            self._is_outage_logged = True
            # In a thread, because it resolves host names and connects.
            threading.Thread(target=self._log_outage, daemon=True).start()

    def _log_outage(self) -> None:
        reason = self._finished_diagnosis().describe()
        if not self.is_connected and self._worker is not None:
            log.warning("zookeeper_unreachable", zookeeper=self.hosts, reason=reason, effect="retrying")

    def _notify_all(self) -> None:
        self._notify([*self._users, *self._leaving])

    def _notify(self, users: list[SessionUser]) -> None:
        client = self._client
        if client is not None and client.client_id is not None:
            self._identity = client.client_id  # before a user creates a znode in the session
        for user in users:
            self._run(user.on_connected)  # one that fails must not affect the others

    # -- jobs ----------------------------------------------------------------------------------------------

    def run_soon(self, job: Callable[[], None]) -> None:
        """Run a job in the worker."""
        self.run_later(0.0, job)

    def run_later(self, seconds: float, job: Callable[[], None]) -> None:
        """Run a job in the worker after a delay. The end of the session drops pending jobs."""
        with self._lock:
            if self._worker is None:
                return
            heapq.heappush(self._jobs, (time.monotonic() + seconds, next(self._numbers), job))
            self._lock.notify_all()

    def wait_for(self, state: threading.Condition, predicate: Callable[[], bool], timeout: float) -> bool:
        """Wait until the predicate holds, at most `timeout` seconds. Returns whether it does.

        A job that registers or closes must not wait for itself, so in the worker this runs jobs.
        """
        if self._worker is None:
            return predicate()  # no job will change it
        if threading.current_thread() is not self._worker:
            with state:
                return state.wait_for(predicate, timeout)
        deadline = time.monotonic() + timeout
        while not predicate() and (job := self._next_job(deadline)):
            self._run(job)
        return predicate()

    def _work(self) -> None:
        while job := self._next_job(math.inf):
            self._run(job)

    def _next_job(self, deadline: float) -> Callable[[], None] | None:
        """The next job, once it is due. None: the deadline has passed or the session has ended."""
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
        except BaseException:  # such as a subscriber's SystemExit, which must not end the worker
            log.exception("zookeeper_job_failed")

    # -- requests ------------------------------------------------------------------------------------------

    def call(self, method: str, *arguments: object, **options: object) -> Any:  # noqa: ANN401 - kazoo's result
        """Send a request from the worker and wait for the response: `call("get", path)`.

        Raises:
            KazooException: any of kazoo's exceptions; `CONNECTION_ERRORS` if the connection is the cause.
        """
        return self.call_async(method, *arguments, **options).get(timeout=self.session_timeout)

    def call_async(self, method: str, *arguments: object, **options: object) -> IAsyncResult:
        """Send a request from the worker without waiting for the response."""
        with self._lock:  # a worker that outlives its session must not use the next one
            client = self._client if threading.current_thread() is self._worker else None
        if client is None:
            raise ConnectionClosedError("the session has ended")
        return getattr(client, f"{method}_async")(*arguments, **options)

    def to_zkdns_error(self, error: Exception, action: str) -> ZkdnsError:
        """Convert an exception of `call`. `action` completes the message `cannot …`."""
        if isinstance(error, CONNECTION_ERRORS):
            return self.unreachable_error(action)
        return to_zkdns_error(error, action, self.hosts, self._tls)

    def _finished_diagnosis(self) -> Diagnosis:
        """Why no server gives a session. Without a recent search, blocks for little more than a second."""
        return self.diagnose().wait()


def _is_of_parent(client: KazooClient) -> bool:
    """Whether a client was started by the parent of this process, which has its thread."""
    return client.client_state != KeeperState.CLOSED and has_ended_thread(client)


def _stop(client: KazooClient) -> list[threading.Thread]:
    """End the session of a client in a thread, since a paused server can make that take seconds.

    Returns the thread. At the end of the process no thread can be started, so there is none.
    """
    ended = threading.Event()

    def stop() -> None:
        try:
            client.stop()
            client.close()
        except Exception as error:  # noqa: BLE001 - kazoo stops waiting for its own thread
            log.warning("zookeeper_session_close_failed", reason=repr(error))
        ended.set()
        atexit.unregister(wait)

    def wait() -> None:
        ended.wait(_EXIT_TIMEOUT)  # a thread that is about to start cannot be joined

    thread = threading.Thread(target=stop, name="zookeeper stop", daemon=True)
    atexit.register(wait)
    try:
        thread.start()
    except RuntimeError:
        atexit.unregister(wait)
        stop()
        return []
    return [thread]


class Backoff:
    """Delays between attempts, each about twice as long as the last, up to a minute.

    A delay is random, between half of its greatest value and that value, so that the processes of a fleet
    that have failed at the same time do not all try again at the same time.

    Args:
        random: returns a number from 0 to 1.
    """

    def __init__(self, random: Callable[[], float] = _random.random) -> None:
        self._next = _MIN_BACKOFF
        self._random = random

    def pause(self) -> float:
        """Seconds until the next attempt."""
        longest, self._next = self._next, min(self._next * 2, _MAX_BACKOFF)
        return longest * (1 + self._random()) / 2

    def reset(self) -> None:
        """Start with short delays again, after a success."""
        self._next = _MIN_BACKOFF


def to_zkdns_error(
    error: Exception, action: str, hosts: str, tls: ssl.SSLContext | None = None
) -> ZkdnsError:
    """Convert an exception of kazoo. `action` completes the message `cannot …`."""
    if isinstance(error, ZkdnsError):
        return error
    if isinstance(error, CONNECTION_ERRORS):
        return Diagnosis(hosts, tls).wait().error(action)
    if isinstance(error, NotReadOnlyCallError):
        return UnreachableError(f"cannot {action}: ZooKeeper at {hosts} refuses it: {NO_QUORUM}")
    if isinstance(error, NoAuthError):
        return ZooKeeperError(
            f"cannot {action}: ZooKeeper denies it (its ACL does not permit this client to)"
        )
    reason = f"{type(error).__name__} {error}".strip() if isinstance(error, KazooException) else repr(error)
    return ZooKeeperError(f"cannot {action}: {reason}")
