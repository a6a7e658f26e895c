"""Fresh virtual environments, in which packages are installed with pip."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

_SECONDS = 120.0
INSTALL_SECONDS = 600.0
_UNREACHABLE = (
    "Failed to establish a new connection",
    "Connection timed out",
    "Temporary failure in name",
    "ProxyError",
)


def index_is_unreachable(errors: str) -> bool:
    """Whether pip has failed because of the network."""
    return any(sign in errors for sign in _UNREACHABLE)


class Venv:
    """A virtual environment without pip: the pip of the tests installs into it.

    Args:
        directory: where it is created.
        python: its interpreter.
    """

    def __init__(self, directory: Path, python: str = sys.executable) -> None:
        self.bin = directory / "bin"
        self.directory = directory
        if not (self.bin / "python").exists():
            subprocess.run(
                [python, "-m", "venv", "--without-pip", str(directory)], check=True, timeout=_SECONDS
            )

    def install(self, *requirements: str, options: Sequence[str] = ()) -> None:
        """Install packages. The test is skipped if the package index cannot be reached."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet"),
                *("--no-input", "--disable-pip-version-check", "--no-compile", *options, *requirements),
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
        if done.returncode != 0 and index_is_unreachable(done.stderr):
            pytest.skip("the package index cannot be reached")
        assert done.returncode == 0, f"pip ended with {done.returncode}: {done.stdout}{done.stderr}"

    @property
    def packages(self) -> set[str]:
        """The names of the installed packages."""
        found = self.directory.glob("lib/python*/site-packages/*.dist-info")
        return {path.name.partition("-")[0].lower() for path in found}

    def run(
        self, program: str, *arguments: str, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, elsewhere than in the source tree."""
        return subprocess.run(
            [str(self.bin / program), *arguments],
            check=check,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            cwd=self.directory,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables,
        )
