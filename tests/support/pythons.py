"""The other supported versions of Python on this machine."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path

_FIRST, _LAST = 11, 15
_MINOR = "import sys, venv; print(sys.version_info.minor)"


@functools.cache
def other_pythons() -> dict[str, str]:
    """The interpreters on the PATH and of pyenv, by version: `3.12`. Not the version that runs the tests."""
    found: dict[str, str] = {}
    for minor in range(_FIRST, _LAST + 1):
        if minor == sys.version_info.minor:
            continue
        name = f"python3.{minor}"
        pyenv = sorted(map(str, Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/{name}")))
        for candidate in (shutil.which(name), *pyenv):  # a shim of pyenv may have no interpreter
            if candidate is not None and _runs(candidate, minor):
                found[f"3.{minor}"] = candidate
                break
    return found


def _runs(python: str, minor: int) -> bool:
    try:
        done = subprocess.run([python, "-c", _MINOR], check=False, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and done.stdout.strip() == str(minor)
