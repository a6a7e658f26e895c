"""The settings about askers: who is answered, how often, and what they are told beside answers."""

from __future__ import annotations

import re

from zkdns.address import parse_network
from zkdns.config.values import Place, Setting, shown, switch, text, whole
from zkdns.errors import BadValueError

MAX_RATE = 1_000_000_000  # answers a second; no machine gives so many
MAX_IDENTITY = 64  # bytes; beside the longest name and a cookie it fits into the least message

_COOKIE_SECRET = re.compile(r"[0-9A-Fa-f]{32}")


def _read_cookie_secret(value: object, _place: Place) -> bytes:
    """Read 16 bytes; where they are wrong they are not shown."""
    if isinstance(value, str) and _COOKIE_SECRET.fullmatch(value.strip()):
        return bytes.fromhex(value)
    raise BadValueError(
        "is no secret; write 32 hexadecimal digits in quotes (what is written there is not shown)"
    )


def _parse_identity(written: str) -> str:
    if len(written.encode()) > MAX_IDENTITY or not written.isprintable():
        raise BadValueError(f"is {shown(written)}; write a name of up to {MAX_IDENTITY} bytes, in one line")
    return written


# Of these only what is typed to try something is a flag; the rest is for files and variables.
ASKERS = (
    Setting(
        "allow",
        text(parse_network, "NETWORK"),
        "NETWORK",
        "Whose queries are answered, as 10.0.0.0/8; else those of all private networks.",
        many=True,
    ),
    Setting(
        "rate_limit",
        whole(0, MAX_RATE),
        "COUNT",
        "Most answers a second over UDP to one network (a /24, of IPv6 a /56); 0: no limit.",
        in_flags=False,
    ),
    Setting("cookies", switch, "BOOL", "Give DNS cookies to who sends one.", in_flags=False),
    Setting(
        "cookie_secret",
        _read_cookie_secret,
        "HEX",
        "What cookies are made of: the same in all servers behind one address.",
        in_flags=False,
    ),
    Setting(
        "identity",
        text(_parse_identity, "a name for this server"),
        "NAME",
        "What NSID, id.server and hostname.bind tell.",
        in_flags=False,
    ),
    Setting(
        "tell_version",
        switch,
        "BOOL",
        "Whether version.server and version.bind tell the version.",
        in_flags=False,
    ),
)
