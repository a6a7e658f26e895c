"""The servers that are compared as forwarders. Each forwards to the same upstream and caches its answers.

Each has one worker, a cache with room for all repeated names, and no DNSSEC validation, logging or rate
limit.
"""

from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers import Dnsmasq, Nsd, Peer, Unbound, Zkdns
from tests.bench.zone import Service, make_services, to_static_file
from tests.support.dns_programs import unbound_settings

OWN_ZONE = "here.example"
"""The zone of zkdns. It is never queried, so that zkdns forwards all names of the services."""
ENTRIES = 3_000
"""Size of dnsmasq's cache in records: the repeated names and a reserve. When its cache is full, dnsmasq scans
all of it for each new record, so that a larger one would make it slower. The other servers have larger
caches."""
WAITING = 4_000
"""Queries that may wait for the upstream in each server; the default of zkdns."""


class Upstream(Nsd):
    """The upstream of all forwarders: an authoritative NSD with minimal responses."""

    name = "upstream"
    ttl = 3600
    is_minimal = True


class Forwarder(Peer):
    """A server that only forwards.

    Args:
        services: the services of the upstream.
        directory: parent of the server's own directory.
        core: the CPU it runs on.
        upstream: port of the upstream on localhost.
    """

    def __init__(self, services: Sequence[Service], directory: Path, core: int, upstream: int) -> None:
        super().__init__(services, directory, core)
        self.upstream = upstream


class ForwardingUnbound(Forwarder):
    name, program, package = Unbound.name, Unbound.program, Unbound.package

    def configure(self) -> list[str]:
        options = {
            "do_not_query_localhost": "no",
            "rrset_roundrobin": "no",
            "num_queries_per_thread": WAITING,
            "outgoing_range": 2 * WAITING,
        }
        text = unbound_settings(self.directory, self.port, **options)
        text += f'forward-zone:\n    name: "."\n    forward-addr: 127.0.0.1@{self.upstream}\n'
        return [self._program(), "-d", "-c", self._write("unbound.conf", text)]


class ForwardingDnsmasq(Forwarder):
    name, program, package = Dnsmasq.name, Dnsmasq.program, Dnsmasq.package

    def configure(self) -> list[str]:
        text = f"""\
            listen-address=127.0.0.1
            bind-interfaces
            port={self.port}
            server=127.0.0.1#{self.upstream}
            no-resolv
            no-hosts
            cache-size={ENTRIES}
            dns-forward-max={WAITING}
            edns-packet-max=1232
            """
        path = self._write("dnsmasq.conf", text)
        options = ("--keep-in-foreground", f"--conf-file={path}", "--user=", "--group=", "--pid-file=")
        return [self._program(), *options, "--log-facility=-"]


class ForwardingZkdns(Zkdns):
    """zkdns as a forwarder; its arguments are those of `Forwarder`, and more arguments of the command."""

    def __init__(
        self,
        services: Sequence[Service],
        directory: Path,
        core: int,
        upstream: int,
        *,
        arguments: Sequence[str] = (),
    ) -> None:
        own = directory / "own.toml"
        own.write_text(to_static_file(make_services(1, 1)))
        serves = ("--static", str(own), "--zone", OWN_ZONE)
        forwards = ("--upstream", f"127.0.0.1:{upstream}")
        super().__init__(services, directory, core, arguments=(*serves, *forwards, *arguments))
