"""zkdns: DNS for the services that ZooKeeper server sets know, and the same sets for Python programs.

from zkdns import PRODUCTION, ServerSet

with ServerSet(PRODUCTION, "web", "zk01:2181,zk02:2181").register("10.0.0.1", 8080):
    ...
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
    from zkdns.serverset.member import Endpoint, Member, Status
    from zkdns.serverset.registration import Registration
    from zkdns.serverset.server_set import LOCAL, PRODUCTION, STAGING, TEST, ServerSet
    from zkdns.serverset.watch import EndpointSource, Watch

__version__ = "0.1.0"

# Imported when first used: the server's answering processes need nothing of ZooKeeper, and do not load it.
_HOMES = {
    "BadValueError": "errors",
    "ClosedError": "errors",
    "Endpoint": "serverset.member",
    "EndpointSource": "serverset.watch",
    "FixedSet": "fixedset",
    "LOCAL": "serverset.server_set",
    "Member": "serverset.member",
    "PRODUCTION": "serverset.server_set",
    "Registration": "serverset.registration",
    "STAGING": "serverset.server_set",
    "ServerSet": "serverset.server_set",
    "Status": "serverset.member",
    "TEST": "serverset.server_set",
    "UnreachableError": "errors",
    "Watch": "serverset.watch",
    "ZkdnsError": "errors",
    "ZooKeeperError": "errors",
}

__all__ = [
    "LOCAL",
    "PRODUCTION",
    "STAGING",
    "TEST",
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


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
