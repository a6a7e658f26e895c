"""`MCSet` and `Hasher`: the server of a key. Neither needs pymemcache."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Final

from zkdns.address import HostPort
from zkdns.balance.balancer import Balancer
from zkdns.balance.ring import Ring
from zkdns.errors import BadValueError, MissingExtraError
from zkdns.serverset import forking
from zkdns.serverset.logs import Log
from zkdns.serverset.watch import EndpointSource, endpoint_text

if TYPE_CHECKING:
    from zkdns.mcset.client import Client

log = Log("zkdns.mcset")

_EMPTY: Final[tuple[Ring, Mapping[str, str]]] = (Ring(), {})


class MCSet(Balancer):
    """The memcached servers of a watch, or of `set_endpoints`, and the choice of a server for each key.

        mcset.pick("user:7")  # "cache1:11211"

    The choice depends on how a server's znode spells it, as in go.serversets: `CACHE:11211`, `cache:11211`
    and the server's address have different keys. In `endpoints` and results, an address has one spelling.
    Weights have no effect, as in go.serversets.

    Thread-safe. There is nothing to close.

    Args:
        watch: any `EndpointSource` to follow. None: only `set_endpoints` provides endpoints.
    """

    def __init__(self, watch: EndpointSource | None = None) -> None:
        super().__init__(watch)
        self._seen: tuple[str, ...] = ()
        self._chosen = _EMPTY  # the ring of spellings, and the endpoint of each spelling
        self._changing = threading.Lock()
        forking.add(self)

    def after_fork(self) -> None:
        """Replace the lock in a forked child."""
        self._changing = threading.Lock()

    def pick(self, key: str | bytes) -> str:
        """The server of a key, `host:port`.

        The first call after a change computes the new ring, which takes about 0.1 ms for each server.

        Args:
            key: as sent to memcached. Text is hashed as UTF-8.

        Raises:
            NoEndpointsError: there is no server.
            BadValueError: the key is neither text nor bytes, or not valid Unicode.
        """
        if self.endpoints is not self._seen:
            self._follow()
        ring, endpoint_of = self._chosen
        return endpoint_of[ring.pick(key)]

    def each(self) -> tuple[str, ...]:
        """All servers, `host:port` each, sorted and without duplicates."""
        return self.endpoints

    def client(self, **options: object) -> Client:
        """A memcached client that uses the servers of `pick`. The caller closes it.

        Args:
            **options: those of pymemcache's `PooledClient`. Different defaults: connecting and waiting for a
                reply time out after 1 s, every command waits for its reply (`default_noreply=False`), and
                keys may be any UTF-8, as in Go's clients.

        Raises:
            MissingExtraError: pymemcache is not installed.
            TypeError: an option that pymemcache does not have.
        """
        made: Client = client_module().Client(self, **options)
        return made

    def _follow(self) -> None:
        with self._changing:  # the endpoints are read under the lock, so that the newest ones remain
            endpoints = self.endpoints  # before the members, which the source replaces first
            endpoint_of = self._endpoint_of_spelling()
            before, after = self._chosen[1].keys(), endpoint_of.keys()
            if before != after:
                self._chosen = Ring(after), endpoint_of
            self._seen = endpoints
        if before and before != after:
            log.info(
                "memcached_keys_moved",
                servers=len(after),
                joined=" ".join(sorted(after - before)),
                left=" ".join(sorted(before - after)),
            )

    def _endpoint_of_spelling(self) -> dict[str, str]:
        members = self.members
        if members is None:
            return {endpoint: endpoint for endpoint in self.endpoints}
        return {one.written or endpoint_text(one): endpoint_text(one) for one in members if one.service}


def client_module() -> ModuleType:
    """The module of the client, which needs pymemcache.

    Raises:
        MissingExtraError: pymemcache is not installed.
    """
    try:
        from zkdns.mcset import client  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pymemcache":
            raise
        raise MissingExtraError("zkdns.mcset needs pymemcache: pip install 'zkdns[memcache]'") from None
    return client


class Hasher:
    """go.serversets' choice of servers for pymemcache's `HashClient`.

        client = HashClient(servers, hasher=Hasher)

    HashClient moves the keys of a server that does not respond (`retry_attempts`, `dead_timeout`), and
    ignores its `key_prefix` when it picks a server. `MCSet.client` does neither, and follows a watch.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}  # by endpoint; HashClient omits the brackets of an IPv6 address
        # None: to be computed by the next `get_node`, so that adding n servers computes only one ring.
        self._ring: Ring | None = None
        self._lock = threading.Lock()
        forking.add(self)

    def after_fork(self) -> None:
        """Replace the lock in a forked child."""
        self._lock = threading.Lock()

    def add_node(self, node: str) -> None:
        """Add a server under HashClient's name for it: `host:port`, or the path of a Unix socket."""
        with self._lock:
            self._nodes[_endpoint_of(node)] = node
            self._ring = None

    def remove_node(self, node: str) -> None:
        """Remove a server.

        Raises:
            BadValueError: an unknown server.
        """
        with self._lock:
            if self._nodes.pop(_endpoint_of(node), None) is None:
                raise BadValueError(
                    f"{node!r} is not one of the nodes, which are {', '.join(self._nodes.values())}"
                )
            self._ring = None

    def get_node(self, key: str | bytes) -> str | None:
        """HashClient's name for the server of a key. None: there is no server."""
        with self._lock:
            if not self._nodes:
                return None
            if self._ring is None:
                self._ring = Ring(self._nodes)
            return self._nodes[self._ring.pick(key)]


def _endpoint_of(node: str) -> str:
    """HashClient's name of a server as an endpoint: `::1:11211` becomes `[::1]:11211`."""
    host, _, port = node.rpartition(":")
    return str(HostPort(host, int(port))) if ":" in host and not host.startswith("[") else node
