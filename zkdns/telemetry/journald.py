"""Log entries with fields for systemd's journal: `journalctl SERVICE=web.staging` finds those of a service.

An entry is one datagram to journald (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/). Entries that journald does
not accept go to standard error, with a priority prefix on each line (sd-daemon(3)).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
from typing import Final

import structlog

from zkdns.escape import printable
from zkdns.serverset.logs import line_of

SOCKET: Final = "/run/systemd/journal/socket"
"""The socket of journald."""

_STDERR = 2
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_INFO = 6
_LENGTH = struct.Struct("<Q")
_OTHERS = re.compile(r"[^A-Z0-9_]")
_MAX_KEY = 64
# Fields with a meaning of their own in the journal, which log fields must not overwrite.
_RESERVED = frozenset({"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"})


def is_journal(file: int = _STDERR) -> bool:
    """True if this file descriptor is connected to the journal, according to $JOURNAL_STREAM."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    with contextlib.suppress(OSError):
        status = os.fstat(file)
        return (device, inode) == (str(status.st_dev), str(status.st_ino))
    return False


class JournalRenderer:
    """The last structlog processor: sends an entry, or returns lines for standard error.

    Args:
        path: the socket of journald.
    """

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def __call__(self, _logger: object, _name: str, event: structlog.types.EventDict) -> str:
        """Return the lines for standard error. Raises DropEvent if journald accepted the entry."""
        priority = _PRIORITIES.get(event.pop("level", ""), _INFO)
        text, exception = str(event.pop("event", "")), event.pop("exception", None)
        message = line_of(text, event)
        if exception:
            message = f"{message}\n{exception}"
        fields = {_key_of(key): _text_of(value) for key, value in event.items()}
        fields = {key: value for key, value in fields.items() if key and key not in _RESERVED}
        fields |= {"MESSAGE": message, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": "zkdns"}
        if self._is_sent(b"".join(_field(key, value) for key, value in fields.items())):
            raise structlog.DropEvent
        return "\n".join(f"<{priority}>{printable(line)}" for line in message.split("\n"))

    def _is_sent(self, entry: bytes) -> bool:
        """Send an entry. False if journald is not running or the entry is too long."""
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(entry, self._path)
        except OSError:
            return False
        return True


def _key_of(key: str) -> str:
    """Return the journal field of a log field: upper case, without a leading digit or underscore.

    Fields with a leading underscore are journald's own.
    """
    return _OTHERS.sub("_", key.upper()).lstrip("_0123456789")[:_MAX_KEY]


def _text_of(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _field(key: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" in data:  # binary form: the length comes first
        return b"".join((key.encode(), b"\n", _LENGTH.pack(len(data)), data, b"\n"))
    return b"".join((key.encode(), b"=", data, b"\n"))
