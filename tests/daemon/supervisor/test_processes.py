"""The processes of a server when they are killed, stopped, short of file descriptors, or terminated."""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import dns.query
import pytest

from tests.daemon.processes import children, command_line, is_running, open_files
from tests.support.server import ZkdnsServer
from tests.support.waiting import PATIENCE, eventually, in_time, repeated_if_late, soon
from zkdns.config import load_config
from zkdns.daemon.ipc.child import TASKS, Task
from zkdns.daemon.supervisor.config_diff import config_for

pytestmark = pytest.mark.processes

WEB = "m0.web.staging.discovery"
WEB_ADDRESS = {"192.0.2.1"}
SECONDS = 5.0


def demo(*arguments: str, temporary: Path | None = None) -> ZkdnsServer:
    environment = {"TMPDIR": str(temporary)} if temporary else None
    return ZkdnsServer("--demo", *arguments, environment=environment)


def addresses_of(response: dns.message.Message) -> set[str]:
    return {str(record) for rrset in response.answer for record in rrset}


def roles(server: ZkdnsServer) -> list[str]:
    return sorted(children(server).values())


def wait_for_events(server: ZkdnsServer, event: str, count: int) -> None:
    eventually(lambda: len(server.events(event)) == count)


def wait_for_answer(server: ZkdnsServer, address: str, seconds: float) -> None:
    soon(lambda: server.lookup("web.staging.discovery") == {address}, seconds)


def started_after(server: ZkdnsServer, command: str) -> ZkdnsServer:
    """Let a shell run a command before it starts the server."""
    server.command = ["sh", "-c", f'{command}; exec "$@"', "sh", *server.command]
    return server


# -- shutdown -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, "3"), (signal.SIGINT, "1")], ids=["SIGTERM", "SIGINT"]
)
@repeated_if_late
def test_a_signal_ends_all_processes_within_5_seconds(
    number: signal.Signals, workers: str, short_path: Path
) -> None:
    with demo("--workers", workers, temporary=short_path) as server:
        pids = children(server.wait_ready())
        assert sorted(pids.values()) == ["watcher"] + ["worker"] * int(workers)
        assert [path.name[:6] for path in short_path.iterdir()] == ["zkdns-"]
        signalled_at = time.monotonic()
        os.kill(server.process.pid, number)
        assert server.process.wait(PATIENCE) == 0
        in_time(signalled_at, SECONDS)
        assert not any(map(is_running, pids))
        assert list(short_path.iterdir()) == []
        assert "Traceback" not in server.log
        assert not any(entry["level"] == "error" for entry in server.events("process_exited"))


@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_a_signal_during_startup_ends_all_processes(after: float, short_path: Path) -> None:
    with demo(temporary=short_path) as server:  # it has bound its sockets, and is starting the rest
        deadline = time.monotonic() + after
        eventually(lambda: time.monotonic() >= deadline, interval=0.001)
        assert server.terminate() == 0
        started = [entry["pid"] for entry in server.events("process_started")]
        assert not any(map(is_running, started))
        assert list(short_path.iterdir()) == []
        assert "Traceback" not in server.log


def test_tmpdir_may_be_too_long_for_the_path_of_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    with demo(temporary=deep) as server:
        assert server.wait_ready().lookup("web.staging.discovery")
        assert server.terminate() == 0
        assert list(deep.iterdir()) == []


@repeated_if_late
def test_a_child_that_does_not_exit_is_killed(short_path: Path) -> None:
    with demo(temporary=short_path) as server:
        pids = children(server.wait_ready())
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        stopped_at = time.monotonic()
        assert server.terminate() == 0
        in_time(stopped_at, SECONDS)
        assert not any(map(is_running, pids))
        assert list(short_path.iterdir()) == []
        assert len(server.events("process_killed")) == 2


def test_no_child_outlives_a_killed_supervisor(short_path: Path) -> None:
    with demo("--workers", "2", temporary=short_path) as server:
        pids = children(server.wait_ready())
        assert len(pids) == 3
        server.process.kill()
        eventually(lambda: not any(map(is_running, pids)), SECONDS)
        assert list(short_path.iterdir()) == []


