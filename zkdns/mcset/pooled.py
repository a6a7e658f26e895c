"""The connections to one memcached server: pymemcache's pool, with two of its gaps closed.

- A connection that the server closed while it was idle, or that received bytes that no command asked for, is
  replaced before its next use. pymemcache would send a command on it, which fails, or read a reply to an
  earlier command.
- A reply that is not one of the command's is pymemcache's MemcacheUnknownError. pymemcache reads any reply to
  `delete` and `touch` as False, ignores those to `delete_many`, and raises the ValueError or KeyError of its
  parser for others.
"""

from __future__ import annotations

import re
import select
from collections.abc import Mapping, Sequence
from typing import Any

from pymemcache.client.base import Client, PooledClient  # type: ignore[import-untyped]
from pymemcache.exceptions import MemcacheUnknownError  # type: ignore[import-untyped]
from pymemcache.pool import ObjectPool  # type: ignore[import-untyped]

_VALUE = re.compile(rb"VALUE (\S+) [0-9]{1,10} [0-9]{1,10}(?P<cas> [0-9]{1,20})?")

_REPLIES = {
    b"delete": re.compile(rb"DELETED|NOT_FOUND"),
    b"touch": re.compile(rb"TOUCHED|NOT_FOUND"),
    b"incr": re.compile(rb"[0-9]{1,20} *|NOT_FOUND"),  # memcached pads a number that has become shorter
    b"decr": re.compile(rb"[0-9]{1,20} *|NOT_FOUND"),
    b"flush_all": re.compile(rb"OK"),
}


class _Connection(Client):  # type: ignore[misc]
    """One connection."""

    def _extract_value(
        self, expect_cas: bool, line: bytes, buf: bytes, remapped_keys: Mapping[bytes, Any],
        prefixed_keys: Sequence[bytes],
    ) -> Any:  # noqa: ANN401 - pymemcache has no types  # fmt: skip
        found = _VALUE.fullmatch(line)
        if not found or found[1] not in remapped_keys or bool(found["cas"]) != expect_cas:
            raise MemcacheUnknownError(line[:64])
        return super()._extract_value(expect_cas, line, buf, remapped_keys, prefixed_keys)

    def _misc_cmd(self, cmds: Any, cmd_name: bytes, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        replies = super()._misc_cmd(cmds, cmd_name, *arguments, **options)
        accepted = _REPLIES.get(cmd_name)
        for reply in replies:
            if accepted and not accepted.fullmatch(reply):
                self.close()
                raise MemcacheUnknownError(reply[:64])
        return replies


class _Connections(ObjectPool):  # type: ignore[misc]
    def get(self) -> Any:  # noqa: ANN401 - pymemcache has no types
        """A connection, which is closed first if it cannot be used again. Its next command opens it."""
        connection = super().get()
        if connection.sock is not None and _has_input(connection.sock):
            connection.close()
        return connection


class Commands(PooledClient):  # type: ignore[misc]
    """The commands of one server. The arguments are those of `PooledClient`."""

    client_class = _Connection

    def __init__(
        self, server: tuple[str, int], *, max_pool_size: int | None = None, pool_idle_timeout: int = 0,
        lock_generator: Any = None, **options: Any,  # noqa: ANN401
    ) -> None:  # fmt: skip
        super().__init__(server, **options)
        self.client_pool = _Connections(
            self._create_client,
            after_remove=lambda connection: connection.close(),
            max_size=max_pool_size,
            idle_timeout=pool_idle_timeout,
            lock_generator=lock_generator,
        )


def _has_input(sock: Any) -> bool:  # noqa: ANN401 - a socket of any module
    """Whether an idle connection has something to read: its end, or bytes that no command asked for."""
    try:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True
