"""The upstreams of `forward.upstreams = "auto"`: the resolvers in this machine's resolv.conf(5) files.

    /etc/resolv.conf ─▶ systemd-resolved's list ─▶ NetworkManager's list ─▶ systemd-resolved itself

The first of these that names another resolver than zkdns is used. So the result is the same whether
/etc/resolv.conf names the upstreams, systemd-resolved's stub, or zkdns.

This module never sends queries.
"""

from __future__ import annotations

import ipaddress
import socket
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from zkdns.address import HostPort, UpstreamAddress, parse_upstream
from zkdns.errors import BadValueError
from zkdns.resolv_conf import RESOLV_CONF, RESOLVED_LIST, RESOLVED_STUBS, parse_resolv_conf
from zkdns.transport.sockets import socket_address

log = structlog.get_logger("zkdns.forward")

FILES = (
    Path(RESOLV_CONF),
    # To query the upstreams of systemd-resolved, and not its stub, saves a hop; if it queries zkdns, a loop.
    Path(RESOLVED_LIST),
    # NetworkManager writes its upstreams here if it runs a local resolver (NetworkManager.conf(5), "dns"),
    Path("/run/NetworkManager/no-stub-resolv.conf"),
    # and here if it does not manage /etc/resolv.conf ("rc-manager").
    Path("/run/NetworkManager/resolv.conf"),
)
_MAX_SHOWN = 80  # characters of a wrong value; no address is longer
_MAX_FILE = 1 << 16  # bytes; three lines are usual


class NameServers(msgspec.Struct, frozen=True):
    """The upstreams, and the file that names them; None: no file does."""

    servers: tuple[UpstreamAddress, ...] = ()
    source: str | None = None


def parse_upstreams(text: str) -> tuple[tuple[UpstreamAddress, ...], tuple[str, ...]]:
    """Parse the name servers of a resolv.conf.

    Name servers after the third, which glibc ignores, are used as well. With `options use-vc`, they are
    queried over TCP only.

    Returns:
        The upstreams in order, without duplicates, and an error text for each malformed line.
    """
    servers: dict[UpstreamAddress, None] = {}
    errors: list[str] = []
    parsed = parse_resolv_conf(text)
    over_tcp = "use-vc" in parsed.options
    for line, address in parsed.nameserver_lines:
        try:
            server = parse_upstream(address[:_MAX_SHOWN])
            servers[msgspec.structs.replace(server, tcp=over_tcp and server.tls is None)] = None
        except BadValueError as error:
            errors.append(f"line {line}: {error}")
    return tuple(servers), tuple(errors)


def choose(
    named: Mapping[str, Sequence[UpstreamAddress]], is_own: Callable[[UpstreamAddress], bool]
) -> NameServers:
    """Choose the upstreams from the name servers in each file; earlier files have precedence."""
    others = {file: [server for server in servers if not is_own(server)] for file, servers in named.items()}
    for file, servers in others.items():
        if no_stubs := tuple(server for server in servers if server.host not in RESOLVED_STUBS):
            return NameServers(no_stubs, file)
    return next(
        (NameServers(tuple(servers), file) for file, servers in others.items() if servers), NameServers()
    )


def is_own(server: UpstreamAddress, listening: Iterable[HostPort]) -> bool:
    """Return whether an upstream is this server.

    Args:
        server: an upstream.
        listening: the addresses of this server, as bound: no port is 0.
    """
    address = ipaddress.ip_address(server.host)
    for own in listening:
        if own.port != server.port:
            continue
        listens_at = ipaddress.ip_address(own.host)
        if listens_at == address:
            return True
        # [::] and 0.0.0.0 are each bound for their own family.
        if listens_at.is_unspecified and listens_at.version == address.version and is_local(server.host):
            return True
    return False


def is_local(host: str) -> bool:
    """Return whether an address belongs to this machine: then it can also be a source address.

    Sends nothing. A successful bind would prove nothing: with `net.ipv4.ip_nonlocal_bind`, any address works.
    """
    address = ipaddress.ip_address(host)
    if address.is_loopback:
        return True
    try:
        family, at = socket_address(host, 53)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(at)
            return bool(ipaddress.ip_address(probe.getsockname()[0]) == ipaddress.ip_address(at[0]))
    except (OSError, ValueError):  # no route, or no such interface
        return False


class SystemUpstreams:
    """The upstreams in this machine's files, updated when the files change.

    Args:
        listening: the addresses of this server, as bound; it is never an upstream of itself.
        files: resolv.conf files in order of precedence.
        is_silent: whether logging is off, because another process of this server logs the same.
    """

    def __init__(
        self, listening: Iterable[HostPort], files: Sequence[Path] = FILES, *, is_silent: bool = False
    ) -> None:
        self._is_silent = is_silent
        self._listening = tuple(listening)
        self._files = tuple(files)
        self._signatures_read = self._signatures_seen = self._signatures()
        self.current = NameServers()
        """The current upstreams."""
        self._read(is_first=True)

    def poll(self) -> bool:
        """Check whether the files have changed; takes some microseconds, call it about every second.

        A changed file is read once it is the same in two successive polls: many programs truncate a file
        before they write it, and a truncated one has no name servers.

        Returns:
            Whether `current` has changed.
        """
        before, self._signatures_seen = self._signatures_seen, self._signatures()
        if self._signatures_seen != before or self._signatures_seen == self._signatures_read:
            return False
        self._signatures_read = self._signatures_seen
        return self._read()

    def _signatures(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(map(_signature, self._files))

    def _read(self, *, is_first: bool = False) -> bool:
        named: dict[str, Sequence[UpstreamAddress]] = {}
        for file in self._files:
            servers, errors = parse_upstreams(_text_of(file))
            named[str(file)] = servers
            for error in errors if not self._is_silent else ():
                log.warning("nameserver_skipped", path=str(file), reason=error)
        before, self.current = self.current, choose(named, lambda server: is_own(server, self._listening))
        if self.current == before and not is_first:
            return False
        if not self._is_silent:
            self._log(named)
        return True

    def _log(self, named: Mapping[str, Sequence[UpstreamAddress]]) -> None:
        """Log the current upstreams."""
        if self.current.servers:
            log.info(
                "upstreams_chosen", upstreams=list(map(str, self.current.servers)), source=self.current.source
            )
        else:
            log.warning(
                "upstreams_missing",
                paths=list(named),
                own_addresses=sorted({str(one) for servers in named.values() for one in servers}),
                effect="names outside the zones are refused",
            )


def _signature(file: Path) -> tuple[int, ...] | None:
    """Return a value that changes when the file or a link to it is written or replaced; None: not a file."""
    try:
        status = file.stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would block
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


def _text_of(file: Path) -> str:
    """Return the content of a file; empty if it is missing or unreadable."""
    if _signature(file) is None:
        return ""
    try:
        with file.open("rb") as stream:
            return stream.read(_MAX_FILE).decode(errors="replace")
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("resolv_conf_read_failed", path=str(file), reason=error.strerror)
        return ""
