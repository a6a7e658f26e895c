"""The options of the inner transport, and inner transports of the caller."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import requests
import trustme

from tests.support.http2 import Http2Handler, offering_http2
from tests.support.scripted import ScriptedServer
from tests.support.waiting import eventually
from tests.support.web import fixed, make_certificate, refusing, servers
from zkdns import BadValueError, FixedSet
from zkdns.httpset import Adapter, AsyncTransport, Transport
from zkdns.httpset import httpx as for_httpx

LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])


def http_script(peers: list[str]) -> Callable[[socket.socket], None]:
    """Record the address of the peer and respond to one request, the last of this connection."""

    def script(connection: socket.socket) -> None:
        peers.append(connection.getpeername()[0])
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")

    return script


@LIBRARIES
def test_the_local_address_and_socket_options_are_passed(library: Any) -> None:
    peers: list[str] = []
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    with ScriptedServer(http_script(peers)) as server:
        source = FixedSet([server.endpoint])
        transport = Transport(source, local_address="127.0.0.9", socket_options=iter(options))
        with library.Client(transport=transport) as client:
            for _ in range(2):  # the second needs the options again
                assert client.get("http://web/").text == "ok"
        adapter = Adapter(source, source_address=("127.0.0.8", 0), socket_options=options)
        with requests.Session() as session:
            session.mount("http://web/", adapter)
            assert session.get("http://web/", timeout=5).text == "ok"
    assert peers == ["127.0.0.9", "127.0.0.9", "127.0.0.8"]


@LIBRARIES
def test_a_client_certificate_is_passed(library: Any, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("client@example.com")
    path = tmp_path / "client.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(path))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context, _ = make_certificate(tmp_path, "web.example")
    context.load_verify_locations(tmp_path / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with servers(1, tls=context) as (server,):
        source = fixed([server])
        transport = Transport(source, verify=False, cert=str(path))
        with library.Client(transport=transport) as client:
            assert client.get("https://web.example/").text == server.endpoint
        with (
            library.Client(transport=Transport(source, verify=False)) as client,
            pytest.raises(library.TransportError),
        ):
            client.get("https://web.example/")


@LIBRARIES
def test_http1_can_be_off(library: Any, tmp_path: Path) -> None:
    context, trusted = make_certificate(tmp_path, "web.example")
    trusting = ssl.create_default_context(cafile=trusted)
    with servers(1, tls=offering_http2(context), handler=Http2Handler) as (server,):
        transport = Transport(fixed([server]), verify=trusting, http1=False, http2=True)
        with library.Client(transport=transport) as client:
            assert client.get("https://web.example/").http_version == "HTTP/2"


@LIBRARIES
def test_a_failed_connection_is_retried_as_often_as_wanted(library: Any) -> None:
    """Two retries are three attempts, after pauses of 0 and 0.5 s; then the next endpoint is used."""
    events: list[str] = []
    with servers(1) as (server,), refusing() as nobody:
        source = FixedSet([nobody])
        with library.Client(transport=Transport(source, retries=2, retry_after=0)) as client:
            with pytest.raises(library.ConnectError):
                client.get("http://web/", extensions={"trace": lambda event, _: events.append(event)})
            assert events.count("connection.connect_tcp.failed") == 3
            source.set_endpoints([nobody, server.endpoint])
            for _ in range(2):
                assert client.get("http://web/").text == server.endpoint
        adapter = Adapter(source, max_retries=1)
        with requests.Session() as session:
            session.mount("http://web/", adapter)
            for _ in range(2):
                assert session.get("http://web/", timeout=5).text == server.endpoint


@LIBRARIES
def test_a_function_makes_the_transport_of_each_endpoint(library: Any) -> None:
    made: list[Any] = []

    def make() -> Any:
        made.append(library.HTTPTransport(local_address="127.0.0.9"))
        return made[-1]

    with servers(2) as started, refusing() as nobody:
        source = fixed(started, nobody)
        with library.Client(transport=Transport(source, inner=make)) as client:
            for _ in range(6):
                client.get("http://web/")
            assert len(made) == 3
            source.set_endpoints([started[0].endpoint])
            client.get("http://web/")
            eventually(lambda: not started[1].open)


@LIBRARIES
def test_one_transport_may_serve_all_endpoints_and_is_closed_at_the_end(library: Any) -> None:
    closed: list[bool] = []

    class Inner(library.HTTPTransport):  # type: ignore[misc]
        def close(self) -> None:
            closed.append(True)
            super().close()

    with servers(2) as started:
        source = fixed(started)
        with library.Client(transport=Transport(source, inner=Inner())) as client:
            assert {client.get("http://web/").text for _ in range(4)} == set(source.endpoints)
            source.set_endpoints([started[0].endpoint])
            assert {client.get("http://web/").text for _ in range(4)} == set(source.endpoints)
            assert closed == []  # not with the first endpoint that leaves
        assert closed == [True]


@LIBRARIES
def test_one_transport_is_not_used_for_two_names_with_tls(library: Any, tmp_path: Path) -> None:
    context, trusted = make_certificate(tmp_path, "web.example", "api.example")
    trusting = ssl.create_default_context(cafile=trusted)
    with servers(1, tls=context) as (server,):
        inner = library.HTTPTransport(verify=trusting)
        with library.Client(transport=Transport(fixed([server]), inner=inner)) as client:
            assert client.get("https://web.example/").text == server.endpoint
            with pytest.raises(
                BadValueError, match=r"connections for 'web\.example', which must not be used"
            ):
                client.get("https://api.example/")
            assert client.get("https://web.example/").text == server.endpoint


@LIBRARIES
def test_a_transport_without_trace_events_may_fail_to_connect(library: Any) -> None:
    """Its exception alone decides; other exceptions mean that the request may have been sent."""
    tried: list[str] = []

    def handle(request: Any) -> Any:
        tried.append(request.url.netloc.decode())
        if request.url.host == "a":
            raise library.ConnectError("refused")
        if request.url.host == "b":
            raise library.ReadError("lost")
        return library.Response(200, text="ok")

    source = FixedSet(["a:1", "c:1"])
    transport = Transport(source, inner=library.MockTransport(handle), retry_after=0)
    with library.Client(transport=transport) as client:
        assert [client.get("http://web/").text for _ in range(4)] == ["ok"] * 4
        assert "a:1" in tried
        source.set_endpoints(["b:1"])
        tried.clear()
        with pytest.raises(library.ReadError):
            client.get("http://web/")
        assert tried == ["b:1"]


@LIBRARIES
def test_asynchronous_inner_transports(library: Any) -> None:
    async def handle(request: Any) -> Any:
        if request.url.host == "a":
            raise library.ConnectTimeout("no answer")
        return library.Response(200, text=request.url.netloc.decode())

    async def scenario(inner: Any) -> None:
        transport = AsyncTransport(FixedSet(["a:1", "c:1"]), inner=inner)
        async with library.AsyncClient(transport=transport) as client:
            assert [(await client.get("http://web/")).text for _ in range(4)] == ["c:1"] * 4

    asyncio.run(scenario(library.MockTransport(handle)))
    asyncio.run(scenario(lambda: library.MockTransport(handle)))


def test_an_invalid_inner_transport_is_rejected() -> None:
    with pytest.raises(BadValueError, match="not both"):
        Transport(inner=httpx.HTTPTransport, retries=1)
    with pytest.raises(BadValueError, match=r"inner is 5; it is a transport, or a function that makes one"):
        Transport(inner=5)
    with pytest.raises(BadValueError, match=r"inner is <.*; it is a transport"):
        for_httpx.Transport(inner=httpx2.HTTPTransport())
    with (
        httpx.Client(transport=for_httpx.Transport(FixedSet(["a:1"]), inner=httpx2.HTTPTransport)) as client,
        pytest.raises(BadValueError, match=r"inner made <.*; it makes a httpx\.BaseTransport"),
    ):
        client.get("http://web/")
    for wrong in (-1, float("nan"), float("inf")):
        for kind in (Transport, AsyncTransport, Adapter):
            with pytest.raises(BadValueError, match="retry_after is"):
                kind(retry_after=wrong)
    with contextlib.suppress(TypeError):
        Transport(proxy="http://proxy/")  # type: ignore[call-arg]
        pytest.fail("a proxy would hide the endpoints")
