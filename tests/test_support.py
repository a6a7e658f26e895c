"""The test helpers for ZooKeeper servers and ensembles, sessions, programs, signals and waiting."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import pytest
from kazoo.client import KazooClient, KazooState

from tests.support.background import Background
from tests.support.fault_proxy import FaultProxy
from tests.support.process_guard import kill_guarded, start_guarded
from tests.support.udp_query import query_udp
from tests.support.waiting import TooLateError, eventually, in_time, repeated_if_late, soon
from tests.support.zookeeper import Ensemble, ZooKeeperServer, expire_session

_ELECTION = 30.0
"""Seconds within which an ensemble elects a leader, also on a busy machine."""

_CHILD = """
import sys, time
from tests.support.zookeeper import ZooKeeperServer
server = ZooKeeperServer().start()
if sys.argv[1] == "paused":
    server.pause()
print(server.pid, server.directory, flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def connected(hosts: str, **options: object) -> Iterator[Any]:
    client = KazooClient(hosts=hosts, **options)
    try:
        client.start()
        yield client
    finally:
        client.stop()
        client.close()


def process_group(pid: int) -> int | None:
    """The process group of a process; None if it has ended or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, _, group = stat.rpartition(")")[2].split()[:3]
    return None if state in "ZX" else int(group)


def runs(pid: int) -> bool:
    return process_group(pid) is not None


def guards_of(pid: int) -> list[int]:
    """The other processes in the process group of a JVM."""
    others = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [other for other in others if other != pid and process_group(other) == pid]


def test_a_server_serves(zookeeper: ZooKeeperServer) -> None:
    assert zookeeper.is_serving()
    assert zookeeper.mode() == "standalone"
    assert zookeeper.four_letter("ruok") == "imok"
    assert "zk_server_state\tstandalone" in zookeeper.four_letter("mntr")
    assert runs(zookeeper.pid)


def test_a_killed_server_keeps_its_data_and_sessions(own_zookeeper: ZooKeeperServer) -> None:
    address, pid = own_zookeeper.address, own_zookeeper.pid
    with connected(address, timeout=10.0) as client:
        client.create("/kept", b"value")
        session = client.client_id[0]
        own_zookeeper.kill()
        assert not own_zookeeper.running
        assert not own_zookeeper.is_serving()
        eventually(lambda: not guards_of(pid))  # its end is not waited for
        with pytest.raises(ConnectionRefusedError):
            own_zookeeper.four_letter("ruok")

        own_zookeeper.start()
        assert own_zookeeper.address == address
        assert own_zookeeper.pid != pid
        assert f"0x{session:x}" in own_zookeeper.four_letter("dump")
    with connected(address) as client:
        assert client.get("/kept")[0] == b"value"


def test_a_stopped_server_keeps_its_data(own_zookeeper: ZooKeeperServer) -> None:
    with connected(own_zookeeper.address) as client:
        client.create("/kept", b"value")
    own_zookeeper.stop()
    assert not own_zookeeper.running
    own_zookeeper.start()
    with connected(own_zookeeper.address) as client:
        assert client.get("/kept")[0] == b"value"


def test_saved_data_is_restored(own_zookeeper: ZooKeeperServer) -> None:
    with connected(own_zookeeper.address) as client:
        client.create("/kept")
    own_zookeeper.kill()
    own_zookeeper.save_data()
    own_zookeeper.start()
    with connected(own_zookeeper.address) as client:
        client.create("/lost")
    own_zookeeper.kill()
    own_zookeeper.restore_data()
    own_zookeeper.start()
    with connected(own_zookeeper.address) as client:
        assert client.exists("/kept")
        assert not client.exists("/lost")


def test_the_proxy_delays_replies(zookeeper: ZooKeeperServer) -> None:
    with FaultProxy(zookeeper.port) as proxy, connected(proxy.address) as client:
        proxy.latency = 0.5
        started_at = time.monotonic()
        results = [client.exists_async("/") for _ in range(10)]
        assert all(result.get(10.0) for result in results)
        assert 0.5 <= time.monotonic() - started_at < 5.0, "the replies must be delayed together"


def test_the_proxy_drops_frames_of_present_connections_only(zookeeper: ZooKeeperServer) -> None:
    with FaultProxy(zookeeper.port) as proxy, connected(proxy.address) as client:
        proxy.mute()
        unanswered = client.exists_async("/")
        with connected(proxy.address) as new_client:
            assert new_client.exists("/")
        assert not unanswered.ready()
        assert client.connected
        assert proxy.connections >= 1


def test_a_server_pauses_and_resumes(own_zookeeper: ZooKeeperServer) -> None:
    own_zookeeper.pause()
    assert own_zookeeper.running
    assert not own_zookeeper.is_serving()
    with pytest.raises(TimeoutError):
        own_zookeeper.four_letter("ruok", timeout=0.1)
    own_zookeeper.resume()
    assert eventually(own_zookeeper.is_serving)


def test_a_paused_server_stops(own_zookeeper: ZooKeeperServer) -> None:
    own_zookeeper.pause()
    own_zookeeper.stop()
    assert not own_zookeeper.running
    own_zookeeper.kill()  # no effect on a stopped server


def test_start_and_pause_fail_in_the_wrong_state(own_zookeeper: ZooKeeperServer) -> None:
    with pytest.raises(RuntimeError, match="is running"):
        own_zookeeper.start()
    own_zookeeper.kill()
    with pytest.raises(RuntimeError, match="is not running"):
        own_zookeeper.pause()
    own_zookeeper.close()
    with pytest.raises(RuntimeError, match="is closed"):
        own_zookeeper.start()
    assert not own_zookeeper.directory.exists()


def test_a_server_that_was_killed_from_outside_starts_again(own_zookeeper: ZooKeeperServer) -> None:
    pid = own_zookeeper.pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not own_zookeeper.running)
    own_zookeeper.start()
    assert not guards_of(pid)


@pytest.mark.zookeeper
def test_a_server_outlives_the_thread_that_started_it() -> None:
    server = ZooKeeperServer()
    try:
        thread = threading.Thread(target=server.start)
        thread.start()
        thread.join()
        assert server.is_serving()
    finally:
        server.close()


@pytest.mark.zookeeper
def test_a_start_failure_has_the_log_of_the_server() -> None:
    server = ZooKeeperServer(settings={"tickTime": "nonsense"})
    try:
        with pytest.raises(RuntimeError, match=r"(?s)has exited.*nonsense"):
            server.start()
        assert not server.running
    finally:
        server.close()


@pytest.mark.zookeeper
def test_a_start_time_out_is_an_error() -> None:
    server = ZooKeeperServer()
    try:
        with pytest.raises(RuntimeError, match="does not serve after 0 s"):
            server.start(timeout=0)
        assert not server.running
    finally:
        server.close()


def test_a_stopped_server_keeps_its_port() -> None:
    server = ZooKeeperServer()
    try:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", server.port))
    finally:
        server.close()


@pytest.mark.parametrize("state", ["running", "paused"])
@pytest.mark.zookeeper
def test_a_server_dies_with_the_process_that_started_it(state: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, state],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as child:
        try:
            assert child.stdout is not None
            pid, directory = child.stdout.readline().split()
            assert runs(int(pid))
            assert len(guards_of(int(pid))) == 1
        finally:
            child.kill()
    eventually(lambda: not runs(int(pid)))
    eventually(lambda: not Path(directory).exists())
    eventually(lambda: not guards_of(int(pid)))


def test_an_ensemble_elects_another_leader(ensemble: Ensemble) -> None:
    assert re.fullmatch(r"(127\.0\.0\.1:\d+,){2}127\.0\.0\.1:\d+", ensemble.hosts)
    first = ensemble.leader()
    eventually(lambda: len(ensemble.followers()) == 2, _ELECTION)
    with connected(ensemble.hosts) as client:
        client.create("/kept", b"value")
        first.kill()
        second = ensemble.leader()
        assert second is not first
        eventually(lambda: len(ensemble.followers()) == 1, _ELECTION)
        assert eventually(lambda: client.get("/kept"), _ELECTION)[0] == b"value"

        first.start()
        eventually(lambda: len(ensemble.followers()) == 2, _ELECTION)
    with connected(first.address) as client:
        client.sync("/kept")
        assert client.get("/kept")[0] == b"value"


def test_an_ensemble_replaces_a_paused_leader(ensemble: Ensemble) -> None:
    stalled = ensemble.leader()
    stalled.pause()
    assert ensemble.leader() is not stalled
    stalled.resume()
    eventually(lambda: len(ensemble.followers()) == 2, _ELECTION)


def test_an_ensemble_without_a_majority_does_not_serve(ensemble: Ensemble) -> None:
    last = eventually(ensemble.followers)[0]
    for member in ensemble.members:
        if member is not last:
            member.kill()
    eventually(lambda: not last.is_serving(), _ELECTION)
    ensemble.start()
    eventually(lambda: len(ensemble.followers()) == 2, _ELECTION)


def test_expire_session_ends_the_session_and_its_ephemeral_nodes(
    zookeeper: ZooKeeperServer, zk_root: str
) -> None:
    with connected(zookeeper.address) as watcher, connected(zookeeper.address) as client:
        states: list[str] = []
        client.add_listener(states.append)
        session = client.client_id[0]
        client.create(f"{zk_root}/mine", ephemeral=True, makepath=True)
        expire_session(client)
        watcher.sync("/")
        assert not watcher.exists(f"{zk_root}/mine")
        eventually(lambda: states[-1:] == [KazooState.CONNECTED])
        assert KazooState.LOST in states
        assert client.client_id[0] != session


def test_expire_session_reaches_a_client_of_an_ensemble(ensemble: Ensemble) -> None:
    with connected(eventually(ensemble.followers)[0].address) as client:
        lost = threading.Event()
        client.add_listener(lambda state: lost.set() if state == KazooState.LOST else None)
        expire_session(client)
        assert lost.wait(10)


def test_expire_session_needs_a_session() -> None:
    with pytest.raises(RuntimeError, match="no session"):
        expire_session(KazooClient())


_earlier_roots: list[str] = []


@pytest.mark.parametrize("_repetition", [1, 2])
def test_zk_root_does_not_exist_before_and_after_a_test(zk: Any, zk_root: str, _repetition: int) -> None:
    assert not any(zk.exists(root) for root in [zk_root, *_earlier_roots])
    zk.create(f"{zk_root}/some/thing", makepath=True)
    _earlier_roots.append(zk_root)


def test_child_processes_ignore_no_signal() -> None:
    status = subprocess.run(["cat", "/proc/self/status"], check=True, capture_output=True, text=True).stdout
    [mask] = re.findall(r"^SigIgn:\s+(\w+)", status, re.MULTILINE)
    ignored = {number for number in signal.valid_signals() if int(mask, 16) >> (number - 1) & 1}
    assert ignored == set()  # of those that are not the C library's own, which posix_spawn ignores


@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["by itself", "in a worker"])
def test_child_processes_ignore_no_signal_even_if_the_caller_of_pytest_does(workers: list[str]) -> None:
    tested = f"{Path(__file__)}::{test_child_processes_ignore_no_signal.__name__}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, tested]
    ended = subprocess.run(
        ["sh", "-c", "trap '' HUP INT QUIT TERM USR1 && exec \"$@\"", "sh", *command],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout


def test_eventually_returns_the_first_true_value() -> None:
    values = iter([None, 0, "", "yes", "no"])
    assert eventually(lambda: next(values), interval=0) == "yes"


def test_eventually_retries_after_an_exception() -> None:
    values = iter(["", "x", "7"])
    assert eventually(lambda: int(next(values)), interval=0) == 7


def test_eventually_reports_the_last_value() -> None:
    with pytest.raises(AssertionError, match=r"not within 0.02 s: the condition last returned \[\]"):
        eventually(list[int], timeout=0.02)


def test_eventually_reports_the_last_exception() -> None:
    empty: dict[str, int] = {}
    with pytest.raises(AssertionError, match=r"last raised KeyError\('x'\)") as caught:
        eventually(lambda: empty["x"], timeout=0)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_late_test_is_repeated_and_other_failures_are_not() -> None:
    limits = iter([0.0, 0.0, 60.0])
    calls: list[float] = []

    @repeated_if_late
    def is_late_twice() -> None:
        calls.append(started_at := time.monotonic())
        in_time(started_at, next(limits))

    is_late_twice()
    assert len(calls) == 3

    @repeated_if_late
    def fails() -> None:
        calls.append(0.0)
        raise AssertionError("wrong")

    with pytest.raises(AssertionError, match="wrong"):
        fails()
    assert len(calls) == 4


def test_a_test_that_is_always_late_fails() -> None:
    calls: list[float] = []

    @repeated_if_late
    def is_always_late() -> None:
        calls.append(0.0)
        soon(lambda: calls, 0.0)

    with pytest.raises(TooLateError, match=r"instead of less than 0 s"):
        is_always_late()
    assert len(calls) == 5


class Forgetful(Background):
    """A server that responds to all queries but the first."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__("forgetful server")
        self.received: list[bytes] = []
        self._socket = sock
        sock.settimeout(0.02)

    def _run(self) -> None:
        while not self._has_ended.is_set():
            with contextlib.suppress(TimeoutError):
                data, client = self._socket.recvfrom(512)
                response = dns.message.make_response(dns.message.from_wire(data))
                if self.received:
                    self._socket.sendto(response.to_wire(), client)
                self.received.append(data)


def test_a_query_is_repeated_if_its_datagram_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.udp_query._ATTEMPT", 0.1)
    query = dns.message.make_query("www.example", "A")
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with Forgetful(sock) as server:
            assert query_udp(query, *sock.getsockname()).id == query.id
    assert len(server.received) > 1
    assert set(server.received) == {query.to_wire()}


# -- guarded programs --------------------------------------------------------------------------------------


def test_the_guard_of_a_program_that_has_ended_reports_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as errors:
        process = start_guarded(["true"], stderr=errors)
        assert process.wait(30) == 0
        assert process.stdin is not None
        process.stdin.close()  # the guard ends by itself, as after the death of the test process
    eventually(lambda: not guards_of(process.pid))
    assert log.read_bytes() == b""


def test_a_guarded_program_is_killed_with_its_group() -> None:
    process = start_guarded(["sh", "-c", "sleep 1000 & sleep 1000"], stdout=subprocess.PIPE)
    eventually(lambda: len(guards_of(process.pid)) >= 2)  # the guard and the first program
    kill_guarded(process)
    kill_guarded(process)
    assert process.returncode == -signal.SIGKILL
    eventually(lambda: not guards_of(process.pid))
