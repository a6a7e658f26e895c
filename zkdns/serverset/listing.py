"""Lists the server sets of a namespace once, with the number of members of each.

Many requests are in flight at once, because sequential requests would take a round trip each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec
from kazoo.exceptions import KazooException, NoAuthError, NoNodeError

from zkdns.serverset.auth import ANONYMOUS, Access
from zkdns.serverset.client import dispose, make_client
from zkdns.serverset.member import MEMBER_PREFIX
from zkdns.serverset.reachability import unreachable_error
from zkdns.serverset.session import CONNECTION_ERRORS, to_zkdns_error

if TYPE_CHECKING:
    from kazoo.client import KazooClient
    from kazoo.interfaces import IAsyncResult

    from zkdns.namespace import Namespace

Progress = Callable[[int, int], None]
"""Called with the number of services whose members were counted so far, and the number of all services."""

_MAX_IN_FLIGHT = 256  # enough to keep the connection busy during a round trip
_SESSION_TIMEOUT = 10.0  # seconds
_DISCONNECT_TIMEOUT = 2.0  # seconds; if stopping takes longer, the session expires


class ServiceCount(msgspec.Struct, frozen=True):
    """A service and the number of its members."""

    environment: str
    """The scope of the service's name: the values of all placeholders except its own.

    Empty: there are none.
    """
    service: str
    members: int | None
    """The number of registered members, including invalid ones. None: the ACL denies listing them."""
    path: str


class Listing(msgspec.Struct, frozen=True):
    """The services of a namespace at one moment."""

    services: tuple[ServiceCount, ...]
    """Sorted by environment and service."""
    empty: tuple[str, ...]
    """Paths of environments without a service."""
    denied: tuple[str, ...]
    """Paths that may not be listed because of their ACL."""
    exists: bool
    """Whether the namespace's root exists."""


def list_services(
    hosts: str,
    namespace: Namespace,
    *,
    environment: str | None = None,
    timeout: float = 10.0,
    progress: Progress | None = None,
    access: Access = ANONYMOUS,
) -> Listing:
    """List the services of a namespace.

    Args:
        hosts: `host:port,host:port/chroot`.
        namespace: the sets to list.
        environment: list only this `{environment}`. None: all.
        timeout: seconds to wait for ZooKeeper.
        progress: called while members are counted.
        access: credentials and TLS.

    Raises:
        UnreachableError: ZooKeeper was not reached in time, or the connection was lost during the listing.
        ZooKeeperError: ZooKeeper refuses the listing.
    """
    client = make_client(hosts, session_timeout=_SESSION_TIMEOUT, access=access)
    try:
        client.start_async().wait(timeout)
        if not client.connected:
            raise unreachable_error(f"list {namespace.root}", hosts)
        return _Walk(client, namespace, environment).run(progress or (lambda *_: None))
    except (KazooException, *CONNECTION_ERRORS) as error:
        raise to_zkdns_error(error, f"list {namespace.root}", hosts) from None
    finally:
        disconnect(client)


def disconnect(client: KazooClient) -> None:
    """Stop a client. If that hangs, the session expires later."""
    dispose(client).join(_DISCONNECT_TIMEOUT)


class _Walk:
    """Walks down from the root level by level. A znode is represented by the names on its path."""

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
                matching = [name for name in names or () if wanted in (None, name)]
                if names is not None and not matching and elements:
                    empty.append(self._path(elements))
                below += [(*elements, name) for name in matching if not self._is_own(elements, name)]
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
        """Each parent with the names of its children. None: the parent is gone or may not be listed."""
        requests: deque[tuple[tuple[str, ...], IAsyncResult]] = deque()
        for elements in parents:
            requests.append((elements, self._client.get_children_async(self._path(elements))))
            if len(requests) >= _MAX_IN_FLIGHT:
                yield self._response(*requests.popleft())
        while requests:
            yield self._response(*requests.popleft())

    def _response(
        self, elements: tuple[str, ...], result: IAsyncResult
    ) -> tuple[tuple[str, ...], list[str] | None]:
        try:
            return elements, result.get(timeout=_SESSION_TIMEOUT)
        except NoNodeError:  # deleted since its parent was listed, or the root does not exist
            self._exists = self._exists and bool(elements)
        except NoAuthError:
            self._denied.add(self._path(elements))
        return elements, None

    def _path(self, elements: tuple[str, ...]) -> str:
        return "/".join((self._namespace.root.rstrip("/"), *elements)) or "/"

    def _is_own(self, elements: tuple[str, ...], name: str) -> bool:
        """Whether this is ZooKeeper's own znode `/zookeeper`."""
        return self._path(elements) == "/" and name == "zookeeper"
