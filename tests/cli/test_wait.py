"""`zkdns wait` with servers that run, that start later, and that do not respond."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import Command, Terminal, run
from tests.support.forked_command import Ended
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually, in_time, repeated_if_late

pytestmark = pytest.mark.processes

SERVICES = """
[services."web.staging"]
members = [{members}]
"""


class StaticServer:
    """A server of a static file with a number of members of one service."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self.write_members(count)
        self.server = ZkdnsServer("--static", str(path))

    def write_members(self, count: int) -> None:
        members = ", ".join(f'"10.0.0.{number}:80"' for number in range(1, count + 1))
        self._path.write_text(SERVICES.format(members=members))

    def wait(self, *arguments: str) -> Ended:
        return run("wait", *arguments, environment=self.environment)

    @property
    def environment(self) -> dict[str, str]:
        return {"ZKDNS_ADMIN_SOCKET": self.server.api}


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[StaticServer]:
    """A server of two members."""
    found = StaticServer(directory / "services.toml", 2)
    with found.server:
        found.server.wait_ready()
        yield found


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StaticServer]:
    """The server of the tests that do not change the members."""
    with serving(tmp_path_factory.mktemp("unchanged")) as found:
        yield found


@pytest.fixture
def static(tmp_path: Path) -> Iterator[StaticServer]:
    """A server of one test."""
    with serving(tmp_path) as found:
        yield found


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--min", "2"),
        ("--exactly", "2"),
        ("--min", "1", "--max", "2"),
        ("--max", "5"),
        ("--timeout", "0"),
    ],
)
def test_it_returns_at_once_and_silently_if_there_are_enough(
    unchanged: StaticServer, options: tuple[str, ...]
) -> None:
    assert unchanged.wait("web.staging", *options) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "state"),
    [
        (("--min", "3"), "2 members after 300ms; expected at least 3"),
        (("--exactly", "1"), "2 members after 300ms; expected exactly 1"),
        (("--min", "3", "--max", "4"), "2 members after 300ms; expected 3 to 4"),
        (("--gone",), "2 members after 300ms; expected none"),
    ],
)
def test_after_the_time_out_it_prints_the_number_of_members(
    unchanged: StaticServer, options: tuple[str, ...], state: str
) -> None:
    started_at = time.monotonic()
    ended = unchanged.wait("web.staging", *options, "--timeout", "300ms")
    assert time.monotonic() - started_at >= 0.3
    assert ended == (1, "", f"zkdns: web.staging: {state}\n")


def test_an_unknown_service_has_no_members(unchanged: StaticServer) -> None:
    assert unchanged.wait("nix.staging", "--gone") == (0, "", "")
    ended = unchanged.wait("nix.staging", "--timeout", "0")
    assert ended == (1, "", "zkdns: nix.staging: there is no such service after 0s; expected at least 1\n")


def test_before_the_table_is_read_no_condition_is_true() -> None:
    with ZkdnsServer("--zookeeper", "127.0.0.1:1") as server:
        environment = {"ZKDNS_ADMIN_SOCKET": server.api}
        server.wait_api()
        ended = run("wait", "web.staging", "--gone", "--timeout", "300ms", environment=environment)
    state = "the server has not read its table yet after 300ms; expected none"
    assert ended == (1, "", f"zkdns: web.staging: {state}\n")


def test_it_waits_for_added_and_for_removed_members(static: StaticServer) -> None:
    for options, count in ((("--min", "4"), 4), (("--gone",), 0)):
        with Command("wait", "web.staging", *options, environment=static.environment) as command:
            eventually(lambda: command.process.poll() is None)
            static.write_members(count)
            assert command.wait() == 0
            assert (command.output, command.errors) == ("", "")
        assert len(static.server.lookup("web.staging.discovery")) == count


def test_it_waits_for_a_server_that_starts_later(tmp_path: Path) -> None:
    static = StaticServer(tmp_path / "services.toml", 1)
    with Command("wait", "web.staging", environment=static.environment) as command:
        with pytest.raises(Exception, match="timed out"):
            command.wait(0.5)
        with static.server:
            assert command.wait() == 0


def test_without_a_server_the_exit_status_is_3_after_the_time_out(short_path: Path) -> None:
    control = str(short_path / "api")
    started_at = time.monotonic()
    ended = run("wait", "web.staging", "--server", control, "--timeout", "500ms")
    assert time.monotonic() - started_at >= 0.5
    assert (ended.status, ended.output) == (3, "")
    assert ended.errors.startswith(f"zkdns: no server listens at {control}")


@repeated_if_late
def test_a_server_that_does_not_respond_does_not_delay_the_time_out(static: StaticServer) -> None:
    watcher = static.server.pid_of("watcher")
    os.kill(watcher, signal.SIGSTOP)
    try:
        started_at = time.monotonic()
        ended = static.wait("web.staging", "--timeout", "1s")
        assert ended.status == 3
        in_time(started_at, 4.0)
    finally:
        os.kill(watcher, signal.SIGCONT)


def test_ctrl_c_ends_it_with_status_130(unchanged: StaticServer) -> None:
    with Terminal("wait", "web.staging", "--min", "9", environment=unchanged.environment) as terminal:
        eventually(lambda: "2 members" in terminal.screen)
        terminal.type(b"\x03")
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.screen


def test_in_a_terminal_it_shows_the_number_of_members(static: StaticServer) -> None:
    with Terminal("wait", "web.staging", "--min", "3", environment=static.environment) as terminal:
        eventually(lambda: "web.staging: 2 members; expected at least 3" in terminal.screen)
        static.write_members(3)
        assert terminal.wait() == 0
        assert "web.staging: 3 members, after " in terminal.screen


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("web", "--gone", "--min", "1"), "write one of --gone, --exactly N, or --min N and --max N"),
        (("web", "--exactly", "1", "--max", "1"), "write one of --gone, --exactly N, or --min N and --max N"),
        (("web", "--min", "3", "--max", "2"), "--min 3: is greater than --max 2"),
        (
            ("web", "--timeout", "3x"),
            "--timeout: is '3x'; write a duration of at most 1d, such as 500ms, 1.5s or 2m",
        ),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], sentence: str) -> None:
    assert run("wait", *arguments) == (2, "", f"zkdns: {sentence}\n")


def test_an_invalid_name_is_a_usage_error(unchanged: StaticServer) -> None:
    ended = unchanged.wait("a..b")
    assert ended == (2, "", "zkdns: 'a..b' is not a domain name: it has an empty label\n")
