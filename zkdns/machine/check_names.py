"""Whether this machine's names lead to zkdns at all. Functions of what was found out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from zkdns.machine.findings import Finding, ok, warning, wrong
from zkdns.machine.keepers import RESOLV_CONF, STUBS
from zkdns.machine.stub import HEEDED, ResolvConf, Source

_SETUP = "zkdns setup shows what to change, and changes it with --apply"


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """How names are looked up here."""

    conf: ResolvConf
    own: frozenset[str]
    """Addresses at which zkdns listens on port 53."""
    leads: Mapping[str, bool | None]
    """Of name servers: whether a zone's names that are asked there come to zkdns; None: it is not known."""
    zones: tuple[str, ...]

    def comes_to_zkdns(self, server: str) -> bool:
        """Whether it is zkdns, or hands the zone to it."""
        known = self.leads.get(server)
        return server in self.own if known is None else known


def check_resolv_conf(way: Way) -> Iterator[Finding]:
    """Whom programs ask, in which order, and whether that comes to zkdns."""
    servers = way.conf.nameservers
    if not servers:
        # glibc asks 127.0.0.1 then (resolv.conf(5)).
        if way.comes_to_zkdns("127.0.0.1"):
            yield warning(RESOLV_CONF, "names nobody; programs ask 127.0.0.1, which is zkdns", _SETUP)
        else:
            yield wrong(RESOLV_CONF, "names nobody", _SETUP)
        return
    heeded, ignored = servers[:HEEDED], servers[HEEDED:]
    ours = [server for server in heeded if way.comes_to_zkdns(server)]
    others = [server for server in heeded if server not in ours]
    if not ours and any(map(way.comes_to_zkdns, ignored)):
        yield wrong(RESOLV_CONF, f"names zkdns behind {HEEDED} others, and glibc asks no more", _SETUP)
    elif not ours:
        yield wrong(
            RESOLV_CONF,
            f"names {', '.join(heeded)}, which do{'es' * (len(heeded) == 1)} not lead to zkdns",
            _SETUP,
        )
    elif not way.comes_to_zkdns(servers[0]):
        yield wrong(
            RESOLV_CONF,
            f"names {servers[0]} before zkdns; it says that {' and '.join(way.zones)} has no such names, "
            "and nobody else is asked",
            f"let nameserver {ours[0]} be the first",
        )
    else:
        yield ok(RESOLV_CONF, f"names {servers[0]} first, which {_is_what(servers[0], way)}")
    if ours and others and "rotate" in way.conf.options:
        yield wrong(
            RESOLV_CONF,
            f"says options rotate, so that {', '.join(others)} get every other query, who know no such names",
            "take rotate away",
        )
    if ignored:
        yield warning(
            RESOLV_CONF,
            f"names {len(servers)} servers, and glibc asks the first {HEEDED} alone",
            "keep those",
        )


def _is_what(server: str, way: Way) -> str:
    if server in way.own:
        return "is zkdns"
    return f"is systemd-resolved, which asks zkdns for {way.zones[0]}" if server in STUBS else "asks zkdns"


def check_search(conf: ResolvConf, zones: Sequence[str]) -> Iterator[Finding]:
    """Which short names are found, and what they cost."""
    inside = [domain for domain in conf.search if any(_lies_in(domain, zone) for zone in zones)]
    if inside:
        yield ok("short names", f"web is found as web.{inside[0]}")
    else:
        tried = f"only below {', '.join(conf.search)}" if conf.search else "nowhere"
        yield ok(
            "short names", f"names without a dot are looked for {tried}; zkdns setup --search DOMAIN adds one"
        )
    dots = 2  # of web.staging.discovery
    if conf.search and conf.ndots > dots:
        yield warning(
            "short names",
            f"options ndots:{conf.ndots}: names with fewer dots are tried in {', '.join(conf.search)} first",
            "write names with a dot at their end, or lower ndots",
        )


def check_hosts_line(
    sources: Sequence[Source], zones: Sequence[str], *, resolved_leads: bool
) -> Iterator[Finding]:
    """Whether glibc gets to asking name servers at all.

    Args:
        sources: those of `hosts:`.
        zones: without dots at their ends.
        resolved_leads: whether systemd-resolved, where it runs, hands the zones to zkdns.
    """
    about = "/etc/nsswitch.conf"
    names = [source.name for source in sources]
    shown = f"hosts: {' '.join(names)}"
    before = sources[: names.index("dns")] if "dns" in names else sources
    local = [zone for zone in zones if _lies_in(zone, "local")]
    for source in before:
        if source.name == "resolve" and not resolved_leads and source.stops_on:
            yield wrong(
                about,
                f"{shown}: programs ask systemd-resolved, which does not hand the zone to zkdns",
                _SETUP,
            )
        elif source.name.startswith("mdns") and "notfound" in source.stops_on:
            if local:
                yield wrong(
                    about,
                    f"{shown}: {source.name} ends the search for {local[0]}: local is mDNS' (RFC 6762)",
                    "choose a zone outside of local",
                )
        elif source.name != "resolve" and "notfound" in source.stops_on:
            yield wrong(
                about,
                f"{shown}: {source.name} ends the search before name servers are asked",
                "take that away",
            )
    if not {"dns", "resolve"}.intersection(names):
        yield wrong(about, f"{shown}: nobody asks name servers", "add dns to the line hosts:")
    elif "dns" in names or resolved_leads:
        yield ok(about, shown)


def check_nscd(runs: bool) -> Iterator[Finding]:
    """Whether answers are kept by somebody who knows no TTL of ours."""
    if runs:
        yield warning(
            "nscd",
            "runs, and keeps answers for longer than they may be kept",
            "let it not cache hosts (enable-cache hosts no in /etc/nscd.conf)",
        )


def _lies_in(domain: str, zone: str) -> bool:
    return domain == zone or domain.endswith(f".{zone}")
