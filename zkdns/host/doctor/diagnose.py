"""Diagnose this machine and its server.

    collect facts (files, sockets, queries) ─▶ checks, which are pure functions ─▶ findings

Slow steps run in parallel threads. Nothing is changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from zkdns.address import (
    DNS_PORT,
    HostPort,
    UpstreamAddress,
    connectable,
    parse_host_port,
    parse_servers,
)
from zkdns.admin.client import (
    ApiClient,
    RefusedError,
    ServerAddress,
    UnreachableError,
    configured_server,
)
from zkdns.admin.status import Status
from zkdns.causes import cause_of
from zkdns.config import Config, ZooKeeperSettings
from zkdns.dns.client_messages import BadResponseError
from zkdns.errors import ConfigError, ZkdnsError
from zkdns.forward.forwarder import MAX_WAITING
from zkdns.forward.system_upstreams import FILES, NameServers, choose, is_own, parse_upstreams
from zkdns.host.doctor.certificate import check_certificate, tls_client, valid_until
from zkdns.host.doctor.checks import (
    UPSTREAMS,
    Finding,
    NameResolution,
    check_hosts_line,
    check_nscd,
    check_open_files,
    check_port,
    check_primaries,
    check_receive_buffer,
    check_resolv_conf,
    check_response,
    check_search,
    check_server,
    check_services,
    check_snapshot,
    check_upstream_responses,
    check_upstreams,
    check_zookeeper,
    ok,
    warning,
    wrong,
)
from zkdns.host.doctor.processes import largest_receive_buffer, listeners, open_files_of, own_rights
from zkdns.host.end_to_end import check_end_to_end, query_soa
from zkdns.host.files import FileTree, HostError
from zkdns.host.resolver_config import (
    NSSWITCH_CONF,
    RESOLVED_DROP_IN,
    parse_hosts_line,
    read_resolved_settings,
)
from zkdns.names import to_text
from zkdns.resolv_conf import MAX_NAMESERVERS, RESOLV_CONF, RESOLVED_LIST, parse_resolv_conf
from zkdns.serverset.auth import load_access
from zkdns.serverset.listing import list_services
from zkdns.serverset.probe import probe
from zkdns.snapshot import SnapshotError, expected_by, read_header

_T = TypeVar("_T")
_R = TypeVar("_R")

_RESOLVED_STUB = "127.0.0.53"
_NSCD_SOCKETS = ("/run/nscd/socket", "/var/run/nscd/socket")
_HTTP_SECONDS = 3.0
_LISTING_SECONDS = 5.0  # as long as a probe waits for a session
# Directories that systemd passes to zkdns.service, and a file in each that zkdns looks for.
_UNIT_DIRECTORIES = {
    "STATE_DIRECTORY": ("/var/lib/zkdns", "table"),
    "CREDENTIALS_DIRECTORY": ("/etc/zkdns", "zookeeper.toml"),
}


def unit_environment(environment: Mapping[str, str], tree: FileTree) -> dict[str, str]:
    """Add the variables of zkdns.service, so that root reads the configuration as the unit does.

    Args:
        environment: root's own; its variables have precedence.
        tree: the machine's files; a directory without the file that zkdns looks for is left out.
    """
    found = {
        variable: directory
        for variable, (directory, name) in _UNIT_DIRECTORIES.items()
        if tree.exists(f"{directory}/{name}")
    }
    return found | dict(environment)


def diagnose(config: Config) -> Iterator[Finding]:
    """Diagnose this machine and the server with this configuration; yields findings as they come.

    A running server at other addresses than the configured ones is diagnosed there.
    """
    found = _find_server(config)
    yield from check_server(found, config)
    if found is not None:
        uses_default = config.has_default_source and found.zookeeper is None
        config = msgspec.structs.replace(
            config,
            listen=tuple(map(parse_host_port, found.listening)),
            tls=msgspec.structs.replace(config.tls, listen=tuple(map(parse_host_port, found.listening_tls))),
            zookeeper=ZooKeeperSettings() if uses_default else config.zookeeper,
        )
    listening = tuple(map(connectable, config.listen))
    zones = found.zones if found is not None else tuple(map(to_text, config.zones))
    steps: tuple[Callable[[], Iterable[Finding]], ...] = (
        lambda: _diagnose_listening(config),
        lambda: _diagnose_serving(config, listening, zones[0]),
        lambda: _diagnose_tls(config, zones[0]),
        lambda: _diagnose_zookeeper(config),
        lambda: _diagnose_services(config),
        lambda: _diagnose_primaries(config),
        lambda: _diagnose_snapshot(config),
        lambda: _diagnose_upstreams(config, listening),
        lambda: _diagnose_names(listening, zones),
    )
    with ThreadPoolExecutor(len(steps)) as pool:
        for findings in [pool.submit(_collect, step) for step in steps]:
            try:
                yield from findings.result()
            except HostError as error:
                yield warning("files", str(error))
    result = check_end_to_end(listening, zones[0], config.admin.socket)
    about = "end to end"
    if result.is_ok:
        yield ok(about, result.message)
    elif result.is_ok is None:
        yield warning(about, result.message)
    else:
        yield wrong(about, result.message, "see the findings above; zkdns setup shows what to change")


def _find_server(config: Config) -> Status | None:
    """The status of the server at the configured socket or admin address. None: none responds there."""
    without_socket = msgspec.structs.replace(config.admin, socket=None)
    for admin in (config.admin, without_socket):
        server = configured_server(msgspec.structs.replace(config, admin=admin))
        if server is not None:
            with contextlib.suppress(UnreachableError, RefusedError):
                return ApiClient(server).status()
    return None


def _collect(step: Callable[[], Iterable[Finding]]) -> list[Finding]:
    return list(step())


def _diagnose_listening(config: Config) -> Iterator[Finding]:
    found, rights = listeners(), own_rights()
    for own in config.listen:
        if own.port:
            yield from check_port(own, found, rights)
    for own in config.tls.listen:
        if own.port:
            yield from check_port(own, found, rights, ("tcp",))
    servers = [one.pid for one in found if one.is_zkdns and one.at in config.listen and one.pid is not None]
    yield from check_open_files(open_files_of(servers[0] if servers else "self"), MAX_WAITING)
    yield from check_receive_buffer(largest_receive_buffer())


def _diagnose_serving(config: Config, listening: Iterable[HostPort], zone: str) -> Iterator[Finding]:
    for server in listening:
        for transport in ("UDP", "TCP"):
            about = f"{server} over {transport}"
            try:
                reply = query_soa(server, zone, tcp=transport == "TCP")
            except BadResponseError as error:
                yield wrong(about, str(error), "start zkdns; if it does not start, see its log")
            else:
                yield check_response(about, reply.rcode, is_authoritative=reply.is_authoritative)
    if config.admin.listen is not None and config.admin.listen.port:
        for path in ("healthz", "readyz"):
            scheme = "http" if config.admin.certificate is None else "https"
            yield _diagnose_http(f"{scheme}://{connectable(config.admin.listen)}/{path}")
    if config.admin.socket is not None:
        yield _diagnose_socket(config.admin.socket)


def _diagnose_tls(config: Config, zone: str) -> Iterator[Finding]:
    """Check the certificate that the server presents, and its response over TLS."""
    for server in map(connectable, config.tls.listen):
        about = f"{server} over TLS"
        try:
            tls = tls_client(config.tls.certificate)
            yield check_certificate(about, valid_until(server, tls), time.time())
            reply = query_soa(server, zone, tls=tls)
        except (OSError, BadResponseError) as error:
            reason = cause_of(error) if isinstance(error, OSError) else str(error)
            yield wrong(about, reason, "see the log of zkdns, and whether tls.certificate is valid")
        else:
            yield check_response(about, reply.rcode, is_authoritative=reply.is_authoritative)


def _diagnose_socket(path: str) -> Finding:
    """Check whether a server responds at its Unix socket, with a request that changes nothing."""
    about = f"socket {path}"
    try:
        ApiClient(ServerAddress(path=path)).names("", only_held=True)
    except (UnreachableError, RefusedError) as error:
        found, _, cure = str(error).partition("; ")
        return warning(about, found, cure or "see whether the server runs, and its log")
    return ok(about, "responds")


def _diagnose_http(url: str) -> Finding:
    try:
        # The environment may name a proxy, which is not for the machine's own addresses.
        # The certificate is for the server's name, and this is its address on this machine.
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
        )
        with opener.open(url, timeout=_HTTP_SECONDS) as response:
            return ok(url, str(response.status))
    except urllib.error.HTTPError as error:
        with error:
            body = error.read(200).decode(errors="replace").strip()
        return warning(url, f"{error.code}: {body}", "see whether ZooKeeper is reachable, below")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        cause = cause_of(reason) if isinstance(reason, Exception) else reason
        return warning(url, f"cannot be reached: {cause}", "start zkdns")


def _diagnose_zookeeper(config: Config) -> Iterable[Finding]:
    if config.zookeeper.hosts is None:
        return ()
    chroot = config.zookeeper.hosts.partition("/")[2]
    chroot = f"/{chroot}" if chroot else ""
    namespaces = dict.fromkeys(namespace.root for namespace in config.namespaces)
    roots = [f"{chroot}{root}".rstrip("/") if chroot else root for root in namespaces]
    try:
        access = load_access(config.zookeeper)
    except ConfigError as error:
        return [wrong("configuration", mistake, "correct it") for mistake in error.errors]
    probes = _in_parallel(
        parse_servers(config.zookeeper.hosts),
        lambda server: probe(
            server, roots, session_timeout=config.zookeeper.session_timeout, chroot=chroot, access=access
        ),
    )
    return check_zookeeper(probes.values())


def _diagnose_services(config: Config) -> Iterator[Finding]:
    """Check the services of each namespace. If ZooKeeper cannot be read, other findings say so."""
    if config.zookeeper.hosts is None:
        return
    with contextlib.suppress(ZkdnsError):
        access = load_access(config.zookeeper)
        for namespace in config.namespaces:
            listing = list_services(
                config.zookeeper.hosts, namespace, timeout=_LISTING_SECONDS, access=access
            )
            yield from check_services(listing, namespace.template)


def _diagnose_primaries(config: Config) -> Iterable[Finding]:
    """Check whether each primary has authority for the zones, and permits transfers."""
    if not config.is_secondary:
        return ()
    from zkdns.daemon.watcher.primary_client import PrimaryClient, check_transfer  # noqa: PLC0415 - rare
    from zkdns.secondary.access import load_primary_access  # noqa: PLC0415 - as above

    try:
        access = load_primary_access(config.primary)
    except ConfigError as error:
        return [wrong("configuration", mistake, "correct it") for mistake in error.errors]

    def check(server: UpstreamAddress) -> dict[str, str | int]:
        client = PrimaryClient(server, access)
        return {to_text(zone): asyncio.run(check_transfer(client, zone)) for zone in config.zones}

    return check_primaries(
        {str(server): found for server, found in _in_parallel(config.primary.servers, check).items()}
    )


def _diagnose_snapshot(config: Config) -> Iterable[Finding]:
    if config.zookeeper.hosts is None and not config.offline and not config.is_secondary:
        return ()
    age, failure = None, None
    if config.snapshot.path is not None:
        now = time.time()
        try:
            age = now - read_header(Path(config.snapshot.path), expected_by(config, now)).written
        except SnapshotError as error:
            failure = str(error)
    return check_snapshot(age, failure, is_configured=config.snapshot.path is not None)


def _diagnose_upstreams(config: Config, listening: tuple[HostPort, ...]) -> Iterator[Finding]:
    if not config.forward.upstreams:
        yield ok(
            UPSTREAMS,
            "none: zkdns refuses names outside the zones, and programs query their next name server",
        )
        return
    tree = FileTree()
    own: list[UpstreamAddress] = []
    if config.forward.upstreams == "auto":
        named = {str(file): parse_upstreams(tree.text(str(file)) or "")[0] for file in FILES}
        own = [one for servers in named.values() for one in servers if is_own(one, listening)]
        chosen = choose(named, lambda server: is_own(server, listening))
    else:
        chosen = NameServers(config.forward.upstreams)
    listed = parse_resolv_conf(tree.text(RESOLVED_LIST) or "").nameservers
    hosts = {one.host for one in listening}
    asks_us = RESOLVED_DROP_IN in tree.names("/etc/systemd/resolved.conf.d") or not hosts.isdisjoint(
        [*listed, *read_resolved_settings(tree).servers]
    )
    yield from check_upstreams(chosen, own, resolved_asks_us=asks_us)
    without_tls = [server for server in chosen.servers if server.tls is None]
    yield from check_upstream_responses(_in_parallel(without_tls, _upstream_error))


def _upstream_error(server: UpstreamAddress) -> str | None:
    """The error of a resolver that does not resolve the root's SOA; None: it does."""
    try:
        reply = query_soa(HostPort(server.host, server.port), ".")
    except BadResponseError as error:
        return str(error)
    return f"responds with {reply.rcode}" if reply.rcode in {"REFUSED", "SERVFAIL", "NOTIMP"} else None


