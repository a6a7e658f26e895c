"""The class of a response for counting: its query type and response code, encoded in one byte.

One call into C counts the classes of a whole batch, because they are bytes. Class 0 is not counted.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from zkdns.dns.message import HEADER_SIZE, Rcode, Type
from zkdns.names import to_text

OTHER: Final = "other"
"""Name of all types and codes without a class of their own."""

_ID = 2
_HEADER = HEADER_SIZE - _ID
_COUNTED_TYPES = {
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
_TYPE_NAMES = (*_COUNTED_TYPES.values(), OTHER)
_RCODE_NAMES = (*(code.name for code in Rcode), OTHER)
_OTHER_TYPE, _OTHER_RCODE, _RCODES = len(_COUNTED_TYPES), len(Rcode), len(_RCODE_NAMES)
_TYPE_CLASSES = {number.to_bytes(2): 1 + index * _RCODES for index, number in enumerate(_COUNTED_TYPES)}
_OTHER_CLASS = 1 + _OTHER_TYPE * _RCODES
_RCODE_INDEXES = {code.value: index for index, code in enumerate(Rcode)}
# The start of an OPT record (owner name and type), and the offset of the upper bits of the response code.
_CODE = 0xF
_OPT, _UPPER_BITS = b"\0\0\x29", 5
# The lower four bits of the codes above 15.
_LOWER_BITS = frozenset(code & _CODE for code in Rcode if code > _CODE)


def classify(body: bytes, question: int = 0) -> int:
    """Return the class of a response of this server after its id. 0: `body` is empty (no response).

    Args:
        body: the response.
        question: length of its question; 0: there is none, or its length is not known.
    """
    if not body:
        return 0
    at = _HEADER + question
    first = _OTHER_CLASS
    if question:
        first = _TYPE_CLASSES.get(body[at - 4 : at - 2], _OTHER_CLASS)
    elif body[3]:  # there is a question; its name is never compressed
        while length := body[at]:
            at += length + 1
        at += 1
        first = _TYPE_CLASSES.get(body[at : at + 2], _OTHER_CLASS)
        at += 4
    code = body[1] & _CODE
    # A code above 15 has its upper bits in the OPT record, the only record of the response (RFC 6891 §6.1.3).
    if code in _LOWER_BITS and body.startswith(_OPT, at):
        code |= body[at + _UPPER_BITS] << 4
    return first + _RCODE_INDEXES.get(code, _OTHER_RCODE)


def describe(response_class: int) -> tuple[str, str]:
    """Return the names of the query type and the response code of a class."""
    kind, code = divmod(response_class - 1, _RCODES)
    return _TYPE_NAMES[kind], _RCODE_NAMES[code]


class ResponseSummary(NamedTuple):
    """Summary of a response."""

    name: str
    """The name in the question. Empty without a question."""
    qtype: str
    """`TYPE` and a number for a type without a name here (RFC 3597 §5)."""
    rcode: str
    answers: int
    """Number of records in the answer section."""


def summarize(message: bytes) -> ResponseSummary:
    """Summarize a response of this server."""
    body = message[_ID:]
    qtype, rcode = describe(classify(body))
    answers = int.from_bytes(body[4:6])
    if not body[3]:
        return ResponseSummary("", qtype, rcode, answers)
    labels, at = [], _HEADER
    while length := body[at]:
        labels.append(body[at + 1 : at + 1 + length])
        at += length + 1
    if qtype == OTHER:
        qtype = f"TYPE{int.from_bytes(body[at + 1 : at + 3])}"
    return ResponseSummary(to_text(tuple(labels)), qtype, rcode, answers)
