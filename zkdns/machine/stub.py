"""What programs read before they ask anybody: resolv.conf(5) and nsswitch.conf(5), as glibc reads them.

Never here: files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

HEEDED = 3
"""How many name servers glibc takes (MAXNS in <resolv.h>)."""
_OURS = "# By zkdns setup; zkdns setup --undo restores what was here."


class ResolvConf(msgspec.Struct, frozen=True):
    """What a resolv.conf says."""

    nameservers: tuple[str, ...] = ()
    """All that are named, those too that glibc does not heed."""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def ndots(self) -> int:
        """With so many dots a name is tried as it is first."""
        found = [option.partition(":")[2] for option in self.options if option.startswith("ndots:")]
        return int(found[-1]) if found and found[-1].isdigit() else 1


class Source(msgspec.Struct, frozen=True):
    """One of those whom `hosts:` in nsswitch.conf lets be asked."""

    name: str
    stops_on: frozenset[str]
    """The results after which nobody further is asked: `notfound`, `unavail`, …"""


def read_resolv_conf(text: str) -> ResolvConf:
    """Read it; keywords begin their lines, and of `search` and `domain` the last one counts."""
    servers: list[str] = []
    search: Sequence[str] = ()
    options: list[str] = []
    for line in text.splitlines():
        keyword, *values = line.split() or [""]
        if not line.startswith(keyword):
            continue
        match keyword:
            case "nameserver" if values:
                servers.append(values[0])
            case "search" | "domain":
                search = values[:1] if keyword == "domain" else values
            case "options":
                options += values
    return ResolvConf(tuple(servers), tuple(name.rstrip(".") for name in search), tuple(options))


def edit_resolv_conf(text: str, server: str, *, keep_others: bool, search: Iterable[str] = ()) -> str:
    """Let `server` be asked first; all that it does not concern stays as it is written.

    Args:
        text: what stands there.
        server: an address; resolv.conf can name no port.
        keep_others: whether the others stay, to be asked when it does not answer.
        search: domains that are tried first for names without a dot.
    """
    known = read_resolv_conf(text)
    lines = [_OURS, f"nameserver {server}"]
    others = [name for name in known.nameservers if name != server]
    # With rotate, glibc asks the others first every other time, who say that there is no such name.
    mixes = keep_others and bool(others)
    domains = tuple(dict.fromkeys([*search, *known.search]))
    if search:
        lines.append(f"search {' '.join(domains)}")
    for line in text.splitlines():
        keyword, *values = line.split() or [""]
        if keyword == "nameserver" and line.startswith(keyword):
            if not keep_others or values[:1] == [server]:
                continue
        elif keyword in {"search", "domain"} and line.startswith(keyword) and search:
            continue
        elif keyword == "options" and line.startswith(keyword) and mixes and "rotate" in values:
            values.remove("rotate")
            line = " ".join([keyword, *values]) if values else ""  # noqa: PLW2901 - the line as it is to be
            if not line:
                continue
        lines.append(line)
    if "edns0" not in known.options:  # or all that is longer than 512 bytes is asked for twice
        lines.append("options edns0")
    return "\n".join(lines) + "\n"


def read_hosts_line(text: str) -> tuple[Source, ...]:
    """Whom nsswitch.conf lets be asked for host names; what glibc takes where it says nothing (2.34)."""
    found = re.findall(r"^\s*hosts:(.*)$", re.sub(r"#.*", "", text), re.MULTILINE)
    sources: list[Source] = []
    for actions, name in re.findall(r"\[([^\]]*)\]|(\S+)", found[-1] if found else "files dns"):
        if name:
            sources.append(Source(name.lower(), frozenset()))
        elif sources:
            sources[-1] = Source(sources[-1].name, _stops(actions))
    return tuple(sources)


def _stops(actions: str) -> frozenset[str]:
    """The results that end the search, of `[NOTFOUND=return]` or `[!UNAVAIL=return]`."""
    results = {"notfound", "unavail", "tryagain", "success"}
    stops: set[str] = set()
    for negated, result, action in re.findall(r"(!?)\s*(\w+)\s*=\s*(\w+)", actions.lower()):
        if action == "return":
            stops |= results - {result} if negated else {result}
    return frozenset(stops)
