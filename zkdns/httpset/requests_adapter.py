"""`Adapter`: a server set for sessions of requests."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError
from urllib3.util import Retry

from zkdns.address import HostPort, parse_host_port
from zkdns.errors import NoEndpointsError
from zkdns.httpset.balanced import RETRY_AFTER, Balanced
from zkdns.serverset import forking
from zkdns.serverset.watch import EndpointSource

_DEFAULT_PORTS = {"http": 80, "https": 443}


class NoEndpointsConnectionError(NoEndpointsError, requests.ConnectionError):
    """There is no endpoint. This is both a ZkdnsError and a requests.ConnectionError."""


class _Attempt(requests.PreparedRequest):
    """A copy of a request for one endpoint. The URL stays; the connection goes to the endpoint."""

    def __init__(self, request: requests.PreparedRequest, address: HostPort) -> None:
        super().__init__()
        self.__dict__.update(request.copy().__dict__)
        self.address = address
        # Without this, the header would name the endpoint. Only the copy gets it, since redirects use the
        # original.
        self.headers.setdefault("Host", _host_header(str(request.url)))


class Adapter(Balanced, HTTPAdapter):
    """Sends each request to the next endpoint of a server set.

        session = requests.Session()
        session.mount("http://web/", Adapter(watch))

    A prefix without the final slash would match `http://website` too. The connect timeout applies to each
    endpoint that is tried. The request's body is not read before a connection is open, so a stream can be
    sent after failed attempts too. A failed TLS handshake does not count as a failed connection: the
    exception is raised, and no other endpoint is tried. Proxies of the session or the environment are not
    used. `close` closes the connections, but not the source.

    The session provides client certificates (`session.cert`).

    Args:
        source: a watch, a fixed set, or any `EndpointSource`. None: only `set_endpoints` provides endpoints.
        pool_maxsize: the maximum number of idle connections to each endpoint.
        pool_block: whether it is the maximum number of connections too, so that requests wait for one.
        max_retries: how often a failed connection is tried again before the next endpoint; or urllib3's
            `Retry`, which can also repeat requests.
        retry_after: seconds for which an endpoint gets no requests after a failed connection, if there are
            others. 0: it keeps its turn.
        clock: returns the time in seconds, for `retry_after`.
        **pool_options: those of urllib3's `HTTPConnectionPool`, such as `source_address=("10.0.0.9", 0)` and
            `socket_options`.

    Raises:
        BadValueError: `retry_after` is out of range.
    """

    def __init__(
        self,
        source: EndpointSource | None = None,
        *,
        pool_maxsize: int = 10,
        pool_block: bool = False,
        max_retries: int | Retry = 0,
        retry_after: float = RETRY_AFTER,
        clock: Callable[[], float] = time.monotonic,
        **pool_options: object,
    ) -> None:
        Balanced.__init__(self, source, retry_after=retry_after, clock=clock)
        self._seen: tuple[str, ...] | None = None  # the endpoints at the last cleanup of pools
        self._pool_options = pool_options
        # One urllib3 pool per endpoint without a limit: with the usual limit of 10, a set of 11 endpoints
        # would close each connection before it is used again.
        HTTPAdapter.__init__(
            self,
            pool_connections=sys.maxsize,
            pool_maxsize=pool_maxsize,
            max_retries=max_retries,
            pool_block=pool_block,
        )
        self._pool_limits = sys.maxsize, pool_maxsize, pool_block
        forking.add(self)

    def after_fork(self) -> None:
        """Drop the connections of the parent in a forked child."""
        forking.drop(self.poolmanager)
        self._seen = None
        self.init_poolmanager(*self._pool_limits)

    def init_poolmanager(
        self,
        connections: int,
        maxsize: int,
        block: bool = False,
        **pool_kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Create urllib3's pools with the options of this adapter. The base class calls this."""
        super().init_poolmanager(connections, maxsize, block, **{**self._pool_options, **pool_kwargs})

    def send(  # noqa: PLR0917 - the base's parameters
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,  # noqa: ANN401 - a number, a pair, or urllib3's type
        verify: bool | str = True,
        cert: Any = None,  # noqa: ANN401 - a path or a pair
        proxies: Mapping[str, str] | None = None,  # noqa: ARG002 - not used, see above
    ) -> requests.Response:
        """Send one request. The session calls this.

        Raises:
            NoEndpointsError: the set is empty. It is a `requests.ConnectionError` too.
            requests.RequestException: as in `HTTPAdapter`; ConnectionError or ConnectTimeout after every
                endpoint was tried.
        """
        endpoints = self.endpoints
        self._forget_departed(endpoints)
        failures: dict[str, requests.ConnectionError] = {}
        try:
            while True:
                endpoint = self._next(request, failures)
                attempt = _Attempt(request, parse_host_port(endpoint))
                try:
                    response = super().send(attempt, stream, timeout, verify, cert)
                except requests.RequestException as error:
                    error.request = request
                    if not isinstance(error, requests.ConnectionError) or not _never_opened(error):
                        raise
                    _clear_frames(error)
                    self._connection_failed(endpoint, _reason(error))
                    failures[endpoint] = error
                else:
                    self._responded(endpoint)
                    response.request = request
                    return response
        finally:
            failures.clear()  # their tracebacks refer to this frame
            if self.endpoints is not endpoints:
                # This request may have made a pool of a departed endpoint after another one has removed
                # those.
                self._seen = None

    def build_connection_pool_key_attributes(
        self,
        request: requests.PreparedRequest,
        verify: bool | str,
        cert: Any = None,  # noqa: ANN401 - a path or a pair
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The key of the urllib3 pool to use: by endpoint and TLS server name."""
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        if isinstance(request, _Attempt):
            if host["scheme"] == "https":
                # In the key, so that a connection with a certificate for one name is not used for another.
                pool["server_hostname"] = host["host"]
            host |= {"host": request.address.host, "port": request.address.port}
        return host, pool

    def _next(
        self, request: requests.PreparedRequest, failures: Mapping[str, requests.ConnectionError]
    ) -> str:
        try:
            return self._next_endpoint(failures)
        except NoEndpointsError as error:
            if not failures:
                url = urlsplit(str(request.url))
                where = f"{url.scheme}://{_host_header(str(request.url))}"
                raise NoEndpointsConnectionError(f"{where}: {error}", request=request) from None
            last = list(failures.values())[-1]
            reasons = ", ".join(f"{endpoint} ({_reason(failure)})" for endpoint, failure in failures.items())
            raise type(last)(f"no endpoint accepted a connection: {reasons}", request=request) from last

    def _forget_departed(self, endpoints: tuple[str, ...]) -> None:
        """Remove the pools of departed endpoints. urllib3 closes each after its last response."""
        if endpoints is self._seen:
            return
        self._seen = endpoints
        present = {endpoint.lower() for endpoint in endpoints}  # as urllib3 spells hosts
        pools = self.poolmanager.pools
        for key in pools.keys():  # noqa: SIM118 - this container copies its keys only here
            host, port = key.key_host, key.key_port
            if host and port and str(HostPort(host.strip("[]"), port)) not in present:
                pools.pop(key, None)


def _host_header(url: str) -> str:
    """The Host header (RFC 9110 §7.2): the host, and the port unless it is the scheme's default."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if parts.port is not None and parts.port == _DEFAULT_PORTS.get(parts.scheme):
        return host.rpartition(":")[0]
    return host


def _never_opened(error: requests.ConnectionError) -> bool:
    """Whether no connection was opened: refused, timed out, no route, or unknown host."""
    return isinstance(_cause(error), NewConnectionError | ConnectTimeoutError)


def _cause(error: requests.ConnectionError) -> BaseException:
    wrapped = error.args[0] if error.args else None
    if isinstance(wrapped, MaxRetryError) and wrapped.reason is not None:
        return wrapped.reason
    return wrapped if isinstance(wrapped, BaseException) else error


def _clear_frames(error: BaseException) -> None:
    """Clear the frames of a failed attempt.

    A frame of urllib3 refers to its own exception, which refers to all frames of its callers, and so to the
    response of the endpoint that succeeds in the end. The connections of a departed endpoint would stay open
    until the garbage collector finds that cycle.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__context__


def _reason(error: requests.ConnectionError) -> str:
    """The error of the operating system, without urllib3's object names."""
    cause = _cause(error)
    return str(cause.__cause__ or cause)
