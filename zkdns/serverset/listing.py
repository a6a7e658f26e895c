"""What server sets there are, and how many members each has: asked once, and never written.

Questions go out many at a time, since each would otherwise wait for a round trip of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec
from kazoo.exceptions import KazooException, NoAuthError, NoNodeError

from zkdns.errors import UnreachableError
from zkdns.serverset.access import ANYBODY, Access
from zkdns.serverset.client import dispose, make_client
from zkdns.serverset.member import MEMBER_PREFIX
from zkdns.serverset.session import AWAY, explain

if TYPE_CHECKING:
    from kazoo.client import KazooClient
    from kazoo.interfaces import IAsyncResult

    from zkdns.namespace import Namespace

Progress = Callable[[int, int], None]
"""Told how many services have been counted, of how many."""

_MOST_IN_FLIGHT = 256  # as many as keep the connection busy over a round trip
_SESSION_TIMEOUT = 10.0  # seconds
_DISCONNECT_TIMEOUT = 2.0  # seconds; a session that could not be ended in them ends by itself


class ServiceCount(msgspec.Struct, frozen=True):
    """One service."""

    environment: str
    """With a namespace of other placeholders: all of them, as in the service's name; empty without any."""
    service: str
    members: int | None
    """How many are registered, usable or not; None: ZooKeeper's ACL does not permit to see."""
    path: str


class Listing(msgspec.Struct, frozen=True):
    """What there was at one moment."""

    services: tuple[ServiceCount, ...]
    """By environment and service."""
    empty: tuple[str, ...]
    """Paths of environments without a service."""
    denied: tuple[str, ...]
    """Paths that ZooKeeper's ACL does not permit to list."""
    exists: bool
    """Whether the namespace's root is there."""


def list_services(
    hosts: str,
    namespace: Namespace,
    *,
    environment: str | None = None,
    timeout: float = 10.0,
    progress: Progress | None = None,
    access: Access = ANYBODY,
) -> Listing:
    """List the services of a namespace.

    Args:
        hosts: `host:port,host:port/chroot`.
        namespace: where the sets lie.
        environment: only those below this `{environment}`.
        timeout: seconds to wait for ZooKeeper.
        progress: called while members are counted.
        access: who asks.

    Raises:
        UnreachableError: ZooKeeper could not be reached in time, or went away amid the listing.
        ZooKeeperError: it refuses.
    """
    client = make_client(hosts, session_timeout=_SESSION_TIMEOUT, access=access)
    try:
        client.start_async().wait(timeout)
        if not client.connected:
            raise UnreachableError(f"cannot list {namespace.root}: ZooKeeper at {hosts} cannot be reached")
        return _Walk(client, namespace, environment).run(progress or (lambda *_: None))
    except (KazooException, *AWAY) as error:
        raise explain(error, f"list {namespace.root}", hosts) from None
    finally:
        disconnect(client)


def disconnect(client: KazooClient) -> None:
    """Stop a client; what hangs is left to the end of the process, and the session then ends by itself."""
    dispose(client).join(_DISCONNECT_TIMEOUT)


class _Walk:
    """From the root down, a level at a time; a znode is the names below the root that lead to it."""

    def __init__(self, client: KazooClient, namespace: Namespace, environment: str | None) -> None:
        self._client = client
        self._namespace = namespace
        self._wanted = tuple(
            environment if step == "environment" and fixed is None else fixed
            for step, fixed in zip(namespace.steps, namespace.fixed, strict=True)
        )
        self._denied: set[str] = set()
        self._exists = True

    def run(self, progress: Progress) -> Listing:
        level: list[tuple[str, ...]] = [()]
        empty: list[str] = []
        for wanted in self._wanted:
            below = []
            for elements, names in self._children(level):
                fitting = [name for name in names or () if wanted in (None, name)]
                if names is not None and not fitting and elements:
                    empty.append(self._path(elements))
                below += [(*elements, name) for name in fitting if not self._is_own(elements, name)]
            level = below
        services = []
        for done, (elements, names) in enumerate(self._children(level), 1):
            path, name = self._path(elements), self._namespace.name_of(elements)
            if names is not None or path in self._denied:
                members = None if names is None else sum(child.startswith(MEMBER_PREFIX) for child in names)
                services.append(ServiceCount(name.scope, name.service, members, path))
            progress(done, len(level))
        return Listing(
            services=tuple(sorted(services, key=lambda row: (row.environment, row.service, row.path))),
            empty=tuple(sorted(empty)),
            denied=tuple(sorted(self._denied)),
            exists=self._exists,
        )

    def _children(
        self, parents: Iterable[tuple[str, ...]]
    ) -> Iterator[tuple[tuple[str, ...], list[str] | None]]:
        """The parents with their children's names; None where the znode is gone, or may not be listed."""
        asked: deque[tuple[tuple[str, ...], IAsyncResult]] = deque()
        for elements in parents:
            asked.append((elements, self._client.get_children_async(self._path(elements))))
            if len(asked) >= _MOST_IN_FLIGHT:
                yield self._answer(*asked.popleft())
        while asked:
            yield self._answer(*asked.popleft())

    def _answer(
        self, elements: tuple[str, ...], result: IAsyncResult
    ) -> tuple[tuple[str, ...], list[str] | None]:
        try:
            return elements, result.get(timeout=_SESSION_TIMEOUT)
        except NoNodeError:  # gone since its parent was listed, if it had one
            self._exists = self._exists and bool(elements)
        except NoAuthError:
            self._denied.add(self._path(elements))
        return elements, None

    def _path(self, elements: tuple[str, ...]) -> str:
        return "/".join((self._namespace.root.rstrip("/"), *elements)) or "/"

    def _is_own(self, elements: tuple[str, ...], name: str) -> bool:
        """Whether it is ZooKeeper's own znode."""
        return self._path(elements) == "/" and name == "zookeeper"
