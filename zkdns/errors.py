"""The errors of zkdns: one tree, each message says what was found, where, and what would be accepted.

Never here: anything but exceptions.
"""

from __future__ import annotations

from collections.abc import Sequence


class ZkdnsError(Exception):
    """Base of every error that zkdns raises on purpose; its text is a sentence for people."""


class BadValueError(ZkdnsError):
    """A value that somebody typed or stored cannot be what it is meant to be."""


class ConfigError(ZkdnsError):
    """The configuration is wrong; `mistakes` holds every mistake found, one sentence each."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class ListenError(ZkdnsError):
    """An address could not be bound; the text says why and what would help."""


class BadMemberError(ZkdnsError):
    """A member of a server set cannot be understood; `reason` is a short word to count it by."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


class ZooKeeperError(ZkdnsError):
    """ZooKeeper was asked for something that it does not do, or does not allow."""


class UnreachableError(ZooKeeperError):
    """ZooKeeper could not be reached in time."""


class ClosedError(ZkdnsError):
    """What was closed is used again."""


class NoEndpointsError(ZkdnsError):
    """There is nothing to choose from: no endpoint is in the set."""


class MissingExtraError(ZkdnsError, ImportError):
    """A package is not installed that only a part of zkdns needs; the text says how to install it."""
