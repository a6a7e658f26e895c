"""`Transport` and `AsyncTransport` for programs where both httpx and httpx2 are installed.

Another package may have installed the second library, so the choice is made at each request, and not by what
is installed.
"""

from __future__ import annotations

import httpx
import httpx2

from zkdns.httpset import transport
from zkdns.httpset.httpx import LIBRARY as HTTPX
from zkdns.httpset.httpx2 import LIBRARY as HTTPX2

__all__ = ["AsyncTransport", "Transport"]


class Transport(transport.SyncTransport, httpx.BaseTransport, httpx2.BaseTransport):
    """Sends each request of a client of httpx or of httpx2 to the next endpoint of a server set."""

    _libraries = (HTTPX, HTTPX2)


class AsyncTransport(transport.AsyncTransport, httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):
    """As `Transport`, for asyncio."""

    _libraries = (HTTPX, HTTPX2)
