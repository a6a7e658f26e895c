"""Response classes, compared with type and code as dnspython parses them."""

from __future__ import annotations

import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from tests.dns.helpers import query
from zkdns.dns.message import Rcode, Type
from zkdns.dns.response_class import OTHER, classify, describe, summarize

NAME = "web.staging.discovery."
CODES = [code.value for code in Rcode] + [6, 9, 22]
KINDS = [*(kind.name for kind in Type if kind.name != "OPT"), "MX", "HTTPS", "CAA", "TYPE65280", "TYPE0"]


def response(qtype: str = "A", code: int = 0, records: int = 0, name: str = NAME) -> bytes:
    """Return a response as dnspython encodes it."""
    made = dns.message.make_response(query(name, qtype, edns=0))
    made.set_rcode(dns.rcode.Rcode(code))
    for number in range(records):
        made.answer.append(dns.rrset.from_text(name, 5, "IN", "A", f"192.0.2.{number}"))
    return made.to_wire()


@pytest.mark.parametrize("qtype", KINDS)
@pytest.mark.parametrize("code", CODES)
def test_a_class_stands_for_one_type_and_one_code(qtype: str, code: int) -> None:
    records = 2 if not code else 0
    wire = response(qtype, code, records)
    response_class = classify(wire[2:])
    assert 0 < response_class < 256
    name = dns.rdatatype.to_text(dns.rdatatype.from_text(qtype))
    expected_type = OTHER if name.startswith("TYPE") else name
    expected_code = Rcode(code).name if code in Rcode.__members__.values() else OTHER
    assert describe(response_class) == (expected_type, expected_code)
    assert summarize(wire) == (NAME.rstrip("."), name, expected_code, records)


def test_all_classes_differ() -> None:
    classes = {classify(response(qtype, code)[2:]) for qtype in KINDS[:-2] for code in CODES[:-2]}
    assert len(classes) == len(KINDS[:-2]) * len(CODES[:-2])


def test_silence_has_class_0_and_no_question_means_another_type() -> None:
    assert classify(b"") == 0
    header = b"\x80\x01" + bytes(8)
    assert describe(classify(header)) == (OTHER, "FORMERR")
    assert summarize(b"id" + header) == ("", OTHER, "FORMERR", 0)


@pytest.mark.parametrize("label", [b"\0\0\x01", b"a\0b", b"\0" * 63])
def test_a_zero_byte_in_a_label_does_not_end_the_name(label: bytes) -> None:
    name = bytes((len(label),)) + label + b"\3com\0"
    body = b"\x80\0\0\1" + bytes(6) + name + b"\0\x21\0\1"
    assert describe(classify(body)) == ("SRV", "NOERROR")
