"""A service manager that receives notices (sd_notify(3))."""

import contextlib
import socket
from pathlib import Path


class Manager:
    """Receives notices at a socket in a directory."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "notify")
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.path)
        self._notices: list[str] = []

    @property
    def notices(self) -> list[str]:
        """All notices since the start, or since `clear`."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._notices.append(self._sock.recv(5000, socket.MSG_DONTWAIT).decode())
        return self._notices

    def clear(self) -> None:
        self.notices.clear()

    def close(self) -> None:
        self._sock.close()
