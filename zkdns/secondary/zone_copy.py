"""`ZoneCopy`: the records of a zone by service, so that incremental transfers can be applied.

The records of a service are kept packed and compressed, in about a tenth of the memory. Records from which
no member follows are left out, and those of no service are kept together.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Generator, Iterable, Sequence
from typing import Final, TypeAlias

import msgspec

from zkdns.digest import DIGEST_LABEL, Digest, member_digest
from zkdns.dns.message import Type
from zkdns.names import Labels, to_text
from zkdns.namespace import Namespace
from zkdns.secondary.inbound import Inbound, Kind, Version
from zkdns.secondary.members import OWNERS_PER_STEP, ZoneService, find_services, read_service
from zkdns.secondary.records import BadTransferError, Records, Soa, ZoneRecord, txt_strings

NAMES_PER_STEP: Final = 100
"""Names that are read, compared with the table and published in one step, which takes some 4 ms."""

_FAST = 1  # zlib's level
_NO_SERVICE: Labels = ()
_DIGESTS = 1 << 64  # digests are added modulo this

_decoder = msgspec.msgpack.Decoder(list[tuple[Labels, list[tuple[int, bytes]]]])

ChangedServices: TypeAlias = list[tuple[Labels, ZoneService | None]]
"""Keys of services, and their content. None: the service does not exist any more."""


class ZoneCopy:
    """A version of a zone, which does not change: `next_version` makes another one.

    Attributes:
        apex: the apex of the zone, in lower case.
        soa: its SOA record. None: nothing was transferred yet.

    Args:
        apex: as above.
        namespaces: the namespaces of the server.
    """

    def __init__(self, apex: Labels, namespaces: Sequence[Namespace]) -> None:
        self.apex = apex
        self.soa: Soa | None = None
        self._namespaces = namespaces
        self._groups: dict[Labels, bytes] = {}  # packed records by the key of their service
        self._digests: dict[Labels, Digest] = {}

    @property
    def serial(self) -> int | None:
        """Its serial. None: nothing was transferred yet."""
        return self.soa.serial if self.soa is not None else None

    @property
    def has_digest(self) -> bool:
        """Whether the members have the digest that the primary has published, if it has (`zkdns.digest`)."""
        owner = (DIGEST_LABEL, *self.apex)
        published = _unpack(self._groups.get(_NO_SERVICE)).get(owner, ())
        texts = [txt_strings(data) for rtype, data in published if rtype == Type.TXT]
        members = sum(each.members for each in self._digests.values())
        value = sum(each.value for each in self._digests.values()) % _DIGESTS
        expected = [string.encode() for string in Digest(members, value).strings]
        return not texts or texts[0][:1] != expected[:1] or expected in texts

    def next_version(self, transfer: Inbound) -> Generator[ChangedServices, None, ZoneCopy]:
        """Apply a complete transfer, in steps, and yield the services that it may have changed.

        After a full transfer, these are all services that exist. It leaves the transfer without records, so
        that their memory is free early.

        Returns:
            the next version.

        Raises:
            BadTransferError: an incremental transfer does not fit this version.
        """
        following = ZoneCopy(self.apex, self._namespaces)
        following.soa = transfer.soa
        if transfer.kind is Kind.FULL:
            yield from following._add(transfer.records)
        else:
            following._digests = self._digests.copy()
            following._groups = self._groups.copy()
            yield from following._apply(transfer.versions)
        return following

    def _add(self, records: Records) -> Generator[ChangedServices, None, None]:
        """Divide records by service, pack them, and yield the services. Removes all from `records`."""
        services = yield from find_services(records, self.apex, self._namespaces)
        by_service: dict[Labels, list[Labels]] = {}
        for number, owner in enumerate(records, 1):
            by_service.setdefault(_service_of(owner, services), []).append(owner)
            if not number % OWNERS_PER_STEP:
                yield []
        part: ChangedServices = []
        count = 0
        for key in list(by_service):  # freed one by one: all names at once would take 20 ms
            group = {owner: records.pop(owner) for owner in by_service.pop(key)}
            self._groups[key] = _pack(group)
            if key != _NO_SERVICE:
                content = read_service(key, group, self._namespaces)
                self._digests[key] = _digest_of(key, content)
                part.append((key, content))
            count += len(group)
            if count >= NAMES_PER_STEP:
                yield part
                part, count = [], 0
        yield part

    def _apply(self, versions: Iterable[Version]) -> Generator[ChangedServices, None, None]:
        """Apply differences to the groups that they concern, and divide their records by service again."""
        touched = {_NO_SERVICE: _unpack(self._groups.get(_NO_SERVICE))}
        for version in versions:
            for record in version.deleted:
                _delete(record, self._touch(record.owner, touched))
            for record in version.added:
                _insert(record, self._touch(record.owner, touched))
            yield []
        merged: Records = {}
        for key, group in touched.items():
            self._groups.pop(key, None)
            self._digests.pop(key, None)
            merged.update(group)
        yield from self._add(merged)
        yield [(key, None) for key in touched if key != _NO_SERVICE and key not in self._groups]

    def _touch(self, owner: Labels, touched: dict[Labels, Records]) -> Records:
        """The records of the service that a name belongs to, unpacked once."""
        key = _service_of(owner, self._groups)
        if key not in touched:
            touched[key] = _unpack(self._groups[key])
        return touched[key]


def _digest_of(key: Labels, content: ZoneService) -> Digest:
    name = to_text(key)
    values = [
        member_digest(name, member, is_held=member.name in one.held)
        for one in content.sets
        for member in one.members
    ]
    return Digest(len(values), sum(values))


def _service_of(owner: Labels, services: Collection[Labels]) -> Labels:
    """The key of the service that a name belongs to: the longest one that it ends in."""
    for start in range(len(owner)):
        if owner[start:] in services:
            return owner[start:]
    return _NO_SERVICE


def _delete(record: ZoneRecord, group: Records) -> None:
    found = group.get(record.owner, [])
    try:
        found.remove((record.rtype, record.data))
    except ValueError:
        raise BadTransferError("a difference deletes a record that does not exist") from None
    if not found:
        del group[record.owner]


def _insert(record: ZoneRecord, group: Records) -> None:
    found = group.setdefault(record.owner, [])
    entry = (record.rtype, record.data)
    if entry in found:
        raise BadTransferError("a difference adds a record that exists")
    found.append(entry)


def _pack(records: Records) -> bytes:
    return zlib.compress(msgspec.msgpack.encode(list(records.items())), _FAST)


def _unpack(packed: bytes | None) -> Records:
    return dict(_decoder.decode(zlib.decompress(packed))) if packed is not None else {}
