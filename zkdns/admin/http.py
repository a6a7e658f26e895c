"""HTTP at the admin address and at the Unix socket: routes, checks of every request, and errors.

The supervisor imports this module after the server has started, because aiohttp takes long to load.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from zkdns.address import HostPort
from zkdns.admin.api import Api
from zkdns.admin.api_types import Failure
from zkdns.admin.backend import Backend, NotReloadedError
from zkdns.admin.compression import Compressor
from zkdns.admin.connections import accept_tls, connection, cut_off
from zkdns.admin.page import page
from zkdns.admin.sse import Events
from zkdns.admin.status import RequestError
from zkdns.admin.timing import Timing
from zkdns.admin.token import Tokens
from zkdns.telemetry.last_hour import STEP, LastHour
from zkdns.transport.tls import Tls

log = structlog.get_logger("zkdns.admin")

_MAX_BODY = 1 << 16  # bytes; no request needs a body
_BACKLOG = 128

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"  # sufficient for ASCII metric names
_OPENMETRICS = "application/openmetrics-text"
_OPENMETRICS_1 = f"{_OPENMETRICS}; version=1.0.0; charset=utf-8"
_HEADERS = {
    "Server": "zkdns",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Monitoring uses any host name that resolves to the server; these paths reveal nothing confidential.
_ANY_HOST = ("/healthz", "/readyz", "/metrics")
_API = "/api/"


async def serve(
    sock: socket.socket,
    backend: Backend,
    closed: asyncio.Event,
    timing: Timing,
    *,
    is_local: bool,
    tls: Tls | None = None,
) -> None:
    """Serve on a listening socket until cancelled.

    Args:
        sock: the socket, which is closed at the end.
        backend: the server behind the address.
        closed: set when the socket is closed; requests in progress may still finish.
        timing: intervals and time limits.
        is_local: the socket is a Unix socket. Its mode decides which users may connect, so that all requests
            are permitted without a token.
        tls: the certificate; None: no TLS.
    """
    loop = asyncio.get_running_loop()
    events, hour = Events(backend, timing), LastHour(loop.time(), backend.worker_stats())
    tokens = None if is_local else Tokens()
    runner = web.AppRunner(
        _application(backend, Api(backend, events, hour, tokens, timing), timing, is_local=is_local),
        handler_cancellation=True,
        shutdown_timeout=timing.stop,
    )
    await runner.setup()
    if tokens is not None:  # log an unusable token file now instead of at the first request
        await asyncio.to_thread(tokens.read, backend.token_file)
    work: list[Callable[[], Awaitable[None]]] = [
        events.watch_status,
        events.watch_changes,
        partial(_add_points, backend, events, hour),
    ]
    new_connection = partial(connection, runner.server, timing.idle)
    listener: asyncio.Server | None = None
    if tls is None:
        create_server = loop.create_unix_server if is_local else loop.create_server
        listener = await create_server(new_connection, sock=sock, backlog=_BACKLOG)
    else:
        work += [partial(accept_tls, sock, tls, runner.server, timing.idle), tls.renew]
    try:
        async with asyncio.TaskGroup() as tasks:
            for each in work:
                tasks.create_task(_restarted(each, timing.restart))
    finally:
        events.close()
        if listener is not None:
            listener.close()
        sock.close()
        closed.set()
        await runner.cleanup()


async def _add_points(backend: Backend, events: Events, hour: LastHour) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(STEP)
        point = hour.add_point(clock(), backend.worker_stats())
        events.send_point(time.time(), point)


async def _restarted(work: Callable[[], Awaitable[None]], pause: float) -> None:
    """Run an endless task, and restart it after an internal error and a pause in seconds."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("event_stream_failed")
            await asyncio.sleep(pause)


# -- health -------------------------------------------------------------------------------------------------


class HealthCheck:
    """Checks whether the server answers DNS queries, once for any number of requests at a time.

    Args:
        check: returns the addresses that do not respond.
        seconds: time for which a result is reused.
    """

    def __init__(self, check: Callable[[], Awaitable[Sequence[HostPort]]], seconds: float) -> None:
        self._seconds = seconds
        self._check = check
        self._checking: asyncio.Task[Sequence[HostPort]] | None = None
        self._valid_until = 0.0

    async def failure(self) -> str | None:
        """Return a sentence with the addresses that do not respond. None if the server is healthy."""
        now = asyncio.get_running_loop().time()
        if self._checking is None or (self._checking.done() and now >= self._valid_until):
            self._checking = asyncio.create_task(self._check_now())
        # Shielded: a client that disconnects must not cancel the check for the others.
        silent = await asyncio.shield(self._checking)
        if not silent:
            return None
        return f"no answer over UDP at {', '.join(map(str, silent))}"

    async def _check_now(self) -> Sequence[HostPort]:
        silent = await self._check()
        self._valid_until = asyncio.get_running_loop().time() + self._seconds
        return silent


# -- requests -----------------------------------------------------------------------------------------------


