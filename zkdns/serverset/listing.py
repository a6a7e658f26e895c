"""Lists the server sets of a namespace once, with the number of members of each.

Many requests are in flight at once, because sequential requests would take a round trip each.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
from kazoo.exceptions import KazooException, NoAuthError, NoNodeError

from zkdns.errors import ZooKeeperError
from zkdns.namespace import VECTOR_PREFIX
from zkdns.serverset.auth import ANONYMOUS, Access
from zkdns.serverset.client import dispose, is_read_only, make_client
from zkdns.serverset.formats import guess_common_format
from zkdns.serverset.passed_over import pass_over
from zkdns.serverset.reachability import DIAGNOSIS_SECONDS, Diagnosis, describe_missing_chroot
from zkdns.serverset.service_counts import MAX_RECOGNIZED, Listing, ServiceCount
from zkdns.serverset.session import CONNECTION_ERRORS, to_zkdns_error

if TYPE_CHECKING:
    from kazoo.client import KazooClient
    from kazoo.interfaces import IAsyncResult

    from zkdns.namespace import Namespace

Progress = Callable[[int, int], None]
"""Called with the number of services whose members were counted so far, and the number of all services."""

_MAX_IN_FLIGHT = 256  # enough to keep the connection busy during a round trip
_SESSION_TIMEOUT = 10.0  # seconds
_REFUSED_SECONDS = 1.0  # time for a server that restarts, before refused connections are an error
_DISCONNECT_TIMEOUT = 2.0  # seconds; if stopping takes longer, the session expires


def list_services(
    hosts: str,
    namespace: Namespace,
    *,
    environment: str | None = None,
    timeout: float = 10.0,
    progress: Progress | None = None,
    access: Access = ANONYMOUS,
) -> Listing:
    """List the services of a namespace. A server without a quorum is read too.

    Args:
        hosts: `host:port,host:port/chroot`.
        namespace: the sets to list.
        environment: list only this `{environment}`. None: all.
        timeout: seconds to wait for ZooKeeper; about one if all servers refuse connections.
        progress: called while members are counted.
        access: credentials and TLS.

    Raises:
        UnreachableError: ZooKeeper was not reached in time, or the connection was lost during the listing.
        ZooKeeperError: ZooKeeper refuses the listing.
    """
    action = f"list {namespace.root}"
    client = make_client(hosts, session_timeout=_SESSION_TIMEOUT, access=access, read_only=True)
    try:
        _connect(client, hosts, access, action=action, timeout=timeout)
        is_without_quorum = is_read_only(client)
        listing = _Walk(client, namespace, environment).run(progress or (lambda *_: None))
        if not listing.exists and client.chroot and client.exists("/") is None:
            missing = describe_missing_chroot(client.chroot, hosts)
            raise ZooKeeperError(f"cannot {action}: {missing}")
    except (KazooException, *CONNECTION_ERRORS) as error:
        raise to_zkdns_error(error, action, hosts, access.tls) from None
    else:
        return msgspec.structs.replace(listing, is_read_only=is_without_quorum)
    finally:
        disconnect(client)


def _connect(client: KazooClient, hosts: str, access: Access, *, action: str, timeout: float) -> None:
    """Connect a client. If all servers refuse connections, fail soon instead of after `timeout` seconds.

    Raises:
        UnreachableError: ZooKeeper was not reached.
    """
    deadline = time.monotonic() + timeout - DIAGNOSIS_SECONDS
    connected = client.start_async()
    for seconds in (_REFUSED_SECONDS, timeout):
        connected.wait(min(seconds, deadline - time.monotonic()))
        if client.connected:
            return
        diagnosis = Diagnosis(hosts, access.tls).wait()
        if diagnosis.is_refused:
            break
    raise diagnosis.error(action)


def find_siblings(client: KazooClient, path: str) -> tuple[str, ...] | None:
    """List the znodes next to one that does not exist. None: it exists. Empty: they cannot be listed."""
    try:
        if client.exists(path) is not None:
            return None
        return tuple(client.get_children(path.rpartition("/")[0] or "/"))
    except (KazooException, *CONNECTION_ERRORS):
        return ()


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
            if names is not None:
                services.append(self._count(ServiceCount(name.scope, name.service, 0, path), names))
            elif path in self._denied:
                services.append(ServiceCount(name.scope, name.service, None, path))
            progress(done, len(level))
        services.sort(key=lambda row: (row.environment, row.service, row.path))
        return Listing(
            services=tuple(self._with_formats(services)),
            empty=tuple(sorted(empty)),
            denied=tuple(sorted(self._denied)),
            exists=self._exists,
        )

    def _count(self, row: ServiceCount, names: Sequence[str]) -> ServiceCount:
        """Count the children of a service."""
        members = sum(name.startswith(self._namespace.member_prefix) for name in names)
        known = (self._namespace.member_prefix, VECTOR_PREFIX)
        others = pass_over([name for name in names if not name.startswith(known)])
        return msgspec.structs.replace(
            row, members=members, passed_over=others.count, examples=others.examples
        )

    def _with_formats(self, services: Iterable[ServiceCount]) -> Iterator[ServiceCount]:
        """Add the formats of the other children to the first services without members."""
        left = MAX_RECOGNIZED
        for row in services:
            if row.is_foreign and left:
                left -= 1
                data = {name: self._data(f"{row.path}/{name}") for name in row.examples}
                yield msgspec.structs.replace(row, format=guess_common_format(data))
            else:
                yield row

    def _data(self, path: str) -> bytes | None:
        """The data of a znode. None: it is gone or may not be read."""
        try:
            data, _ = self._client.get_async(path).get(timeout=_SESSION_TIMEOUT)
        except (NoNodeError, NoAuthError):
            return None
        return bytes(data)

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
