"""The start of `zkdns serve`: its output, and errors that prevent the start."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.edns
import dns.message
import dns.query
import pytest
from click.testing import CliRunner

from tests.admin.helpers import ask
from tests.cli import Command
from tests.support.process_guard import running_guarded
from tests.support.server import ZkdnsServer
from tests.support.waiting import PATIENCE, eventually
from zkdns.address import parse_host_port
from zkdns.cli import main
from zkdns.host.doctor.processes import listeners
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import HostResolved, SetPut
from zkdns.serverset.member import Endpoint, Member
from zkdns.snapshot import Header, NamespaceState, write_snapshot

pytestmark = pytest.mark.processes

_DIG = shutil.which("dig")


def commands(server: ZkdnsServer) -> list[list[str]]:
    """The printed commands, in words, after all of them are printed."""
    eventually(lambda: server.output.endswith("\nready\n"))
    lines = [line for line in server.output.splitlines() if line.startswith("  ")]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture(scope="module")
def demo() -> Iterator[ZkdnsServer]:
    with ZkdnsServer("--demo") as server:
        yield server.wait_ready()


def test_the_demo_prints_lookups_then_dig_and_ends_with_ready(demo: ZkdnsServer) -> None:
    *lookups, dig = commands(demo)
    assert len(lookups) >= 5
    assert all(line[:2] == ["zkdns", "lookup"] for line in lookups)
    assert lookups[0] == ["zkdns", "lookup", "web.staging.discovery"]
    assert dig[:4] == ["dig", "@127.0.0.1", "-p", str(demo.port)]
    lines = demo.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if "  # " in line]) == len(lookups) + 1
    assert lines[-1] == "ready"
    assert "\x1b" not in demo.output


def test_each_printed_lookup_gets_records(demo: ZkdnsServer) -> None:
    """Without options, because the variable in this test names the server's socket, as the default does."""
    runner = CliRunner(env={"ZKDNS_ADMIN_SOCKET": demo.api})
    for words in commands(demo)[:-1]:
        ended = runner.invoke(main, words[1:])
        assert ended.exit_code == 0, words


@pytest.mark.skipif(_DIG is None, reason="there is no dig here")
def test_the_printed_dig_gets_records(demo: ZkdnsServer) -> None:
    ended = subprocess.run(commands(demo)[-1], capture_output=True, text=True, check=True)
    assert len(ended.stdout.splitlines()) == 3
    assert ";;" not in ended.stdout


def test_the_demo_logs_no_warning_and_ctrl_c_ends_it() -> None:
    """Also not for its host names, which are resolved after the start."""
    with ZkdnsServer("--demo") as server:
        server.wait_ready()
        eventually(lambda: server.lookup("m1.database.prod.discovery"))
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(PATIENCE) == 0
        entries = [json.loads(line) for line in server.log.splitlines()]
    assert {entry["event"] for entry in entries} >= {"server_ready", "shutdown_started"}
    assert [entry for entry in entries if entry["level"] not in {"debug", "info"}] == []


