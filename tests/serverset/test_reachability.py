"""The causes why ZooKeeper cannot be reached."""

import contextlib
import errno
import os
import re
import socket
import threading
import time

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss

from tests.support.loopback import free_port
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns import ServerSet, UnreachableError
from zkdns.namespace import parse_namespace
from zkdns.serverset.listing import list_services
from zkdns.serverset.reachability import Diagnosis
from zkdns.serverset.session import Session

DISCOVERY = parse_namespace("/discovery/{environment}/{service}")


def describe(hosts: str) -> str:
    """The causes why servers give no session."""
    return Diagnosis(hosts).wait().describe()


@pytest.fixture
def refusing() -> str:
    """An address that refuses connections."""
    return f"127.0.0.1:{free_port()}"


def test_one_server_is_described_by_its_cause(refusing: str) -> None:
    assert describe(refusing) == "connection refused"
    assert describe(f"{refusing}/chroot") == "connection refused"
    assert describe("nosuchhost.invalid") == "no such host"


def test_each_of_several_servers_has_its_cause(refusing: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        accepting = f"127.0.0.1:{silent.getsockname()[1]}"
        found = describe(f"nosuchhost.invalid:2181,{refusing},{accepting}/chroot")
    assert found == (
        f"nosuchhost.invalid:2181: no such host; {refusing}: connection refused; {accepting}: it accepts "
        "connections, but sends nothing within 1 s: it is paused, overloaded or starting, or it is not "
        "ZooKeeper"
    )


def test_a_search_can_be_described_before_its_end(refusing: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        accepting = f"127.0.0.1:{silent.getsockname()[1]}"
        search = Diagnosis(f"{refusing},{accepting}")
        eventually(lambda: "connection refused" in search.describe())
        early = search.error("do this")
        search.wait()
        assert "accepts connections, but sends nothing" in search.describe()
    assert re.fullmatch(
        f"cannot do this: ZooKeeper at {refusing},{accepting} is unreachable: {refusing}: connection "
        rf"refused; {accepting}: (no response within [0-9.]+ s|it accepts .*)",
        str(early),
    )


def test_the_errors_of_a_session_share_a_search() -> None:
    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        session = Session(f"127.0.0.1:{listener.getsockname()[1]}", 2.0)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    accepted.append(connection)
                    connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        errors = {str(session.unreachable_error("do this")) for _ in range(3)}
        errors.add(str(session.to_zkdns_error(ConnectionLoss(), "do this")))
        errors.add(str(session.diagnose().error("do this")))
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(accepted) == 1
    (error,) = errors
    assert "it closes the connection instead of starting a session" in error


def test_a_search_without_threads_names_that_cause(refusing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert "no thread can search for it (can't start new thread)" in describe(refusing)


def test_a_search_without_free_files_names_that_cause(refusing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to end its thread, with a traceback."""

    def no_socket(*_: object, **__: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("zkdns.serverset.reachability.socket.socket", no_socket)
    assert describe(refusing) == "too many open files"


@pytest.mark.parametrize(
    ("response", "cause"),
    [
        (b"", "it closes the connection instead of starting a session: it has no quorum"),
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "it does not speak ZooKeeper's protocol"),
        (b"220 mail.example ESMTP\r\n", "it does not speak ZooKeeper's protocol"),
        (b"\0", "it does not speak ZooKeeper's protocol"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "it requires TLS"),
        (
            bytes.fromhex("00000010000000000000000100000000ffffff89"),
            "it is read-only, because it has no quorum, and starts no sessions without localSessionsEnabled",
        ),
        (b"\0\0\0\x10" + bytes(12) + b"\xff\xff\xff\xfb", "it refuses a session with the error -5"),
        (b"\0\0\0\x24" + bytes(36), "it gives sessions now: "),
        (b"\0\0\0\x25" + bytes(37), "it gives sessions now: "),
        (b"\0\0\0\x25" + bytes(36) + b"\1", "it is read-only, because it has no quorum"),
    ],
)
def test_what_a_port_sends_instead_of_a_session_is_named(response: bytes, cause: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def respond() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(response)

        thread = threading.Thread(target=respond)
        thread.start()
        try:
            found = describe(f"127.0.0.1:{server.getsockname()[1]}")
        finally:
            thread.join()
    assert found.startswith(cause)


def test_a_session_for_the_cause_ends_at_once(zookeeper: ZooKeeperServer) -> None:
    before = sessions(zookeeper)
    assert describe(zookeeper.address).startswith("it gives sessions now: ")
    eventually(lambda: sessions(zookeeper) <= before)


def sessions(zookeeper: ZooKeeperServer) -> set[str]:
    """The sessions of a server, as `dump` lists them."""
    return set(re.findall(r"0x[0-9a-f]+", zookeeper.four_letter("dump")))


def test_the_library_logs_why_zookeeper_stays_away(refusing: str, caplog: pytest.LogCaptureFixture) -> None:
    web = ServerSet("test", "web", refusing, session_timeout=2.0)
    with web.register("a", 1, timeout=None):
        eventually(lambda: "reason='connection refused'" in caplog.text)
    assert caplog.text.count("zookeeper_unreachable") == 1


def test_a_listing_ends_soon_if_all_servers_refuse_connections(refusing: str) -> None:
    started = time.monotonic()
    with pytest.raises(UnreachableError, match="connection refused"):
        list_services(f"{refusing},nosuchhost.invalid", DISCOVERY, timeout=90.0)
    assert time.monotonic() - started < 60  # a second, on an idle machine


def test_a_listing_waits_for_a_silent_server() -> None:
    started = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(UnreachableError, match="it accepts connections, but sends nothing"),
    ):
        list_services(f"127.0.0.1:{silent.getsockname()[1]}", DISCOVERY, timeout=3.5)
    assert time.monotonic() - started > 3.0


@pytest.mark.parametrize("call", ["register", "watch"])
def test_the_errors_of_the_library_name_the_cause(call: str) -> None:
    web = ServerSet("test", "web", "nosuchhost.invalid:2181", session_timeout=2.0)
    with pytest.raises(
        UnreachableError,
        match=re.escape("ZooKeeper at nosuchhost.invalid:2181 is unreachable: no such host"),
    ):
        web.register("a", 1, timeout=0.3) if call == "register" else web.watch(timeout=0.3)


def test_a_callers_client_may_use_ipv6() -> None:
    client = KazooClient("[::1]:1")
    web = ServerSet("test", "web", client=client, session_timeout=2.0)
    with pytest.raises(UnreachableError, match=r"ZooKeeper at \[::1\]:1 is unreachable: "):
        web.watch(timeout=0.3)
