"""`Transport` and `AsyncTransport` for clients of httpx only."""

from __future__ import annotations

import contextlib

import httpx

from zkdns.httpset import transport

# Otherwise httpx imports it when the first request is sent, which blocks an event loop for 0.1 s.
with contextlib.suppress(ImportError):  # httpx2 can take the name of httpx
    import httpcore  # noqa: F401 - for later

__all__ = ["AsyncTransport", "Transport"]

LIBRARY = transport.Library(httpx)


class Transport(transport.SyncTransport, httpx.BaseTransport):
    """Sends each request to the next endpoint of a server set.

        with httpx.Client(transport=Transport(watch)) as client:
            client.get("http://web/health")

    `zkdns.httpset.transport` describes the arguments.
    """

    _libraries = (LIBRARY,)


class AsyncTransport(transport.AsyncTransport, httpx.AsyncBaseTransport):
    """As `Transport`, for asyncio.

    async with httpx.AsyncClient(transport=AsyncTransport(watch)) as client:
        await client.get("http://web/health")
    """

    _libraries = (LIBRARY,)
