"""`Transport` and `AsyncTransport`: a server set for clients of httpx2."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any, Final, Generic, TypeVar, cast

import httpx2

from zkdns.address import parse_host_port
from zkdns.balance.round_robin import RoundRobin
from zkdns.errors import MissingExtraError, NoEndpointsError
from zkdns.httpset.balanced import Balanced
from zkdns.httpset.pools import Pool, Pools
from zkdns.serverset.watch import EndpointSource

# httpx2's own defaults, per endpoint.
_LIMITS: Final = httpx2.Limits(max_connections=100, max_keepalive_connections=20)
_CONNECT_FAILED: Final = "connection.connect_tcp.failed"  # httpcore2's trace event
_NOT_OPENED: Final = (httpx2.ConnectError, httpx2.ConnectTimeout)

T = TypeVar("T", httpx2.HTTPTransport, httpx2.AsyncHTTPTransport)


class NoEndpointsConnectError(NoEndpointsError, httpx2.ConnectError):
    """There is no endpoint. This is both a ZkdnsError and an httpx2.ConnectError."""


class _Attempts(Generic[T]):
    """The connection attempts of one request, with the failures so far."""

    def __init__(self, balancer: RoundRobin, pools: Pools[T], request: httpx2.Request) -> None:
        self._balancer = balancer
        self._pools: Pools[T] = pools
        self._request = request
        self._server_name = ""
        if request.url.scheme in {"https", "wss"}:
            named = request.extensions.get("sni_hostname")
            self._server_name = named if isinstance(named, str) else request.url.raw_host.decode("ascii")
        self._failures: dict[str, httpx2.TransportError] = {}

    def next(self) -> tuple[str, Pool[T]]:
        """The next endpoint, and its pool, for which the caller has to call `Pools.leave`.

        Raises:
            NoEndpointsConnectError: the set is empty.
            httpx2.ConnectError: no endpoint accepted a connection.
            httpx2.ConnectTimeout: the same, and the last one did not respond in time.
        """
        try:
            endpoint = self._balancer.pick(without=self._failures)
        except NoEndpointsError as error:
            if not self._failures:
                where = f"{self._request.url.scheme}://{self._request.url.netloc.decode('ascii')}"
                raise NoEndpointsConnectError(f"{where}: {error}", request=self._request) from None
            last = list(self._failures.values())[-1]
            failures = ", ".join(
                f"{name} ({str(failure) or 'timed out'})" for name, failure in self._failures.items()
            )
            message = f"no endpoint accepted a connection: {failures}"
            raise type(last)(message, request=self._request) from last
        return endpoint, self._pools.enter(endpoint, self._server_name)

    def failed(self, endpoint: str, error: httpx2.TransportError) -> None:
        """Record a failed attempt. The endpoint is not tried again."""
        self._failures[endpoint] = error

    def request_to(self, endpoint: str, trace: Callable[[str, Any], object]) -> httpx2.Request:
        """The request, addressed to an endpoint but with the original Host header and TLS server name."""
        request, address = self._request, parse_host_port(endpoint)
        headers = request.headers.copy()
        headers.setdefault("Host", request.url.netloc.decode("ascii"))
        extensions = {**request.extensions, "trace": trace}
        if self._server_name:
            extensions["sni_hostname"] = self._server_name
        return httpx2.Request(
            request.method,
            request.url.copy_with(host=address.host, port=address.port),
            headers=headers,
            stream=request.stream,
            extensions=extensions,
        )


class _Balanced(Balanced, Generic[T]):
    """The common part of both transports. `_inner` is the class of the transport to one endpoint."""

    _inner: type[T]

    def __init__(
        self,
        source: EndpointSource | None = None,
        *,
        verify: ssl.SSLContext | bool = True,
        http2: bool = False,
        limits: httpx2.Limits | None = None,
    ) -> None:
        if http2 and find_spec("h2") is None:  # httpx2 itself would fail in the middle of a request
            raise MissingExtraError("http2=True needs h2: pip install 'httpx2[http2]'")
        context = httpx2.create_ssl_context(verify)  # one for all pools, since making one is slow
        self._balancer = RoundRobin(source)
        self._pools: Pools[T] = Pools(
            lambda: self._inner(verify=context, http2=http2, limits=limits or _LIMITS)
        )


class Transport(_Balanced[httpx2.HTTPTransport], httpx2.BaseTransport):
    """Sends each request to the next endpoint of a server set.

        with httpx2.Client(transport=Transport(watch)) as client:
            client.get("http://web/health")

    The client's connect timeout applies to each endpoint that is tried. The request's body is not read before
    a connection is open, so a stream can be sent after failed attempts too. A failed TLS handshake does not
    count as a failed connection: the exception is raised, and no other endpoint is tried. `close` closes the
    connections, but not the source.

    Args:
        source: a watch, a fixed set, or any `EndpointSource`. None: only `set_endpoints` provides endpoints.
        verify: the SSL context. True: the usual authorities. False: any certificate.
        http2: whether to offer HTTP/2, as in `httpx2.HTTPTransport`. It requires `httpx2[http2]`.
        limits: for the connections to each endpoint. None: 100, of which 20 may be idle, for 5 s.

    Raises:
        MissingExtraError: the package for HTTP/2 is not installed.
    """

    _inner = httpx2.HTTPTransport

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request. The client calls this.

        Raises:
            NoEndpointsError: the set is empty. It is an `httpx2.ConnectError` too.
            httpx2.TransportError: as in `httpx2.HTTPTransport`; ConnectError or ConnectTimeout after every
                endpoint was tried.
        """
        for transport in self._pools.take_departed(self.endpoints):
            transport.close()
        attempts = _Attempts(self._balancer, self._pools, request)
        while True:
            endpoint, pool = attempts.next()
            opening = _Opening(request.extensions)
            try:
                response = pool.transport.handle_request(attempts.request_to(endpoint, opening))
            except BaseException as error:
                self._pools.leave(pool)
                if not (opening.failed and isinstance(error, _NOT_OPENED)):
                    raise
                attempts.failed(endpoint, error)
            else:
                stream = cast("httpx2.SyncByteStream", response.stream)
                response.stream = _Stream(stream, partial(self._pools.leave, pool))
                return response

    def close(self) -> None:
        """Close all connections."""
        for transport in self._pools.take_all():
            transport.close()


