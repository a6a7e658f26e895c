"""The JSON API below `/api/`, for commands, pages and programs.

Requests that change something need the token, except at the Unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from zkdns.admin.backend import Backend
from zkdns.admin.compression import with_entity_tag
from zkdns.admin.connections import Connection, cut_off
from zkdns.admin.openapi import (
    DEFAULT_LIMIT,
    JSON,
    LINES,
    MAX_LIMIT,
    MAX_NUMBER,
    OPENAPI,
    PARAMETERS,
    document,
)
from zkdns.admin.prometheus_sd import target_pieces
from zkdns.admin.sse import Events
from zkdns.admin.status import RequestError
from zkdns.admin.timing import Timing
from zkdns.admin.token import Tokens
from zkdns.telemetry.last_hour import LastHour

MAX_RUNNING: Final = 4
"""Maximum number of requests for the watcher's data that run at a time. Further ones wait for their turn."""
MAX_COPIES: Final = 4
"""Maximum number of copies of the table or of all members that are sent at a time."""
# Browsers mark requests of pages of other sites (Fetch Metadata). Other clients do not send the header.
_OWN_SITE = (None, "same-origin", "none")


class Api:
    """Handlers of all API requests.

    Args:
        backend: the server.
        events: creates event streams.
        hour: the series of the last hour.
        tokens: checks bearer tokens. None: no request needs one.
        timing: time limits.
    """

    def __init__(
        self, backend: Backend, events: Events, hour: LastHour, tokens: Tokens | None, timing: Timing
    ) -> None:
        self._timing = timing
        self._tokens = tokens
        self._backend = backend
        self._events = events
        self._hour = hour
        self._running = asyncio.Semaphore(MAX_RUNNING)
        self._copies = 0

    def routes(self) -> list[web.RouteDef]:
        """Return all routes."""
        return [
            web.get("/api/status", self._status),
            web.get("/api/stats", self._stats),
            web.get("/api/traffic", self._traffic),
            web.get("/api/last-hour", self._last_hour),
            web.get("/api/services", self._services),
            web.get("/api/explain", self._explain),
            web.get("/api/history", self._history),
            web.get("/api/count", self._count),
            web.get("/api/names", self._names),
            web.get("/api/sets", self._sets),
            web.get("/api/members", self._members),
            web.get("/api/digests", self._digests),
            web.get("/api/table", self._table),
            web.get("/api/prometheus-sd", self._targets),
            web.get("/api/events", self._stream),
            web.get(OPENAPI, self._openapi),
            web.post("/api/accept", self._accept),
            web.post("/api/flush", self._flush),
            web.post("/api/reload", self._reload),
        ]

    # -- reading -------------------------------------------------------------------------------------------

    async def _status(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        return _json(self._backend.status())

    async def _stats(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        return _json(self._backend.stats())

    async def _traffic(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        return _json(self._backend.traffic())

    async def _last_hour(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        return _json(self._hour.read(asyncio.get_running_loop().time(), time.time()))

    async def _services(self, request: web.Request) -> web.StreamResponse:
        after = _integer(_parameters(request), "after", 0, 0, MAX_NUMBER)
        async with self._running:
            return with_entity_tag(request, _json(await self._backend.services(after)))

    async def _explain(self, request: web.Request) -> web.StreamResponse:
        name = _required(request, "name")
        async with self._running:
            explained = await self._backend.explain(name)
        if explained.kind != "absent":
            return _json(explained)
        body = {**msgspec.to_builtins(explained), "error": explained.rule}
        return _json(body, status=HTTPStatus.NOT_FOUND)

    async def _history(self, request: web.Request) -> web.StreamResponse:
        given = _parameters(request)
        after = _integer(given, "after", 0, 0, MAX_NUMBER)
        limit = _integer(given, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
        async with self._running:
            return _json(await self._backend.history(given.get("service"), after, limit))

    async def _count(self, request: web.Request) -> web.StreamResponse:
        service = _required(request, "service")
        async with self._running:
            return _json(await self._backend.count(service))

    async def _names(self, request: web.Request) -> web.StreamResponse:
        given = _parameters(request)
        only_held, near = _flag(given, "held"), given.get("near")
        if near is not None and len(given) > 1:
            raise RequestError(HTTPStatus.BAD_REQUEST, "near cannot be combined with other parameters")
        async with self._running:
            if near is not None:
                return _json(await self._backend.similar_names(near))
            return _json(await self._backend.service_names(given.get("prefix", ""), only_held=only_held))

    async def _sets(self, request: web.Request) -> web.StreamResponse:
        environment = _parameters(request).get("environment")
        async with self._running:
            return _json(await self._backend.sets(environment))

    async def _members(self, request: web.Request) -> web.StreamResponse:
        service = _parameters(request).get("service")
        return await self._send_pieces(request, self._backend.member_lines(service), LINES)

    async def _digests(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        async with self._running:
            return with_entity_tag(request, _json(await self._backend.digests()))

    async def _table(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        return await self._send_pieces(request, self._backend.table_lines(), LINES)

    async def _targets(self, request: web.Request) -> web.StreamResponse:
        endpoint = _parameters(request).get("endpoint")
        pieces = target_pieces(self._backend.member_lines(), endpoint)
        return await self._send_pieces(request, pieces, JSON)

    async def _send_pieces(
        self, request: web.Request, pieces: AsyncGenerator[bytes], media: str
    ) -> web.StreamResponse:
        """Send a body as the client reads it. A failure after the first piece resets the connection."""
        response = web.StreamResponse(headers={"Content-Type": media})
        if request.method == "HEAD":
            return response
        if self._copies >= MAX_COPIES:
            raise RequestError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{MAX_COPIES} copies are being sent, which is the limit; try later",
            )
        self._copies += 1
        try:
            async with contextlib.aclosing(pieces):
                first = await anext(pieces, b"")  # a failure here has an ordinary response
                await response.prepare(request)
                await self._write(response, first)
                async for piece in pieces:
                    await self._write(response, piece)
        except (TimeoutError, RequestError):
            if not response.prepared:
                raise
            cut_off(request.transport)
        except ConnectionError:  # the client has closed it
            pass
        finally:
            self._copies -= 1
        return response

    async def _write(self, response: web.StreamResponse, piece: bytes) -> None:
        async with asyncio.timeout(self._timing.write):
            await response.write(piece)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        last = request.headers.get("Last-Event-ID", "")
        last_id = (
            int(last) if last.isascii() and last.isdigit() and len(last) < len(str(MAX_NUMBER)) else None
        )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if request.method == "HEAD":
            return response
        async with self._events.stream(last_id) as stream:
            if isinstance(request.protocol, Connection):
                request.protocol.is_stream = True
            await response.prepare(request)
            try:
                async for piece in stream:
                    await self._write(response, piece)
            except TimeoutError:
                stream.is_dropped = True
            except ConnectionError:  # the client has closed it
                pass
        if stream.is_dropped:
            cut_off(request.transport)  # the client has stopped reading
        return response

    async def _openapi(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        return web.Response(body=await asyncio.to_thread(document), content_type="application/json")

    # -- changing ------------------------------------------------------------------------------------------

    async def _accept(self, request: web.Request) -> web.StreamResponse:
        await self._check_authorization(request)
        given = _parameters(request)
        service = given.get("service")
        if _flag(given, "all") == bool(service):
            raise RequestError(
                HTTPStatus.BAD_REQUEST, "name a service with ?service=, or write ?all=1 for all of them"
            )
        return _json(await self._backend.accept(service))

    async def _flush(self, request: web.Request) -> web.StreamResponse:
        await self._check_authorization(request)
        return _json(await self._backend.flush(_parameters(request).get("name")))

    async def _reload(self, request: web.Request) -> web.StreamResponse:
        await self._check_authorization(request)
        replace_all = _flag(_parameters(request), "all")
        return _json(await self._backend.reload(replace_all=replace_all))

    async def _check_authorization(self, request: web.Request) -> None:
        """Check that a request is not from a page of another site, and has the token if it needs one."""
        if self._tokens is None:
            return
        if request.headers.get("Sec-Fetch-Site") not in _OWN_SITE:
            raise RequestError(HTTPStatus.FORBIDDEN, "requests from pages of other sites are not allowed")
        # In a thread, because the file may be on a slow file system.
        await asyncio.to_thread(
            self._tokens.check, self._backend.token_file, request.headers.get("Authorization")
        )


def _json(body: object, *, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    """Make a response with JSON in one line."""
    text = msgspec.json.encode(body) + b"\n"
    return web.Response(body=text, content_type="application/json", status=status)


def _parameters(request: web.Request) -> dict[str, str]:
    """Return the parameters of the query string, of which `openapi.py` lists the accepted ones.

    Raises:
        RequestError: one is unknown or occurs twice.
    """
    given, accepted = request.query, PARAMETERS[request.path]
    for name in given:
        if name not in accepted:
            known = f"known parameters: {', '.join(accepted)}" if accepted else "there are none"
            raise RequestError(HTTPStatus.BAD_REQUEST, f"the parameter {name[:40]!r} is unknown; {known}")
        if len(given.getall(name)) > 1:
            raise RequestError(HTTPStatus.BAD_REQUEST, f"the parameter {name} occurs twice")
    return dict(given)


def _required(request: web.Request, name: str) -> str:
    """Return the only parameter.

    Raises:
        RequestError: it is missing, or there are others.
    """
    value = _parameters(request).get(name)
    if not value:
        raise RequestError(
            HTTPStatus.BAD_REQUEST, f"the parameter {name} is missing; write ?{name}=web.staging"
        )
    return value


def _flag(given: dict[str, str], name: str) -> bool:
    """Parse a parameter that is 1 if it is present.

    Raises:
        RequestError: it has another value.
    """
    text = given.get(name)
    if text not in {None, "1"}:
        raise RequestError(
            HTTPStatus.BAD_REQUEST, f"{name} is {str(text)[:40]!r}; write {name}=1 or leave it out"
        )
    return text is not None


def _integer(given: dict[str, str], name: str, default: int, lowest: int, highest: int) -> int:
    """Parse a parameter as an integer.

    Raises:
        RequestError: it is not a number, or out of bounds.
    """
    text = given.get(name)
    if text is None:
        return default
    digits = text if text.isascii() and text.isdigit() and len(text) <= len(str(highest)) else None
    if digits is None or not lowest <= int(digits) <= highest:
        raise RequestError(
            HTTPStatus.BAD_REQUEST, f"{name} is {text[:40]!r}; write a number from {lowest} to {highest}"
        )
    return int(digits)
