"""Whether everything else finds its way out. Functions of what was found out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from zkdns.address import UpstreamAddress
from zkdns.forward.resolv import Upstreams
from zkdns.machine.findings import Finding, ok, warning, wrong
from zkdns.machine.keepers import STUBS

_NAME = 'name resolvers, as upstreams = ["9.9.9.9"] in [forward]'
ABOUT = "upstreams"


def check_upstreams(
    chosen: Upstreams, own: Sequence[UpstreamAddress], *, resolved_asks_us: bool
) -> Iterator[Finding]:
    """Whom zkdns asks, and whether that leads back.

    Args:
        chosen: who is asked.
        own: those that are named, but are zkdns itself.
        resolved_asks_us: whether systemd-resolved asks zkdns for all names.
    """
    source = f" ({chosen.source} names them)" if chosen.source else ""
    if not chosen.servers and own:
        yield wrong(
            ABOUT,
            f"zkdns is all that {chosen.source or 'this machine'} names, so it has nobody to ask",
            _NAME,
        )
    elif not chosen.servers:
        yield wrong(ABOUT, "there is nobody to ask for everything else", _NAME)
    elif resolved_asks_us and all(server.host in STUBS for server in chosen.servers):
        yield wrong(
            ABOUT,
            f"zkdns asks {chosen.servers[0]}, which is systemd-resolved and asks zkdns: a loop",
            _NAME,
        )
    else:
        yield ok(ABOUT, f"{', '.join(map(str, chosen.servers))}{source}")


def check_answers(failures: Mapping[UpstreamAddress, str | None]) -> Iterator[Finding]:
    """Whether they answer.

    Args:
        failures: why each does not; None: it does.
    """
    silent = {server: why for server, why in failures.items() if why is not None}
    for server, why in silent.items():
        found, cure = f"{server} {why}", "check the way to it (firewall, VPN), or name another one"
        if len(silent) == len(failures):
            yield wrong(ABOUT, found, cure)
        else:
            yield warning(ABOUT, f"{found}; others do", cure)
    if failures and not silent:
        yield ok(ABOUT, "all of them answer")
