"""A witness that looks at a server set all the time, through a client of its own."""

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
    """Samples the children of a znode; what it cannot see, since the server is away, it says nothing of."""

    def __init__(self, hosts: str, path: str) -> None:
        self.max_present = 0
        """The most members that were there at one time."""
        self.longest_gap = 0.0
        """Seconds, between two samples, in which there was none; from the first member on."""
        self.seen: set[str] = set()
        """Every member that ever was."""
        self.changes = 0
        self.present: frozenset[str] = frozenset()
        self._path = path
        self._client: Any = KazooClient(
            hosts=hosts,
            timeout=4.0,
            connection_retry=KazooRetry(max_tries=-1, delay=0.05, max_delay=0.2),
        )
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="witness", daemon=True)

    def __enter__(self) -> Self:
        self._client.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._client.stop()
        self._client.close()
        self._thread.join(10.0)

    def wait_for_one(self, timeout: float = 10.0) -> str:
        """Wait until there is one member, and no other; its name."""
        return eventually(lambda: next(iter(self.present)) if len(self.present) == 1 else None, timeout)

    def _look(self) -> None:
        absent_since: float | None = None
        while not self._is_over.wait(_PAUSE):
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
    """A started kazoo client, ended with the block."""
    client = KazooClient(hosts=hosts, **options)
    client.start()
    try:
        yield client
    finally:
        client.stop()
        client.close()
