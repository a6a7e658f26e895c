"""Processes of a benchmark: CPU affinity, CPU time, memory, and their end with the benchmark."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.process_guard import guarded

_TICKS = os.sysconf("SC_CLK_TCK")
_PATHS = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_UTIME = 11  # index in /proc/PID/stat, counted after the process name
_PARENT = 1  # likewise


@dataclass(frozen=True)
class Cores:
    """CPU numbers by purpose."""

    server: int
    """For the measured server alone."""
    load: int
    """For the load generator."""
    other: int
    """For all other processes, such as ZooKeeper; equal to `load` if there is no third core."""

    @property
    def others_have_own_core(self) -> bool:
        """Whether the other processes have a core of their own."""
        return self.other not in (self.server, self.load)


def choose_cores(wanted: str = "") -> Cores:
    """The cores that `wanted` lists, such as "0,2,3"; if it is empty, the first two or three usable ones.

    Raises:
        ValueError: not two or three different usable cores.
    """
    usable = sorted(os.sched_getaffinity(0))
    try:
        chosen = [int(number) for number in wanted.split(",")] if wanted else usable[:3]
    except ValueError:
        raise ValueError(
            f'--cores is {wanted!r}; write two or three numbers with commas between, such as "0,1"'
        ) from None
    if len(set(chosen)) < 2 or len(chosen) > 3 or not set(chosen) <= set(usable):
        found = ",".join(map(str, chosen))
        raise ValueError(
            f"server and load need a core each: found cores {found}; use two or three different ones of "
            f"{','.join(map(str, usable))}"
        )
    return Cores(chosen[0], chosen[1], chosen[-1])


def find_program(name: str) -> str | None:
    """Path of a program in PATH or in the sbin directories, which contain servers; None if not found."""
    return shutil.which(name, path=_PATHS)


@contextlib.contextmanager
def running(
    command: list[str], *, core: int | None = None, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in its own process group, which is killed at the end of the `with` block."""
    pinned = ["taskset", "-c", str(core), *command] if core is not None else command
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(log.open("wb")) if log else subprocess.DEVNULL
        process = subprocess.Popen(
            guarded(pinned), stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True
        )
        assert process.stdin is not None
        stack.callback(process.stdin.close)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def pin(pids: Iterable[int], core: int) -> None:
    """Move all current threads of these processes to a core."""
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {core})


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes so far; 0 for a process that has ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = _stat(pid)
            ticks += int(fields[_UTIME]) + int(fields[_UTIME + 1])
    return ticks / _TICKS


def family(pid: int) -> list[int]:
    """Process ids of a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has ended
            children.setdefault(int(_stat(int(path.name))[_PARENT]), []).append(int(path.name))
    found, parents = [], [pid]
    while parents:
        parent = parents.pop()
        found.append(parent)
        parents += children.get(parent, ())
    return found


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process, including shared pages."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"process {pid} has ended")


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
