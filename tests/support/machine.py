"""A machine's programs, as they are, with a resolver of the test's choice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.network import bind_mount_prefix

_SECONDS = 30


class Machine:
    """Runs programs that find this name server in resolv.conf, and `staging.discovery` to search.

    `also` are further files that they find, by their places.
    """

    def __init__(
        self, directory: Path, nameserver: str = "127.0.0.1", also: Mapping[str, Path] | None = None
    ) -> None:
        directory.mkdir(exist_ok=True)
        self._nameserver = nameserver
        self._resolv_conf = directory / "resolv.conf"
        nsswitch = directory / "nsswitch.conf"
        nsswitch.write_text("hosts: files dns\n")
        self.configure()
        files = {"/etc/resolv.conf": self._resolv_conf, "/etc/nsswitch.conf": nsswitch}
        self.prefix = bind_mount_prefix({**files, **(also or {})})

    def configure(self, more: str = "") -> None:
        """Write resolv.conf."""
        self._resolv_conf.write_text(f"nameserver {self._nameserver}\nsearch staging.discovery\n{more}\n")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*self.prefix, *command], check=False, capture_output=True, text=True, timeout=_SECONDS
        )

    def output(self, *command: str) -> str:
        """What a command prints that must succeed."""
        ended = self.run(*command)
        assert ended.returncode == 0, (command, ended.stdout, ended.stderr)
        return ended.stdout

    def python(self, program: str, *arguments: str) -> str:
        """What a Python program prints, which knows nothing but the standard library."""
        return self.output(sys.executable, "-I", "-c", program, *arguments)
