"""`zkdns watch` with a real ZooKeeper: lines, JSON objects, the live table, and `--exec`."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from kazoo.security import make_acl

from tests.cli import PROGRAM, Command, Terminal, piped, run
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns.cli.statuses import ExitStatus

pytestmark = pytest.mark.processes

WATCHED = ("watch", "web", "--environment", "staging")


class Members:
    """Creates and removes members of the watched server set."""

    def __init__(self, zk: Any, directory: str) -> None:
        self._zk = zk
        self.directory = directory

    def add(self, host: str, more: str = "") -> str:
        endpoints = f'"serviceEndpoint":{{"host":"{host}","port":80}},"additionalEndpoints":{{}}'
        data = f'{{{endpoints},"status":"ALIVE"{more}}}'
        path = self._zk.create(f"{self.directory}/member_", data.encode(), sequence=True, makepath=True)
        return str(path.rpartition("/")[2])

    def remove(self, name: str) -> None:
        self._zk.delete(f"{self.directory}/{name}")


@pytest.fixture
def members(zk: Any, zk_root: str) -> Members:
    return Members(zk, f"{zk_root}/staging/web")


def lines_of(command: Command, count: int) -> list[str]:
    """Wait until this number of lines is printed, and return them."""
    eventually(lambda: len(command.output.splitlines()) >= count)
    return command.output.splitlines()


# -- output -------------------------------------------------------------------------------------------------


def test_each_added_or_removed_member_is_a_line(environment: dict[str, str], members: Members) -> None:
    first, second = members.add("10.0.0.1"), members.add("::1")
    with Command(*WATCHED, environment=environment) as command:
        lines_of(command, 2)
        third = members.add("web.example")
        lines_of(command, 3)
        members.remove(first)
        lines = [line.partition(" ") for line in lines_of(command, 4)]
        assert [line for _, _, line in lines] == [
            f"+ 10.0.0.1:80 {first}",
            f"+ [::1]:80 {second}",
            f"+ web.example:80 {third}",
            f"- 10.0.0.1:80 {first}",
        ]
        assert all(datetime.fromisoformat(time).utcoffset() is not None for time, _, _ in lines)


def test_each_change_is_a_json_object(environment: dict[str, str], members: Members) -> None:
    with Command(*WATCHED, "--json", environment=environment) as command:
        lines_of(command, 1)
        name = members.add("10.0.0.2", ',"shard":3,"metadata":{"zone":"b"}')
        lines_of(command, 2)
        members.remove(name)
        changes = [json.loads(line) for line in lines_of(command, 3)]
        row = {
            "member": name,
            "endpoint": "10.0.0.2:80",
            "additional": {},
            "shard": 3,
            "metadata": {"zone": "b"},
        }
        assert [(change["endpoints"], change["added"], change["removed"]) for change in changes] == [
            ([], [], []),
            (["10.0.0.2:80"], [row], []),
            ([], [], [row]),
        ]
        assert {(change["environment"], change["service"]) for change in changes} == {("staging", "web")}


def test_a_terminal_shows_a_live_table(zookeeper: ZooKeeperServer, zk_root: str, members: Members) -> None:
    members.add("10.0.0.1", ',"shard":7')
    where = ("--zookeeper", zookeeper.address, "--namespace", f"{zk_root}/{{environment}}/{{service}}")
    with Terminal(*WATCHED, *where) as terminal:
        eventually(
            lambda: re.search(r"10\.0\.0\.1:80 +member_\d{10} +7 +before \d\d:\d\d:\d\d", terminal.screen)
        )
        assert "web.staging: 1 member" in terminal.screen
        members.add("10.0.0.2")
        eventually(lambda: re.search(r"10\.0\.0\.2:80 +member_\d{10} +\d\d:\d\d:\d\d", terminal.screen))
        assert "web.staging: 2 members" in terminal.screen
        terminal.type(b"\x03")
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.screen


def test_the_table_is_redrawn_if_the_terminal_size_changes(
    environment: dict[str, str], members: Members
) -> None:
    members.add("10.0.0.1")
    with Terminal(*WATCHED, environment=environment) as terminal:
        eventually(lambda: re.search(r"^10\.0\.0\.1:80 +member_\d{10} ", terminal.screen, re.MULTILINE))
        terminal.resize(40, 50)
        eventually(lambda: re.search(r"^10\.0\.0\.1:80 +mem.*… +before", terminal.screen, re.MULTILINE))
        assert len(lines_shown(terminal)[-1]) <= 48  # so that an echoed ^C does not wrap


def lines_shown(terminal: Terminal) -> list[str]:
    return terminal.screen.replace("\r", "").splitlines()


def test_a_dumb_terminal_shows_lines(environment: dict[str, str], members: Members) -> None:
    name = members.add("10.0.0.1")
    with Terminal(*WATCHED, environment={**environment, "TERM": "dumb"}) as terminal:
        eventually(lambda: f"+ 10.0.0.1:80 {name}" in terminal.written)
        assert "\x1b" not in terminal.written


def test_no_color_removes_colours(environment: dict[str, str], members: Members) -> None:
    members.add("10.0.0.1")
    failing = (*WATCHED, "--exec", "exit 3")
    with (
        Terminal(*failing, environment=environment) as coloured,
        Terminal(*failing, environment={**environment, "NO_COLOR": "1"}) as plain,
    ):
        for terminal, has_colours in ((coloured, True), (plain, False)):
            eventually(lambda terminal=terminal: "watch_command_failed" in terminal.screen)  # type: ignore[misc]
            assert bool(re.search(r"\x1b\[[0-9;]*33m", terminal.written)) is has_colours


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0(
    environment: dict[str, str], members: Members, number: signal.Signals
) -> None:
    members.add("10.0.0.1")
    with Command(*WATCHED, environment=environment) as command:
        lines_of(command, 1)
        command.signal(number)
        assert command.wait() == 0
        assert command.errors == ""


def test_a_signal_to_another_thread_ends_it(environment: dict[str, str], members: Members) -> None:
    members.add("10.0.0.1")
    with Command(*WATCHED, environment=environment) as command:
        lines_of(command, 1)
        command.signal_other_thread(signal.SIGTERM)
        assert command.wait() == 0


def test_a_signal_ends_the_wait_for_zookeeper(own_zookeeper: ZooKeeperServer) -> None:
    own_zookeeper.pause()
    with Command(*WATCHED, "--zookeeper", own_zookeeper.address) as command:
        eventually(lambda: catches(command.process.pid, signal.SIGTERM))
        command.signal(signal.SIGTERM)
        assert command.wait() == 0


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for the signal."""
    [mask] = re.findall(r"^SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_closed_pipe_ends_it_without_an_error(
    environment: dict[str, str], members: Members, tmp_path: Path
) -> None:
    members.add("10.0.0.1")
    file = tmp_path / "errors"
    with (
        file.open("wb") as errors,
        piped(*WATCHED, environment=environment, errors=errors) as (process, reader),
    ):
        assert os.read(reader, 1000)
        os.close(reader)
        assert process.wait(15.0) == ExitStatus.READER_GONE
    assert file.read_bytes() == b""


