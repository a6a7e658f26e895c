"""`zkdns wait` against servers that are there, not there yet, and gone."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import Command, Ended, Terminal, run
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

SERVICES = """
[services."web.staging"]
members = [{members}]
"""


class Fixed:
    """A server of a fixed file with so many members of one service."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self.hold(count)
        self.server = ZkdnsServer("--static", str(path))

    def hold(self, count: int) -> None:
        members = ", ".join(f'"10.0.0.{number}:80"' for number in range(1, count + 1))
        self._path.write_text(SERVICES.format(members=members))

    def wait(self, *arguments: str) -> Ended:
        return run("wait", *arguments, environment=self.environment)

    @property
    def environment(self) -> dict[str, str]:
        return {"ZKDNS_CONTROL": self.server.control}


@pytest.fixture
def fixed(tmp_path: Path) -> Iterator[Fixed]:
    found = Fixed(tmp_path / "services.toml", 2)
    with found.server:
        found.server.wait_ready()
        yield found


@pytest.mark.parametrize(
    "wanted",
    [
        (),
        ("--min", "2"),
        ("--exactly", "2"),
        ("--min", "1", "--max", "2"),
        ("--max", "5"),
        ("--timeout", "0"),
    ],
)
def test_where_there_are_enough_it_ends_at_once_and_says_nothing(
    fixed: Fixed, wanted: tuple[str, ...]
) -> None:
    assert fixed.wait("web.staging", *wanted) == (0, "", "")


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (("--min", "3"), "2 members are answered after 300ms; at least 3 wanted"),
        (("--exactly", "1"), "2 members are answered after 300ms; exactly 1 wanted"),
        (("--min", "3", "--max", "4"), "2 members are answered after 300ms; 3 to 4 wanted"),
        (("--gone",), "2 members are answered after 300ms; none wanted"),
    ],
)
def test_at_the_end_of_the_time_it_says_how_many_there_are(
    fixed: Fixed, wanted: tuple[str, ...], told: str
) -> None:
    begun = time.monotonic()
    ended = fixed.wait("web.staging", *wanted, "--timeout", "300ms")
    assert time.monotonic() - begun >= 0.3
    assert ended == (1, "", f"zkdns: web.staging: {told}\n")


def test_a_service_that_is_not_there_has_no_members(fixed: Fixed) -> None:
    assert fixed.wait("nix.staging", "--gone") == (0, "", "")
    ended = fixed.wait("nix.staging", "--timeout", "0")
    assert ended == (1, "", "zkdns: nix.staging: there is no such service after 0s; at least 1 wanted\n")


def test_what_is_not_read_yet_is_neither_there_nor_gone() -> None:
    with ZkdnsServer("--zookeeper", "127.0.0.1:1") as server:
        environment = {"ZKDNS_CONTROL": server.control}
        eventually(lambda: Path(server.control).exists())
        ended = run("wait", "web.staging", "--gone", "--timeout", "300ms", environment=environment)
    told = "the server has not read its table yet after 300ms; none wanted"
    assert ended == (1, "", f"zkdns: web.staging: {told}\n")


def test_it_waits_for_members_that_come_and_for_those_that_go(fixed: Fixed) -> None:
    for wanted, count in ((("--min", "4"), 4), (("--gone",), 0)):
        with Command("wait", "web.staging", *wanted, environment=fixed.environment) as command:
            eventually(lambda: command.process.poll() is None)
            fixed.hold(count)
            assert command.wait() == 0
            assert (command.output, command.errors) == ("", "")
        assert len(fixed.server.lookup("web.staging.discovery")) == count


def test_a_server_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    fixed = Fixed(tmp_path / "services.toml", 1)
    with Command("wait", "web.staging", environment=fixed.environment) as command:
        with pytest.raises(Exception, match="timed out"):
            command.wait(0.5)
        with fixed.server:
            assert command.wait() == 0


def test_where_no_server_comes_the_status_is_3(short_path: Path) -> None:
    control = str(short_path / "control")
    begun = time.monotonic()
    ended = run("wait", "web.staging", "--control", control, "--timeout", "500ms")
    assert time.monotonic() - begun >= 0.5
    assert (ended.status, ended.output) == (3, "")
    assert ended.errors.startswith(f"zkdns: no server listens at {control}")


def test_a_server_that_does_not_answer_costs_no_more_than_the_time(fixed: Fixed) -> None:
    watcher = fixed.server.pid_of("watcher")
    os.kill(watcher, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        ended = fixed.wait("web.staging", "--timeout", "1s")
        assert ended.status == 3
        assert time.monotonic() - begun < 4.0
    finally:
        os.kill(watcher, signal.SIGCONT)


def test_ctrl_c_ends_it(fixed: Fixed) -> None:
    with Terminal("wait", "web.staging", "--min", "9", environment=fixed.environment) as terminal:
        eventually(lambda: "2 members are answered" in terminal.screen)
        terminal.type(b"\x03")
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.screen


def test_in_a_terminal_it_shows_how_far_it_is(fixed: Fixed) -> None:
    with Terminal("wait", "web.staging", "--min", "3", environment=fixed.environment) as terminal:
        eventually(lambda: "web.staging: 2 members are answered; at least 3 wanted" in terminal.screen)
        fixed.hold(3)
        assert terminal.wait() == 0
        assert "web.staging: 3 members are answered, after " in terminal.screen


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("web", "--gone", "--min", "1"), "write one of --gone, --exactly N, or --min N and --max N"),
        (("web", "--exactly", "1", "--max", "1"), "write one of --gone, --exactly N, or --min N and --max N"),
        (("web", "--min", "3", "--max", "2"), "--min 3: is more than --max 2"),
        (
            ("web", "--timeout", "3x"),
            "--timeout: is '3x'; write a duration from 0s to 86400s, such as 500ms, 1.5s or 2m",
        ),
    ],
)
def test_mistakes_are_told(arguments: tuple[str, ...], sentence: str) -> None:
    assert run("wait", *arguments) == (2, "", f"zkdns: {sentence}\n")


def test_a_name_that_is_none_is_a_mistake(fixed: Fixed) -> None:
    ended = fixed.wait("a..b")
    assert ended == (2, "", "zkdns: 'a..b' is not a domain name: it has an empty label\n")
