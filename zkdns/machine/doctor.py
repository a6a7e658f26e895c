"""Looks at everything that must be so for names of the zones to be found, and tells what is wrong.

    gather facts (files, sockets, questions) ─▶ checks, which are functions of them ─▶ findings

What takes its time goes on side by side. Nothing is changed, and nothing is asked twice.
"""

from __future__ import annotations

import asyncio
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from zkdns.address import DNS_PORT, HostPort, UpstreamAddress, connectable, parse_host_port
from zkdns.config import Config
from zkdns.daemon.control import ControlError, ListNames, command
from zkdns.errors import ConfigError
from zkdns.forward.resolv import FILES, Upstreams, choose, is_own, parse_resolv_conf
from zkdns.machine.asking import AskedError, ask
from zkdns.machine.check_listening import check_open_files, check_port, check_receive_buffer
from zkdns.machine.check_names import Way, check_hosts_line, check_nscd, check_resolv_conf, check_search
from zkdns.machine.check_serving import check_answer, check_snapshot, check_zookeeper
from zkdns.machine.check_upstreams import ABOUT, check_answers, check_upstreams
from zkdns.machine.findings import Finding, ok, warning, wrong
from zkdns.machine.keepers import RESOLV_CONF, RESOLVED_LIST
from zkdns.machine.plan import wish_of
from zkdns.machine.processes import largest_receive_buffer, listeners, open_files_of, own_rights
from zkdns.machine.reaching import try_name
from zkdns.machine.resolved import OWN, read_resolved
from zkdns.machine.stub import HEEDED, read_hosts_line, read_resolv_conf
from zkdns.machine.tree import MachineError, Tree
from zkdns.serverset.auth import access_of
from zkdns.serverset.probe import probe
from zkdns.snapshot import SnapshotError, expected_by, read_header

_T = TypeVar("_T")
_R = TypeVar("_R")

_RESOLVED_STUB = "127.0.0.53"
_NSCD_SOCKETS = ("/run/nscd/socket", "/var/run/nscd/socket")
_HTTP_SECONDS = 3.0


def examine(config: Config) -> Iterator[Finding]:
    """Examine this machine, and the server that this configuration is of; findings as they come."""
    wish = wish_of(config, (), None)
    checks: tuple[Callable[[], Iterable[Finding]], ...] = (
        lambda: _listening(config),
        lambda: _serving(config, wish.listening, wish.zones[0]),
        lambda: _zookeeper(config),
        lambda: _snapshot(config),
        lambda: _upstreams(config, wish.listening),
        lambda: _names(wish.listening, wish.zones),
    )
    with ThreadPoolExecutor(len(checks)) as pool:
        for done in [pool.submit(_all_of, check) for check in checks]:
            try:
                yield from done.result()
            except MachineError as error:
                yield warning("files", str(error))
    reached = try_name(wish.listening, wish.zones[0], config.control)
    about = "end to end"
    if reached.is_well:
        yield ok(about, reached.sentence)
    elif reached.is_well is None:
        yield warning(about, reached.sentence)
    else:
        yield wrong(about, reached.sentence, "see what is wrong above; zkdns setup shows what to change")