class AsyncTransport(_Balanced[httpx2.AsyncHTTPTransport], httpx2.AsyncBaseTransport):
    """As `Transport`, for asyncio.

        async with httpx2.AsyncClient(transport=AsyncTransport(watch)) as client:
            await client.get("http://web/health")

    The arguments are the same.
    """

    _inner = httpx2.AsyncHTTPTransport

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request. The client calls this.

        Raises:
            NoEndpointsError: the set is empty. It is an `httpx2.ConnectError` too.
            httpx2.TransportError: as in `httpx2.AsyncHTTPTransport`; ConnectError or ConnectTimeout after
                every endpoint was tried.
        """
        for transport in self._pools.take_departed(self.endpoints):
            await transport.aclose()
        attempts = _Attempts(self._balancer, self._pools, request)
        while True:
            endpoint, pool = attempts.next()
            opening = _AsyncOpening(request.extensions)
            try:
                response = await pool.transport.handle_async_request(attempts.request_to(endpoint, opening))
            except BaseException as error:
                self._pools.leave(pool)
                if not (opening.failed and isinstance(error, _NOT_OPENED)):
                    raise
                attempts.failed(endpoint, error)
            else:
                stream = cast("httpx2.AsyncByteStream", response.stream)
                response.stream = _AsyncStream(stream, partial(self._pools.leave, pool))
                return response

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in self._pools.take_all():
            await transport.aclose()


class _Opening:
    """Detects a failed connection, as the request's `trace` extension.

    The exception is not enough: httpx2 raises ConnectError and ConnectTimeout for a TLS handshake as well.
    """

    def __init__(self, extensions: Mapping[str, Any]) -> None:
        self.failed = False
        self._then: Callable[[str, Any], object] | None = extensions.get("trace")

    def __call__(self, event: str, info: Any) -> None:  # noqa: ANN401 - httpcore2's type
        self.failed = self.failed or event == _CONNECT_FAILED
        if self._then is not None:
            self._then(event, info)


class _AsyncOpening:
    def __init__(self, extensions: Mapping[str, Any]) -> None:
        self.failed = False
        self._then: Callable[[str, Any], Awaitable[object]] | None = extensions.get("trace")

    async def __call__(self, event: str, info: Any) -> None:  # noqa: ANN401 - httpcore2's type
        self.failed = self.failed or event == _CONNECT_FAILED
        if self._then is not None:
            await self._then(event, info)


class _Stream(httpx2.SyncByteStream):
    """A response's body. It uses its pool until it is closed."""

    def __init__(self, stream: httpx2.SyncByteStream, leave: Callable[[], None]) -> None:
        self._stream = stream
        self._leave: Callable[[], None] | None = leave

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        leave, self._leave = self._leave, None
        try:
            self._stream.close()
        finally:
            if leave is not None:
                leave()


class _AsyncStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, leave: Callable[[], None]) -> None:
        self._stream = stream
        self._leave: Callable[[], None] | None = leave

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        leave, self._leave = self._leave, None
        try:
            await self._stream.aclose()
        finally:
            if leave is not None:
                leave()
