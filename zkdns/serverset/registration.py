"""Keeping one member registered: exactly one znode, whatever happens to session, znode and service.

What is wanted and what is found are compared again after everything that could make them differ: a
connection, a ping that changes its mind, the znode's own watch, an error. So there is one way of putting
things right, and no list of cases to forget one of.
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
from zkdns.serverset.session import Backoff, Session, explain

if TYPE_CHECKING:
    from kazoo.protocol.states import WatchedEvent

log = Log("zkdns.registration")


class Registration:
    """A member of a server set for as long as this is open and its ping succeeds.

    As a context manager (also an asynchronous one) it is closed at the end. It never raises from its own
    threads: `is_registered`, `path` and `last_error` tell how it stands. What is not closed ends with the
    process; a process forked off has no part in it.
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
        self._is_wanted = None if ping else True  # None: the ping has not spoken yet
        self._path: str | None = None
        self._is_uncertain = False  # an earlier create may have happened without our knowing
        self._last_error: ZkdnsError | None = None
        self._backoff = Backoff()
        self._try = 0  # counts comparisons, so that of those that wait only the newest is made
        self._state = threading.Condition()
        self._was_tried = False
        self._refusal: ZkdnsError | None = None
        self._is_closing = False
        self._is_gone = False
        self._pinger = Pinger(self._heard_ping, ping, ping_interval, ping_timeout) if ping else None
        try:
            session.join(self)
            if self._pinger:
                self._pinger.start()
        except BaseException:  # there are no threads left to start, or Ctrl-C came
            self.close(0)
            raise

    # -- for everybody -------------------------------------------------------------------------------------

    @property
    def is_registered(self) -> bool:
        """Whether the znode is there, as far as is known: while ZooKeeper is away, what was last so."""
        return self._path is not None

    @property
    def path(self) -> str | None:
        """The znode's path; None while it is not registered."""
        return self._path

    @property
    def last_error(self) -> ZkdnsError | None:
        """What last went wrong: the ping, or ZooKeeper; None again when it is registered."""
        return self._last_error

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._is_closing

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is registered; False where it is not within `timeout` seconds, or closed."""
        with self._state:
            self._state.wait_for(lambda: self.is_registered or self._is_closing, timeout)
            return self.is_registered

    def wait_for_outcome(self, timeout: float) -> None:
        """Wait until it is registered, or its ping has said no, or takes longer than this.

        Raises:
            ZkdnsError: ZooKeeper refuses.
            UnreachableError: ZooKeeper could not be asked within `timeout` seconds.

        Whatever is raised, also KeyboardInterrupt: it is closed then.
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
        raise refusal or UnreachableError(
            f"cannot register in {self._directory}: ZooKeeper at {self._session.hosts} cannot be reached"
        )

    def close(self, timeout: float | None = None) -> None:
        """Leave the set, and wait until the znode is gone.

        Where ZooKeeper cannot be reached this returns after `timeout` seconds (the session's, unless given).
        The znode then goes with the session or, where others use that too, as soon as ZooKeeper is back.
        """
        limit = self._session.session_timeout if timeout is None else timeout
        try:
            with self._state:
                self._is_closing = True
                self._state.notify_all()
            self._undo()
            self._session.wait_for(self._state, lambda: self._is_gone, limit)
        except BaseException:  # who interrupts this has left as well, wherever that finds us
            self._is_closing = True
            self._undo()
            raise
        finally:
            self._session.leave(self, unfinished=not self._is_gone)
            if self._is_gone:
                self._session.finished(self)  # it went between the two lines above

    def _undo(self) -> None:
        """Ping no more, and let the znode go: it is closing."""
        if self._pinger:
            self._pinger.stop()
        self._session.soon(self._compare)

    async def close_async(self, timeout: float | None = None) -> None:
        """`close`, awaited."""
        await asyncio.to_thread(self.close, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close_async()

    # -- what makes it look again --------------------------------------------------------------------------

    def connected(self) -> None:
        """In the session's worker: the connection is there."""
        self._backoff.reset()
        self._compare()

    def _heard_ping(self, error: ZkdnsError | None) -> None:
        """The ping has spoken; None: well."""
        with self._state:
            changed = self._is_wanted is not (error is None)
            self._is_wanted = error is None
            if error is not None:
                self._last_error = error
        if changed:
            self._session.soon(self._compare)

    def _fired(self, event: WatchedEvent) -> None:
        """The znode's watch, in a thread of kazoo's; events of type NONE tell of the session instead."""
        if event.type != "NONE":
            self._session.soon(self._compare)

    def _compare_later(self, seconds: float) -> None:
        number = self._try
        self._session.later(seconds, lambda: self._compare() if number == self._try else None)

    # -- putting things right, in the session's worker -----------------------------------------------------

    def _compare(self) -> None:
        """Make what is found what is wanted, or try again later."""
        self._try += 1
        if self._is_gone:
            return
        if self._is_closing and self._path is None and not self._is_uncertain:
            self._settled()  # there is nothing to undo, so nobody need wait for ZooKeeper
            return
        if not self._session.is_connected:
            return  # on connecting it is called again
        if self._is_wanted is None and not self._is_closing:
            return
        try:
            if self._is_wanted and not self._is_closing:
                self._be_there()
            else:
                self._be_gone()
        except Exception as error:  # noqa: BLE001 - whatever ZooKeeper refuses, it may not refuse for ever
            self._failed(error)
            self._compare_later(self._backoff.pause())
        else:
            self._backoff.reset()
            self._settled()

    def _be_there(self) -> None:
        if self._path is not None and not self._is_ours(self._path):
            log.info("registration_lost", path=self._path)
            self._forget(self._path)
        if self._path is None and self._is_uncertain:
            self._adopt()
        if self._path is None:
            self._create()

    def _be_gone(self) -> None:
        if self._path is None and self._is_uncertain:
            self._adopt()
        if self._path is not None:
            path = self._path
            if self._is_ours(path):  # an earlier delete may have lost its answer, and the name be another's
                with contextlib.suppress(NoNodeError):
                    self._session.ask("delete", path)
            self._forget(path)
            log.info("member_unregistered", path=path)

    def _is_ours(self, path: str) -> bool:
        """Whether the znode is there and our session's; from now on we hear when it goes."""
        try:
            # Not `exists`: that would leave a watch for ever on each path that is no more.
            _, status = self._session.ask("get", path, watch=self._fired)
        except NoNodeError:
            return False
        return self._session.owns(status)

    def _create(self) -> None:
        try:
            path = self._ask_to_create()
        except NoNodeError:
            self._session.ask("ensure_path", self._directory)
            path = self._ask_to_create()
        self._claim(path)
        log.info("member_registered", path=path)

    def _ask_to_create(self) -> str:
        # Without kazoo's makepath: that creates in several steps, of which the last may come long after we
        # have given up waiting, and have looked whether it had happened.
        self._is_uncertain = True
        try:
            path = self._session.ask(
                "create", f"{self._directory}/{MEMBER_PREFIX}", self._data, ephemeral=True, sequence=True
            )
        except (NoNodeError, NoAuthError):
            self._is_uncertain = False  # that is an answer: it has not happened
            raise
        return str(path)

    def _adopt(self) -> None:
        """Find the znode of a create whose answer was lost: of our session, with our data, nobody else's.

        Once this can ask, that create is done or never will be: on one connection ZooKeeper keeps the order,
        and as it takes a session's next connection it ends the one before (measured: what comes there later
        is dropped).
        """
        self._session.ask("sync", self._directory)  # another server than we asked may not know of it yet
        try:
            names = self._session.ask("get_children", self._directory)
        except NoNodeError:
            names = []
        paths = [f"{self._directory}/{name}" for name in sorted(names) if name.startswith(MEMBER_PREFIX)]
        free = [path for path in paths if path not in self._session.claimed]
        ours = None
        for path, answer in [(path, self._session.begin_to_ask("get", path)) for path in free]:
            with contextlib.suppress(NoNodeError, NoAuthError):  # our own can be read
                data, status = answer.get(timeout=self._session.session_timeout)
                if data == self._data and self._session.owns(status):
                    ours = path
        self._is_uncertain = False
        if ours is not None:
            log.info("registration_recovered", path=ours)
            self._claim(ours)

    def _claim(self, path: str) -> None:
        self._session.claimed.add(path)
        self._is_uncertain = False
        with self._state:
            self._path = path
            if self._is_wanted:
                self._last_error = None  # together: who is registered has no error
            self._state.notify_all()
        if not self._is_ours(path):  # gone between two questions
            self._forget(path)
            self._session.soon(self._compare)

    def _forget(self, path: str) -> None:
        self._session.claimed.discard(path)
        with self._state:
            self._path = None

    def _failed(self, error: Exception) -> None:
        told = explain(error, f"register in {self._directory}", self._session.hosts)
        with self._state:
            is_news = str(told) != str(self._last_error)
            self._last_error = told
            if not isinstance(told, UnreachableError):
                self._was_tried, self._refusal = True, told
            self._state.notify_all()
        if is_news:
            log.warning("registration_failed", reason=str(told))

    def _settled(self) -> None:
        with self._state:
            if self._path is not None and self._is_wanted:
                self._last_error = None
            self._was_tried, self._refusal = True, None
            self._is_gone = self._is_closing and self._path is None
            self._state.notify_all()
        if self._is_gone:
            self._session.finished(self)
