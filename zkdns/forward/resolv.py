"""Whom this machine would ask: the upstreams of `forward.upstreams = "auto"`, out of resolv.conf(5).

    /etc/resolv.conf ─▶ systemd-resolved's list ─▶ NetworkManager's list ─▶ systemd-resolved itself

The first of these that names anybody but ourselves is believed. So it is all one whether /etc/resolv.conf
names the resolvers, or systemd-resolved's stub, or already us.

Never here: asking them.
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
from zkdns.transport.sockets import socket_address

log = structlog.get_logger("zkdns.forward")

FILES = (
    Path("/etc/resolv.conf"),
    # Whom systemd-resolved asks, of all interfaces (systemd-resolved.service(8), "/ETC/RESOLV.CONF").
    Path("/run/systemd/resolve/resolv.conf"),
    # The same of NetworkManager, where it has started a resolver of its own (NetworkManager.conf(5), "dns").
    Path("/run/NetworkManager/no-stub-resolv.conf"),
    # And where it leaves /etc/resolv.conf to others ("rc-manager").
    Path("/run/NetworkManager/resolv.conf"),
)
# Where systemd-resolved answers. Asking whom it asks spares a step, and a loop where it asks us.
_STUBS = frozenset({"127.0.0.53", "127.0.0.54"})
_SHOWN = 80  # characters; no address has more
_MAX_FILE = 1 << 16  # bytes; three lines are usual


class Upstreams(msgspec.Struct, frozen=True):
    """Who is asked, and which file named them; None: none did."""

    servers: tuple[UpstreamAddress, ...] = ()
    source: str | None = None


def parse_resolv_conf(text: str) -> tuple[tuple[UpstreamAddress, ...], tuple[str, ...]]:
    """The name servers of a resolv.conf, each once in its order, and a sentence for each line that is wrong.

    All of them, where glibc takes three: there is no harm in asking the fourth when three are silent.
    """
    servers: dict[UpstreamAddress, None] = {}
    mistakes: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        keyword, *rest = line.split() or [""]
        # resolv.conf(5): the keyword begins the line; what stands behind the value is no part of it.
        if keyword != "nameserver" or not line.startswith(keyword):
            continue
        try:
            servers[parse_upstream(rest[0][:_SHOWN] if rest else "")] = None
        except BadValueError as mistake:
            mistakes.append(f"line {number}: {mistake}")
    return tuple(servers), tuple(mistakes)


def choose(
    named: Mapping[str, Sequence[UpstreamAddress]], is_own: Callable[[UpstreamAddress], bool]
) -> Upstreams:
    """Whom to ask of those that files name, the first file first."""
    others = {file: [one for one in servers if not is_own(one)] for file, servers in named.items()}
    for file, servers in others.items():
        if better := tuple(one for one in servers if one.host not in _STUBS):
            return Upstreams(better, file)
    return next((Upstreams(tuple(servers), file) for file, servers in others.items() if servers), Upstreams())


def is_own(server: UpstreamAddress, listening: Iterable[HostPort]) -> bool:
    """Whether who is asked there is this server.

    Args:
        server: an upstream.
        listening: where this server answers, as bound: no port is 0.
    """
    address = ipaddress.ip_address(server.host)
    for own in listening:
        if own.port != server.port:
            continue
        listens_at = ipaddress.ip_address(own.host)
        if listens_at == address:
            return True
        # [::] and 0.0.0.0 are bound each for its own family.
        if listens_at.is_unspecified and listens_at.version == address.version and is_local(server.host):
            return True
    return False


def is_local(host: str) -> bool:
    """Whether an address is this machine's: then the kernel would send to it from itself.

    Nothing is sent. Binding to it would tell less: with `net.ipv4.ip_nonlocal_bind` any address can be bound.
    """
    address = ipaddress.ip_address(host)
    if address.is_loopback:
        return True
    try:
        family, at = socket_address(host, 53)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(at)
            return bool(ipaddress.ip_address(probe.getsockname()[0]) == ipaddress.ip_address(at[0]))
    except (OSError, ValueError):  # no way leads there; an interface that there is not
        return False


class SystemUpstreams:
    """The upstreams that this machine's files name, followed as the files change.

    Args:
        listening: where this server answers, as bound; it is never an upstream of itself.
        files: which files, the one that is believed first at the front.
        is_silent: whether nothing is logged, since another process of this server tells the same.
    """

    def __init__(
        self, listening: Iterable[HostPort], files: Sequence[Path] = FILES, *, is_silent: bool = False
    ) -> None:
        self._is_silent = is_silent
        self._listening = tuple(listening)
        self._files = tuple(files)
        self._taken = self._seen = self._signatures()
        self.found = Upstreams()
        """Who is asked now."""
        self._read(is_first=True)

    def poll(self) -> bool:
        """Look whether the files have changed, a few microseconds; to be called every second or so.

        A file that changes is let be until it has stood still from one look to the next: many programs empty
        a file before they write it, and an empty one names nobody.

        Returns:
            Whether `found` is another now.
        """
        before, self._seen = self._seen, self._signatures()
        if self._seen != before or self._seen == self._taken:
            return False
        self._taken = self._seen
        return self._read()

    def _signatures(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(map(_signature, self._files))

    def _read(self, *, is_first: bool = False) -> bool:
        named: dict[str, Sequence[UpstreamAddress]] = {}
        for file in self._files:
            servers, mistakes = parse_resolv_conf(_text_of(file))
            named[str(file)] = servers
            for mistake in mistakes if not self._is_silent else ():
                log.warning(
                    "a name server is not understood; the others are taken", file=str(file), reason=mistake
                )
        before, self.found = self.found, choose(named, lambda server: is_own(server, self._listening))
        if self.found == before and not is_first:
            return False
        if not self._is_silent:
            self._tell(named)
        return True

    def _tell(self, named: Mapping[str, Sequence[UpstreamAddress]]) -> None:
        """Tell people who is asked now, of those that the files name."""
        if self.found.servers:
            log.info("upstreams", servers=list(map(str, self.found.servers)), source=self.found.source)
        else:
            log.warning(
                "nothing to forward to: names outside the zones are refused; name resolvers with "
                "forward.upstreams (--upstream ADDRESS), or none to be silent about it",
                looked_at=list(named),
                own=sorted({str(one) for servers in named.values() for one in servers}),
            )


def _signature(file: Path) -> tuple[int, ...] | None:
    """What changes whenever a file does, also when it is replaced, or a link leads elsewhere."""
    try:
        status = file.stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


def _text_of(file: Path) -> str:
    """What is in the file; nothing where there is none, or none that may be read."""
    if _signature(file) is None:
        return ""
    try:
        with file.open("rb") as stream:
            return stream.read(_MAX_FILE).decode(errors="replace")
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("a file that names resolvers cannot be read", file=str(file), reason=error.strerror)
        return ""
