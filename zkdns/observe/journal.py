"""Logs to systemd's journal, whose entries have fields: `journalctl SERVICE=web.staging` finds its service.

An entry is one datagram to journald (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/). What does not get there
goes to standard error, each line with its priority in front, as sd-daemon(3) has it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
from typing import Final

import structlog

from zkdns.serverset.logs import line_of

SOCKET: Final = "/run/systemd/journal/socket"
"""Where journald takes entries."""

_STDERR = 2
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_INFO = 6
_LENGTH = struct.Struct("<Q")
_OTHERS = re.compile(r"[^A-Z0-9_]")
_MOST_KEY = 64
# What the journal gives a meaning of its own, so that a value of ours must not stand there.
_TAKEN = frozenset({"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"})


def is_journal(file: int = _STDERR) -> bool:
    """Whether what is written to that file goes to the journal, as systemd told who it started."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    with contextlib.suppress(OSError):
        status = os.fstat(file)
        return (device, inode) == (str(status.st_dev), str(status.st_ino))
    return False


class JournalRenderer:
    """The last processor of structlog: sends an entry, or returns the lines to be written instead.

    Args:
        path: where journald takes entries.
    """

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def __call__(self, _logger: object, _name: str, event: structlog.types.EventDict) -> str:
        """The lines to be written; DropEvent where there is nothing left to be done."""
        priority = _PRIORITIES.get(event.pop("level", ""), _INFO)
        text, exception = str(event.pop("event", "")), event.pop("exception", None)
        message = line_of(text, event)
        if exception:
            message = f"{message}\n{exception}"
        fields = {_key_of(key): _text_of(value) for key, value in event.items()}
        fields = {key: value for key, value in fields.items() if key and key not in _TAKEN}
        fields |= {"MESSAGE": message, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": "zkdns"}
        if self._is_sent(b"".join(_field(key, value) for key, value in fields.items())):
            raise structlog.DropEvent
        return "\n".join(f"<{priority}>{line}" for line in message.splitlines())

    def _is_sent(self, entry: bytes) -> bool:
        """Whether journald has taken it; it may be away, restarting, or not take what is too long."""
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(entry, self._path)
        except OSError:
            return False
        return True


def _key_of(key: str) -> str:
    """The field of a value: upper case, and neither a digit nor what only journald may write in front."""
    return _OTHERS.sub("_", key.upper()).lstrip("_0123456789")[:_MOST_KEY]


def _text_of(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _field(key: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" in data:  # then its length says where it ends
        return b"".join((key.encode(), b"\n", _LENGTH.pack(len(data)), data, b"\n"))
    return b"".join((key.encode(), b"=", data, b"\n"))