def test_with_closed_standard_output_the_command_still_runs(
    environment: dict[str, str], members: Members, tmp_path: Path
) -> None:
    members.add("10.0.0.1")
    file = tmp_path / "record"
    watching = shlex.join([sys.executable, "-m", "zkdns", *WATCHED, "--exec", f"cat > {file}; kill $PPID"])
    listing = shlex.join([sys.executable, "-m", "zkdns", "services", "--direct"])
    for line in (watching, listing):
        ended = subprocess.run(
            ["sh", "-c", f"exec {line} >&-"],
            check=False,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
    assert file.read_text() == "10.0.0.1:80\n"


# -- a command at each change -------------------------------------------------------------------------------

RECORD = 'echo "$ZKDNS_ENDPOINTS|$ZKDNS_ADDED|$ZKDNS_REMOVED" >> {file}'


def runs(file: Path, count: int) -> list[str]:
    """Wait until the command has written this number of lines, and return them."""
    eventually(lambda: len(file.read_text().splitlines()) >= count)
    return file.read_text().splitlines()


def test_the_command_gets_members_and_changes_in_variables(
    environment: dict[str, str], members: Members, tmp_path: Path
) -> None:
    file = tmp_path / "record"
    members.add("10.0.0.2")
    first = members.add("10.0.0.1")
    with Command(*WATCHED, "--exec", RECORD.format(file=file), environment=environment):
        assert runs(file, 1) == ["10.0.0.1:80 10.0.0.2:80|10.0.0.1:80 10.0.0.2:80|"]
        members.remove(first)
        assert runs(file, 2)[1] == "10.0.0.2:80||10.0.0.1:80"


def test_the_command_gets_the_endpoints_on_standard_input(
    environment: dict[str, str], members: Members, tmp_path: Path
) -> None:
    file = tmp_path / "record"
    members.add("10.0.0.2")
    members.add("::1")
    script = f"{{ cat; echo end; }} >> {file}"
    with Command(*WATCHED, "--exec", script, environment=environment):
        assert runs(file, 3) == ["10.0.0.2:80", "[::1]:80", "end"]
        members.add("10.0.0.1")
        assert runs(file, 7)[3:] == ["10.0.0.1:80", "10.0.0.2:80", "[::1]:80", "end"]


def test_the_output_of_the_command_appears_above_the_table(
    environment: dict[str, str], members: Members
) -> None:
    members.add("10.0.0.1")
    script = "echo output; echo error >&2"
    with Terminal(*WATCHED, "--exec", script, environment=environment) as terminal:
        for line in ("output", "error"):
            shown = rf"{line}\s+web.staging: 1 member\s+endpoint.*\s+10\.0\.0\.1:80 "
            eventually(lambda shown=shown: re.search(shown, terminal.screen, re.MULTILINE))  # type: ignore[misc]


def test_changes_during_a_run_of_the_command_cause_one_more_run(
    environment: dict[str, str], members: Members, tmp_path: Path
) -> None:
    file, go = tmp_path / "record", tmp_path / "go"
    script = f"{RECORD.format(file=file)}; while [ ! -e {go} ] && kill -0 $PPID; do sleep 0.02; done"

    def changes(count: int) -> list[str]:
        """Wait for this number of runs with changed endpoints, and return their lines."""

        def found() -> list[str] | None:
            lines = [line for line in runs(file, 1) if not line.endswith("||")]
            return lines if len(lines) >= count else None

        return eventually(found)

    with Command(*WATCHED, "--json", "--exec", script, environment=environment) as command:
        runs(file, 1)
        for number in range(1, 4):
            members.add(f"10.0.0.{number}")
            lines_of(command, 1 + number)
        assert len(runs(file, 1)) == 1
        # Each change is printed before the command gets it. Once a change without a new endpoint is printed,
        # the command has all those before it.
        members.add("10.0.0.3")
        lines_of(command, 5)
        go.touch()
        everything = "10.0.0.1:80 10.0.0.2:80 10.0.0.3:80"
        assert changes(1) == [f"{everything}|{everything}|"]
        members.add("10.0.0.4")
        assert changes(2)[1:] == [f"{everything} 10.0.0.4:80|10.0.0.4:80|"]


def test_a_failing_command_is_logged_and_the_watch_continues(
    environment: dict[str, str], members: Members, tmp_path: Path
) -> None:
    file = tmp_path / "record"
    with Command(
        *WATCHED, "--exec", f"{RECORD.format(file=file)}; exit 3", environment=environment
    ) as command:
        command.wait_logged("watch_command_failed")
        assert command.events("watch_command_failed")[0]["outcome"] == "status 3"
        members.add("10.0.0.1")
        assert runs(file, 2)[1] == "10.0.0.1:80|10.0.0.1:80|"


def test_a_running_command_is_terminated_with_the_watch(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "record"
    script = f"exec {shlex.join([sys.executable, '-c', PROGRAM])} > {file}"
    with Command(*WATCHED, "--exec", script, environment=environment) as command:
        assert [line.split()[0] for line in runs(file, 1)] == ["ready"]
        command.signal(signal.SIGTERM)
        assert command.wait() == 0
        assert [line.split()[0] for line in runs(file, 2)] == ["ready", "SIGTERM"]


# -- errors -------------------------------------------------------------------------------------------------


def test_all_usage_errors_are_printed() -> None:
    ended = run("watch", "a..b", "--exec", " ", "--zookeeper", "h:0")
    assert ended.status == 2
    options = [line.removeprefix("zkdns: ").partition(": ")[0] for line in ended.errors.splitlines()]
    assert sorted(options) == ["--exec", "--zookeeper", "SERVICE"]


def test_missing_permission_is_an_error(environment: dict[str, str], zk: Any, zk_root: str) -> None:
    zk.create(f"{zk_root}/staging/web", makepath=True)
    zk.set_acls(f"{zk_root}/staging/web", [make_acl("world", "anyone", admin=True, delete=True)])
    ended = run(*WATCHED, environment=environment)
    zk.set_acls(
        f"{zk_root}/staging/web", [make_acl("world", "anyone", all=True)]
    )  # so that it can be removed
    assert ended.status == 5
    error = f"zkdns: web.staging: cannot watch {zk_root}/staging/web: ZooKeeper denies"
    assert ended.errors.splitlines()[-1].startswith(error)


def test_a_lost_connection_is_reported_and_the_watch_continues(own_zookeeper: ZooKeeperServer) -> None:
    with Command(*WATCHED, "--json", "--zookeeper", own_zookeeper.address) as command:
        lines_of(command, 1)
        own_zookeeper.kill()
        eventually(lambda: "ZooKeeper is unreachable" in command.errors)
        own_zookeeper.start()
        eventually(lambda: "\nzkdns: ZooKeeper is reachable again" in command.errors, 30.0)
        assert command.process.poll() is None
        assert command.errors.count("ZooKeeper is unreachable;") == 1