@pytest.mark.parametrize(("listen", "address"), [("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "::1")])
def test_the_printed_commands_have_an_address_that_can_be_queried(listen: str, address: str) -> None:
    with ZkdnsServer("--demo", "--listen", listen) as server:
        assert commands(server)[-1][1:4] == [f"@{address}", "-p", str(server.port)]


def test_the_printed_commands_name_a_server_that_is_not_at_the_default(short_path: Path) -> None:
    """In 80 columns: a description that does not fit is left out."""
    arguments = ("--zone", "my.example", "--listen", "[::1]:0", "--admin-socket", str(short_path / "api"))
    with ZkdnsServer("--demo", *arguments) as server:
        *lookups, dig = commands(server)
        assert all(line[-2:] == ["--dns", f"[::1]:{server.port}"] for line in lookups)
        assert all(any(".my.example" in word for word in line) for line in (*lookups, dig))
        assert max(map(len, server.output.splitlines())) <= 80


def test_without_demo_nothing_is_printed(tmp_path: Path) -> None:
    fixed = tmp_path / "services.toml"
    fixed.write_text('[services."web.staging"]\nmembers = ["10.0.0.1:80"]\n')
    with ZkdnsServer("--static", str(fixed)) as server:
        server.wait_ready()
        assert server.lookup("web.staging.discovery") == {"10.0.0.1"}
        assert server.output == ""


def fail_to_start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a server that exits by itself."""
    return subprocess.run(
        [sys.executable, "-m", "zkdns", "serve", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
        timeout=20,
    )


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_a_port_in_use_is_an_error_with_status_5(kind: socket.SocketKind, workers: str) -> None:
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ended = fail_to_start("--demo", "--listen", address, "--admin", "none", "--workers", workers)
    assert (ended.returncode, ended.stdout) == (5, "")
    assert ended.stderr.startswith(f"zkdns: cannot listen on {address}: another program listens there")


def test_an_admin_port_in_use_is_an_error_with_status_5() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ended = fail_to_start("--demo", "--listen", "127.0.0.1:0", "--admin", address)
    assert (ended.returncode, ended.stdout) == (5, "")
    assert f"zkdns: cannot listen on {address} for admin requests" in ended.stderr.splitlines()[-1]


def test_two_servers_run_at_the_same_time_but_not_on_the_same_port() -> None:
    with ZkdnsServer("--demo") as one, ZkdnsServer("--demo", "--workers", "2") as two:
        assert one.wait_ready().port != two.wait_ready().port
        for server in (one, two):
            assert server.lookup("m0.web.staging.discovery") == {"192.0.2.1"}
            for workers in ("1", "2"):
                address = f"127.0.0.1:{server.port}"
                ended = fail_to_start("--demo", "--listen", address, "--workers", workers)
                assert ended.returncode == 5
                assert f"cannot listen on {address}: another program listens there" in ended.stderr


def test_without_a_source_the_log_names_the_default() -> None:
    with Command("serve", "--listen", "127.0.0.1:0", "--admin", "none") as command:
        (entry,) = command.wait_logged("default_source_used").events("default_source_used")
    assert entry["zookeeper"] == "127.0.0.1:2181"


def test_all_usage_errors_are_printed_with_status_2() -> None:
    ended = fail_to_start("--ttl", "never", "--workers", "0", ZKDNS_ORDER="mixed")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 3


# -- offline snapshots --------------------------------------------------------------------------------------

NAMESPACE = "/discovery/{environment}/{service} in the zone discovery"


def snapshot(path: Path, **others: Any) -> Path:
    """Write a snapshot of two services, a week old by default."""
    written = others.pop("written", time.time() - 7 * 86_400)
    states = (NamespaceState(NAMESPACE, written),)
    header = Header(**{"written": written, "serial": 7, "namespaces": states, **others})
    web, api = (
        SetPut(f"/discovery/staging/{service}", ServiceName(service, "staging"), (member,))
        for service, member in (
            ("web", Member("member_0000000001", Endpoint("10.0.0.1", 80), weight=0.5)),
            ("api", Member("member_0000000002", Endpoint("nowhere.invalid", 80))),
        )
    )
    write_snapshot(path, header, [[web], [api, HostResolved("nowhere.invalid", ("10.0.0.2",))]])
    return path


def test_an_offline_snapshot_is_served_and_not_changed(tmp_path: Path) -> None:
    path = snapshot(tmp_path / "table", zookeeper="zk1:2181/chroot")
    before = path.read_bytes(), path.stat().st_mtime_ns
    with ZkdnsServer("--offline", "--snapshot", str(path)) as server:
        response = server.wait_ready().query("web.staging.discovery", use_edns=0)
        assert [str(record) for rrset in response.answer for record in rrset] == ["10.0.0.1"]
        (stale,) = response.options
        assert (stale.code, stale.text) == (dns.edns.EDECode.STALE_ANSWER, "answered from a snapshot")
        assert server.lookup("api.staging.discovery") == {"10.0.0.2"}  # from the snapshot, without a resolver
        assert server.rcode("nothing.staging.discovery") == "NXDOMAIN"
        admin = parse_host_port(server.admin.removeprefix("http://"))
        assert ask(admin, "/api/status").json["source"] == "snapshot"
        (entry,) = server.events("snapshot_loaded")
        assert entry["age_seconds"] >= 7 * 86_400
        os.kill(server.pid_of("watcher"), signal.SIGKILL)
        eventually(lambda: len(server.events("snapshot_loaded")) == 2)
        assert server.lookup("web.staging.discovery") == {"10.0.0.1"}
        assert server.terminate() == 0
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("command", ["serve", "check"])
def test_an_offline_snapshot_that_cannot_be_served_is_a_usage_error(tmp_path: Path, command: str) -> None:
    path = tmp_path / "table"

    def error(*arguments: str) -> str:
        result = CliRunner().invoke(main, [command, "--offline", "--snapshot", str(path), *arguments])
        assert (result.exit_code, result.stdout) == (2, "")
        (line,) = result.stderr.splitlines()
        return line

    assert error() == f"zkdns: {path}: cannot be read: there is no such file"
    path.write_bytes(b"something else")
    assert error() == f"zkdns: {path}: is not a snapshot of this version of zkdns"
    snapshot(path)
    assert error("--snapshot-max-age", "86400").startswith(f"zkdns: {path}: is 7d old; at most 1d")
    assert error("--namespace", "/aurora/{job}").startswith(f"zkdns: {path}: has the namespace /discovery/")
    path.write_bytes(path.read_bytes()[:-1])
    assert error() == f"zkdns: {path}: is damaged: its checksum is wrong"


def test_check_accepts_a_valid_snapshot(tmp_path: Path) -> None:
    path = snapshot(tmp_path / "table")
    result = CliRunner().invoke(main, ["check", "--offline", "--snapshot", str(path)])
    assert result.stdout == f"valid: discovery from the snapshot {path}, at 127.0.0.1:53\n"


def test_a_snapshot_is_served_until_zookeeper_is_reachable(tmp_path: Path) -> None:
    path = snapshot(tmp_path / "table", written=time.time() - 60)
    with socket.socket() as held:  # bound without listening, so that connections are refused
        held.bind(("127.0.0.1", 0))
        hosts = f"127.0.0.1:{held.getsockname()[1]}"
        with ZkdnsServer("--zookeeper", hosts, "--snapshot", str(path)) as server:
            response = server.wait_ready().query("web.staging.discovery", use_edns=0)
            assert [str(record) for rrset in response.answer for record in rrset] == ["10.0.0.1"]
            (stale,) = response.options
            assert (stale.code, stale.text) == (dns.edns.EDECode.STALE_ANSWER, "ZooKeeper is unreachable")
            assert server.lookup("api.staging.discovery") == {"10.0.0.2"}
        path.write_bytes(b"something else")
        with ZkdnsServer("--zookeeper", hosts, "--snapshot", str(path)) as server:
            (entry,) = eventually(lambda: server.events("snapshot_ignored"))
            assert entry["reason"] == f"{path}: is not a snapshot of this version of zkdns"
            eventually(lambda: server.rcode("web.staging.discovery") == "SERVFAIL")


# -- standard streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-"])
def test_it_serves_with_closed_standard_streams(closed: str) -> None:
    server = ZkdnsServer("--demo")
    server.command = ["sh", "-c", f'exec "$@" {closed}', "sh", *server.command]
    with server:
        assert server.wait_ready().lookup("m0.web.staging.discovery") == {"192.0.2.1"}
        assert server.lookup("m0.web.staging.discovery", tcp=True) == {"192.0.2.1"}
        assert server.events("process_exited") == []
        assert server.terminate() == 0


@contextlib.contextmanager
def serving_without_output(
    redirection: str, output: int | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a server with these standard streams, wait for its first response, and return its port."""
    serve = [sys.executable, "-m", "zkdns", "serve", "--demo", "--listen", "127.0.0.1:0", "--admin", "none"]
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", *serve]
    with running_guarded(command, stdout=output, stderr=output) as process:
        port = eventually(lambda: port_of(process.pid), PATIENCE)  # its log cannot be read
        eventually(lambda: answers(port), PATIENCE)
        yield process, port
        process.terminate()
        assert process.wait(PATIENCE) == 0


def port_of(session: int) -> int | None:
    """The UDP port of a process in this session."""
    for one in listeners():
        if one.protocol == "udp" and one.pid is not None and os.getsid(one.pid) == session:
            return one.at.port
    return None


def answers(port: int) -> bool:
    query = dns.message.make_query("m0.web.staging.discovery", "A")
    response = dns.query.udp(query, "127.0.0.1", port=port, timeout=0.5)
    return [str(record) for rrset in response.answer for record in rrset] == ["192.0.2.1"]


@pytest.mark.parametrize("redirection", ["<&- >&- 2>&-", "2>&-", ">/dev/full 2>/dev/full"])
def test_it_serves_if_its_output_cannot_be_written(redirection: str) -> None:
    with serving_without_output(redirection):
        pass


def test_it_serves_after_the_readers_of_its_output_close_the_pipes() -> None:
    with serving_without_output("", subprocess.PIPE) as (process, port):
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline()
        process.stdout.close()
        process.stderr.close()
        assert all(answers(port) for _ in range(20))


def test_it_serves_if_its_output_is_a_closed_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with serving_without_output("", writer) as (_, port):
            assert all(answers(port) for _ in range(20))
    finally:
        os.close(writer)
