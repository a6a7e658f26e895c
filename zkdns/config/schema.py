"""The schema: one row for each setting, with its key, its parser, its help and the processes that use it.

A new setting is one row here and one field with its default in `model.py`; flags, variables, the reference
and the reload follow from the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec

from zkdns.address import (
    DNS_PORT,
    DNS_TLS_PORT,
    ZOOKEEPER_PORT,
    HostPort,
    parse_connect_string,
    parse_network,
    parse_servers,
    parse_upstream,
)
from zkdns.config.model import (
    Empty,
    ForwardZoneSettings,
    LogFormat,
    LogLevel,
    Order,
    ServiceOverride,
)
from zkdns.config.parsers import (
    ADMIN_PORT,
    Location,
    boolean,
    check_table,
    fraction,
    integer,
    join_upstreams,
    one_of,
    parse_admin_address,
    parse_admin_name,
    parse_cookie_secret,
    parse_domain,
    parse_identity,
    parse_listen_address,
    parse_notify_target,
    parse_tls_address,
    parse_upstream_or_word,
    parse_zone,
    parse_zone_upstream,
    path,
    seconds,
    share,
    socket_path_or_none,
    text,
)
from zkdns.config.setting import Process, Setting, list_of_tables, named_tables
from zkdns.config.tsig_key import parse_tsig_key, parse_tsig_keys
from zkdns.errors import BadValueError
from zkdns.namespace import Namespace, parse_member_prefix, parse_namespace

if TYPE_CHECKING:
    from zkdns.names import Labels

MAX_TTL = 86_400  # a day; members come and go with processes
MAX_NEGATIVE_TTL = 3_600  # RFC 2308 §5 suggests one to three hours; a new service must be visible soon
MAX_SNAPSHOT_AGE = 365 * 86_400  # a year; 0 is for more
MAX_RECORDS = 65_535  # ANCOUNT has 16 bits (RFC 1035 §4.1.1)
MAX_WORKERS = 256
MAX_HELD_SECONDS = 86_400  # a day; no failure of ZooKeeper stays unnoticed for longer
MAX_CACHE_ENTRIES = 1_000_000
MAX_CACHE_TTL = 7 * 86_400  # RFC 8767 §4
MAX_CACHE_STALE = 3 * 86_400  # RFC 8767 §5: one to three days
MAX_SESSION_TIMEOUT = 600  # ensembles grant 40 s by default (maxSessionTimeout)
MAX_JOURNAL = 1024  # MiB
MAX_TRANSFERS = 256
MAX_REFRESH = 3_600  # an hour; a change must not stay unnoticed for longer
MAX_SERVICE_METRICS = 10_000  # with five series each
MAX_RATE = 1_000_000_000  # responses per second; more than any machine sends

STATUSES = (
    "DEAD",
    "STARTING",
    "ALIVE",
    "STOPPING",
    "STOPPED",
    "WARNING",
    "UNKNOWN",
)  # Status in endpoint.thrift

_SUPERVISOR = frozenset[Process]({"supervisor"})
_WATCHER = frozenset[Process]({"watcher"})
_WORKER = frozenset[Process]({"worker"})
_TRANSFER = frozenset[Process]({"transfer"})
_RECORDS = _WORKER | _TRANSFER  # they determine the records of the zones


# -- tables -----------------------------------------------------------------------------------------------


class GivenNamespace(msgspec.Struct, frozen=True):
    """A namespace as written; without a zone, member prefix or patterns it gets the top-level ones."""

    namespace: Namespace
    zone: Labels | None
    member_prefix: str | None
    only: tuple[str, ...] | None
    location: Location


_ZONE = Setting(
    "zone",
    text(parse_zone, "a domain name"),
    "NAME",
    "Domain under which services are answered.",
    field="namespaces",
)
_MEMBER_PREFIX = Setting(
    "member_prefix",
    text(parse_member_prefix, "the beginning of members' names"),
    "PREFIX",
    "Beginning of the names of members' znodes.",
    field="namespaces",
)
_ONLY = Setting(
    "only",
    text(str, "a pattern of services"),
    "PATTERN",
    "Follow only services that match, such as *.prod or web.staging. Default: all.",
    many=True,
    field="namespaces",
)
_PATH = Setting("path", text(parse_namespace, "a path with placeholders"), "TEMPLATE", "Path of services.")


def _make_namespace(given: dict[str, Any], location: Location) -> GivenNamespace | None:
    """Return the namespace of one table; None if an error is reported already."""
    if "path" not in given:
        raise BadValueError("has no path; write the path of services: /discovery/{environment}/{service}")
    if None in given.values():
        return None
    if None in given.get("only", ()):
        return None
    return GivenNamespace(
        given["path"], given.get("zone"), given.get("member_prefix"), given.get("only"), location
    )


_parse_namespace_tables = list_of_tables((_PATH, _ZONE, _MEMBER_PREFIX, _ONLY), _make_namespace)


def _parse_namespaces(value: object, location: Location) -> tuple[GivenNamespace | None, ...]:
    """Parse one template, or in a file a list of tables."""
    if location.typed and isinstance(value, list):
        return tuple(_parse_namespace_tables(value, location))
    namespace: Any = _PATH.parse(value, location)
    return (GivenNamespace(namespace, None, None, None, location),)


_TTL = Setting("ttl", seconds(0, MAX_TTL), "SECONDS", f"TTL of responses, 0 to {MAX_TTL}.", used_by=_RECORDS)
_ORDER = Setting(
    "order",
    one_of(*get_args(Order)),
    "ORDER",
    f"Order of members in a response: {', '.join(get_args(Order))}.",
    used_by=_WORKER,
)
_MAX_ANSWERS = Setting(
    "max_answers",
    integer(1, MAX_RECORDS),
    "COUNT",
    "Maximum number of members in a response. Default: no limit.",
    used_by=_WORKER,
)
_ZONE_UPSTREAMS = Setting(
    "upstreams",
    text(parse_zone_upstream, "ADDRESS[:PORT], tcp://ADDRESS[:PORT], tls://ADDRESS[:PORT]#NAME or none"),
    "ADDRESS[:PORT]|none",
    "Upstreams of the forward zone; none refuses its names.",
    many=True,
    join=join_upstreams,
)

ZONE_SETTINGS = (_ZONE_UPSTREAMS,)
"""The keys of `[forward.zone."…"]`."""
SERVICE_SETTINGS = (_TTL, _ORDER, _MAX_ANSWERS)
"""The keys of `[service."…"]`."""

_parse_zone_tables = named_tables(ZONE_SETTINGS, lambda upstreams=(): ForwardZoneSettings(upstreams))


def _parse_forward_zones(value: object, location: Location) -> dict[str, ForwardZoneSettings]:
    """Parse the tables of forward zones. A table with other keys only has an error already."""
    for zone, table in check_table(value).items():
        if table == {}:
            location.child(zone).add_error(
                'has no upstreams; write upstreams = ["10.0.0.53"], or "none" to refuse the domain'
            )
    return _parse_zone_tables(value, location)


def _parse_observers(value: object, location: Location) -> tuple[HostPort, ...]:
    """Parse `host:port,host:port`."""
    hosts = text(parse_connect_string, "HOST[:PORT],…")(value, location)
    if "/" in hosts:
        raise BadValueError(f"{hosts!r} has a chroot; that of zookeeper.hosts applies to observers as well")
    return tuple(parse_servers(hosts))


# -- the rows ---------------------------------------------------------------------------------------------

SOURCES = (
    Setting(
        "zookeeper.hosts",
        text(parse_connect_string, "HOST[:PORT],…[/CHROOT]"),
        "HOSTS[/CHROOT]",
        f"Servers of the ensemble; the default port is {ZOOKEEPER_PORT}. "
        "Default: 127.0.0.1, if no source is configured.",
        used_by=_WATCHER | _SUPERVISOR,
        name="zookeeper",
    ),
    Setting(
        "zookeeper.observers",
        _parse_observers,
        "HOSTS",
        "Observers of the ensemble, which are used instead of the other servers while they can be reached.",
        used_by=_WATCHER,
    ),
    Setting(
        "zookeeper.session_timeout",
        seconds(1, MAX_SESSION_TIMEOUT),
        "SECONDS",
        f"Session timeout, 1 to {MAX_SESSION_TIMEOUT}.",
        used_by=_WATCHER,
    ),
    Setting(
        "zookeeper.credentials",
        path,
        "FILE",
        "Private file with digest or SASL credentials.",
        used_by=_WATCHER,
    ),
    Setting("zookeeper.tls", boolean, "BOOL", "Connect to ZooKeeper with TLS.", used_by=_WATCHER),
    Setting(
        "zookeeper.ca",
        path,
        "FILE",
        "Trusted CA certificates (PEM). Default: the system's.",
        used_by=_WATCHER,
    ),
    Setting("zookeeper.certificate", path, "FILE", "Client certificate (PEM).", used_by=_WATCHER),
    Setting(
        "zookeeper.key",
        path,
        "FILE",
        "Private key of the client certificate. Default: in the certificate file.",
        used_by=_WATCHER,
    ),
    Setting(
        "zookeeper.verify_hostname",
        boolean,
        "BOOL",
        "Require that server certificates match the host name. Default: on.",
        used_by=_WATCHER,
    ),
    Setting(
        "primary.servers",
        text(parse_upstream, "ADDRESS[:PORT], tcp://ADDRESS[:PORT] or tls://ADDRESS[:PORT]#NAME"),
        "ADDRESS[:PORT]",
        "Servers from which to transfer the zones, instead of reading ZooKeeper.",
        many=True,
        name="primary",
    ),
    Setting(
        "primary.refresh",
        seconds(1, MAX_REFRESH),
        "SECONDS",
        f"Maximum time between two queries for the serial of a zone, 1 to {MAX_REFRESH}.",
        used_by=_WATCHER,
    ),
    Setting(
        "primary.key",
        parse_tsig_key,
        "TABLE",
        "TSIG key that signs queries to the primaries, as a table [primary.key].",
        used_by=_WATCHER,
        in_environment=False,
        in_flags=False,
    ),
    Setting(
        "primary.ca",
        path,
        "FILE",
        "Trusted CA certificates (PEM) of primaries with TLS. Default: the system's.",
        used_by=_WATCHER,
    ),
    Setting(
        "primary.allow_notify",
        text(parse_network, "an address or a network, such as 10.0.0.0/8"),
        "NETWORK",
        "Networks that may send NOTIFY, in addition to the primaries.",
        many=True,
        used_by=_WATCHER,
    ),
    Setting("static", path, "FILE", "Static file: services that are not in ZooKeeper.", used_by=_WATCHER),
    Setting("demo", boolean, "BOOL", "Serve only the built-in example.", used_by=_WATCHER | _SUPERVISOR),
    Setting("offline", boolean, "BOOL", "Serve only the snapshot, without ZooKeeper."),
)

NAMES = (
    _ZONE,
    Setting(
        "namespace",
        _parse_namespaces,
        "TEMPLATE",
        "Path of services in ZooKeeper, such as /discovery/{environment}/{service}.",
        field="namespaces",
    ),
    _MEMBER_PREFIX,
    _ONLY,
    _TTL,
    Setting(
        "negative_ttl",
        seconds(1, MAX_NEGATIVE_TTL),
        "SECONDS",
        f"TTL of negative responses, 1 to {MAX_NEGATIVE_TTL}.",
        used_by=_RECORDS,
    ),
    _ORDER,
    _MAX_ANSWERS,
    Setting(
        "statuses",
        one_of(*STATUSES),
        "STATUS",
        f"Members with these statuses are in responses: {', '.join(STATUSES)}.",
        many=True,
        in_flags=False,
    ),
    Setting(
        "empty",
        one_of(*get_args(Empty)),
        "RESPONSE",
        f"Response for a service without members: {' or '.join(get_args(Empty))}.",
        used_by=_RECORDS,
        in_flags=False,
    ),
    Setting("dns_sd", boolean, "BOOL", "Answer DNS-SD browsing queries (RFC 6763).", used_by=_RECORDS),
    Setting("reverse", boolean, "BOOL", "Answer PTR queries for members' addresses.", used_by=_WORKER),
    Setting(
        "identity",
        text(parse_identity, "a name for this server"),
        "NAME",
        "Server name for NSID, id.server and hostname.bind.",
        used_by=_WORKER,
    ),
    Setting(
        "show_version",
        boolean,
        "BOOL",
        "Answer version.server and version.bind.",
        used_by=_WORKER,
    ),
    Setting(
        "top_names",
        boolean,
        "BOOL",
        "Count the most frequent names and clients, for `zkdns top`.",
        used_by=_WORKER | _SUPERVISOR,
    ),
)

FORWARDING = (
    Setting(
        "forward.upstreams",
        text(
            parse_upstream_or_word,
            "ADDRESS[:PORT], tcp://ADDRESS[:PORT], tls://ADDRESS[:PORT]#NAME, auto or none",
        ),
        "ADDRESS[:PORT]|auto|none",
        "Upstreams for other names; auto uses this machine's resolvers, none refuses the names.",
        many=True,
        join=join_upstreams,
        name="upstream",
    ),
    Setting("forward.trust_ad", boolean, "BOOL", "Pass on the upstreams' AD bit (DNSSEC).", used_by=_WORKER),
    Setting(
        "forward.rebind_protection",
        boolean,
        "BOOL",
        "Remove private addresses from answers of the upstreams, except those of forward zones.",
        used_by=_WORKER,
    ),
    Setting(
        "forward.rebind_exempt",
        text(parse_domain, "a domain"),
        "DOMAIN",
        "Domains whose names may have private addresses.",
        many=True,
        used_by=_WORKER,
    ),
    Setting(
        "forward.zone",
        _parse_forward_zones,
        "TABLES",
        'Forward zones, such as [forward.zone."corp.example"].',
        field="forward.zones",
        in_environment=False,
        in_flags=False,
    ),
    Setting(
        "cache.entries",
        integer(1, MAX_CACHE_ENTRIES),
        "COUNT",
        f"Maximum number of responses in each worker's forward cache, up to {MAX_CACHE_ENTRIES}.",
        used_by=_WORKER,
    ),
    Setting(
        "cache.max_ttl",
        seconds(1, MAX_CACHE_TTL),
        "SECONDS",
        f"Maximum TTL in the forward cache, up to {MAX_CACHE_TTL}.",
        used_by=_WORKER,
    ),
    Setting(
        "cache.stale",
        seconds(0, MAX_CACHE_STALE),
        "SECONDS",
        "How long to use expired cache entries if no upstream answers; 0: never.",
        used_by=_WORKER,
    ),
)

ACCESS = (
    Setting(
        "access.allow",
        text(parse_network, "an address or a network, such as 10.0.0.0/8"),
        "NETWORK",
        "Networks that may query this server. Default: private networks.",
        many=True,
        used_by=_WORKER,
        name="allow",
    ),
    Setting(
        "access.rate_limit",
        integer(0, MAX_RATE),
        "COUNT",
        "Maximum UDP responses per second to one network (IPv4 /24, IPv6 /56); 0: no limit.",
        used_by=_WORKER,
    ),
    Setting("access.cookies", boolean, "BOOL", "Use DNS cookies. Default: on.", used_by=_WORKER),
    Setting(
        "access.cookie_secret",
        parse_cookie_secret,
        "HEX",
        "Secret for DNS cookies; the same for all servers behind one address.",
        used_by=_WORKER,
        in_flags=False,  # other users can read command lines
    ),
)

TLS = (
    Setting(
        "tls.listen",
        text(parse_tls_address, "ADDRESS[:PORT]"),
        "ADDRESS[:PORT]",
        f"Address for DNS over TLS; the default port is {DNS_TLS_PORT}.",
        many=True,
        used_by=_WORKER | _SUPERVISOR,
    ),
    Setting("tls.certificate", path, "FILE", "Certificate (PEM) for DNS over TLS.", used_by=_WORKER),
    Setting(
        "tls.key",
        path,
        "FILE",
        "Private key of this certificate. Default: in the certificate file.",
        used_by=_WORKER,
    ),
)

TRANSFER = (
    Setting(
        "transfer.allow",
        text(parse_network, "an address or a network, such as 10.0.0.2 or 10.0.0.0/8"),
        "NETWORK",
        "Networks whose secondaries may copy the zones without a key. Default: none.",
        many=True,
        used_by=_TRANSFER | _SUPERVISOR,
    ),
    Setting(
        "transfer.keys",
        parse_tsig_keys,
        "TABLES",
        "TSIG keys with which secondaries may copy the zones, as tables [[transfer.keys]].",
        used_by=_TRANSFER | _SUPERVISOR,
        in_environment=False,
        in_flags=False,
    ),
    Setting(
        "transfer.require_tls",
        boolean,
        "BOOL",
        "Permit zone transfers over TLS only (RFC 9103).",
        used_by=_TRANSFER,
    ),
    Setting(
        "transfer.notify",
        text(parse_notify_target, "ADDRESS[:PORT][#KEY]"),
        "ADDRESS[:PORT][#KEY]",
        "Secondaries that get a NOTIFY after each change, signed with a key of transfer.keys.",
        many=True,
        used_by=_TRANSFER,
    ),
    Setting(
        "transfer.journal",
        integer(0, MAX_JOURNAL),
        "MIB",
        f"Maximum memory of the journal of each zone, 0 to {MAX_JOURNAL} MiB; 0: always full transfers.",
        used_by=_TRANSFER,
        in_flags=False,
    ),
    Setting(
        "transfer.directory",
        path,
        "DIRECTORY",
        "Directory that keeps the zones and their journals over restarts.",
        used_by=_TRANSFER,
        in_flags=False,
    ),
    Setting(
        "transfer.max_transfers",
        integer(1, MAX_TRANSFERS),
        "COUNT",
        f"Maximum number of full transfers at the same time, 1 to {MAX_TRANSFERS}.",
        used_by=_TRANSFER,
        in_flags=False,
    ),
)

OPERATION = (
    Setting(
        "admin.listen",
        text(parse_admin_address, "ADDRESS:PORT or none"),
        "ADDRESS:PORT|none",
        f"HTTP address of status page, API, metrics and health checks. Default: 127.0.0.1:{ADMIN_PORT}.",
        used_by=_SUPERVISOR,
        name="admin",
    ),
    Setting(
        "admin.socket",
        socket_path_or_none,
        "FILE|none",
        "Unix socket of the HTTP API, which commands on this machine use; none disables it. "
        "Default: /run/zkdns/api for root, $XDG_RUNTIME_DIR/zkdns/api for other users.",
        used_by=_SUPERVISOR,
    ),
    Setting(
        "admin.certificate",
        path,
        "FILE",
        "Certificate (PEM) of the admin address, which then uses HTTPS.",
        used_by=_SUPERVISOR,
    ),
    Setting(
        "admin.key",
        path,
        "FILE",
        "Private key of this certificate. Default: in the certificate file.",
        used_by=_SUPERVISOR,
    ),
    Setting(
        "admin.names",
        text(parse_admin_name, "a host name"),
        "NAME",
        "Host names that browsers may use for the admin address.",
        many=True,
        used_by=_SUPERVISOR,
    ),
    Setting(
        "admin.service_metrics",
        integer(0, MAX_SERVICE_METRICS),
        "N",
        "Number of services with metrics of their own; those of the others are added up.",
        used_by=_SUPERVISOR,
    ),
    Setting(
        "admin.token",
        path,
        "FILE",
        "Private file with the bearer token for changes over HTTP.",
        used_by=_SUPERVISOR,
    ),
    Setting(
        "snapshot.path",
        path,
        "FILE",
        "File that keeps the table over restarts.",
        used_by=_WATCHER,
        name="snapshot",
    ),
    Setting(
        "snapshot.max_age",
        seconds(0, MAX_SNAPSHOT_AGE),
        "SECONDS",
        "Maximum age of the snapshot; 0: no limit.",
        used_by=_WATCHER,
    ),
    Setting(
        "guard.share",
        fraction,
        "FRACTION",
        "The loss of a larger share of a service's members is suspicious.",
        used_by=_WATCHER,
        in_environment=False,
        in_flags=False,
    ),
    Setting(
        "guard.minimum",
        integer(1, MAX_RECORDS),
        "COUNT",
        "For services with fewer members only the loss of all, or of all but one, is suspicious.",
        used_by=_WATCHER,
        in_environment=False,
        in_flags=False,
    ),
    Setting(
        "guard.seconds",
        seconds(0, MAX_HELD_SECONDS),
        "SECONDS",
        "How long to hold members after a suspicious loss, at least until ZooKeeper is back; 0: never.",
        used_by=_WATCHER,
        in_environment=False,
        in_flags=False,
    ),
    Setting(
        "log.level",
        one_of(*get_args(LogLevel)),
        "LEVEL",
        f"Lowest level that is logged: {', '.join(get_args(LogLevel))}.",
    ),
    Setting(
        "log.format", one_of(*get_args(LogFormat)), "FORMAT", f"Log format: {', '.join(get_args(LogFormat))}."
    ),
    Setting("log.queries", share, "SHARE", "Share of queries that are logged, 0 to 1.", used_by=_WORKER),
)

SETTINGS = (
    *SOURCES,
    Setting(
        "listen",
        text(parse_listen_address, "ADDRESS[:PORT]"),
        "ADDRESS[:PORT]",
        f"DNS address; the default port is {DNS_PORT}, and 0 is any free port.",
        many=True,
    ),
    Setting(
        "workers",
        integer(1, MAX_WORKERS),
        "COUNT",
        f"Number of worker processes, 1 to {MAX_WORKERS}.",
        used_by=_WATCHER | _SUPERVISOR,
    ),
    *NAMES,
    *FORWARDING,
    *ACCESS,
    *TLS,
    *TRANSFER,
    *OPERATION,
    Setting(
        "service",
        named_tables(SERVICE_SETTINGS, ServiceOverride),
        "TABLES",
        'Overrides for single services, such as [service."web.staging"].',
        used_by=_RECORDS,
        in_environment=False,
        in_flags=False,
    ),
)
