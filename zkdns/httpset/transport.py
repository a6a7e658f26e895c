"""The transports of a server set for clients of httpx and of httpx2, which have the same interface.

`zkdns.httpset.httpx` and `zkdns.httpset.httpx2` derive their classes from these and from the base classes of
their library; `zkdns.httpset.either` derives from those of both. The library of a request decides which
library sends it.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from operator import methodcaller
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

from zkdns.address import parse_host_port
from zkdns.errors import BadValueError, MissingExtraError, NoEndpointsError
from zkdns.httpset.balanced import RETRY_AFTER, Balanced
from zkdns.httpset.pools import Pool, Pools
from zkdns.serverset import forking
from zkdns.serverset.watch import EndpointSource

# Types of httpx or of httpx2. This module imports neither.
Request: TypeAlias = Any
Response: TypeAlias = Any
Limits: TypeAlias = Any
Inner: TypeAlias = Any

SocketOption: TypeAlias = (
    tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
)
Certificate: TypeAlias = str | tuple[str, str] | tuple[str, str, str]

_CONNECT_STARTED: Final = "connection.connect_tcp.started"  # trace events of httpcore and httpcore2
_CONNECT_FAILED: Final = "connection.connect_tcp.failed"


class Library:
    """httpx or httpx2, with the classes that are derived from it.

    Args:
        module: the imported library.
    """

    def __init__(self, module: Any) -> None:  # noqa: ANN401 - a module
        self.module = module
        self.name: str = module.__name__
        self.not_opened = (module.ConnectError, module.ConnectTimeout)
        self.bases = (module.BaseTransport, module.AsyncBaseTransport)
        self.NoEndpointsConnectError = type(
            "NoEndpointsConnectError",
            (NoEndpointsError, module.ConnectError),
            {"__doc__": "There is no endpoint. This is both a ZkdnsError and a ConnectError."},
        )
        self.Stream = type("Stream", (_Stream, module.SyncByteStream), {})
        self.AsyncStream = type("AsyncStream", (_AsyncStream, module.AsyncByteStream), {})


@dataclass(frozen=True, kw_only=True)
class _Options:
    """The options of the transport to one endpoint, as in `HTTPTransport`."""

    context: ssl.SSLContext
    http1: bool
    http2: bool
    limits: Limits
    local_address: str | None
    retries: int
    socket_options: Iterable[SocketOption] | None

    def make(self, library: Library, class_name: str) -> Inner:
        given, limits = self.limits, library.module.Limits(max_connections=100, max_keepalive_connections=20)
        if given is not None:  # those of the other library have the same attributes
            limits = library.module.Limits(
                max_connections=given.max_connections,
                max_keepalive_connections=given.max_keepalive_connections,
                keepalive_expiry=given.keepalive_expiry,
            )
        return getattr(library.module, class_name)(
            verify=self.context,
            http1=self.http1,
            http2=self.http2,
            limits=limits,
            local_address=self.local_address,
            retries=self.retries,
            socket_options=self.socket_options,
        )


class _Attempts:
    """The connection attempts of one request, with the failures so far."""

    def __init__(
        self, library: Library, pools: Pools[Inner], request: Request, next_endpoint: Callable[..., str]
    ) -> None:
        self._library = library
        self._pools = pools
        self._request = request
        self._next_endpoint = next_endpoint
        self.server_name = ""
        if request.url.scheme in {"https", "wss"}:
            named = request.extensions.get("sni_hostname")
            self.server_name = named if isinstance(named, str) else request.url.raw_host.decode("ascii")
        self._failures: dict[str, Exception] = {}

    def next(self) -> tuple[str, Pool[Inner]]:
        """The next endpoint, and its pool, for which the caller has to call `Pools.leave`.

        Raises:
            NoEndpointsConnectError: the set is empty.
            ConnectError: no endpoint accepted a connection.
            ConnectTimeout: the same, and the last one did not respond in time.
        """
        try:
            endpoint = self._next_endpoint(self._failures)
        except NoEndpointsError as error:
            if not self._failures:
                where = f"{self._request.url.scheme}://{self._request.url.netloc.decode('ascii')}"
                made = self._library.NoEndpointsConnectError(f"{where}: {error}", request=self._request)
                raise made from None
            last = list(self._failures.values())[-1]
            failures = ", ".join(
                f"{name} ({str(failure) or 'timed out'})" for name, failure in self._failures.items()
            )
            message = f"no endpoint accepted a connection: {failures}"
            raise type(last)(message, request=self._request) from last  # type: ignore[call-arg]
        return endpoint, self._pools.enter(endpoint, self.server_name)

    def failed(self, endpoint: str, error: Exception) -> None:
        """Record a failed attempt. The endpoint is not tried again."""
        self._failures[endpoint] = error

    def request_to(self, endpoint: str, trace: Callable[[str, Any], object]) -> Request:
        """The request, addressed to an endpoint but with the original Host header and TLS server name."""
        request, address = self._request, parse_host_port(endpoint)
        headers = request.headers.copy()
        headers.setdefault("Host", request.url.netloc.decode("ascii"))
        extensions = {**request.extensions, "trace": trace}
        if self.server_name:
            extensions["sni_hostname"] = self.server_name
        return self._library.module.Request(
            request.method,
            request.url.copy_with(host=address.host, port=address.port),
            headers=headers,
            stream=request.stream,
            extensions=extensions,
        )


class BaseTransport(Balanced):
    """The common part of the synchronous and the asynchronous transport.

    Args:
        source: a watch, a fixed set, or any `EndpointSource`. None: only `set_endpoints` provides endpoints.
        verify: the SSL context, or the path of a file or directory of authorities. True: the usual ones.
            False: any certificate.
        cert: a client certificate: the path of its file; a pair with that of the key; or these and the
            password of the key.
        trust_env: whether SSL_CERT_FILE and SSL_CERT_DIR of the environment are used.
        http1: whether to offer HTTP/1.1.
        http2: whether to offer HTTP/2. It requires the extra `http2` of the library.
        limits: for the connections to each endpoint. None: 100, of which 20 may be idle, for 5 s.
        local_address: the address to connect from.
        retries: how often a failed connection is tried again before the next endpoint.
        socket_options: for `setsockopt` of each connection.
        inner: instead of the options above, a function that makes the transport of your library for one
            endpoint and TLS server name, such as `lambda: httpx.HTTPTransport(http1=False)`. Or a transport
            for all endpoints, which is closed with this one; with TLS, it is used for one server name only,
            and after a fork, in the child only if it was not used before.
        retry_after: seconds for which an endpoint gets no requests after a failed connection, if there are
            others. 0: it keeps its turn.
        clock: returns the time in seconds, for `retry_after`.

    Raises:
        MissingExtraError: the package for HTTP/2 is not installed.
        BadValueError: an option out of range, or both `inner` and options of the inner transport.
    """

    _libraries: ClassVar[tuple[Library, ...]]
    _inner_class: ClassVar[str]
    _can_close_in_child: ClassVar[bool] = False  # whether closing an inner transport sends nothing

    def __init__(
        self,
        source: EndpointSource | None = None,
        *,
        verify: ssl.SSLContext | str | bool = True,
        cert: Certificate | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: Limits = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[SocketOption] | None = None,
        inner: Inner = None,
        retry_after: float = RETRY_AFTER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(source, retry_after=retry_after, clock=clock)
        first = self._libraries[0]
        self._shared: Inner = None  # the transport for all endpoints
        self._shared_name = ""  # its TLS server name
        self._is_shared_used = False
        self._is_shared_of_parent = False
        forking.add(self)
        options = (verify, cert, trust_env, http1, http2, limits, local_address, retries, socket_options)
        if inner is None:
            if http2 and find_spec("h2") is None:  # the library itself would fail in the middle of a request
                raise MissingExtraError("http2=True needs h2: pip install h2")
            # One context for all pools, since making one is slow.
            context = _ssl_context(first, verify, cert, trust_env=trust_env)
            made = _Options(
                context=context, http1=http1, http2=http2, limits=limits, local_address=local_address,
                retries=retries, socket_options=None if socket_options is None else tuple(socket_options),
            )  # fmt: skip
            self._make: Callable[[Library], Inner] = partial(made.make, class_name=self._inner_class)
        elif options != (True, None, True, True, False, None, None, 0, None):
            raise BadValueError("pass either inner or the options of the inner transport, not both")
        elif isinstance(inner, self._inner_bases()):
            self._shared = inner
            self._make = self._use_shared
        elif callable(inner):
            self._make = lambda _: self._checked(inner())
        else:
            raise BadValueError(f"inner is {inner!r}; it is a transport, or a function that makes one")
        close_in_child = methodcaller("close") if inner is None and self._can_close_in_child else None
        self._pools: dict[str, Pools[Inner]] = {
            library.name: Pools(partial(self._make, library), close_in_child) for library in self._libraries
        }

    def after_fork(self) -> None:
        """In a forked child, do not use connections of the parent."""
        self._is_shared_of_parent = self._is_shared_used

    def _inner_bases(self) -> tuple[type, ...]:
        raise NotImplementedError

    def _checked(self, inner: Inner) -> Inner:
        if not isinstance(inner, self._inner_bases()):
            bases = " or ".join(
                f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in self._inner_bases()
            )
            raise BadValueError(f"inner made {inner!r}; it makes a {bases}")
        return inner

    def _use_shared(self, _: Library) -> Inner:
        if self._is_shared_of_parent:
            raise BadValueError(
                "the inner transport has connections of the parent of this forked process; "
                "pass a function that makes an inner transport"
            )
        self._is_shared_used = True
        return _Unclosed(self._shared)

    def _attempts(self, request: Request) -> tuple[Library, Pools[Inner], _Attempts]:
        for library in self._libraries:
            if isinstance(request, library.module.Request):
                pools = self._pools[library.name]
                attempts = _Attempts(library, pools, request, self._next_endpoint)
                self._check_shared_name(attempts.server_name)
                return library, pools, attempts
        other = type(request).__module__.partition(".")[0]
        names = " and ".join(library.name for library in self._libraries)
        raise BadValueError(
            f"this transport is for clients of {names}, and got a request of {other}; "
            f"for a client of {other} use the classes of zkdns.httpset.{other}"
        )

    def _check_shared_name(self, server_name: str) -> None:
        """Keep a connection with a certificate for one name from being used for another."""
        if self._shared is None or not server_name:
            return
        self._shared_name = self._shared_name or server_name
        if server_name != self._shared_name:
            raise BadValueError(
                f"the inner transport has connections for {self._shared_name!r}, which must not be used for "
                f"{server_name!r}; pass a function that makes an inner transport"
            )


class SyncTransport(BaseTransport):
    """Sends each request to the next endpoint of a server set.

    The client's connect timeout applies to each endpoint that is tried. The request's body is not read before
    a connection is open, so a stream can be sent after failed attempts too. A failed TLS handshake does not
    count as a failed connection: the exception is raised, and no other endpoint is tried. `close` closes the
    connections, but not the source.
    """

    _inner_class = "HTTPTransport"
    _can_close_in_child = True

    def handle_request(self, request: Request) -> Response:
        """Send one request. The client calls this.

        Raises:
            NoEndpointsError: the set is empty. It is a ConnectError of the client's library too.
            TransportError: as in `HTTPTransport`; ConnectError or ConnectTimeout after every endpoint was
                tried.
        """
        library, pools, attempts = self._attempts(request)
        for transport in pools.take_departed(self.endpoints):
            transport.close()
        while True:
            endpoint, pool = attempts.next()
            opening = _Opening(request.extensions)
            try:
                response = pool.transport.handle_request(attempts.request_to(endpoint, opening))
            except BaseException as error:
                pools.leave(pool)
                if not (isinstance(error, library.not_opened) and opening.has_failed):
                    raise
                self._connection_failed(endpoint, str(error) or "timed out")
                attempts.failed(endpoint, error)
            else:
                self._responded(endpoint)
                response.stream = library.Stream(response.stream, partial(pools.leave, pool))
                return response

    def close(self) -> None:
        """Close all connections. Later requests open new ones."""
        for pools in self._pools.values():
            for transport in pools.take_all():
                transport.close()
        if self._shared is not None and not self._is_shared_of_parent:
            self._shared.close()

    def _inner_bases(self) -> tuple[type, ...]:
        return tuple(library.bases[0] for library in self._libraries)


class AsyncTransport(BaseTransport):
    """As `SyncTransport`, for asyncio."""

    _inner_class = "AsyncHTTPTransport"

    async def handle_async_request(self, request: Request) -> Response:
        """Send one request. The client calls this.

        Raises:
            NoEndpointsError: the set is empty. It is a ConnectError of the client's library too.
            TransportError: as in `AsyncHTTPTransport`; ConnectError or ConnectTimeout after every endpoint
                was tried.
        """
        library, pools, attempts = self._attempts(request)
        for transport in pools.take_departed(self.endpoints):
            await transport.aclose()
        while True:
            endpoint, pool = attempts.next()
            opening = _AsyncOpening(request.extensions)
            try:
                response = await pool.transport.handle_async_request(attempts.request_to(endpoint, opening))
            except BaseException as error:
                pools.leave(pool)
                if not (isinstance(error, library.not_opened) and opening.has_failed):
                    raise
                self._connection_failed(endpoint, str(error) or "timed out")
                attempts.failed(endpoint, error)
            else:
                self._responded(endpoint)
                response.stream = library.AsyncStream(response.stream, partial(pools.leave, pool))
                return response

    async def aclose(self) -> None:
        """Close all connections. Later requests open new ones."""
        for pools in self._pools.values():
            for transport in pools.take_all():
                await transport.aclose()
        if self._shared is not None and not self._is_shared_of_parent:
            await self._shared.aclose()

    def _inner_bases(self) -> tuple[type, ...]:
        return tuple(library.bases[1] for library in self._libraries)


def _ssl_context(
    library: Library, verify: ssl.SSLContext | str | bool, cert: Certificate | None, *, trust_env: bool
) -> ssl.SSLContext:
    """The context for these options. The libraries' own functions warn about paths as `verify` and `cert`."""
    if isinstance(verify, str):
        is_directory = Path(verify).is_dir()
        context = ssl.create_default_context(
            cafile=None if is_directory else verify, capath=verify if is_directory else None
        )
    else:
        context = library.module.create_ssl_context(verify, trust_env=trust_env)
    if cert is not None:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    return context


