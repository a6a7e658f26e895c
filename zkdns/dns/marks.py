"""What responses are counted by, as one byte of each: the type that was asked for, and the response code.

A byte can be counted for a whole batch by one call into C. 0 is the mark of what is not counted.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from zkdns.dns.message import HEADER_SIZE, Rcode, Type
from zkdns.names import to_text

OTHER: Final = "other"
"""The type, or the code, of what has no mark of its own."""

_ID = 2
_HEADER = HEADER_SIZE - _ID
_TYPES = {
    **{kind.value: kind.name for kind in Type},
    5: "CNAME",
    15: "MX",
    35: "NAPTR",
    43: "DS",
    48: "DNSKEY",
    64: "SVCB",
    65: "HTTPS",
    257: "CAA",
}
_TYPE_NAMES = (*_TYPES.values(), OTHER)
_RCODE_NAMES = (*(code.name for code in Rcode), OTHER)
_TYPE_PLACES = {number.to_bytes(2): place for place, number in enumerate(_TYPES)}
_RCODE_PLACES = {code.value: place for place, code in enumerate(Rcode)}
# An OPT record: its owner and type, and where the upper bits of the code stand in it.
_CODE = 0xF
_OPT, _UPPER_BITS = b"\0\0\x29", 5
_LOWER_BITS = frozenset(code & _CODE for code in Rcode if code > _CODE)  # of the codes that have upper ones


def mark_of(body: bytes) -> int:
    """The mark of a response, made by us, after its id; of silence 0."""
    if not body:
        return 0
    at = _HEADER
    if body[3]:  # one question, or none (whose octet is 0); names in questions are never compressed
        while length := body[at]:
            at += length + 1
        at += 1
        kind = _TYPE_PLACES.get(body[at : at + 2], len(_TYPES))
        at += 4
    else:
        kind = len(_TYPES)
    code = body[1] & _CODE
    # A code above 15 is told in an OPT record, and comes without other ones (RFC 6891 §6.1.3).
    if code in _LOWER_BITS and body[at : at + len(_OPT)] == _OPT:
        code |= body[at + _UPPER_BITS] << 4
    return 1 + kind * len(_RCODE_NAMES) + _RCODE_PLACES.get(code, len(_RCODE_PLACES))


def meaning_of(mark: int) -> tuple[str, str]:
    """The type and the response code that a mark stands for, by their names."""
    kind, code = divmod(mark - 1, len(_RCODE_NAMES))
    return _TYPE_NAMES[kind], _RCODE_NAMES[code]


class Summary(NamedTuple):
    """A response in a few words."""

    name: str
    """As it was asked for; empty where the response does not say that."""
    qtype: str
    """`TYPE` and a number where the type has no name here (RFC 3597 §5)."""
    rcode: str
    answers: int
    """How many records its answer section has."""


def summary_of(message: bytes) -> Summary:
    """What a response, made by us, says."""
    body = message[_ID:]
    qtype, rcode = meaning_of(mark_of(body))
    answers = int.from_bytes(body[4:6])
    if not body[3]:
        return Summary("", qtype, rcode, answers)
    labels, at = [], _HEADER
    while length := body[at]:
        labels.append(body[at + 1 : at + 1 + length])
        at += length + 1
    if qtype == OTHER:
        qtype = f"TYPE{int.from_bytes(body[at + 1 : at + 3])}"
    return Summary(to_text(tuple(labels)), qtype, rcode, answers)
