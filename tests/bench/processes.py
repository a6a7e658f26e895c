"""Processes of a benchmark: where they run, what they cost, and that none outlives it."""

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
_UTIME = 11  # of the fields behind a process's name, as are the children's parents
_PARENT = 1


@dataclass(frozen=True)
class Cores:
    """Which core is whose."""

    server: int
    """The server that is measured has it to itself."""
    load: int
    """Who asks."""
    rest: int
    """ZooKeeper and what else there is; the load's where there is no third."""

    @property
    def is_rest_apart(self) -> bool:
        """Whether what is neither server nor load leaves both alone."""
        return self.rest not in (self.server, self.load)


def choose_cores(wanted: str = "") -> Cores:
    """The first two or three cores that we may use, or those that `wanted` lists, as in "0,2,3".

    Raises:
        ValueError: with a sentence, where these cannot be had.
    """
    usable = sorted(os.sched_getaffinity(0))
    try:
        chosen = [int(number) for number in wanted.split(",")] if wanted else usable[:3]
    except ValueError:
        raise ValueError(
            f'--cores is {wanted!r}; write two or three numbers with commas between, as in "0,1"'
        ) from None
    if len(set(chosen)) < 2 or len(chosen) > 3 or not set(chosen) <= set(usable):
        told = ",".join(map(str, chosen))
        raise ValueError(
            f"server and load need a core each: cores {told} are not two or three of those "
            f"that may be used here ({','.join(map(str, usable))})"
        )
    return Cores(chosen[0], chosen[1], chosen[-1])


def find_program(name: str) -> str | None:
    """Where a program is; servers lie where ordinary users do not look."""
    return shutil.which(name, path=_PATHS)


@contextlib.contextmanager
def running(
    command: list[str], *, core: int | None = None, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program as the leader of a group of its own, which is killed at the end."""
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
    """Move processes, with all threads that they have, to a core."""
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {core})


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that these processes have used so far; a process that has ended has none."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = _stat(pid)
            ticks += int(fields[_UTIME]) + int(fields[_UTIME + 1])
    return ticks / _TICKS


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            children.setdefault(int(_stat(int(path.name))[_PARENT]), []).append(int(path.name))
    found, parents = [], [pid]
    while parents:
        parent = parents.pop()
        found.append(parent)
        parents += children.get(parent, ())
    return found


def resident_megabytes(pid: int) -> float:
    """A process's resident memory, pages that it shares with others included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"process {pid} has ended")


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
