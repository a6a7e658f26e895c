"""`zkdns register` with a real ZooKeeper: alone, with a program, and with checks."""

import contextlib
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli import AS_PROGRAM, PROGRAM, SERVED, SESSION, Command, Terminal, run
from tests.support.waiting import eventually
from tests.support.web import WebServer
from tests.support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.processes


@pytest.fixture
def site() -> Iterator[WebServer]:
    with WebServer() as site:
        yield site


@pytest.fixture
def members(zk: Any, zk_root: str) -> Callable[[], list[str]]:
    """A function that returns the names of the registered members."""
    path = f"{zk_root}/staging/web"
    return lambda: sorted(zk.get_children(path)) if zk.exists(path) else []


def deletion_times(zk: Any, path: str) -> list[float]:
    """A list that gets the time of the deletion of the znode."""
    times: list[float] = []
    zk.exists(path, watch=lambda _: times.append(time.monotonic()))
    return times


# -- alone --------------------------------------------------------------------------------------------------


def test_it_writes_all_options_to_the_znode(environment: dict[str, str], zk: Any, zk_root: str) -> None:
    more = (
        "--endpoint",
        "admin=9990",
        "--endpoint",
        "rpc=[::1]:9000",
        "--shard",
        "3",
        "--metadata",
        "zone=b=c",
    )
    with Command("register", *SERVED, *more, environment=environment) as command:
        path = command.wait_logged("member_registered").events("member_registered")[0]["path"]
        assert path.startswith(f"{zk_root}/staging/web/member_")
        data, status = zk.get(path)
        assert status.ephemeralOwner
        assert data == (
            b'{"serviceEndpoint":{"host":"10.0.0.1","port":8080},'
            b'"additionalEndpoints":{"admin":{"host":"10.0.0.1","port":9990},"rpc":{"host":"::1","port":9000}},'
            b'"status":"ALIVE","shard":3,"metadata":{"zone":"b=c"}}'
        )


