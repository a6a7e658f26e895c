"""Processes that simulate many hosts, and the messages between them and the benchmark.

python -m tests.bench.fleet_control SOCKET MODULE:CLASS

Each process makes one object of a class in its event loop, and connects to the benchmark's socket. It passes
each message to the object's method `handle`, and sends back what that returns. It ends with the benchmark.
"""

import asyncio
import contextlib
import pkgutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, Protocol

from tests.bench.processes import cpu_seconds
from tests.support.process_guard import running_guarded

_TIMEOUT = 60.0
"""Seconds until a reply; a busy process replies after its current work."""


class Simulator(Protocol):
    """A class for objects in such processes."""

    def handle(self, message: Any, /) -> object:
        """Handle a message, and return the reply."""


class Simulators:
    """Running processes of one class. `simulators` starts and ends them."""

    def __init__(self, processes: list[subprocess.Popen[bytes]], connections: list[Connection]) -> None:
        self._processes = processes
        self._connections = connections

    def __len__(self) -> int:
        return len(self._connections)

    def request(self, *messages: object) -> list[Any]:
        """Send each process its message, or all of them the same one, and return their replies.

        Raises:
            RuntimeError: a process has ended, or does not reply.
        """
        each = messages * len(self._connections) if len(messages) == 1 else messages
        for connection, message in zip(self._connections, each, strict=True):
            connection.send(message)
        return [self._receive(connection) for connection in self._connections]

    def cpu_seconds(self) -> float:
        """CPU time of all processes so far."""
        return cpu_seconds(process.pid for process in self._processes)

    def _receive(self, connection: Connection) -> Any:
        try:
            if connection.poll(_TIMEOUT):
                return connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("a process of simulated hosts has ended") from error
        raise RuntimeError(f"a process of simulated hosts has not replied for {_TIMEOUT:g} s")


@contextlib.contextmanager
def simulators(simulator: type[Simulator], count: int) -> Iterator[Simulators]:
    """Run `count` processes of a class. They end with the `with` block, and with this process."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="zkdns-fleet-"))
        path = str(Path(directory, "socket"))
        listener = stack.enter_context(Listener(path, "AF_UNIX"))
        name = f"{simulator.__module__}:{simulator.__qualname__}"
        command = [sys.executable, "-m", "tests.bench.fleet_control", path, name]
        processes = [stack.enter_context(running_guarded(command)) for _ in range(count)]
        yield Simulators(processes, [stack.enter_context(listener.accept()) for _ in processes])


async def _serve(path: str, name: str) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    simulator: Simulator = pkgutil.resolve_name(name)()
    with Client(path, "AF_UNIX") as connection:

        def on_message() -> None:
            try:
                connection.send(simulator.handle(connection.recv()))
            except (EOFError, OSError):
                loop.remove_reader(connection.fileno())
                ended.set()

        loop.add_reader(connection.fileno(), on_message)
        await ended.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark handles Ctrl-C, and ends this process
    asyncio.run(_serve(*sys.argv[1:]))
