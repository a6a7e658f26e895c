"""Parsers for the resolver configuration besides resolv.conf: nsswitch.conf(5) and resolved.conf(5)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from zkdns.host.files import FileTree

NSSWITCH_CONF = "/etc/nsswitch.conf"
RESOLVED_DROP_IN = "zkdns.conf"
"""The name of zkdns' drop-in in resolved.conf.d."""

_LOOKUP_RESULTS = frozenset({"notfound", "unavail", "tryagain", "success"})
# The first main file counts; drop-ins of all directories are read after it, sorted by name.
_DIRECTORIES = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd", "/lib/systemd")


class NssSource(msgspec.Struct, frozen=True):
    """A source in the `hosts:` line of nsswitch.conf."""

    name: str
    stops_on: frozenset[str]
    """The results that end the lookup, so that later sources are skipped: `notfound`, `unavail`, …"""


def parse_hosts_line(text: str) -> tuple[NssSource, ...]:
    """Parse the `hosts:` line of an nsswitch.conf; without one, return glibc's default (2.34)."""
    found = re.findall(r"^\s*hosts:(.*)$", re.sub(r"#.*", "", text), re.MULTILINE)
    sources: list[NssSource] = []
    for actions, name in re.findall(r"\[([^\]]*)\]|(\S+)", found[-1] if found else "files dns"):
        if name:
            sources.append(NssSource(name.lower(), frozenset()))
        elif sources:
            sources[-1] = NssSource(sources[-1].name, _stops_on(actions))
    return tuple(sources)


def _stops_on(actions: str) -> frozenset[str]:
    """The results with the action `return`, in actions such as `NOTFOUND=return` or `!UNAVAIL=return`."""
    results: set[str] = set()
    for negated, result, action in re.findall(r"(!?)\s*(\w+)\s*=\s*(\w+)", actions.lower()):
        if action == "return":
            results |= _LOOKUP_RESULTS - {result} if negated else {result}
    return frozenset(results)


class ResolvedSettings(msgspec.Struct, frozen=True):
    """The settings of systemd-resolved that zkdns depends on, without its own drop-in."""

    servers: tuple[str, ...] = ()
    """DNS=, the servers for the whole machine; links have their own."""
    over_tls: str | None = None
    """The file that requires DNS over TLS; None: not required."""
    later: str | None = None
    """A file that sets DNS= and is read after zkdns' drop-in; None: there is none."""


def read_resolved_settings(tree: FileTree) -> ResolvedSettings:
    """Read the settings of systemd-resolved.

    Raises:
        HostError: a file cannot be read.
    """
    servers: list[str] = []
    over_tls = later = None
    for path in _resolved_files(tree):
        for key, value in _assignments(tree.text(path) or ""):
            if key == "dns":
                servers = [*servers, *value.split()] if value else []  # an empty value clears the list
                if value and path.rpartition("/")[2] > RESOLVED_DROP_IN and ".conf.d/" in path:
                    later = path
            elif key == "dnsovertls":
                over_tls = path if value.lower() in {"yes", "true", "on", "1"} else None
    return ResolvedSettings(tuple(dict.fromkeys(servers)), over_tls, later)


def _resolved_files(tree: FileTree) -> Iterator[str]:
    """The files of systemd-resolved, in the order in which it reads them."""
    mains = [f"{directory}/resolved.conf" for directory in _DIRECTORIES]
    yield from [path for path in mains if tree.exists(path)][:1]
    drop_ins: dict[str, str] = {}
    for directory in _DIRECTORIES:
        for name in tree.names(f"{directory}/resolved.conf.d", ".conf"):
            drop_ins.setdefault(name, f"{directory}/resolved.conf.d/{name}")
    yield from (drop_ins[name] for name in sorted(drop_ins) if name != RESOLVED_DROP_IN)


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    """Keys in lower case with their values, of the section [Resolve]."""
    section = ""
    for line in text.split("\n"):  # no other character ends a line
        if match := re.fullmatch(r"\s*\[(.*)\]\s*", line):
            section = match[1]
        elif section == "Resolve" and not line.lstrip().startswith(("#", ";")) and "=" in line:
            key, _, value = line.partition("=")
            yield key.strip().lower(), value.strip()
