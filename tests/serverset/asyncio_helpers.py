"""Helpers for tests with event loops: programs that must leave nothing in their loop, and a silent server."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

_T = TypeVar("_T")


class _RefusingExecutor(ThreadPoolExecutor):
    """A default executor that runs nothing, and records each attempt."""

    def __init__(self) -> None:
        super().__init__(1)
        self.attempts: list[object] = []

    def submit(self, function: Callable[..., object], /, *_: object, **__: object) -> NoReturn:
        self.attempts.append(function)
        raise RuntimeError(f"the default executor of the loop was used for {function!r}")


def run(program: Coroutine[Any, Any, _T]) -> _T:
    """Run a program in a new event loop with a default executor that refuses all work.

    The program must leave no task, and no exception that was never retrieved.
    """

    async def main() -> _T:
        loop, executor = asyncio.get_running_loop(), _RefusingExecutor()
        loop.set_default_executor(executor)
        problems: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: problems.append(context))
        result = await program
        assert asyncio.all_tasks() == {asyncio.current_task()}
        gc.collect()
        await asyncio.sleep(0)
        assert not problems
        assert not executor.attempts
        return result

    return asyncio.run(main())


async def until(condition: Callable[[], object], timeout: float = 20.0) -> None:
    """As `eventually`, for coroutines."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - another thread or process fulfils it
            await asyncio.sleep(0.01)


def expect_destruction(task: "asyncio.Task[Any]") -> None:
    """Log no warning when this task is collected before its end, which is asyncio's own warning."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way


@contextlib.contextmanager
def silent_server() -> Iterator[socket.socket]:
    """A server that accepts connections and never sends anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        yield listening


def address_of(listening: socket.socket) -> str:
    """The address of a server, as `host:port`."""
    return f"127.0.0.1:{listening.getsockname()[1]}"
