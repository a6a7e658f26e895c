"""HTTP over a server set: the same rules for httpx, httpx2 and requests, over real servers."""

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx
import httpx2
import pytest
import requests

from tests.support.http_clients import AsyncHttpx, AsyncHttpx2, HttpClient, Httpx, Httpx2, Requests
from tests.support.waiting import eventually
from tests.support.web import WebServer, fixed, make_certificate, refusing, servers, silent
from zkdns import BadValueError, EndpointSource, FixedSet
from zkdns.errors import NoEndpointsError, ZkdnsError
from zkdns.httpset import Adapter, AsyncTransport, Transport


class Calling(Protocol):
    def __call__(
        self, source: EndpointSource | None = None, trusted: Path | None = None, **options: Any
    ) -> HttpClient: ...


@pytest.fixture(params=[Httpx, AsyncHttpx, Httpx2, AsyncHttpx2, Requests], ids=lambda kind: kind.__name__)
def calling(request: pytest.FixtureRequest) -> Iterator[Calling]:
    """Makes callers and closes them."""
    with contextlib.ExitStack() as stack:

        def make(
            source: EndpointSource | None = None, trusted: Path | None = None, **options: Any
        ) -> HttpClient:
            caller: HttpClient = request.param(source, trusted, **options)
            stack.callback(caller.close)
            return caller

        yield make


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A certificate for web.example and api.example."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "web.example", "api.example")


def test_requests_rotate_over_the_endpoints(calling: Calling) -> None:
    with servers(3) as started:
        caller = calling(fixed(started))
        chosen = [caller.request("GET", "http://web/").text for _ in range(9)]
    assert Counter(chosen[:3]) == {server.endpoint: 1 for server in started}
    assert chosen == chosen[:3] * 3


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://web/a/b?c=%2F&d", "web"),
        ("http://web:8080/", "web:8080"),
        ("http://web:80/", "web"),
        ("http://[2001:db8::1]:8080/", "[2001:db8::1]:8080"),
    ],
)
def test_the_host_header_is_that_of_the_url(calling: Calling, url: str, host: str) -> None:
    with servers(1) as (server,):
        answer = calling(fixed([server])).request("GET", url)
    assert server.requests[0].host == host
    assert server.requests[0].path == "/" + url.split("/", 3)[3]
    assert answer.url.replace(":80/", "/") == url.replace(":80/", "/")


def test_each_endpoint_keeps_its_connection(calling: Calling) -> None:
    """More endpoints than the default number of idle connections in httpx2 (20) and requests (10)."""
    with servers(21) as started:
        caller = calling(fixed(started))
        for _ in range(63):
            caller.request("POST", "http://web/", b"x")
        assert [server.accepted for server in started] == [1] * 21
        assert [len(server.requests) for server in started] == [3] * 21


def test_after_a_refused_connection_another_endpoint_is_tried(calling: Calling) -> None:
    with servers(1) as (server,), refusing() as nobody, refusing() as nobody_else:
        caller = calling(FixedSet([nobody, server.endpoint, nobody_else]))
        assert [caller.request("GET", "http://web/").text for _ in range(6)] == [server.endpoint] * 6
        assert len(server.requests) == 6


def test_after_a_connect_timeout_another_endpoint_is_tried(calling: Calling) -> None:
    with servers(1) as (server,), silent() as nobody:
        caller = calling(FixedSet([nobody, server.endpoint]))
        for _ in range(2):  # one of the two starts at the silent endpoint
            assert caller.request("GET", "http://web/", connect=0.2).text == server.endpoint


def test_when_all_refuse_the_error_names_each_once(calling: Calling) -> None:
    with refusing() as one, refusing() as two:
        caller = calling(FixedSet([one, two]))
        with pytest.raises(caller.errors[0], match="no endpoint accepted a connection") as caught:
            caller.request("GET", "http://web/")
    message = str(caught.value)
    assert (message.count(one), message.count(two)) == (1, 1)
    assert caught.value.request is not None  # type: ignore[attr-defined]


