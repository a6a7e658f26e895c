"""Processor time, memory and open files of a process, as Linux reports them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

_PROC = Path("/proc")
# Fields of /proc/PID/stat after the command, which ends with the last parenthesis (proc(5)).
_USER_TIME, _SYSTEM_TIME, _RESIDENT_PAGES = 11, 12, 21


class ProcessStats(msgspec.Struct, frozen=True):
    """The resources of a process."""

    cpu_seconds: float
    """Processor time since its start, in user and system mode."""
    resident_bytes: int
    open_files: int


def read_process_stats(pid: int, proc: Path = _PROC) -> ProcessStats | None:
    """Read the resources of a process. None: it has ended, or the system does not report them."""
    directory = proc / str(pid)
    try:
        fields = (directory / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        open_files = sum(1 for _ in (directory / "fd").iterdir())
    except OSError:
        return None
    ticks = int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])
    return ProcessStats(
        cpu_seconds=ticks / os.sysconf("SC_CLK_TCK"),
        resident_bytes=int(fields[_RESIDENT_PAGES]) * os.sysconf("SC_PAGE_SIZE"),
        open_files=open_files,
    )
