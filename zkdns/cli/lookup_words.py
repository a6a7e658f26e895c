"""Parses the words of `zkdns lookup`, which are similar to those of dig, and lists the names to query.

    [@SERVER] NAME [TYPE]... [NAME [TYPE]...]...

The first word is a name. A later word with a dot, a slash or a colon is a further name, and one without is a
type of the name before it. So no type hides a service: `a` is a name if it comes first, and so is
`a.staging`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Final

import dnslib
import msgspec

from zkdns.address import DNS_PORT, HostPort, parse_host_port
from zkdns.errors import BadValueError
from zkdns.names import MAX_NAME, Labels, lower, parse_name, reverse_name, wire_length
from zkdns.namespace import Namespace
from zkdns.resolv_conf import ResolvConf
from zkdns.spelling import MemberAddress, ServiceText, ZnodePath, parse_spelling

USUAL_TYPES: Final = ("A", "AAAA", "SRV", "TXT", "PTR", "CNAME", "MX", "NS", "SOA", "HTTPS", "ANY")

_A, _PTR = 1, 12
_MAX_TYPE = 0xFFFF
_NAME_SIGNS = frozenset("./:")  # in a word after the first one, they show that it is no type


class Question(msgspec.Struct, frozen=True):
    """A name and a type."""

    text: str
    """The name as it was typed."""
    spelling: ServiceText | ZnodePath | MemberAddress
    qtype: int


class LookupWords(msgspec.Struct, frozen=True):
    """The server and the questions."""

    server: HostPort | None
    questions: tuple[Question, ...]


def parse_words(words: Sequence[str], addresses: Iterable[str]) -> LookupWords:
    """Parse the words of the command line, and the addresses of `-x`.

    Raises:
        BadValueError: a word is invalid, or there is no name.
    """
    servers = [_parse_server(word) for word in words if word.startswith("@")]
    if len(servers) > 1:
        raise BadValueError(f"there are {len(servers)} servers; write one @SERVER")
    questions = [_parse_reverse(address) for address in addresses]
    name: str | None = None
    types: list[int] = []
    for word in words:
        if word.startswith("@"):
            continue
        if name is not None and not _NAME_SIGNS & set(word):
            types.append(parse_type(word))
            continue
        if name is not None:
            questions += _questions(name, types)
        name, types = word, []
    if name is not None:
        questions += _questions(name, types)
    if not questions:
        raise BadValueError("there is no name; write NAME, such as web.staging, or -x ADDRESS")
    return LookupWords(servers[0] if servers else None, tuple(questions))


def _questions(text: str, types: Sequence[int]) -> Iterator[Question]:
    spelling = parse_spelling(text)
    default = _PTR if isinstance(spelling, MemberAddress) else _A
    return (Question(text, spelling, qtype) for qtype in types or (default,))


def _parse_reverse(text: str) -> Question:
    accepted = "write an IP address, such as 10.0.0.1 or 2001:db8::1"
    try:
        spelling = parse_spelling(text)
    except BadValueError as error:
        raise BadValueError(f"-x: {error}; {accepted}") from None
    if not isinstance(spelling, MemberAddress):
        raise BadValueError(f"-x: {text!r} is not an address; {accepted}")
    return Question(text, spelling, _PTR)


def _parse_server(word: str) -> HostPort:
    accepted = "write @ADDRESS or @ADDRESS:PORT, such as @127.0.0.1:53 or @[::1]:53"
    if word == "@":
        raise BadValueError(f"'@' names no server; {accepted}")
    try:
        return parse_host_port(word.removeprefix("@"), default_port=DNS_PORT)
    except BadValueError as error:
        raise BadValueError(f"@: {error}; {accepted}") from None


def parse_type(word: str) -> int:
    """Parse a record type: its name in any case, or its number as in RFC 3597 §5.

    Raises:
        BadValueError: it is unknown. The text names the most similar type.
    """
    if word.startswith("+"):
        raise BadValueError(f"{word!r} is an option of dig; zkdns lookup --help lists the options")
    name = word.upper()
    number = dnslib.QTYPE.reverse.get(name)
    if number is None and re.fullmatch(r"TYPE[0-9]{1,5}", name):
        number = int(name.removeprefix("TYPE"))
    if number is None or number > _MAX_TYPE:
        near = get_close_matches(name, list(map(str, dnslib.QTYPE.reverse)), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise BadValueError(
            f"{word!r} is not a record type{hint}; write A, AAAA, SRV, TXT, …, or TYPE257, "
            "or a further name with a dot, such as web.staging"
        )
    return int(number)


def needs_namespaces(question: Question) -> bool:
    """Whether `names_to_try` uses the namespaces."""
    spelling = question.spelling
    return isinstance(spelling, ZnodePath) or (isinstance(spelling, ServiceText) and not spelling.is_absolute)


def names_to_try(question: Question, namespaces: Sequence[Namespace], search: ResolvConf) -> list[Labels]:
    """Return the names to query, in order, until one of them exists.

    A name without a zone of the server is tried in its zones first: these queries leave the server only if
    no zone has the name. Then it is tried as resolv.conf(5) specifies.

    Raises:
        BadValueError: the path of a znode is not that of a service.
    """
    match question.spelling:
        case MemberAddress(address):
            return [reverse_name(address)]
        case ZnodePath(path):
            return [_name_of_path(path, namespaces)]
        case ServiceText(_, is_absolute):
            labels = parse_name(question.text)
    if is_absolute:
        return [labels]
    zones = dict.fromkeys(namespace.zone for namespace in namespaces)
    in_zones = [(*labels, *zone) for zone in zones]
    if any(lower(labels)[-len(zone) :] == zone for zone in zones):
        names = [labels, *in_zones]
    else:
        searched = [(*labels, *domain) for domain in _domains(search)]
        is_first = len(labels) > search.ndots
        names = [*in_zones, *([labels, *searched] if is_first else [*searched, labels])]
    return [name for name in dict.fromkeys(names) if wire_length(name) <= MAX_NAME]


def _domains(search: ResolvConf) -> Iterator[Labels]:
    for domain in search.search:
        try:
            yield parse_name(domain)
        except BadValueError:  # glibc ignores it too
            continue


def _name_of_path(path: str, namespaces: Sequence[Namespace]) -> Labels:
    for namespace in namespaces:
        if namespace.matches_path(path):
            name = namespace.service_at(path)
            name.check()
            return name.labels
    templates = " or ".join(namespace.template for namespace in namespaces)
    raise BadValueError(f"{path!r} is not the path of a service; those are {templates}")
