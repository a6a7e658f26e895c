"""A server whose zone can be transferred, and zone transfers by dnspython."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dns.message
import dns.name
import dns.query
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import dns.xfr
import dns.zone

from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually

ZONE = "discovery."
KEY_NAME = "transfer-key"
SECRET = "c2VjcmV0IG9mIHRoZSB0ZXN0cywgb2YgMzIgYnl0ZXMu"  # noqa: S105 - of these tests
KEY = dns.tsig.Key(KEY_NAME, SECRET, "hmac-sha256")
ALLOWED = 'allow = ["127.0.0.1"]\n'
KEYS = f'[[transfer.keys]]\nname = "{KEY_NAME}"\nsecret = "{SECRET}"\n'


class Primary(ZkdnsServer):
    """A server with a static file that a test rewrites.

    Args:
        directory: for its files.
        transfer: the content of the section `[transfer]`.
        arguments: as in the base class.
    """

    def __init__(self, directory: Path, transfer: str = ALLOWED, *arguments: str) -> None:
        self.static = directory / "services.toml"
        self.config = directory / "zkdns.toml"
        self.write_transfer(transfer)
        self.write({"web.staging": ["10.0.0.1:80", "10.0.0.2:80"], "db.prod": ["10.0.1.1:5432"]})
        super().__init__("--config", str(self.config), "--static", str(self.static), *arguments)

    def write_transfer(self, transfer: str) -> None:
        """Write the configuration file."""
        self.config.write_text(f"[transfer]\n{transfer}")

    def write(self, services: Mapping[str, Sequence[str]]) -> None:
        """Replace all services atomically."""
        tables = (f'[services."{name}"]\nmembers = {list(members)}\n' for name, members in services.items())
        new = self.static.with_suffix(".new")
        new.write_text("".join(tables))
        new.replace(self.static)

    def serial(self) -> int:
        """The serial of the SOA record in a response of a worker."""
        (soa,) = self.query(ZONE, "SOA").answer[0]
        return int(soa.serial)

    def wait_transferable(self) -> None:
        """Wait until the transfer process has a version of the zone."""
        self.wait_ready()
        eventually(lambda: self.events("zone_transferable"))


def transfer(server: ZkdnsServer, zone: dns.zone.Zone | None = None, **options: Any) -> dns.zone.Zone:
    """Transfer the zone: by IXFR to a zone that has been transferred before, otherwise by AXFR."""
    zone = dns.zone.Zone(ZONE, relativize=False) if zone is None else zone
    host, port = server.addresses[0]
    query, _ = dns.xfr.make_query(zone, **options)
    dns.query.inbound_xfr(host, zone, query, port=port, timeout=10.0, lifetime=20.0)
    return zone


def serial_of(zone: dns.zone.Zone) -> int:
    """The serial of a zone's SOA record."""
    return int(zone.get_soa().serial)


def records_of(zone: dns.zone.Zone) -> set[tuple[str, str, int, str]]:
    """All records of a zone except its SOA."""
    return {
        (name.to_text(), dns.rdatatype.to_text(rdata.rdtype), ttl, rdata.to_text())
        for name, ttl, rdata in zone.iterate_rdatas()
        if rdata.rdtype != dns.rdatatype.SOA
    }


class TransferStats(NamedTuple):
    """What a server has reported about transfers, each second."""

    requests: Counter[tuple[str, str]]
    """By type and result."""
    acknowledged: int
    """NOTIFY messages."""


def transfer_stats(server: ZkdnsServer) -> TransferStats:
    """The stats of a server about transfers."""
    with urllib.request.urlopen(f"{server.admin}/api/stats", timeout=20.0) as response:  # noqa: S310 - a local URL
        stats = json.load(response)["transfer"]
    requests = Counter({(each["type"], each["result"]): each["count"] for each in stats["requests"]})
    return TransferStats(requests, stats["notifies"]["acknowledged"])
