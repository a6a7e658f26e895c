"""The processes as they really run: killed, stopped, starved of files, and ended."""

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
from tests.support.waiting import eventually
from zkdns.config import load_config
from zkdns.daemon.ipc.child import TASKS
from zkdns.daemon.supervisor.handover import worker_task

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

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


def wait_for_answer(server: ZkdnsServer, address: str, timeout: float) -> None:
    eventually(lambda: server.lookup("web.staging.discovery") == {address}, timeout)


def within(server: ZkdnsServer, command: str) -> ZkdnsServer:
    """The same server, started by a shell that has said this before."""
    server.command = ["sh", "-c", f'{command}; exec "$@"', "sh", *server.command]
    return server


# -- the end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("workers", ["1", "3"])
def test_a_signal_ends_everything_within_5_seconds(
    number: signal.Signals, workers: str, short_path: Path
) -> None:
    with demo("--workers", workers, temporary=short_path) as server:
        pids = children(server.wait_ready())
        assert sorted(pids.values()) == ["worker"] * int(workers) + ["watcher"]
        assert [path.name[:6] for path in short_path.iterdir()] == ["zkdns-"]
        os.kill(server.process.pid, number)
        assert server.process.wait(SECONDS) == 0
        assert not any(map(is_running, pids))
        assert list(short_path.iterdir()) == []
        assert "Traceback" not in server.log
        assert not any(entry["level"] == "error" for entry in server.events("process_exited"))


@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_a_signal_amid_the_start_ends_everything_too(after: float, short_path: Path) -> None:
    with demo(temporary=short_path) as server:  # it listens by now; the rest is about to start
        due = time.monotonic() + after
        eventually(lambda: time.monotonic() >= due, interval=0.001)
        assert server.terminate() == 0
        started = [entry["pid"] for entry in server.events("process_started")]
        assert not any(map(is_running, started))
        assert list(short_path.iterdir()) == []
        assert "Traceback" not in server.log


def test_a_directory_for_temporary_files_may_have_a_long_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    with demo(temporary=deep) as server:
        assert server.wait_ready().lookup("web.staging.discovery")
        assert server.terminate() == 0
        assert list(deep.iterdir()) == []


def test_a_child_that_does_not_end_is_killed(short_path: Path) -> None:
    with demo(temporary=short_path) as server:
        pids = children(server.wait_ready())
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        assert server.terminate() == 0
        assert not any(map(is_running, pids))
        assert list(short_path.iterdir()) == []
        assert len(server.events("process_killed")) == 2


def test_nothing_outlives_a_supervisor_that_was_killed(short_path: Path) -> None:
    with demo("--workers", "2", temporary=short_path) as server:
        pids = children(server.wait_ready())
        assert len(pids) == 3
        server.process.kill()
        eventually(lambda: not any(map(is_running, pids)), SECONDS)
        assert list(short_path.iterdir()) == []


# -- one of them is lost ------------------------------------------------------------------------------------


def test_an_worker_that_was_killed_is_replaced_and_answers_go_on_within_a_second() -> None:
    with demo() as server:
        pid = server.wait_ready().pid_of("worker")
        os.kill(pid, signal.SIGKILL)
        # What is asked meanwhile waits in the supervisor's socket.
        assert server.lookup(WEB, timeout=1.0) == WEB_ADDRESS
        assert server.lookup(WEB, tcp=True, timeout=1.0) == WEB_ADDRESS
        assert server.pid_of("worker") != pid
        assert roles(server) == ["worker", "watcher"]  # and no zombie
        (ended,) = server.events("process_exited")
        assert (ended["role"], ended["status"]) == ("worker", -signal.SIGKILL)


def test_answers_never_stop_while_the_watcher_is_replaced_and_changes_flow_again(tmp_path: Path) -> None:
    with fixed_server(tmp_path, "10.0.0.1") as (server, fixed):
        pid = server.pid_of("watcher")
        os.kill(pid, signal.SIGKILL)
        asked = 0
        while asked < 200 or server.pid_of("watcher") == pid:
            assert server.lookup("web.staging.discovery") == {"10.0.0.1"}
            asked += 1
        write(fixed, "10.0.0.2")
        wait_for_answer(server, "10.0.0.2", SECONDS)
        assert roles(server) == ["worker", "watcher"]


