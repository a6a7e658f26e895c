"""The responses to each client: zone transfers, signatures, and errors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsig
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.dns.transfer.helpers import ZONE, Versions, records_in
from zkdns.dns.transfer.responder import Refusal, TransferResponder
from zkdns.dns.tsig import make_key

NOW = 1_800_000_000
FRIEND, STRANGER = bytes((10, 0, 0, 2)), bytes((192, 0, 2, 1))
KEY = make_key("Key.Example", "hmac-sha256", b"a secret of the tests")
OTHER = make_key("other", "hmac-sha512", b"another secret")
WEB, DB = ["10.0.0.1:80", "10.0.0.2:80"], [f"10.1.0.{number}:5432" for number in range(1, 9)]


class Transfers:
    """A responder with one zone, and the messages of its responses."""

    def __init__(self, *, is_ready: bool = True, max_running: int = 2, require_tls: bool = False) -> None:
        self.versions = Versions()
        if is_ready:
            self.versions.publish(10, web=WEB, db=DB)
        self.refused: list[Refusal] = []
        self.responder = TransferResponder(
            {ZONE: self.versions.zone},
            {key.name: key for key in (KEY, OTHER)},
            ["10.0.0.0/24"],
            self._answer,
            self.refused.append,
            max_running=max_running,
            require_tls=require_tls,
        )

    def send(
        self,
        wire: bytes,
        address: bytes = FRIEND,
        *,
        now: int = NOW,
        stream: bool = True,
        is_tls: bool = False,
    ) -> list[bytes]:
        """The messages of the response."""
        return list(self.responder.respond(wire, address, now, stream=stream, is_tls=is_tls))

    def ask(
        self, qtype: str, name: str = "discovery.", serial: int | None = None, **options: Any
    ) -> list[dns.message.Message]:
        """The parsed messages of the response."""
        sending = {key: options.pop(key) for key in ("address", "stream", "is_tls") if key in options}
        query = make_query(qtype, name, serial, **options)
        return [
            dns.message.from_wire(wire, one_rr_per_rrset=True)
            for wire in self.send(query.to_wire(), **sending)
        ]

    def _answer(self, message: bytes, stream: bool) -> bytes:
        del stream
        answer = self.versions.authority.responder.answer(
            message[2:], stream=True, encode=lambda body, _: body
        )
        return message[:2] + next(answer.responses)


def make_query(
    qtype: str, name: str = "discovery.", serial: int | None = None, **options: Any
) -> dns.message.Message:
    query = dns.message.make_query(name, qtype, **options)
    if serial is not None:
        soa = f"localhost. hostmaster.{name} {serial} 60 10 86400 2"
        query.authority.append(dns.rrset.from_text(name, 0, "IN", "SOA", soa))
    return query


def signed(query: dns.message.Message, key: dns.tsig.Key = KEY, when: float = NOW) -> bytes:
    """The query, signed at this time."""
    query.use_tsig(key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: when)
        return query.to_wire()


def tsig_error(wire: bytes) -> tuple[int, int, int]:
    """The response code, the error of its TSIG record, and the bytes of its signature."""
    message = dns.message.from_wire(wire, keyring=False)
    assert message.tsig is not None
    (rdata,) = message.tsig
    return int(message.rcode()), int(rdata.error), len(rdata.mac)


def verified(wires: Sequence[bytes], query: dns.message.Message, key: dns.tsig.Key = KEY) -> list[str]:
    """The records of signed messages. dnspython verifies the signatures as a client (RFC 8945 §5.3.1)."""
    context, found = None, []
    for wire in wires:
        message = dns.message.from_wire(
            wire, keyring=key, request_mac=query.mac, tsig_ctx=context, multi=True, one_rr_per_rrset=True
        )
        context = message.tsig_ctx
        assert message.had_tsig
        found += [rrset.to_text() for rrset in message.answer]
    return found


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time at which dnspython signs and verifies."""
    monkeypatch.setattr(time, "time", lambda: NOW)


def test_axfr_begins_and_ends_with_the_soa() -> None:
    transfers = Transfers()
    (message,) = transfers.ask("AXFR")
    assert message.flags & dns.flags.AA
    kinds = [dns.rdatatype.to_text(rrset.rdtype) for rrset in message.answer]
    assert (kinds[0], kinds[-1], kinds.count("SOA")) == ("SOA", "SOA", 2)
    assert transfers.responder.results == {("AXFR", "full"): 1}


def test_the_opt_record_is_in_the_response_if_the_query_has_one() -> None:
    for use_edns, version in ((0, 0), (False, -1)):
        (message,) = Transfers().ask("AXFR", use_edns=use_edns)
        assert message.edns == version


def test_ixfr_has_differences_the_soa_or_the_zone() -> None:
    transfers = Transfers()
    transfers.versions.publish(11, web=WEB[:1])
    for serial, result in ((10, "incremental"), (11, "current"), (12, "current"), (5, "full")):
        before = transfers.responder.results.copy()
        (message,) = transfers.ask("IXFR", serial=serial)
        assert transfers.responder.results - before == {("IXFR", result): 1}
        assert (len(message.answer) == 1) == (result == "current")


