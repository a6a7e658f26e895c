"""Knot, NSD and BIND as authoritative servers of zone files, each on its own port of 127.0.0.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import dns.message
import dns.query

from tests.support.dns_programs import DnsProgram, bind_settings, knot_settings, nsd_settings
from tests.support.waiting import eventually

_START_SECONDS = 20.0


class Authority(DnsProgram):
    """A server of zone files. Entering the context waits until it serves all zones.

    Args:
        zones: zone files by name of the zone.
        directory: parent of the server's own directory.
        secondaries: the ports of secondaries of all zones, which are notified. With them, hosts at 127.0.0.1
            may transfer the zones and, except from NSD, send dynamic updates.
    """

    def __init__(
        self, zones: Mapping[str, Path], directory: Path, *, secondaries: Sequence[int] = ()
    ) -> None:
        super().__init__(directory)
        self._zones = zones
        self._secondaries = secondaries

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            eventually(lambda: self.has_ended or self._is_serving(), _START_SECONDS, 0.05)
            assert not self.has_ended, self.log
        except BaseException:
            self.__exit__()
            raise
        return self

    def _is_serving(self) -> bool:
        return all(
            ask(dns.message.make_query(zone, "SOA"), "127.0.0.1", port=self.port, timeout=1.0).answer
            for zone in self._zones
            for ask in (dns.query.udp, dns.query.tcp)
        )


class Knot(Authority):
    name, program, package = "knot", "knotd", "knot"

    def command(self, configuration: str) -> list[str]:
        return ["-c", configuration]

    def configuration(self) -> str:
        text = knot_settings(self.directory, self.port, tcp_io_timeout=0)
        zone = "    journal-content: none\n"
        if self._secondaries:
            addresses = [f"127.0.0.1@{port}" for port in self._secondaries]
            remotes = (f"  - id: at{address}\n    address: {address}\n" for address in addresses)
            text += f"remote:\n{''.join(remotes)}"
            text += "acl:\n  - id: permitted\n    address: 127.0.0.1\n    action: [transfer, update]\n"
            notified = ", ".join(f"at{address}" for address in addresses)
            zone = f"    acl: permitted\n    notify: [{notified}]\n    zonefile-sync: -1\n"
            zone += "    zonefile-load: difference\n    journal-content: all\n"
        zones = (f'  - domain: {name}\n    file: "{file}"\n{zone}' for name, file in self._zones.items())
        return f"{text}zone:\n{''.join(zones)}"


class Nsd(Authority):
    name, program, package = "nsd", "nsd", "nsd"

    def command(self, configuration: str) -> list[str]:
        return ["-d", "-c", configuration]

    def configuration(self) -> str:
        options = {"hide_version": "yes", "hide_identity": "yes", "minimal_responses": "no"}
        text = nsd_settings(self.directory, self.port, **options)
        zone = ""
        if self._secondaries:
            zone = "    provide-xfr: 127.0.0.1 NOKEY\n"
            zone += "".join(f"    notify: 127.0.0.1@{port} NOKEY\n" for port in self._secondaries)
        zones = (
            f'zone:\n    name: "{name}"\n    zonefile: "{file}"\n{zone}' for name, file in self._zones.items()
        )
        return text + "".join(zones)


class Bind(Authority):
    name, program, package = "bind", "named", "bind9"

    def command(self, configuration: str) -> list[str]:
        return ["-g", "-n", "1", "-c", configuration]

    def configuration(self) -> str:
        zone = ""
        if self._secondaries:
            notified = "".join(f"127.0.0.1 port {port}; " for port in self._secondaries)
            zone = "    allow-transfer { 127.0.0.1; };\n    allow-update { 127.0.0.1; };\n"
            zone += f"    notify explicit;\n    notify-delay 0;\n    also-notify {{ {notified}}};\n"
        zones = (
            f'zone "{name}" {{\n    type primary;\n    file "{file}";\n{zone}}};\n'
            for name, file in self._zones.items()
        )
        return bind_settings(self.directory, self.port) + "".join(zones)