def test_a_child_that_dies_again_and_again_is_replaced_a_little_later_each_time() -> None:
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


def test_a_signal_while_a_replacement_is_waited_for_ends_at_once(short_path: Path) -> None:
    with demo(temporary=short_path) as server:
        server.wait_ready()
        for count in range(1, 4):
            os.kill(server.pid_of("worker"), signal.SIGKILL)
            wait_for_events(server, "process_exited", count)
            if count < 3:
                wait_for_events(server, "process_started", count + 2)
        assert server.terminate() == 0
        assert list(short_path.iterdir()) == []


# -- the fixed file -----------------------------------------------------------------------------------------


def services(*addresses: str) -> str:
    members = ", ".join(f'"{address}:80"' for address in addresses)
    return f'[services."web.staging"]\nmembers = [{members}]\n'


def write(fixed: Path, *addresses: str) -> None:
    fixed.write_text(services(*addresses))


@contextlib.contextmanager
def fixed_server(directory: Path, *addresses: str) -> Iterator[tuple[ZkdnsServer, Path]]:
    fixed = directory / "services.toml"
    write(fixed, *addresses)
    with ZkdnsServer("--static", str(fixed)) as server:
        assert server.wait_ready().lookup("web.staging.discovery") == set(addresses)
        yield server, fixed


def replace(fixed: Path, *addresses: str) -> None:
    beside = fixed.with_suffix(".new")
    beside.write_text(services(*addresses))
    beside.replace(fixed)


def delete_and_put_back(fixed: Path, *addresses: str) -> None:
    fixed.unlink()
    write(fixed, *addresses)


@pytest.mark.parametrize("edit", [write, replace, delete_and_put_back])
def test_an_edit_of_the_fixed_file_is_served_within_2_seconds(
    tmp_path: Path, edit: Callable[..., None]
) -> None:
    with fixed_server(tmp_path, "10.0.0.1") as (server, fixed):
        for address in ("10.0.0.2", "10.0.0.3"):  # of equal size
            edit(fixed, address)
            wait_for_answer(server, address, 2.0)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ('[services."web.staging"]\nmembers = ["10.0.0.9"]\n', 'services."web.staging".members[0]: '),
        ("[services", "it is not TOML: "),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_broken_edit_is_told_and_what_was_good_stays(tmp_path: Path, broken: str | None, told: str) -> None:
    mistake = "static_file_invalid"
    with fixed_server(tmp_path, "10.0.0.1") as (server, fixed):
        if broken is None:
            fixed.unlink()
        else:
            fixed.write_text(broken)
        eventually(lambda: server.events(mistake), 2.0)
        assert server.lookup("web.staging.discovery") == {"10.0.0.1"}
        (entry,) = server.events(mistake)
        assert entry["reason"].startswith(f"{fixed}: {told}")
        assert entry["level"] == "error"
        os.kill(server.pid_of("watcher"), signal.SIGKILL)  # the next one has never seen the good one
        eventually(lambda: len(server.events(mistake)) == 2)
        assert server.lookup("web.staging.discovery") == {"10.0.0.1"}
        write(fixed, "10.0.0.2")
        wait_for_answer(server, "10.0.0.2", 2.0)


def test_a_file_that_an_editor_empties_before_it_writes_it_never_empties_the_answers(tmp_path: Path) -> None:
    with fixed_server(tmp_path, "10.0.0.1") as (server, fixed):
        for _ in range(20):
            with fixed.open("w") as stream:
                begun = time.monotonic()
                seen = set()
                while time.monotonic() < begun + 0.08:
                    seen |= server.lookup("web.staging.discovery") or {"nothing"}
                stream.write(services("10.0.0.1"))
                stream.flush()
                took = time.monotonic() - begun
            assert seen == {"10.0.0.1"} or took > 0.2, "whatever this machine does to tests"


# -- addresses and workers ----------------------------------------------------------------------------------


