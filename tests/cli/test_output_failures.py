"""Output that cannot be written, and readers that have gone: for all commands, with one status for each."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cli import completion_request, piped
from tests.cli.test_watch import Members
from tests.support.fake_api import responding
from tests.support.forked_command import SCRIPT, run_forked
from tests.support.process_guard import running_guarded
from tests.support.reference import commands
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from zkdns.admin.api_types import Flushed, HistoryEntry, HistoryPage, LossesAccepted, ReleasedMember
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import run_checked, write_error

pytestmark = pytest.mark.processes

# Command lines that print something. {api} is the socket of a server that returns a response of `FAKE`.
PRINTING = {
    "status": "status",
    "reload": "reload",
    "check": "check --demo",
    "lookup": "lookup web.staging.discovery",
    "explain": "explain web.staging",
    "history": "history --server {api}",
    "watch": "watch web --environment staging",
    "services": "services --direct",
    "accept": "accept --all --server {api}",
    "flush": "flush --server {api}",
    "dump": "dump --zone",
    "diff": "diff {demo} {other} --wait 0",
    "prometheus": "prometheus --alerts",
    "top": "top --once",
    "setup": "setup --root {root}",
    "doctor": "doctor --listen 127.0.0.1:1 --demo",
    "completion": "completion bash",
    "help": "help names",
}
SILENT = {
    "serve": "a server runs without standard output",
    "wait": "the exit status is the result",
    "register": "standard output is that of the program",
}
FAKE: dict[str, object] = {
    "history": HistoryPage((HistoryEntry(1, 1.0, "web", "m0", "joined", "10.0.0.1:80", "/web/m0"),), 1),
    "accept": LossesAccepted((ReleasedMember("web", "/web/m0", "10.0.0.1:80", 1.0),)),
    "flush": Flushed(1, 1),
}
JSON = [name for name, command in commands().items() if any("--json" in each.opts for each in command.params)]


class Result(NamedTuple):
    """The end of a command with output that was not written."""

    status: int
    errors: str


@contextlib.contextmanager
def full() -> Iterator[int]:
    """A file descriptor of a full disk."""
    target = os.open("/dev/full", os.O_WRONLY)
    yield target
    os.close(target)


@contextlib.contextmanager
def unread() -> Iterator[int]:
    """The end of a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def run_into(
    target: contextlib.AbstractContextManager[int],
    typed: list[str],
    variables: Mapping[str, str],
    *,
    is_started: bool,
) -> Result:
    """Run a command with this standard output: in a fork, or with a start of Python."""
    environment = {**os.environ, **variables}
    with target as output:
        if not is_started:
            forked = run_forked(*typed, environment=environment, output=output)
            return Result(forked.status, forked.errors)
        ended = subprocess.run(
            [sys.executable, "-m", "zkdns", *typed],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
            timeout=60,
            text=True,
        )
    return Result(ended.returncode, ended.stderr)


FAILURES: dict[str, tuple[Callable[[], contextlib.AbstractContextManager[int]], Result]] = {
    "full": (
        full,
        Result(ExitStatus.NOT_WRITTEN, "zkdns: cannot write to standard output: No space left on device\n"),
    ),
    "unread": (unread, Result(ExitStatus.READER_GONE, "")),
}
failure = pytest.mark.parametrize("failure", FAILURES)


def variables_of(server: ZkdnsServer, more: Mapping[str, str]) -> dict[str, str]:
    # With a buffer, as usual, errors appear when it is flushed.
    own = {
        "PYTHONUNBUFFERED": "",
        "ZKDNS_ADMIN_SOCKET": server.api,
    }
    return {**own, "ZKDNS_UPSTREAM": "auto", **more}


@pytest.fixture
def registered(zk: Any, zk_root: str) -> None:
    """A member in ZooKeeper."""
    Members(zk, f"{zk_root}/staging/web").add("10.0.0.1")


def test_every_command_is_in_one_of_the_tables() -> None:
    assert PRINTING.keys() | SILENT.keys() == commands().keys()
    assert not PRINTING.keys() & SILENT.keys()


@failure
@pytest.mark.parametrize("typed", [*PRINTING, *(f"{name} --json" for name in PRINTING if name in JSON)])
@pytest.mark.usefixtures("registered")
def test_a_command_ends_with_the_status_of_the_failure(
    typed: str, failure: str, demo: ZkdnsServer, environment: dict[str, str], short_path: Path
) -> None:
    name, _, more = typed.partition(" ")
    command = "dump" if typed == "dump --json" else PRINTING[name]  # it has either --zone or --json
    api = str(short_path / "api")
    root = short_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "resolv.conf").write_text("nameserver 10.0.0.53\n")
    of_zookeeper = environment if name in {"watch", "services"} else {}
    make, expected = FAILURES[failure]
    fake = responding(api, name, FAKE[name]) if name in FAKE else contextlib.nullcontext()
    is_started = failure == "full" and not more  # each command once
    with fake, contextlib.ExitStack() as stack:
        places = {"api": api, "root": root, "demo": demo.api}
        if name == "diff":  # it prints only if the servers differ
            static = short_path / "static.toml"
            static.write_text('[services."web.prod"]\nmembers = ["192.0.2.1:80"]\n')
            places["other"] = stack.enter_context(ZkdnsServer("--static", str(static))).wait_ready().api
        arguments = [*command.format(**places).split(), *more.split()]
        found = run_into(make(), arguments, variables_of(demo, of_zookeeper), is_started=is_started)
    assert found == expected