def _application(backend: Backend, api: Api, timing: Timing, *, is_local: bool) -> web.Application:
    health = HealthCheck(backend.unresponsive_addresses, timing.health)

    async def status_page(request: web.Request) -> web.StreamResponse:
        return (await asyncio.to_thread(page)).response(request)

    async def healthz(_request: web.Request) -> web.StreamResponse:
        failure = await health.failure()
        if failure is None:
            return web.Response(text="ok\n")
        return web.Response(text=f"unhealthy: {failure}\n", status=HTTPStatus.SERVICE_UNAVAILABLE)

    async def readyz(_request: web.Request) -> web.StreamResponse:
        if backend.is_ready:
            return web.Response(text="ready\n")
        text = "not ready: the table has not been read yet\n"
        return web.Response(text=text, status=HTTPStatus.SERVICE_UNAVAILABLE)

    async def metrics(request: web.Request) -> web.StreamResponse:
        is_openmetrics = _OPENMETRICS in request.headers.get("Accept", "")
        text = await asyncio.to_thread(backend.metrics, is_openmetrics)
        kind = _OPENMETRICS_1 if is_openmetrics else _PROMETHEUS
        return web.Response(body=text.encode(), headers={"Content-Type": kind})

    routes = [
        web.get("/healthz", healthz),
        web.get("/readyz", readyz),
        web.get("/metrics", metrics),
        *api.routes(),
        web.get("/", status_page),
    ]
    paths = [route.path for route in routes]
    middleware = _middleware(backend, paths, timing.write, is_local=is_local)
    application = web.Application(middlewares=[middleware], client_max_size=_MAX_BODY)
    application.on_response_prepare.append(_add_headers)
    application.add_routes(routes)
    return application


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Content-Security-Policy", _POLICY)  # the page has its own policy


def _middleware(
    backend: Backend, paths: Sequence[str], write_seconds: float, *, is_local: bool
) -> Middleware:
    """Return a middleware that checks each request, and writes its response within a time limit."""
    compressor = Compressor()

    @web.middleware
    async def respond(request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        if transport is not None:
            # Writing then waits until the kernel has accepted everything. In TLS, 0 would never end.
            transport.set_write_buffer_limits(high=int(transport.get_extra_info("sslcontext") is not None))
        response = await _respond(request, handler, None if is_local else backend.names, paths)
        await compressor.apply(request, response)
        with contextlib.suppress(ConnectionError):  # the client has disconnected
            try:
                async with asyncio.timeout(write_seconds):
                    await response.prepare(request)
                    await response.write_eof()
            except TimeoutError:
                cut_off(transport)
        return response

    return respond


async def _respond(
    request: web.Request, handler: Handler, names: Sequence[str] | None, paths: Sequence[str]
) -> web.StreamResponse:
    try:
        _check(request, names)
        return await handler(request)
    except RequestError as error:
        errors = error.errors if isinstance(error, NotReloadedError) else ()
        return _error(request, error.status, str(error), errors)
    except web.HTTPNotFound:
        return _error(
            request, HTTPStatus.NOT_FOUND, f"{_path(request)}: no such path; available: {_listed(paths)}"
        )
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = _error(
            request,
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"{_path(request)}: method {request.method[:20]} is not allowed; allowed: {allowed}",
        )
        response.headers["Allow"] = allowed
        return response
    except Exception:  # an internal error must not stop the server
        log.exception("admin_request_failed", path=request.path)
        return _error(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; the log has the details")


def _check(request: web.Request, names: Sequence[str] | None) -> None:
    """Reject requests for a foreign host name (DNS rebinding) and requests with a large body.

    Args:
        request: the request.
        names: the names of this server. None: browsers cannot reach it.

    Raises:
        RequestError: it is rejected.
    """
    host = request.headers.get("Host", "")
    if names is not None and request.path not in _ANY_HOST and not is_own_host(host, names):
        raise RequestError(
            HTTPStatus.MISDIRECTED_REQUEST,
            f"{host[:100]!r} is not a name of this server; use its address or localhost, "
            "or add the name to admin.names",
        )
    if (request.content_length or 0) > _MAX_BODY:
        raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request has a body; requests have none")


def is_own_host(host: str, names: Sequence[str]) -> bool:
    """True if a header `Host` names this server, so that the request is not the result of DNS rebinding.

    Addresses are safe, because only names can be rebound. So is a missing header, which browsers always send.
    """
    is_bracketed = host.startswith("[")
    name = host[1:].partition("]")[0] if is_bracketed else host.partition(":")[0].lower().rstrip(".")
    if not name or name == "localhost" or name.endswith(".localhost") or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _error(
    request: web.Request, status: HTTPStatus, sentence: str, errors: Sequence[str] = ()
) -> web.Response:
    if request.path.startswith(_API):
        body = msgspec.json.encode(Failure(sentence, tuple(errors))) + b"\n"
        response = web.Response(body=body, content_type="application/json", status=status)
    else:
        response = web.Response(text=f"{sentence}\n", status=status)
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _path(request: web.Request) -> str:
    """Return the path as it was sent, shortened."""
    return request.raw_path.partition("?")[0][:100]


def _listed(paths: Sequence[str]) -> str:
    return f"{', '.join(paths[:-1])} and {paths[-1]}"
