"""HTTP over a server set: a transport for httpx2 and an adapter for requests, with round robin.

    with httpx2.Client(mounts={"http://web/": Transport(watch)}) as client:
        client.get("http://web/health")

    session.mount("http://web/", Adapter(watch))

The URL still determines the Host header, the TLS server name, the name that the certificate must have,
cookies and redirects. Only the connection goes to an endpoint of the set, and stays open for the next request
to that endpoint. Each request takes the next endpoint. If no connection can be opened, the following
endpoints are tried, each once. A request of which a byte may have been sent is never repeated.

httpx2 and requests are imported on first use, so that each works without the other.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from zkdns.errors import MissingExtraError, NoEndpointsError

if TYPE_CHECKING:
    from zkdns.httpset.httpx2_transport import AsyncTransport, Transport
    from zkdns.httpset.requests_adapter import Adapter

__all__ = ["Adapter", "AsyncTransport", "NoEndpointsError", "Transport"]

_MODULES = {
    "Adapter": ("requests", "requests_adapter"),
    "AsyncTransport": ("httpx2", "httpx2_transport"),
    "Transport": ("httpx2", "httpx2_transport"),
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package, submodule = _MODULES[name]
    try:
        module = import_module(f"{__name__}.{submodule}")
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingExtraError(f"{__name__} needs {package}: pip install 'zkdns[http]'") from None
    return getattr(module, name)
