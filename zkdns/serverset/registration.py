"""Keeps one member registered: exactly one znode, through every change of session, znode and service.

Theory of operation: a new connection, a changed ping result, the znode's watch or an error may each mean that
the actual state (which znode exists) differs from the wanted one. Each of them triggers the same comparison,
`_compare`, which corrects any difference. So there is one repair procedure and no list of special cases.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from kazoo.exceptions import NoAuthError, NoNodeError

from zkdns.errors import BadValueError, UnreachableError, ZkdnsError, ZooKeeperError
from zkdns.namespace import MEMBER_PREFIX
from zkdns.serverset import forking
from zkdns.serverset.awaiting import (
    Condition,
    close_in_background,
    run_in_thread,
    wait_for_outcome,
)
from zkdns.serverset.callbacks import Subscriber
from zkdns.serverset.logs import Log
from zkdns.serverset.member import Member, encode_member
from zkdns.serverset.ping import Ping, Pinger, check_seconds
from zkdns.serverset.session import Backoff, Session

if TYPE_CHECKING:
    from kazoo.protocol.states import WatchedEvent

log = Log("zkdns.registration")


class Registration:
    """A member of a server set while this is open and its ping succeeds. `ServerSet.register` returns it.

        registration = ServerSet(PRODUCTION, "web", "zk01:2181").register("10.0.0.1", 8080)
        print(registration.path)  # /discovery/prod/web/member_0000000318
        registration.close()

    `with` and `async with` close it at the end of the block. Its threads never raise; `is_registered`, `path`
    and `last_error` show the state, and `subscribe` reports its changes. A registration that is never closed
    ends with the process. In a forked child process it is closed; the member stays registered by the parent.
    """

    def __init__(
        self,
        session: Session,
        directory: str,
        member: Member,
        *,
        service: str,
        ping: Ping | None = None,
        ping_interval: float = 1.0,
        ping_timeout: float = 1.0,
        prefix: str = MEMBER_PREFIX,
    ) -> None:
        self._session = session
        self._directory = directory
        self._service = service
        self._prefix = prefix
        self._action = f"register in {directory}"
        self._data = encode_member(member)
        self._is_wanted = None if ping else True  # None: unknown, since the first ping has not returned
        self._path: str | None = None
        self._czxid: int | None = None  # the transaction that created the znode. None: not read yet
        self._is_uncertain = False  # whether a create request without a response may have succeeded
        self._last_error: ZkdnsError | None = None
        self._backoff = Backoff()
        self._attempt = 0  # so that only the latest scheduled comparison runs
        self._state = Condition()
        self._was_tried = False
        self._refusal: ZkdnsError | None = None
        self._is_closing = False
        self._is_gone = False
        self._is_ended = False  # whether `close` has finished
        self._subscribers: dict[object, Callable[[], object]] = {}
        self._reported = self._snapshot()
        self._ping_interval = ping_interval
        self._is_parents = False  # in a forked child that has not logged it yet
        self._pinger = Pinger(self._on_ping, ping, ping_interval, ping_timeout) if ping else None
        forking.add(self)
        try:
            session.join(self)
            if self._pinger:
                self._pinger.start()
        except BaseException:  # such as KeyboardInterrupt, or no more threads can be started
            self.close(0)
            raise

    # -- public --------------------------------------------------------------------------------------------

    @property
    def is_registered(self) -> bool:
        """Whether the znode exists. While ZooKeeper is unreachable, this is the last known state."""
        return self._path is not None

    @property
    def path(self) -> str | None:
        """The znode's path. None: not registered."""
        return self._path

    @property
    def last_error(self) -> ZkdnsError | None:
        """The last error of the ping or of ZooKeeper. None: it is registered, or no error has occurred."""
        return self._last_error

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closing

    @property
    def ping_interval(self) -> float:
        """Seconds between two calls of the ping. A change takes effect at once; the time limit stays.

        Raises:
            BadValueError: when it is set, if it is not above 0, or if the registration has no ping.
        """
        return self._ping_interval

    @ping_interval.setter
    def ping_interval(self, seconds: float) -> None:
        check_seconds("ping_interval", seconds)
        if self._pinger is None:
            raise BadValueError("this registration has no ping, so ping_interval cannot be set")
        self._ping_interval = self._pinger.interval = seconds

    def subscribe(self, on_change: Callable[[], object]) -> Callable[[], None]:
        """Call `on_change` after each change of `path`, `last_error` or `is_closed`, and after closing.

        Returns a function that unsubscribes. The function is called in a thread of its own, and after closing
        in the thread that closes. Several quick changes may be combined. Exceptions are logged.
        """
        key = object()  # one function may subscribe twice, and each subscription ends by itself
        subscriber = Subscriber(on_change, self._directory, self._session.run_later)
        with self._state:
            self._subscribers[key] = lambda: on_change() if self._is_ended else subscriber.call()

        def unsubscribe() -> None:
            with self._state:
                self._subscribers.pop(key, None)
            subscriber.end()

        return unsubscribe

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait until `close` has finished in another thread. Returns False after `timeout` seconds."""
        with self._state:
            return self._state.wait_for(lambda: self._is_ended, timeout)

    async def wait_closed_async(self, timeout: float | None = None) -> bool:
        """As `wait_closed`, for asyncio."""
        return await self._state.wait_for_async(lambda: self._is_ended, timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is registered. Returns False after `timeout` seconds, or when it is closed."""
        with self._state:
            self._state.wait_for(lambda: self.is_registered or self._is_closing, timeout)
            return self.is_registered

    async def wait_async(self, timeout: float | None = None) -> bool:
        """As `wait`, for asyncio."""
        await self._state.wait_for_async(lambda: self.is_registered or self._is_closing, timeout)
        return self.is_registered

    def wait_for_outcome(self, timeout: float) -> None:
        """Wait until it is registered, its ping has failed, or the ping takes longer than this.

        Any exception, including KeyboardInterrupt, closes the registration.

        Raises:
            ZkdnsError: ZooKeeper refuses the registration.
            UnreachableError: ZooKeeper did not respond within `timeout` seconds.
        """
        try:
            self._wait_for_outcome(timeout)
        except BaseException:
            self.close()
            raise

    def _wait_for_outcome(self, timeout: float) -> None:
        self._session.wait_for(self._state, self._has_outcome, timeout)
        self._check_outcome(self._session.unreachable_error)

    async def wait_for_outcome_async(self, timeout: float) -> None:
        """As `wait_for_outcome`, for asyncio. It closes the registration in the background."""
        await wait_for_outcome(
            self._state,
            self._has_outcome,
            timeout,
            session=self._session,
            check=self._check_outcome,
            abandon=self._abandon,
        )

    def _has_outcome(self) -> bool:
        return self._was_tried or self._is_closing

    def _check_outcome(self, unreachable_error: Callable[[str], UnreachableError]) -> None:
        """Raise the refusal, or that ZooKeeper has not responded."""
        refusal = self._refusal
        if refusal is None and self._has_outcome():
            return
        if self._is_wanted is None and self._session.is_connected:
            return
        raise refusal or unreachable_error(self._action)

    def _abandon(self) -> None:
        """Close in the background, since nobody has a reference to this."""
        self._is_closing = True  # from now on, no znode is created
        close_in_background(self.close, self._session.run_soon)

    def close(self, timeout: float | None = None) -> None:
        """Unregister, and wait until the znode is gone.

        If ZooKeeper is unreachable this returns after `timeout` seconds (default: the session timeout). The
        znode then ends with the session or, if the session has other users, when ZooKeeper is reachable
        again.
        """
        limit = self._session.session_timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        try:
            with self._state:
                self._is_closing = True
                self._state.notify_all()
            self._unregister()
            self._session.wait_for(self._state, lambda: self._is_gone, limit)
        except BaseException:  # such as KeyboardInterrupt at any of these lines: close all the same
            self._is_closing = True
            self._unregister()
            raise
        finally:
            left = max(deadline - time.monotonic(), 0.0)
            self._session.leave(self, unfinished=not self._is_gone, timeout=left)
            if self._is_gone:
                self._session.finished(self)  # the znode was deleted between the two calls above
            with self._state:
                self._is_ended = True
                self._state.notify_all()
            self._report_change()

    def _unregister(self) -> None:
        """Stop the ping and delete the znode."""
        if self._pinger:
            self._pinger.stop()
        self._session.run_soon(self._compare)

    async def close_async(self, timeout: float | None = None) -> None:
        """As `close`, for asyncio. After a cancellation it closes in the background."""
        await run_in_thread(lambda: self.close(timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close_async()

    def after_fork(self) -> Callable[[], object] | None:
        """Close this object in a forked child, without ZooKeeper: the znode is the parent's."""
        self._state = type(self._state)()  # another thread may have held it
        if self._pinger:
            self._pinger.after_fork()
            self._pinger = None
        if not self._is_closing:
            self._is_parents = True
            self._last_error = ZkdnsError(
                f"cannot {self._action} in a forked process: the parent keeps the member registered"
            )
        self._is_closing = self._is_gone = self._is_ended = True
        self._path = None
        self._reported = self._snapshot()
        return self._log_fork if self._is_parents else None

    def _log_fork(self) -> None:
        self._is_parents = False
        log.warning("registration_closed_by_fork", path=self._directory)

    # -- triggers of a comparison --------------------------------------------------------------------------

    def on_connected(self) -> None:
        """Compare after a connect. Called in the session's worker thread."""
        self._backoff.reset()
        self._compare()

    def _on_ping(self, error: ZkdnsError | None) -> None:
        """Store the result of a ping, and compare if it has changed. None: it succeeded."""
        with self._state:
            changed = self._is_wanted is not (error is None)
            self._is_wanted = error is None
            if error is not None:
                self._last_error = error
        if changed:
            self._session.run_soon(self._compare)
        elif error is not None:
            self._session.run_soon(self._report_change)

    def _on_watch(self, event: WatchedEvent) -> None:
        """Handle the znode's watch in kazoo's thread. Events of type NONE concern the session."""
        if event.type != "NONE":
            self._session.run_soon(self._compare)

    def _compare_later(self, seconds: float) -> None:
        number = self._attempt
        self._session.run_later(seconds, lambda: self._compare() if number == self._attempt else None)

    # -- reports to subscribers ----------------------------------------------------------------------------

    def _snapshot(self) -> tuple[object, ...]:
        """What subscribers receive the changes of."""
        error = None if self._last_error is None else str(self._last_error)
        return self._path, error, self._is_closing, self._is_ended

    def _report_change(self) -> None:
        """Call the subscribers if the state has changed since the last report."""
        with self._state:
            now = self._snapshot()
            if now == self._reported:
                return
            self._reported = now
            subscribers = list(self._subscribers.values())
        for on_change in subscribers:
            try:
                on_change()
            except Exception:  # a faulty subscriber must not affect the others
                log.exception("subscriber_failed")

    # -- the comparison, in the session's worker -----------------------------------------------------------

    def _compare(self) -> None:
        """Correct any difference, and report a change of the state."""
        try:
            self._correct()
        finally:
            self._report_change()

    def _correct(self) -> None:
        """Create or delete the znode if necessary. After an error, try again later."""
        self._attempt += 1
        if self._is_gone:
            return
        if self._is_closing and self._path is None and not self._is_uncertain:
            self._set_settled()  # there is no znode to delete, so ZooKeeper is not needed
            return
        if not self._session.is_connected:
            return  # `on_connected` compares again
        if self._is_wanted is None and not self._is_closing:
            return
        try:
            if self._is_wanted and not self._is_closing:
                self._ensure_registered()
            else:
                self._ensure_unregistered()
        except Exception as error:  # noqa: BLE001 - any refusal may be temporary
            self._set_failed(error)
            self._compare_later(self._backoff.pause())
        else:
            self._backoff.reset()
            self._set_settled()

    def _ensure_registered(self) -> None:
        if self._path is not None and not self._is_ours(self._path):
            log.info("registration_lost", service=self._service, path=self._path)
            self._forget(self._path)
        if self._path is None and self._is_uncertain:
            self._adopt()
        if self._path is None:
            self._create()

    def _ensure_unregistered(self) -> None:
        if self._path is None and self._is_uncertain:
            self._adopt()
        if self._path is not None:
            path = self._path
            # After a delete without a response, the path may belong to another session.
            if self._is_ours(path):
                with contextlib.suppress(NoNodeError):
                    self._session.call("delete", path)
            self._forget(path)
            log.info("member_unregistered", service=self._service, path=path)

    def _is_ours(self, path: str) -> bool:
        """Whether the znode exists and is that of this registration. This also watches it for deletion.

        After the service's znode was deleted, another registration of this session may get the same path.
        """
        try:
            # Not `exists`, which would leave a watch for ever on each path that no longer exists.
            data, stat = self._session.call("get", path, watch=self._on_watch)
        except NoNodeError:
            return False
        if self._czxid is None and data == self._data:  # just created
            self._czxid = stat.czxid
        return self._session.owns(stat) and stat.czxid == self._czxid

    def _create(self) -> None:
        try:
            path = self._call_create()
        except NoNodeError:
            if (missing := self._session.missing_chroot()) is not None:
                raise ZooKeeperError(f"cannot {self._action}: {missing}") from None
            self._session.call("ensure_path", self._directory)
            path = self._call_create()
        self._claim(path)
        log.info("member_registered", service=self._service, path=path)

    def _call_create(self) -> str:
        # Not with kazoo's makepath, which sends several requests: the last one could create the znode long
        # after this thread has stopped waiting and `_adopt` has found none.
        self._is_uncertain = True
        try:
            path = self._session.call(
                "create", f"{self._directory}/{self._prefix}", self._data, ephemeral=True, sequence=True
            )
        except (NoNodeError, NoAuthError):
            self._is_uncertain = False  # the server has refused it
            raise
        return str(path)

    def _adopt(self) -> None:
        """Find the znode of a create request whose response was lost: it has our session and our data.

        The result is final: ZooKeeper has executed that create before it executes this listing, or will never
        do so. A connection keeps the order of requests. When a session connects again, ZooKeeper closes its
        previous connection and drops the requests that still arrive there (measured).
        """
        self._session.call("sync", self._directory)  # this server may lag behind the one that executed it
        try:
            names = self._session.call("get_children", self._directory)
        except NoNodeError:
            names = []
        paths = [f"{self._directory}/{name}" for name in sorted(names) if name.startswith(self._prefix)]
        free = [path for path in paths if path not in self._session.claimed]
        ours = None
        for path, response in [(path, self._session.call_async("get", path)) for path in free]:
            with contextlib.suppress(NoNodeError, NoAuthError):  # a znode that we cannot read is not ours
                data, stat = response.get(timeout=self._session.session_timeout)
                if data == self._data and self._session.owns(stat):
                    ours = path
        self._is_uncertain = False
        if ours is not None:
            log.info("registration_recovered", service=self._service, path=ours)
            self._claim(ours)

    def _claim(self, path: str) -> None:
        self._session.claim(path, self)
        self._is_uncertain = False
        self._czxid = None
        with self._state:
            self._path = path
            if self._is_wanted:
                self._last_error = None  # under the lock: a registered member has no error
            self._state.notify_all()
        if not self._is_ours(path):  # it was deleted between the two requests
            self._forget(path)
            self._session.run_soon(self._compare)

    def _forget(self, path: str) -> None:
        self._session.release(path, self)
        with self._state:
            self._path = None

    def _set_failed(self, error: Exception) -> None:
        failure = self._session.to_zkdns_error(error, self._action)
        with self._state:
            is_new = str(failure) != str(self._last_error)
            self._last_error = failure
            if not isinstance(failure, UnreachableError):
                self._was_tried, self._refusal = True, failure
            self._state.notify_all()
        if is_new:
            log.warning("registration_failed", reason=str(failure))

    def _set_settled(self) -> None:
        with self._state:
            if self._path is not None and self._is_wanted:
                self._last_error = None
            self._was_tried, self._refusal = True, None
            self._is_gone = self._is_closing and self._path is None
            self._state.notify_all()
        if self._is_gone:
            self._session.finished(self)
