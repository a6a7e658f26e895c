"""The admin address, asked as load balancers and people do."""

import contextlib
import http.client
import socket
from collections.abc import Callable, Iterator
from http import HTTPStatus

import pytest

from zkdns.address import HostPort
from zkdns.errors import ListenError
from zkdns.observe.admin import AdminServer

SECONDS = 4.0  # less than the server waits for who says nothing
LOOPBACK = HostPort("127.0.0.1", 0)


@contextlib.contextmanager
def serving(is_ready: Callable[[], bool] = lambda: True, address: HostPort = LOOPBACK) -> Iterator[HostPort]:
    server = AdminServer(address, is_ready, lambda _: "")
    server.start()
    try:
        yield server.address
    finally:
        server.stop()


@pytest.fixture(scope="module")
def ready_server() -> Iterator[HostPort]:
    with serving() as at:
        yield at


def ask(at: HostPort, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(at.host, at.port, timeout=SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        assert response.getheader("Content-Type") == "text/plain; charset=utf-8"
        return response.status, response.read().decode()


def raw(at: HostPort, request: bytes) -> bytes:
    """Everything that comes back for these bytes, until the server closes."""
    with socket.create_connection((at.host, at.port), timeout=SECONDS) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while more := sock.recv(65536):
            answer += more
        return answer


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])
def test_healthz_is_well_as_soon_as_the_process_is(host: str) -> None:
    with serving(lambda: False, HostPort(host, 0)) as at:
        asked = HostPort("127.0.0.1", at.port) if host == "0.0.0.0" else at
        assert ask(asked, "/healthz") == (HTTPStatus.OK, "ok\n")


def test_readyz_is_503_until_the_table_has_been_read_and_says_why() -> None:
    ready = False
    with serving(lambda: ready) as at:
        not_ready = "not ready: the table has not been read yet\n"
        assert ask(at, "/readyz") == (HTTPStatus.SERVICE_UNAVAILABLE, not_ready)
        ready = True
        assert ask(at, "/readyz") == (HTTPStatus.OK, "ready\n")
        ready = False
        assert ask(at, "/readyz") == (HTTPStatus.SERVICE_UNAVAILABLE, not_ready)


def test_a_query_string_makes_no_difference(ready_server: HostPort) -> None:
    assert ask(ready_server, "/readyz?verbose=1") == (HTTPStatus.OK, "ready\n")


@pytest.mark.parametrize(
    ("path", "ready", "status"), [("/healthz", False, 200), ("/readyz", False, 503), ("/readyz", True, 200)]
)
def test_head_has_the_status_and_the_length_and_no_body(path: str, ready: bool, status: int) -> None:
    with serving(lambda: ready) as at:
        _, body = ask(at, path)
        answer = raw(at, f"HEAD {path} HTTP/1.1\r\nHost: zkdns\r\n\r\n".encode())
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 %d " % status)
    assert b"Content-Length: %d" % len(body) in head
    assert rest == b""


@pytest.mark.parametrize("path", ["/", "/health", "/healthz/", "/READYZ", "/%68ealthz"])
def test_any_other_path_is_404_with_a_sentence(ready_server: HostPort, path: str) -> None:
    sentence = f"{path}: not here; there are /healthz, /readyz and /metrics\n"
    assert ask(ready_server, path) == (HTTPStatus.NOT_FOUND, sentence)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 501),
        (b"GET /healthz HTTP/9.9\r\n\r\n", 505),
        (b"GET /healthz ICMP/1.1\r\n\r\n", 400),
        (b"one two three four\r\n\r\n", 400),
        (b"\x16\x03\x01 TLS \xff\xfe\r\n\r\n", 400),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    ],
)
def test_what_is_no_good_http_gets_an_error_and_stops_nobody(
    ready_server: HostPort, request_bytes: bytes, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(ConnectionError):  # what it does not read of a long one comes back as RST
        assert b"%d" % status in raw(ready_server, request_bytes)[:400]
    assert ask(ready_server, "/healthz") == (HTTPStatus.OK, "ok\n")
    assert capfd.readouterr() == ("", "")


def test_clients_that_say_nothing_or_hang_up_block_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    with serving() as at, contextlib.ExitStack() as stack:
        for begun in (b"", b"GET /he", b"GET /healthz HTTP/1.1\r\nHost:"):
            for _ in range(5):
                silent = stack.enter_context(socket.create_connection((at.host, at.port)))
                silent.sendall(begun)
        assert ask(at, "/healthz") == (HTTPStatus.OK, "ok\n")
    assert capfd.readouterr() == ("", "")


def test_stopping_waits_for_no_client_and_frees_the_port() -> None:
    with serving() as at:
        silent = socket.create_connection((at.host, at.port))
        assert ask(at, "/healthz") == (HTTPStatus.OK, "ok\n")
    with silent, serving(address=at) as again:
        assert again == at


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_taken_port_is_told_as_a_sentence_that_names_the_cure(host: str) -> None:
    with serving(address=HostPort(host, 0)) as at:
        with pytest.raises(ListenError) as caught:
            AdminServer(at, lambda: True, lambda _: "")
        assert str(caught.value) == (
            f"cannot listen on {at} for admin requests: Address already in use; "
            "choose another address with --admin ADDR:PORT, or none with --admin none"
        )


def test_an_address_that_this_machine_does_not_have_is_told_as_a_sentence() -> None:
    with pytest.raises(
        ListenError, match=r"cannot listen on 192\.0\.2\.7:0 for admin requests: Cannot assign"
    ):
        AdminServer(HostPort("192.0.2.7", 0), lambda: True, lambda _: "")


def test_nobodys_name_is_looked_up_since_we_may_be_the_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> str:
        raise AssertionError(f"asked the resolver for {arguments}")

    for name in ("getfqdn", "gethostbyaddr", "gethostbyname", "gethostname"):
        monkeypatch.setattr(socket, name, refuse)
    with serving() as at:
        assert b"\r\n\r\nok\n" in raw(at, b"GET /healthz HTTP/1.1\r\n\r\n")