def test_the_znode_has_the_prefix_of_the_namespace(
    environment: dict[str, str], members: Callable[[], list[str]]
) -> None:
    with Command("register", *SERVED, "--member-prefix", "node-", environment=environment) as command:
        command.wait_logged("member_registered")
        assert members() == ["node-0000000000"]
        with Command("watch", *SERVED[:3], "--member-prefix", "node-", environment=environment) as watch:
            eventually(lambda: watch.output.endswith("+ 10.0.0.1:8080 node-0000000000\n"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unregisters_the_member_and_exits_with_0(
    environment: dict[str, str], members: Callable[[], list[str]], number: signal.Signals
) -> None:
    with Command("register", *SERVED, environment=environment) as command:
        eventually(members)
        command.signal(number)
        assert command.wait() == 0
        assert members() == []
        assert command.events("member_unregistered")


def test_a_signal_to_another_thread_ends_it(
    environment: dict[str, str], members: Callable[[], list[str]]
) -> None:
    with Command("register", *SERVED, environment=environment) as command:
        command.wait_logged("member_registered")
        time.sleep(0.5)  # it now waits for events
        command.signal_other_thread(signal.SIGTERM)
        assert command.wait() == 0
        assert members() == []


@pytest.mark.parametrize("more", [(), ("--host", "auto")])
def test_the_default_host_is_the_address_towards_zookeeper(
    environment: dict[str, str], zk: Any, more: tuple[str, ...]
) -> None:
    line = ("register", "web", "--environment", "e", "--port", "80", *more)
    with Command(*line, environment=environment) as command:
        path = command.wait_logged("member_registered").events("member_registered")[0]["path"]
        assert b'"host":"127.0.0.1"' in zk.get(path)[0]
        [chosen] = command.events("host_chosen")
        assert chosen["host"] == "127.0.0.1"
        assert "loopback" in chosen["reason"]


def test_a_deleted_member_is_registered_again(
    environment: dict[str, str], zk: Any, zk_root: str, members: Callable[[], list[str]]
) -> None:
    with Command("register", *SERVED, environment=environment) as command:
        [first] = eventually(members)
        zk.delete(f"{zk_root}/staging/web/{first}")
        [second] = eventually(lambda: [name for name in members() if name != first])
        assert second != first
        command.wait_logged("member_registered", 2)


# -- a program ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("exit 0", 0), ("kill -KILL $$", 137)])
def test_it_exits_with_the_status_of_the_program(
    environment: dict[str, str], members: Callable[[], list[str]], script: str, status: int, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    waiting = f"while [ ! -e {go} ] && kill -0 $PPID; do sleep 0.02; done; {script}"
    with Command("register", *SERVED, "--", "sh", "-c", waiting, environment=environment) as command:
        eventually(members)
        go.touch()
        assert command.wait() == status
        assert members() == []


@pytest.mark.parametrize(
    "case",
    [("no-such-program", 127, "there is no such program"), ("{tmp}/plain", 126, "permission denied")],
)
def test_a_program_that_cannot_be_executed_is_not_registered(
    environment: dict[str, str], zk: Any, zk_root: str, tmp_path: Path, case: tuple[str, int, str]
) -> None:
    program, status, reason = case
    (tmp_path / "plain").write_text("no program")
    path = program.format(tmp=tmp_path)
    ended = run("register", *SERVED, "--", path, environment=environment)
    assert ended.status == status
    assert f"zkdns: cannot run {path!r}: {reason}" in ended.errors
    assert zk.exists(zk_root) is None


def test_other_signals_are_forwarded_to_the_program_at_once(
    environment: dict[str, str], members: Callable[[], list[str]]
) -> None:
    with Command("register", *SERVED, *AS_PROGRAM, environment=environment) as command:
        command.time_of("ready")
        for name in ("HUP", "QUIT", "USR1", "USR2", "WINCH"):
            command.signal(signal.Signals[f"SIG{name}"])
            command.time_of(f"SIG{name}")
        assert eventually(members)
        assert command.process.poll() is None


def test_signals_of_keys_reach_the_children_of_the_program(environment: dict[str, str]) -> None:
    # On Ctrl-C, a waiting shell either ignores the signal, or exits without ending its child.
    script = f"{shlex.join([sys.executable, '-c', PROGRAM])}; exit $?"
    line = ("register", *SERVED, "--drain", "0", "--", "sh", "-c", script)
    with Command(*line, environment=environment) as command:
        command.time_of("ready")
        command.signal(signal.SIGINT)
        command.time_of("SIGINT")
        assert command.wait() in (7, 128 + signal.SIGINT)


def test_an_ignored_sighup_stays_ignored(environment: dict[str, str]) -> None:
    with contextlib.ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_IGN))
        # PROGRAM installs a handler for SIGHUP even if it was ignored; sleep does not.
        line = ("register", *SERVED, "--", "sleep", "60")
        command = stack.enter_context(Command(*line, environment=environment))
        command.wait_logged("member_registered")
        command.signal(signal.SIGHUP)
        command.signal(signal.SIGUSR1)
        assert command.wait() == 128 + signal.SIGUSR1
        assert [entry["signal"] for entry in command.events("signal_forwarded")] == ["SIGUSR1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_gets_the_signal_after_unregistering_and_draining(
    environment: dict[str, str],
    zk: Any,
    zk_root: str,
    members: Callable[[], list[str]],
    number: signal.Signals,
) -> None:
    drained = ("--drain", "1500ms", *AS_PROGRAM)
    with Command("register", *SERVED, *drained, environment=environment) as command:
        command.time_of("ready")
        [name] = eventually(members)
        deleted = deletion_times(zk, f"{zk_root}/staging/web/{name}")
        command.signal(number)
        assert command.wait() == 7
        assert (
            command.time_of(number.name) - deleted[0] >= 1.0
        )  # less than --drain: the watch event may be late
        assert members() == []


def test_a_second_signal_ends_the_drain(
    environment: dict[str, str], members: Callable[[], list[str]]
) -> None:
    drained = ("--drain", "60s", *AS_PROGRAM)
    with Command("register", *SERVED, *drained, environment=environment) as command:
        command.time_of("ready")
        eventually(members)
        command.signal(signal.SIGTERM)
        command.wait_logged("drain_started")
        assert members() == []
        assert "SIGTERM" not in command.output
        command.signal(signal.SIGTERM)
        assert command.wait() == 7
        assert "SIGTERM" in command.output


def test_the_exit_of_the_program_ends_the_drain(
    environment: dict[str, str], members: Callable[[], list[str]], tmp_path: Path
) -> None:
    done = tmp_path / "done"
    script = f"while [ ! -e {done} ] && kill -0 $PPID; do sleep 0.02; done; exit 3"
    command_line = ("register", *SERVED, "--drain", "60s", "--", "sh", "-c", script)
    with Command(*command_line, environment=environment) as command:
        eventually(members)
        command.signal(signal.SIGTERM)
        command.wait_logged("drain_started")
        done.touch()
        assert command.wait() == 3
        assert not command.events("signal_forwarded")


def test_ctrl_c_reaches_the_program_after_unregistering(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, members: Callable[[], list[str]]
) -> None:
    options = (
        "--zookeeper", zookeeper.address, "--namespace", f"{zk_root}/{{environment}}/{{service}}",
        "--drain", "1500ms",
    )  # fmt: skip
    with Terminal("register", *SERVED, *options, *AS_PROGRAM) as terminal:
        eventually(lambda: re.search(r"^ready [0-9.]+$", terminal.screen, re.MULTILINE))
        [name] = eventually(members)
        deleted = deletion_times(zk, f"{zk_root}/staging/web/{name}")
        terminal.type(b"\x03")
        assert terminal.wait() == 7
        lines = [line for line in terminal.screen.splitlines() if line.startswith("SIGINT ")]
        assert len(lines) == 1
        assert float(lines[0].split()[1]) - deleted[0] >= 1.0  # as above


# -- checks -------------------------------------------------------------------------------------------------


def checked(site: WebServer, *more: str) -> tuple[str, ...]:
    place = ("web", "--environment", "staging", "--host", "127.0.0.1", "--port", str(site.server_port))
    return ("register", *place, *SESSION, "--interval", "50ms", *more)


def test_it_is_registered_while_its_check_passes(
    environment: dict[str, str], members: Callable[[], list[str]], site: WebServer
) -> None:
    site.statuses["/health"] = 503
    line = checked(site, "--check", "http:/health", "--timeout", "10s", *AS_PROGRAM)
    with Command(*line, environment=environment) as command:
        command.wait_logged("check_failed")
        command.time_of("ready")
        assert members() == []
        site.statuses["/health"] = 302
        eventually(members)
        site.statuses["/health"] = 404
        eventually(lambda: not members())
        site.statuses["/health"] = 200
        eventually(members)
        assert [entry["reason"] for entry in command.events("check_failed")] == [
            f"127.0.0.1:{site.server_port} answered GET /health with {status}; 200 to 399 is accepted"
            for status in (503, 404)
        ]


def test_a_tcp_check_connects_to_the_registered_endpoint(
    environment: dict[str, str], members: Callable[[], list[str]]
) -> None:
    with socket.socket() as served:
        served.bind(("127.0.0.1", 0))
        port = str(served.getsockname()[1])
        place = ("web", "--environment", "staging", "--host", "127.0.0.1", "--port", port)
        line = ("register", *place, *SESSION, "--check", "tcp", "--interval", "50ms")
        with Command(*line, environment=environment) as command:
            command.wait_logged("check_failed")
            assert members() == []
            served.listen()
            eventually(members)


def test_an_exec_check_runs_a_command(
    environment: dict[str, str], members: Callable[[], list[str]], tmp_path: Path
) -> None:
    good = tmp_path / "good"
    line = ("register", *SERVED, "--check", f"exec:test -e {good}", "--interval", "50ms")
    with Command(*line, environment=environment) as command:
        command.wait_logged("check_failed")
        assert members() == []
        good.touch()
        eventually(members)
        good.unlink()
        eventually(lambda: not members())


def test_checks_run_once_per_interval(environment: dict[str, str], tmp_path: Path) -> None:
    check = f"exec:: > {tmp_path}/$$"  # a file per check; the file's time is the kernel's
    with Command("register", *SERVED, "--check", check, "--interval", "700ms", environment=environment):
        files = eventually(lambda: found if len(found := list(tmp_path.iterdir())) >= 4 else None, 20.0)
    started_at = sorted(file.stat().st_mtime for file in files)
    assert started_at[3] - started_at[0] > 1.4  # three intervals, minus a delay of the first


def test_a_check_that_hangs_fails(
    environment: dict[str, str], members: Callable[[], list[str]], site: WebServer
) -> None:
    line = checked(site, "--check", "http:/health", "--timeout", "200ms")
    with Command(*line, environment=environment) as command:
        eventually(members)
        site.hanging.add("/health")
        eventually(lambda: not members())
        # On a busy machine, an earlier check may have timed out too.
        failures = command.events("check_failed")
        assert failures
        assert all("within 0.2 s" in failure["reason"] for failure in failures)


def test_without_a_registration_the_program_gets_the_signal_at_once(
    environment: dict[str, str], members: Callable[[], list[str]], site: WebServer
) -> None:
    line = checked(site, "--check", "exec:false", "--drain", "60s", *AS_PROGRAM)
    with Command(*line, environment=environment) as command:
        command.time_of("ready")
        command.wait_logged("check_failed")
        command.signal(signal.SIGTERM)
        assert command.wait() == 7
        assert members() == []
