"""Fixtures of the library's tests: server sets, and checks for leaked threads, sockets and logged errors."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns import ServerSet


def sockets() -> set[str]:
    """The open sockets of this process."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the directory itself
            target = str(entry.readlink())
            if target.startswith("socket:"):
                found.add(target)
    return found


@pytest.fixture
def leaves_nothing(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that threads and sockets end with the test, and that no thread raised or logged an error."""
    raised: list[threading.ExceptHookArgs] = []
    before, threads, hook = sockets(), set(threading.enumerate()), threading.excepthook
    threading.excepthook = raised.append
    try:
        yield
        eventually(lambda: not set(threading.enumerate()) - threads)
        eventually(lambda: not sockets() - before)
    finally:
        threading.excepthook = hook
    assert not raised
    assert [record.getMessage() for record in caplog.records if _is_a_mistake(record)] == []


def _is_a_mistake(record: logging.LogRecord) -> bool:
    return record.name.startswith("zkdns") and record.levelno >= logging.ERROR


@pytest.fixture
def server_set(zookeeper: ZooKeeperServer, zk_root: str) -> Callable[..., ServerSet]:
    """Makes the ServerSet of a service below the test's own path."""

    def make(service: str = "web", *, hosts: str = zookeeper.address, **options: object) -> ServerSet:
        options = {"namespace": f"{zk_root}/{{environment}}/{{service}}", "session_timeout": 2.0, **options}
        return ServerSet("test", service, hosts, **options)  # type: ignore[arg-type]

    return make
