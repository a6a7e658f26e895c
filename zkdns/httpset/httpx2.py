"""`Transport` and `AsyncTransport` for clients of httpx2 only."""

from __future__ import annotations

import httpcore2  # noqa: F401 - otherwise the first request imports it, which blocks an event loop for 0.1 s
import httpx2

from zkdns.httpset import transport

__all__ = ["AsyncTransport", "Transport"]

LIBRARY = transport.Library(httpx2)


class Transport(transport.SyncTransport, httpx2.BaseTransport):
    """Sends each request to the next endpoint of a server set.

        with httpx2.Client(transport=Transport(watch)) as client:
            client.get("http://web/health")

    `zkdns.httpset.transport` describes the arguments.
    """

    _libraries = (LIBRARY,)


class AsyncTransport(transport.AsyncTransport, httpx2.AsyncBaseTransport):
    """As `Transport`, for asyncio.

    async with httpx2.AsyncClient(transport=AsyncTransport(watch)) as client:
        await client.get("http://web/health")
    """

    _libraries = (LIBRARY,)
