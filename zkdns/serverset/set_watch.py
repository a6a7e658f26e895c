"""A watch over one server set in ZooKeeper. It reads, and never writes: it needs no other permission."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from kazoo.exceptions import NoAuthError, NoNodeError

from zkdns.errors import BadMemberError, UnreachableError, ZkdnsError
from zkdns.serverset.logs import Log
from zkdns.serverset.member import MEMBER_PREFIX, Member, decode_member
from zkdns.serverset.session import AWAY, Backoff, Session, explain
from zkdns.serverset.watch import Watch

if TYPE_CHECKING:
    from kazoo.protocol.states import WatchedEvent

log = Log("zkdns.watch")

# ZooKeeper never gives a number twice under one parent, so such a member is read once. Another name may have
# been deleted and created again between two readings.
_NUMBERED = re.compile(r"[0-9]{10}$")
_UNREAD = Member("", None)


class SetWatch(Watch):
    """The members of one set, kept current; while ZooKeeper is away, the last that it said.

    A set that does not exist yet has no members, and is waited for.
    """

    def __init__(self, session: Session, directory: str) -> None:
        super().__init__()
        self.bad_members: Counter[str] = Counter()
        """Members that were skipped, by reason."""
        self._session = session
        self._directory = directory
        self._czxid = 0
        self._known: dict[str, Member | None] = {}  # None: cannot be used
        self._backoff = Backoff()
        self._read = 0  # counts readings, so that of those that wait only the newest is made
        self._was_tried = False
        self._last_error: ZkdnsError | None = None
        try:
            session.join(self)
        except BaseException:  # Ctrl-C came, and nobody else could close it
            self.close()
            raise

    @property
    def last_error(self) -> ZkdnsError | None:
        """Why the set could not be read the last time; None: it could."""
        return self._last_error

    def wait_for_outcome(self, timeout: float) -> None:
        """Wait until the set has been read once.

        Raises:
            ZkdnsError: ZooKeeper refuses.
            UnreachableError: it could not be asked within `timeout` seconds.

        Whatever is raised, also KeyboardInterrupt: the watch is closed then.
        """
        try:
            self._session.wait_for(self._changed, lambda: self._was_tried or self.is_closed, timeout)
        except BaseException:
            self.close()
            raise
        if self.event_count:
            return
        self.close()
        raise self._last_error or UnreachableError(
            f"cannot watch {self._directory}: ZooKeeper at {self._session.hosts} cannot be reached"
        )

    def close(self) -> None:
        """Follow no more, and wake everybody who waits; once more changes nothing."""
        super().close()
        self._session.leave(self)

    def connected(self) -> None:
        """In the session's worker: the connection is there."""
        self._backoff.reset()
        self._look()

    def _fired(self, event: WatchedEvent) -> None:
        """A watch of the set, in a thread of kazoo's; events of type NONE tell of the session instead."""
        if event.type != "NONE":
            self._session.soon(self._look)

    def _look(self) -> None:
        """Read what is new, in the session's worker; after a failure once more later."""
        self._read += 1
        if self.is_closed or not self._session.is_connected:
            return
        try:
            members = self._read_set()
        except Exception as error:  # noqa: BLE001 - whatever ZooKeeper refuses, it may not refuse for ever
            self._failed(error)
            number = self._read
            self._session.later(self._backoff.pause(), lambda: self._look() if number == self._read else None)
        else:
            self._last_error = None  # before anybody hears of the members
            self._backoff.reset()
            self._publish(members)
            self._tried()

    def _read_set(self) -> list[Member]:
        try:
            names, status = self._session.ask(
                "get_children", self._directory, watch=self._fired, include_data=True
            )
        except NoNodeError:
            self._known.clear()
            # Before anybody hears of it: a subscriber that exits must not leave us without a watch.
            if self._session.ask("exists", self._directory, watch=self._fired) is not None:
                self._session.soon(self._look)  # made between the two questions
            return []
        if status.czxid != self._czxid:  # another znode than before: equal names mean nothing
            self._czxid = status.czxid
            self._known.clear()
        present = sorted(name for name in names if name.startswith(MEMBER_PREFIX))
        new = [name for name in present if name not in self._known or not _NUMBERED.search(name)]
        asked = [(name, self._session.begin_to_ask("get", f"{self._directory}/{name}")) for name in new]
        for name, answer in asked:
            try:
                self._learn(name, answer.get(timeout=self._session.session_timeout)[0])
            except NoNodeError:
                continue  # gone already; the watch tells of it too
            except NoAuthError:
                self._skip(name, "denied", "its ACL does not permit reading it")
        for name in self._known.keys() - set(present):
            del self._known[name]
        return [member for name in present if (member := self._known.get(name))]

    def _learn(self, name: str, data: bytes) -> None:
        try:
            self._known[name] = decode_member(name, data)
        except BadMemberError as error:
            self._skip(name, error.reason, str(error))

    def _skip(self, name: str, reason: str, detail: str) -> None:
        if self._known.get(name, _UNREAD) is not None:
            self.bad_members[reason] += 1
            log.warning("member_skipped", path=f"{self._directory}/{name}", reason=reason, detail=detail)
        self._known[name] = None

    def _failed(self, error: Exception) -> None:
        told = explain(error, f"watch {self._directory}", self._session.hosts)
        if str(told) != str(self._last_error):
            log.warning("server_set_read_failed", reason=str(told))
        self._last_error = told
        if not isinstance(error, AWAY):
            self._tried()

    def _tried(self) -> None:
        with self._changed:
            self._was_tried = True
            self._changed.notify_all()
