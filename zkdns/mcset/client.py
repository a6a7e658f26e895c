"""`Client`: memcached's commands over a set of servers, built on pymemcache."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pymemcache.exceptions import (  # type: ignore[import-untyped]
    MemcacheError,
    MemcacheIllegalInputError,
    MemcacheUnexpectedCloseError,
    MemcacheUnknownError,
)

from zkdns.address import parse_host_port
from zkdns.balance.ring import key_bytes
from zkdns.errors import BadValueError, ClosedError, NoEndpointsError
from zkdns.mcset.pooled import Commands
from zkdns.serverset import forking
from zkdns.serverset.logs import Log

if TYPE_CHECKING:
    from zkdns.mcset.selection import MCSet

log = Log("zkdns.mcset")

TIMEOUT = 1.0  # seconds; without one, pymemcache waits for a lost server for ever
_KEY = re.compile(rb"[^\x00-\x20\x7f]{1,250}")  # memcached's protocol.txt, "Keys"
_FAILURES = (OSError, MemcacheError)
_SERVER_FAILURES = (OSError, MemcacheUnexpectedCloseError, MemcacheUnknownError)  # not its refusals

Key = str | bytes
_K = TypeVar("_K", bound=Key)


class BadKeyError(BadValueError, MemcacheIllegalInputError):  # type: ignore[misc]
    """A key that memcached does not accept. This is both a BadValueError and pymemcache's exception."""


