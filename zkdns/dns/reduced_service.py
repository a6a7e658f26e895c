"""A service reduced to the members that a name may belong to, to find it without a view of the whole service.

A view takes 4 µs for each member (measured), and there is memory for some ten thousand members. With more,
random names would make a view for nearly each query.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zkdns.config import Config
from zkdns.dns.member_labels import SEQUENCE_DIGITS, endpoint_labels, label_prefix, number_of
from zkdns.dns.service_names import PROTOCOLS
from zkdns.names import Labels
from zkdns.table import MemberSet, Service

MAX_COMPARED = 10_000
"""Maximum number of members that are compared with a name, which takes up to 3 ms (measured)."""


class ReducedServices:
    """Reduces services that have only one set, and only members with numbers of their own.

    In such a service, no member has a label because of another member's.

    Args:
        config: the member prefix of each namespace.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._are_numbered: dict[Labels, bool] = {}

    def forget(self, key: Labels) -> None:
        """Note that a service has changed."""
        self._are_numbered.pop(key, None)

    def reduce(self, service: Service, prefix: Labels) -> Service | None:
        """The service with only the members that the name may belong to, perhaps none.

        Args:
            service: the service, which was read.
            prefix: the labels of the name (in lower case) before the service's own name, at least one.

        Returns:
            None: the service cannot be reduced.
        """
        if len(service.sets) != 1:
            return None
        whole = service.first
        if len(whole.members) > MAX_COMPARED:
            return None
        member_prefix = label_prefix(whole.origin, self._config)
        if not self._is_numbered(service, member_prefix):
            return None
        if prefix[-1] in PROTOCOLS:
            names = _with_endpoint(whole, prefix[:-1])
        elif len(prefix) == 1:
            names = _with_label(whole, member_prefix, prefix[0])
        else:
            names = iter(())
        return _only(service, dict.fromkeys(names))

    def _is_numbered(self, service: Service, prefix: str) -> bool:
        """Whether each member has a number of its own, so that no two would have the same label."""
        known = self._are_numbered.get(service.key)
        if known is None:
            names = (*service.first.members, *(name for _, name in service.departed))
            known = self._are_numbered[service.key] = bool(prefix) and all(
                number_of(name, prefix) is not None for name in names
            )
        return known


def _only(service: Service, names: Iterable[str]) -> Service:
    """A service with only these members, as far as it has them, present or departed."""
    whole = service.first
    members, held, departed = whole.members, whole.held, service.departed
    reduced = MemberSet(whole.origin, whole.name)
    found = Service(service.key)
    found.sets = {whole.origin: reduced}
    for name in names:
        if name in members:
            reduced.members[name] = members[name]
        elif (whole.origin, name) in departed:
            found.departed[whole.origin, name] = departed[whole.origin, name]
    if held:
        reduced.held = {name: held[name] for name in reduced.members if name in held}
    return found


def _with_label(member_set: MemberSet, prefix: str, label: bytes) -> Iterator[str]:
    """The names of members that may have this label: their own, that of a shard, or that of a host."""
    if not label.isascii():
        return
    text = label.decode()
    digits = text[-SEQUENCE_DIGITS:]
    if text[:-SEQUENCE_DIGITS] == prefix.lower():
        yield prefix + digits
    if text.startswith("m"):  # `m318`, or the label of a host: `m318-admin`
        number = text[1:].partition("-")[0]
        if number.isdecimal() and len(number) <= SEQUENCE_DIGITS:
            yield f"{prefix}{int(number):0{SEQUENCE_DIGITS}d}"
    elif text.startswith("s"):
        try:
            shard = int(text[1:])
        except ValueError:
            return
        yield from (name for name, member in member_set.members.items() if member.shard == shard)


def _with_endpoint(member_set: MemberSet, path: Labels) -> Iterator[str]:
    """The names of members with an additional endpoint of this name, and of one below whose name it is."""
    is_nonterminal = False
    for name, member in member_set.members.items():
        if not member.additional:
            continue
        paths = endpoint_labels(tuple(member.additional))
        if path in paths:
            yield name
        elif not is_nonterminal and any(each[len(each) - len(path) :] == path for each in paths):
            is_nonterminal = True
            yield name
