"""Parse and edit resolv.conf(5) as glibc reads it. Text in, text out; this module opens no files.

Lines end with a line feed and with nothing else. Spaces and tabs separate words; a carriage return at the end
of a line counts as a space. All other characters are part of a word or of a comment, also those that Unicode
regards as line ends or spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

RESOLV_CONF: Final = "/etc/resolv.conf"
RESOLVED_LIST: Final = "/run/systemd/resolve/resolv.conf"
"""The upstreams of systemd-resolved, from all links (systemd-resolved.service(8), "/ETC/RESOLV.CONF")."""
RESOLVED_STUBS: Final = frozenset({"127.0.0.53", "127.0.0.54"})
"""The addresses of systemd-resolved's stub listeners."""
MAX_NAMESERVERS: Final = 3
"""The number of name servers that glibc uses (MAXNS in <resolv.h>)."""

_SPACES = " \t\r"
_WORD = re.compile(rf"[^{_SPACES}]+")
_COMMENT = "# By zkdns setup; zkdns setup --undo restores the previous content."


class Nameserver(NamedTuple):
    """A `nameserver` line.

    Attributes:
        line: its number, counted from 1.
        address: the first word after the keyword, unchecked. Empty if the line has none.
    """

    line: int
    address: str


class ResolvConf(msgspec.Struct, frozen=True):
    """The content of a resolv.conf."""

    nameserver_lines: tuple[Nameserver, ...] = ()
    """All `nameserver` lines, including malformed ones and those after the third, which glibc ignores."""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def nameservers(self) -> tuple[str, ...]:
        """The addresses of all name servers, in order, unchecked."""
        return tuple(address for _, address in self.nameserver_lines if address)

    @property
    def ndots(self) -> int:
        """The minimum number of dots in a name that is tried as it is before the search domains."""
        found = [option.partition(":")[2] for option in self.options if option.startswith("ndots:")]
        return int(found[-1]) if found and found[-1].isdigit() else 1


class _Line(NamedTuple):
    """A line with its keyword and values; the keyword is empty for comments and for unknown syntax."""

    number: int
    text: str
    keyword: str
    values: list[str]


def parse_resolv_conf(text: str) -> ResolvConf:
    """Parse a resolv.conf. The last `search` or `domain` line counts; `options` lines add up."""
    nameservers: list[Nameserver] = []
    search: Sequence[str] = ()
    options: list[str] = []
    for number, _, keyword, values in _lines(text):
        match keyword:
            case "nameserver":  # the rest of the line after the address is ignored
                nameservers.append(Nameserver(number, values[0] if values else ""))
            case "search":
                search = values
            case "domain":
                search = values[:1]
            case "options":
                options += values
    return ResolvConf(tuple(nameservers), tuple(name.rstrip(".") for name in search), tuple(options))


def edit_resolv_conf(text: str, server: str, *, keep_others: bool, search: Iterable[str] = ()) -> str:
    """Make `server` the first name server; unrelated lines stay unchanged.

    Args:
        text: the current content.
        server: an IP address; resolv.conf has no syntax for a port.
        keep_others: whether the other name servers stay as fallbacks.
        search: search domains to put before the current ones.
    """
    current = parse_resolv_conf(text)
    edited = [_COMMENT, f"nameserver {server}"]
    others = [address for address in current.nameservers if address != server]
    # With rotate, glibc sends every other query to the other servers first, which answer NXDOMAIN.
    drop_rotate = keep_others and bool(others)
    if domains := list(search):
        edited.append(f"search {' '.join(dict.fromkeys([*domains, *current.search]))}")
    for _, line, keyword, values in _lines(text.removesuffix("\n")) if text else ():
        if keyword == "nameserver" and (not keep_others or values[:1] == [server]):
            continue
        if keyword in {"search", "domain"} and domains:
            continue
        if keyword == "options" and drop_rotate and "rotate" in values:
            if set(values) != {"rotate"}:
                edited.append(re.sub(rf"[{_SPACES}]+rotate(?=[{_SPACES}]|\Z)", "", line))
            continue
        edited.append(line)
    if "edns0" not in current.options:  # without it, every response over 512 bytes costs a second query
        edited.append("options edns0")
    return "\n".join(edited) + "\n"


def _lines(text: str) -> Iterator[_Line]:
    for number, line in enumerate(text.split("\n"), 1):
        keyword, *values = _WORD.findall(line) or [""]
        if line.startswith(keyword):  # resolv.conf(5): the keyword must start the line
            yield _Line(number, line, keyword, values)
        else:
            yield _Line(number, line, "", [])