# -- replacement of children --------------------------------------------------------------------------------


@repeated_if_late
def test_a_killed_worker_is_replaced_before_stub_resolvers_repeat_a_query() -> None:
    with demo() as server:
        pid = server.wait_ready().pid_of("worker")
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        # Queries wait in the socket, which the supervisor keeps open.
        assert server.lookup(WEB) == WEB_ADDRESS
        assert server.lookup(WEB, tcp=True) == WEB_ADDRESS
        in_time(killed_at, 4.0)
        assert server.pid_of("worker") != pid
        assert roles(server) == ["watcher", "worker"]  # and no zombie
        (ended,) = server.events("process_exited")
        assert (ended["role"], ended["status"]) == ("worker", -signal.SIGKILL)


@repeated_if_late
def test_workers_respond_while_the_watcher_is_replaced_and_then_get_changes(tmp_path: Path) -> None:
    with static_server(tmp_path, "10.0.0.1") as (server, static):
        pid = server.pid_of("watcher")
        os.kill(pid, signal.SIGKILL)
        count = 0
        while count < 200 or server.pid_of("watcher") == pid:
            assert server.lookup("web.staging.discovery") == {"10.0.0.1"}
            count += 1
        write(static, "10.0.0.2")
        wait_for_answer(server, "10.0.0.2", SECONDS)
        assert roles(server) == ["watcher", "worker"]


def test_pauses_between_restarts_of_a_child_that_keeps_failing_grow() -> None:
    event = "process_exited"
    with demo() as server:
        server.wait_ready()
        for count in range(1, 5):
            os.kill(server.pid_of("watcher"), signal.SIGKILL)
            wait_for_events(server, event, count)
            wait_for_events(server, "process_started", count + 2)
            assert server.lookup(WEB) == WEB_ADDRESS
        assert [entry["restart_seconds"] for entry in server.events(event)] == [0.0, 0.1, 0.2, 0.4]
        assert server.terminate() == 0


def test_a_signal_during_a_pause_before_a_restart_ends_the_server(short_path: Path) -> None:
    with demo(temporary=short_path) as server:
        server.wait_ready()
        for count in range(1, 4):
            os.kill(server.pid_of("worker"), signal.SIGKILL)
            wait_for_events(server, "process_exited", count)
            if count < 3:
                wait_for_events(server, "process_started", count + 2)
        assert server.terminate() == 0
        assert list(short_path.iterdir()) == []


# -- the static file ----------------------------------------------------------------------------------------


def services(*addresses: str) -> str:
    members = ", ".join(f'"{address}:80"' for address in addresses)
    return f'[services."web.staging"]\nmembers = [{members}]\n'


def write(static: Path, *addresses: str) -> None:
    static.write_text(services(*addresses))


@contextlib.contextmanager
def static_server(directory: Path, *addresses: str) -> Iterator[tuple[ZkdnsServer, Path]]:
    static = directory / "services.toml"
    write(static, *addresses)
    with ZkdnsServer("--static", str(static)) as server:
        assert server.wait_ready().lookup("web.staging.discovery") == set(addresses)
        yield server, static


def replace(static: Path, *addresses: str) -> None:
    new = static.with_suffix(".new")
    new.write_text(services(*addresses))
    new.replace(static)


def delete_and_restore(static: Path, *addresses: str) -> None:
    static.unlink()
    write(static, *addresses)


