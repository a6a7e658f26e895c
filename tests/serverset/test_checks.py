"""Health checks against real sockets, HTTP servers and commands."""

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from tests.support.web import WebServer
from zkdns.errors import BadValueError
from zkdns.serverset.checks import Check, HealthMonitor, describe_status, parse_check, wait_for_command


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("tcp", Check("tcp")),
        ("http:/", Check("http", None, "/")),
        ("http:/health?full=1", Check("http", None, "/health?full=1")),
        ("http:9990/health", Check("http", 9990, "/health")),
        ("exec:curl -f http://localhost/", Check("exec", None, "curl -f http://localhost/")),
    ],
)
def test_a_check_is_parsed(text: str, check: Check) -> None:
    assert parse_check(text) == check


@pytest.mark.parametrize(
    "text",
    ["", "TCP", "tcp:", "http", "http:", "http:health", "http://h/", "http:0/", "http:65536/", "http:1:2/",
     "http:/a b", "http:/ä", "http:/a\r\nX: y", "exec:", "exec: ", "ping", "https:/health"],
)  # fmt: skip
def test_an_invalid_check_is_rejected_with_the_accepted_forms(text: str) -> None:
    with pytest.raises(BadValueError, match=r"tcp, http:/PATH|http:PORT/PATH|1 to 65535"):
        parse_check(text)


def test_only_checks_without_a_port_need_a_service_port() -> None:
    needy = [
        text for text in ("tcp", "http:/", "http:1/", "exec:true") if parse_check(text).needs_service_port
    ]
    assert needy == ["tcp", "http:/"]


@pytest.fixture
def site() -> Iterator[WebServer]:
    with WebServer() as site:
        yield site


@pytest.mark.parametrize(
    ("status", "is_good"), [(200, True), (204, True), (302, True), (400, False), (404, False), (500, False)]
)
def test_http_depends_on_the_status(site: WebServer, status: int, is_good: bool) -> None:
    site.statuses["/health"] = status
    assert HealthMonitor(parse_check("http:/health"), "127.0.0.1", site.server_port, 5.0)() is is_good
    assert [(requested.path, requested.host) for requested in site.requests] == [("/health", site.endpoint)]


def test_http_uses_the_port_of_the_check(site: WebServer) -> None:
    assert HealthMonitor(parse_check(f"http:{site.server_port}/health"), "127.0.0.1", 1, 5.0)()


@pytest.mark.parametrize("path", ["/hang", "/drip"])
def test_http_fails_after_its_timeout(site: WebServer, path: str) -> None:
    begun = time.monotonic()
    assert not HealthMonitor(parse_check(f"http:{path}"), "127.0.0.1", site.server_port, 0.3)()
    assert 0.3 <= time.monotonic() - begun < 20.0


def test_http_fails_for_another_protocol() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail ready\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert not HealthMonitor(parse_check("http:/"), "127.0.0.1", listening.getsockname()[1], 5.0)()
        thread.join()


def test_tcp_depends_on_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        health = HealthMonitor(parse_check("tcp"), "127.0.0.1", listening.getsockname()[1], 5.0)
        assert health()
    assert not health()


def test_tcp_fails_after_its_timeout() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        try:
            for each in waiting:  # as many as the backlog takes; later ones get no response
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            begun = time.monotonic()
            assert not HealthMonitor(parse_check("tcp"), "127.0.0.1", full.getsockname()[1], 0.3)()
            assert 0.3 <= time.monotonic() - begun < 20.0
        finally:
            for each in waiting:
                each.close()


@pytest.mark.parametrize(
    ("command", "is_good"),
    [("true", True), ("exit 3", False), ("no-such-command", False), ("kill -9 $$", False)],
)
def test_exec_depends_on_the_exit_status(command: str, is_good: bool) -> None:
    assert HealthMonitor(parse_check(f"exec:{command}"), "127.0.0.1", 1, 5.0)() is is_good


def test_exec_reports_the_last_line_of_stderr(caplog: pytest.LogCaptureFixture) -> None:
    HealthMonitor(
        parse_check("exec:echo first >&2; echo the disk is full >&2; exit 3"), "127.0.0.1", 1, 5.0
    )()
    assert "the check ended with status 3: the disk is full" in caplog.text


def test_exec_kills_the_process_group_after_its_timeout(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hanging = parse_check(f"exec:sleep 60 & echo $! $$ > {pids}; wait")
    begun = time.monotonic()
    # The timeout is long enough for the command to write its process ids.
    assert not HealthMonitor(hanging, "127.0.0.1", 1, 1.0)()
    assert time.monotonic() - begun < 20.0
    assert len(pids.read_text().split()) == 2
    assert_all_end(pids)


def test_close_kills_a_running_command(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    health = HealthMonitor(parse_check(f"exec:sleep 60 & echo $! $$ > {pids}; wait"), "127.0.0.1", 1, 60.0)
    asking = threading.Thread(target=health)
    asking.start()
    eventually(lambda: pids.read_text().split())
    health.close()
    asking.join(10.0)
    assert not asking.is_alive()
    assert_all_end(pids)


def assert_all_end(pids: Path) -> None:
    """Wait until these processes have ended. init reaps a child of an ended parent with some delay."""
    eventually(lambda: not any(map(is_running, map(int, pids.read_text().split()))))


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_each_change_is_logged_once(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    good = tmp_path / "good"
    health = HealthMonitor(parse_check(f"exec:test -e {good}"), "127.0.0.1", 1, 5.0)
    caplog.set_level("INFO")
    for wanted in (False, False, True, True, False):
        good.touch() if wanted else good.unlink(missing_ok=True)
        assert health() is wanted
    assert [record.getMessage().split(" reason=")[0] for record in caplog.records] == [
        "zkdns: check_failed",
        "zkdns: check_passed",
        "zkdns: check_failed",
    ]


def test_a_command_may_exit_during_its_grace_time() -> None:
    ended = threading.Event()
    ended.set()
    script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not wait_for_command(process, ended, grace=5.0)
        assert process.returncode == 5


def test_a_command_is_killed_after_its_grace_time() -> None:
    ended = threading.Event()
    ended.set()
    script = "trap '' TERM; echo ready; while :; do sleep 0.01; done"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not wait_for_command(process, ended, grace=0.2)
        assert process.returncode == -signal.SIGKILL


def test_an_exit_status_is_described() -> None:
    assert [describe_status(code) for code in (0, 3, -9, -40)] == [
        "status 0",
        "status 3",
        "SIGKILL",
        "signal 40",
    ]
