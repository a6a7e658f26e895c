"""Real secondaries: Knot, NSD, BIND and unbound, configured with the examples of the page `zone-transfer`."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import dns.exception
import dns.message
import dns.query

from tests.support.dns_programs import (
    DnsProgram,
    bind_settings,
    knot_settings,
    nsd_settings,
    unbound_settings,
)
from tests.support.transfers import KEY_NAME, SECRET, ZONE
from tests.support.waiting import PATIENCE, eventually

PAGE = Path(__file__).parents[2] / "zkdns" / "docs" / "zone-transfer.md"
# In the examples:
_PRIMARY = "10.0.0.1"
_SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"
PRIMARY_NAME = "ns1.example.com"
"""The name of the primary in the examples with TLS."""
_TIMEOUT: Final = 10.0

Record = tuple[str, str, int, str]
"""Owner name, type, TTL and data, as `tests.support.transfers.records_of`."""


def example(heading: str, number: int = 0) -> str:
    """An example of the page: the code block with this number below a heading."""
    _, _, section = PAGE.read_text().partition(f"### {heading}\n")
    found: list[str] = re.findall(r"```[a-z]*\n(.*?)```", section, re.DOTALL)
    return found[number]


class Secondary(DnsProgram):
    """A secondary of a primary at 127.0.0.1. Set `primary` to its port before the start.

    Args:
        directory: for its files.
        signed: whether it uses the key of `tests.support.transfers`.
        ca: the certificates that it trusts; it then uses TLS. None: it does not.
    """

    def __init__(self, directory: Path, *, signed: bool = False, ca: Path | None = None) -> None:
        super().__init__(directory)
        self.primary = 0
        self._signed, self._ca = signed, ca

    def serial(self) -> int | None:
        """The serial of the zone. None: it has no zone yet."""
        query = dns.message.make_query(ZONE, "SOA", flags=0)
        with contextlib.suppress(OSError, dns.exception.DNSException):
            response = dns.query.udp(query, "127.0.0.1", port=self.port, timeout=1.0)
            if response.answer:
                return int(response.answer[0][0].serial)
        return None

    def records(self, names: Iterable[tuple[str, str]]) -> set[Record]:
        """The records of these names and types, over one connection."""
        found: set[Record] = set()
        with socket.create_connection(("127.0.0.1", self.port), _TIMEOUT) as sock:
            for name, qtype in names:
                dns.query.send_tcp(sock, dns.message.make_query(name, qtype, flags=0))
                response, _ = dns.query.receive_tcp(sock)
                found.update(
                    (rrset.name.to_text(), qtype, rrset.ttl, rdata.to_text())
                    for rrset in response.answer
                    for rdata in rrset
                )
        return found

    def wait_for_records(self, expected: set[Record]) -> None:
        """Wait until it has exactly these records of their names and types.

        It may have the serial a moment earlier: the processes of NSD for the old zone answer until they end.
        """
        names = {(name, qtype) for name, qtype, _, _ in expected}
        eventually(lambda: self.records(names) == expected, PATIENCE)


class Knot(Secondary):
    name, program, package = "knot", "knotd", "knot"

    def command(self, configuration: str) -> list[str]:
        return ["-c", configuration]

    def configuration(self) -> str:
        text = example("Knot DNS").replace(
            f"address: {_PRIMARY}\nacl", f"address: 127.0.0.1@{self.primary}\nacl"
        )
        text = text.replace(_PRIMARY, "127.0.0.1")
        if self._signed:
            text = text.replace("- id: zkdns\n", "- id: zkdns\n    key: secondary-key\n")
            text = text.replace(
                "- id: notify_from_zkdns\n", "- id: notify_from_zkdns\n    key: secondary-key\n"
            )
            text = example("Knot DNS", 1) + text
            assert SECRET in text
            text = text.replace("secondary-key", KEY_NAME)
        return knot_settings(self.directory, self.port, log="info") + text


class Nsd(Secondary):
    name, program, package = "nsd", "nsd", "nsd"

    def command(self, configuration: str) -> list[str]:
        return ["-d", "-c", configuration]

    def configuration(self) -> str:
        if self._ca is None:
            text = example("NSD")
            text = text.replace(f"request-xfr: {_PRIMARY}", f"request-xfr: 127.0.0.1@{self.primary}")
        else:
            text = example("NSD with TLS").replace(_SYSTEM_CA, str(self._ca))
            text = text.replace(f"{_PRIMARY}@853", f"127.0.0.1@{self.primary}")
        text = text.replace(_PRIMARY, "127.0.0.1")
        key = ""
        if self._signed:
            text = text.replace("NOKEY", KEY_NAME)
            key = f'key:\n    name: {KEY_NAME}\n    algorithm: hmac-sha256\n    secret: "{SECRET}"\n'
        return nsd_settings(self.directory, self.port, verbosity=2) + key + text


class Bind(Secondary):
    name, program, package = "bind", "named", "bind9"

    def command(self, configuration: str) -> list[str]:
        return ["-g", "-n", "1", "-c", configuration]

    def configuration(self) -> str:
        key = f" key {KEY_NAME}" if self._signed else ""
        if self._ca is None:
            text = example("BIND")
            text = text.replace(f"{{ {_PRIMARY}; }}", f"{{ 127.0.0.1 port {self.primary}{key}; }}")
        else:
            text = example("BIND with TLS").replace(_SYSTEM_CA, str(self._ca))
            text = text.replace(f"{_PRIMARY} port 853", f"127.0.0.1 port {self.primary}{key}")
        assert str(self.primary) in text
        if self._signed:
            text = f'key {KEY_NAME} {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n{text}'
        return bind_settings(self.directory, self.port) + text


class Unbound(Secondary):
    """unbound with an `auth-zone`. It does not support TSIG."""

    name, program, package = "unbound", "unbound", "unbound"

    def command(self, configuration: str) -> list[str]:
        return ["-d", "-c", configuration]

    def configuration(self) -> str:
        text = example("unbound").replace(f"primary: {_PRIMARY}", f"primary: 127.0.0.1@{self.primary}")
        text = text.replace(_PRIMARY, "127.0.0.1")
        options = {"do_ip6": "no", "do_not_query_localhost": "no", "verbosity": 2}
        return unbound_settings(self.directory, self.port, **options) + text


SECONDARIES: tuple[type[Secondary], ...] = (Knot, Nsd, Bind, Unbound)