@pytest.mark.parametrize("edit", [write, replace, delete_and_restore])
@repeated_if_late
def test_an_edit_of_the_static_file_is_served_within_2_seconds(
    tmp_path: Path, edit: Callable[..., None]
) -> None:
    with static_server(tmp_path, "10.0.0.1") as (server, static):
        for address in ("10.0.0.2", "10.0.0.3"):  # the file's size stays the same
            edit(static, address)
            wait_for_answer(server, address, 2.0)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('[services."web.staging"]\nmembers = ["10.0.0.9"]\n', 'services."web.staging".members[0]: '),
        ("[services", "is not TOML: "),
        (None, "cannot be read (no such file or directory)"),
    ],
)
@repeated_if_late
def test_an_invalid_edit_is_logged_and_the_last_valid_table_stays(
    tmp_path: Path, broken: str | None, reason: str
) -> None:
    event = "static_file_invalid"
    with static_server(tmp_path, "10.0.0.1") as (server, static):
        if broken is None:
            static.unlink()
        else:
            static.write_text(broken)
        soon(lambda: server.events(event), 2.0)
        assert server.lookup("web.staging.discovery") == {"10.0.0.1"}
        (entry,) = server.events(event)
        assert entry["reason"].startswith(f"{static}: {reason}")
        assert entry["level"] == "error"
        os.kill(server.pid_of("watcher"), signal.SIGKILL)  # the next watcher has never read a valid file
        eventually(lambda: len(server.events(event)) == 2)
        assert server.lookup("web.staging.discovery") == {"10.0.0.1"}
        write(static, "10.0.0.2")
        wait_for_answer(server, "10.0.0.2", 2.0)


def test_a_static_file_that_is_empty_for_a_moment_changes_no_response(tmp_path: Path) -> None:
    with static_server(tmp_path, "10.0.0.1") as (server, static):
        for _ in range(20):
            eventually(lambda: server.lookup("web.staging.discovery") == {"10.0.0.1"})  # also after a delay
            started_at = time.monotonic()
            with static.open("w") as stream:
                seen = set()
                while time.monotonic() < started_at + 0.08:
                    seen |= server.lookup("web.staging.discovery") or {"nothing"}
                stream.write(services("10.0.0.1"))
                stream.flush()
                seconds = time.monotonic() - started_at
            assert seen == {"10.0.0.1"} or seconds > 0.2, "unless the test itself was delayed"


# -- addresses and workers ----------------------------------------------------------------------------------


def test_three_workers_serve_and_a_killed_one_is_replaced() -> None:
    with demo("--workers", "3") as server:
        server.wait_ready()
        assert roles(server) == ["watcher"] + ["worker"] * 3
        killed = server.pid_of("worker")
        os.kill(killed, signal.SIGKILL)
        # The kernel selects a worker by the client's port, so some queries wait for the new worker.
        for tcp in (False, True):
            assert all(server.lookup(WEB, tcp=tcp, timeout=SECONDS) == WEB_ADDRESS for _ in range(50))
        eventually(lambda: roles(server) == ["watcher"] + ["worker"] * 3)


def test_it_serves_every_configured_address() -> None:
    listen = ("127.0.0.1:0", "127.0.0.5:0", "[::1]:0", "0.0.0.0:0")
    arguments = [argument for address in listen for argument in ("--listen", address)]
    with demo(*arguments) as server:
        addresses = server.wait_ready().addresses
        assert [host for host, _ in addresses] == ["127.0.0.1", "127.0.0.5", "::1", "0.0.0.0"]
        assert len({port for _, port in addresses}) == len(listen)
        query = dns.message.make_query(WEB, "A")
        for host, port in addresses:
            target = "127.0.0.1" if host == "0.0.0.0" else host
            for send in (dns.query.udp, dns.query.tcp):
                assert addresses_of(send(query, target, port=port, timeout=SECONDS)) == WEB_ADDRESS


