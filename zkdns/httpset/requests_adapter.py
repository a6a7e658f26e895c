"""`Adapter`: a server set behind a session of requests."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

from zkdns.address import HostPort, parse_host_port
from zkdns.balance.round_robin import RoundRobin
from zkdns.errors import NoEndpointsError
from zkdns.httpset.balanced import Balanced
from zkdns.serverset.watch import EndpointSource

_DEFAULT_PORTS = {"http": 80, "https": 443}


class NoEndpointsConnectionError(NoEndpointsError, requests.ConnectionError):
    """There is no endpoint to connect to; both a ZkdnsError and requests' own."""


class _Attempt(requests.PreparedRequest):
    """A request on its way to one endpoint: its URL stays, the connection goes there."""

    def __init__(self, request: requests.PreparedRequest, address: HostPort) -> None:
        super().__init__()
        self.__dict__.update(request.copy().__dict__)
        self.address = address
        # Derived from the connection otherwise. In the copy only: the original may yet be redirected.
        self.headers.setdefault("Host", _host_header(str(request.url)))


class Adapter(Balanced, HTTPAdapter):
    """Sends each request to the next endpoint of a server set; mount it as `session.mount("http://web/", …)`.

    A prefix without the slash at its end would take `http://website` too. The connect time-out, in seconds,
    holds for each endpoint that is tried. A request's body is not touched before a connection stands, so a
    stream can be sent after failed connections too. A failed TLS handshake is no failed connection: it is
    raised, and no other endpoint tried. Endpoints are connected to directly, whatever proxies the session or
    the environment names. Closing closes the connections, not the source.

    Args:
        source: a watch, a fixed set, or anything like them; None: `set_endpoints` says what there is.
        pool_maxsize: how many idle connections are kept to each endpoint.
    """

    def __init__(self, source: EndpointSource | None = None, *, pool_maxsize: int = 10) -> None:
        self._balancer = RoundRobin(source)
        self._seen: tuple[str, ...] | None = None  # the endpoints whose pools are the only ones
        # One urllib3 pool for each endpoint, however many: the usual limit of 10 would, at 11 endpoints,
        # close each connection before its turn comes again.
        super().__init__(pool_connections=sys.maxsize, pool_maxsize=pool_maxsize)

    def send(  # noqa: PLR0917 - the base's parameters
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,  # noqa: ANN401 - a number, a pair, or urllib3's own
        verify: bool | str = True,
        cert: Any = None,  # noqa: ANN401 - a path or a pair
        proxies: Mapping[str, str] | None = None,  # noqa: ARG002 - see above
    ) -> requests.Response:
        """Send one request; called by the session.

        Raises:
            NoEndpointsError: the set is empty; it is a `requests.ConnectionError` too.
            requests.RequestException: as `HTTPAdapter` does; ConnectionError or ConnectTimeout when every
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
                    failures[endpoint] = error
                else:
                    response.request = request
                    return response
        finally:
            failures.clear()  # their tracebacks lead here
            if self.endpoints is not endpoints:
                # Another thread may have dropped the pools of the departed before this one made such a pool.
                self._seen = None

    def build_connection_pool_key_attributes(
        self,
        request: requests.PreparedRequest,
        verify: bool | str,
        cert: Any = None,  # noqa: ANN401 - a path or a pair
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Which of urllib3's pools to use: the endpoint's, and of these the one for the URL's TLS name."""
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        if isinstance(request, _Attempt):
            if host["scheme"] == "https":
                # Part of the pool's key: a connection checked for one name is never used for another.
                pool["server_hostname"] = host["host"]
            host |= {"host": request.address.host, "port": request.address.port}
        return host, pool

    def _next(
        self, request: requests.PreparedRequest, failures: Mapping[str, requests.ConnectionError]
    ) -> str:
        try:
            return self._balancer.pick(without=failures)
        except NoEndpointsError as error:
            if not failures:
                url = urlsplit(str(request.url))
                where = f"{url.scheme}://{_host_header(str(request.url))}"
                raise NoEndpointsConnectionError(f"{where}: {error}", request=request) from None
            last = list(failures.values())[-1]
            told = ", ".join(f"{endpoint} ({_reason(failure)})" for endpoint, failure in failures.items())
            raise type(last)(f"no endpoint accepted a connection: {told}", request=request) from last

    def _forget_departed(self, endpoints: tuple[str, ...]) -> None:
        """Drop the pools of endpoints that have left: urllib3 closes them when their last response ends."""
        if endpoints is self._seen:
            return
        self._seen = endpoints
        present = {endpoint.lower() for endpoint in endpoints}  # as urllib3 writes hosts
        pools = self.poolmanager.pools
        for key in pools.keys():  # noqa: SIM118 - a copy, which this container gives no other way
            host, port = key.key_host, key.key_port
            if host and port and str(HostPort(host.strip("[]"), port)) not in present:
                pools.pop(key, None)


def _host_header(url: str) -> str:
    """What HTTP/1.1 asks for (RFC 9110 §7.2): the host, and the port unless it is the scheme's own."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if parts.port is not None and parts.port == _DEFAULT_PORTS.get(parts.scheme):
        return host.rpartition(":")[0]
    return host


def _never_opened(error: requests.ConnectionError) -> bool:
    """Whether no connection came to be: refused, not in time, no route, or no such host."""
    return isinstance(_cause(error), NewConnectionError | ConnectTimeoutError)


def _cause(error: requests.ConnectionError) -> BaseException:
    wrapped = error.args[0] if error.args else None
    if isinstance(wrapped, MaxRetryError) and wrapped.reason is not None:
        return wrapped.reason
    return wrapped if isinstance(wrapped, BaseException) else error


def _clear_frames(error: BaseException) -> None:
    """Drop what the frames of a failure hold.

    One of urllib3's holds its own exception, and so all frames that called it, and so the response that
    another endpoint gives in the end. The garbage collector would have to find that cycle before the
    connections of an endpoint that leaves are closed.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__context__


def _reason(error: requests.ConnectionError) -> str:
    """What the system said, without the names of the objects that urllib3 passes it through."""
    cause = _cause(error)
    return str(cause.__cause__ or cause)
