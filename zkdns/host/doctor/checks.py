"""The checks of the doctor: pure functions from facts to findings. `diagnose` collects the facts.

In order: the server, listening (ports, limits), serving (responses, ZooKeeper, snapshot), upstreams, name
resolution.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from zkdns.address import HostPort, UpstreamAddress
from zkdns.admin.status import Source, Status
from zkdns.config import Config
from zkdns.durations import format_duration
from zkdns.forward.system_upstreams import NameServers
from zkdns.host.doctor.processes import BindRights, Listener
from zkdns.host.resolver_config import NSSWITCH_CONF, NssSource
from zkdns.resolv_conf import MAX_NAMESERVERS, RESOLV_CONF, RESOLVED_STUBS, ResolvConf
from zkdns.serverset.probe import ProbeResult
from zkdns.serverset.service_counts import Listing

Level: TypeAlias = Literal["ok", "warning", "wrong"]

WANTED_BUFFER = 1 << 20
"""The socket buffer that zkdns requests for queries that arrive while it is busy, in bytes."""
UPSTREAMS = "upstreams"
"""The subject of findings about upstreams."""
SERVER = "server"
"""The subject of findings about the running server."""
SERVICES = "services"
"""The subject of findings about the services of a namespace."""

_MAX_SERVICES = 5  # findings about single services
_REGISTER = "set member_prefix if these are members, or register server sets; see zkdns help operations"
_OTHER_FILES = 1024  # file descriptors for client connections, listeners and feeds
_SOURCES: Mapping[Source, str] = {
    "zookeeper": "ZooKeeper",
    "snapshot": "a snapshot",
    "static": "a static file",
    "demo": "the built-in example",
}
_PORT_53 = "let zkdns listen at port 53, the only one that resolv.conf can name; then run zkdns setup"
_SETUP = "zkdns setup shows what to change, and changes it with --apply"
_NAME_UPSTREAMS = 'name resolvers, such as upstreams = ["9.9.9.9"] in [forward]'


class Finding(msgspec.Struct, frozen=True):
    """The result of a check."""

    about: str
    """The subject, in one or two words."""
    level: Level
    found: str
    cure: str = ""
    """How to fix it; empty if there is nothing to fix."""


def ok(about: str, found: str) -> Finding:
    """Make a finding without a problem."""
    return Finding(about, "ok", found)


def warning(about: str, found: str, cure: str = "") -> Finding:
    """Make a finding about something that works, but not always, or not for long."""
    return Finding(about, "warning", found, cure)


def wrong(about: str, found: str, cure: str) -> Finding:
    """Make a finding about something that does not work."""
    return Finding(about, "wrong", found, cure)


# -- the server --------------------------------------------------------------------------------------------


def check_server(found: Status | None, config: Config) -> Iterator[Finding]:
    """Report whether a server runs, and whether it is the one with this configuration.

    Args:
        found: the status that its HTTP API reports. None: none responds.
        config: the configuration of the doctor.
    """
    if found is None:
        yield warning(SERVER, "none responds to commands", "start it: zkdns serve, or zkdns serve --demo")
        return
    listening = ", ".join(found.listening)
    source = f"{_SOURCES[found.source]}{f' at {found.zookeeper.hosts}' if found.zookeeper else ''}"
    yield ok(
        SERVER, f"zkdns {found.version} answers at {listening}: {' and '.join(found.zones)} from {source}"
    )
    configured = [str(one) for one in config.listen if one.port]
    if missing := [one for one in configured if one not in found.listening]:
        yield warning(
            "settings",
            f"name other addresses than the server has: {', '.join(missing)}",
            "run zkdns doctor with the settings of the server, such as its --config or --demo",
        )


# -- listening --------------------------------------------------------------------------------------------


def check_port(
    own: HostPort,
    listeners: Iterable[Listener],
    rights: BindRights,
    protocols: Sequence[str] = ("udp", "tcp"),
) -> Iterator[Finding]:
    """Check whether zkdns listens on an address, or can.

    Args:
        own: an address of `listen` or `tls.listen`.
        listeners: all listening sockets of this machine.
        rights: those of this process; the server may be started with others.
        protocols: those of the address.
    """
    conflicting = [listener for listener in listeners if _conflicts(own, listener.at)]
    for protocol in protocols:
        about = f"port {own}/{protocol}"
        users = [listener for listener in conflicting if listener.protocol == protocol]
        others = [listener for listener in users if not listener.is_zkdns]
        if others and others[0].pid == 1:
            yield warning(
                about,
                f"{others[0].name} has it open for a socket unit, and no program serves it now",
                "find the unit: systemctl list-sockets",
            )
        elif others:
            first = others[0]
            yield wrong(
                about,
                f"is in use by {first}, which listens on {first.at}",
                f'stop {first.name or "it"}, or choose another address (listen = ["127.0.0.2:53"])',
            )
        elif users:
            yield ok(about, f"zkdns has it (pid {users[0].pid})")
        elif not rights.is_privileged and own.port < rights.first_free_port:
            yield warning(
                about,
                f"is free, but this user may not bind ports below {rights.first_free_port}",
                "let systemd bind it (zkdns.socket), start zkdns as root, or lower "
                "net.ipv4.ip_unprivileged_port_start",
            )
        else:
            yield warning(about, "is free: no zkdns listens there", "start it: zkdns serve")


def _conflicts(own: HostPort, other: HostPort) -> bool:
    """Whether a socket at `other` prevents one at `own`."""
    if own.port != other.port:
        return False
    mine, theirs = (ipaddress.ip_address(one.host.partition("%")[0]) for one in (own, other))
    if mine.version != theirs.version:  # [::] takes IPv4 as well, without IPV6_V6ONLY
        return theirs.is_unspecified and theirs.version == 6  # noqa: PLR2004 - IP version 6
    return mine == theirs or mine.is_unspecified or theirs.is_unspecified


def check_open_files(limits: tuple[int, int] | None, max_waiting: int) -> Iterator[Finding]:
    """Check the limit of open files, which applies to each worker separately.

    Args:
        limits: soft and hard; zkdns raises the soft limit to the hard one. None: unknown.
        max_waiting: the maximum number of forwarded queries at a time, each of which may have a socket.
    """
    if limits is None:
        return
    wanted = max_waiting + _OTHER_FILES
    if limits[1] < wanted:
        yield warning(
            "open files",
            f"a process may open {limits[1]}, and may need {wanted}",
            f"set LimitNOFILE={wanted} in the unit",
        )
    else:
        yield ok("open files", f"a process may open {limits[1]}")


def check_receive_buffer(largest: int | None) -> Iterator[Finding]:
    """Check whether a burst of queries fits into the socket buffer.

    Args:
        largest: net.core.rmem_max in bytes; None: unknown.
    """
    if largest is None:
        return
    if largest < WANTED_BUFFER:
        yield warning(
            "bursts",
            f"net.core.rmem_max is {largest} bytes, so the kernel drops some queries of a burst",
            f"sysctl -w net.core.rmem_max={WANTED_BUFFER}",
        )
    else:
        yield ok("bursts", f"net.core.rmem_max is {largest} bytes")


# -- serving ----------------------------------------------------------------------------------------------


def check_response(about: str, rcode: str, *, is_authoritative: bool) -> Finding:
    """Check the response to a query for the zone's SOA, sent to an address of zkdns.

    Args:
        about: the address and the transport.
        rcode: the response code's name.
        is_authoritative: whether AA is set.
    """
    if rcode == "SERVFAIL":
        return warning(
            about,
            "responds with SERVFAIL: the table has not been read yet",
            "see whether ZooKeeper is reachable, below",
        )
    if rcode == "REFUSED":
        return wrong(
            about,
            "responds with REFUSED: it serves other zones, or does not allow this client",
            "run zkdns doctor with the server's own --config, or see allow",
        )
    if rcode != "NOERROR" or not is_authoritative:
        return wrong(
            about,
            f"responds with {rcode}, not as an authoritative server of the zone: it is not zkdns",
            "see which program has the port, above",
        )
    return ok(about, "responds")


def check_zookeeper(probes: Iterable[ProbeResult]) -> Iterator[Finding]:
    """Check each server of the connect string by the result of its probe."""
    probes = tuple(probes)
    failed = [probe for probe in probes if probe.failure is not None]
    for probe in probes:
        about = f"ZooKeeper {probe.server}"
        if probe.failure is not None:
            if len(failed) == len(probes):
                advice = 'start it, or name others: write hosts = "HOST:PORT" in [zookeeper]'
                yield wrong(about, probe.failure, advice)
            else:
                yield warning(about, f"{probe.failure}; others work", "start it, or name others")
        elif probe.is_read_only:
            yield warning(about, "has no quorum, and serves only reads", "start more servers of its ensemble")
        elif probe.missing_chroot is not None:
            yield wrong(
                about,
                f"the chroot {probe.missing_chroot} does not exist",
                "create it, or correct the address (zookeeper.hosts)",
            )
        elif refusing := [root for root in probe.roots if root.refusal is not None]:
            for root in refusing:
                cure = (
                    "register a member, or correct namespace"
                    if "exist" in str(root.refusal)
                    else "name credentials with access (zookeeper.credentials)"
                )
                yield wrong(about, f"{root.path} {root.refusal}", cure)
        else:
            counts = (
                f"{root.path} has {root.children} znode{'s' * (root.children != 1)}" for root in probe.roots
            )
            yield ok(about, f"grants a session; {', '.join(counts)}")


def check_primaries(results: Mapping[str, Mapping[str, str | int]]) -> Iterator[Finding]:
    """Check each primary of a secondary.

    Args:
        results: for each address and zone, the serial, or why a transfer fails.
    """
    works = [all(isinstance(result, int) for result in zones.values()) for zones in results.values()]
    for address, zones in results.items():
        about = f"primary {address}"
        for zone, result in zones.items():
            if isinstance(result, int):
                yield ok(about, f"permits transfers of {zone}, serial {result}")
            elif any(works):
                yield warning(about, f"{zone}: {result}; others work", "correct it, or name another")
            else:
                advice = "start it, let it permit transfers to this host, or name another in [primary]"
                yield wrong(about, f"{zone}: {result}", advice)


def check_services(listing: Listing, template: str) -> Iterator[Finding]:
    """Check whether the services of a namespace have members, or other children only.

    Args:
        listing: the services of the namespace.
        template: that of the namespace.
    """
    foreign = [row for row in listing.services if row.is_foreign]
    for row in foreign[:_MAX_SERVICES]:
        yield warning(SERVICES, f"{row.path} has no members, but {row.others}", _REGISTER)
    if len(foreign) > _MAX_SERVICES:
        yield warning(
            SERVICES,
            f"{len(foreign) - _MAX_SERVICES} more services of {template} have other children only",
            _REGISTER,
        )
    if not foreign and listing.exists:
        members = sum(row.members or 0 for row in listing.services)
        yield ok(SERVICES, f"{template} has {len(listing.services)}; members: {members}")


def check_snapshot(age: float | None, failure: str | None, *, is_configured: bool) -> Iterator[Finding]:
    """Check whether the server could start without ZooKeeper.

    Args:
        age: the snapshot's age in seconds; None: there is no usable snapshot.
        failure: why there is none.
        is_configured: whether a setting names the file.
    """
    if not is_configured:
        yield warning(
            "snapshot",
            "is not configured, so without ZooKeeper the server starts with an empty table",
            'write path = "/var/lib/zkdns/table" in [snapshot]',
        )
    elif failure is not None:
        yield warning("snapshot", failure, "the server writes it after reading ZooKeeper")
    elif age is not None:
        yield ok("snapshot", f"is {format_duration(age, units=1)} old")


# -- upstreams --------------------------------------------------------------------------------------------


def check_upstreams(
    chosen: NameServers, own: Sequence[UpstreamAddress], *, resolved_asks_us: bool
) -> Iterator[Finding]:
    """Check whether there are upstreams, and whether they lead back to zkdns.

    Args:
        chosen: the upstreams.
        own: the name servers in the machine's files that are zkdns itself.
        resolved_asks_us: whether systemd-resolved forwards all names to zkdns.
    """
    if not chosen.servers and own:
        yield wrong(
            UPSTREAMS,
            f"zkdns is the only server in {chosen.source or 'the files of this machine'}, so it has no "
            "upstream",
            _NAME_UPSTREAMS,
        )
    elif not chosen.servers:
        yield wrong(UPSTREAMS, "there are none", _NAME_UPSTREAMS)
    elif resolved_asks_us and all(server.host in RESOLVED_STUBS for server in chosen.servers):
        yield wrong(
            UPSTREAMS,
            f"zkdns forwards to {chosen.servers[0]}, which is systemd-resolved and forwards to zkdns: a loop",
            _NAME_UPSTREAMS,
        )
    else:
        source = f" (from {chosen.source})" if chosen.source else ""
        yield ok(UPSTREAMS, f"{', '.join(map(str, chosen.servers))}{source}")


def check_upstream_responses(failures: Mapping[UpstreamAddress, str | None]) -> Iterator[Finding]:
    """Check whether the upstreams respond.

    Args:
        failures: the error of each; None: it responds.
    """
    silent = {server: error for server, error in failures.items() if error is not None}
    for server, error in silent.items():
        found, cure = f"{server} {error}", "check the route to it (firewall, VPN), or name another one"
        if len(silent) == len(failures):
            yield wrong(UPSTREAMS, found, cure)
        else:
            yield warning(UPSTREAMS, f"{found}; others respond", cure)
    if failures and not silent:
        yield ok(UPSTREAMS, "all of them respond")


# -- name resolution --------------------------------------------------------------------------------------


class NameResolution(msgspec.Struct, frozen=True, kw_only=True):
    """How programs on this machine resolve names."""

    conf: ResolvConf
    own: frozenset[str]
    """The addresses of zkdns with port 53."""
    forwards: Mapping[str, bool | None]
    """By name server, whether it resolves the zone through zkdns; None: unknown."""
    zones: tuple[str, ...]

    def reaches_zkdns(self, server: str) -> bool:
        """Whether a name server is zkdns, or forwards the zone to it."""
        known = self.forwards.get(server)
        return server in self.own if known is None else known


def check_resolv_conf(resolution: NameResolution) -> Iterator[Finding]:
    """Check the name servers, their order and the options in resolv.conf."""
    servers = resolution.conf.nameservers
    if not servers:
        # glibc then queries 127.0.0.1 (resolv.conf(5)).
        if resolution.reaches_zkdns("127.0.0.1"):
            yield warning(RESOLV_CONF, "has no nameserver; programs query 127.0.0.1, which is zkdns", _SETUP)
        else:
            yield wrong(RESOLV_CONF, "has no nameserver", _SETUP)
        return
    used, ignored = servers[:MAX_NAMESERVERS], servers[MAX_NAMESERVERS:]
    ours = [server for server in used if resolution.reaches_zkdns(server)]
    others = [server for server in used if server not in ours]
    if not ours and any(map(resolution.reaches_zkdns, ignored)):
        yield wrong(
            RESOLV_CONF, f"names zkdns after {MAX_NAMESERVERS} others, and glibc uses no more", _SETUP
        )
    elif not ours:
        yield wrong(
            RESOLV_CONF,
            f"names {', '.join(used)}, which do{'es' * (len(used) == 1)} not lead to zkdns",
            _SETUP if resolution.own else _PORT_53,
        )
    elif servers[0] not in ours:
        yield wrong(
            RESOLV_CONF,
            f"names {servers[0]} before zkdns; it responds with NXDOMAIN to names in "
            f"{' and '.join(resolution.zones)}, and programs query no other server then",
            f"make nameserver {ours[0]} the first",
        )
    else:
        yield ok(RESOLV_CONF, f"names {servers[0]} first, which {_describe(servers[0], resolution)}")
    if ours and others and "rotate" in resolution.conf.options:
        yield wrong(
            RESOLV_CONF,
            f"has options rotate, so {', '.join(others)} receive every other query, and do not know the zone",
            "remove rotate",
        )
    if ignored:
        yield warning(
            RESOLV_CONF,
            f"names {len(servers)} servers, and glibc uses only the first {MAX_NAMESERVERS}",
            "keep those",
        )


def _describe(server: str, resolution: NameResolution) -> str:
    if server in resolution.own:
        return "is zkdns"
    if server in RESOLVED_STUBS:
        return f"is systemd-resolved, which forwards {resolution.zones[0]} to zkdns"
    return "forwards to zkdns"


def check_search(conf: ResolvConf, zones: Sequence[str]) -> Iterator[Finding]:
    """Check which short names resolve, and at what cost."""
    inside = [domain for domain in conf.search if any(_is_below(domain, zone) for zone in zones)]
    if inside:
        yield ok("short names", f"web resolves as web.{inside[0]}")
    else:
        tried = f"resolve only below {', '.join(conf.search)}" if conf.search else "do not resolve"
        yield ok("short names", f"names without a dot {tried}; zkdns setup --search DOMAIN adds a domain")
    dots = 2  # in web.staging.discovery
    if conf.search and conf.ndots > dots:
        yield warning(
            "short names",
            f"options ndots:{conf.ndots}: names with fewer dots are tried in {', '.join(conf.search)} first",
            "write names with a trailing dot, or lower ndots",
        )


def check_hosts_line(
    sources: Sequence[NssSource], zones: Sequence[str], *, resolved_leads: bool
) -> Iterator[Finding]:
    """Check whether glibc queries name servers at all.

    Args:
        sources: those of the `hosts:` line.
        zones: without trailing dots.
        resolved_leads: whether systemd-resolved, if it runs, forwards the zones to zkdns.
    """
    names = [source.name for source in sources]
    shown = f"hosts: {' '.join(names)}"
    before_dns = sources[: names.index("dns")] if "dns" in names else sources
    local = [zone for zone in zones if _is_below(zone, "local")]
    for source in before_dns:
        if source.name == "resolve" and not resolved_leads and source.stops_on:
            yield wrong(
                NSSWITCH_CONF,
                f"{shown}: programs query systemd-resolved, which does not forward the zone to zkdns",
                _SETUP,
            )
        elif source.name.startswith("mdns") and "notfound" in source.stops_on:
            if local:
                yield wrong(
                    NSSWITCH_CONF,
                    f"{shown}: {source.name} ends the lookup of {local[0]}: local is for mDNS (RFC 6762)",
                    "choose a zone outside of local",
                )
        elif source.name != "resolve" and "notfound" in source.stops_on:
            yield wrong(
                NSSWITCH_CONF,
                f"{shown}: {source.name} ends the lookup before name servers are queried",
                "remove that action",
            )
    if not {"dns", "resolve"}.intersection(names):
        yield wrong(
            NSSWITCH_CONF, f"{shown}: programs do not query name servers", "add dns to the line hosts:"
        )
    elif "dns" in names or resolved_leads:
        yield ok(NSSWITCH_CONF, shown)


def check_nscd(is_running: bool) -> Iterator[Finding]:
    """Check for nscd, which ignores TTLs."""
    if is_running:
        yield warning(
            "nscd",
            "is running, and caches addresses beyond their TTL",
            "disable its cache of hosts (enable-cache hosts no in /etc/nscd.conf)",
        )


def _is_below(domain: str, zone: str) -> bool:
    return domain == zone or domain.endswith(f".{zone}")
