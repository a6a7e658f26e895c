"""The table of settings: what each is called, how it is read, and what people are told about it.

A new setting is one row here and one field of `Config` with its default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec

from zkdns.address import (
    DNS_PORT,
    ZOOKEEPER_PORT,
    HostPort,
    UpstreamAddress,
    parse_connect_string,
    parse_listen,
    parse_upstream,
)
from zkdns.config.askers import ASKERS
from zkdns.config.model import (
    Empty,
    ForwardSettings,
    GuardSettings,
    LogFormat,
    LogLevel,
    Order,
    ServiceOverride,
    Upstream,
    Watches,
)
from zkdns.config.values import (
    Place,
    Setting,
    fraction,
    list_of_tables,
    one_of,
    path,
    path_or_none,
    share,
    switch,
    table,
    tables,
    text,
    whole,
)
from zkdns.errors import BadValueError
from zkdns.names import lower, parse_name, to_text
from zkdns.namespace import Namespace, parse_namespace

if TYPE_CHECKING:
    from zkdns.names import Labels

DEMO_PORT = 5300  # no privilege is needed to try the example
ADMIN_PORT = 9153  # where CoreDNS and others have their metrics

MAX_TTL = 86_400  # a day: nothing that comes and goes with a process is worth keeping for longer
MAX_NEGATIVE_TTL = (
    3_600  # RFC 2308 §5 calls one to three hours sensible; a service that starts is not to wait longer
)
MAX_SNAPSHOT_AGE = 366 * 86_400  # a year; who wants more wants any
MAX_RECORDS = 65_535  # ANCOUNT has 16 bits (RFC 1035 §4.1.1)
MAX_WORKERS = 256
MAX_LIMBO = 86_400  # a day: after that a failure of ZooKeeper is no news any more
MAX_FORWARDED = 65_535
MAX_CACHE_ENTRIES = 1_000_000
MAX_CACHE_TTL = 7 * 86_400  # RFC 8767 §4
MAX_CACHE_MIN_TTL = 3_600  # a longer floor is a way to hold on to addresses that are others' by now
MAX_CACHE_NEGATIVE_TTL = 3 * 3_600  # RFC 2308 §5
MAX_CACHE_STALE = 3 * 86_400  # RFC 8767 §5 has one to three days
MAX_SESSION_TIMEOUT = 600  # ensembles grant 40 s unless told otherwise (maxSessionTimeout)

STATUSES = (
    "DEAD",
    "STARTING",
    "ALIVE",
    "STOPPING",
    "STOPPED",
    "WARNING",
    "UNKNOWN",
)  # Status in endpoint.thrift

_ZONE_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")


def _parse_listen(written: str) -> HostPort:
    return parse_listen(written, default_port=DNS_PORT)


def _parse_admin(written: str) -> HostPort | None:
    return None if written == "none" else parse_listen(written, default_port=ADMIN_PORT)


def _parse_admin_name(written: str) -> str:
    name = to_text(lower(parse_name(written)))
    if not name:
        raise BadValueError(f"{written!r} is the root; write a host name, as dns1.example.com")
    return name


def _parse_zone(written: str) -> Labels:
    """Read a zone. Other bytes are legal in names, but in a zone's name they are a slip of the pen."""
    zone = lower(parse_name(written))
    if not zone:
        raise BadValueError(f"{written!r} is the root; a zone has a label at least, as discovery")
    if not all(_ZONE_BYTES.issuperset(label) for label in zone):
        raise BadValueError(
            f"{written!r} is not a zone; write letters, digits, hyphens and underscores between dots"
        )
    return zone


def _parse_upstream(written: str) -> UpstreamAddress | str:
    return written if written in {"auto", "none"} else parse_upstream(written)


def _parse_domains_upstream(written: str) -> UpstreamAddress | str:
    if written == "auto":
        raise BadValueError("is 'auto', which is for upstream alone; write addresses or none")
    return _parse_upstream(written)


def _join_upstreams(given: tuple[UpstreamAddress | str, ...]) -> Upstream:
    """The upstreams, or what the one word that stands for them means."""
    addresses = tuple(one for one in given if isinstance(one, UpstreamAddress))
    if len(addresses) == len(given):
        return addresses
    (word, *_) = (one for one in given if isinstance(one, str))
    if len(given) > 1:
        raise BadValueError(f"has {word} beside others; it stands alone")
    return "auto" if word == "auto" else ()


class GivenNamespace(msgspec.Struct, frozen=True):
    """A namespace as it was written; without a zone of its own it has the setting's."""

    namespace: Namespace
    zone: Labels | None
    place: Place


_ZONE = Setting("zone", text(_parse_zone, "a domain name"), "NAME", "The zone that is answered.")
_PATH = Setting("path", text(parse_namespace, "a path with placeholders"), "TEMPLATE", "Where its sets lie.")


