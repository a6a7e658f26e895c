"""Labels made from the names of members and of their endpoints.

Names in ZooKeeper may have any length and characters; labels made here are legal (RFC 1035 §2.3.4).
"""

from __future__ import annotations

import functools
import re
import zlib

from zkdns.config import Config
from zkdns.errors import BadValueError
from zkdns.names import MAX_LABEL, Labels, check_name
from zkdns.namespace import member_prefix_of

# The suffix of a member's name and the name of an endpoint, if they can be part of a label unchanged. They
# are short enough for a label with both and a hyphen (RFC 1035 §2.3.4: 63 bytes). A member's part has no
# hyphen, so that the two parts can be distinguished.
_PLAIN_MEMBER = re.compile(r"[a-z0-9]{1,25}")
_PLAIN_ENDPOINT = re.compile(r"[a-z0-9-]{0,24}[a-z0-9]")
# A whole name as a label leaves room for a hash and the name of an endpoint, each after a hyphen.
_MAX_OWN_LABEL = MAX_LABEL - 9 - 26
SEQUENCE_DIGITS = 10
"""Digits of the number that ZooKeeper appends to a name (%010d)."""
_NUMBER = re.compile(r"[0-9]{1,10}")
# Combinations of endpoint names whose labels are kept; most members of a service have the same ones.
_MAX_ENDPOINT_NAMES = 256


def label_prefix(origin: str, config: Config) -> str:
    """The prefix that the labels of a set's members leave out. Empty: the static file has short names."""
    return member_prefix_of(config.namespaces, origin) if origin.startswith("/") else ""


def member_label(name: str, prefix: str) -> bytes:
    """A short host name for a member: `m318`, from the digits after the prefix (`label_prefix`)."""
    suffix = name.removeprefix(prefix)
    if suffix == name:  # a name of the static file, or a znode that was found with an earlier prefix
        label = name.encode().lower()  # as bytes, so that only ASCII letters are folded (RFC 4343)
        return label if len(label) <= _MAX_OWN_LABEL else b"m-" + hash_label(name)
    if _NUMBER.fullmatch(suffix):
        return b"m%d" % int(suffix)
    return b"m-" + _label_part(_PLAIN_MEMBER, suffix)


def number_of(name: str, prefix: str) -> int | None:
    """The number after the prefix if ZooKeeper has made the name, so that no other name has that number."""
    digits = name[-SEQUENCE_DIGITS:]
    if prefix and name == prefix + digits and len(digits) == SEQUENCE_DIGITS:
        return int(digits) if digits.isascii() and digits.isdigit() else None
    return None


def host_label(label: bytes, endpoint: str) -> bytes:
    """The label of the host of an additional endpoint: `m318-admin`.

    Args:
        label: the member's label.
        endpoint: the name of the first endpoint on that host.
    """
    return label + b"-" + _label_part(_PLAIN_ENDPOINT, endpoint)


def _label_part(plain: re.Pattern[str], name: str) -> bytes:
    """A part of a label for this name: the name itself if it is allowed, otherwise a hash."""
    return name.encode() if plain.fullmatch(name) else hash_label(name)


def hash_label(name: str) -> bytes:
    """A hash of a name in 8 hexadecimal digits."""
    return b"%08x" % zlib.crc32(name.encode())


@functools.lru_cache(_MAX_ENDPOINT_NAMES)
def endpoint_labels(names: tuple[str, ...]) -> dict[Labels, tuple[str, ...]]:
    """The names of additional endpoints by their labels, such as `_admin`; several may differ only in case.

    Names that cannot be part of a domain name, such as `a..b`, are left out. The result must not be changed.
    """
    found: dict[Labels, tuple[str, ...]] = {}
    for name in names:
        first, *rest = name.encode().lower().split(b".")  # as bytes: only ASCII letters are folded (RFC 4343)
        labels = (b"_" + first, *rest)
        try:
            check_name(labels)
        except BadValueError:
            continue
        found[labels] = (*found.get(labels, ()), name)
    return found
