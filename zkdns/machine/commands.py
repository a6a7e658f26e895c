"""Letting programs read their files again."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable

_SECONDS = 60


def run_all(commands: Iterable[tuple[str, ...]]) -> list[str]:
    """Run these commands; why each of those that failed did, and nothing for others."""
    return [why for command in commands if (why := _run(command))]


def _run(command: tuple[str, ...]) -> str:
    written = " ".join(command)
    program = shutil.which(command[0])
    if program is None:
        return f"{written}: there is no {command[0]} here; let it be read again by hand"
    try:
        ended = subprocess.run(  # noqa: S603 - commands of ours
            [program, *command[1:]],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"{written}: did not end within {_SECONDS} s"
    except OSError as error:
        return f"{written}: {error.strerror}"
    if ended.returncode:
        said = " ".join((ended.stderr or ended.stdout).split()) or f"it exits with {ended.returncode}"
        return f"{written}: {said}"
    return ""
