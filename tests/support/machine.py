"""Programs of this machine that run with another resolv.conf."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.network import bind_mount_prefix

_SECONDS = 30


class Machine:
    """Runs programs with this name server and the search domain `staging.discovery` in resolv.conf.

    Args:
        directory: for the files; created if missing.
        nameserver: the address in resolv.conf.
        also: more files to mount, by the paths that they replace.
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
        """Write resolv.conf, with the lines `more`."""
        self._resolv_conf.write_text(f"nameserver {self._nameserver}\nsearch staging.discovery\n{more}\n")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command, and wait for it."""
        return subprocess.run(
            [*self.prefix, *command], check=False, capture_output=True, text=True, timeout=_SECONDS
        )

    def output(self, *command: str) -> str:
        """Run a command that must succeed, and return its standard output."""
        ended = self.run(*command)
        assert ended.returncode == 0, (command, ended.stdout, ended.stderr)
        return ended.stdout

    def python(self, program: str, *arguments: str) -> str:
        """Run a Python program with only the standard library, and return its standard output."""
        return self.output(sys.executable, "-I", "-c", program, *arguments)