class _Opening:
    """Detects a failed connection, as the request's `trace` extension.

    The exception is not enough: the libraries raise ConnectError and ConnectTimeout for a TLS handshake as
    well. An inner transport without httpcore has no trace events; there the exception decides.
    """

    def __init__(self, extensions: Mapping[str, Any]) -> None:
        self._outcome: bool | None = None  # whether the last event was a failed connection; None: no event
        self._then: Callable[[str, Any], Any] | None = extensions.get("trace")

    @property
    def has_failed(self) -> bool:
        """Whether no connection was opened, provided that the exception means that too."""
        return self._outcome is not False

    def _see(self, event: str) -> None:
        if event == _CONNECT_FAILED:
            self._outcome = True
        elif event == _CONNECT_STARTED or self._outcome is None:
            self._outcome = False

    def __call__(self, event: str, info: Any) -> None:  # noqa: ANN401 - httpcore's type
        self._see(event)
        if self._then is not None:
            self._then(event, info)


class _AsyncOpening(_Opening):
    _then: Callable[[str, Any], Awaitable[object]] | None

    async def __call__(self, event: str, info: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        self._see(event)
        if self._then is not None:
            await self._then(event, info)


class _Unclosed:
    """A transport for all endpoints, in the pool of one endpoint, which does not close it."""

    def __init__(self, inner: Inner) -> None:
        self.handle_request = getattr(inner, "handle_request", None)
        self.handle_async_request = getattr(inner, "handle_async_request", None)

    def close(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""


class _Stream:
    """A response's body. It uses its pool until it is closed."""

    def __init__(self, stream: Any, leave: Callable[[], None]) -> None:  # noqa: ANN401 - of either library
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


class _AsyncStream:
    def __init__(self, stream: Any, leave: Callable[[], None]) -> None:  # noqa: ANN401 - of either library
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
