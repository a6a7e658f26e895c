"""The client of the HTTP API: addresses, and servers that do not respond as expected."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.helpers import FakeBackend, serving, serving_at
from tests.support.fake_api import FakeApi, responding
from zkdns.address import HostPort
from zkdns.admin.api_types import Flushed, MemberCount
from zkdns.admin.client import ApiClient, RefusedError, ServerAddress, UnreachableError, parse_server
from zkdns.errors import BadValueError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/run/zkdns/api", ServerAddress(path="/run/zkdns/api")),
        ("unix:/run/zkdns/api", ServerAddress(path="/run/zkdns/api")),
        ("./api", ServerAddress(path="./api")),
        ("http://dns1", ServerAddress(at=HostPort("dns1", 9153))),
        ("http://127.0.0.1:80/", ServerAddress(at=HostPort("127.0.0.1", 80))),
        ("HTTPS://dns1:9153", ServerAddress(at=HostPort("dns1", 9153), tls=True)),
        ("https://[::1]:443", ServerAddress(at=HostPort("::1", 443), tls=True)),
    ],
)
def test_addresses(text: str, address: ServerAddress) -> None:
    assert parse_server(text) == address


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("dns1:9153", "is neither a URL nor a path"),
        ("", "is neither a URL nor a path"),
        ("ftp://dns1", "has the scheme 'ftp'"),
        ("http://dns1/api", "has more than a host and a port"),
        ("http://dns1?x", "has more than a host and a port"),
        ("http://user@dns1", "has more than a host and a port"),
        ("http://dns1:99999", "has the port '99999'"),
        ("http://[::1", "has no usable host"),
        ("http://", "has no usable host"),
        ("/run/\nx", "has unprintable characters"),
    ],
)
def test_invalid_addresses_are_errors(text: str, error: str) -> None:
    with pytest.raises(BadValueError, match=error.replace("?", "[?]")):
        parse_server(text)


def test_requests_and_their_parameters(short_path: Path) -> None:
    backend = FakeBackend()
    with serving_at(short_path / "api", backend) as client:
        assert client.count("web.staging & more") == MemberCount(3, 1, exists=True, ready=True)
        assert client.names("we", only_held=True).names == ("web.staging.discovery",)
        assert list(client.lines("members")) == [b'{"a":1}', b'{"a":2}']
        with pytest.raises(RefusedError, match="the parameter service is missing") as caught:
            client.count("")
        assert caught.value.status == 400
        with pytest.raises(RefusedError, match="held is '2'; write held=1 or leave it out"):
            client.get("names", MemberCount, held="2")
    assert backend.done == [("count", "web.staging & more"), ("names", ("we", True))]


def test_errors_of_a_reload_are_listed(short_path: Path) -> None:
    backend = FakeBackend(reload_errors=("a", "b"))
    refused = pytest.raises(RefusedError, match="the old configuration stays in force: a; b")
    with serving_at(short_path / "api", backend) as client, refused as caught:
        client.post("reload", Flushed)
    assert (caught.value.status, caught.value.errors) == (409, ("a", "b"))


def test_a_path_without_a_server_is_an_error(short_path: Path) -> None:
    path = short_path / "api"
    client = ApiClient(ServerAddress(path=str(path)))
    with pytest.raises(
        UnreachableError, match=rf"^no server listens at {path} \(no such file or directory\); start one"
    ):
        client.status()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(
        UnreachableError, match=rf"^no server listens at {path} \(connection refused\); start one"
    ):
        client.status()


@pytest.mark.parametrize(
    ("status", "body", "server", "error"),
    [
        (200, b"{}", "nginx", "is not a zkdns server"),
        (200, b"{}", "zkdns", "is of another version of zkdns"),
        (200, b"{]", "zkdns", "is of another version of zkdns"),
        (200, b"", "zkdns", "is of another version of zkdns"),
    ],
)
def test_unusable_responses_are_errors(
    short_path: Path, status: int, body: bytes, server: str, error: str
) -> None:
    path = str(short_path / "api")
    api = FakeApi(path, {"status": (status, body)}, server=server)
    with api.serving(), pytest.raises(UnreachableError, match=f"^the server at {path} {error}"):
        ApiClient(ServerAddress(path=path)).status()


@pytest.mark.parametrize(
    ("body", "text"), [(b"too many\n", "too many"), (b"", "HTTP status 503"), (b'{"error":"away"}', "away")]
)
def test_the_text_of_an_error_may_be_of_any_kind(short_path: Path, body: bytes, text: str) -> None:
    with responding(short_path / "api", "status", body, 503), pytest.raises(RefusedError, match=text):
        ApiClient(ServerAddress(path=str(short_path / "api"))).status()


@contextlib.contextmanager
def sending(path: Path, sent: bytes, *, closes: bool) -> Iterator[ApiClient]:
    """A server that sends these bytes to its first client, and then closes the connection or is silent."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        over = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(sent)
                if not closes:
                    over.wait(30)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield ApiClient(ServerAddress(path=str(path)))
        finally:
            over.set()
            thread.join()


_CHUNKED = b"HTTP/1.1 200 OK\r\nServer: zkdns\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "sent", [b"", b"SSH-2.0-x\r\n", _CHUNKED, _CHUNKED + b"3\r\n{}\n\r\n", _CHUNKED + b"z\r\n"]
)
def test_an_incomplete_response_is_an_error(short_path: Path, sent: bytes) -> None:
    incomplete = pytest.raises(UnreachableError, match="sent no complete HTTP response")
    with sending(short_path / "api", sent, closes=True) as client, incomplete:
        list(client.lines("members"))


def test_a_silent_server_is_an_error_after_the_time_out(short_path: Path) -> None:
    silent = pytest.raises(UnreachableError, match=r"does not respond within 0\.1 s$")
    with sending(short_path / "api", _CHUNKED, closes=False) as client, silent:
        client.count("web", 0.1)


def test_a_server_that_sends_slowly_is_an_error_after_the_time_out(short_path: Path) -> None:
    """Pieces that arrive all the time do not extend it."""
    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "api"))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nServer: zkdns\r\n\r\n")
                while not over.wait(0.02):
                    connection.sendall(b" ")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(UnreachableError, match="does not respond within"):
                ApiClient(ServerAddress(path=str(short_path / "api"))).count("web", 0.5)
        finally:
            over.set()
            thread.join()


def test_lines_of_a_server_that_fails_midway_are_an_error() -> None:
    with serving(FakeBackend(pieces=[b'{"a":1}\n'] * 3, is_breaking=True)) as at:
        lines = ApiClient(ServerAddress(at=at)).lines("members")
        with pytest.raises(UnreachableError):
            list(lines)


def test_a_failure_before_the_first_line_has_its_status(short_path: Path) -> None:
    away = pytest.raises(RefusedError, match="it is away")
    with serving_at(short_path / "api", FakeBackend(is_away=True)) as client, away as caught:
        list(client.lines("members"))
    assert caught.value.status == 503
