"""Decodes the members of old twitter commons, in thrift's binary protocol (TBinary). They are never written.

    instance = 1: endpoint, 2: map<string, endpoint> additional, 3: i32 status, 4: i32 shard,
               5: map<string, string> metadata
    endpoint = 1: string host, 2: i32 port, 3: string inet, 4: string inet6

A field is a byte for its type, two bytes for its number, and its value. A zero byte ends a struct. Unknown
fields, and known ones of another type, are skipped, as thrift's own readers do. The data is not trusted,
since any client of ZooKeeper may have written it: lengths are checked before use, and the depth is limited.
"""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

from zkdns.errors import BadMemberError

STRUCT: Final = 12
"""The type of an instance's first field, which is also its first byte. No JSON begins with it."""

_STOP, _I32, _STRING, _MAP, _SET, _LIST = 0, 8, 11, 13, 14, 15
_SIZES = {2: 1, 3: 1, 4: 8, 6: 2, 8: 4, 10: 8}  # bytes of bool, byte, double, i16, i32, i64
_INT16, _INT32 = struct.Struct("!h"), struct.Struct("!i")
_MAX_DEPTH = 16  # an instance has three levels; thrift's own limit is 64

_INSTANCE: Final = {
    1: ("serviceEndpoint", STRUCT),
    2: ("additionalEndpoints", _MAP),
    3: ("status", _I32),
    4: ("shard", _I32),
    5: ("metadata", _MAP),
}
_ENDPOINT: Final = {1: ("host", _STRING), 2: ("port", _I32), 3: ("inet", _STRING), 4: ("inet6", _STRING)}
_Fields: TypeAlias = dict[int, tuple[str, int]]
_MAP_VALUES = {"additionalEndpoints": STRUCT, "metadata": _STRING}  # the keys are strings


def read_instance(data: bytes) -> dict[str, object]:
    """Decode a member into the fields of its JSON form.

    Raises:
        BadMemberError: reason `thrift`: the data is truncated, too long, too deep, or has an unknown type.
    """
    reader = _Reader(data)
    fields = reader.struct(_INSTANCE)
    if reader.position != len(data):
        raise BadMemberError("thrift", f"{len(data) - reader.position} bytes follow its thrift struct")
    return fields


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.position = 0
        self._data = data

    def struct(self, known: _Fields) -> dict[str, object]:
        """The known fields by name. Of a repeated field, the last one counts."""
        fields: dict[str, object] = {}
        while kind := self._take(1)[0]:
            name, expected = known.get(self._int16(), ("", _STOP))
            if kind != expected:
                self._skip(kind, 1)
            elif kind == _MAP:
                found = self._map(_MAP_VALUES[name])
                if found is not None:
                    fields[name] = found
            else:
                fields[name] = self._value(kind)
        return fields

    def _value(self, kind: int) -> object:
        """A value of one of the three types in an instance."""
        if kind == STRUCT:
            return self.struct(_ENDPOINT)
        return self._string() if kind == _STRING else self._int32()

    def _map(self, wanted: int) -> dict[str, object] | None:
        """A map from strings to values of the wanted type. None: a map of other types, which is skipped."""
        key, value = self._take(2)
        count = self._count()
        if count and (key, value) != (_STRING, wanted):
            self._skip_each((key, value), count, 1)
            return None
        return {self._string(): self._value(value) for _ in range(count)}

    def _string(self) -> str:
        data = self._take(self._count())
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise BadMemberError(
                "thrift", f"its thrift has the text {data[:40]!r}, which is not UTF-8"
            ) from None

    def _skip(self, kind: int, depth: int) -> None:
        """Skip a value."""
        if depth > _MAX_DEPTH:
            raise BadMemberError("thrift", f"its thrift is nested more than {_MAX_DEPTH} levels deep")
        if kind in _SIZES:
            self._take(_SIZES[kind])
        elif kind == _STRING:
            self._take(self._count())
        elif kind == STRUCT:
            while inner := self._take(1)[0]:
                self._take(_INT16.size)
                self._skip(inner, depth + 1)
        elif kind == _MAP:
            kinds = tuple(self._take(2))
            self._skip_each(kinds, self._count(), depth)
        elif kind in (_SET, _LIST):
            kinds = tuple(self._take(1))
            self._skip_each(kinds, self._count(), depth)
        else:
            raise BadMemberError("thrift", f"its thrift has a field of the unknown type {kind}")

    def _skip_each(self, kinds: tuple[int, ...], count: int, depth: int) -> None:
        for _ in range(count):
            for kind in kinds:
                self._skip(kind, depth + 1)

    def _count(self) -> int:
        """How many bytes or values follow. Each value takes at least one byte."""
        count = self._int32()
        if not 0 <= count <= len(self._data) - self.position:
            raise BadMemberError(
                "thrift", f"its thrift has the invalid length {count} at byte {self.position - 4}"
            )
        return count

    def _int16(self) -> int:
        return int(_INT16.unpack(self._take(_INT16.size))[0])

    def _int32(self) -> int:
        return int(_INT32.unpack(self._take(_INT32.size))[0])

    def _take(self, count: int) -> bytes:
        taken = self._data[self.position : self.position + count]
        if len(taken) < count:
            raise BadMemberError("thrift", "its thrift is truncated")
        self.position += count
        return taken