def test_every_worker_answers_and_a_lost_one_is_replaced() -> None:
    with demo("--workers", "3") as server:
        server.wait_ready()
        assert roles(server) == ["worker"] * 3 + ["watcher"]
        lost = server.pid_of("worker")
        os.kill(lost, signal.SIGKILL)
        # The kernel chooses a worker by the asker's port: some of these wait for the lost one's successor.
        for tcp in (False, True):
            assert all(server.lookup(WEB, tcp=tcp, timeout=SECONDS) == WEB_ADDRESS for _ in range(50))
        eventually(lambda: roles(server) == ["worker"] * 3 + ["watcher"])


def test_it_answers_at_every_address_that_it_was_told() -> None:
    listen = ("127.0.0.1:0", "127.0.0.5:0", "[::1]:0", "0.0.0.0:0")
    arguments = [argument for address in listen for argument in ("--listen", address)]
    with demo(*arguments) as server:
        addresses = server.wait_ready().addresses
        assert [host for host, _ in addresses] == ["127.0.0.1", "127.0.0.5", "::1", "0.0.0.0"]
        assert len({port for _, port in addresses}) == len(listen)
        query = dns.message.make_query(WEB, "A")
        for host, port in addresses:
            asked = "127.0.0.1" if host == "0.0.0.0" else host
            for ask in (dns.query.udp, dns.query.tcp):
                assert addresses_of(ask(query, asked, port=port, timeout=SECONDS)) == WEB_ADDRESS


# -- what a child has, and has not --------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_child_has_open_what_it_needs_and_nothing_else(workers: str) -> None:
    with demo("--workers", workers) as server:
        server.wait_ready()
        standard = sorted(["/dev/null", str(server.log_file), str(server.out_file)])
        for pid, role in children(server).items():
            # Two sockets of the event loop, one of the supervisor's. A worker listens with UDP and TCP and
            # follows the feed; the watcher listens for commands, twice, and for workers, and has those.
            sockets = 3 + (3 if role == "worker" else 3 + int(workers))
            # What the event loop waits with; a worker's with two, and all TCP connections with another.
            selectors = 3 if role == "worker" else 1
            expected = [*standard, *["anon_inode"] * selectors, *["socket"] * sockets]
            # For a moment it may have another one, to look a host name up.
            eventually(lambda pid=pid, expected=expected: open_files(pid) == expected)  # type: ignore[misc]


def test_the_worker_knows_of_no_zookeeper(tmp_path: Path) -> None:
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
    files = [f"ZKDNS_ZOOKEEPER_{what}" for what in ("CA", "CERTIFICATE", "KEY")]
    variables |= {"ZKDNS_ZOOKEEPER_TLS": "true", **dict.fromkeys(files, "/of-ours")}
    config = load_config(flags={}, environment=variables, file=None)
    assert config.zookeeper.key == "/of-ours"
    task = worker_task(config, "/feed", (), (), b"")
    assert b"of-ours" not in TASKS.encode(task)


def test_what_lies_in_the_directory_of_the_user_is_not_imported(tmp_path: Path) -> None:
    for name in ("struct.py", "zkdns.py", "asyncio.py", "dnslib.py", "kazoo.py", "msgspec.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    server = ZkdnsServer("--demo", cwd=tmp_path)
    server.command[:3] = [str(Path(sys.executable).with_name("zkdns"))]
    with server:
        assert server.wait_ready().lookup(WEB) == WEB_ADDRESS
        assert "the wrong module" not in server.log
        assert server.terminate() == 0


@pytest.mark.parametrize("limit", ["ulimit -Sn 256", "ulimit -n 256"], ids=["soft", "hard"])
def test_idle_connections_lock_nobody_out_however_few_files_there_may_be(limit: str) -> None:
    with within(demo(), limit) as server, contextlib.ExitStack() as stack:
        server.wait_ready()
        for number in range(400):
            source = f"127.0.0.{2 + number // 100}", 0
            at = "127.0.0.1", server.port
            stack.enter_context(socket.create_connection(at, timeout=SECONDS, source_address=source))
        assert server.lookup(WEB, tcp=True, timeout=3.0) == WEB_ADDRESS
        assert server.lookup(WEB) == WEB_ADDRESS
