"""Server sets in ZooKeeper for Python programs, and the package of the DNS server over the same sets.

    from zkdns import PRODUCTION, ServerSet

    web = ServerSet(PRODUCTION, "web", "zk01:2181,zk02:2181")
    with web.register("10.0.0.1", 8080):
        ...  # registered while this block runs

    with web.watch() as watch:
        print(watch.endpoints)  # ('10.0.0.1:8080',)

`import zkdns` loads none of the classes below; each is imported on first use. The workers of the server never
use ZooKeeper, and so never load kazoo.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zkdns.errors import (
        BadValueError,
        ClosedError,
        UnreachableError,
        ZkdnsError,
        ZooKeeperError,
    )
    from zkdns.fixedset import FixedSet
    from zkdns.serverset.auth import Access
    from zkdns.serverset.member import Endpoint, Member, Status
    from zkdns.serverset.registration import Registration
    from zkdns.serverset.server_set import LOCAL, PRODUCTION, STAGING, TEST, ServerSet
    from zkdns.serverset.watch import EndpointSource, Watch

__version__ = "0.1.0"

__all__ = [
    "LOCAL",
    "PRODUCTION",
    "STAGING",
    "TEST",
    "Access",
    "BadValueError",
    "ClosedError",
    "Endpoint",
    "EndpointSource",
    "FixedSet",
    "Member",
    "Registration",
    "ServerSet",
    "Status",
    "UnreachableError",
    "Watch",
    "ZkdnsError",
    "ZooKeeperError",
]

# The module of each public name, as in the imports for type checkers above.
_MODULES = {
    "errors": ("BadValueError", "ClosedError", "UnreachableError", "ZkdnsError", "ZooKeeperError"),
    "fixedset": ("FixedSet",),
    "serverset.auth": ("Access",),
    "serverset.member": ("Endpoint", "Member", "Status"),
    "serverset.registration": ("Registration",),
    "serverset.server_set": ("LOCAL", "PRODUCTION", "STAGING", "TEST", "ServerSet"),
    "serverset.watch": ("EndpointSource", "Watch"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __dir__() -> list[str]:
    """All names of the package, including those that are not loaded yet."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value
