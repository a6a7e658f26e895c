"""The JSON API below `/api/`, for pages and programs. Requests that change something need the token."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from zkdns.admin.connections import Connection, cut_off
from zkdns.admin.sse import Events
from zkdns.admin.status import Backend, RequestError
from zkdns.admin.timing import Timing
from zkdns.admin.token import Tokens
from zkdns.telemetry.last_hour import LastHour

_DEFAULT_LIMIT: Final = 1_000  # history entries in a response
_MAX_LIMIT: Final = 10_000
_MAX_NUMBER = (1 << 63) - 1
# Browsers mark requests of pages of other sites (Fetch Metadata). Other clients do not send the header.
_OWN_SITE = (None, "same-origin", "none")


class Api:
    """Handlers of all API requests.

    Args:
        backend: the server.
        events: creates event streams.
        hour: the series of the last hour.
        tokens: checks bearer tokens.
        timing: time limits.
    """

    def __init__(
        self, backend: Backend, events: Events, hour: LastHour, tokens: Tokens, timing: Timing
    ) -> None:
        self._timing = timing
        self._tokens = tokens
        self._backend = backend
        self._events = events
        self._hour = hour

    def routes(self) -> list[web.RouteDef]:
        """Return all routes."""
        return [
            web.get("/api/status", self._status),
            web.get("/api/stats", self._stats),
            web.get("/api/last-hour", self._last_hour),
            web.get("/api/services", self._services),
            web.get("/api/explain", self._explain),
            web.get("/api/history", self._history),
            web.get("/api/events", self._stream),
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

    async def _last_hour(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        return _json(self._hour.read(asyncio.get_running_loop().time(), time.time()))

    async def _services(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        return _json({"services": await self._backend.services()})

    async def _explain(self, request: web.Request) -> web.StreamResponse:
        name = _parameters(request, "name").get("name")
        if not name:
            raise RequestError(
                HTTPStatus.BAD_REQUEST, "the parameter name is missing; write ?name=web.staging"
            )
        explained = await self._backend.explain(name)
        if explained.kind != "absent":
            return _json(explained)
        body = {**msgspec.to_builtins(explained), "error": explained.rule}
        return _json(body, status=HTTPStatus.NOT_FOUND)

    async def _history(self, request: web.Request) -> web.StreamResponse:
        given = _parameters(request, "service", "after", "limit")
        after = _integer(given, "after", 0, 0, _MAX_NUMBER)
        limit = _integer(given, "limit", _DEFAULT_LIMIT, 1, _MAX_LIMIT)
        history = await self._backend.history(given.get("service"), after, limit)
        return _json({"entries": history.entries, "last": history.last})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        last = request.headers.get("Last-Event-ID", "")
        last_id = (
            int(last) if last.isascii() and last.isdigit() and len(last) < len(str(_MAX_NUMBER)) else None
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
                    async with asyncio.timeout(self._timing.write):
                        await response.write(piece)
            except TimeoutError:
                stream.is_dropped = True
            except ConnectionError:  # the client has closed it
                pass
        if stream.is_dropped:
            cut_off(request.transport)  # the client has stopped reading
        return response

    # -- changing ------------------------------------------------------------------------------------------

    async def _accept(self, request: web.Request) -> web.StreamResponse:
        await self._check_authorization(request)
        given = _parameters(request, "service", "all")
        service, every = given.get("service"), given.get("all")
        if (every == "1") == bool(service) or every not in (None, "1"):
            raise RequestError(
                HTTPStatus.BAD_REQUEST, "name a service with ?service=, or write ?all=1 for all of them"
            )
        return _json(await self._backend.accept(service))

    async def _flush(self, request: web.Request) -> web.StreamResponse:
        await self._check_authorization(request)
        return _json(await self._backend.flush(_parameters(request, "name").get("name")))

    async def _reload(self, request: web.Request) -> web.StreamResponse:
        await self._check_authorization(request)
        _parameters(request)
        return _json(await self._backend.reload())

    async def _check_authorization(self, request: web.Request) -> None:
        """Check that a request is not from a page of another site, and has the token."""
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


def _parameters(request: web.Request, *accepted: str) -> dict[str, str]:
    """Return the parameters of the query string.

    Raises:
        RequestError: one is unknown or occurs twice.
    """
    given = request.query
    for name in given:
        if name not in accepted:
            known = f"known parameters: {', '.join(accepted)}" if accepted else "there are none"
            raise RequestError(HTTPStatus.BAD_REQUEST, f"the parameter {name[:40]!r} is unknown; {known}")
        if len(given.getall(name)) > 1:
            raise RequestError(HTTPStatus.BAD_REQUEST, f"the parameter {name} occurs twice")
    return dict(given)


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
