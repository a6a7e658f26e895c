"""The exceptions of zkdns. Each message names the value, its place and what would be accepted.

Exceptions that concern one module only are in that module.
"""

from __future__ import annotations

from collections.abc import Sequence


class ZkdnsError(Exception):
    """The base of every exception that zkdns raises deliberately. Its text is written for people.

        try:
            web.register("10.0.0.1", 8080)
        except ZkdnsError as error:
            sys.exit(f"cannot register: {error}")

    The library converts kazoo's exceptions to it.
    """


class BadValueError(ZkdnsError):
    """A value from a user, a file or ZooKeeper is invalid, such as the port in `web.register("a", 0)`."""


class ConfigError(ZkdnsError):
    """The configuration is invalid. `errors` has one sentence for each error found."""

    def __init__(self, errors: Sequence[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(self.errors))


class ListenError(ZkdnsError):
    """A socket could not be bound. The text says why, and what would help."""


class BadMemberError(ZkdnsError):
    """The data of a member is invalid. `reason` is a short identifier for counters."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


class ZooKeeperError(ZkdnsError):
    """ZooKeeper refuses a request, for instance because of an ACL, or does not support it.

        try:
            watch = web.watch()
        except ZooKeeperError as error:
            print(error)

    `UnreachableError` is one of them.
    """


class UnreachableError(ZooKeeperError):
    """ZooKeeper was not reached in time, for instance in `web.register("10.0.0.1", 8080, timeout=5.0)`."""


class ClosedError(ZkdnsError):
    """An object was used after `close`, for instance a client of `MCSet.client`."""


class NoEndpointsError(ZkdnsError):
    """There is no endpoint to choose from."""


class MissingExtraError(ZkdnsError, ImportError):
    """A package that an optional part of zkdns needs is not installed. The text says how to install it."""
