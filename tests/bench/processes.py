"""Processes of a benchmark: CPU affinity, CPU time, memory, and their end with the benchmark."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.process_guard import running_guarded

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
        yield stack.enter_context(running_guarded(pinned, stdout=out, stderr=out))


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


def thread_cpu_seconds(pid: int, names: tuple[str, ...]) -> float:
    """User and system time so far of a process's current threads with names that begin with one of these."""
    ticks = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            _, _, text = (thread / "stat").read_text().partition("(")
            name, _, rest = text.rpartition(")")
            if name.startswith(names):
                fields = rest.split()
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


def waiting_seconds(pids: Iterable[int]) -> float:
    """How long the threads of these processes were runnable and waited for their core so far."""
    nanoseconds = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                nanoseconds += int((thread / "schedstat").read_text().split()[1])
    return nanoseconds / 1e9


@dataclass(frozen=True)
class Memory:
    """Memory of several processes in megabytes."""

    resident: float
    """RSS: shared pages are counted once per process."""
    proportional: float
    """PSS: shared pages are counted once."""


def memory(pids: Iterable[int]) -> Memory:
    """Memory of these processes. Reading it delays a large process by milliseconds.

    Raises:
        OSError: a process has ended.
    """
    kilobytes = {"Rss": 0, "Pss": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in kilobytes:
                kilobytes[name] += int(value.split()[0])
    return Memory(kilobytes["Rss"] / 1024, kilobytes["Pss"] / 1024)


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
