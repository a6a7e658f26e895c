"""The servers that are compared as forwarders: each asks one upstream, and remembers what that says.

Each has one worker, room for all that is asked for again, and nothing to do but forward: nobody checks
signatures, logs, or limits rates.
"""

from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers import Dnsmasq, Nsd, Peer, Unbound, Zkdns
from tests.bench.zone import Service, make_services, to_fixed_file

OWN_ZONE = "here.example"
"""Of zkdns where it forwards the services' names; nobody asks for it."""
ENTRIES = 3_000
"""Records that there is room for in dnsmasq's cache: those that are asked for again, and some more. In a full
cache it looks at every one for each that comes, so that more would make it slower. Others have more room."""
WAITING = 4_000
"""Questions that may wait for the upstream, in each: that of zkdns unless told otherwise."""


class Upstream(Nsd):
    """Who is asked, by all: an authority, which knows at once, and says no more than was asked."""

    name = "upstream"
    ttl = 3600
    is_minimal = True


class Forwarder(Peer):
    """A server that knows nothing by itself.

    Args:
        services: what the upstream knows.
        directory: where it has a directory of its own below.
        core: where it runs.
        upstream: the port at which that answers.
    """

    def __init__(self, services: Sequence[Service], directory: Path, core: int, upstream: int) -> None:
        super().__init__(services, directory, core)
        self.upstream = upstream


class ForwardingUnbound(Forwarder):
    name, program, package = Unbound.name, Unbound.program, Unbound.package

    def configure(self) -> list[str]:
        text = f"""\
            server:
                interface: 127.0.0.1@{self.port}
                num-threads: 1
                do-daemonize: no
                username: ""
                chroot: ""
                directory: "{self.directory}"
                pidfile: "{self.directory}/pid"
                use-syslog: no
                verbosity: 0
                access-control: 127.0.0.0/8 allow
                do-not-query-localhost: no
                module-config: "iterator"
                rrset-roundrobin: no
                num-queries-per-thread: {WAITING}
                outgoing-range: {2 * WAITING}
            remote-control:
                control-enable: no
            forward-zone:
                name: "."
                forward-addr: 127.0.0.1@{self.upstream}
            """
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
    """Args: as those of the others; `own` is what its zone has, and then it is that of `Zkdns`."""

    def __init__(self, services: Sequence[Service], directory: Path, core: int, upstream: int) -> None:
        own = directory / "own.toml"
        own.write_text(to_fixed_file(make_services(1, 1)))
        arguments = ("--static", str(own), "--zone", OWN_ZONE)
        forwards = ("--upstream", f"127.0.0.1:{upstream}")
        super().__init__(services, directory, core, arguments=(*arguments, *forwards))
