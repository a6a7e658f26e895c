"""A watch over one server set in ZooKeeper. It only reads, so it needs only read permission."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import msgspec
from kazoo.exceptions import NoAuthError, NoNodeError

from zkdns.errors import BadMemberError, UnreachableError, ZkdnsError, ZooKeeperError
from zkdns.namespace import MEMBER_PREFIX, VECTOR_PREFIX
from zkdns.serverset.awaiting import close_in_background, wait_for_outcome
from zkdns.serverset.callbacks import Subscriber
from zkdns.serverset.logs import Log
from zkdns.serverset.member import Member, decode_member
from zkdns.serverset.passed_over import NO_CHILDREN, log_fields, pass_over
from zkdns.serverset.session import CONNECTION_ERRORS, Backoff, Session
from zkdns.serverset.watch import Watch
from zkdns.serverset.weights import Vector, Weights, parse_vector

if TYPE_CHECKING:
    from kazoo.protocol.states import WatchedEvent

log = Log("zkdns.watch")

_NEVER_READ = Member("", None)  # not None, which stands for an invalid member


class SetWatch(Watch):
    """The members of one set, kept current. While ZooKeeper is unreachable, they stay as they were.

    A set that does not exist yet has no members. They appear when it is created.
    """

    def __init__(self, session: Session, directory: str, prefix: str = MEMBER_PREFIX) -> None:
        self.bad_members: Counter[str] = Counter()
        """How many members were skipped, by reason."""
        self.passed_over = NO_CHILDREN
        """The present children that are neither members nor weights: other programs register in other
        formats, or with another prefix."""
        self._session = session
        self._directory = directory
        self._prefix = prefix
        self._czxid = 0
        self._known: dict[str, Member | Vector | None] = {}  # None: an invalid member or vector
        self._watched: set[str] = set()  # known ones with a data watch; others are read again
        self._backoff = Backoff()
        self._read_count = 0  # so that only the latest scheduled read runs
        self._is_update_scheduled = False
        self._is_passing_over_logged = False
        self._was_tried = False
        self._refusal: ZkdnsError | None = None  # of the first attempt; later ones do not change it
        self._last_error: ZkdnsError | None = None
        super().__init__()
        try:
            session.join(self)
        except BaseException:  # such as KeyboardInterrupt: the caller has no watch to close
            self.close()
            raise

    @property
    def last_error(self) -> ZkdnsError | None:
        """Why the last read failed, or that the chroot does not exist. None: it succeeded."""
        return self._last_error

    def wait_for_outcome(self, timeout: float) -> None:
        """Wait until the set was read once.

        Any exception, including KeyboardInterrupt, closes the watch.

        Raises:
            ZkdnsError: ZooKeeper refuses the read, or the chroot of the connect string does not exist.
            UnreachableError: ZooKeeper did not respond within `timeout` seconds.
        """
        try:
            self._session.wait_for(self._changed, self._has_outcome, timeout)
            self._check_outcome(self._session.unreachable_error)
        except BaseException:
            self.close()
            raise

    async def wait_for_outcome_async(self, timeout: float) -> None:
        """As `wait_for_outcome`, for asyncio. It closes the watch in the background."""
        await wait_for_outcome(
            self._changed,
            self._has_outcome,
            timeout,
            session=self._session,
            check=self._check_outcome,
            abandon=self._abandon,
        )

    def _has_outcome(self) -> bool:
        return self._was_tried or self.is_closed

    def _check_outcome(self, unreachable_error: Callable[[str], UnreachableError]) -> None:
        """Raise the refusal, or that ZooKeeper has not responded."""
        with self._changed:
            if self._was_tried and self._refusal is None:
                return
        raise self._refusal or unreachable_error(f"watch {self._directory}")

    def _abandon(self) -> None:
        """Close in the background, since nobody has a reference to this."""
        close_in_background(self.close, self._session.run_soon)

    def subscribe(self, on_change: Callable[[], object]) -> Callable[[], None]:
        """Call `on_change` after every change and after closing. Returns a function that unsubscribes.

        After a change the function is called in a thread of its own, so if it blocks, only its later calls
        wait. Its calls after changes do not overlap. The call after closing comes in the thread that closes.
        Exceptions are logged.
        """
        subscriber = Subscriber(on_change, self._directory, self._session.run_later)
        unsubscribe = super().subscribe(lambda: on_change() if self.is_closed else subscriber.call())

        def end() -> None:
            unsubscribe()
            subscriber.end()

        return end

    def close(self) -> None:
        """Stop watching and wake all waiting threads. Closing twice is allowed.

        If this ends the session while ZooKeeper is unreachable, it waits for at most a second.
        """
        try:
            super().close()
        finally:  # also if a subscriber raises SystemExit
            self._session.leave(self)

    def after_fork(self) -> Callable[[], object] | None:
        """Prepare this watch for a forked child, where it gets a session of the child."""
        super().after_fork()
        self._is_update_scheduled = False
        return None if self.is_closed else self._join_again

    def _join_again(self) -> None:
        if self.is_closed:
            return
        try:
            self._session.join(self)
        except Exception as error:  # noqa: BLE001 - such as a client of the parent, or no more open files
            log.warning("watch_closed_by_fork", path=self._directory, reason=str(error) or repr(error))
            self._last_error = self._session.to_zkdns_error(error, f"watch {self._directory}")
            self.close()
        if self.is_closed:  # closed by another thread before it joined
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
            members, missing = self._read_set()
        except Exception as error:  # noqa: BLE001 - any refusal may be temporary
            self._on_failure(error)
            self._update_later()
            return
        # The error before the members, because subscribers see both.
        if missing is None:
            self._last_error = None
            self._backoff.reset()
        else:
            self._on_failure(ZooKeeperError(f"cannot watch {self._directory}: {missing}"))
            self._update_later()  # the watch of the set does not report that the chroot was created
        self._publish(members)
        self._set_tried(None)

    def _update_later(self) -> None:
        number = self._read_count
        self._session.run_later(
            self._backoff.pause(), lambda: self._update() if number == self._read_count else None
        )

    def _read_set(self) -> tuple[list[Member], str | None]:
        """The members, and a sentence if the chroot does not exist, so that there are none."""
        try:
            names, stat = self._session.call(
                "get_children", self._directory, watch=self._on_watch, include_data=True
            )
        except NoNodeError:
            self._known.clear()
            self._watched.clear()
            self.passed_over = NO_CHILDREN
            # Before subscribers are called, because one that raises SystemExit would leave the set unwatched.
            if self._session.call("exists", self._directory, watch=self._on_watch) is not None:
                self._session.run_soon(self._update)  # it was created between the two requests
                return [], None
            return [], self._session.missing_chroot()
        if stat.czxid != self._czxid:
            # The set was created again, so members with known names are new ones.
            self._czxid = stat.czxid
            self._known.clear()
            self._watched.clear()
        present = sorted(name for name in names if name.startswith((self._prefix, VECTOR_PREFIX)))
        self._pass_over(
            [name for name in names if not name.startswith((self._prefix, VECTOR_PREFIX))],
            has_members=any(name.startswith(self._prefix) for name in present),
        )
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
        return self._weighted_members(present), None

    def _weighted_members(self, present: list[str]) -> list[Member]:
        """The members with their weights from the vectors."""
        known = [self._known.get(name) for name in present]
        members = [one for one in known if isinstance(one, Member)]
        vectors = [one for one in known if isinstance(one, Vector)]
        if not vectors:
            return members
        weights = Weights(vectors)
        return [msgspec.structs.replace(member, weight=weights.of(member)) for member in members]

    def _pass_over(self, others: Collection[str], *, has_members: bool) -> None:
        """Store the children that are passed over, and log the first ones."""
        self.passed_over = pass_over(others)
        if others and not self._is_passing_over_logged:
            self._is_passing_over_logged = True
            write = log.info if has_members else log.warning
            write("children_passed_over", **log_fields(self._directory, self.passed_over))

    def _set_data(self, name: str, data: bytes) -> None:
        ignored: list[tuple[str, str]] = []
        decode = decode_member if name.startswith(self._prefix) else parse_vector
        try:
            decoded = decode(name, data, lambda field, why: ignored.append((field, why)))
        except BadMemberError as error:
            self._skip(name, error.reason, str(error))
            return
        if decoded != self._known.get(name):  # otherwise it was read again, and is logged already
            for field, why in ignored:
                log.warning("member_field_ignored", path=f"{self._directory}/{name}", field=field, detail=why)
        self._known[name] = decoded

    def _skip(self, name: str, reason: str, detail: str) -> None:
        if self._known.get(name, _NEVER_READ) is not None:
            self.bad_members[reason] += 1
            log.warning("member_skipped", path=f"{self._directory}/{name}", reason=reason, detail=detail)
        self._known[name] = None

    def _on_failure(self, error: Exception) -> None:
        if self.is_closed or self._session.has_ended:
            return
        failure = self._session.to_zkdns_error(error, f"watch {self._directory}")
        if str(failure) != str(self._last_error):
            log.warning("server_set_read_failed", reason=str(failure))
        self._last_error = failure
        if not isinstance(error, CONNECTION_ERRORS):
            self._set_tried(failure)

    def _set_tried(self, refusal: ZkdnsError | None) -> None:
        with self._changed:
            if not self._was_tried:
                self._was_tried, self._refusal = True, refusal
            self._changed.notify_all()
