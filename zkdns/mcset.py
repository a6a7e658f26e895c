"""memcached over a server set: each key is on the same server as with go.serversets' mcset.

`MCSet` picks the server of a key. `MCSet.client()` is a client built on pymemcache that follows the set.
`Hasher` gives the same choice to pymemcache's `HashClient` with fixed servers.

    mcset = MCSet(ServerSet(PRODUCTION, "memcache", "zk01:2181").watch())
    with mcset.client() as memcached:
        memcached.set("user:7", b"...")
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from zkdns.address import HostPort, parse_host_port
from zkdns.balance.balancer import Balancer
from zkdns.balance.ring import Ring, key_bytes
from zkdns.errors import BadValueError, ClosedError, MissingExtraError
from zkdns.serverset.watch import EndpointSource

__all__ = ["Client", "Hasher", "MCSet"]

TIMEOUT = 1.0  # seconds; without one, pymemcache waits for a lost server for ever

Key = str | bytes
_K = TypeVar("_K", bound=Key)


class MCSet(Balancer):
    """The memcached servers of a watch, or of `set_endpoints`, and the choice of a server for each key.

        mcset.pick("user:7")  # "cache1:11211"

    Thread-safe. There is nothing to close.

    Args:
        watch: any `EndpointSource` to follow. None: only `set_endpoints` provides endpoints. The spelling of
            an endpoint matters: `CACHE:11211`, `cache:11211` and the server's address have different keys.
    """

    def __init__(self, watch: EndpointSource | None = None) -> None:
        super().__init__(watch)
        self._ring = Ring()
        self._seen: tuple[str, ...] = ()
        self._changing = threading.Lock()

    def pick(self, key: Key) -> str:
        """The server of a key, `host:port`.

        The first call after a change computes the new ring, which takes about 0.1 ms for each server.

        Args:
            key: as sent to memcached. Text is hashed as UTF-8.

        Raises:
            NoEndpointsError: there is no server.
            BadValueError: the text is not valid Unicode.
        """
        if self.endpoints is not self._seen:
            self._follow()
        return self._ring.pick(key)

    def each(self) -> tuple[str, ...]:
        """All servers, `host:port` each, sorted and without duplicates."""
        return self.endpoints

    def client(self, **options: object) -> Client:
        """A memcached client that uses the servers of `pick`. The caller closes it.

        Args:
            **options: those of pymemcache's `PooledClient`. Different defaults: connecting and waiting for a
                reply time out after 1 s, and keys may be any UTF-8, as in Go's clients.

        Raises:
            MissingExtraError: pymemcache is not installed.
            TypeError: an option that pymemcache does not have.
        """
        return Client(self, **options)

    def _follow(self) -> None:
        with self._changing:  # the endpoints are read under the lock, so that the newest ones remain
            endpoints = self.endpoints
            if endpoints != self._ring.endpoints:
                self._ring.set_endpoints(endpoints)
            self._seen = endpoints


class Client:
    """memcached's commands, each sent to the server of its key. `MCSet.client` makes it.

        with mcset.client() as memcached:
            memcached.set("user:7", b"...", expire=60)

    Arguments, options and results are those of pymemcache's clients. If a server does not respond, the
    commands of its keys fail with pymemcache's errors or an OSError until it leaves the set; only changes of
    the set move keys. A command in flight to a server that leaves is finished.

    The server is picked by the key with its `key_prefix` (unlike in pymemcache's HashClient), so that clients
    that pass the whole key find the value.

    Each server has a pool of connections. Those of a server that has left are closed at the next command.
    Thread-safe.
    """

    def __init__(self, mcset: MCSet, **options: object) -> None:
        try:
            from pymemcache.client.base import PooledClient  # type: ignore[import-untyped]  # noqa: PLC0415
        except ImportError:
            raise MissingExtraError("zkdns.mcset needs pymemcache: pip install 'zkdns[memcache]'") from None
        self._mcset = mcset
        self._options = {
            "connect_timeout": TIMEOUT,
            "timeout": TIMEOUT,
            "allow_unicode_keys": True,
            **options,
        }
        self._client_class: Any = PooledClient
        # Makes no connection, but rejects an invalid option now rather than at the first command.
        self._prefix: bytes = self._new_server("localhost:1").commands.key_prefix
        self._lock = threading.Lock()
        self._servers: dict[str, _Server] = {}
        self._seen: tuple[str, ...] = ()
        self._is_closed = False

    # -- one key -------------------------------------------------------------------------------------------

    def get(self, key: Key, default: object = None) -> Any:  # noqa: ANN401 - the serde's, of any type
        """The value, or `default`."""
        return self._run("get", key, default)

    def gets(self, key: Key) -> tuple[Any, Any]:
        """The value and its CAS token. (None, None): there is no value."""
        value, token = self._run("gets", key)
        return value, token

    def set(self, key: Key, value: object, **options: object) -> bool | None:
        """Store a value. Options here and below: `expire` in seconds (0: never), `noreply`, `flags`."""
        stored: bool | None = self._run("set", key, value, **options)
        return stored

    def add(self, key: Key, value: object, **options: object) -> bool | None:
        """Store a value unless there is one already."""
        stored: bool | None = self._run("add", key, value, **options)
        return stored

    def replace(self, key: Key, value: object, **options: object) -> bool | None:
        """Store a value if there is one already."""
        stored: bool | None = self._run("replace", key, value, **options)
        return stored

    def append(self, key: Key, value: object, **options: object) -> bool | None:
        """Append to the value."""
        stored: bool | None = self._run("append", key, value, **options)
        return stored

    def prepend(self, key: Key, value: object, **options: object) -> bool | None:
        """Prepend to the value."""
        stored: bool | None = self._run("prepend", key, value, **options)
        return stored

    def cas(self, key: Key, value: object, cas: Any, **options: object) -> bool | None:  # noqa: ANN401
        """Store a value unless it has changed since `gets` returned `cas`. False: changed. None: no value."""
        stored: bool | None = self._run("cas", key, value, cas, **options)
        return stored

    def incr(self, key: Key, value: int, **options: object) -> int | None:
        """Add to a number and return it. None: there is no value."""
        number: int | None = self._run("incr", key, value, **options)
        return number

    def decr(self, key: Key, value: int, **options: object) -> int | None:
        """Subtract from a number, down to 0, and return it. None: there is no value."""
        number: int | None = self._run("decr", key, value, **options)
        return number

    def touch(self, key: Key, expire: int = 0, **options: object) -> bool | None:
        """Set the time to live of a value, in seconds (0: for ever)."""
        touched: bool | None = self._run("touch", key, expire, **options)
        return touched

    def delete(self, key: Key, **options: object) -> bool | None:
        """Delete a value."""
        deleted: bool | None = self._run("delete", key, **options)
        return deleted

    # -- many keys: one command per server -----------------------------------------------------------------

    def get_many(self, keys: Iterable[_K]) -> dict[_K, Any]:
        """The values of the keys that have one."""
        found: dict[_K, Any] = {}
        for endpoint, own in self._by_server(keys).items():
            with self._use(endpoint) as server:
                found |= server.get_many(own)
        return found

    def gets_many(self, keys: Iterable[_K]) -> dict[_K, tuple[Any, Any]]:
        """The values and CAS tokens of the keys that have one."""
        found: dict[_K, tuple[Any, Any]] = {}
        for endpoint, own in self._by_server(keys).items():
            with self._use(endpoint) as server:
                found |= server.gets_many(own)
        return found

    def set_many(self, values: Mapping[_K, object], **options: object) -> list[_K]:
        """Store several values. Returns the keys of those that were refused.

        If a server does not respond, the values of the servers before it are stored.
        """
        refused: list[_K] = []
        for endpoint, own in self._by_server(values).items():
            with self._use(endpoint) as server:
                refused += server.set_many({key: values[key] for key in own}, **options)
        return refused

    def delete_many(self, keys: Iterable[Key], **options: object) -> bool:
        """Delete several values. Returns True."""
        for endpoint, own in self._by_server(keys).items():
            with self._use(endpoint) as server:
                server.delete_many(own, **options)
        return True

    def flush_all(self, **options: object) -> None:
        """Delete all values on all servers."""
        for endpoint in self._mcset.endpoints:
            with self._use(endpoint) as server:
                server.flush_all(**options)

    # -- servers -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close idle connections now, and those in use after their command. Closing twice is allowed."""
        with self._lock:
            self._is_closed = True
            self._drop(set(self._servers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, command: str, key: Key, *values: object, **options: object) -> Any:  # noqa: ANN401
        with self._use(self._server_of(key)) as server:
            return getattr(server, command)(key, *values, **options)

    def _server_of(self, key: Key) -> str:
        return self._mcset.pick(self._prefix + key_bytes(key) if self._prefix else key)

    def _by_server(self, keys: Iterable[_K]) -> dict[str, list[_K]]:
        groups: defaultdict[str, list[_K]] = defaultdict(list)
        for key in keys:
            groups[self._server_of(key)].append(key)
        return groups

    @contextmanager
    def _use(self, endpoint: str) -> Iterator[Any]:
        """The pymemcache client of a server. It stays open while it is used."""
        with self._lock:
            if self._is_closed:
                raise ClosedError("the memcached client is closed")
            self._follow()
            server = self._servers.get(endpoint)
            if server is None:
                server = self._new_server(endpoint)
                if endpoint in self._seen:
                    self._servers[endpoint] = server
                else:  # the server has left since it was picked
                    server.has_left = True
            server.users += 1
        try:
            yield server.commands
        finally:
            with self._lock:
                server.users -= 1
                server.close_if_done()

    def _follow(self) -> None:
        """Drop the servers that have left. The caller holds the lock."""
        endpoints = self._mcset.endpoints
        if endpoints is not self._seen:
            self._seen = endpoints
            self._drop(self._servers.keys() - set(endpoints))

    def _drop(self, endpoints: Iterable[str]) -> None:
        for endpoint in endpoints:
            server = self._servers.pop(endpoint)
            server.has_left = True
            server.close_if_done()

    def _new_server(self, endpoint: str) -> _Server:
        address = parse_host_port(endpoint)
        return _Server(self._client_class((address.host, address.port), **self._options))


class _Server:
    """A server's pool of connections, with the number of commands that use it."""

    def __init__(self, commands: Any) -> None:  # noqa: ANN401 - pymemcache has no types
        self.commands = commands
        self.users = 0
        self.has_left = False

    def close_if_done(self) -> None:
        """Close the pool of a server that has left, once no command uses it."""
        if self.has_left and not self.users:
            self.commands.close()


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

    def get_node(self, key: Key) -> str | None:
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
