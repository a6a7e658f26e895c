"""The calls below `/api/`: JSON for pages and programs. Whatever changes something asks for the token."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from zkdns.observe.admin_token import Tokens
from zkdns.observe.connections import Connection, cut_off
from zkdns.observe.events import Events
from zkdns.observe.series import LastHour
from zkdns.observe.status import RequestError, Server

_MOST_ENTRIES: Final = 10_000
_ENTRIES: Final = 1_000
_MOST_NUMBER = (1 << 63) - 1
_TAKE_SECONDS = 10.0  # for a piece of a stream to be taken
# What a page of another site has a browser send says so (Fetch Metadata); who is no browser says nothing.
_OWN_SITE = (None, "same-origin", "none")


class Api:
    """Answers the calls.

    Args:
        server: is asked, and told what to do.
        events: what streams are made of.
        hour: the last one, in figures.
        tokens: says who may change something.
    """

    def __init__(self, server: Server, events: Events, hour: LastHour, tokens: Tokens) -> None:
        self._tokens = tokens
        self._server = server
        self._events = events
        self._hour = hour

    def routes(self) -> list[web.RouteDef]:
        """All calls there are."""
        return [
            web.get("/api/status", self._status),
            web.get("/api/services", self._services),
            web.get("/api/explain", self._explain),
            web.get("/api/history", self._history),
            web.get("/api/figures", self._figures),
            web.get("/api/events", self._stream),
            web.post("/api/accept", self._accept),
            web.post("/api/flush", self._flush),
            web.post("/api/reload", self._reload),
        ]

    # -- reading -------------------------------------------------------------------------------------------

    async def _status(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        return _json(self._server.status())

    async def _services(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        return _json({"services": await self._server.services()})

    async def _explain(self, request: web.Request) -> web.StreamResponse:
        name = _parameters(request, "name").get("name")
        if not name:
            raise RequestError(HTTPStatus.BAD_REQUEST, "name one with ?name=, as ?name=web.staging")
        explained = await self._server.explain(name)
        if explained.kind != "absent":
            return _json(explained)
        answer = {**msgspec.to_builtins(explained), "error": explained.rule}
        return _json(answer, status=HTTPStatus.NOT_FOUND)

    async def _history(self, request: web.Request) -> web.StreamResponse:
        given = _parameters(request, "service", "after", "most")
        after = _whole(given, "after", 0, 0, _MOST_NUMBER)
        most = _whole(given, "most", _ENTRIES, 1, _MOST_ENTRIES)
        history = await self._server.history(given.get("service"), after, most)
        return _json({"entries": history.entries, "last": history.last})

    async def _figures(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        return _json(self._hour.read(asyncio.get_running_loop().time(), time.time()))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        _parameters(request)
        last = request.headers.get("Last-Event-ID", "")
        known = (
            int(last) if last.isascii() and last.isdigit() and len(last) < len(str(_MOST_NUMBER)) else None
        )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if request.method == "HEAD":
            return response
        async with self._events.stream(known) as stream:
            if isinstance(request.protocol, Connection):
                request.protocol.is_stream = True
            await response.prepare(request)
            try:
                async for piece in stream:
                    async with asyncio.timeout(_TAKE_SECONDS):
                        await response.write(piece)
            except TimeoutError:
                stream.is_dropped = True
            except ConnectionError:  # its reader has gone
                pass
        if stream.is_dropped:
            cut_off(request.transport)  # what it did not take until now, it never will
        return response

    # -- changing ------------------------------------------------------------------------------------------

    async def _accept(self, request: web.Request) -> web.StreamResponse:
        await self._check_may_change(request)
        given = _parameters(request, "service", "all")
        service, every = given.get("service"), given.get("all")
        if (every == "1") == bool(service) or every not in (None, "1"):
            raise RequestError(
                HTTPStatus.BAD_REQUEST, "name one with ?service=, or write ?all=1 for all of them"
            )
        return _json(await self._server.accept(service))

    async def _flush(self, request: web.Request) -> web.StreamResponse:
        await self._check_may_change(request)
        return _json(await self._server.flush(_parameters(request, "name").get("name")))

    async def _reload(self, request: web.Request) -> web.StreamResponse:
        await self._check_may_change(request)
        _parameters(request)
        return _json(await self._server.reload())

    async def _check_may_change(self, request: web.Request) -> None:
        """Check that a request comes from no foreign page, and from somebody who knows the token."""
        if request.headers.get("Sec-Fetch-Site") not in _OWN_SITE:
            raise RequestError(HTTPStatus.FORBIDDEN, "a page of another site must not do that")
        # In a thread, since files may be anywhere.
        await asyncio.to_thread(
            self._tokens.check, self._server.token_file, request.headers.get("Authorization")
        )


def _json(answer: object, *, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    """JSON in one line."""
    body = msgspec.json.encode(answer) + b"\n"
    return web.Response(body=body, content_type="application/json", status=status)


def _parameters(request: web.Request, *accepted: str) -> dict[str, str]:
    """What stands behind the question mark, each once and none but those that are accepted.

    Raises:
        RequestError: it is otherwise.
    """
    given = request.query
    for name in given:
        if name not in accepted:
            there_are = f"there are {', '.join(accepted)}" if accepted else "there are none"
            raise RequestError(HTTPStatus.BAD_REQUEST, f"the parameter {name[:40]!r} is unknown; {there_are}")
        if len(given.getall(name)) > 1:
            raise RequestError(HTTPStatus.BAD_REQUEST, f"the parameter {name} is given twice")
    return dict(given)


def _whole(given: dict[str, str], name: str, otherwise: int, least: int, most: int) -> int:
    """A whole number out of the parameters.

    Raises:
        RequestError: it is none, or not within the bounds.
    """
    text = given.get(name)
    if text is None:
        return otherwise
    digits = text if text.isascii() and text.isdigit() and len(text) <= len(str(most)) else None
    if digits is None or not least <= int(digits) <= most:
        raise RequestError(
            HTTPStatus.BAD_REQUEST, f"{name} is {text[:40]!r}; write a number from {least} to {most}"
        )
    return int(digits)
