"""The admin address, asked as load balancers and people do, and by those who mean no good."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from tests.observe.admin_helpers import LOOPBACK, SECONDS, Answer, Told, ask, raw, serving
from tests.support.waiting import eventually
from zkdns.address import HostPort
from zkdns.errors import ListenError
from zkdns.observe.admin import AdminServer
from zkdns.observe.connections import MOST_CONNECTIONS
from zkdns.observe.web import is_known

NOT_READY = "not ready: the table has not been read yet\n"


@pytest.fixture(scope="module")
def ready_server() -> Iterator[HostPort]:
    with serving() as at:
        yield at


def told(answer: Answer) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    return answer.status, answer.text


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])
def test_healthz_is_well_where_the_server_answers_whether_it_is_ready_or_not(host: str) -> None:
    with serving(Told(is_ready=False), HostPort(host, 0)) as at:
        asked = HostPort("127.0.0.1", at.port) if host == "0.0.0.0" else at
        assert told(ask(asked, "/healthz")) == (HTTPStatus.OK, "ok\n")
        assert told(ask(asked, "/readyz")) == (HTTPStatus.SERVICE_UNAVAILABLE, NOT_READY)


def test_healthz_says_where_the_server_does_not_answer() -> None:
    with serving(Told(ill=[HostPort("127.0.0.1", 53), HostPort("::1", 53)])) as at:
        sentence = "not well: no answer over UDP at 127.0.0.1:53, [::1]:53\n"
        assert told(ask(at, "/healthz")) == (HTTPStatus.SERVICE_UNAVAILABLE, sentence)
        assert told(ask(at, "/readyz")) == (HTTPStatus.OK, "ready\n")


def test_a_flood_of_health_checks_asks_the_server_twice_a_second_at_most() -> None:
    server = Told()
    with serving(server) as at:
        begun = time.monotonic()
        for _ in range(50):
            assert ask(at, "/healthz").status == HTTPStatus.OK
        assert server.times_asked <= 1 + (time.monotonic() - begun) / 0.5
        server.ill = [LOOPBACK]
        eventually(lambda: ask(at, "/healthz").status == HTTPStatus.SERVICE_UNAVAILABLE)


def test_readyz_is_503_until_the_table_has_been_read_and_says_why() -> None:
    server = Told(is_ready=False)
    with serving(server) as at:
        assert told(ask(at, "/readyz")) == (HTTPStatus.SERVICE_UNAVAILABLE, NOT_READY)
        server.is_ready = True
        assert told(ask(at, "/readyz")) == (HTTPStatus.OK, "ready\n")
        server.is_ready = False
        assert told(ask(at, "/readyz")) == (HTTPStatus.SERVICE_UNAVAILABLE, NOT_READY)


def test_a_query_string_makes_no_difference_to_health(ready_server: HostPort) -> None:
    assert told(ask(ready_server, "/readyz?verbose=1")) == (HTTPStatus.OK, "ready\n")


@pytest.mark.parametrize(
    ("path", "ready", "status"),
    [("/healthz", False, 200), ("/readyz", False, 503), ("/readyz", True, 200), ("/api/status", True, 200)],
)
def test_head_has_the_status_and_the_length_and_no_body(path: str, ready: bool, status: int) -> None:
    with serving(Told(is_ready=ready)) as at:
        body = ask(at, path).text
        answer = raw(at, f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert rest == b""


def test_metrics_come_as_prometheus_wants_them(ready_server: HostPort) -> None:
    answer = ask(ready_server, "/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.text == "zkdns_services 1\n"
    answer = ask(ready_server, "/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain")
    assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.text == "# EOF\n"


@pytest.mark.parametrize("path", ["/health", "/healthz/", "/READYZ", "//healthz", "/../healthz"])
def test_any_other_path_is_404_and_lists_what_there_is(ready_server: HostPort, path: str) -> None:
    status, text = told(ask(ready_server, path))
    assert status == HTTPStatus.NOT_FOUND
    assert text.startswith(f"{path}: not here; there are /healthz, /readyz, /metrics, /api/status, ")
    assert ask(ready_server, "/api" + path).error.startswith(f"/api{path}: not here; there are /healthz")


def test_another_method_is_405_and_says_which_there_is(ready_server: HostPort) -> None:
    answer = ask(ready_server, "/healthz", "POST")
    assert told(answer) == (HTTPStatus.METHOD_NOT_ALLOWED, "/healthz: not by POST, but GET, HEAD\n")
    assert answer.headers["Allow"] == "GET, HEAD"
    assert ask(ready_server, "/api/accept").error == "/api/accept: not by GET, but POST"


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/api/status", "/nothing", "/api/nothing"])
def test_nothing_may_be_kept_framed_or_taken_for_something_else(ready_server: HostPort, path: str) -> None:
    headers = ask(ready_server, path).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert not any(name.startswith("Access-Control") for name in headers)
    assert headers["Server"] == "zkdns"


# -- whose name the server is asked by ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["", "127.0.0.1", "10.0.0.1:9153", "[::1]", "[2001:db8::1]:9153", "localhost:9153", "zkdns.localhost"],
)
def test_addresses_and_localhost_are_this_server(host: str) -> None:
    assert is_known(host, ())


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "[evil.example]:80", "dns1"]
)
def test_a_name_that_anybody_can_make_lead_here_is_not(host: str) -> None:
    assert not is_known(host, ("dns1.example.com",))


@pytest.mark.parametrize("host", ["dns1.example.com", "DNS1.example.com.:9153"])
def test_a_configured_name_is_in_whatever_spelling(host: str) -> None:
    assert is_known(host, ("dns1.example.com",))


def test_a_page_that_has_its_own_name_lead_here_gets_nothing(ready_server: HostPort) -> None:
    answer = ask(ready_server, "/api/status", Host="evil.example:9153")
    assert answer.status == HTTPStatus.MISDIRECTED_REQUEST
    assert answer.error == (
        "'evil.example:9153' is no name of this server; ask it by its address or as localhost, "
        "or name what it is called with admin.names"
    )
    assert ask(ready_server, "/api/status", Host="dns1.example.com:9153").status == HTTPStatus.OK
    assert ask(ready_server, "/", Host="evil.example").status == HTTPStatus.MISDIRECTED_REQUEST


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_machines_may_ask_by_any_name(ready_server: HostPort, path: str) -> None:
    assert ask(ready_server, path, Host="whatever.example").status == HTTPStatus.OK


# -- those who mean no good ---------------------------------------------------------------------------------


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
def test_what_is_no_good_http_gets_an_error_and_stops_nobody(
    ready_server: HostPort, request_bytes: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.suppress(ConnectionError):  # what it does not read of a long one comes back as RST
        assert b" %d " % status in raw(ready_server, request_bytes)[:20]
    assert told(ask(ready_server, "/healthz")) == (HTTPStatus.OK, "ok\n")
    assert caplog.records == []


def test_clients_that_say_nothing_or_hang_up_block_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as at, contextlib.ExitStack() as stack:
        for begun in (b"", b"GET /he", b"GET /healthz HTTP/1.1\r\nHost:"):
            for _ in range(5):
                silent = stack.enter_context(socket.create_connection((at.host, at.port)))
                silent.sendall(begun)
        assert told(ask(at, "/healthz")) == (HTTPStatus.OK, "ok\n")
    assert caplog.records == []


def test_who_says_too_little_for_too_long_is_cut_off(ready_server: HostPort) -> None:
    with socket.create_connection((ready_server.host, ready_server.port), timeout=20.0) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        begun = time.monotonic()
        assert slow.recv(1000) == b""
        assert time.monotonic() - begun < 12.0


def test_who_does_not_take_a_response_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Told(metrics_text="x" * 30_000_000)) as at:
        with socket.create_connection((at.host, at.port), timeout=20.0) as slow:
            slow.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            ended = threading.Event()

            def look() -> None:
                """Without reading, the end shows as an error."""
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


def test_there_are_only_so_many_connections_and_then_again_some() -> None:
    with serving() as at:
        assert ask(at, "/healthz").status == HTTPStatus.OK
        with contextlib.ExitStack() as stack:
            for _ in range(MOST_CONNECTIONS):
                stack.enter_context(socket.create_connection((at.host, at.port)))
            answer = eventually(lambda: (got := raw(at, b"")) and got)
            assert answer.startswith(b"HTTP/1.1 503 ")
            head, _, body = answer.partition(b"\r\n\r\n")
            assert b"Content-Length: %d\r\n" % len(body) in head
        eventually(lambda: ask(at, "/healthz").status == HTTPStatus.OK)


def test_stopping_waits_for_no_client_and_frees_the_port() -> None:
    with serving() as at:
        silent = socket.create_connection((at.host, at.port))
        assert told(ask(at, "/healthz")) == (HTTPStatus.OK, "ok\n")
        begun = time.monotonic()
    assert time.monotonic() - begun < SECONDS / 2
    with silent, serving(address=at) as again:
        assert again == at


# -- where it listens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_taken_port_is_told_as_a_sentence_that_names_the_cure(host: str) -> None:
    with serving(address=HostPort(host, 0)) as at:
        with pytest.raises(ListenError) as caught:
            AdminServer(at)
        assert str(caught.value) == (
            f"cannot listen on {at} for admin requests: Address already in use; "
            "choose another address with --admin ADDR:PORT, or none with --admin none"
        )


def test_an_address_that_this_machine_does_not_have_is_told_as_a_sentence() -> None:
    with pytest.raises(
        ListenError, match=r"cannot listen on 192\.0\.2\.7:0 for admin requests: Cannot assign"
    ):
        AdminServer(HostPort("192.0.2.7", 0))


def test_nobodys_name_is_looked_up_since_we_may_be_the_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> str:
        raise AssertionError(f"asked the resolver for {arguments}")

    for name in ("getfqdn", "gethostbyaddr", "gethostbyname", "gethostname"):
        monkeypatch.setattr(socket, name, refuse)
    with serving() as at:
        assert b"\r\n\r\nok\n" in raw(at, b"GET /healthz HTTP/1.0\r\n\r\n")