def _all_of(check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    return list(check())


def _listening(config: Config) -> Iterator[Finding]:
    holders, rights = listeners(), own_rights()
    for own in config.listen:
        if own.port:
            yield from check_port(own, holders, rights)
    answering = [
        one.pid for one in holders if one.is_zkdns and one.at in config.listen and one.pid is not None
    ]
    yield from check_open_files(open_files_of(answering[0] if answering else "self"), config.max_forwarded)
    yield from check_receive_buffer(largest_receive_buffer())


def _serving(config: Config, listening: Iterable[HostPort], zone: str) -> Iterator[Finding]:
    for server in listening:
        for transport in ("UDP", "TCP"):
            about = f"{server} over {transport}"
            try:
                answer = ask(server, zone, tcp=transport == "TCP")
            except AskedError as error:
                yield wrong(about, str(error), "start zkdns; its log says why it does not run")
            else:
                yield check_answer(about, answer.rcode, is_owner=answer.is_authoritative)
    if config.admin is not None and config.admin.port:
        for path in ("healthz", "readyz"):
            yield _over_http(f"http://{connectable(config.admin)}/{path}")
    if config.control is not None:
        yield _over_control(config.control)


def _over_control(path: str) -> Finding:
    """Whether a server hears commands; nothing is changed by what it is asked."""
    about = f"control {path}"
    try:
        asyncio.run(command(path, ListNames("", only_held=True)))
    except ControlError as error:
        found, _, cure = str(error).partition("; ")
        return warning(about, found, cure or "see its log, and whether it runs")
    return ok(about, "answers")


def _over_http(url: str) -> Finding:
    try:
        # No proxy of the environment lies between a machine and itself.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=_HTTP_SECONDS) as response:
            return ok(url, str(response.status))
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(200).decode(errors="replace").strip()
        return warning(url, f"{error.code}: {said}", "see whether ZooKeeper can be reached, below")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return warning(url, f"cannot be asked: {getattr(reason, 'strerror', None) or reason}", "start zkdns")


def _zookeeper(config: Config) -> Iterable[Finding]:
    if config.zookeeper is None:
        return ()
    hosts, _, chroot = config.zookeeper.partition("/")
    namespaces = dict.fromkeys(namespace.root for namespace in config.namespaces)
    roots = [f"/{chroot}{root}".rstrip("/") if chroot else root for root in namespaces]
    try:
        access = access_of(config)
    except ConfigError as error:
        return [wrong("configuration", mistake, "correct it") for mistake in error.errors]
    servers = [parse_host_port(host) for host in hosts.split(",")]
    probes = _side_by_side(
        servers, lambda server: probe(server, roots, session_timeout=config.session_timeout, access=access)
    )
    return check_zookeeper(probes.values())


def _snapshot(config: Config) -> Iterable[Finding]:
    if config.zookeeper is None and not config.offline:
        return ()
    age, failure = None, None
    if config.snapshot is not None:
        now = time.time()
        try:
            age = now - read_header(Path(config.snapshot), expected_by(config, now)).written
        except SnapshotError as error:
            failure = str(error)
        if not config.offline and not os.access(Path(config.snapshot).parent, os.W_OK):
            directory = Path(config.snapshot).parent
            return [
                warning("snapshot", f"{directory} cannot be written to by this user", "let zkdns' user do so")
            ]
    return check_snapshot(age, failure, is_wanted=config.snapshot is not None)


def _upstreams(config: Config, listening: tuple[HostPort, ...]) -> Iterator[Finding]:
    if not config.upstream:
        yield ok(ABOUT, "none: names outside the zones are refused, so that programs ask their next server")
        return
    own: list[UpstreamAddress] = []
    if config.upstream == "auto":
        named = {str(file): parse_resolv_conf(Tree().text(str(file)) or "")[0] for file in FILES}
        own = [one for servers in named.values() for one in servers if is_own(one, listening)]
        chosen = choose(named, lambda server: is_own(server, listening))
    else:
        chosen = Upstreams(config.upstream)
    listed = read_resolv_conf(Tree().text(RESOLVED_LIST) or "").nameservers
    hosts = {one.host for one in listening}
    asks_us = OWN in Tree().names("/etc/systemd/resolved.conf.d") or not hosts.isdisjoint(
        [*listed, *read_resolved(Tree()).servers]
    )
    yield from check_upstreams(chosen, own, resolved_asks_us=asks_us)
    in_clear = [server for server in chosen.servers if server.tls is None]
    yield from check_answers(_side_by_side(in_clear, _why_silent))


def _why_silent(server: UpstreamAddress) -> str | None:
    """Why a resolver does not answer for the root; None: it does."""
    try:
        answer = ask(HostPort(server.host, server.port), ".")
    except AskedError as error:
        return str(error)
    return f"answers {answer.rcode}" if answer.rcode in {"REFUSED", "SERVFAIL", "NOTIMP"} else None


def _names(listening: tuple[HostPort, ...], zones: tuple[str, ...]) -> Iterator[Finding]:
    tree = Tree()
    conf = read_resolv_conf(tree.text(RESOLV_CONF) or "")
    own = frozenset(one.host for one in listening if one.port == DNS_PORT)
    sources = read_hosts_line(tree.text("/etc/nsswitch.conf") or "")
    asked = [*conf.nameservers[: HEEDED + 1], *([] if conf.nameservers else ["127.0.0.1"])]
    if "resolve" in {source.name for source in sources} and tree.exists("/run/systemd/resolve"):
        asked.append(_RESOLVED_STUB)
    leads = _leading(listening, zones[0], asked)
    way = Way(conf=conf, own=own, leads=leads, zones=zones)
    yield from check_resolv_conf(way)
    yield from check_search(conf, zones)
    resolved_leads = leads.get(_RESOLVED_STUB) is not False
    yield from check_hosts_line(sources, zones, resolved_leads=resolved_leads)
    yield from check_nscd(any(map(tree.exists, _NSCD_SOCKETS)))


def _leading(listening: Iterable[HostPort], zone: str, servers: Iterable[str]) -> dict[str, bool | None]:
    """Whether the zone's SOA that is asked of these is that which zkdns itself answers."""
    ours = next((soa for server in listening if (soa := _soa(server, zone))), None)
    if ours is None:  # no zkdns answers, so nothing can lead to it
        return {}
    found = _side_by_side(dict.fromkeys(servers), lambda server: _soa(HostPort(server, DNS_PORT), zone))
    return {server: soa == ours for server, soa in found.items()}


def _soa(server: HostPort, zone: str) -> str | None:
    try:
        return ask(server, zone).soa
    except (AskedError, ValueError):
        return None


def _side_by_side(things: Iterable[_T], work: Callable[[_T], _R]) -> Mapping[_T, _R]:
    """The work's result for each, in their order, done in a thread for each."""
    listed = list(things)
    with ThreadPoolExecutor(max(1, len(listed))) as pool:
        return dict(zip(listed, pool.map(work, listed), strict=True))