def test_ixfr_over_udp_has_the_differences_if_they_fit_and_otherwise_the_soa() -> None:
    transfers = Transfers()
    transfers.versions.publish(11, web=[*WEB, "10.0.0.3:80"])
    (message,) = transfers.ask("IXFR", serial=10, stream=False, use_edns=0, payload=1232)
    assert len(message.answer) > 4
    for options in ({"serial": 10, "use_edns": False}, {"serial": 1, "use_edns": 0}):
        (message,) = transfers.ask("IXFR", stream=False, **options)  # type: ignore[arg-type]
        assert [rrset[0].serial for rrset in message.answer] == [11]
    assert transfers.responder.results["IXFR", "retry_over_tcp"] == 2


def test_axfr_over_udp_and_ixfr_without_soa_are_malformed() -> None:
    transfers = Transfers()
    (message,) = transfers.ask("AXFR", stream=False)
    assert message.rcode() == dns.rcode.FORMERR
    (message,) = transfers.ask("IXFR")
    assert message.rcode() == dns.rcode.FORMERR


def test_a_stranger_is_refused_with_extended_error_18() -> None:
    transfers = Transfers()
    (message,) = transfers.ask("AXFR", address=STRANGER, use_edns=0)
    assert message.rcode() == dns.rcode.REFUSED
    assert [option.code for option in message.options] == [18]
    (message,) = transfers.ask("AXFR", "elsewhere.", address=STRANGER)
    assert message.rcode() == dns.rcode.REFUSED  # a stranger does not learn which zones there are
    assert [refusal.client for refusal in transfers.refused] == ["192.0.2.1"] * 2


@pytest.mark.parametrize("qtype", ["AXFR", "IXFR"])
@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
def test_dns_40_transfers_without_tls_are_refused_if_it_is_required(
    qtype: str, key: dns.tsig.Key | None
) -> None:
    """Queries of other types are answered."""
    transfers = Transfers(require_tls=True)

    def ask(qtype: str, **options: Any) -> list[dns.message.Message]:
        query = make_query(qtype, serial=9 if qtype == "IXFR" else None)
        if key is not None:
            query.use_tsig(key)
        wires = transfers.send(query.to_wire(), now=int(time.time()), **options)
        return [dns.message.from_wire(wire, ignore_trailing=True, keyring=False) for wire in wires]

    for stream in (True, False):
        (message,) = ask(qtype, stream=stream)
        assert message.rcode() == dns.rcode.REFUSED
    (refusal, _) = transfers.refused
    assert "transfer.require_tls" in refusal.reason
    (message,) = ask(qtype, is_tls=True)
    assert message.rcode() == dns.rcode.NOERROR
    (message,) = ask("SOA")
    assert message.rcode() == dns.rcode.NOERROR
    assert len(transfers.refused) == 2


@pytest.mark.parametrize("name", ["elsewhere.", "prod.discovery.", "web.prod.discovery.", "."])
def test_names_that_are_no_zone_of_this_server_are_not_authoritative(name: str) -> None:
    (message,) = Transfers().ask("AXFR", name)
    assert message.rcode() == dns.rcode.NOTAUTH


def test_a_zone_that_has_not_been_read_is_not_ready() -> None:
    (message,) = Transfers(is_ready=False).ask("AXFR", use_edns=0)
    assert message.rcode() == dns.rcode.SERVFAIL
    assert [option.code for option in message.options] == [14]


def test_full_transfers_are_bounded_and_differences_are_not() -> None:
    transfers = Transfers(max_running=1)
    transfers.versions.publish(11, web=WEB[:1])
    running = transfers.responder.respond(make_query("AXFR").to_wire(), FRIEND, NOW, stream=True)
    next(running)
    (message,) = transfers.ask("AXFR")
    assert message.rcode() == dns.rcode.SERVFAIL
    (message,) = transfers.ask("IXFR", serial=10)
    assert len(message.answer) > 1
    running.close()  # the client has gone
    assert transfers.responder.running == 0
    assert transfers.responder.results["AXFR", "aborted"] == 1
    (message,) = transfers.ask("AXFR")
    assert message.rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize("key", [KEY, OTHER], ids=lambda key: key.algorithm.to_text())
def test_a_signed_transfer_needs_no_network_and_every_message_is_signed(key: dns.tsig.Key) -> None:
    transfers = Transfers()
    transfers.versions.publish(11, big=[f"10.3.{n // 250}.{n % 250 + 1}:80" for n in range(400)])
    query = make_query("AXFR", use_edns=0)
    wires = transfers.send(signed(query, key), STRANGER)
    assert len(wires) > 2
    assert all(len(wire) <= 65535 for wire in wires)
    assert (
        len(verified(wires, query, key))
        == len(set(records_in(transfers.send(make_query("AXFR").to_wire())))) + 1
    )


def test_signed_queries_of_other_types_get_signed_answers() -> None:
    transfers = Transfers()
    for stream in (True, False):
        query = make_query("SOA", use_edns=0)
        (wire,) = transfers.send(signed(query), STRANGER, stream=stream)
        assert any(" SOA " in record for record in verified([wire], query))


