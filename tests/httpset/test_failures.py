"""Failures of HTTP servers: requests that are sent elsewhere, exceptions, and endpoints that are avoided."""

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import requests

from tests.support.http_clients import AsyncHttpx, AsyncHttpx2, HttpClient, Httpx, Httpx2, Requests
from tests.support.scripted import ScriptedServer, closing, receive, replying, resetting, silent_script
from tests.support.waiting import eventually
from tests.support.web import fixed, make_certificate, refusing, servers, silent
from zkdns import FixedSet
from zkdns.httpset.avoided import Avoided

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=[Httpx, AsyncHttpx, Httpx2, AsyncHttpx2, Requests], ids=lambda kind: kind.__name__)
def calling(request: pytest.FixtureRequest) -> Iterator[Callable[..., HttpClient]]:
    with contextlib.ExitStack() as stack:

        def make(source: FixedSet, **options: Any) -> HttpClient:
            caller: HttpClient = request.param(source, None, **options)
            stack.callback(caller.close)
            return caller

        yield make


# -- after the connection ----------------------------------------------------------------------------------

SENT = {
    "accepts and is silent": silent_script,
    "resets after the request": resetting,
    "closes after the request": closing,
    "sends half a head": replying(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "sends half a body": replying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
    "sends half a chunk": replying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nhalf"),
    "sends garbage": replying(b"\x00\xff\xfegarbage\r\n\r\n"),
    "speaks another protocol": replying(b"SSH-2.0-OpenSSH_9.2\r\n"),
}


def skip_for_requests(calling: Callable[..., HttpClient]) -> None:
    """http.client, and with it requests, accepts a head that ends in the middle."""
    if isinstance(calling(FixedSet()), Requests):
        pytest.skip("requests reads half a head as a response without a body")


@pytest.mark.parametrize("failure", SENT)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_was_sent_fails_once_and_is_not_repeated(
    calling: Callable[..., HttpClient], failure: str, method: str
) -> None:
    if failure == "sends half a head":
        skip_for_requests(calling)
    with ScriptedServer(SENT[failure]) as one, ScriptedServer(SENT[failure]) as other:
        caller = calling(FixedSet([one.endpoint, other.endpoint]))
        begun = time.monotonic()
        with pytest.raises(caller.errors[1]):
            caller.request(method, "http://web/", b"once" if method == "POST" else None, read=0.3)
        assert time.monotonic() - begun < 20
        assert one.accepted + other.accepted == 1


def test_after_a_failure_the_same_endpoint_is_used_again(calling: Callable[..., HttpClient]) -> None:
    with ScriptedServer(resetting) as server:
        caller = calling(FixedSet([server.endpoint]))
        for script in (resetting, replying(b"garbage\r\n\r\n"), closing):
            server.script = script
            with pytest.raises(caller.errors[1]):
                caller.request("GET", "http://web/")
        server.script = replying(OK, OK)
        assert [caller.request("GET", "http://web/").text for _ in range(2)] == ["ok", "ok"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_closed_while_idle_is_replaced(calling: Callable[..., HttpClient], method: str) -> None:
    with ScriptedServer(replying(OK)) as server:  # closes after one response
        caller = calling(FixedSet([server.endpoint]))
        for count in range(1, 5):
            assert caller.request(method, "http://web/", b"x" if method == "POST" else None).text == "ok"
            assert server.accepted == count
            eventually(lambda: server.ended == count)  # noqa: B023 - called here only


def test_a_slow_server_is_waited_for_within_the_timeout(calling: Callable[..., HttpClient]) -> None:
    def slow(connection: socket.socket) -> None:
        receive(connection)
        for byte in OK:
            server.done.wait(0.005)
            connection.sendall(bytes([byte]))

    with ScriptedServer(slow) as server:
        caller = calling(FixedSet([server.endpoint]))
        assert caller.request("GET", "http://web/", read=20).text == "ok"


def test_a_silent_tls_handshake_fails_in_time_and_is_not_repeated(
    calling: Callable[..., HttpClient],
) -> None:
    with ScriptedServer(silent_script) as one, ScriptedServer(silent_script) as other:
        caller = calling(FixedSet([one.endpoint, other.endpoint]))
        with pytest.raises((httpx.TransportError, httpx2.TransportError, requests.RequestException)):
            caller.request("GET", "https://web.example/", connect=0.3, read=0.3)
        assert one.accepted + other.accepted == 1


# -- the connection ----------------------------------------------------------------------------------------


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The endpoints of all attempts to connect."""
    found: list[str] = []
    connect = socket.socket.connect

    def recording(self: socket.socket, address: Any) -> None:
        found.append(f"{address[0]}:{address[1]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", recording)
    return found


def test_an_endpoint_whose_connection_timed_out_is_left_alone_for_a_moment(
    calling: Callable[..., HttpClient], attempts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Only the first request in each time waits for its timeout, however many follow."""
    clock = Clock()
    with servers(1) as (server,), silent() as nobody:
        caller = calling(fixed([server], nobody), retry_after=5.0, clock=clock)
        for _ in range(2):
            attempts.clear()
            for _ in range(8):
                assert caller.request("GET", "http://web/", connect=0.5).text == server.endpoint
            assert attempts.count(nobody) == 1
            clock.now += 5.0
    events = [record.getMessage().split()[1] for record in caplog.records if "zkdns:" in record.getMessage()]
    assert events == ["endpoint_avoided"]


def test_without_retry_after_it_keeps_its_turn(
    calling: Callable[..., HttpClient], attempts: list[str]
) -> None:
    with servers(1) as (server,), silent() as nobody:
        caller = calling(fixed([server], nobody), retry_after=0)
        attempts.clear()
        for _ in range(4):  # all but perhaps the first begin at the silent endpoint, and go on to the other
            assert caller.request("GET", "http://web/", connect=0.2).text == server.endpoint
        assert attempts.count(nobody) in {3, 4}


def test_an_endpoint_that_works_again_gets_its_turns(
    calling: Callable[..., HttpClient], caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    with contextlib.ExitStack() as stack:
        (server,) = stack.enter_context(servers(1))
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            caller = calling(fixed([server], f"127.0.0.1:{port}"), retry_after=5.0, clock=clock)
            for _ in range(4):
                assert caller.request("GET", "http://web/").text == server.endpoint
            taken.listen()
            stack.enter_context(ScriptedServer(replying(*[OK] * 10), listener=taken.dup()))
        for _ in range(4):  # it is not tried yet
            assert caller.request("GET", "http://web/").text == server.endpoint
        clock.now += 5.0
        with caplog.at_level(logging.INFO, "zkdns.httpset"):
            assert sorted(caller.request("GET", "http://web/").text for _ in range(4)) == sorted(
                [server.endpoint, "ok"] * 2
            )
        assert "endpoint_recovered" in caplog.text


def test_when_all_are_avoided_all_are_tried(calling: Callable[..., HttpClient]) -> None:
    with refusing() as one, refusing() as two:
        caller = calling(FixedSet([one, two]), clock=Clock())
        for _ in range(3):
            with pytest.raises(caller.errors[0], match="no endpoint accepted a connection") as caught:
                caller.request("GET", "http://web/")
            assert (str(caught.value).count(one), str(caught.value).count(two)) == (1, 1)


def test_a_failed_request_avoids_nothing(calling: Callable[..., HttpClient], tmp_path: Path) -> None:
    """Only a failed connection does: the server may refuse just this request or this client."""
    context, _ = make_certificate(tmp_path, "web.example")
    with servers(2, tls=context) as started:
        caller = calling(fixed(started), clock=Clock())  # which does not trust the certificate
        for _ in range(4):
            with pytest.raises(caller.errors[1]):
                caller.request("GET", "https://web.example/")
        assert [server.accepted for server in started] == [2, 2]


# -- which endpoints are avoided -----------------------------------------------------------------------------


def test_one_request_tries_an_avoided_endpoint_again() -> None:
    avoided = Avoided(5.0)
    assert set(avoided.at(0.0)) == set()
    avoided.failed("a:1", 10.0, ["a:1", "b:1"])
    assert set(avoided.at(10.0)) == {"a:1"}
    assert set(avoided.at(14.9)) == {"a:1"}
    assert set(avoided.at(15.0)) == set()
    avoided.tried("a:1", 15.0)
    avoided.tried("b:1", 15.0)
    assert set(avoided.at(15.0)) == {"a:1"}  # for all other requests
    avoided.responded("b:1")
    avoided.responded("a:1")
    assert set(avoided.at(15.0)) == set()


def test_departed_endpoints_are_forgotten() -> None:
    avoided = Avoided(5.0)
    avoided.failed("a:1", 1.0, ["a:1", "b:1"])
    avoided.failed("b:1", 2.0, ["b:1"])
    assert set(avoided.at(3.0)) == {"b:1"}
    never = Avoided(0)
    never.failed("a:1", 1.0, ["a:1"])
    assert set(never.at(1.0)) == set()