def _diagnose_names(listening: tuple[HostPort, ...], zones: tuple[str, ...]) -> Iterator[Finding]:
    tree = FileTree()
    conf = parse_resolv_conf(tree.text(RESOLV_CONF) or "")
    own = frozenset(one.host for one in listening if one.port == DNS_PORT)
    sources = parse_hosts_line(tree.text(NSSWITCH_CONF) or "")
    servers = [*conf.nameservers[: MAX_NAMESERVERS + 1], *([] if conf.nameservers else ["127.0.0.1"])]
    if "resolve" in {source.name for source in sources} and tree.exists("/run/systemd/resolve"):
        servers.append(_RESOLVED_STUB)
    forwards = _forwarding(listening, zones[0], servers)
    yield from check_resolv_conf(NameResolution(conf=conf, own=own, forwards=forwards, zones=zones))
    yield from check_search(conf, zones)
    resolved_leads = forwards.get(_RESOLVED_STUB) is not False
    yield from check_hosts_line(sources, zones, resolved_leads=resolved_leads)
    yield from check_nscd(any(map(tree.exists, _NSCD_SOCKETS)))


def _forwarding(listening: Iterable[HostPort], zone: str, servers: Iterable[str]) -> dict[str, bool | None]:
    """By server, whether it responds with the same SOA for the zone as zkdns itself."""
    ours = next((soa for server in listening if (soa := _soa(server, zone))), None)
    if ours is None:  # zkdns does not respond, so nothing is known
        return {}
    found = _in_parallel(dict.fromkeys(servers), lambda server: _soa(HostPort(server, DNS_PORT), zone))
    return {server: soa == ours for server, soa in found.items()}


def _soa(server: HostPort, zone: str) -> str | None:
    try:
        return query_soa(server, zone).soa
    except (BadResponseError, ValueError):  # a host that is not a valid address or name
        return None


def _in_parallel(arguments: Iterable[_T], function: Callable[[_T], _R]) -> Mapping[_T, _R]:
    """Call a function with each argument, in a thread each; return the results by argument, in order."""
    listed = list(arguments)
    with ThreadPoolExecutor(max(1, len(listed))) as pool:
        return dict(zip(listed, pool.map(function, listed), strict=True))
