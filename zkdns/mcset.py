"""memcached over a server set: which server a key lives on, as go.serversets' mcset decides it.

`MCSet` picks; `MCSet.client()` is a client over pymemcache whose keys go where it picks, while servers come
and go; `Hasher` gives the same places to a `HashClient` of pymemcache with fixed servers.

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

TIMEOUT = 1.0  # seconds; pymemcache by itself waits for a lost server for ever

Key = str | bytes
_K = TypeVar("_K", bound=Key)


class MCSet(Balancer):
    """The memcached servers of a watch, or of `set_endpoints`, and the keys' places on them.

    It is safe to use from any thread, and has nothing that would have to be closed.

    Args:
        watch: what to follow, any `EndpointSource`; None: the endpoints come by `set_endpoints` alone. The
            spelling of an endpoint counts: keys have other places on `CACHE:11211` than on `cache:11211`,
            and others again on its address.
    """

    def __init__(self, watch: EndpointSource | None = None) -> None:
        super().__init__(watch)
        self._ring = Ring()
        self._seen: tuple[str, ...] = ()
        self._changing = threading.Lock()

    def pick(self, key: Key) -> str:
        """`host:port` of the server that the key belongs to.

        The first call after a change makes the new ring, which takes about 0.1 ms for each server.

        Args:
            key: as memcached gets it; text is hashed as UTF-8.

        Raises:
            NoEndpointsError: there is no server.
            BadValueError: text that is not valid Unicode.
        """
        if self.endpoints is not self._seen:
            self._follow()
        return self._ring.pick(key)

    def each(self) -> tuple[str, ...]:
        """`host:port` of all servers, sorted, each once."""
        return self.endpoints

    def client(self, **options: object) -> Client:
        """A memcached client whose keys go where `pick` says; close it when done.

        Args:
            **options: those of pymemcache's `PooledClient`. Unlike there, connecting and waiting for a reply
                time out after 1 s, and keys may be any UTF-8, as with Go's clients.

        Raises:
            MissingExtraError: pymemcache is not installed.
            TypeError: an option that pymemcache does not have.
        """
        return Client(self, **options)

    def _follow(self) -> None:
        with self._changing:  # around the reading too: of two changes the later one must stay
            endpoints = self.endpoints
            if endpoints != self._ring.endpoints:
                self._ring.set_endpoints(endpoints)
            self._seen = endpoints


class Client:
    """memcached's commands, each sent to the server that its key belongs to; made by `MCSet.client`.

    Arguments, options and results are those of pymemcache's clients. A server that does not answer fails the
    commands of its own keys, with pymemcache's errors or an OSError, until it has left the set: keys move for
    no other reason. A command in flight to a server that leaves is finished.

    A `key_prefix` counts when a server is picked, unlike in pymemcache's HashClient: clients that know the
    whole key find it.

    Connections are pooled by server; those to a server that has left are closed at the next command. It is
    safe to use from any thread.
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
        # Connects to nothing: it is there to refuse a wrong option now rather than at the first command.
        self._prefix: bytes = self._new_server("localhost:1").commands.key_prefix
        self._lock = threading.Lock()
        self._servers: dict[str, _Server] = {}
        self._known: tuple[str, ...] = ()
        self._is_closed = False

    # -- one key -------------------------------------------------------------------------------------------

    def get(self, key: Key, default: object = None) -> Any:  # noqa: ANN401 - the serde's, of any type
        """The value, or `default`."""
        return self._run("get", key, default)

    def gets(self, key: Key) -> tuple[Any, Any]:
        """The value and its CAS token; (None, None): there is none."""
        value, token = self._run("gets", key)
        return value, token

    def set(self, key: Key, value: object, **options: object) -> bool | None:
        """Store the value; options here and below: `expire` in seconds (0: never), `noreply`, `flags`."""
        stored: bool | None = self._run("set", key, value, **options)
        return stored

    def add(self, key: Key, value: object, **options: object) -> bool | None:
        """Store the value if there is none yet."""
        stored: bool | None = self._run("add", key, value, **options)
        return stored

    def replace(self, key: Key, value: object, **options: object) -> bool | None:
        """Store the value if there is one already."""
        stored: bool | None = self._run("replace", key, value, **options)
        return stored

    def append(self, key: Key, value: object, **options: object) -> bool | None:
        """Put this behind the value that there is."""
        stored: bool | None = self._run("append", key, value, **options)
        return stored

    def prepend(self, key: Key, value: object, **options: object) -> bool | None:
        """Put this before the value that there is."""
        stored: bool | None = self._run("prepend", key, value, **options)
        return stored

    def cas(self, key: Key, value: object, cas: Any, **options: object) -> bool | None:  # noqa: ANN401
        """Store the value unless it has changed since `gets` gave `cas`. False: it has; None: it is gone."""
        stored: bool | None = self._run("cas", key, value, cas, **options)
        return stored

    def incr(self, key: Key, value: int, **options: object) -> int | None:
        """Add to a number, and return it; None: there is none."""
        number: int | None = self._run("incr", key, value, **options)
        return number

    def decr(self, key: Key, value: int, **options: object) -> int | None:
        """Subtract from a number, down to 0, and return it; None: there is none."""
        number: int | None = self._run("decr", key, value, **options)
        return number

    def touch(self, key: Key, expire: int = 0, **options: object) -> bool | None:
        """Have the value expire in so many seconds from now (0: never)."""
        touched: bool | None = self._run("touch", key, expire, **options)
        return touched

    def delete(self, key: Key, **options: object) -> bool | None:
        """Forget the value."""
        deleted: bool | None = self._run("delete", key, **options)
        return deleted

    # -- many keys: one command for each server that has some of them --------------------------------------

    def get_many(self, keys: Iterable[_K]) -> dict[_K, Any]:
        """The values of those keys that have one."""
        found: dict[_K, Any] = {}
        for endpoint, own in self._by_server(keys).items():
            with self._use(endpoint) as server:
                found |= server.get_many(own)
        return found

    def gets_many(self, keys: Iterable[_K]) -> dict[_K, tuple[Any, Any]]:
        """The values and CAS tokens of those keys that have one."""
        found: dict[_K, tuple[Any, Any]] = {}
        for endpoint, own in self._by_server(keys).items():
            with self._use(endpoint) as server:
                found |= server.gets_many(own)
        return found

    def set_many(self, values: Mapping[_K, object], **options: object) -> list[_K]:
        """Store the values, and return the keys of those that were refused.

        Where a server does not answer, those asked before it have their values.
        """
        refused: list[_K] = []
        for endpoint, own in self._by_server(values).items():
            with self._use(endpoint) as server:
                refused += server.set_many({key: values[key] for key in own}, **options)
        return refused

    def delete_many(self, keys: Iterable[Key], **options: object) -> bool:
        """Forget the values; True."""
        for endpoint, own in self._by_server(keys).items():
            with self._use(endpoint) as server:
                server.delete_many(own, **options)
        return True

    def flush_all(self, **options: object) -> None:
        """Forget everything, on every server."""
        for endpoint in self._mcset.endpoints:
            with self._use(endpoint) as server:
                server.flush_all(**options)

    # -- servers -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections, one in use when its command is finished; once more changes nothing."""
        with self._lock:
            self._is_closed = True
            self._drop(set(self._servers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, command: str, key: Key, *values: object, **options: object) -> Any:  # noqa: ANN401
        with self._use(self._home(key)) as server:
            return getattr(server, command)(key, *values, **options)

    def _home(self, key: Key) -> str:
        return self._mcset.pick(self._prefix + key_bytes(key) if self._prefix else key)

    def _by_server(self, keys: Iterable[_K]) -> dict[str, list[_K]]:
        groups: defaultdict[str, list[_K]] = defaultdict(list)
        for key in keys:
            groups[self._home(key)].append(key)
        return groups

    @contextmanager
    def _use(self, endpoint: str) -> Iterator[Any]:
        """The server's pymemcache client, which stays open until it is used no more."""
        with self._lock:
            if self._is_closed:
                raise ClosedError("the memcached client is closed")
            self._follow()
            server = self._servers.get(endpoint)
            if server is None:
                server = self._new_server(endpoint)
                if endpoint in self._known:
                    self._servers[endpoint] = server
                else:  # it has left since it was picked
                    server.has_left = True
            server.users += 1
        try:
            yield server.commands
        finally:
            with self._lock:
                server.users -= 1
                server.close_if_done()

    def _follow(self) -> None:
        """Drop the servers that have left, with the lock held."""
        endpoints = self._mcset.endpoints
        if endpoints is not self._known:
            self._known = endpoints
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
    """One server's pool of connections, and how many commands use it now."""

    def __init__(self, commands: Any) -> None:  # noqa: ANN401 - pymemcache has no types
        self.commands = commands
        self.users = 0
        self.has_left = False

    def close_if_done(self) -> None:
        """Close the pool of a server that has left; pymemcache would close connections in use as well."""
        if self.has_left and not self.users:
            self.commands.close()


class Hasher:
    """The places of go.serversets for pymemcache's `HashClient`: `HashClient(servers, hasher=Hasher)`.

    HashClient gives away the keys of a server that does not answer (`retry_attempts`, `dead_timeout`), and
    does not count its `key_prefix` when it picks; `MCSet.client` does neither, and follows a watch.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}  # by endpoint; HashClient drops an IPv6 address's brackets
        self._ring: Ring | None = None  # None: to be made; adding n servers one by one makes one ring, not n
        self._lock = threading.Lock()

    def add_node(self, node: str) -> None:
        """Add a server under HashClient's name for it: `host:port`, or the path of a UNIX socket."""
        with self._lock:
            self._nodes[_endpoint_of(node)] = node
            self._ring = None

    def remove_node(self, node: str) -> None:
        """Remove a server.

        Raises:
            BadValueError: it is not there.
        """
        with self._lock:
            if self._nodes.pop(_endpoint_of(node), None) is None:
                raise BadValueError(
                    f"{node!r} is none of the nodes, which are {', '.join(self._nodes.values())}"
                )
            self._ring = None

    def get_node(self, key: Key) -> str | None:
        """HashClient's name for the server that the key belongs to; None: there is no server."""
        with self._lock:
            if not self._nodes:
                return None
            if self._ring is None:
                self._ring = Ring(self._nodes)
            return self._nodes[self._ring.pick(key)]


def _endpoint_of(node: str) -> str:
    """`::1:11211` is `[::1]:11211`; everything else is right already."""
    host, _, port = node.rpartition(":")
    return str(HostPort(host, int(port))) if ":" in host and not host.startswith("[") else node