def test_when_all_are_silent_it_is_a_connect_timeout(calling: Calling) -> None:
    with silent() as nobody:
        caller = calling(FixedSet([nobody]))
        with pytest.raises(
            (httpx.ConnectTimeout, httpx2.ConnectTimeout, requests.ConnectTimeout), match=nobody
        ):
            caller.request("GET", "http://web/", connect=0.2)


def test_an_empty_set_is_an_error_of_both_libraries(calling: Calling) -> None:
    caller = calling()
    with pytest.raises(NoEndpointsError, match="http://web:81: there is no endpoint") as caught:
        caller.request("GET", "http://web:81/")
    assert isinstance(caught.value, caller.errors[0])
    assert isinstance(caught.value, ZkdnsError)
    with servers(1) as (server,):
        caller.set_endpoints([server.endpoint])
        assert caller.request("GET", "http://web:81/").text == server.endpoint
        with pytest.raises(BadValueError):
            caller.set_endpoints(["web"])


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_sent_request_is_never_repeated(calling: Calling, method: str) -> None:
    with servers(3) as started:
        caller = calling(fixed(started))
        with pytest.raises(caller.errors[1]):
            caller.request(method, "http://web/die", b"once" if method == "POST" else None)
        assert sum(len(server.requests) for server in started) == 1


def test_a_server_without_a_response_is_not_left_for_another(calling: Calling) -> None:
    with servers(2) as started:
        caller = calling(fixed(started))
        with pytest.raises((httpx.ReadTimeout, httpx2.ReadTimeout, requests.ReadTimeout)):
            caller.request("GET", "http://web/hang", read=0.2)
        eventually(lambda: any(server.requests for server in started))  # perhaps only after that time
    assert sum(len(server.requests) for server in started) == 1


def test_a_stream_is_sent_completely_after_failed_connections(calling: Calling) -> None:
    """In both orders, so that one of them starts at the endpoint that refuses."""
    with servers(1) as (server,), refusing() as nobody:
        caller = calling(FixedSet([nobody, server.endpoint]))
        for _ in range(2):
            caller.request("POST", "http://web/", (part for part in (b"one ", b"two ", b"three")))
        assert [request.body for request in server.requests] == [b"one two three"] * 2


def test_ipv6(calling: Calling) -> None:
    with WebServer("::1") as server:
        assert server.endpoint.startswith("[::1]:")
        answer = calling(FixedSet([server.endpoint])).request("GET", "http://web/")
    assert answer.text == server.endpoint
    assert server.requests[0].host == "web"


def test_redirects_and_cookies_belong_to_the_url(calling: Calling) -> None:
    with servers(2) as started:
        caller = calling(fixed(started))
        answer = caller.request("GET", "http://web.example/to?/there")
        redirected = [
            request for server in started for request in server.requests if request.path == "/there"
        ]
    assert answer.url == "http://web.example/there"
    assert [(one.host, one.cookie) for one in redirected] == [("web.example", "seen=yes")]


def test_a_redirect_to_another_name_uses_that_name(calling: Calling) -> None:
    with servers(1) as (server,):
        calling(fixed([server])).request("GET", "http://web.example/to?http://api.example:81/there")
    assert [request.host for request in server.requests] == ["web.example", "api.example:81"]


def test_connections_of_departed_endpoints_are_closed(calling: Calling) -> None:
    with servers(2) as (gone, stays):
        source = fixed([gone, stays])
        caller = calling(source)
        for _ in range(2):
            caller.request("GET", "http://web/")
        assert (len(gone.open), len(stays.open)) == (1, 1)
        source.set_endpoints([stays.endpoint])
        assert caller.request("GET", "http://web/").text == stays.endpoint
        eventually(lambda: not gone.open)
        assert stays.accepted == 1


def test_a_response_continues_after_its_endpoint_departs(calling: Calling) -> None:
    with servers(2) as (gone, stays):
        source = fixed([gone])
        caller = calling(source)
        halves = caller.halves("http://web/slow")
        text = next(halves)
        source.set_endpoints([stays.endpoint])
        assert caller.request("GET", "http://web/").text == stays.endpoint
        assert gone.open
        gone.go_on.set()
        assert text + next(halves) == gone.endpoint
        assert list(halves) == []
        caller.request("GET", "http://web/")
        eventually(lambda: not gone.open)


