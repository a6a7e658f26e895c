"""What systemd-resolved is told by its files (resolved.conf(5)).

Never here: changing them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from zkdns.machine.tree import Tree

# The first file there counts; drop-ins of all directories are read behind it, by their names.
_DIRECTORIES = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd", "/lib/systemd")
OWN = "zkdns.conf"
"""The name of our drop-in."""


class ResolvedSettings(msgspec.Struct, frozen=True):
    """Those that matter here, as they are without our drop-in."""

    servers: tuple[str, ...] = ()
    """DNS=, of the whole machine; links have servers of their own."""
    over_tls: str | None = None
    """The file that lets it ask over TLS alone; None: it asks without too."""
    later: str | None = None
    """A file that names servers and is read behind our drop-in, if there is one."""


def read_resolved(tree: Tree) -> ResolvedSettings:
    """Read them.

    Raises:
        MachineError: a file cannot be read.
    """
    servers: list[str] = []
    over_tls = later = None
    for path in _files(tree):
        for key, value in _assignments(tree.text(path) or ""):
            if key == "dns":
                # An empty list takes back what was said before.
                servers = [*servers, *value.split()] if value else []
                if value and path.rpartition("/")[2] > OWN and ".conf.d/" in path:
                    later = path
            elif key == "dnsovertls":
                over_tls = path if value.lower() in {"yes", "true", "on", "1"} else None
    return ResolvedSettings(tuple(dict.fromkeys(servers)), over_tls, later)


def _files(tree: Tree) -> Iterator[str]:
    """The files in the order in which they are read."""
    mains = [f"{directory}/resolved.conf" for directory in _DIRECTORIES]
    yield from [path for path in mains if tree.exists(path)][:1]
    drop_ins: dict[str, str] = {}
    for directory in _DIRECTORIES:
        for name in tree.names(f"{directory}/resolved.conf.d", ".conf"):
            drop_ins.setdefault(name, f"{directory}/resolved.conf.d/{name}")
    yield from (drop_ins[name] for name in sorted(drop_ins) if name != OWN)


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    """Keys in lower case with their values, of the section [Resolve]."""
    section = ""
    for line in text.splitlines():
        if match := re.fullmatch(r"\s*\[(.*)\]\s*", line):
            section = match[1]
        elif section == "Resolve" and not line.lstrip().startswith(("#", ";")) and "=" in line:
            key, _, value = line.partition("=")
            yield key.strip().lower(), value.strip()
