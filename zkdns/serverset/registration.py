"""Keeps one member registered: exactly one znode, through every change of session, znode and service.

Theory of operation: a new connection, a changed ping result, the znode's watch or an error may each mean that
the actual state (which znode exists) differs from the wanted one. Each of them triggers the same comparison,
`_compare`, which corrects any difference. So there is one repair procedure and no list of special cases.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Self

from kazoo.exceptions import NoAuthError, NoNodeError

from zkdns.errors import UnreachableError, ZkdnsError
from zkdns.serverset.logs import Log
from zkdns.serverset.member import MEMBER_PREFIX, Member, encode_member
from zkdns.serverset.ping import Ping, Pinger
from zkdns.serverset.reachability import unreachable_error
from zkdns.serverset.session import Backoff, Session, to_zkdns_error

if TYPE_CHECKING:
    from kazoo.protocol.states import WatchedEvent

log = Log("zkdns.registration")


class Registration:
    """A member of a server set while this is open and its ping succeeds. `ServerSet.register` returns it.

        registration = ServerSet(PRODUCTION, "web", "zk01:2181").register("10.0.0.1", 8080)
        print(registration.path)  # /discovery/prod/web/member_0000000318
        registration.close()

    `with` and `async with` close it at the end of the block. Its threads never raise; `is_registered`, `path`
    and `last_error` show the state. A registration that is never closed ends with the process. A forked child
    process does not share it.
    """

    def __init__(
        self,
        session: Session,
        directory: str,
        member: Member,
        *,
        ping: Ping | None = None,
        ping_interval: float = 1.0,
        ping_timeout: float = 1.0,
    ) -> None:
        self._session = session
        self._directory = directory
        self._data = encode_member(member)
        self._is_wanted = None if ping else True  # None: unknown, since the first ping has not returned
        self._path: str | None = None
        self._is_uncertain = False  # whether a create request without a response may have succeeded
        self._last_error: ZkdnsError | None = None
        self._backoff = Backoff()
        self._attempt = 0  # so that only the latest scheduled comparison runs
        self._state = threading.Condition()
        self._was_tried = False
        self._refusal: ZkdnsError | None = None
        self._is_closing = False
        self._is_gone = False
        self._pinger = Pinger(self._on_ping, ping, ping_interval, ping_timeout) if ping else None
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

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is registered. Returns False after `timeout` seconds, or when it is closed."""
        with self._state:
            self._state.wait_for(lambda: self.is_registered or self._is_closing, timeout)
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
        self._session.wait_for(self._state, lambda: self._was_tried or self._is_closing, timeout)
        refusal = self._refusal
        if refusal is None and (self._was_tried or self._is_closing):
            return
        if self._is_wanted is None and self._session.is_connected:
            return
        raise refusal or unreachable_error(f"register in {self._directory}", self._session.hosts)

    def close(self, timeout: float | None = None) -> None:
        """Unregister, and wait until the znode is gone.

        If ZooKeeper is unreachable this returns after `timeout` seconds (default: the session timeout). The
        znode then ends with the session or, if the session has other users, when ZooKeeper is reachable
        again.
        """
        limit = self._session.session_timeout if timeout is None else timeout
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
            self._session.leave(self, unfinished=not self._is_gone)
            if self._is_gone:
                self._session.finished(self)  # the znode was deleted between the two calls above

    def _unregister(self) -> None:
        """Stop the ping and delete the znode."""
        if self._pinger:
            self._pinger.stop()
        self._session.run_soon(self._compare)

    async def close_async(self, timeout: float | None = None) -> None:
        """Run `close` without blocking the event loop."""
        await asyncio.to_thread(self.close, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close_async()

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

    def _on_watch(self, event: WatchedEvent) -> None:
        """Handle the znode's watch in kazoo's thread. Events of type NONE concern the session."""
        if event.type != "NONE":
            self._session.run_soon(self._compare)

    def _compare_later(self, seconds: float) -> None:
        number = self._attempt
        self._session.run_later(seconds, lambda: self._compare() if number == self._attempt else None)

    # -- the comparison, in the session's worker -----------------------------------------------------------

    def _compare(self) -> None:
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
            log.info("registration_lost", path=self._path)
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
            log.info("member_unregistered", path=path)

    def _is_ours(self, path: str) -> bool:
        """Whether the znode exists and belongs to this session. This also watches it for deletion."""
        try:
            # Not `exists`, which would leave a watch for ever on each path that no longer exists.
            _, stat = self._session.call("get", path, watch=self._on_watch)
        except NoNodeError:
            return False
        return self._session.owns(stat)

    def _create(self) -> None:
        try:
            path = self._call_create()
        except NoNodeError:
            self._session.call("ensure_path", self._directory)
            path = self._call_create()
        self._claim(path)
        log.info("member_registered", path=path)

    def _call_create(self) -> str:
        # Not with kazoo's makepath, which sends several requests: the last one could create the znode long
        # after this thread has stopped waiting and `_adopt` has found none.
        self._is_uncertain = True
        try:
            path = self._session.call(
                "create", f"{self._directory}/{MEMBER_PREFIX}", self._data, ephemeral=True, sequence=True
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
        paths = [f"{self._directory}/{name}" for name in sorted(names) if name.startswith(MEMBER_PREFIX)]
        free = [path for path in paths if path not in self._session.claimed]
        ours = None
        for path, response in [(path, self._session.call_async("get", path)) for path in free]:
            with contextlib.suppress(NoNodeError, NoAuthError):  # a znode that we cannot read is not ours
                data, stat = response.get(timeout=self._session.session_timeout)
                if data == self._data and self._session.owns(stat):
                    ours = path
        self._is_uncertain = False
        if ours is not None:
            log.info("registration_recovered", path=ours)
            self._claim(ours)

    def _claim(self, path: str) -> None:
        self._session.claim(path)
        self._is_uncertain = False
        with self._state:
            self._path = path
            if self._is_wanted:
                self._last_error = None  # under the lock: a registered member has no error
            self._state.notify_all()
        if not self._is_ours(path):  # it was deleted between the two requests
            self._forget(path)
            self._session.run_soon(self._compare)

    def _forget(self, path: str) -> None:
        self._session.release(path)
        with self._state:
            self._path = None

    def _set_failed(self, error: Exception) -> None:
        failure = to_zkdns_error(error, f"register in {self._directory}", self._session.hosts)
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