@pytest.mark.parametrize(
    ("key", "when", "error", "has_mac"),
    [
        (make_key("unknown", "hmac-sha256", b"a secret of the tests"), NOW, 17, False),
        (make_key("key.example", "hmac-sha512", b"a secret of the tests"), NOW, 17, False),
        (make_key("key.example", "hmac-sha256", b"a wrong secret"), NOW, 16, False),
        (KEY, NOW - 301, 18, True),
        (KEY, NOW + 301, 18, True),
    ],
    ids=["unknown key", "other algorithm", "wrong secret", "late", "early"],
)
def test_a_signature_that_is_wrong_is_not_authorized(
    key: dns.tsig.Key, when: int, error: int, has_mac: bool
) -> None:
    """RFC 8945 §5.2: BADKEY and BADSIG without a signature, BADTIME with one and with the server's time."""
    transfers = Transfers()
    for qtype in ("AXFR", "SOA"):
        (wire,) = transfers.send(signed(make_query(qtype), key, when))
        rcode, found, size = tsig_error(wire)
        assert (rcode, found, bool(size)) == (dns.rcode.NOTAUTH, error, has_mac)
        if has_mac:
            tsig = dns.message.from_wire(wire, keyring=False).tsig
            assert tsig is not None
            (rdata,) = tsig
            assert (rdata.time_signed, int.from_bytes(rdata.other)) == (when, NOW)
    assert len(transfers.refused) == 2


def test_a_transfer_that_is_sent_again_is_refused() -> None:
    transfers = Transfers()
    wire = signed(make_query("AXFR"))
    assert len(transfers.send(wire)[0]) > 500
    (again,) = transfers.send(wire)
    assert tsig_error(again)[:2] == (dns.rcode.NOTAUTH, 18)
    wire = signed(make_query("SOA"))  # over UDP, clients repeat a query unchanged
    assert transfers.send(wire, stream=False) == transfers.send(wire, stream=False)


def test_shortened_signatures() -> None:
    """RFC 8945 §5.2.2.1: at least half of the bytes, and the policy of this server is all of them."""
    transfers = Transfers()
    whole = signed(make_query("AXFR"))
    start = whole.index(b"\x0bhmac-sha256\0") + 13 + 8
    assert int.from_bytes(whole[start : start + 2]) == 32
    for size, expected in ((31, (9, 22)), (16, (9, 22)), (15, (1, None)), (9, (1, None)), (33, (1, None))):
        mac = whole[start + 2 : start + 34][:size].ljust(size, b"\0")
        wire = whole[:start] + size.to_bytes(2) + mac + whole[start + 34 :]
        length = start - 13 - 8 - 2
        wire = (
            wire[:length]
            + (int.from_bytes(wire[length : length + 2]) + size - 32).to_bytes(2)
            + wire[length + 2 :]
        )
        (response,) = transfers.send(wire)
        if expected[1] is None:
            assert dns.message.from_wire(response).rcode() == dns.rcode.FORMERR
        else:
            assert tsig_error(response)[:2] == expected


def test_a_record_after_the_signature_is_malformed() -> None:
    wire = bytearray(signed(make_query("AXFR")))
    wire[10:12] = (int.from_bytes(wire[10:12]) + 1).to_bytes(2)
    opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"
    (response,) = Transfers().send(bytes(wire) + opt)
    assert dns.message.from_wire(response).rcode() == dns.rcode.FORMERR


def letters_of_tsig_names(wire: bytes) -> list[int]:
    """The offsets of the letters in the names of the key and of the algorithm of a signed query."""
    owner, algorithm = KEY.name.to_digestable(), b"\x0bhmac-sha256\0"
    starts = {wire.lower().rindex(name): len(name) for name in (owner, algorithm)}
    within = [at for start, size in starts.items() for at in range(start, start + size)]
    return [at for at in within if wire[at : at + 1].isalpha()]


def test_the_names_in_a_signature_have_any_case() -> None:
    """RFC 8945 §4.3.3: the signature covers them in lower case."""
    wire = bytearray(signed(make_query("AXFR")))
    for at in letters_of_tsig_names(bytes(wire)):
        wire[at] ^= 0x20
    answers = [dns.message.from_wire(each, keyring=False).answer for each in Transfers().send(bytes(wire))]
    assert answers
    assert all(answers)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_to_a_signed_query_gives_an_error_and_no_zone(data: st.DataObject) -> None:
    transfers = Transfers()
    wire = bytearray(signed(make_query("AXFR", use_edns=0)))
    at, change = data.draw(st.integers(2, len(wire) - 1)), data.draw(st.integers(1, 255))
    assume(change != 0x20 or at not in letters_of_tsig_names(bytes(wire)))  # that is no damage
    wire[at] ^= change
    cut = data.draw(st.sampled_from([len(wire), data.draw(st.integers(0, len(wire)))]))
    for response in transfers.send(bytes(wire[:cut]), STRANGER):
        assert dns.message.from_wire(response, keyring=False, continue_on_error=True).answer == []