class Client:
    """memcached's commands, each sent to the server of its key. `MCSet.client` makes it.

        with mcset.client() as memcached:
            memcached.set("user:7", b"...", expire=60)

    Arguments, options and results are those of pymemcache's clients, with these differences:

    - A key has 1 to 250 bytes, including `key_prefix`, without spaces and control characters. Any other key
      is a BadKeyError.
    - The server is picked by the key with its `key_prefix` (unlike in pymemcache's HashClient), so that
      clients that pass the whole key find the value.
    - A command waits for its reply, unless `noreply=True` is passed. The result is None then, because it is
      unknown.
    - `ignore_exc=True` makes reads from an empty set misses, as well as reads from a server that fails.

    If a server does not respond, the commands of its keys fail with pymemcache's errors or an OSError until
    it leaves the set; only changes of the set move keys. A command in flight to a server that leaves is
    finished. Commands for many keys use the servers that respond.

    Each server has a pool of connections. Those of a server that has left are closed at the next command.
    Thread-safe. A forked child process opens connections of its own.
    """

    def __init__(self, mcset: MCSet, **options: object) -> None:
        self._mcset = mcset
        self._options: dict[str, Any] = {
            "connect_timeout": TIMEOUT,
            "timeout": TIMEOUT,
            "allow_unicode_keys": True,
            "default_noreply": False,
            **options,
        }
        # It is applied here, since it also concerns an empty set, and so that failures are logged.
        self._ignores_failures = bool(self._options.pop("ignore_exc", False))
        # Makes no connection, but rejects an invalid option now rather than at the first command.
        checked = self._new_server("localhost:1").commands
        self._prefix: bytes = checked.key_prefix
        self._default_noreply = bool(checked.default_noreply)
        self._lock = threading.Lock()
        self._servers: dict[str, _Server] = {}
        self._seen: tuple[str, ...] = ()
        self._is_closed = False
        forking.add(self)

    def after_fork(self) -> None:
        """Drop the connections of the parent in a forked child."""
        self._lock = threading.Lock()
        for server in self._servers.values():
            forking.drop(server, server.commands.close)
        self._servers, self._seen = {}, ()

    # -- one key -------------------------------------------------------------------------------------------

    def get(self, key: Key, default: object = None) -> Any:  # noqa: ANN401 - the serde's, of any type
        """The value, or `default`."""
        return self._read("get", key, default, missed=default)

    def gets(self, key: Key) -> tuple[Any, Any]:
        """The value and its CAS token. (None, None): there is no value."""
        value, token = self._read("gets", key, missed=(None, None))
        return value, token

    def set(self, key: Key, value: object, **options: object) -> bool | None:
        """Store a value. Options here and below: `expire` in seconds (0: never), `noreply`, `flags`."""
        return self._write("set", key, value, **options)

    def add(self, key: Key, value: object, **options: object) -> bool | None:
        """Store a value unless there is one already."""
        return self._write("add", key, value, **options)

    def replace(self, key: Key, value: object, **options: object) -> bool | None:
        """Store a value if there is one already."""
        return self._write("replace", key, value, **options)

    def append(self, key: Key, value: object, **options: object) -> bool | None:
        """Append to the value."""
        return self._write("append", key, value, **options)

    def prepend(self, key: Key, value: object, **options: object) -> bool | None:
        """Prepend to the value."""
        return self._write("prepend", key, value, **options)

    def cas(self, key: Key, value: object, cas: Any, **options: object) -> bool | None:  # noqa: ANN401
        """Store a value unless it has changed since `gets` returned `cas`. False: changed. None: no value."""
        return self._write("cas", key, value, cas, **{"noreply": False, **options})

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
        return self._write("touch", key, expire, **options)

    def delete(self, key: Key, **options: object) -> bool | None:
        """Delete a value."""
        return self._write("delete", key, **options)

    # -- many keys: one command per server -----------------------------------------------------------------

    def get_many(self, keys: Iterable[_K]) -> dict[_K, Any]:
        """The values of the keys that have one, from the servers that respond.

        Raises:
            OSError: no server of these keys responds. This or one of pymemcache's errors.
        """
        return self._read_many("get_many", keys)

    def gets_many(self, keys: Iterable[_K]) -> dict[_K, tuple[Any, Any]]:
        """The values and CAS tokens of the keys that have one, from the servers that respond.

        Raises:
            OSError: as in `get_many`.
        """
        return self._read_many("gets_many", keys)

    def set_many(self, values: Mapping[_K, object], **options: object) -> list[_K]:
        """Store several values. Returns the keys of those that are not known to be stored.

        These are values that a server refused, and all values of a server that failed. With `noreply=True`,
        only a failure to send is known.

        Raises:
            OSError: no server of these keys responds. This or one of pymemcache's errors.
        """
        refused: list[_K] = []

        def store(server: Any, own: list[_K]) -> None:  # noqa: ANN401 - pymemcache has no types
            refused.extend(server.set_many({key: values[key] for key in own}, **options))

        groups = self._by_server(values)
        failed = self._on_each(groups, store)
        if failed and len(failed) == len(groups):
            raise next(iter(failed.values()))
        return [*refused, *(key for endpoint in failed for key in groups[endpoint])]

    def delete_many(self, keys: Iterable[Key], **options: object) -> bool | None:
        """Delete several values. Returns True; None with `noreply=True`.

        Raises:
            OSError: a server does not respond. This or one of pymemcache's errors. The values on the others
                are deleted.
        """
        failed = self._on_each(self._by_server(keys), lambda server, own: server.delete_many(own, **options))
        for error in failed.values():
            raise error
        return None if self._is_unconfirmed(options) else True

    def flush_all(self, **options: object) -> None:
        """Delete all values on all servers.

        Raises:
            OSError: as in `delete_many`.
        """
        everyone: dict[str, list[Key]] = {endpoint: [] for endpoint in self._mcset.endpoints}
        for error in self._on_each(everyone, lambda server, _: server.flush_all(**options)).values():
            raise error

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

    def _read(self, command: str, key: Key, *values: object, missed: object) -> Any:  # noqa: ANN401
        try:
            return self._run(command, key, *values)
        except (BadKeyError, ClosedError):
            raise
        except Exception:
            if not self._ignores_failures:
                raise
            return missed

    def _write(self, command: str, key: Key, *values: object, **options: object) -> bool | None:
        result: bool | None = self._run(command, key, *values, **options)
        return None if self._is_unconfirmed(options) else result

    def _is_unconfirmed(self, options: Mapping[str, object]) -> bool:
        noreply = options.get("noreply")
        return self._default_noreply if noreply is None else bool(noreply)

    def _read_many(self, command: str, keys: Iterable[_K]) -> dict[_K, Any]:
        found: dict[_K, Any] = {}
        try:
            groups = self._by_server(keys)
        except NoEndpointsError:
            if not self._ignores_failures:
                raise
            return found
        failed = self._on_each(
            groups,
            lambda server, own: found.update(getattr(server, command)(own)),
            (Exception,) if self._ignores_failures else _FAILURES,
        )
        if failed and len(failed) == len(groups) and not self._ignores_failures:
            raise next(iter(failed.values()))
        return found

    def _on_each(
        self,
        groups: Mapping[str, list[_K]],
        run: Callable[[Any, list[_K]], object],
        failures: tuple[type[Exception], ...] = _FAILURES,
    ) -> dict[str, Exception]:
        """Run a command on several servers, and return the failures by endpoint."""
        failed: dict[str, Exception] = {}
        for endpoint, own in groups.items():
            try:
                with self._use(endpoint) as server:
                    run(server, own)
            except ClosedError:
                raise
            except failures as error:
                failed[endpoint] = error
        return failed

    def _server_of(self, key: Key) -> str:
        whole = self._prefix + key_bytes(key)
        if not key or not _KEY.fullmatch(whole):
            raise BadKeyError(
                f"the key {key!r} has {len(whole)} bytes with its prefix; a key has 1 to 250 bytes, "
                "without spaces and control characters"
            )
        return self._mcset.pick(whole)

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
            if server.is_failing:
                server.is_failing = False
                log.info("memcached_server_recovered", server=endpoint)
        except _SERVER_FAILURES as error:
            if not server.is_failing:  # one entry for many commands
                server.is_failing = True
                log.warning("memcached_server_failed", server=endpoint, reason=repr(error))
            raise
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
        return _Server(Commands((address.host, address.port), **self._options))


class _Server:
    """A server's pool of connections, with the number of commands that use it."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands
        self.users = 0
        self.has_left = False
        self.is_failing = False  # since the last command

    def close_if_done(self) -> None:
        """Close the pool of a server that has left, once no command uses it."""
        if self.has_left and not self.users:
            self.commands.close()
