"""Real memcached servers for tests. Each has its own port and ends with the test."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.support.process_guard import kill_guarded, start_guarded
from tests.support.waiting import eventually


def memcached_is_missing() -> str:
    """The reason why memcached cannot run, or an empty string."""
    if shutil.which("memcached"):
        return ""
    return "no memcached on the PATH (Debian and Ubuntu: apt install memcached)"


class MemcachedServer:
    """A memcached on a free port of 127.0.0.1, as a context manager."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="memcached-test-")
        # With port -1 memcached binds to a free port, and writes it into this file.
        self._port_file = Path(self._directory.name) / "port"
        self._process: subprocess.Popen[bytes] | None = None
        self._own_connections = 0
        self.port = 0

    def __enter__(self) -> Self:
        self._process = start_guarded(
            # memcached runs as root only with an explicit user.
            ["memcached", "-u", getpass.getuser(), "-l", "127.0.0.1", "-p", "-1", "-m", "8", "-t", "2"],
            env={**os.environ, "MEMCACHED_PORT_FILENAME": str(self._port_file)},
        )
        try:
            # A line `TCP INET: 34071`. memcached renames the file to this name when it is complete.
            self.port = eventually(lambda: int(self._port_file.read_text().split()[2]), 30.0)
            self._own_connections = self._stat("curr_connections")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._directory.cleanup()

    @property
    def endpoint(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """The number of client connections."""
        return self._stat("curr_connections") - self._own_connections

    def _stat(self, name: str) -> int:
        """A number of its statistics.

        `curr_connections` includes its listening sockets and this connection.
        """
        with socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as connection:
            connection.sendall(b"stats\r\nquit\r\n")
            with connection.makefile("rb") as reply:
                fields = dict(line.split()[1:3] for line in reply if line.startswith(b"STAT "))
        return int(fields[name.encode()])

    def pause(self) -> None:
        """Stop it with SIGSTOP: the kernel accepts connections, but there are no responses."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)  # wait until all threads are stopped

    def resume(self) -> None:
        """Continue it after `pause`."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it. Its port then refuses connections."""
        if self._process is not None:
            kill_guarded(self._process)
