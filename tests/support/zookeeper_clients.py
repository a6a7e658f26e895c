"""ZooKeeper clients: a monitor that polls the members of a server set, and a connected client."""

import contextlib
import threading
import time
from typing import Any, Self

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.retry import KazooRetry

from tests.support.waiting import eventually

_PAUSE = 0.005


class MembershipMonitor:
    """Polls the children of a znode. Times without a connection to the server are not counted."""

    def __init__(self, hosts: str, path: str) -> None:
        self.max_present = 0
        """The largest number of members at one time."""
        self.longest_gap = 0.0
        """The longest time without members in seconds, after the first member."""
        self.seen: set[str] = set()
        """The names of all members so far."""
        self.changes = 0
        self.present: frozenset[str] = frozenset()
        self._path = path
        self._client: Any = KazooClient(
            hosts=hosts,
            timeout=4.0,
            connection_retry=KazooRetry(max_tries=-1, delay=0.05, max_delay=0.2),
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="membership monitor", daemon=True)

    def __enter__(self) -> Self:
        self._client.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._client.stop()
        self._client.close()
        self._thread.join(10.0)

    def wait_for_one(self, timeout: float = 10.0) -> str:
        """Wait until there is exactly one member, and return its name."""
        return eventually(lambda: next(iter(self.present)) if len(self.present) == 1 else None, timeout)

    def _poll(self) -> None:
        absent_since: float | None = None
        while not self._stopped.wait(_PAUSE):
            try:
                names = frozenset(self._client.get_children_async(self._path).get(timeout=1.0))
            except NoNodeError:
                names = frozenset()
            except (KazooException, KazooTimeoutError):
                absent_since = None if absent_since is None else time.monotonic()
                continue
            now = time.monotonic()
            self.max_present = max(self.max_present, len(names))
            self.seen |= names
            if names or not self.seen:
                absent_since = None
            else:
                absent_since = absent_since or now
                self.longest_gap = max(self.longest_gap, now - absent_since)
            self.changes += names != self.present
            self.present = names


@contextlib.contextmanager
def client_of(hosts: str, **options: Any) -> Any:
    """A connected kazoo client."""
    client = KazooClient(hosts=hosts, **options)
    client.start()
    try:
        yield client
    finally:
        client.stop()
        client.close()
