"""HTTP over a server set: transports for httpx and httpx2, and an adapter for requests, with round robin.

    with httpx.Client(mounts={"http://web/": Transport(watch)}) as client:
        client.get("http://web/health")

    session.mount("http://web/", Adapter(watch))

The URL still determines the Host header, the TLS server name, the name that the certificate must have,
cookies and redirects. Only the connection goes to an endpoint of the set, and stays open for the next request
to that endpoint. Each request takes the next endpoint. If no connection can be opened, the following
endpoints are tried, each once, and later requests avoid that endpoint for some seconds. A request of which a
byte may have been sent is never repeated.

`Transport` and `AsyncTransport` are for clients of httpx and of httpx2, whichever are installed. Those of
`zkdns.httpset.httpx` and `zkdns.httpset.httpx2` are for one library only. The libraries are imported on first
use, so that each works without the others.

    transport, httpx, httpx2, either  the transports: common part, for each library, for both
    requests_adapter                  the adapter
    balanced, avoided, pools          shared: the choice, failed endpoints, connections
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from zkdns.errors import MissingExtraError, NoEndpointsError

if TYPE_CHECKING:
    from zkdns.httpset.either import AsyncTransport, Transport
    from zkdns.httpset.requests_adapter import Adapter

__all__ = ["Adapter", "AsyncTransport", "NoEndpointsError", "Transport"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    if name in {"AsyncTransport", "Transport"}:
        return getattr(import_module(f"{__name__}.{_transport_module()}"), name)
    if name == "Adapter":
        if not _is_installed("requests"):
            raise MissingExtraError(f"{__name__}.Adapter needs requests: pip install 'zkdns[requests]'")
        return getattr(import_module(f"{__name__}.requests_adapter"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _transport_module() -> str:
    """The module of the transports for the installed libraries."""
    installed = [name for name in ("httpx", "httpx2") if _is_installed(name)]
    if not installed:
        raise MissingExtraError(
            f"{__name__}.Transport needs httpx or httpx2: pip install 'zkdns[httpx]' or 'zkdns[httpx2]'"
        )
    # httpx2 can take the name of httpx; then both are one module.
    if len(installed) > 1 and import_module("httpx") is import_module("httpx2"):
        return "httpx2"
    return "either" if len(installed) > 1 else installed[0]


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # None in sys.modules, or a module without a spec
        return False
