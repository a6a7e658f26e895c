"""HTTP at the admin address: health, errors, host names, malformed and slow clients."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from tests.admin.helpers import LOOPBACK, SECONDS, Answer, FakeBackend, ask, raw, serving
from tests.support.waiting import eventually, in_time, repeated_if_late
from zkdns.address import HostPort
from zkdns.admin.connections import MAX_CONNECTIONS
from zkdns.admin.http import is_own_host
from zkdns.admin.server import AdminServer
from zkdns.admin.timing import Timing
from zkdns.errors import ListenError

NOT_READY = "not ready: the table has not been read yet\n"


@pytest.fixture(scope="module")
def ready_server() -> Iterator[HostPort]:
    with serving() as at:
        yield at


def plain(answer: Answer) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    return answer.status, answer.text


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])
def test_healthz_is_ok_even_before_the_server_is_ready(host: str) -> None:
    with serving(FakeBackend(is_ready=False), HostPort(host, 0)) as at:
        asked = HostPort("127.0.0.1", at.port) if host == "0.0.0.0" else at
        assert plain(ask(asked, "/healthz")) == (HTTPStatus.OK, "ok\n")
        assert plain(ask(asked, "/readyz")) == (HTTPStatus.SERVICE_UNAVAILABLE, NOT_READY)


def test_healthz_lists_unresponsive_addresses() -> None:
    with serving(FakeBackend(unresponsive=[HostPort("127.0.0.1", 53), HostPort("::1", 53)])) as at:
        sentence = "unhealthy: no answer over UDP at 127.0.0.1:53, [::1]:53\n"
        assert plain(ask(at, "/healthz")) == (HTTPStatus.SERVICE_UNAVAILABLE, sentence)
        assert plain(ask(at, "/readyz")) == (HTTPStatus.OK, "ready\n")


def test_many_health_requests_cause_at_most_two_checks_a_second() -> None:
    server = FakeBackend()
    with serving(server) as at:
        begun = time.monotonic()
        for _ in range(50):
            assert ask(at, "/healthz").status == HTTPStatus.OK
        assert server.checks <= 1 + (time.monotonic() - begun) / 0.5
        server.unresponsive = [LOOPBACK]
        eventually(lambda: ask(at, "/healthz").status == HTTPStatus.SERVICE_UNAVAILABLE)


def test_readyz_is_503_until_the_table_has_been_read() -> None:
    server = FakeBackend(is_ready=False)
    with serving(server) as at:
        assert plain(ask(at, "/readyz")) == (HTTPStatus.SERVICE_UNAVAILABLE, NOT_READY)
        server.is_ready = True
        assert plain(ask(at, "/readyz")) == (HTTPStatus.OK, "ready\n")
        server.is_ready = False
        assert plain(ask(at, "/readyz")) == (HTTPStatus.SERVICE_UNAVAILABLE, NOT_READY)


def test_health_ignores_the_query_string(ready_server: HostPort) -> None:
    assert plain(ask(ready_server, "/readyz?verbose=1")) == (HTTPStatus.OK, "ready\n")


@pytest.mark.parametrize(
    ("path", "ready", "status"),
    [("/healthz", False, 200), ("/readyz", False, 503), ("/readyz", True, 200), ("/api/status", True, 200)],
)
def test_head_returns_status_and_length_without_a_body(path: str, ready: bool, status: int) -> None:
    with serving(FakeBackend(is_ready=ready)) as at:
        body = ask(at, path).text
        answer = raw(at, f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert rest == b""


def test_metrics_have_the_content_types_of_prometheus_and_openmetrics(ready_server: HostPort) -> None:
    answer = ask(ready_server, "/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.text == "zkdns_services 1\n"
    answer = ask(ready_server, "/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain")
    assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.text == "# EOF\n"


@pytest.mark.parametrize("path", ["/health", "/healthz/", "/READYZ", "//healthz", "/../healthz"])
def test_an_unknown_path_is_404_with_the_list_of_paths(ready_server: HostPort, path: str) -> None:
    status, text = plain(ask(ready_server, path))
    assert status == HTTPStatus.NOT_FOUND
    assert text.startswith(f"{path}: no such path; available: /healthz, /readyz, /metrics, /api/status, ")
    assert ask(ready_server, "/api" + path).error.startswith(f"/api{path}: no such path; available: /healthz")


def test_a_wrong_method_is_405_with_the_allowed_methods(ready_server: HostPort) -> None:
    answer = ask(ready_server, "/healthz", "POST")
    assert plain(answer) == (
        HTTPStatus.METHOD_NOT_ALLOWED,
        "/healthz: method POST is not allowed; allowed: GET, HEAD\n",
    )
    assert answer.headers["Allow"] == "GET, HEAD"
    assert ask(ready_server, "/api/accept").error == "/api/accept: method GET is not allowed; allowed: POST"


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/api/status", "/nothing", "/api/nothing"])
def test_every_response_has_the_security_headers(ready_server: HostPort, path: str) -> None:
    headers = ask(ready_server, path).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert not any(name.startswith("Access-Control") for name in headers)
    assert headers["Server"] == "zkdns"


# -- host names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["", "127.0.0.1", "10.0.0.1:9153", "[::1]", "[2001:db8::1]:9153", "localhost:9153", "zkdns.localhost"],
)
def test_addresses_and_localhost_are_known_hosts(host: str) -> None:
    assert is_own_host(host, ())


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "[evil.example]:80", "dns1"]
)
def test_foreign_names_are_not_known_hosts(host: str) -> None:
    assert not is_own_host(host, ("dns1.example.com",))


@pytest.mark.parametrize("host", ["dns1.example.com", "DNS1.example.com.:9153"])
def test_a_configured_name_is_known_in_any_spelling(host: str) -> None:
    assert is_own_host(host, ("dns1.example.com",))


def test_a_request_for_a_foreign_host_is_421(ready_server: HostPort) -> None:
    answer = ask(ready_server, "/api/status", Host="evil.example:9153")
    assert answer.status == HTTPStatus.MISDIRECTED_REQUEST
    assert answer.error == (
        "'evil.example:9153' is not a name of this server; use its address or localhost, "
        "or add the name to admin.names"
    )
    assert ask(ready_server, "/api/status", Host="dns1.example.com:9153").status == HTTPStatus.OK
    assert ask(ready_server, "/", Host="evil.example").status == HTTPStatus.MISDIRECTED_REQUEST


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_monitoring_may_use_any_host_name(ready_server: HostPort, path: str) -> None:
    assert ask(ready_server, path, Host="whatever.example").status == HTTPStatus.OK


# -- malformed and slow clients -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /healthz HTTP/9.9\r\n\r\n", 400),
        (b"GET /healthz ICMP/1.1\r\n\r\n", 400),
        (b"one two three four\r\n\r\n", 400),
        (b"\x16\x03\x01 TLS \xff\xfe\r\n\r\n", 400),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000000\r\n\r\n", 413),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"BREW /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"PATCH /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ],
)
def test_malformed_requests_get_an_error_and_block_no_other_client(
    ready_server: HostPort, request_bytes: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.suppress(ConnectionError):  # unread bytes of a long request cause a RST
        assert b" %d " % status in raw(ready_server, request_bytes)[:20]
    assert plain(ask(ready_server, "/healthz")) == (HTTPStatus.OK, "ok\n")
    assert caplog.records == []


def test_silent_clients_block_no_other_client(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as at, contextlib.ExitStack() as stack:
        for begun in (b"", b"GET /he", b"GET /healthz HTTP/1.1\r\nHost:"):
            for _ in range(5):
                silent = stack.enter_context(socket.create_connection((at.host, at.port)))
                silent.sendall(begun)
        assert plain(ask(at, "/healthz")) == (HTTPStatus.OK, "ok\n")
    assert caplog.records == []


def test_an_incomplete_request_is_closed_after_a_timeout() -> None:
    with (
        serving(timing=Timing(idle=0.5)) as at,
        socket.create_connection((at.host, at.port), timeout=20.0) as slow,
    ):
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        begun = time.monotonic()
        assert slow.recv(1000) == b""
        assert time.monotonic() - begun < 10.0


def test_a_client_that_does_not_read_is_disconnected(caplog: pytest.LogCaptureFixture) -> None:
    with serving(FakeBackend(metrics_text="x" * 30_000_000), timing=Timing(write=1.0)) as at:
        with socket.create_connection((at.host, at.port), timeout=20.0) as slow:
            slow.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            ended = threading.Event()

            def look() -> None:
                """Wait for the reset, which shows as an error without reading."""
                while not slow.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    if ended.wait(0.05):
                        return
                ended.set()

            thread = threading.Thread(target=look)
            thread.start()
            try:
                assert ended.wait(15.0)
            finally:
                ended.set()
                thread.join()
        assert ask(at, "/healthz").status == HTTPStatus.OK
    assert caplog.records == []


def test_connections_over_the_limit_get_503_until_others_close() -> None:
    with serving() as at:
        assert ask(at, "/healthz").status == HTTPStatus.OK
        with contextlib.ExitStack() as stack:
            for _ in range(MAX_CONNECTIONS):
                stack.enter_context(socket.create_connection((at.host, at.port)))
            answer = eventually(lambda: (got := raw(at, b"")) and got)
            assert answer.startswith(b"HTTP/1.1 503 ")
            head, _, body = answer.partition(b"\r\n\r\n")
            assert b"Content-Length: %d\r\n" % len(body) in head
        eventually(lambda: ask(at, "/healthz").status == HTTPStatus.OK)


@repeated_if_late
def test_stopping_does_not_wait_for_clients_and_frees_the_port() -> None:
    with serving() as at:
        silent = socket.create_connection((at.host, at.port))
        assert plain(ask(at, "/healthz")) == (HTTPStatus.OK, "ok\n")
        begun = time.monotonic()
    in_time(begun, SECONDS / 2)
    with silent, serving(address=at) as again:
        assert again == at


# -- listening ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_in_use_is_an_error_with_advice(host: str) -> None:
    with serving(address=HostPort(host, 0)) as at:
        with pytest.raises(ListenError) as caught:
            AdminServer(at)
        assert str(caught.value) == (
            f"cannot listen on {at} for admin requests: address already in use "
            f"(ss -lntp 'sport = :{at.port}' names the program); "
            "choose another address with --admin ADDR:PORT, or none with --admin none"
        )


def test_a_foreign_address_is_an_error() -> None:
    with pytest.raises(
        ListenError, match=r"cannot listen on 192\.0\.2\.7:0 for admin requests: cannot assign"
    ):
        AdminServer(HostPort("192.0.2.7", 0))


def test_no_host_name_is_resolved_since_this_may_be_the_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> str:
        raise AssertionError(f"asked the resolver for {arguments}")

    for name in ("getfqdn", "gethostbyaddr", "gethostbyname", "gethostname"):
        monkeypatch.setattr(socket, name, refuse)
    with serving() as at:
        assert b"\r\n\r\nok\n" in raw(at, b"GET /healthz HTTP/1.0\r\n\r\n")
