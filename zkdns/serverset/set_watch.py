"""A watch over one server set in ZooKeeper. It only reads, so it needs only read permission."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from kazoo.exceptions import NoAuthError, NoNodeError

from zkdns.errors import BadMemberError, ZkdnsError
from zkdns.serverset.logs import Log
from zkdns.serverset.member import MEMBER_PREFIX, Member, decode_member
from zkdns.serverset.reachability import unreachable_error
from zkdns.serverset.session import CONNECTION_ERRORS, Backoff, Session, to_zkdns_error
from zkdns.serverset.watch import Watch

if TYPE_CHECKING:
    from kazoo.protocol.states import WatchedEvent

log = Log("zkdns.watch")

_NEVER_READ = Member("", None)  # not None, which stands for an invalid member


class SetWatch(Watch):
    """The members of one set, kept current. While ZooKeeper is unreachable, they stay as they were.

    A set that does not exist yet has no members. They appear when it is created.
    """

    def __init__(self, session: Session, directory: str) -> None:
        super().__init__()
        self.bad_members: Counter[str] = Counter()
        """How many members were skipped, by reason."""
        self._session = session
        self._directory = directory
        self._czxid = 0
        self._known: dict[str, Member | None] = {}  # None: an invalid member
        self._watched: set[str] = set()  # known members with a data watch; others are read again
        self._backoff = Backoff()
        self._read_count = 0  # so that only the latest scheduled read runs
        self._is_update_scheduled = False
        self._was_tried = False
        self._last_error: ZkdnsError | None = None
        try:
            session.join(self)
        except BaseException:  # such as KeyboardInterrupt: the caller has no watch to close
            self.close()
            raise

    @property
    def last_error(self) -> ZkdnsError | None:
        """Why the last read failed. None: it succeeded."""
        return self._last_error

    def wait_for_outcome(self, timeout: float) -> None:
        """Wait until the set was read once.

        Any exception, including KeyboardInterrupt, closes the watch.

        Raises:
            ZkdnsError: ZooKeeper refuses the read.
            UnreachableError: ZooKeeper did not respond within `timeout` seconds.
        """
        try:
            self._session.wait_for(self._changed, lambda: self._was_tried or self.is_closed, timeout)
        except BaseException:
            self.close()
            raise
        if self.event_count:
            return
        self.close()
        raise self._last_error or unreachable_error(f"watch {self._directory}", self._session.hosts)

    def close(self) -> None:
        """Stop watching and wake all waiting threads. Closing twice is allowed."""
        super().close()
        self._session.leave(self)

    def on_connected(self) -> None:
        """Read the set after a connect. Called in the session's worker thread."""
        self._backoff.reset()
        self._watched.clear()
        self._update()

    def _on_member_watch(self, event: WatchedEvent) -> None:
        """Handle a member's data watch in kazoo's thread: its data was changed, or it was deleted."""
        if event.type != "NONE":
            name = event.path.rpartition("/")[2]
            self._session.run_soon(lambda: self._read_again(name, is_deleted=event.type == "DELETED"))

    def _read_again(self, name: str, *, is_deleted: bool) -> None:
        """Read a member at the next update. After a deletion, the watch of the set causes that update."""
        self._watched.discard(name)
        if not is_deleted and not self._is_update_scheduled:
            self._is_update_scheduled = True  # one for all events that have arrived
            self._session.run_soon(self._update)

    def _on_watch(self, event: WatchedEvent) -> None:
        """Handle the set's watch in kazoo's thread. Events of type NONE concern the session."""
        if event.type != "NONE":
            self._session.run_soon(self._update)

    def _update(self) -> None:
        """Read the set and publish its members. After a failure try again later."""
        self._is_update_scheduled = False
        self._read_count += 1
        if self.is_closed or not self._session.is_connected:
            return
        try:
            members = self._read_set()
        except Exception as error:  # noqa: BLE001 - any refusal may be temporary
            self._on_failure(error)
            number = self._read_count
            self._session.run_later(
                self._backoff.pause(), lambda: self._update() if number == self._read_count else None
            )
        else:
            self._last_error = None  # before subscribers see the members
            self._backoff.reset()
            self._publish(members)
            self._set_tried()

    def _read_set(self) -> list[Member]:
        try:
            names, stat = self._session.call(
                "get_children", self._directory, watch=self._on_watch, include_data=True
            )
        except NoNodeError:
            self._known.clear()
            self._watched.clear()
            # Before subscribers are called, because one that raises SystemExit would leave the set unwatched.
            if self._session.call("exists", self._directory, watch=self._on_watch) is not None:
                self._session.run_soon(self._update)  # it was created between the two requests
            return []
        if stat.czxid != self._czxid:
            # The set was created again, so members with known names are new ones.
            self._czxid = stat.czxid
            self._known.clear()
            self._watched.clear()
        present = sorted(name for name in names if name.startswith(MEMBER_PREFIX))
        unread = [name for name in present if name not in self._watched]
        requests = [
            (
                name,
                self._session.call_async("get", f"{self._directory}/{name}", watch=self._on_member_watch),
            )
            for name in unread
        ]
        for name, response in requests:
            try:
                self._set_data(name, response.get(timeout=self._session.session_timeout)[0])
                self._watched.add(name)
            except NoNodeError:
                self._known.pop(name, None)  # deleted in the meantime; the watch of the set reports it too
            except NoAuthError:
                self._skip(name, "denied", "its ACL does not permit reading it")
        for name in self._known.keys() - set(present):
            del self._known[name]
            self._watched.discard(name)
        return [member for name in present if (member := self._known.get(name))]

    def _set_data(self, name: str, data: bytes) -> None:
        try:
            self._known[name] = decode_member(name, data, partial(self._on_ignored, name))
        except BadMemberError as error:
            self._skip(name, error.reason, str(error))

    def _on_ignored(self, name: str, field: str, why: str) -> None:
        log.warning("member_field_ignored", path=f"{self._directory}/{name}", field=field, detail=why)

    def _skip(self, name: str, reason: str, detail: str) -> None:
        if self._known.get(name, _NEVER_READ) is not None:
            self.bad_members[reason] += 1
            log.warning("member_skipped", path=f"{self._directory}/{name}", reason=reason, detail=detail)
        self._known[name] = None

    def _on_failure(self, error: Exception) -> None:
        failure = to_zkdns_error(error, f"watch {self._directory}", self._session.hosts)
        if str(failure) != str(self._last_error):
            log.warning("server_set_read_failed", reason=str(failure))
        self._last_error = failure
        if not isinstance(error, CONNECTION_ERRORS):
            self._set_tried()

    def _set_tried(self) -> None:
        with self._changed:
            self._was_tried = True
            self._changed.notify_all()
