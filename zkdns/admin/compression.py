"""Compression of responses (RFC 9110 §8.4.1.3), and entity tags, so that unchanged data is not sent again."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from http import HTTPStatus
from typing import Final

from aiohttp import web

MIN_SIZE: Final = 1024
"""Bytes of the smallest body that is compressed. A smaller response fits into one packet anyway."""
MAX_RUNNING: Final = 2
"""Maximum number of bodies that are compressed at a time. Further ones wait for their turn."""
_LEVEL = 4  # of 9: a list of 10,000 services takes a third of the time of level 6, and is 8 % larger
_TEXTS = ("application/json", "text/", "application/openmetrics-text")
_TAG_SIZE = 12  # bytes


def accepts_gzip(request: web.BaseRequest) -> bool:
    """True if the header `Accept-Encoding` allows gzip (RFC 9110 §12.5.3)."""
    weights: dict[str, bool] = {}
    for item in request.headers.get("Accept-Encoding", "").lower().split(","):
        coding, *parameters = (part.strip() for part in item.split(";"))
        weights[coding] = not any(_is_zero(parameter) for parameter in parameters)
    return weights.get("gzip", weights.get("*", False))


def _is_zero(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and value.strip() in ("0", "0.", "0.0", "0.00", "0.000")


def compressed(body: bytes) -> bytes:
    """Compress a body. The result depends on the body only."""
    return gzip.compress(body, _LEVEL, mtime=0)


class Compressor:
    """Compresses texts in a thread, a bounded number at a time."""

    def __init__(self) -> None:
        self._running = asyncio.Semaphore(MAX_RUNNING)

    async def apply(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Compress the body of a response if it is a large text and the client accepts gzip."""
        if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
            return  # an event stream
        if not response.content_type.startswith(_TEXTS):
            return
        response.headers["Vary"] = "Accept-Encoding"
        is_encoded = "Content-Encoding" in response.headers
        if is_encoded or len(response.body) < MIN_SIZE or not accepts_gzip(request):
            return
        async with self._running:
            response.body = await asyncio.to_thread(compressed, response.body)
        response.headers["Content-Encoding"] = "gzip"


def with_entity_tag(request: web.Request, response: web.Response) -> web.Response:
    """Add a weak entity tag, which differs for different bodies; return 304 if the client has this body."""
    assert isinstance(response.body, bytes)  # noqa: S101 - JSON
    tag = f'W/"{hashlib.blake2b(response.body, digest_size=_TAG_SIZE).hexdigest()}"'
    headers = {"ETag": tag}
    if tag in (one.strip() for one in request.headers.get("If-None-Match", "").split(",")):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    response.headers.update(headers)
    return response