# -- files, environment and imports of children -------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_child_has_only_the_files_open_that_it_needs(workers: str) -> None:
    with demo("--workers", workers) as server:
        server.wait_ready()
        standard = sorted(["/dev/null", str(server.log_file), str(server.out_file)])
        for pid, role in children(server).items():
            # Two sockets of the event loop, one to the supervisor. A worker has UDP, TCP, the feed and the
            # socket for copies; the watcher has a socket for requests, the feed's own socket, and a
            # connection to each worker.
            sockets = 3 + (4 if role == "worker" else 2 + int(workers))
            # The event loop's selector. A worker's loop has two, and another one for TCP connections.
            selectors = 3 if role == "worker" else 1
            # A worker has the memory of the rate counters, and maps it, which takes another descriptor.
            memory = ["/memfd:zkdns-rates (deleted)"] * 2 if role == "worker" else []
            expected = sorted([*standard, *memory, *["anon_inode"] * selectors, *["socket"] * sockets])
            # A lookup of a host name opens another socket for a moment.
            eventually(lambda pid=pid, expected=expected: open_files(pid) == expected)  # type: ignore[misc]


def test_each_worker_has_a_row_of_the_rate_counters_for_itself() -> None:
    def locked_rows(pid: int) -> set[str]:
        """The bytes that a process has locked, from its `/proc/PID/fdinfo` (proc(5))."""
        lines = [
            line for file in Path(f"/proc/{pid}/fdinfo").iterdir() for line in file.read_text().splitlines()
        ]
        return {line.split()[-1] for line in lines if line.startswith("lock:")}

    with demo("--workers", "3") as server:
        server.wait_ready()
        rows = [locked_rows(pid) for pid, role in children(server).items() if role == "worker"]
        assert [len(each) for each in rows] == [1, 1, 1]
        assert len(set.union(*rows)) == 3


def test_a_worker_gets_no_settings_or_secrets_of_zookeeper(tmp_path: Path) -> None:
    hosts = "zk-of-ours.invalid:2181"
    credentials = tmp_path / "of-ours.toml"
    credentials.touch(0o600)
    credentials.write_text('digest = "user:of-ours"')
    variables = {
        "ZKDNS_ZOOKEEPER": hosts,
        "ZKDNS_SNAPSHOT": "/nowhere/of-ours",
        "ZKDNS_ADMIN_TOKEN": "/nowhere/of-ours",
        "ZKDNS_ZOOKEEPER_CREDENTIALS": str(credentials),
    }
    with ZkdnsServer(environment=variables) as server:
        pid = eventually(lambda: server.pid_of("worker"))
        eventually(lambda: "zkdns.daemon" in command_line(pid))
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"PYTHONPATH=" in environment
        assert b"of-ours" not in environment
        assert not any("of-ours" in argument for argument in command_line(pid))
    files = [f"ZKDNS_ZOOKEEPER_{kind}" for kind in ("CA", "CERTIFICATE", "KEY")]
    variables |= {"ZKDNS_ZOOKEEPER_TLS": "true", **dict.fromkeys(files, "/of-ours")}
    config = load_config(flags={}, environment=variables, file=None)
    assert config.zookeeper.key == "/of-ours"
    task = Task("worker", config_for("worker", config), "/feed")
    assert b"of-ours" not in TASKS.encode(task)


def test_modules_in_the_working_directory_are_not_imported(tmp_path: Path) -> None:
    for name in ("struct.py", "zkdns.py", "asyncio.py", "dnslib.py", "kazoo.py", "msgspec.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    server = ZkdnsServer("--demo", cwd=tmp_path)
    server.command[:3] = [str(Path(sys.executable).with_name("zkdns"))]
    with server:
        assert server.wait_ready().lookup(WEB) == WEB_ADDRESS
        assert "the wrong module" not in server.log
        assert server.terminate() == 0


@pytest.mark.parametrize("limit", ["ulimit -Sn 256", "ulimit -n 256"], ids=["soft", "hard"])
def test_idle_connections_do_not_block_clients_under_a_low_file_limit(limit: str) -> None:
    with started_after(demo(), limit) as server, contextlib.ExitStack() as stack:
        server.wait_ready()
        for number in range(400):
            source = f"127.0.0.{2 + number // 100}", 0
            address = "127.0.0.1", server.port
            stack.enter_context(socket.create_connection(address, timeout=SECONDS, source_address=source))
        assert server.lookup(WEB, tcp=True) == WEB_ADDRESS
        assert server.lookup(WEB) == WEB_ADDRESS
