"""HTTP at the admin address: what any request must keep to, and how its response leaves.

This module is loaded when the server is already answering, since aiohttp takes its time.
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

from zkdns.observe.admin_token import Tokens
from zkdns.observe.api import Api
from zkdns.observe.connections import connection, cut_off
from zkdns.observe.events import Events
from zkdns.observe.health import Health
from zkdns.observe.page import page
from zkdns.observe.series import STEP, LastHour
from zkdns.observe.status import RequestError, Server

log = structlog.get_logger("zkdns.admin")

_TAKE_SECONDS = 10.0  # for a response to be taken
_STOP_SECONDS = 0.5
_AGAIN_SECONDS = 2.0
_MOST_BODY = 1 << 16  # bytes; no request needs any
_BACKLOG = 128

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"  # the text format; our names need no later one
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
# For machines, which call the server by whatever name leads to it, and learn nothing that is worth a secret.
_FOR_MACHINES = ("/healthz", "/readyz", "/metrics")
_API = "/api/"


async def serve(sock: socket.socket, server: Server, left: asyncio.Event) -> None:
    """Answer at a listening socket until cancelled.

    Args:
        sock: the socket, which is closed then.
        server: what is told of.
        left: set when it is closed; who has asked by then may still be answered.
    """
    loop = asyncio.get_running_loop()
    events, hour = Events(server), LastHour(loop.time(), server.answerers())
    tokens = Tokens()
    runner = web.AppRunner(
        _application(server, Api(server, events, hour, tokens)),
        handler_cancellation=True,
        shutdown_timeout=_STOP_SECONDS,
    )
    await runner.setup()
    # So that it is said at once, and not just when it is needed, that nobody can use it.
    await asyncio.to_thread(tokens.read, server.token_file)
    listener = await loop.create_server(partial(connection, runner.server), sock=sock, backlog=_BACKLOG)
    try:
        async with asyncio.TaskGroup() as tasks:
            for work in (
                events.look_at_status,
                events.look_for_changes,
                partial(_take_points, server, events, hour),
            ):
                tasks.create_task(_unbroken(work))
    finally:
        events.close()
        listener.close()
        left.set()
        await runner.cleanup()


async def _take_points(server: Server, events: Events, hour: LastHour) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(STEP)
        point = hour.take(clock(), server.answerers())
        events.tell_figures(time.time(), point)


async def _unbroken(work: Callable[[], Awaitable[None]]) -> None:
    """Do what never ends; a mistake of ours in it is logged, and it begins again."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("what is new cannot be told")
            await asyncio.sleep(_AGAIN_SECONDS)


# -- requests -----------------------------------------------------------------------------------------------


def _application(server: Server, api: Api) -> web.Application:
    health = Health(server.silent)

    async def status_page(_request: web.Request) -> web.StreamResponse:
        found = await asyncio.to_thread(page)
        headers = {"Content-Security-Policy": found.policy}
        return web.Response(text=found.html, content_type="text/html", headers=headers)

    async def healthz(_request: web.Request) -> web.StreamResponse:
        illness = await health.illness()
        if illness is None:
            return web.Response(text="ok\n")
        return web.Response(text=f"not well: {illness}\n", status=HTTPStatus.SERVICE_UNAVAILABLE)

    async def readyz(_request: web.Request) -> web.StreamResponse:
        if server.is_ready:
            return web.Response(text="ready\n")
        text = "not ready: the table has not been read yet\n"
        return web.Response(text=text, status=HTTPStatus.SERVICE_UNAVAILABLE)

    async def metrics(request: web.Request) -> web.StreamResponse:
        is_openmetrics = _OPENMETRICS in request.headers.get("Accept", "")
        text = await asyncio.to_thread(server.metrics, is_openmetrics)
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
    application = web.Application(middlewares=[_around(server, paths)], client_max_size=_MOST_BODY)
    application.on_response_prepare.append(_add_headers)
    application.add_routes(routes)
    return application


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Content-Security-Policy", _POLICY)  # the page has one of its own


def _around(server: Server, paths: Sequence[str]) -> Middleware:
    """What is done before and after each request is handled."""

    @web.middleware
    async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        if transport is not None:
            # So that writing waits until the kernel has all, and not just until little is left.
            transport.set_write_buffer_limits(high=0)
        response = await _respond(request, handler, server, paths)
        with contextlib.suppress(ConnectionError):  # who has hung up misses nothing
            try:
                async with asyncio.timeout(_TAKE_SECONDS):
                    await response.prepare(request)
                    await response.write_eof()
            except TimeoutError:
                cut_off(transport)
        return response

    return around


async def _respond(
    request: web.Request, handler: Handler, server: Server, paths: Sequence[str]
) -> web.StreamResponse:
    try:
        _check(request, server)
        return await handler(request)
    except RequestError as error:
        return _error(request, error.status, str(error))
    except web.HTTPNotFound:
        return _error(
            request, HTTPStatus.NOT_FOUND, f"{_path(request)}: not here; there are {_listed(paths)}"
        )
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = _error(
            request,
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"{_path(request)}: not by {request.method[:20]}, but {allowed}",
        )
        response.headers["Allow"] = allowed
        return response
    except Exception:  # a mistake of ours must not cost the address
        log.exception("an admin request failed", path=request.path)
        return _error(
            request, HTTPStatus.INTERNAL_SERVER_ERROR, "the server could not do it; its log says why"
        )


def _check(request: web.Request, server: Server) -> None:
    """Turn away what a foreign page has a browser send, and what is larger than any request.

    Raises:
        RequestError: why not.
    """
    host = request.headers.get("Host", "")
    if request.path not in _FOR_MACHINES and not is_known(host, server.names):
        raise RequestError(
            HTTPStatus.MISDIRECTED_REQUEST,
            f"{host[:100]!r} is no name of this server; ask it by its address or as localhost, "
            "or name what it is called with admin.names",
        )
    if (request.content_length or 0) > _MOST_BODY:
        raise RequestError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request has a body, which is not read here"
        )


def is_known(host: str, names: Sequence[str]) -> bool:
    """Whether a header `Host` means this server, and no name that somebody made lead to it (DNS rebinding).

    Addresses do, since names alone can be made to; and so does no header at all, which browsers always send.
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


def _error(request: web.Request, status: HTTPStatus, sentence: str) -> web.Response:
    if request.path.startswith(_API):
        body = msgspec.json.encode({"error": sentence}) + b"\n"
        response = web.Response(body=body, content_type="application/json", status=status)
    else:
        response = web.Response(text=f"{sentence}\n", status=status)
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _path(request: web.Request) -> str:
    """The path as it was sent, as far as it helps to find the mistake."""
    return request.raw_path.partition("?")[0][:100]


def _listed(paths: Sequence[str]) -> str:
    return f"{', '.join(paths[:-1])} and {paths[-1]}"
