"""HTTP over a server set: round robin as a transport of httpx2 and as an adapter of requests.

    with httpx2.Client(mounts={"http://web/": Transport(watch)}) as client:
        client.get("http://web/health")

    session.mount("http://web/", Adapter(watch))

What the URL names stays what the server is asked for: the Host header, the name that TLS asks for and that
the certificate must have, cookies, redirects. Only the connection goes to an endpoint of the set, and stays
open for the next request to that endpoint. Each request takes the next endpoint. Where no connection can be
opened, the one after it is tried, each once; a request of which a byte may have been sent is never repeated.

httpx2 and requests are imported when what stands on them is first used: each does without the other.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from zkdns.errors import MissingExtraError, NoEndpointsError

if TYPE_CHECKING:
    from zkdns.httpset.httpx2_transport import AsyncTransport, Transport
    from zkdns.httpset.requests_adapter import Adapter

__all__ = ["Adapter", "AsyncTransport", "NoEndpointsError", "Transport"]

_NEEDS = {"Adapter": "requests", "AsyncTransport": "httpx2", "Transport": "httpx2"}


def __getattr__(name: str) -> object:
    package = _NEEDS.get(name)
    if package is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.for_{package}")
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingExtraError(f"{__name__} needs {package}: pip install 'zkdns[http]'") from None
    return getattr(module, name)