def _namespace_of(given: dict[str, Any], place: Place) -> GivenNamespace | None:
    """A namespace out of its table; None where a mistake was kept already."""
    if "path" not in given:
        raise BadValueError("has no path; write where its sets lie, as /discovery/{environment}/{service}")
    namespace, zone = given["path"], given.get("zone")
    if namespace is None or (zone is None and "zone" in given):
        return None
    return GivenNamespace(namespace, zone, place)


_read_tables = list_of_tables((_PATH, _ZONE), _namespace_of)


def _read_namespaces(value: object, place: Place) -> tuple[GivenNamespace | None, ...]:
    """Read one template, or in a file as many tables as there are namespaces."""
    if place.typed and isinstance(value, list):
        return tuple(_read_tables(value, place))
    return (GivenNamespace(_PATH.read(value, place), None, place),)  # type: ignore[arg-type]  # its reader's


_TTL = Setting("ttl", whole(0, MAX_TTL), "SECONDS", f"How long an answer may be kept, up to {MAX_TTL}.")
_ORDER = Setting(
    "order", one_of(*get_args(Order)), "ORDER", f"How members are ordered: {', '.join(get_args(Order))}."
)
_MAX_ANSWERS = Setting("max_answers", whole(1, MAX_RECORDS), "COUNT", "Most members in one answer; else all.")

SERVICE_SETTINGS = (_TTL, _ORDER, _MAX_ANSWERS)

GUARD_SETTINGS = (
    Setting("share", fraction, "FRACTION", "More than this lost at once is suspicious."),
    Setting("minimum", whole(1, MAX_RECORDS), "COUNT", "Smaller services may lose all but one."),
    Setting("seconds", whole(0, MAX_LIMBO), "SECONDS", "How long suspicious losses are held; 0 holds none."),
)

FORWARD_SETTINGS = (
    Setting(
        "upstreams",
        text(_parse_domains_upstream, "ADDRESS[:PORT], tls://ADDRESS[:PORT]#NAME or none"),
        "ADDRESS[:PORT]|none",
        "Where the domain's names go; none refuses them.",
        many=True,
        join=_join_upstreams,
    ),
)


_read_domains = tables(FORWARD_SETTINGS, lambda upstreams=(): ForwardSettings(upstreams))


def _read_forward(value: object, place: Place) -> dict[str, ForwardSettings]:
    """Read tables by domains; one that says anything else than its upstreams has told its mistake by then."""
    for domain, one in value.items() if isinstance(value, dict) else ():
        if one == {}:
            place.inside(domain).refuse(
                'has no upstreams; write them as ["10.0.0.53"], or none to refuse the domain'
            )
    return _read_domains(value, place)


# Of forwarding only what is typed to try something is a flag; the rest is for files and variables.
FORWARDING = (
    Setting(
        "upstream",
        text(_parse_upstream, "ADDRESS[:PORT], tls://ADDRESS[:PORT]#NAME, auto or none"),
        "ADDRESS[:PORT]|auto|none",
        "Where other names go; auto asks whom this machine would ask, none refuses them.",
        many=True,
        join=_join_upstreams,
    ),
    Setting(
        "forward",
        _read_forward,
        "TABLES",
        'Where the names of single domains go, as [forward."corp.example"].',
        in_environment=False,
        in_flags=False,
    ),
    Setting(
        "max_forwarded",
        whole(1, MAX_FORWARDED),
        "COUNT",
        "Most queries that wait for upstreams at a time.",
        in_flags=False,
    ),
    Setting("trust_ad", switch, "BOOL", "Pass on what upstreams say of DNSSEC's checks.", in_flags=False),
    Setting(
        "cache_entries",
        whole(1, MAX_CACHE_ENTRIES),
        "COUNT",
        f"Most answers of upstreams that are kept, up to {MAX_CACHE_ENTRIES}.",
    ),
    Setting(
        "cache_min_ttl",
        whole(0, MAX_CACHE_MIN_TTL),
        "SECONDS",
        "How long they are kept at least.",
        in_flags=False,
    ),
    Setting(
        "cache_max_ttl",
        whole(1, MAX_CACHE_TTL),
        "SECONDS",
        "How long they are kept at most.",
        in_flags=False,
    ),
    Setting(
        "cache_negative_ttl",
        whole(1, MAX_CACHE_NEGATIVE_TTL),
        "SECONDS",
        "How long the absence of a name is kept at most.",
        in_flags=False,
    ),
    Setting(
        "cache_stale",
        whole(0, MAX_CACHE_STALE),
        "SECONDS",
        "How long answers that are over are given while no upstream answers; 0: never.",
        in_flags=False,
    ),
    Setting(
        "cache_prefetch",
        switch,
        "BOOL",
        "Ask anew for what is still asked for before it is over.",
        in_flags=False,
    ),
)