@failure
@pytest.mark.parametrize("typed", ["", "--help", "--version", *(f"{name} --help" for name in commands())])
def test_help_ends_with_the_status_of_the_failure(typed: str, failure: str) -> None:
    make, expected = FAILURES[failure]
    is_started = failure == "full" and typed.partition(" ")[0] in {*SILENT, "", "--help", "--version"}
    result = run_into(make(), typed.split(), {"PYTHONUNBUFFERED": "1"}, is_started=is_started)
    if typed:
        assert result == expected
    else:  # a usage error, which goes to standard error
        assert result.status == ExitStatus.USAGE


@failure
def test_the_completion_of_a_shell_ends_with_the_status_of_the_failure(failure: str) -> None:
    make, expected = FAILURES[failure]
    with make() as output:
        ended = subprocess.run(
            [SCRIPT],
            env={**os.environ, **completion_request("zkdns he")},
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=30,
        )
    assert Result(ended.returncode, ended.stderr) == expected


@failure
def test_a_server_runs_without_standard_output(failure: str) -> None:
    typed = ["serve", "--demo", "--listen", "127.0.0.1:0", "--admin", "none", "--log-format", "json"]
    with (
        FAILURES[failure][0]() as output,
        running_guarded(
            [sys.executable, "-m", "zkdns", *typed], stdout=output, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stderr is not None
        assert any('"server_ready"' in line for line in iter(process.stderr.readline, ""))
        process.terminate()
        assert process.wait(15) == ExitStatus.SUCCESS


@pytest.mark.parametrize(
    ("typed", "status"),
    [
        ("lookup a..b", ExitStatus.USAGE),
        ("lookup x --dns 127.0.0.1:1", ExitStatus.NO_RESPONSE),
        ("lookup", ExitStatus.USAGE),
    ],
)
@pytest.mark.parametrize("failure", FAILURES)
def test_an_error_that_cannot_be_printed_keeps_its_status(typed: str, status: int, failure: str) -> None:
    with FAILURES[failure][0]() as target:
        ended = run_forked(*typed.split(), environment=os.environ, errors=target)
    assert (ended.status, ended.output) == (status, "")


class FullForAWhile(io.StringIO):
    """A file on a disk that is full for the first writes."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def write(self, text: str) -> int:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_errors_are_written_again_when_the_disk_has_space() -> None:
    """A server that logs into a file must not be silent from then on."""
    file = FullForAWhile(2)

    def command() -> None:
        for number in range(4):
            write_error(str(number))

    with contextlib.redirect_stderr(file), pytest.raises(SystemExit) as ended:
        run_checked(command)
    assert (ended.value.code, file.getvalue()) == (0, "zkdns: 2\nzkdns: 3\n")


# -- commands that wait for changes -------------------------------------------------------------------------


@pytest.mark.parametrize("has_server", [True, False], ids=["server", "no server"])
@pytest.mark.parametrize("typed", ["history --follow", "top --json"])
def test_a_command_that_waits_ends_with_its_reader(typed: str, has_server: bool, demo: ZkdnsServer) -> None:
    """It writes nothing after its reader has gone, so only the pipe shows that."""
    with contextlib.ExitStack() as stack:
        server = demo
        if not has_server:  # it ends before the reader
            server = stack.enter_context(ZkdnsServer("--demo")).wait_ready().wait_api()
        variables = variables_of(server, {})
        process, reader = stack.enter_context(piped(*typed.split(), environment=variables))
        eventually(lambda: is_watching(process.pid))
        if not has_server:
            server.terminate()
        assert process.poll() is None
        os.close(reader)
        assert process.wait(15) == ExitStatus.READER_GONE


def is_watching(pid: int) -> bool:
    """Whether the command watches its reader, in a thread of its own."""
    return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1


def test_a_reader_that_is_a_socket_is_watched_too(demo: ZkdnsServer) -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "zkdns", "history", "--follow"]
    variables = {**os.environ, **variables_of(demo, {})}
    with (
        ours,
        running_guarded(command, stdout=theirs, stderr=subprocess.DEVNULL, env=variables) as process,
    ):
        theirs.close()
        eventually(lambda: is_watching(process.pid))
        ours.close()
        assert process.wait(15) == ExitStatus.READER_GONE


def test_a_watch_without_zookeeper_ends_with_its_reader() -> None:
    typed = ["watch", "web", "--environment", "staging", "--zookeeper", "127.0.0.1:1"]
    with piped(*typed, environment={}) as (process, reader):
        eventually(lambda: is_watching(process.pid))
        os.close(reader)
        assert process.wait(15) == ExitStatus.READER_GONE
