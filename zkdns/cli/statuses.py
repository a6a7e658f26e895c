"""The exit statuses: one table for all commands, in which each status has one meaning."""

from __future__ import annotations

import enum
from typing import Self

from zkdns.errors import BadValueError, ConfigError, UnreachableError, ZkdnsError


class ExitStatus(enum.IntEnum):
    """An exit status and its meaning, which the reference of the commands prints.

    The help of each command lists its own statuses, except `COMMON_STATUSES`, in a sentence that begins with
    `The exit status is`.

    Attributes:
        meaning: completes the row of the table.
    """

    meaning: str

    def __new__(cls, number: int, meaning: str) -> Self:
        """Make a member from its number and meaning."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.meaning = meaning
        return member

    SUCCESS = 0, "success; commands that run until a signal end with it after SIGTERM or Ctrl-C"
    NEGATIVE = (
        1,
        "negative result: no such data, the condition does not hold, or a check found a problem",
    )
    USAGE = 2, "invalid arguments, variables or configuration; nothing was done"
    NO_RESPONSE = 3, "the server, or ZooKeeper, cannot be reached or does not respond"
    NOT_WRITTEN = 4, "standard output cannot be written, for example because the disk is full"
    FAILED = 5, "the request failed: it was denied, is not possible here, or was completed only in part"
    NOT_EXECUTABLE = 126, "the program to run is not executable"  # 126 and 127 as in shells
    NOT_FOUND = 127, "the program to run does not exist"
    INTERRUPTED = 130, "ended by Ctrl-C before it was done"  # 128 + SIGINT, as in shells
    READER_GONE = 141, "the reader of standard output has closed it, as `head` does after its last line"


COMMON_STATUSES = (ExitStatus.SUCCESS, ExitStatus.NOT_WRITTEN, ExitStatus.READER_GONE)
"""The statuses of all commands. The help of a command does not repeat them."""


def status_of(error: ZkdnsError) -> ExitStatus:
    """Return the exit status of a command that this error ends."""
    match error:
        case BadValueError() | ConfigError():
            return ExitStatus.USAGE
        case UnreachableError():
            return ExitStatus.NO_RESPONSE
        case _:
            return ExitStatus.FAILED