SETTINGS = (
    Setting(
        "zookeeper",
        text(parse_connect_string, "HOST[:PORT],…[/CHROOT]"),
        "HOSTS[/CHROOT]",
        f"Servers of the ensemble; the port is {ZOOKEEPER_PORT} unless given.",
    ),
    Setting(
        "watches",
        one_of(*get_args(Watches)),
        "WATCHES",
        "How changes are heard of: auto (a recursive watch where that is possible) or one-shot.",
    ),
    Setting("zookeeper_credentials", path, "FILE", "A file with digest or SASL credentials; private."),
    Setting("zookeeper_tls", switch, "BOOL", "Speak TLS with ZooKeeper."),
    Setting("zookeeper_ca", path, "FILE", "Authorities to trust instead of the system's, in PEM."),
    Setting("zookeeper_certificate", path, "FILE", "The certificate to show ZooKeeper, in PEM."),
    Setting("zookeeper_key", path, "FILE", "Its private key, unless it is in that file."),
    Setting("zookeeper_any_host", switch, "BOOL", "Take a server's certificate for any host name."),
    Setting(
        "session_timeout",
        whole(1, MAX_SESSION_TIMEOUT),
        "SECONDS",
        f"When a silent ZooKeeper counts as lost, 1 to {MAX_SESSION_TIMEOUT}.",
    ),
    Setting("fixed", path, "FILE", "A file of services that need no ZooKeeper."),
    Setting("demo", switch, "BOOL", "Serve the embedded example, and nothing else."),
    Setting(
        "listen",
        text(_parse_listen, "ADDRESS[:PORT]"),
        "ADDRESS[:PORT]",
        f"Where to answer; the port is {DNS_PORT} unless given, and 0 takes any free one.",
        many=True,
    ),
    *ASKERS,
    _ZONE,
    Setting(
        "namespace",
        _read_namespaces,
        "TEMPLATE",
        "How znodes make names, as /discovery/{environment}/{service}.",
    ),
    _TTL,
    Setting(
        "negative_ttl",
        whole(1, MAX_NEGATIVE_TTL),
        "SECONDS",
        f"How long the absence of a name may be kept, 1 to {MAX_NEGATIVE_TTL}.",
    ),
    _ORDER,
    _MAX_ANSWERS,
    Setting(
        "statuses",
        one_of(*STATUSES),
        "STATUS",
        f"Statuses of members that are answered with, of {', '.join(STATUSES)}.",
        many=True,
        in_flags=False,
    ),
    Setting(
        "empty",
        one_of(*get_args(Empty)),
        "ANSWER",
        f"What a service without members is: {' or '.join(get_args(Empty))}.",
        in_flags=False,
    ),
    Setting("dns_sd", switch, "BOOL", "Let services and members be found out by browsing (RFC 6763)."),
    Setting("reverse", switch, "BOOL", "Answer the names of members' addresses (PTR)."),
    Setting("workers", whole(1, MAX_WORKERS), "COUNT", f"Processes that answer, up to {MAX_WORKERS}."),
    *FORWARDING,
    Setting(
        "admin",
        text(_parse_admin, "ADDRESS:PORT or none"),
        "ADDRESS:PORT|none",
        f"Where status page, API, metrics and health are had over HTTP; else 127.0.0.1:{ADMIN_PORT}.",
    ),
    Setting(
        "admin_names",
        text(_parse_admin_name, "a host name"),
        "NAME",
        "What browsers may call the admin address, beside its address and this machine's name.",
        many=True,
        in_flags=False,
    ),
    Setting(
        "admin_token",
        path,
        "FILE",
        "A file with the token of those who may change something over HTTP; private.",
        in_flags=False,
    ),
    Setting("snapshot", path, "FILE", "The file that keeps the table over restarts."),
    Setting(
        "snapshot_max_age",
        whole(0, MAX_SNAPSHOT_AGE),
        "SECONDS",
        "An older snapshot is not answered from; 0: any is.",
    ),
    Setting("offline", switch, "BOOL", "Answer from the snapshot alone, without ZooKeeper."),
    Setting(
        "guard",
        table(GUARD_SETTINGS, GuardSettings),
        "TABLE",
        "Which losses of members look like a failure of ZooKeeper.",
        in_environment=False,
        in_flags=False,
    ),
    Setting(
        "control",
        path_or_none,
        "FILE|none",
        "The socket at which commands reach the running server, or none.",
    ),
    Setting("log_format", one_of(*get_args(LogFormat)), "FORMAT", f"{', '.join(get_args(LogFormat))}."),
    Setting(
        "query_log",
        share,
        "BOOL|SHARE",
        "Log queries: false, true, or the share of them, as 0.01.",
    ),
    Setting("log_level", one_of(*get_args(LogLevel)), "LEVEL", f"{', '.join(get_args(LogLevel))}."),
    Setting(
        "service",
        tables(SERVICE_SETTINGS, ServiceOverride),
        "TABLES",
        'What single services do differently, as [service."web.staging"].',
        in_environment=False,
        in_flags=False,
    ),
)
