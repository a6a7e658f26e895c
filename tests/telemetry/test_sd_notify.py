"""Notices to a service manager over real sockets."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE
from zkdns.telemetry.sd_notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, short_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The socket of a service manager, and the value of $NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        where = str(short_path / "n") if request.param == "path" else f"@zkdns-test-{os.getpid()}"
        sock.bind(where.replace("@", "\0", 1) if request.param == "abstract" else where)
        sock.settimeout(5.0)
        yield sock, where


def test_each_notice_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    sock, where = manager
    notifier = Notifier(where)
    assert notifier.is_connected
    for send, expected in (
        (notifier.ready, b"READY=1"),
        (notifier.alive, b"WATCHDOG=1"),
        (notifier.stopping, b"STOPPING=1"),
    ):
        send()
        assert sock.recv(2000) == expected


def test_reloading_sends_the_time_of_the_monotonic_clock(manager: tuple[socket.socket, str]) -> None:
    sock, where = manager
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier = Notifier(where)
    notifier.ready()
    assert sock.recv(2000) == b"READY=1"
    notifier.reloading()
    first, second = sock.recv(2000).decode().split("\n")
    assert first == "RELOADING=1"
    name, _, microseconds = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_reload_before_the_start_sends_nothing(
    manager: tuple[socket.socket, str],
) -> None:
    sock, where = manager
    notifier = Notifier(where)
    notifier.reloading()
    notifier.reloaded()
    notifier.stopping()
    assert sock.recv(2000) == b"STOPPING=1"


def test_a_status_is_one_line_and_sent_only_if_new(manager: tuple[socket.socket, str]) -> None:
    sock, where = manager
    notifier = Notifier(where)
    for sentence in ("live", "live", "away\nREADY=1", "ü" * 2000):
        notifier.status(sentence)
    assert sock.recv(5000) == b"STATUS=live"
    assert sock.recv(5000) == b"STATUS=away READY=1"
    assert sock.recv(5000).decode() == "STATUS=" + "ü" * 500
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(5000)


def test_the_variables_are_removed_from_the_environment() -> None:
    environment = {
        "NOTIFY_SOCKET": "/run/n",
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/bin",
    }
    notifier = Notifier.from_environment(environment)
    assert environment == {"PATH": "/bin"}
    assert notifier.is_connected
    assert notifier.watchdog_seconds == 30.0


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "30000000"},
        {"NOTIFY_SOCKET": "/run/n"},
        {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
    ],
)
def test_there_is_no_watchdog_unless_it_is_for_this_process(variables: dict[str, str]) -> None:
    assert Notifier.from_environment(dict(variables)).watchdog_seconds is None


@pytest.mark.parametrize("where", [None, "", "/nowhere/n", "@zkdns-missing", "/" + "n" * 200])
def test_without_a_service_manager_nothing_happens(where: str | None) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": where} if where is not None else {})
    assert notifier.is_connected == bool(where)
    notifier.ready()
    notifier.status("live")


def test_a_manager_that_does_not_read_does_not_block(manager: tuple[socket.socket, str]) -> None:
    _, where = manager
    notifier = Notifier(where)
    begun = time.monotonic()
    for _ in range(1000):  # the kernel queues some ten
        notifier.alive()
    assert time.monotonic() - begun < PATIENCE