def test_tls_uses_and_checks_the_name_of_the_url(
    calling: Calling, certificate: tuple[ssl.SSLContext, Path]
) -> None:
    context, trusted = certificate
    with servers(2, tls=context) as started:
        caller = calling(fixed(started), trusted)
        for name in ("web.example", "api.example") * 4:
            caller.request("GET", f"https://{name}/")
        seen = {(request.tls_name, request.host) for server in started for request in server.requests}
    assert seen == {("web.example", "web.example"), ("api.example", "api.example")}


def test_a_connection_checked_for_one_name_is_not_used_for_another(
    calling: Calling, certificate: tuple[ssl.SSLContext, Path]
) -> None:
    context, trusted = certificate
    with servers(1, tls=context) as (server,):
        caller = calling(fixed([server]), trusted)
        for _ in range(2):
            caller.request("GET", "https://web.example/")
        assert server.accepted == 1
        with pytest.raises(caller.errors[1], match=r"(?i)hostname mismatch"):
            caller.request("GET", "https://evil.example/")
        assert len(server.requests) == 2


def test_after_a_failed_handshake_no_other_endpoint_is_tried(
    calling: Calling, certificate: tuple[ssl.SSLContext, Path]
) -> None:
    context, _ = certificate
    with servers(2, tls=context) as started:
        caller = calling(fixed(started))  # which does not trust it
        with pytest.raises(caller.errors[1], match=r"(?i)certificate"):
            caller.request("GET", "https://web.example/")
        assert sum(server.accepted for server in started) == 1


def test_a_proxy_of_the_environment_is_not_used(calling: Calling, monkeypatch: pytest.MonkeyPatch) -> None:
    with servers(1) as (server,), refusing() as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy}")
        assert calling(fixed([server])).request("GET", "http://web/").text == server.endpoint


def test_both_can_be_mounted_for_one_name() -> None:
    with servers(1) as (server,):
        source = fixed([server])
        with httpx2.Client(mounts={"http://web/": Transport(source)}) as client:
            assert client.get("http://web/health").text == server.endpoint
            assert client.get(f"http://{server.endpoint}/").text == server.endpoint
        with requests.Session() as session:
            session.mount("http://web/", Adapter(source))
            assert session.get("http://web/health", timeout=5).text == server.endpoint
            assert session.get(f"http://{server.endpoint}/", timeout=5).text == server.endpoint
    assert [request.host for request in server.requests] == ["web", server.endpoint] * 2


def test_the_callers_trace_is_still_called() -> None:
    events: list[str] = []

    def trace(event: str, _: object) -> None:
        events.append(event)

    async def async_trace(event: str, _: object) -> None:
        events.append(event)

    async def scenario() -> None:
        async with httpx2.AsyncClient(transport=AsyncTransport(fixed([server]))) as client:
            await client.get("http://web/", extensions={"trace": async_trace})

    with servers(1) as (server,):
        with httpx2.Client(transport=Transport(fixed([server]))) as client:
            client.get("http://web/", extensions={"trace": trace})
        asyncio.run(scenario())
    assert events.count("connection.connect_tcp.complete") == 2


@pytest.mark.parametrize("kind", [Transport, AsyncTransport, Adapter])
def test_endpoints_can_be_taken_in_turn_for_other_clients(kind: Any) -> None:
    balanced = kind()
    with pytest.raises(NoEndpointsError):
        balanced.rotate()
    before = balanced.event_count
    balanced.set_endpoints(["a:1", "b:1"])
    assert sorted(balanced.rotate() for _ in range(4)) == ["a:1", "a:1", "b:1", "b:1"]
    assert balanced.event_count == before + 1
    assert balanced.last_event is not None
    watched = kind(FixedSet(["c:1"]))
    with pytest.raises(BadValueError, match="come from a watch or another source"):
        watched.set_endpoints(["a:1"])
    assert watched.endpoints == ("c:1",)
